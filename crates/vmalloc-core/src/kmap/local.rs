//! Temporary maps: a few pages for each CPU, strictly nested, flushed on that CPU alone.
//!
//! ```text
//!   CPU 0: [ outer ][ inner ][ handler's ][       ]   one word: 0b0111, a bit a page
//!   CPU 1: [ outer ][       ][           ][       ]             0b0001
//!                    └── the next map takes the page above the highest bit
//! ```
//!
//! No other CPU touches a CPU's pages, so the map costs no shootdown: when it goes, its CPU
//! forgets the one translation, which never waits and is legal with interrupts off. The price
//! is the caller's discipline: from [`KmapLocal::map`] until the guard is gone the code stays
//! on its CPU (no preemption to another), and hands the address to nobody else. The guard
//! cannot be sent to another thread; the rest no type can see. On a machine that does not bring
//! its own [`Tlb::flush_local`], all CPUs are shot down instead, and unmapping may wait.
//!
//! Interrupt handlers may map too: they nest above what they interrupt, and are through before
//! it goes on.
//!
//! Invariant: a page is given out only above the highest bit of its CPU's word; a bit goes only
//! under a flush of that CPU which covers the page, or if the page was never mapped.
//! Linux: `kmap_local_page`, `kunmap_local`, `kmap_local_idx_push`; there the stack is the task's
//! and moves with it, here it is the CPU's. `KM_MAX_IDX` is our depth.

use super::error::{MapLocalError, OutOfOrder, SetupError};
use crate::flush::{FlushedLocal, unmap_run};
use crate::platform::{MapError, Mapper, Prot, Tlb};
use crate::sync::{AtomicU64, Ordering};
use crate::units::{Extent, PageRange, Pages, Pfn, Vpn};
use core::fmt;
use core::marker::PhantomData;

/// Words a CPU: one is used, the rest keep it alone on its cache line.
const STRIDE: usize = 8;
/// The most pages that a CPU can have: a bit each.
const DEPTH_MAX: u64 = 64;

/// Pages for temporary maps, some for each CPU. Linux: the fixmap slots of `kmap_local`.
pub struct KmapLocal<'a, H> {
    // Written by each CPU, at its own place.
    words: &'a [AtomicU64],
    // Constant after `new`.
    window: PageRange,
    cpus: usize,
    depth: usize,
    hardware: H,
}

/// A temporary map of one frame; goes when it is dropped.
#[must_use = "the frame is unmapped when this is dropped"]
pub struct LocalMap<'k, 'a, H: Mapper + Tlb> {
    owner: &'k KmapLocal<'a, H>,
    cpu: usize,
    slot: usize,
    // Made on one CPU, and gone on the same.
    not_send: PhantomData<*const ()>,
}

impl<'a, H> KmapLocal<'a, H> {
    /// How many words `cpus` CPUs need.
    #[must_use]
    pub const fn words_needed(cpus: usize) -> usize {
        cpus * STRIDE
    }

    /// Maps for `cpus` CPUs: each has an equal part of `window`, 64 pages of it at most. `words`
    /// are all zero; nothing is mapped.
    ///
    /// # Errors
    ///
    /// [`SetupError`].
    pub fn new(
        words: &'a [AtomicU64],
        cpus: usize,
        window: PageRange,
        hardware: H,
    ) -> Result<Self, SetupError> {
        let needed = cpus.saturating_mul(STRIDE);
        if words.len() < needed {
            return Err(SetupError::Words { needed, given: words.len() });
        }
        if cpus == 0 || window.len.0 < cpus as u64 {
            let needed = Pages(cpus.max(1) as u64);
            return Err(SetupError::Window { window, needed });
        }
        let depth = (window.len.0 / cpus as u64).min(DEPTH_MAX) as usize;
        Ok(KmapLocal { words, window, cpus, depth, hardware })
    }

    /// How many maps a CPU can have at a time.
    #[must_use]
    pub const fn depth(&self) -> usize {
        self.depth
    }

    /// How many pages of `cpu` are taken; 0 for a CPU that does not exist.
    #[must_use]
    pub fn in_use(&self, cpu: usize) -> u32 {
        if cpu < self.cpus { self.word(cpu).load(Ordering::Acquire).count_ones() } else { 0 }
    }

    fn word(&self, cpu: usize) -> &AtomicU64 {
        &self.words[cpu * STRIDE]
    }

