//! What is told of a window: a line an area, and the sums.

extern crate std;

use super::*;
use crate::proof::machine::{Pool, owner};
use crate::record::State;
use crate::{AllocError, Geometry, PAGE_SIZE, Prot, Publish, Request};
use std::string::ToString as _;

/// Eight granules for small areas, eight for huge pages.
const GEOMETRY: Geometry = Geometry { granules: 16, small_granules: 8, members: 3, in_place: true };

fn pool(geometry: Geometry) -> Pool {
    Pool::empty(geometry)
}

fn pages(pages: u64) -> Request {
    Request::bytes(pages * PAGE_SIZE as u64)
}

/// Goal: the line of an area says in which state it is, and whose. Method: one area, put into each state.
#[test]
fn a_line_says_the_state() {
    let pool = pool(GEOMETRY);
    let (engine, context) = (pool.engine(1), pool.context(1));
    let area = engine.vmalloc(&pages(3).caller(0x77)).unwrap();
    let record = context.record(area.id.0 as usize);
    let start = area.addr().0;
    let range = std::format!("{start:#018x}-{:#018x}   16384", start + 4 * 4096);
    let tenant = std::format!("{range} 0x77 pages=3 vmalloc");
    for (kind, words) in [
        (Kind::Live, "owner=1"),
        (Kind::Building, "building owner=1"),
        (Kind::Frozen, "frozen owner=1"),
        (Kind::Shared, "shared owner=1"),
        (Kind::Dying, "dying owner=1"),
        (Kind::Given, "given owner=1"),
    ] {
        let state = record.state().unwrap();
        assert!(record.step(state, State { kind, ..state }));
        let line = engine.areas().next().unwrap().to_string();
        assert_eq!(line, std::format!("{tenant} {words}"));
    }
    let state = record.state().unwrap();
    assert!(record.step(state, State { kind: Kind::Frozen, owner: None, ..state }));
    let line = engine.areas().next().unwrap().to_string();
    assert_eq!(line, std::format!("{tenant} frozen"));
    let state = record.state().unwrap();
    assert!(record.step(state, State { kind: Kind::Parked, ..state }));
    let line = engine.areas().next().unwrap().to_string();
    assert_eq!(line, std::format!("{range} unpurged vm_area"));
}

/// Goal: each sum counts what it says. Method: two attach, one is refused, one dies; holes in both parts of the
/// window.
#[test]
fn the_sums_count_what_they_say() {
    let pool = pool(GEOMETRY);
    let (one, two) = (pool.engine(1), pool.engine(2));
    let empty = one.stats();
    assert_eq!(
        (empty.window, empty.holes, empty.largest_hole),
        (Pages(2048), Pages(2048), Pages(1024))
    );
    let area = one.vmalloc(&pages(300)).unwrap();
    let own = one.vmalloc(&pages(200)).unwrap();
    let token = one.share(area.id, area.generation, Publish::Shared).unwrap();
    for engine in [&two, &pool.engine(3)] {
        engine.attach(&token, Prot::READ_WRITE).unwrap();
    }
    assert!(matches!(one.vmalloc(&pages(700)), Err(AllocError::NoHole { .. })));
    let stats = two.stats();
    assert_eq!((stats.allocs, stats.attaches, stats.failures, stats.recovered), (2, 2, 1, 0));
    assert_eq!((stats.areas, stats.used), (2, Pages(500)));
    // Three granules and two are taken of the first eight.
    let holes = (stats.holes, stats.largest_hole);
    assert_eq!(holes, (Pages(2048 - 5 * 128), Pages(1024)), "the other part");
    assert_eq!(two.recover(owner(1)).areas, 1);
    let stats = two.stats();
    assert_eq!((stats.recovered, stats.parked_areas, stats.parked), (1, 1, Pages(200)));
    assert_eq!((stats.areas, stats.used), (1, Pages(300)));
    assert_eq!(own.pages.len, Pages(200));
}

/// Goal: the largest request that would be served lies in one part of the window, and not over granules that somebody
/// is at work on; what is parked is in nobody's way. Method: it is asked for, and one page more is refused.
#[test]
fn the_largest_request_is_served_and_no_larger() {
    let whole = Geometry { small_granules: 16, ..GEOMETRY };
    for (geometry, held, largest) in [
        (GEOMETRY, None, 1023),
        (whole, None, 2047),
        (whole, Some(9), 9 * 128 - 1),
        (whole, Some(7), 8 * 128 - 1),
    ] {
        let pool = pool(geometry);
        let engine = pool.engine(1);
        let parked = engine.vmalloc(&pages(100)).unwrap();
        let _ = engine.vfree(parked.addr()).unwrap();
        if let Some(g) = held {
            let tag = pool.context(1).tables.tag(g);
            tag.store(crate::tag::Tag::Held(owner(2)).encode(), Ordering::SeqCst);
        }
        assert_eq!(engine.stats().largest_request, Pages(largest));
        assert!(engine.vmalloc(&pages(largest + 1)).is_err());
        let area = engine.vmalloc(&pages(largest)).unwrap();
        assert_eq!(area.pages.len, Pages(largest));
    }
}
