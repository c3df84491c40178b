//! Who revives while a purge fails.

extern crate std;

use crate::proof::machine::{Pool, owner};
use crate::sync::{AtomicU64, stepped};
use crate::{Geometry, Kind, Request, flags};
use std::cell::Cell;
use std::rc::Rc;

const GEOMETRY: Geometry =
    Geometry { granules: 16, small_granules: 16, members: 3, in_place: true };

/// Goal: what a failed purge has spoiled is given to nobody, though it is parked in the same state as
/// before: another's, of the same generation. Method: before each write of an allocation that would
/// revive a gift which nobody took, a purge fails; the gift is then what the purge left, or was
/// revived before.
#[test]
fn regress_what_a_failed_purge_spoiled_is_not_revived() {
    let mut spoiled = 0;
    for write in 0.. {
        let words = (0..GEOMETRY.words()).map(|_| AtomicU64::new(0)).collect();
        let pool = Rc::new(Pool { refuses_flushes: true, ..Pool::new(GEOMETRY, words) });
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
