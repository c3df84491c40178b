//! Who revives what: of other lanes, and while a purge fails.

extern crate std;

use crate::class::SLOTS_MAX;
use crate::layout::{Counter, Tables};
use crate::proof::machine::{Pool, owner};
use crate::sync::{Ordering, stepped};
use crate::{Kind, Pages, Request, flags};
use std::cell::Cell;
use std::rc::Rc;

/// Goal: what a failed purge has spoiled is given to nobody, though it is parked in the same state as
/// before: another's, of the same generation. Method: before each write of an allocation that would
/// revive a gift which nobody took, a purge fails; the gift is then what the purge left, or was
/// revived before.
#[test]
fn regress_what_a_failed_purge_spoiled_is_not_revived() {
    let mut spoiled = 0;
    for write in 0.. {
        let pool = Rc::new(Pool { refuses_flushes: true, ..Pool::small() });
        let request = Request::bytes(3 * 4096);
        let gift = pool.engine(1).vmalloc(&request).unwrap();
        pool.engine(1).give(gift.id, gift.generation, Some(owner(2))).unwrap();
        pool.engine(2).decline_gifts();
        let (purger, failed, writes) = (Rc::clone(&pool), Rc::new(Cell::new(None)), Cell::new(0));
        let told = Rc::clone(&failed);
        let hook = move || {
            if writes.replace(writes.get() + 1) == write {
                told.set(Some(purger.engine(2).purge().is_err()));
            }
        };
        let area = stepped::with_hook(hook, || pool.engine(3).vmalloc(&request).unwrap());
        let engine = pool.engine(3);
        engine.verify().unwrap();
        match failed.get() {
            Some(true) => {
                let left = engine.areas().find(|area| area.id == gift.id).unwrap();
                assert_eq!(left.kind, Kind::Parked, "write {write}");
                assert!(left.flags & flags::NO_REUSE != 0 && area.id != gift.id, "write {write}");
                spoiled += 1;
            }
            Some(false) => assert_eq!(area.id, gift.id, "write {write}"),
            None => break,
        }
    }
    assert!(spoiled > 0);
}

/// A pool in which lane 0 left parked areas of one page, side by side.
fn pool_with_leftovers() -> Pool {
    let pool = Pool::small();
    // Marks so low that all see the count.
    let engine = pool.engine(1).with_marks(Pages(0), Pages(1));
    let areas = [(); 3].map(|()| engine.vmalloc(&Request::bytes(4096)).unwrap());
    for area in areas {
        let _ = engine.free(area.id, area.generation).unwrap();
    }
    pool
}

/// Goal: threads that find parked what an earlier one left side by side do not become neighbours: each
/// takes a chunk of its own, and finds that again, though others are parked, too.
/// Method: two lanes allocate and free in turns, twice.
#[test]
fn lanes_leave_each_others_chunks_alone() {
    let mut pool = pool_with_leftovers();
    let mut pairs = |lane| {
        pool.lane = lane;
        let engine = pool.engine(1);
        let area = engine.vmalloc(&Request::bytes(4096)).unwrap();
        let _ = engine.free(area.id, area.generation).unwrap();
        // Others park there meanwhile, so that it is not the lane's last.
        let other = engine.vmalloc(&Request::bytes(2 * 4096)).unwrap();
        let _ = engine.free(other.id, other.generation).unwrap();
        area.id.0 as usize
    };
    let first = [pairs(1), pairs(2)];
    assert_eq!([pairs(1), pairs(2)], first);
    let heads = first.map(|id| id / SLOTS_MAX);
    assert!(heads[0] != heads[1] && !heads.contains(&0), "{heads:?}");
    assert_eq!(pool.engine(1).stats().revives, 4);
}

/// Goal: a lane takes what another has parked once frames are short, or enough is parked.
/// Method: a pool with no frame left; and one in which any number is enough.
#[test]
fn lane_takes_what_others_parked_once_frames_are_short() {
    for is_full in [true, false] {
        let mut pool = pool_with_leftovers();
        (pool.lane, pool.capacity) = (1, if is_full { Pages(3) } else { pool.capacity });
        let low = if is_full { Pages(1 << 20) } else { Pages(3) };
        let engine = pool.engine(1).with_marks(low, Pages(1 << 20));
        let area = engine.vmalloc(&Request::bytes(4096)).unwrap();
        assert!(area.id.0 < 3, "{is_full}: {:?}", area.id);
        assert_eq!(engine.stats().revives, 1);
    }
}

/// Goal: a lane that parks one large area again and again does not write the count that all lanes
/// share; two at once are shown. Method: the count itself; the limit is 50 times the area.
#[test]
fn one_large_area_that_comes_and_goes_is_counted_in_its_lane() {
    let pool = Pool::small();
    let engine = pool.engine(1).with_marks(Pages(0), Pages(50 * 500));
    let request = Request::bytes(500 * 4096);
    let tables = Tables::new(&pool.words, pool.geometry).unwrap();
    let shown = || tables.counter(Counter::LazyPages).load(Ordering::Relaxed);
    for _ in 0..3 {
        let area = engine.vmalloc(&request).unwrap();
        let _ = engine.free(area.id, area.generation).unwrap();
        assert_eq!(shown(), 0);
    }
    assert_eq!(engine.stats().revives, 2);
    let areas = [(); 2].map(|()| engine.vmalloc(&request).unwrap());
    for area in areas {
        let _ = engine.free(area.id, area.generation).unwrap();
    }
    assert_eq!(shown(), 1000);
}

/// Goal: nothing of the last tenant stays in the record of the next but that it has presence cells, be it
/// its own or another's. Method: an area that a user may see, shared, with a caller; then a plain one.
#[test]
fn a_tenant_says_nothing_of_the_last_one() {
    for next in [1, 2] {
        let pool = Pool::small();
        let (engine, next) = (pool.engine(1), pool.engine(next));
        let first = engine.vmalloc(&Request::bytes(9000).user().caller(7)).unwrap();
        assert_eq!(first.flags, flags::USERMAP);
        engine.share(first.id, first.generation, crate::Publish::Shared).unwrap();
        let _ = engine.detach(first.id, first.generation);
        let _ = engine.vfree(first.addr()).unwrap();
        let area = next.vmalloc(&Request::bytes(8193).caller(8)).unwrap();
        assert_eq!((area.id, next.stats().revives), (first.id, 1), "revived");
        assert_eq!((area.flags, area.caller, area.bytes), (flags::CELLS, 8, 8193));
        let _ = next.vfree(area.addr()).unwrap();
        let area = next.vmalloc(&Request::bytes(8194).caller(9)).unwrap();
        assert_eq!((area.flags, area.caller, area.bytes), (flags::CELLS, 9, 8194), "its own");
    }
}
