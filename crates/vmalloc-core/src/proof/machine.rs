//! A machine in place that knows who owns each page: two owners of one are a panic. The checkers'
//! and, where a member dies before any of its writes, the unit tests' (`recover/tests.rs`).
//!
//! What the operating system does is one step here, as it is there: all of them are after the
//! engine's words.

extern crate std;

#[cfg(any(loom, shuttle, test))]
use crate::context::Context;
#[cfg(any(loom, shuttle))]
use crate::request::{Limits, Plan, Request};
use crate::sync::AtomicU64;
use crate::{
    BackError, Backing, Config, Engine, Extent, FlushError, FramePolicy, Geometry, Lane, Machine,
    MapError, Owner, PageRange, Pages, Pfn, Prot, Tables, View, Vpn,
};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::vec::Vec;

/// The first page of the window.
pub(crate) const START: Vpn = Vpn(0x1_0000);

/// Words that members share, and the pages that have memory behind them.
pub(crate) struct Pool {
    pub(crate) words: Vec<AtomicU64>,
    pub(crate) geometry: Geometry,
    /// How many pages may have memory behind them at once.
    pub(crate) capacity: Pages,
    pub(crate) backed: Mutex<BTreeSet<u64>>,
    /// The lane in which everybody counts.
    pub(crate) lane: usize,
    /// Whether no flush succeeds.
    pub(crate) refuses_flushes: bool,
    /// Pages of which none does.
    pub(crate) stuck: Vec<Vpn>,
}

/// A low mark at which any parked area will do.
#[cfg(any(loom, shuttle))]
pub(crate) const ANY: Pages = Pages(0);

/// One member's way to the pool.
#[derive(Clone, Copy)]
pub(crate) struct InPlace<'p>(&'p Pool);

pub(crate) fn owner(n: usize) -> Owner {
    Owner::new(n).unwrap()
}

impl Pool {
    pub(crate) fn new(geometry: Geometry, words: Vec<AtomicU64>) -> Pool {
        let (capacity, backed) = (geometry.pages(), Mutex::default());
        let (lane, refuses_flushes, stuck) = (0, false, Vec::new());
        Pool { words, geometry, capacity, backed, lane, refuses_flushes, stuck }
    }

    /// An empty one of this geometry.
    pub(crate) fn empty(geometry: Geometry) -> Pool {
        Pool::new(geometry, (0..geometry.words()).map(|_| AtomicU64::new(0)).collect())
    }

    /// An empty one of 16 granules and three members: what most tests need.
    pub(crate) fn small() -> Pool {
        let (granules, members) = (16, 3);
        Pool::empty(Geometry { granules, small_granules: granules, members, in_place: true })
    }

    pub(crate) fn engine(&self, member: usize) -> Engine<'_, InPlace<'_>> {
        let tables = Tables::new(&self.words, self.geometry).unwrap();
        let owner = owner(member);
        let config = Config { window_start: START, owner, lazy_pages_max: Pages(1 << 20) };
        Engine::new(tables, InPlace(self), config).unwrap()
    }

    /// How many pages have memory behind them.
    pub(crate) fn backed(&self) -> usize {
        self.backed.lock().unwrap().len()
    }
}

impl Pool {
    /// What the stages of the walks are given.
    #[cfg(any(loom, shuttle, test))]
    pub(crate) fn context(&self, member: usize) -> Context<'_, InPlace<'_>> {
        let tables = Tables::new(&self.words, self.geometry).unwrap();
        let machine = InPlace(self);
        Context { tables, me: owner(member), machine, start: START, lazy_slack: Pages(1 << 12) }
    }

    /// A plan for an area of `pages`.
    #[cfg(any(loom, shuttle))]
    pub(crate) fn plan(&self, pages: u64) -> Plan {
        let capacity = self.geometry.pages();
        let align_max = InPlace::ALIGN_MAX;
        let limits = Limits { capacity, align_max, user_align: Pages(1), start: START };
        Request::bytes(pages * 4096).plan(&self.geometry, &limits).unwrap()
    }
}

impl Machine for InPlace<'_> {
    const IN_PLACE: bool = true;
    const FRESH_IS_ZERO: bool = true;
    const ALIGN_MAX: Pages = Pages(512);

    fn capacity(&self) -> Pages {
        self.0.capacity
    }

    fn free(&self) -> Pages {
        Pages(self.capacity().0 - self.0.backed() as u64)
    }

    fn lane(&self) -> Lane {
        Lane { index: self.0.lane, is_mine: false }
    }

    fn may_wait(&self) -> bool {
        true
    }

    fn back(&self, pages: PageRange, _policy: FramePolicy) -> Result<Backing, BackError> {
        for page in pages.start.0..pages.end().0 {
            let is_new = self.0.backed.lock().unwrap().insert(page);
            assert!(is_new, "page {page:#x} had an owner before its flush");
        }
        Ok(Backing(pages.len.0))
    }

    fn adopt(&self, _frames: &[Extent]) -> Result<Backing, BackError> {
        Err(BackError::Unsupported)
    }

    fn borrow(&self, _backing: Backing, _generation: u64) -> Result<Pages, BackError> {
        Err(BackError::Unsupported)
    }

    fn is_exclusive(&self, _backing: Backing) -> bool {
        true
    }

    fn map(&self, view: &View) -> Result<(), MapError> {
        self.map_more(view, view.pages)
    }

    fn extend(
        &self,
        view: &View,
        more: PageRange,
        policy: FramePolicy,
    ) -> Result<Backing, BackError> {
        self.back(more, policy).map(|added| Backing(view.backing.0 + added.0))
    }

    fn map_more(&self, _view: &View, more: PageRange) -> Result<(), MapError> {
        for page in more.start.0..more.end().0 {
            let is_backed = self.0.backed.lock().unwrap().contains(&page);
            assert!(is_backed, "{page:#x} is shown and not backed");
        }
        Ok(())
    }

    fn zero_more(&self, _view: &View, _more: PageRange) {}

    fn truncate(&self, _view: &View, pages: Pages) -> Backing {
        Backing(pages.0)
    }

    fn read(&self, _page: Vpn, _offset: usize, _out: &mut [u8]) -> bool {
        false
    }

    fn publish(&self, _pages: PageRange) {}

    fn zero(&self, _view: &View) {}

    fn unmap(&self, _pages: PageRange) {}

    fn flush(&self, ranges: &[PageRange]) -> Result<(), FlushError> {
        let stuck = |range: &PageRange| self.0.stuck.iter().any(|page| range.contains(*page));
        if self.0.refuses_flushes || ranges.iter().any(stuck) {
            return Err(FlushError { errno: 16 });
        }
        let doomed = |page: &u64| ranges.iter().any(|range| range.contains(Vpn(*page)));
        self.0.backed.lock().unwrap().retain(|page| !doomed(page));
        Ok(())
    }

    fn unback(&self, _pages: PageRange, _backing: Backing) {}

    fn translate(&self, page: Vpn) -> Option<(Pfn, Prot)> {
        let is_backed = self.0.backed.lock().unwrap().contains(&page.0);
        is_backed.then_some((Pfn(page.0), Prot::READ_WRITE))
    }
}
