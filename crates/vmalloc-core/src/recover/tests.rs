//! A member dies before any one of its writes. The verb runs once in peace, and before each write
//! to a word ([`crate::sync::stepped`]) a photo is taken of all of them; from each photo a
//! survivor recovers. `vmalloc-sim/tests/recover.rs` does the same between the calls of a machine.

extern crate std;

use crate::index::Index;
use crate::layout::ZONES;
use crate::proof::machine::{InPlace, Pool, owner};
use crate::sync::{AtomicU64, Ordering, stepped};
use crate::{
    Area, Engine, Geometry, Kind, Pages, Prot, Publish, Recovered, Request, Tables, Token,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Mutex;
use std::vec::Vec;

const GEOMETRY: Geometry =
    Geometry { granules: 40, small_granules: 40, members: 4, in_place: true };
const CAPACITY: Pages = Pages(4096);
const DEAD: usize = 1;
const SURVIVOR: usize = 2;
const WITNESS: usize = 3;

struct Photo {
    number: usize,
    words: Vec<u64>,
    backed: BTreeSet<u64>,
}

type PoolEngine<'p> = Engine<'p, InPlace<'p>>;

fn bytes(pages: u64) -> Request {
    Request::bytes(pages * 4096)
}

fn pool_of(words: impl Iterator<Item = u64>) -> Pool {
    Pool { capacity: CAPACITY, ..Pool::new(GEOMETRY, words.map(AtomicU64::new).collect()) }
}

fn new_pool() -> Rc<Pool> {
    Rc::new(pool_of((0..GEOMETRY.words()).map(|_| 0)))
}

impl Photo {
    fn of(pool: &Pool, number: usize) -> Photo {
        let words = pool.words.iter().map(|word| word.load(Ordering::SeqCst)).collect();
        Photo { number, words, backed: pool.backed.lock().unwrap().clone() }
    }

    /// A pool as it was then.
    fn pool(&self) -> Rc<Pool> {
        let backed = Mutex::new(self.backed.clone());
        Rc::new(Pool { backed, ..pool_of(self.words.iter().copied()) })
    }
}

/// A photo before each write of `walk`, and one after the last.
fn photograph(pool: &Rc<Pool>, walk: impl FnOnce(&Pool)) -> Vec<Photo> {
    let photos: Rc<RefCell<Vec<Photo>>> = Rc::default();
    let (subject, album) = (Rc::clone(pool), Rc::clone(&photos));
    let click = move || {
        let mut album = album.borrow_mut();
        let photo = Photo::of(&subject, album.len());
        album.push(photo);
    };
    stepped::with_hook(click, || walk(pool));
    let mut photos = photos.take();
    photos.push(Photo::of(pool, photos.len()));
    photos
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
    let pool = new_pool();
    let prepared = prepare(&pool);
    let photos = photograph(&pool, |pool| drop(verb(&pool.engine(DEAD), &prepared)));
    for photo in &photos {
        recover_from(photo, &prepared);
    }
    photos.len() - 1
}

fn recover_from(photo: &Photo, prepared: &Prepared) {
    let pool = photo.pool();
    let when = std::format!("dead before write {}", photo.number);
    let survivor = pool.engine(SURVIVOR);
    survivor.recover(owner(DEAD));
    survivor.verify().unwrap_or_else(|e| panic!("{when}: {e}"));
    let dead_owns = |area: &Area| area.kind == Kind::Live && area.owner == Some(owner(DEAD));
    assert!(!survivor.areas().any(|area| dead_owns(&area)), "{when}: it still owns an area");
    assert_eq!(survivor.find(prepared.apart.addr()), Some(prepared.apart), "{when}");
    let held: u64 = survivor.areas().map(|area| area.pages.len.0).sum();
    assert_eq!(pool.backed() as u64, held, "{when}: backed");

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
    assert!(pool.backed() == 0, "{when}: pages backed at the end");
    let stats = survivor.stats();
    assert_eq!(stats.holes, stats.window, "{when}: pages that are no hole at the end");
    // The index agrees: it finds the window in one piece.
    let all = Pages(GEOMETRY.pages().0.min(CAPACITY.0) - 1);
    assert!(survivor.vmalloc(&bytes(all.0)).is_ok(), "{when}: no hole of {all}");
}

/// Goal: recovery tells what was the dead member's and what it was attached to, and nothing a second
/// time. Method: it has two areas and is attached to two of three that are shared.
#[test]
fn recovery_tells_what_it_found_and_tells_it_once() {
    let pool = new_pool();
    prepare(&pool);
    let survivor = pool.engine(SURVIVOR);
    let found = survivor.recover(owner(DEAD));
    assert_eq!(found, Recovered { areas: 2, detached: 2, granules: 0 });
    assert_eq!(survivor.recover(owner(DEAD)), Recovered::default());
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
        let pool = new_pool();
        let prepared = prepare(&pool);
        let gift = pool.engine(WITNESS).vmalloc(&bytes(7)).unwrap();
        let token = pool.engine(WITNESS).give(gift.id, gift.generation, to).unwrap();
        let photos = photograph(&pool, |pool| {
            let _ = pool.engine(DEAD).take(&token).unwrap();
        });
        assert!(photos.len() >= 2);
        for (n, photo) in photos.iter().enumerate() {
            recover_from(photo, &prepared);
            let pool = photo.pool();
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
    let pool = new_pool();
    let prepared = prepare(&pool);
    let photos = photograph(&pool, |pool| {
        let dead = pool.engine(DEAD);
        dead.vmalloc(&bytes(10)).unwrap();
        dead.vmalloc(&bytes(900)).unwrap();
        dead.purge().unwrap();
    });
    let mut moments = 0;
    // Not all, so that the square of them stays small.
    for photo in photos.iter().step_by(13) {
        let pool = photo.pool();
        let second = photograph(&pool, |pool| {
            pool.engine(SURVIVOR).recover(owner(DEAD));
        });
        for photo in second.iter().step_by(17) {
            let pool = photo.pool();
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

/// Goal: after a recovery a purge finds all that is parked, though the dead member had just said that
/// a chunk has nothing parked, and was to look again. Method: before a write of its purge another
/// parks in the same chunk; before a later one it dies. A window in which the chunks' tree has two levels.
#[test]
fn regress_what_is_parked_is_found_though_the_tree_was_cut_above_it() {
    let geometry = Geometry { granules: 70, small_granules: 70, ..GEOMETRY };
    for parks in 0.. {
        let mut reached = false;
        for dies in parks + 1.. {
            let pool = Rc::new(Pool::empty(geometry));
            let engine = pool.engine(SURVIVOR);
            // The chunk is not in the word where each search begins.
            let _before = engine.vmalloc(&bytes(64 * 128 - 1)).unwrap();
            let [first, second] = [(); 2].map(|()| engine.vmalloc(&bytes(1)).unwrap());
            let _ = engine.free(first.id, first.generation).unwrap();
            let (parker, writes) = (Rc::clone(&pool), Cell::new(0));
            let has_parked = Rc::new(Cell::new(false));
            let told = Rc::clone(&has_parked);
            let hook = move || {
                let write = writes.replace(writes.get() + 1);
                if write == parks {
                    let engine = parker.engine(SURVIVOR);
                    let _ = engine.free(second.id, second.generation).unwrap();
                    told.set(true);
                } else if write == dies {
                    stepped::die();
                }
            };
            let purge = || pool.engine(DEAD).purge_step().unwrap();
            let lives = stepped::until_death(|| stepped::with_hook(hook, purge)).is_some();
            reached = has_parked.get();
            if lives {
                break;
            }
            let engine = pool.engine(WITNESS);
            let _ = engine.recover(owner(DEAD));
            engine.purge().unwrap();
            assert_eq!(engine.verify().unwrap().parked, 0, "writes {parks} and {dies}");
        }
        if !reached {
            break;
        }
    }
}
