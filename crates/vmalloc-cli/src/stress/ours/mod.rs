//! Cases of ours: one for each weakness of Linux's vmalloc that one machine can show.

mod aligned_hole;
mod bounded_purge;
mod grow_in_place;
mod interior_free;
mod listing;
mod non_blocking;
mod pinned_block;

use super::alone::{Alone, check};
use super::subject::Verdict;
use vmalloc_core::Pages;
use vmalloc_sim::SimKernel;

/// The table.
pub const CASES: &[Alone] = &[
    Alone { name: "aligned_hole", run: aligned_hole::run },
    Alone { name: "non_blocking", run: non_blocking::run },
    Alone { name: "bounded_purge", run: bounded_purge::run },
    Alone { name: "pinned_block", run: pinned_block::run },
    Alone { name: "grow_in_place", run: grow_in_place::run },
    Alone { name: "interior_free", run: interior_free::run },
    Alone { name: "listing", run: listing::run },
];

/// Purges, and checks that everything is free and in order.
fn empty(kernel: &SimKernel<'_>) -> Verdict {
    kernel.purge();
    kernel.verify()?;
    let (stats, frames) = (kernel.engine(0).stats(), kernel.frames_in_use());
    check(stats.holes == stats.window && frames == Pages(0), || {
        format!("leaked: {} areas, {frames} frames", stats.areas)
    })
}
