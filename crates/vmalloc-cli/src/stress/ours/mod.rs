//! Cases of ours: one for each weakness of Linux's vmalloc that one machine can show.

mod aligned_hole;

use super::alone::{Alone, check};
use super::subject::Verdict;
use vmalloc_core::Pages;
use vmalloc_sim::SimKernel;

/// The table.
pub const CASES: &[Alone] = &[Alone { name: "aligned_hole", run: aligned_hole::run }];

/// Purges, and checks that everything is free and in order.
fn empty(kernel: &SimKernel<'_>) -> Verdict {
    kernel.purge();
    kernel.verify()?;
    let (stats, frames) = (kernel.engine(0).stats(), kernel.frames_in_use());
    check(stats.holes == stats.window && frames == Pages(0), || {
        format!("leaked: {} areas, {frames} frames", stats.areas)
    })
}
