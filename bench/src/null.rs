//! A machine on which nothing costs anything: what is left is the engine's own work.
//!
//! Frames are not kept, mapping does nothing, a flush returns at once. So a call of the engine
//! costs what its address layer, its records and its lazy list cost.

use vmalloc_core::sync::AtomicU64;
use vmalloc_core::{
    BackError, Backing, Config, Engine, Extent, FlushError, FramePolicy, Geometry, Machine,
    MapError, Owner, PageRange, Pages, Pfn, Prot, Tables, View, Vpn,
};
use zerocopy::FromZeros;

/// The machine.
#[derive(Clone, Copy)]
pub struct Null;

/// The words of a window of so many pages. Zeroed, and there only when touched.
pub fn words(window: Pages) -> Box<[AtomicU64]> {
    let count = Geometry::for_window(window).words();
    <[AtomicU64]>::new_box_zeroed_with_elems(count).expect("memory for the tables")
}

/// An engine over such words, which begins to purge when `lazy` pages are parked.
pub fn engine(words: &[AtomicU64], window: Pages, lazy: Pages) -> Engine<'_, Null> {
    let tables = Tables::new(words, Geometry::for_window(window)).expect("words for this window");
    let config = Config { window_start: START, owner: Owner::FIRST, lazy_pages_max: lazy };
    Engine::new(tables, Null, config).expect("a window that begins at a granule")
}

/// Where the window begins: not at 0, as in a kernel.
pub const START: Vpn = Vpn(1 << 20);

impl Machine for Null {
    const IN_PLACE: bool = false;
    const FRESH_IS_ZERO: bool = true;
    const ALIGN_MAX: Pages = Pages(1 << 20);

    fn capacity(&self) -> Pages {
        Pages(1 << 40)
    }

    fn free(&self) -> Pages {
        Pages(1 << 40)
    }

    fn may_wait(&self) -> bool {
        true
    }

    fn back(&self, pages: PageRange, _policy: FramePolicy) -> Result<Backing, BackError> {
        Ok(Backing(pages.len.0))
    }

    fn adopt(&self, frames: &[Extent]) -> Result<Backing, BackError> {
        Ok(Backing(frames.len() as u64))
    }

    fn borrow(&self, _backing: Backing, _generation: u64) -> Result<Pages, BackError> {
        Err(BackError::Unsupported)
    }

    fn is_exclusive(&self, _backing: Backing) -> bool {
        true
    }

    fn map(&self, _view: &View) -> Result<(), MapError> {
        Ok(())
    }

    fn extend(
        &self,
        view: &View,
        more: PageRange,
        _policy: FramePolicy,
    ) -> Result<Backing, BackError> {
        Ok(Backing(view.pages.len.0 + more.len.0))
    }

    fn map_more(&self, _view: &View, _more: PageRange) -> Result<(), MapError> {
        Ok(())
    }

    fn zero_more(&self, _view: &View, _more: PageRange) {}

    fn truncate(&self, _view: &View, pages: Pages) -> Backing {
        Backing(pages.0)
    }

    fn publish(&self, _pages: PageRange) {}

    fn zero(&self, _view: &View) {}

    fn unmap(&self, _pages: PageRange) {}

    fn flush(&self, _ranges: &[PageRange]) -> Result<(), FlushError> {
        Ok(())
    }

    fn unback(&self, _pages: PageRange, _backing: Backing) {}

    fn translate(&self, _page: Vpn) -> Option<(Pfn, Prot)> {
        None
    }

    fn read(&self, _page: Vpn, _offset: usize, _out: &mut [u8]) -> bool {
        false
    }
}
