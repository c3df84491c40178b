//! The smallest machine in place: a pool whose pages are backed where they lie, shared by members
//! that may die. It takes a *photo* of all words before and after each of its own steps, so that
//! a test can go on from any of them, as whoever comes after a kill does.
//!
//! It is strict where a real one is silent: backing a page that is backed already, or showing one
//! that is not, panics. Fresh pages are zero, and each keeps its bytes until it is flushed. Every
//! CPU has a TLB that forgets nothing but by a flush ([`Pool::load`]).
//!
//! With the feature `simulate` each call of the machine is a step, too, at which a member may be
//! killed: see `vmalloc_core::sync::stepped`. What is dead has no effect.

pub mod subject;

use crate::faults::Site;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use vmalloc_core::sync::{AtomicU64, Ordering};
use vmalloc_core::{
    BackError, Backing, Config, Engine, Extent, FlushError, FramePolicy, Geometry, Machine,
    MapError, NoMetadata, Owner, PAGE_SIZE, PageRange, Pages, Pfn, Prot, Tables, View, Vpn,
};

/// The window: 64 granules, 32 MiB.
pub const GEOMETRY: Geometry =
    Geometry { granules: 64, small_granules: 64, members: 4, in_place: true };
/// The pool's budget.
pub const CAPACITY: Pages = Pages(4096);

/// What a machine does, as it is counted, failed and photographed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// [`Machine`]'s of the same name.
    CommitWords,
    /// [`Machine`]'s of the same name.
    Back,
    /// [`Machine`]'s of the same name.
    Map,
    /// [`Machine`]'s of the same name.
    Publish,
    /// [`Machine`]'s of the same name.
    Zero,
    /// [`Machine`]'s of the same name.
    Unmap,
    /// [`Machine`]'s of the same name.
    Flush,
    /// [`Machine`]'s of the same name.
    Unback,
    /// [`Machine`]'s of the same name.
    MayWait,
}

/// What the machine itself knows.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Ground {
    /// Pages that have memory behind them, and their bytes.
    pub backed: BTreeMap<u64, Vec<u8>>,
    /// Which backing each of them is.
    pub born: BTreeMap<u64, u64>,
    /// Pages charged to the budget.
    pub charged: u64,
}

/// All there is, at one moment.
#[derive(Clone)]
pub struct Photo {
    /// Between which calls.
    pub when: String,
    words: Vec<u64>,
    ground: Ground,
}

/// A pool: words and ground, with a camera and a saboteur.
pub struct Pool {
    geometry: Geometry,
    capacity: Pages,
    lazy_pages_max: Pages,
    words: Vec<AtomicU64>,
    ground: RefCell<Ground>,
    camera: RefCell<Option<Vec<Photo>>>,
    calls: RefCell<Vec<Call>>,
    fails: RefCell<Option<usize>>,
    fails_then: Cell<Option<Call>>,
    sites: RefCell<Option<BTreeSet<Site>>>,
    /// Pages that were ever backed: each backing is told from the last one at its place.
    births: Cell<u64>,
    /// A CPU's: page, and the birth that it saw.
    tlbs: RefCell<Vec<BTreeMap<u64, u64>>>,
    flushes: Cell<u64>,
}

/// The CPUs that each member runs on.
pub const CPUS_PER_MEMBER: usize = 2;

/// An engine of one of the pool's members.
pub type PoolEngine<'p> = Engine<'p, InPlace<'p>>;

/// A member's way to the pool.
pub struct InPlace<'p>(&'p Pool);

/// Member `n`, from 1 on.
///
/// # Panics
///
/// If there can be no such member; likewise below.
#[must_use]
pub fn owner(n: usize) -> Owner {
    Owner::new(n).expect("a member's number")
}

impl Default for Pool {
    fn default() -> Pool {
        Pool::new()
    }
}

impl Pool {
    /// A pool of [`GEOMETRY`] and [`CAPACITY`] that parks as much as it likes.
    #[must_use]
    pub fn new() -> Pool {
        Pool::sized(GEOMETRY, CAPACITY, Pages(1 << 20))
    }

