//! A member dies before any one of its writes. The verb runs once in peace, and before each write
//! to a word ([`crate::sync::stepped`]) a photo is taken of all of them; from each photo a
//! survivor recovers. `vmalloc-sim/tests/recover.rs` does the same between the calls of a machine.

extern crate std;

use crate::FramePolicy;
use crate::index::Index;
use crate::layout::ZONES;
use crate::sync::{AtomicU64, Ordering, stepped};
use crate::{
    Area, BackError, Backing, Config, Engine, Extent, FlushError, Geometry, Kind, Machine,
    MapError, Owner, PageRange, Pages, Pfn, Prot, Publish, Request, Tables, Token, View, Vpn,
};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::vec::Vec;

const GEOMETRY: Geometry = Geometry { granules: 40, small_granules: 40, members: 4 };
const CAPACITY: Pages = Pages(4096);
const DEAD: usize = 1;
const SURVIVOR: usize = 2;
const WITNESS: usize = 3;

/// Words that members share, and the pages that have memory behind them.
struct Pool {
    words: Vec<AtomicU64>,
    backed: RefCell<BTreeSet<u64>>,
}

struct Photo {
    number: usize,
    words: Vec<u64>,
    backed: BTreeSet<u64>,
}

struct InPlace<'p>(&'p Pool);

type PoolEngine<'p> = Engine<'p, InPlace<'p>>;

fn owner(n: usize) -> Owner {
    Owner::new(n).unwrap()
}

fn bytes(pages: u64) -> Request {
    Request::bytes(pages * 4096)
}

impl Pool {
    fn new() -> Rc<Pool> {
        let words = (0..GEOMETRY.words()).map(|_| AtomicU64::new(0)).collect();
        Rc::new(Pool { words, backed: RefCell::default() })
    }

    fn from_photo(photo: &Photo) -> Rc<Pool> {
        let words = photo.words.iter().map(|&word| AtomicU64::new(word)).collect();
        Rc::new(Pool { words, backed: RefCell::new(photo.backed.clone()) })
    }

    fn engine(&self, n: usize) -> PoolEngine<'_> {
        let tables = Tables::new(&self.words, GEOMETRY).unwrap();
        let config =
            Config { window_start: Vpn(0x1_0000), owner: owner(n), lazy_pages_max: Pages(1 << 20) };
        Engine::new(tables, InPlace(self), config).unwrap()
    }

    /// A photo before each write of `walk`, and one after the last.
    fn photograph(self: &Rc<Pool>, walk: impl FnOnce(&Pool)) -> Vec<Photo> {
        let photos: Rc<RefCell<Vec<Photo>>> = Rc::default();
        let (pool, album) = (Rc::clone(self), Rc::clone(&photos));
        let click = move || {
            let words = pool.words.iter().map(|word| word.load(Ordering::SeqCst)).collect();
            let mut album = album.borrow_mut();
            let number = album.len();
            album.push(Photo { number, words, backed: pool.backed.borrow().clone() });
        };
        let (last, last_album) = (Rc::clone(self), Rc::clone(&photos));
        stepped::with_hook(click, || walk(self));
        let words = last.words.iter().map(|word| word.load(Ordering::SeqCst)).collect();
        let number = last_album.borrow().len();
        let backed = last.backed.borrow().clone();
        last_album.borrow_mut().push(Photo { number, words, backed });
        photos.take()
    }
}

