//! Purges whose flush fails, of one area, of all, or of one whose builder died.

extern crate std;

use super::*;
use crate::proof::machine::{Pool, owner};
use crate::units::Vpn;
use crate::{Area, FlushError, Request, flags};
use std::vec::Vec;

/// Parks areas of so many pages each; no flush of those in `stuck` succeeds.
fn parked(pages: &[u64], stuck: &[usize]) -> (Pool, Vec<Area>) {
    let mut pool = Pool::small();
    let engine = pool.engine(1);
    let areas: Vec<Area> =
        pages.iter().map(|n| engine.vmalloc(&Request::bytes(n * 4096)).unwrap()).collect();
    for area in &areas {
        let _ = engine.vfree(area.addr()).unwrap();
    }
    pool.stuck = stuck.iter().map(|i| areas[*i].pages.start).collect();
    (pool, areas)
}

/// Goal: an area that cannot be flushed keeps no other from going, and is there when it can be; a
/// purge that gets nowhere says so, and one that got somewhere does not.
#[test]
fn an_area_that_cannot_be_flushed_keeps_no_other() {
    let (mut pool, areas) = parked(&[3, 2, 1, 4], &[0, 3]);
    let purged = pool.engine(1).purge_step();
    assert_eq!(purged, Ok(Purged { areas: 2, pages: Pages(3), flushes: 2 }));
    let engine = pool.engine(1);
    let left: Vec<_> = engine.areas().map(|area| (area.id, area.kind)).collect();
    assert_eq!(left, [&areas[0], &areas[3]].map(|area| (area.id, Kind::Parked)));
    assert_eq!(engine.stats().parked, Pages(7));
    assert_eq!(engine.purge(), Err(PurgeError::Flush(FlushError { errno: 16 })));
    assert_eq!(engine.verify().map(|seen| seen.parked), Ok(2));
    pool.stuck.clear();
    let both = Purged { areas: 2, pages: Pages(7), flushes: 1 };
    assert_eq!(pool.engine(1).purge(), Ok(both));
    assert_eq!(pool.backed(), 0);
}

/// Goal: a purge that fails leaves what a record says of its area as it was, but that it is not to be
/// revived. Method: areas of 1 to 12 pages, with their guards: some fill their slots.
#[test]
fn a_purge_that_fails_changes_no_shape() {
    let pages: Vec<u64> = (1..=12).collect();
    let all: Vec<usize> = (0..pages.len()).collect();
    let (pool, areas) = parked(&pages, &all);
    let context = pool.context(2);
    let shapes = || areas.iter().map(|area| context.record(area.id.0 as usize).shape());
    let before: Vec<Shape> = shapes().collect();
    assert!(pool.engine(2).purge().is_err());
    for (before, after) in before.into_iter().zip(shapes()) {
        assert_eq!(after, Shape { flags: before.flags | flags::NO_REUSE, ..before });
    }
}

/// Goal: where a builder died and its slot cannot be flushed, all of the slot is parked, whatever the half-written
/// record says, and goes with the next purge. Method: a length that the slot does not have, one
/// that leaves no room for the guard, and one page of several.
#[test]
fn a_half_written_record_parks_all_of_its_slot() {
    for (pages, guard) in [(1, 1), (4, 1), (500, 0), (u64::MAX >> 12, 1)] {
        let (mut pool, areas) = parked(&[], &[]);
        assert!(areas.is_empty());
        let area = pool.engine(1).vmalloc(&Request::bytes(3 * 4096)).unwrap();
        let context = pool.context(1);
        let slot = slot_pages(context.tables, area.id.0 as usize).unwrap();
        assert_eq!(slot.len, Pages(4));
        let record = context.record(area.id.0 as usize);
        let live = record.state().unwrap();
        assert!(record.step(live, State { kind: Kind::Building, ..live }));
        let torn =
            Shape { pages: Pages(pages), guard: Pages(guard), backing: 77, ..record.shape() };
        record.set_shape(&torn);
        pool.stuck = [Vpn(area.pages.start.0 + 2)].into();
        let survivor = pool.engine(2);
        survivor.recover(owner(1));
        let shape = pool.context(2).record(area.id.0 as usize).shape();
        let told = (shape.pages, shape.guard, shape.backing, shape.flags & flags::NO_REUSE != 0);
        assert_eq!(told, (Pages(4), Pages(0), 4, true), "of {pages} and {guard}");
        assert_eq!(survivor.stats().parked, Pages(4));
        survivor.verify().unwrap();
        pool.stuck.clear();
        let slot = Purged { areas: 1, pages: Pages(4), flushes: 1 };
        assert_eq!(pool.engine(2).purge(), Ok(slot));
        assert_eq!(pool.backed(), 0);
    }
}
