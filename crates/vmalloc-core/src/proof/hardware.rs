//! Page tables of one word a page, and TLBs that keep what they have seen until they are flushed:
//! the machine of the windows that stand on no engine, [`crate::kmap`] and [`crate::map_ram`].
//!
//! The tables' words are the checker's, as the pieces' own are: so a map that another CPU has made
//! is seen only by who comes after it. A look by the hardware and a flush of all CPUs are one step
//! each, as they are where a flush waits for every CPU. Each changes a word of its own, or the checker
//! would not know that their order matters.

extern crate std;

use crate::platform::{MapError, Mapper, Prot, Tlb};
use crate::sync::explored;
use crate::sync::{AtomicU64, Ordering};
use crate::{Extent, PageRange, Pages, Pfn, Vpn};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::vec::Vec;

/// The first page of the window.
pub(crate) const START: Vpn = Vpn(0x100);

/// A window's page tables, a word for the TLBs, and the words of the piece that is shown in it.
pub(crate) struct Hardware {
    pub(crate) words: Vec<AtomicU64>,
    pages: Pages,
    /// What each CPU believes to be shown: by CPU and page.
    tlbs: Mutex<BTreeMap<(usize, Vpn), Pfn>>,
}

impl Hardware {
    /// Tables for `pages`, and so many words more.
    pub(crate) fn new(pages: Pages, words: usize) -> Hardware {
        Hardware::over(pages, explored::words(0, pages.0 as usize + 1 + words))
    }

    /// The same, in these words.
    pub(crate) fn over(pages: Pages, words: Vec<AtomicU64>) -> Hardware {
        Hardware { words, pages, tlbs: Mutex::default() }
    }

    pub(crate) fn window(&self) -> PageRange {
        PageRange { start: START, len: self.pages }
    }

    /// The piece's own words.
    pub(crate) fn piece(&self) -> &[AtomicU64] {
        &self.words[self.pages.0 as usize + 1..]
    }

    /// A step of the TLBs, which orders nothing else.
    fn tlbs(&self) -> MutexGuard<'_, BTreeMap<(usize, Vpn), Pfn>> {
        self.words[self.pages.0 as usize].fetch_add(1, Ordering::Relaxed);
        self.tlbs.lock().unwrap()
    }

    /// What `cpu` finds at `page`.
    pub(crate) fn read(&self, cpu: usize, page: Vpn) -> Option<Pfn> {
        let known = self.tlbs().get(&(cpu, page)).copied();
        known.or_else(|| {
            let (pfn, _) = Mapper::translate(&self, page)?;
            self.tlbs.lock().unwrap().insert((cpu, page), pfn);
            Some(pfn)
        })
    }

    /// Whether some CPU may still reach a frame.
    pub(crate) fn is_reached(&self, pfn: Pfn) -> bool {
        self.tlbs().values().any(|&known| known == pfn)
    }

    fn at(&self, page: Vpn) -> &AtomicU64 {
        &self.words[(page.0 - START.0) as usize]
    }
}

impl Mapper for &Hardware {
    fn prepare(&self, _: PageRange) -> Result<(), MapError> {
        Ok(())
    }

    fn map_run(&self, at: Vpn, run: Extent, _: Prot) -> Result<(), MapError> {
        for n in 0..run.len.0 {
            let (at, pfn) = (Vpn(at.0 + n), run.start.0 + n);
            let entry = self.at(at);
            let mapped = entry.compare_exchange(0, pfn, Ordering::AcqRel, Ordering::Acquire);
            mapped.map_err(|by| MapError::Occupied { at, by: Pfn(by) })?;
        }
        Ok(())
    }

    fn unmap_run(&self, at: PageRange) {
        (at.start.0..at.end().0).for_each(|page| self.at(Vpn(page)).store(0, Ordering::Release));
    }

    fn protect_run(&self, _: PageRange, _: Prot) {
        unreachable!("these windows never change a protection");
    }

    fn translate(&self, at: Vpn) -> Option<(Pfn, Prot)> {
        let pfn = self.at(at).load(Ordering::Acquire);
        (pfn != 0).then_some((Pfn(pfn), Prot::READ_WRITE))
    }
}

impl Tlb for &Hardware {
    fn publish(&self, _: PageRange) {}

    fn flush_all_cpus(&self, ranges: &[PageRange]) {
        let is_doomed = |page: Vpn| ranges.iter().any(|range| range.contains(page));
        self.tlbs().retain(|&(_, page), _| !is_doomed(page));
    }

    fn may_wait(&self) -> bool {
        true
    }
}