impl Machine for InPlace<'_> {
    const IN_PLACE: bool = true;
    const FRESH_IS_ZERO: bool = true;
    const ALIGN_MAX: Pages = Pages(512);

    fn capacity(&self) -> Pages {
        CAPACITY
    }

    fn free(&self) -> Pages {
        Pages(CAPACITY.0 - self.0.backed.borrow().len() as u64)
    }

    fn may_wait(&self) -> bool {
        true
    }

    fn back(&self, pages: PageRange, _policy: FramePolicy) -> Result<Backing, BackError> {
        for page in pages.start.0..pages.end().0 {
            let is_new = self.0.backed.borrow_mut().insert(page);
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
            assert!(self.0.backed.borrow().contains(&page), "{page:#x} is shown and not backed");
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
        let doomed = |page: &u64| ranges.iter().any(|range| range.contains(Vpn(*page)));
        self.0.backed.borrow_mut().retain(|page| !doomed(page));
        Ok(())
    }

    fn unback(&self, _pages: PageRange, _backing: Backing) {}

    fn translate(&self, page: Vpn) -> Option<(Pfn, Prot)> {
        let is_backed = self.0.backed.borrow().contains(&page.0);
        is_backed.then_some((Pfn(page.0), Prot::READ_WRITE))
    }
}

/// What everybody has before the verb.
struct Prepared {
    own: Area,
    solo: Area,
    given: Token,
    taken: Token,
    offered: Token,
    apart: Area,
}

fn prepare(pool: &Pool) -> Prepared {
    let (dead, witness) = (pool.engine(DEAD), pool.engine(WITNESS));
    let shared = |engine: &PoolEngine<'_>, pages: u64| {
        let area = engine.vmalloc(&bytes(pages)).unwrap();
        engine.share(area.id, area.generation, Publish::Shared).unwrap()
    };
    let own = dead.vmalloc(&bytes(3)).unwrap();
    let solo = dead.vmalloc(&bytes(500)).unwrap();
    let given = shared(&dead, 4);
    witness.attach(&given, Prot::READ_WRITE).unwrap();
    let (taken, offered) = (shared(&witness, 5), shared(&witness, 600));
    dead.attach(&taken, Prot::READ_WRITE).unwrap();
    let apart = witness.vmalloc(&bytes(2)).unwrap();
    for (engine, pages) in [(&dead, 3), (&dead, 700), (&witness, 6), (&witness, 500)] {
        let parked = engine.vmalloc(&bytes(pages).align_bytes(8192)).unwrap();
        let _ = engine.vfree(parked.addr()).unwrap();
    }
    Prepared { own, solo, given, taken, offered, apart }
}

