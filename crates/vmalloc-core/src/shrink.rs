//! Who can give memory back when it is wanted elsewhere.
//!
//! ```text
//!   a kernel short of memory ─count, scan▶ Engine: its lazy list · KmemCache, Kmalloc: empty slabs
//!   an engine whose purge did not help ─scan▶ the shrinkers it was given ─▶ purge, and again
//! ```
//!
//! One trait for both directions, since both ask the same: how much is there, and give back about
//! so much. Linux has two: `struct shrinker` (`count_objects`, `scan_objects`; vmalloc's own is
//! "vmap-node"), and the chain of `register_vmap_purge_notifier`, which an allocation that found
//! no room calls after a purge did not help.

use crate::units::Pages;

/// Something that holds memory, or areas, which nobody needs just now.
///
/// Threads share it. It may free areas of the engine that asks it, but must not wait for an
/// allocation of that engine: this may be what the allocation waits for.
pub trait Shrinker {
    /// About how many pages could be given back. Cheap, may be wrong.
    fn count(&self) -> Pages;

    /// Gives back about `want` pages, in bounded work; how many it gave. 0: there are none, or
    /// they cannot be given back here.
    fn scan(&self, want: Pages) -> Pages;
}
