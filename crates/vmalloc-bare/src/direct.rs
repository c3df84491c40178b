//! The direct map: frames at a fixed distance from their physical addresses, reached as words.
//!
//! The one place where a frame number becomes an address. Linux: `__va`, `page_address`.

use core::fmt;
use vmalloc_core::platform::{FRAME_WORDS, Ram};
use vmalloc_core::sync::{AtomicU64, Ordering};
use vmalloc_core::{Extent, PAGE_SHIFT, Pages, Pfn, VirtAddr};

/// The frames of one run, mapped side by side.
#[derive(Clone, Copy, Debug)]
pub struct DirectMap {
    /// Where frame 0 would be.
    base: usize,
    frames: Extent,
}

/// The address is not a multiple of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAligned {
    /// What was given.
    pub first: VirtAddr,
}

impl fmt::Display for NotAligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not a multiple of a page", self.first)
    }
}

impl core::error::Error for NotAligned {}

impl DirectMap {
    /// The direct map that shows the frames of `frames` from address `first` on.
    ///
    /// # Errors
    ///
    /// [`NotAligned`].
    ///
    /// # Safety
    ///
    /// For as long as any copy of this value lives:
    /// - every frame in the run is RAM, mapped there, readable and writable on every CPU;
    /// - no Rust object lies in it, and no reference that is not made here leads to it, but for
    ///   frames that the kernel keeps from the engine and from tables: those are never touched.
    pub const unsafe fn new(first: VirtAddr, frames: Extent) -> Result<DirectMap, NotAligned> {
        if !first.is_page_aligned() {
            return Err(NotAligned { first });
        }
        let base = (first.0 as usize).wrapping_sub((frames.start.0 as usize) << PAGE_SHIFT);
        Ok(DirectMap { base, frames })
    }

    /// The frames that it shows.
    #[must_use]
    pub const fn frames(&self) -> Extent {
        self.frames
    }

    /// Where it shows frame `pfn`.
    #[must_use]
    pub const fn addr(&self, pfn: Pfn) -> VirtAddr {
        VirtAddr(self.base.wrapping_add((pfn.0 as usize) << PAGE_SHIFT) as u64)
    }

    /// The words of `run`, side by side: for the engine's tables.
    ///
    /// # Panics
    ///
    /// If a frame of `run` is not one of this map's.
    #[must_use]
    pub fn run(&self, run: Extent) -> &'static [AtomicU64] {
        assert!(
            run.start >= self.frames.start && run.end() <= self.frames.end(),
            "{run} is not all in the direct map: {}",
            self.frames
        );
        let words = run.len.0 as usize * FRAME_WORDS;
        // SAFETY:
        // 1. The frames of `run` are in the map: checked above. So their words are RAM, mapped
        //    writable at `addr` and side by side: the caller of `new` promised.
        // 2. `addr` is a multiple of a page, since `first` was: aligned for a word.
        // 3. `AtomicU64` is valid for any bits, and may be shared: others who write the frames by
        //    way of this map use atomics, too. There are no other ways: the caller of `new` promised.
        // 4. It stays so for as long as any copy of this value lives; kernels unmap none.
        unsafe { core::slice::from_raw_parts(self.addr(run.start).0 as *const AtomicU64, words) }
    }
}

impl Ram for DirectMap {
    /// # Panics
    ///
    /// If `pfn` is not one of this map's.
    #[inline]
    fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        let at = pfn.0.wrapping_sub(self.frames.start.0);
        assert!(at < self.frames.len.0, "{pfn} is not in the direct map");
        // SAFETY:
        // 1. `pfn` is in the map: checked above. The rest as in `DirectMap::run`.
        unsafe { &*(self.addr(pfn).0 as *const [AtomicU64; FRAME_WORDS]) }
    }

    fn zero(&self, run: Extent) {
        for pfn in run.start.0..run.end().0 {
            for word in self.words(Pfn(pfn)) {
                // Relaxed: the frames are the caller's alone.
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    /// The frames of `run` that the map shows: what it does not show is taken for a device's.
    fn ram_in(&self, run: Extent) -> Pages {
        let (first, end) = (self.frames.start, self.frames.end());
        Pages(run.end().min(end).0.saturating_sub(run.start.max(first).0))
    }
}