/// Kills the member before each write of `verb`, and recovers. Returns how many writes.
fn survive<R>(verb: impl Fn(&PoolEngine<'_>, &Prepared) -> R) -> usize {
    let pool = Pool::new();
    let prepared = prepare(&pool);
    let photos = pool.photograph(|pool| drop(verb(&pool.engine(DEAD), &prepared)));
    for photo in &photos {
        recover_from(photo, &prepared);
    }
    photos.len() - 1
}

fn recover_from(photo: &Photo, prepared: &Prepared) {
    let pool = Pool::from_photo(photo);
    let when = std::format!("dead before write {}", photo.number);
    let survivor = pool.engine(SURVIVOR);
    survivor.recover(owner(DEAD));
    survivor.verify().unwrap_or_else(|e| panic!("{when}: {e}"));
    let dead_owns = |area: &Area| area.kind == Kind::Live && area.owner == Some(owner(DEAD));
    assert!(!survivor.areas().any(|area| dead_owns(&area)), "{when}: it still owns an area");
    assert_eq!(survivor.find(prepared.apart.addr()), Some(prepared.apart), "{when}");
    let held: u64 = survivor.areas().map(|area| area.pages.len.0).sum();
    assert_eq!(pool.backed.borrow().len() as u64, held, "{when}: backed");

    // Not left to the scan: its lock is free.
    let tables = Tables::new(&pool.words, GEOMETRY).unwrap();
    for zone in 0..ZONES {
        assert!(Index::new(tables, zone).lock(owner(WITNESS)).is_some(), "{when}: index locked");
    }

    pool.engine(WITNESS).recover(owner(DEAD));
    survivor.verify().unwrap_or_else(|e| panic!("{when}, recovered twice: {e}"));
    wind_up(&pool, &when);
}

/// Everybody leaves, and everything goes.
fn wind_up(pool: &Pool, when: &str) {
    let areas: Vec<Area> = pool.engine(SURVIVOR).areas().collect();
    for area in areas {
        match area.kind {
            Kind::Live => {
                let engine = pool.engine(area.owner.unwrap().number());
                let _ = engine.free(area.id, area.generation).unwrap();
            }
            Kind::Frozen | Kind::Shared | Kind::Given => {
                let _ = pool.engine(SURVIVOR).free(area.id, area.generation).unwrap();
            }
            _ => {}
        }
        let _ = pool.engine(WITNESS).detach(area.id, area.generation);
    }
    let survivor = pool.engine(SURVIVOR);
    survivor.purge().unwrap_or_else(|e| panic!("{when}: {e}"));
    survivor.verify().unwrap_or_else(|e| panic!("{when}, at the end: {e}"));
    assert_eq!(survivor.areas().next(), None, "{when}: an area at the end");
    assert!(pool.backed.borrow().is_empty(), "{when}: pages backed at the end");
    let stats = survivor.stats();
    assert_eq!(stats.holes, stats.window, "{when}: pages that are no hole at the end");
    // The index agrees: it finds the window in one piece.
    let all = Pages(GEOMETRY.pages().0.min(CAPACITY.0) - 1);
    assert!(survivor.vmalloc(&bytes(all.0)).is_ok(), "{when}: no hole of {all}");
}

#[test]
fn member_that_dies_in_vmalloc_leaves_nothing() {
    assert!(survive(|dead, _| dead.vmalloc(&bytes(10))) >= 10, "a new chunk");
    assert!(survive(|dead, _| dead.vmalloc(&bytes(4))) >= 5, "a chunk that is there");
    assert!(survive(|dead, _| dead.vmalloc(&bytes(900))) >= 10, "solo");
}

#[test]
fn member_that_dies_in_a_revive_leaves_nothing() {
    assert!(survive(|dead, _| dead.vmalloc(&bytes(3).align_bytes(8192))) >= 5);
    assert!(survive(|dead, _| dead.vzalloc(&bytes(700))) >= 5);
    assert!(survive(|dead, _| dead.vmalloc(&bytes(6))) >= 5, "another's");
}

#[test]
fn member_that_dies_in_free_leaves_nothing() {
    assert!(survive(|dead, prepared| dead.vfree(prepared.own.addr())) >= 3);
    assert!(survive(|dead, prepared| dead.vfree(prepared.solo.addr())) >= 3);
}

#[test]
fn member_that_dies_in_free_of_a_published_area_leaves_nothing() {
    survive(|dead, prepared| dead.free(prepared.given.area, prepared.given.generation));
    survive(|dead, prepared| dead.free(prepared.taken.area, prepared.taken.generation));
    survive(|dead, prepared| dead.free(prepared.offered.area, prepared.offered.generation));
}

#[test]
fn member_that_dies_in_a_strict_free_leaves_nothing() {
    for pages in [8, 800] {
        survive(|dead, _| {
            let area = dead.vmalloc(&bytes(pages).no_reuse()).unwrap();
            dead.vfree(area.addr()).unwrap()
        });
    }
}

#[test]
fn member_that_dies_in_share_leaves_nothing() {
    for how in [Publish::Frozen, Publish::Shared] {
        let writes = survive(|dead, prepared| {
            dead.share(prepared.own.id, prepared.own.generation, how).unwrap()
        });
        assert!(writes >= 3);
    }
}

#[test]
fn member_that_dies_in_attach_or_detach_leaves_nothing() {
    survive(|dead, prepared| dead.attach(&prepared.offered, Prot::READ_WRITE).unwrap());
    survive(|dead, prepared| dead.detach(prepared.taken.area, prepared.taken.generation));
    survive(|dead, prepared| {
        let _ = dead.free(prepared.taken.area, prepared.taken.generation).unwrap();
        dead.detach(prepared.taken.area, prepared.taken.generation)
    });
}

#[test]
fn member_that_dies_in_purge_leaves_nothing() {
    assert!(survive(|dead, _| dead.purge().unwrap()) >= 40);
}

#[test]
fn member_that_dies_in_resize_leaves_nothing() {
    for pages in [2, 400, 600, 1100] {
        survive(|dead, prepared| {
            let _ = dead.resize(prepared.own.id, prepared.own.generation, pages * 4096, true);
            dead.resize(prepared.solo.id, prepared.solo.generation, pages * 4096, false).is_ok()
        });
    }
}

/// Goal: a gift has one owner at any moment, whichever of the two dies.
/// Method: the dead gives to nobody, to the witness, and takes what the witness gave; what is for
/// the dead alone goes with it.
#[test]
fn member_that_dies_giving_or_taking_leaves_one_owner() {
    for to in [None, Some(owner(WITNESS))] {
        survive(|dead, prepared| dead.give(prepared.own.id, prepared.own.generation, to).unwrap());
    }
    for to in [None, Some(owner(DEAD))] {
        let pool = Pool::new();
        let prepared = prepare(&pool);
        let gift = pool.engine(WITNESS).vmalloc(&bytes(7)).unwrap();
        let token = pool.engine(WITNESS).give(gift.id, gift.generation, to).unwrap();
        let photos = pool.photograph(|pool| {
            let _ = pool.engine(DEAD).take(&token).unwrap();
        });
        assert!(photos.len() >= 2);
        for (n, photo) in photos.iter().enumerate() {
            recover_from(photo, &prepared);
            let pool = Pool::from_photo(photo);
            pool.engine(SURVIVOR).recover(owner(DEAD));
            let taken = pool.engine(SURVIVOR).take(&token).is_ok();
            assert_eq!(taken, to.is_none() && n == 0, "{to:?}, photo {n}");
        }
    }
}

/// Goal: what a member had added to a shared area and not published goes with it; what it had
/// published stays, for the witness who is attached.
/// Method: within the slot, into granules behind it, to bytes of the last page, and where others
/// live behind it. With pages backed that nobody has, `recover_from` fails.
#[test]
fn member_that_dies_growing_a_shared_area_leaves_nothing_half_grown() {
    for (pages, grows) in [(521, true), (630, true), (900, true), (5000, false)] {
        let writes = survive(|dead, _| {
            let area = dead.vmalloc(&bytes(520)).unwrap();
            dead.share(area.id, area.generation, Publish::Shared).unwrap();
            let grown = dead.grow_shared(area.id, area.generation, pages * 4096 - 5);
            assert_eq!(grown.is_ok(), grows, "{pages}: {grown:?}");
            dead.grow_shared(area.id, area.generation, pages * 4096).is_ok()
        });
        assert!(writes > 20, "{pages}: {writes}");
    }
}

/// Goal: a recovery that is cut short is done again by the next, for both dead.
#[test]
fn recoverer_that_dies_leaves_nothing() {
    let pool = Pool::new();
    let prepared = prepare(&pool);
    let photos = pool.photograph(|pool| {
        let dead = pool.engine(DEAD);
        dead.vmalloc(&bytes(10)).unwrap();
        dead.vmalloc(&bytes(900)).unwrap();
        dead.purge().unwrap();
    });
    let mut moments = 0;
    // Not all, so that the square of them stays small.
    for photo in photos.iter().step_by(13) {
        let pool = Pool::from_photo(photo);
        let second = pool.photograph(|pool| {
            pool.engine(SURVIVOR).recover(owner(DEAD));
        });
        for photo in second.iter().step_by(17) {
            let pool = Pool::from_photo(photo);
            let third = pool.engine(4);
            third.recover(owner(SURVIVOR));
            third.recover(owner(DEAD));
            third.verify().unwrap_or_else(|e| panic!("write {}: {e}", photo.number));
            assert_eq!(third.find(prepared.apart.addr()), Some(prepared.apart));
            wind_up(&pool, &std::format!("write {}", photo.number));
            moments += 1;
        }
    }
    assert!(moments > 50, "{moments}");
}
