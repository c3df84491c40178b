//! Six holes that fit an aligned request exactly are served, all six.
//!
//! ```text
//!   window  ▓▓[ 4 MiB, aligned ]▓▓[ 4 MiB, aligned ]▓▓ …      ▓ in use
//! ```
//!
//! Linux prunes its search by size + alignment - 1, and so finds none of them; it purges, and
//! fails.

use super::super::alone::{Terms, check};
use super::super::subject::Verdict;
use super::empty;
use vmalloc_core::{Area, Pages, Request, class::GRANULE_PAGES};
use vmalloc_sim::{KernelConfig, SimKernel};

/// 4 MiB with no guard: eight granules.
const HOLE_PAGES: u64 = 8 * GRANULE_PAGES;
const HOLES: usize = 6;

/// Fills the window with aligned areas and what fits between, and frees every other aligned one.
pub fn run(terms: &Terms) -> Verdict<String> {
    terms.on_sim_only(
        "a pool's window is 64 times its memory and cannot be filled; the engine is the same",
    )?;
    // One run more than aligned areas: the window does not begin at a multiple.
    let window = Pages(HOLE_PAGES * (2 * HOLES as u64 + 1));
    let config = KernelConfig {
        frames: Pages(window.0 + 256),
        window,
        spaces: 1,
        lazy_pages_max: window,
        ..KernelConfig::default()
    };
    SimKernel::run(config, |kernel| {
        let engine = kernel.engine(0);
        let fill = |request: &Request| -> Vec<Area> {
            std::iter::from_fn(|| engine.vmalloc(request).ok()).collect()
        };
        let bytes = Pages(HOLE_PAGES).bytes();
        // Purged as soon as they are freed: what they leave are holes, and no parked areas.
        let aligned = Request::bytes(bytes).align_bytes(bytes).no_guard().no_reuse();
        let mut taken = fill(&aligned);
        check(taken.len() == 2 * HOLES, || format!("{} aligned areas", taken.len()))?;
        taken.sort_by_key(|area| area.pages.start);
        let between: Vec<_> =
            [64, 1].map(|pages| fill(&Request::bytes(Pages(pages).bytes()).no_guard())).concat();

        for area in taken.iter().step_by(2) {
            let _ = engine.vfree(area.addr())?;
        }
        let stats = engine.stats();
        let (holes, largest) = (stats.holes.0, stats.largest_hole.0);
        check((holes, largest) == (HOLES as u64 * HOLE_PAGES, HOLE_PAGES), || {
            format!("holes of {holes} pages, the largest of {largest}")
        })?;
        let served = fill(&aligned);
        check(served.len() == HOLES, || format!("{} of {HOLES} were served", served.len()))?;
        check(served.iter().all(|area| area.addr().0.is_multiple_of(bytes)), || {
            "one is not aligned".to_owned()
        })?;

        let kept = taken.iter().skip(1).step_by(2);
        for area in kept.chain(&served).chain(&between) {
            let _ = engine.vfree(area.addr())?;
        }
        empty(kernel)?;
        Ok(format!("{HOLES} of {HOLES} exactly fitting aligned holes of 4 MiB were served"))
    })
}
