//! The smallest machine in place: a pool whose pages are backed where they lie, shared by members
//! that may die. It takes a *photo* of all words before and after each of its own steps, so that
//! a test can go on from any of them, as whoever comes after a kill does.
//!
//! It is strict where a real one is silent: backing a page that is backed already, or showing one
//! that is not, panics. Fresh pages are zero, and each keeps its bytes until it is flushed.

// Each test file uses its part of this.
#![allow(dead_code)]

pub mod subject;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use vmalloc_core::sync::{AtomicU64, Ordering};
use vmalloc_core::{
    BackError, Backing, Config, Engine, Extent, FlushError, FramePolicy, Geometry, Machine,
    MapError, NoMetadata, Owner, PAGE_SIZE, PageRange, Pages, Pfn, Prot, Tables, View, Vpn,
};

/// The window: 64 granules, 32 MiB.
pub const GEOMETRY: Geometry = Geometry { granules: 64, small_granules: 64, members: 4 };
/// The pool's budget.
pub const CAPACITY: Pages = Pages(4096);

/// What a machine does, as it is counted, failed and photographed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    CommitWords,
    Back,
    Map,
    Publish,
    Zero,
    Unmap,
    Flush,
    Unback,
    MayWait,
}

/// What the machine itself knows.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Ground {
    /// Pages that have memory behind them, and their bytes.
    pub backed: BTreeMap<u64, Vec<u8>>,
    /// Pages charged to the budget.
    pub charged: u64,
}

/// All there is, at one moment.
#[derive(Clone)]
pub struct Photo {
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
}

pub type PoolEngine<'p> = Engine<'p, InPlace<'p>>;

/// A member's way to the pool.
pub struct InPlace<'p>(&'p Pool);

pub fn owner(n: usize) -> Owner {
    Owner::new(n).expect("a member's number")
}

impl Pool {
    pub fn new() -> Pool {
        Pool::sized(GEOMETRY, CAPACITY, Pages(1 << 20))
    }

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
        }
    }

    /// The pool as it was when the photo was taken.
    pub fn from_photo(photo: &Photo) -> Pool {
        let pool = Pool::new();
        pool.words.iter().zip(&photo.words).for_each(|(w, v)| w.store(*v, Ordering::SeqCst));
        *pool.ground.borrow_mut() = photo.ground.clone();
        pool
    }

    /// The engine of member `n`, from 1 on.
    pub fn engine(&self, n: usize) -> PoolEngine<'_> {
        let tables = Tables::new(&self.words, self.geometry).expect("words as many as asked for");
        let (window_start, lazy_pages_max) = (Vpn(0x1_0000), self.lazy_pages_max);
        let config = Config { window_start, owner: owner(n), lazy_pages_max };
        Engine::new(tables, InPlace(self), config).expect("a window of whole granules")
    }

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

    /// Makes call number `n` from now on fail, from 0 on; `None`: none.
    pub fn fail(&self, n: Option<usize>) {
        self.calls.borrow_mut().clear();
        *self.fails.borrow_mut() = n;
    }

    fn click(&self, when: &str) {
        if let Some(photos) = &mut *self.camera.borrow_mut() {
            let words = self.words.iter().map(|word| word.load(Ordering::SeqCst)).collect();
            photos.push(Photo { when: when.into(), words, ground: self.ground() });
        }
    }

    /// Notes a call; whether it must fail.
    fn call(&self, call: Call) -> bool {
        self.click(&format!("before {call:?}"));
        self.calls.borrow_mut().push(call);
        *self.fails.borrow() == Some(self.calls.borrow().len() - 1)
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
        Pages(self.0.capacity.0 - self.0.ground.borrow().charged)
    }

    fn may_wait(&self) -> bool {
        !self.0.call(Call::MayWait)
    }

    fn commit_words(&self, words: Range<usize>) -> Result<(), NoMetadata> {
        if self.0.call(Call::CommitWords) {
            return Err(NoMetadata { bytes: words.len() as u64 * 8 });
        }
        Ok(())
    }

    fn back(&self, pages: PageRange, _policy: FramePolicy) -> Result<Backing, BackError> {
        let fails = self.0.call(Call::Back);
        let mut ground = self.0.ground.borrow_mut();
        let free = Pages(self.0.capacity.0 - ground.charged);
        if fails || pages.len > free {
            return Err(BackError::NoFrames { wanted: pages.len, free });
        }
        ground.charged += pages.len.0;
        for page in pages.start.0..pages.end().0 {
            let before = ground.backed.insert(page, vec![0; PAGE_SIZE]);
            assert_eq!(before, None, "page {page:#x} had an owner before its flush");
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

    fn map(&self, view: &View) -> Result<(), MapError> {
        if self.0.call(Call::Map) {
            return Err(MapError::Refused { errno: 12 });
        }
        let ground = self.0.ground.borrow();
        for page in view.pages.start.0..view.pages.end().0 {
            assert!(ground.backed.contains_key(&page), "page {page:#x} is shown and not backed");
        }
        Ok(())
    }

    fn extend(
        &self,
        view: &View,
        more: PageRange,
        policy: FramePolicy,
    ) -> Result<Backing, BackError> {
        let added = self.back(more, policy)?;
        Ok(Backing(view.backing.0 + added.0))
    }

    fn map_more(&self, view: &View, more: PageRange) -> Result<(), MapError> {
        self.map(&View { pages: more, ..*view })
    }

    fn zero_more(&self, view: &View, more: PageRange) {
        self.zero(&View { pages: more, ..*view });
    }

    fn truncate(&self, view: &View, pages: Pages) -> Backing {
        self.0.call(Call::Unback);
        let mut ground = self.0.ground.borrow_mut();
        let kept = PageRange { start: view.pages.start, len: pages };
        let slot = view.slot;
        ground.backed.retain(|&page, _| !slot.contains(Vpn(page)) || kept.contains(Vpn(page)));
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
        self.0.call(Call::Zero);
        let mut ground = self.0.ground.borrow_mut();
        for page in view.pages.start.0..view.pages.end().0 {
            ground.backed.get_mut(&page).expect("a page that is shown").fill(0);
        }
    }

    fn unmap(&self, _pages: PageRange) {
        self.0.call(Call::Unmap);
    }

    fn flush(&self, ranges: &[PageRange]) -> Result<(), FlushError> {
        if self.0.call(Call::Flush) {
            return Err(FlushError { errno: 12 });
        }
        for range in ranges {
            let mut ground = self.0.ground.borrow_mut();
            ground.backed.retain(|&page, _| !range.contains(Vpn(page)));
        }
        self.0.click("after Flush");
        Ok(())
    }

    fn unback(&self, _pages: PageRange, backing: Backing) {
        self.0.call(Call::Unback);
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
        if let Some(held) = held() {
            self.0.ground.borrow_mut().charged = held.0;
        }
    }
}
