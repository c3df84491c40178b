//! One live mapping of `vm_map_ram` keeps its own page, and not the 4 MiB around it.
//!
//! In Linux a block's space is given out once: while one mapping in it lives, none of the rest is
//! served again.

use super::super::alone::{Terms, check};
use super::super::subject::Verdict;
use super::empty;
use vmalloc_core::map_ram::{BLOCK_PAGES, MapRam};
use vmalloc_core::platform::Frames as _;
use vmalloc_core::sync::AtomicU64;
use vmalloc_core::{Extent, Order, Pages, Prot};
use vmalloc_sim::{KernelConfig, SimKernel};

/// Fills a window of one block, leaves one page mapped, and fills it again.
pub fn run(terms: &Terms) -> Verdict<String> {
    terms.on_sim_only("a pool maps runs one by one, and has no blocks that could be pinned")?;
    let config = KernelConfig { spaces: 1, beside: BLOCK_PAGES, ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let words: Vec<_> =
            (0..MapRam::<()>::words_needed(BLOCK_PAGES, 1)).map(|_| AtomicU64::new(0)).collect();
        let ram = MapRam::new(&words, 1, kernel.beside(), kernel.space(0).clone())?;
        ram.prepare()?;
        let frame = [Extent { start: kernel.frames().take(Order(0))?, len: Pages(1) }];
        let fill = || std::iter::from_fn(|| ram.vm_map_ram(0, &frame, Prot::READ_WRITE).ok());
        let first: Vec<_> = fill().collect();
        check(first.len() as u64 == BLOCK_PAGES.0, || format!("{} fit", first.len()))?;
        let (kept, gone) = (first[500], [&first[..500], &first[501..]].concat());
        for run in gone {
            ram.vm_unmap_ram(run.start.addr(), Pages(1))?;
        }
        let again: Vec<_> = fill().collect();
        check(again.len() as u64 == BLOCK_PAGES.0 - 1, || format!("{} fit again", again.len()))?;
        for run in again.iter().chain([&kept]) {
            ram.vm_unmap_ram(run.start.addr(), Pages(1))?;
        }
        ram.vm_unmap_aliases()?;
        kernel.frames().give(frame[0]);
        empty(kernel)?;
        Ok(format!("{} of {BLOCK_PAGES} in the block of a live one were served again", again.len()))
    })
}
