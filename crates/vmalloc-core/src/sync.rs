//! The atomics that the whole engine uses, in one place so that they can be replaced.
//!
//! | words | where | what they do |
//! |---|---|---|
//! | `core`'s | what ships | nothing else |
//! | `stepped` | this crate's unit tests; the simulation, by the feature `stepped` | call a hook before each write: so a test can stop the world, take a photo of it, let another member act or end the walk for good, at any step; and tell a watch of each access, for a model of caches |
//! | `explored` | `cargo xtask loom`, by `cfg(loom)` | every order of steps, and every value that a weakly ordered processor may load |
//! | `scheduled` | `cargo xtask shuttle`, by `cfg(shuttle)` | a thread may be switched at each access |
//!
//! The two last are built from these same files by the workspace `proof/`, so that no crate that
//! ships knows the checkers.

pub use core::sync::atomic::Ordering;

#[cfg(not(any(test, feature = "stepped", loom, shuttle)))]
pub use core::{
    hint::spin_loop,
    sync::atomic::{AtomicU64, fence},
};

#[cfg(all(any(test, feature = "stepped"), not(any(loom, shuttle))))]
pub use stepped::{AtomicU64, fence, spin_loop};

#[cfg(any(test, feature = "stepped", loom, shuttle))]
#[macro_use]
mod methods;

#[cfg(any(test, feature = "stepped"))]
pub mod stepped;

#[cfg(loom)]
pub use explored::{AtomicU64, fence, spin_loop};

#[cfg(loom)]
pub mod explored;

#[cfg(shuttle)]
pub use scheduled::{AtomicU64, fence, spin_loop};

#[cfg(shuttle)]
pub mod scheduled;

/// How often something is tried that another holds for a few steps: `often`, or where each try
/// would be explored, twice.
pub(crate) const fn tries(often: usize) -> usize {
    if cfg!(any(loom, shuttle)) { 2 } else { often }
}

/// How many lanes a member has: `lanes`, or in a model of many CPUs what `VMALLOC_MODEL_LANES` said
/// when it was built.
pub(crate) const fn lanes(lanes: usize) -> usize {
    #[cfg(feature = "stepped")]
    if let Some(text) = option_env!("VMALLOC_MODEL_LANES") {
        match usize::from_str_radix(text, 10) {
            Ok(lanes @ 1..) => return lanes,
            _ => panic!("VMALLOC_MODEL_LANES is no number of lanes"),
        }
    }
    lanes
}