    /// A pool of this size.
    #[must_use]
    pub fn sized(geometry: Geometry, capacity: Pages, lazy_pages_max: Pages) -> Pool {
        Pool {
            geometry,
            capacity,
            lazy_pages_max,
            words: (0..geometry.words()).map(|_| AtomicU64::new(0)).collect(),
            ground: RefCell::default(),
            camera: RefCell::new(None),
            calls: RefCell::default(),
            fails: RefCell::new(None),
            fails_then: Cell::new(None),
            sites: RefCell::new(None),
            births: Cell::new(0),
            tlbs: RefCell::new(vec![BTreeMap::new(); (geometry.members + 1) * CPUS_PER_MEMBER]),
            flushes: Cell::new(0),
        }
    }

    /// The pool as it was when the photo was taken.
    #[must_use]
    pub fn from_photo(photo: &Photo) -> Pool {
        let pool = Pool::new();
        pool.words.iter().zip(&photo.words).for_each(|(w, v)| w.store(*v, Ordering::SeqCst));
        *pool.ground.borrow_mut() = photo.ground.clone();
        pool
    }

    /// The engine of member `n`, from 1 on.
    #[must_use]
    pub fn engine(&self, n: usize) -> PoolEngine<'_> {
        let tables = Tables::new(&self.words, self.geometry).expect("words as many as asked for");
        let (window_start, lazy_pages_max) = (Vpn(0x1_0000), self.lazy_pages_max);
        let config = Config { window_start, owner: owner(n), lazy_pages_max };
        Engine::new(tables, InPlace(self), config).expect("a window of whole granules")
    }

    /// What the machine knows now.
    #[must_use]
    pub fn ground(&self) -> Ground {
        self.ground.borrow().clone()
    }

    /// Runs `walk` and returns a photo of each moment between two calls of the machine, the
    /// moments before and after it included.
    pub fn photograph(&self, walk: impl FnOnce()) -> Vec<Photo> {
        *self.camera.borrow_mut() = Some(Vec::new());
        self.click("before");
        walk();
        self.click("after");
        self.camera.take().expect("put there above")
    }

    /// Runs `walk` and returns the calls it made.
    pub fn count(&self, walk: impl FnOnce()) -> Vec<Call> {
        self.calls.borrow_mut().clear();
        walk();
        self.calls.borrow().clone()
    }

    /// How many flushes there were.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.flushes.get()
    }

    /// Pages backed, and pages charged.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        let ground = self.ground.borrow();
        (ground.backed.len() as u64, ground.charged)
    }

    /// What CPU `cpu` of member `n` sees at `page`: its bytes for `look`, which may change them.
    /// `None`: nothing is there.
    ///
    /// # Errors
    ///
    /// The CPU has kept a translation of `page` to memory that is no longer there.
    pub fn load<R>(
        &self,
        n: usize,
        cpu: usize,
        page: Vpn,
        look: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<Option<R>, StaleTlb> {
        let tlb = &mut self.tlbs.borrow_mut()[n * CPUS_PER_MEMBER + cpu % CPUS_PER_MEMBER];
        let mut ground = self.ground.borrow_mut();
        let born = ground.born.get(&page.0).copied();
        if tlb.get(&page.0).is_some_and(|seen| Some(*seen) != born) {
            return Err(StaleTlb { member: n, cpu, page });
        }
        let Some(born) = born else { return Ok(None) };
        tlb.insert(page.0, born);
        Ok(ground.backed.get_mut(&page.0).map(|bytes| look(bytes)))
    }

    /// The member's process is gone, and its translations with it.
    pub fn drop_tlbs(&self, n: usize) {
        let mut tlbs = self.tlbs.borrow_mut();
        tlbs.iter_mut().skip(n * CPUS_PER_MEMBER).take(CPUS_PER_MEMBER).for_each(BTreeMap::clear);
    }

    /// Whether the call that [`Pool::fail`] chose has come.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.fails.borrow().is_some_and(|n| n < self.calls.borrow().len())
    }

    /// Makes call number `n` from now on fail, from 0 on; `None`: none.
    pub fn fail(&self, n: Option<usize>) {
        self.calls.borrow_mut().clear();
        *self.fails.borrow_mut() = n;
        self.fails_then.set(None);
    }

    /// The same, and every `then` from that call on: what undoes a failure fails, too.
    pub fn fail_and_then(&self, n: usize, then: Call) {
        self.fail(Some(n));
        self.fails_then.set(Some(then));
    }

    /// From here on it is remembered which lines call the machine where it may fail.
    pub fn note_sites(&self) {
        self.sites.borrow_mut().get_or_insert_default();
    }

    /// Which did.
    #[must_use]
    pub fn sites(&self) -> BTreeSet<Site> {
        self.sites.borrow().clone().unwrap_or_default()
    }

    fn click(&self, when: &str) {
        if let Some(photos) = &mut *self.camera.borrow_mut() {
            let words = self.words.iter().map(|word| word.load(Ordering::SeqCst)).collect();
            photos.push(Photo { when: when.into(), words, ground: self.ground() });
        }
    }

    /// Notes a call, and whose it is; whether it must fail. `None`: the caller is dead, and nothing
    /// may happen.
    #[track_caller]
    fn call(&self, call: Call) -> Option<bool> {
        if !step() {
            return None;
        }
        self.click(&format!("before {call:?}"));
        self.calls.borrow_mut().push(call);
        if let Some(sites) = &mut *self.sites.borrow_mut() {
            let asks = std::panic::Location::caller();
            sites.insert(Site { file: asks.file(), line: asks.line() });
        }
        let (number, fails) = (self.calls.borrow().len() - 1, *self.fails.borrow());
        let follows = fails.is_some_and(|n| number > n) && self.fails_then.get() == Some(call);
        Some(fails == Some(number) || follows)
    }
}