    fn page(&self, cpu: usize, slot: usize) -> PageRange {
        let start = Vpn(self.window.start.0 + (cpu * self.depth + slot) as u64);
        PageRange { start, len: Pages(1) }
    }
}

impl<'a, H: Mapper + Tlb> KmapLocal<'a, H> {
    /// Makes every address space see what is later mapped in the window. Called once.
    ///
    /// # Errors
    ///
    /// [`MapError::NoTable`].
    pub fn prepare(&self) -> Result<(), MapError> {
        self.hardware.prepare(self.window)
    }

    /// Maps `pfn` for `cpu`, on which the caller runs and stays until the guard is gone. Linux:
    /// `kmap_local_page`, `kmap_local_page_prot`.
    ///
    /// One atomic step and one map; never waits, legal in interrupt handlers.
    ///
    /// # Errors
    ///
    /// [`MapLocalError`]; nothing was mapped.
    pub fn map(
        &self,
        cpu: usize,
        pfn: Pfn,
        prot: Prot,
    ) -> Result<LocalMap<'_, 'a, H>, MapLocalError> {
        if cpu >= self.cpus {
            return Err(MapLocalError::NoCpu { cpu, cpus: self.cpus });
        }
        let slot = self.push(cpu)?;
        let page = self.page(cpu, slot);
        let frame = Extent { start: pfn, len: Pages(1) };
        if let Err(e) = self.hardware.map_run(page.start, frame, prot) {
            // Never mapped, so nothing to flush.
            self.clear(cpu, slot);
            return Err(MapLocalError::Map(e));
        }
        self.hardware.publish(page);
        Ok(LocalMap { owner: self, cpu, slot, not_send: PhantomData })
    }

    /// Takes the page above the highest one taken.
    fn push(&self, cpu: usize) -> Result<usize, MapLocalError> {
        let word = self.word(cpu);
        let mut bits = word.load(Ordering::Acquire);
        loop {
            let slot = (u64::BITS - bits.leading_zeros()) as usize;
            if slot >= self.depth {
                return Err(MapLocalError::TooDeep { cpu, depth: self.depth });
            }
            // An interrupt may come between, and leaves the word as it was.
            match word.compare_exchange(bits, bits | 1 << slot, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok(slot),
                Err(now) => bits = now,
            }
        }
    }

    /// Gives the page back: only with proof that its CPU cannot reach it.
    fn settle(&self, cpu: usize, slot: usize, flushed: &FlushedLocal<1>) {
        let page = self.page(cpu, slot);
        assert!(flushed.covers(page), "{page} was not flushed");
        self.clear(cpu, slot);
    }

    fn clear(&self, cpu: usize, slot: usize) {
        self.word(cpu).fetch_and(!(1 << slot), Ordering::AcqRel);
    }
}

impl<H: Mapper + Tlb> LocalMap<'_, '_, H> {
    /// The page that shows the frame. Only the CPU it was mapped for may use it.
    #[must_use]
    pub fn page(&self) -> Vpn {
        self.owner.page(self.cpu, self.slot).start
    }

    /// The CPU it was mapped for.
    #[must_use]
    pub fn cpu(&self) -> usize {
        self.cpu
    }

    /// Unmaps the frame, as a drop does, and says whether this was the CPU's innermost map. Linux:
    /// `kunmap_local`, which warns.
    ///
    /// One unmap, one flush of this CPU, one atomic step; never waits.
    ///
    /// # Errors
    ///
    /// [`OutOfOrder`]: it was not. It is unmapped all the same.
    pub fn unmap(self) -> Result<(), OutOfOrder> {
        let page = self.page();
        let bits = self.owner.word(self.cpu).load(Ordering::Acquire);
        let above = (bits & !(u64::MAX >> (63 - self.slot))).count_ones();
        drop(self);
        if above == 0 { Ok(()) } else { Err(OutOfOrder { page, above }) }
    }
}

impl<H: Mapper + Tlb> Drop for LocalMap<'_, '_, H> {
    fn drop(&mut self) {
        let (owner, cpu, slot) = (self.owner, self.cpu, self.slot);
        let pending = unmap_run(&owner.hardware, owner.page(cpu, slot));
        owner.settle(cpu, slot, &pending.flush_local(&owner.hardware));
    }
}

impl<H: Mapper + Tlb> fmt::Debug for LocalMap<'_, '_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalMap({} on CPU {})", self.page(), self.cpu)
    }
}
