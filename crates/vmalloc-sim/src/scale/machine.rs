//! The machine under the engine: frames, tables and zeroing cost nothing, so that what is left is
//! the engine's own words: its address layer, its records and its lazy list. A flush calls whoever
//! models it. The benchmarks of address ranges run over it, too.

use std::cell::Cell;
use std::ops::Deref;
use vmalloc_core::layout::LANES;
use vmalloc_core::sync::AtomicU64;
use vmalloc_core::{
    BackError, Backing, Config, Engine, Extent, FlushError, FramePolicy, Geometry, Lane, Machine,
    MapError, Owner, PageRange, Pages, Pfn, Prot, Tables, View, Vpn,
};

std::thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// From here on this thread is CPU `cpu`.
pub fn be_cpu(cpu: usize) {
    CPU.set(cpu);
}

/// Bytes of the longest line that is fetched at once: two of 64.
const ALIGN: usize = 128;

/// Words that are all zero, and have no memory behind them until they are touched; the first one
/// begins a cache line, as in a pool and in a kernel.
pub struct Words(Vec<AtomicU64>);

impl Words {
    /// So many of them.
    #[must_use]
    pub fn new(len: usize) -> Words {
        let spare = ALIGN / size_of::<AtomicU64>();
        // Zeroed by the kernel, and where this is optimised wrapped where they lie: nothing is
        // written.
        Words(vec![0; len + spare].into_iter().map(AtomicU64::new).collect())
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        &self.0[self.0.as_ptr().align_offset(ALIGN)..]
    }
}

/// Who counts where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lanes {
    /// As threads of the crate `vmalloc` do: the first have a lane each, all others share the last.
    Own,
    /// All in one: what a machine does that does not say where.
    One,
}

/// The machine.
#[derive(Clone, Copy)]
pub struct Bare {
    /// Who counts where.
    pub lanes: Lanes,
    /// Called by each shootdown.
    pub shootdown: fn(),
}

impl Bare {
    /// An engine over it, which begins to purge when `lazy_pages_max` pages are parked. Its window
    /// does not begin at 0, as in a kernel.
    ///
    /// # Panics
    ///
    /// If there are fewer words than a window of this geometry has.
    #[must_use]
    pub fn engine(
        self,
        words: &[AtomicU64],
        geometry: Geometry,
        lazy_pages_max: Pages,
    ) -> Engine<'_, Bare> {
        let tables = Tables::new(words, geometry).expect("words for this window");
        let config = Config { window_start: Vpn(1 << 20), owner: Owner::FIRST, lazy_pages_max };
        Engine::new(tables, self, config).expect("a window of whole granules")
    }
}

// Inlined, all: the calls are counted, and the engine's work alone is meant.
impl Machine for Bare {
    const IN_PLACE: bool = false;
    const FRESH_IS_ZERO: bool = true;
    const ALIGN_MAX: Pages = Pages(1 << 20);

    #[inline]
    fn capacity(&self) -> Pages {
        Pages(1 << 40)
    }

    #[inline]
    fn free(&self) -> Pages {
        Pages(1 << 40)
    }

    #[inline]
    fn lane(&self) -> Lane {
        match (self.lanes, CPU.get()) {
            (Lanes::Own, cpu) if cpu < LANES - 1 => Lane { index: cpu, is_mine: true },
            (Lanes::Own, _) => Lane { index: LANES - 1, is_mine: false },
            (Lanes::One, _) => Lane { index: 0, is_mine: false },
        }
    }

    #[inline]
    fn may_wait(&self) -> bool {
        true
    }

    #[inline]
    fn back(&self, pages: PageRange, _policy: FramePolicy) -> Result<Backing, BackError> {
        Ok(Backing(pages.len.0))
    }

    #[inline]
    fn adopt(&self, frames: &[Extent]) -> Result<Backing, BackError> {
        Ok(Backing(frames.len() as u64))
    }

    #[inline]
    fn borrow(&self, _backing: Backing, _generation: u64) -> Result<Pages, BackError> {
        Err(BackError::Unsupported)
    }

    #[inline]
    fn is_exclusive(&self, _backing: Backing) -> bool {
        true
    }

    #[inline]
    fn map(&self, _view: &View) -> Result<(), MapError> {
        Ok(())
    }

    #[inline]
    fn extend(
        &self,
        view: &View,
        more: PageRange,
        _policy: FramePolicy,
    ) -> Result<Backing, BackError> {
        Ok(Backing(view.pages.len.0 + more.len.0))
    }

    #[inline]
    fn map_more(&self, _view: &View, _more: PageRange) -> Result<(), MapError> {
        Ok(())
    }

    #[inline]
    fn zero_more(&self, _view: &View, _more: PageRange) {}

    #[inline]
    fn truncate(&self, _view: &View, pages: Pages) -> Backing {
        Backing(pages.0)
    }

    #[inline]
    fn publish(&self, _pages: PageRange) {}

    #[inline]
    fn zero(&self, _view: &View) {}

    #[inline]
    fn unmap(&self, _pages: PageRange) {}

    #[inline]
    fn flush(&self, _ranges: &[PageRange]) -> Result<(), FlushError> {
        (self.shootdown)();
        Ok(())
    }

    #[inline]
    fn unback(&self, _pages: PageRange, _backing: Backing) {}

    #[inline]
    fn translate(&self, _page: Vpn) -> Option<(Pfn, Prot)> {
        None
    }

    #[inline]
    fn read(&self, _page: Vpn, _offset: usize, _out: &mut [u8]) -> bool {
        false
    }
}
