//! A machine of many CPUs, as a model: what the engine's cache lines would cost there.
//!
//! ```text
//!   workload ─▶ engine ─▶ machine: nothing costs anything but lanes and shootdowns
//!                 │ each access of a word is told (`vmalloc_core::sync::stepped`)
//!                 ▼
//!   CPUs: whoever's clock is least goes on ─▶ its instructions, then the line: here, or with whom
//!                                             │ lines.rs: shared, exclusive, and free from when on
//!                                             └▶ the clock; the waits, a line each
//! ```
//!
//! The engine's words are the real ones, in a window of the real geometry; every access of every
//! CPU takes effect in the order of the simulated clocks, so retries and lost races are those of
//! the code. Costs are a table ([`Costs`]), and `docs/scale.md` says where each was found.
//!
//! The same workloads are timed on this machine by the program `measure`, which has the words that
//! ship: so this module is built twice. What it does not do: memory ordering, steps that overlap in
//! one CPU, limits of the memory's or the interconnect's bandwidth, or two threads on one core.

mod machine;
mod work;

#[cfg(feature = "model")]
mod cpus;
#[cfg(feature = "model")]
mod lines;
#[cfg(feature = "model")]
mod outcome;

#[cfg(feature = "model")]
pub use cpus::{Setting, accesses_each, simulate};
#[cfg(feature = "model")]
pub use lines::{Charge, Costs, Lines, Ps};
pub use machine::{Bare, Lanes, Words, be_cpu};
#[cfg(feature = "model")]
pub use outcome::{HotLine, Outcome};
pub use work::{Site, Worker, Workload};

/// The window of the model: 1 TiB of pages.
pub const WINDOW: vmalloc_core::Geometry =
    vmalloc_core::Geometry::for_window(vmalloc_core::Pages(1 << 28));
/// The areas that are there to be looked up.
pub const AREAS: usize = 1_000_000;