/// A CPU used a translation to memory that another owner may have by now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StaleTlb {
    /// Whose CPU.
    pub member: usize,
    /// Which of its CPUs.
    pub cpu: usize,
    /// The page.
    pub page: Vpn,
}

impl std::fmt::Display for StaleTlb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let StaleTlb { member, cpu, page } = self;
        write!(f, "CPU {cpu} of member {member} has a stale TLB entry for {page}")
    }
}

impl std::error::Error for StaleTlb {}

/// A call is about to have an effect; whether it does.
fn step() -> bool {
    #[cfg(feature = "simulate")]
    return vmalloc_core::sync::stepped::step();
    #[cfg(not(feature = "simulate"))]
    true
}

impl Machine for InPlace<'_> {
    const IN_PLACE: bool = true;
    const FRESH_IS_ZERO: bool = true;
    const ALIGN_MAX: Pages = Pages(512);

    fn capacity(&self) -> Pages {
        self.0.capacity
    }

    fn free(&self) -> Pages {
        Pages(self.0.capacity.0 - self.0.ground.borrow().charged)
    }

    fn refits(&self) -> bool {
        true
    }

    fn may_wait(&self) -> bool {
        self.0.call(Call::MayWait) != Some(true)
    }

    #[track_caller]
    fn commit_words(&self, words: Range<usize>) -> Result<(), NoMetadata> {
        if self.0.call(Call::CommitWords) == Some(true) {
            return Err(NoMetadata { bytes: words.len() as u64 * 8 });
        }
        Ok(())
    }

    #[track_caller]
    fn back(&self, pages: PageRange, _policy: FramePolicy) -> Result<Backing, BackError> {
        let Some(fails) = self.0.call(Call::Back) else { return Ok(Backing(pages.len.0)) };
        let mut ground = self.0.ground.borrow_mut();
        let free = Pages(self.0.capacity.0 - ground.charged);
        if fails || pages.len > free {
            return Err(BackError::NoFrames { wanted: pages.len, free });
        }
        ground.charged += pages.len.0;
        for page in pages.start.0..pages.end().0 {
            let before = ground.backed.insert(page, vec![0; PAGE_SIZE]);
            assert_eq!(before, None, "page {page:#x} had an owner before its flush");
            self.0.births.set(self.0.births.get() + 1);
            ground.born.insert(page, self.0.births.get());
        }
        drop(ground);
        self.0.click("after Back");
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

    #[track_caller]
    fn map(&self, view: &View) -> Result<(), MapError> {
        match self.0.call(Call::Map) {
            Some(true) => return Err(MapError::Refused { errno: 12 }),
            Some(false) => {}
            None => return Ok(()),
        }
        let ground = self.0.ground.borrow();
        for page in view.pages.start.0..view.pages.end().0 {
            assert!(ground.backed.contains_key(&page), "page {page:#x} is shown and not backed");
        }
        Ok(())
    }

    #[track_caller]
    fn extend(
        &self,
        view: &View,
        more: PageRange,
        policy: FramePolicy,
    ) -> Result<Backing, BackError> {
        let added = self.back(more, policy)?;
        Ok(Backing(view.backing.0 + added.0))
    }

    #[track_caller]
    fn map_more(&self, view: &View, more: PageRange) -> Result<(), MapError> {
        self.map(&View { pages: more, ..*view })
    }

    fn zero_more(&self, view: &View, more: PageRange) {
        self.zero(&View { pages: more, ..*view });
    }

    fn truncate(&self, view: &View, pages: Pages) -> Backing {
        if self.0.call(Call::Unback).is_none() {
            return Backing(pages.0);
        }
        let mut ground = self.0.ground.borrow_mut();
        let kept = PageRange { start: view.pages.start, len: pages };
        let slot = view.slot;
        let stays = |page| !slot.contains(Vpn(page)) || kept.contains(Vpn(page));
        ground.backed.retain(|&page, _| stays(page));
        ground.born.retain(|&page, _| stays(page));
        ground.charged -= view.backing.0 - pages.0;
        Backing(pages.0)
    }

    fn read(&self, _page: Vpn, _offset: usize, _out: &mut [u8]) -> bool {
        false
    }

    fn publish(&self, _pages: PageRange) {
        self.0.call(Call::Publish);
    }

    fn zero(&self, view: &View) {
        if self.0.call(Call::Zero).is_none() {
            return;
        }
        let mut ground = self.0.ground.borrow_mut();
        for page in view.pages.start.0..view.pages.end().0 {
            ground.backed.get_mut(&page).expect("a page that is shown").fill(0);
        }
    }

    fn unmap(&self, _pages: PageRange) {
        self.0.call(Call::Unmap);
    }

    #[track_caller]
    fn flush(&self, ranges: &[PageRange]) -> Result<(), FlushError> {
        match self.0.call(Call::Flush) {
            Some(true) => return Err(FlushError { errno: 12 }),
            Some(false) => {}
            None => return Ok(()),
        }
        self.0.flushes.set(self.0.flushes.get() + 1);
        let stays = |page: &u64| !ranges.iter().any(|range| range.contains(Vpn(*page)));
        let mut ground = self.0.ground.borrow_mut();
        ground.backed.retain(|page, _| stays(page));
        ground.born.retain(|page, _| stays(page));
        drop(ground);
        self.0.tlbs.borrow_mut().iter_mut().for_each(|tlb| tlb.retain(|page, _| stays(page)));
        self.0.click("after Flush");
        Ok(())
    }

    fn unback(&self, _pages: PageRange, backing: Backing) {
        if self.0.call(Call::Unback).is_none() {
            return;
        }
        let mut ground = self.0.ground.borrow_mut();
        // As a real budget: never below nothing, and counted again by recovery.
        ground.charged = ground.charged.saturating_sub(backing.0);
        drop(ground);
        self.0.click("after Unback");
    }

    fn translate(&self, page: Vpn) -> Option<(Pfn, Prot)> {
        let is_backed = self.0.ground.borrow().backed.contains_key(&page.0);
        is_backed.then_some((Pfn(page.0), Prot::READ_WRITE))
    }

    fn recovered(&self, held: &dyn Fn() -> Option<Pages>) {
        if let Some(held) = held()
            && step()
        {
            self.0.ground.borrow_mut().charged = held.0;
        }
    }
}
