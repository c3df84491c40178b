//! Which slot of a chunk who gets.

extern crate std;

use super::OTHERS_MAX;
use crate::class::{Class, SLOTS_MAX};
use crate::layout::Tables;
use crate::proof::machine::{Pool, START};
use crate::sync::{AtomicU64, Ordering};
use crate::tag::Tag;
use crate::{Geometry, Kind, PageRange, Pages, Request};
use std::vec::Vec;

const GRANULES: usize = 40;

fn new_pool() -> Pool {
    pool_of(GRANULES)
}

fn pool_of(granules: usize) -> Pool {
    let geometry = Geometry { granules, small_granules: granules, members: 1, in_place: true };
    let words = (0..geometry.words()).map(|_| AtomicU64::new(0)).collect();
    Pool::new(geometry, words)
}

/// The areas that a request for so many pages gets in each of these lanes in turn: chunk and slot.
fn take(pool: &mut Pool, request: &Request, lanes: &[usize]) -> Vec<(usize, usize)> {
    let mut take = |&lane: &usize| {
        pool.lane = lane;
        let id = pool.engine(1).vmalloc(request).unwrap().id.0 as usize;
        (id / SLOTS_MAX, id % SLOTS_MAX)
    };
    lanes.iter().map(&mut take).collect()
}

/// The same in a window that is one chunk of their class: the slots.
fn slots_in_one(pages: u64, align: u64, lanes: &[usize]) -> Vec<usize> {
    let mut pool = pool_of(Class::for_span(Pages(pages + 1)).chunk_granules());
    let request = Request::bytes(pages * 4096).align_bytes(align * 4096);
    take(&mut pool, &request, lanes).into_iter().map(|(_, slot)| slot).collect()
}

/// Goal: two lanes that take areas of a class in turns share no chunk, and each fills its own from
/// the first slot on. Method: areas of 1, 10 and 100 pages, whose chunks have 64, 11 and 7 slots.
#[test]
fn lanes_take_slots_of_chunks_of_their_own() {
    for pages in [1, 10, 100] {
        let request = Request::bytes(pages * 4096);
        let taken = take(&mut new_pool(), &request, &[0, 1, 0, 1]);
        let (first, second) = (taken[0].0, taken[1].0);
        assert_ne!(first, second, "{pages} pages");
        assert_eq!(taken, [(first, 0), (second, 0), (first, 1), (second, 1)], "{pages} pages");
    }
}

/// Goal: two lanes that must share a chunk get slots far apart; who made it goes on upward from the
/// first, the other from its own, and round. Method: a window of one chunk.
#[test]
fn lanes_of_one_chunk_take_slots_far_apart() {
    for pages in [1, 10, 100] {
        let slots = Class::for_span(Pages(pages + 1)).slots();
        let half = slots / 2;
        assert_eq!(slots_in_one(pages, 1, &[0, 1, 0, 1]), [0, half, 1, half + 1], "{pages} pages");
        let mut lanes = std::vec![1; slots];
        lanes[0] = 0;
        let all = slots_in_one(pages, 1, &lanes);
        let round: Vec<usize> = (0..1).chain(half..slots).chain(1..half).collect();
        assert_eq!(all, round, "{pages} pages");
    }
}

/// Goal: a lane takes no slot that is not aligned as asked for, wherever it begins.
/// Method: 4 pages in slots of 5, aligned to 4: every fourth slot.
#[test]
fn lane_begins_at_a_slot_that_is_aligned() {
    assert_eq!(slots_in_one(4, 4, &[0, 1, 2, 3, 0, 1]), [0, 12, 8, 20, 4, 16]);
}

/// Goal: where other lanes have many chunks with room, a lane makes none of its own.
/// Method: lane 0 leaves a hole in one chunk more than are passed by.
#[test]
fn lane_makes_no_chunk_where_many_have_room() {
    let mut pool = new_pool();
    let request = Request::bytes(4096).no_reuse();
    let chunks = OTHERS_MAX + 1;
    let taken = take(&mut pool, &request, &std::vec![0; chunks * SLOTS_MAX]);
    let engine = pool.engine(1);
    for area in engine.areas().filter(|area| area.id.0 as usize % SLOTS_MAX == 7) {
        let _ = engine.free(area.id, area.generation).unwrap();
    }
    let granules = engine.verify().unwrap().free_granules;
    let got = take(&mut pool, &request, &[1]);
    assert_eq!(got, [(taken[OTHERS_MAX * SLOTS_MAX].0, 7)]);
    assert_eq!(pool.engine(1).verify().unwrap().free_granules, granules);
}

/// Goal: two lanes that each take and free one area again and again keep a chunk each.
/// Method: areas that are purged at once, so that both chunks are empty in between.
#[test]
fn lanes_keep_a_chunk_each_while_areas_come_and_go() {
    let mut pool = new_pool();
    let request = Request::bytes(4096).no_reuse();
    let mut come_and_go = |lane| {
        let taken = take(&mut pool, &request, &[lane]);
        let engine = pool.engine(1);
        let area = engine.areas().find(|area| area.kind == Kind::Live).unwrap();
        let _ = engine.free(area.id, area.generation).unwrap();
        let tables = Tables::new(&pool.words, pool.geometry).unwrap();
        assert!(Tag::chunk(tables.tag(taken[0].0).load(Ordering::SeqCst)).is_some());
        taken
    };
    let first = [come_and_go(0), come_and_go(1)];
    assert_ne!(first[0], first[1]);
    for _ in 0..3 {
        assert_eq!([come_and_go(0), come_and_go(1)], first);
    }
}

/// Goal: a chunk in which nobody lives any more is kept for the next of its class, and goes when its
/// pages are wanted: by an area of another size, one at an address, one that grows, or by a purge.
#[test]
fn last_chunk_of_a_class_is_kept_until_its_pages_are_wanted() {
    let pool = new_pool();
    let engine = pool.engine(1);
    let is_kept = || {
        let tables = Tables::new(&pool.words, pool.geometry).unwrap();
        Tag::chunk(tables.tag(0).load(Ordering::SeqCst)).is_some()
    };
    let come_and_go = || {
        let area = engine.vmalloc(&Request::bytes(4096).no_reuse()).unwrap();
        assert_eq!(area.id.0 as usize / SLOTS_MAX, 0);
        let _ = engine.free(area.id, area.generation).unwrap();
        assert!(is_kept());
        assert_eq!(engine.verify().unwrap().free_granules, GRANULES);
        assert_eq!(engine.stats().holes, pool.geometry.pages());
    };
    let all = Pages(pool.geometry.pages().0 - 1);
    let request = Request::bytes(all.bytes()).no_reuse();
    let window = PageRange { start: START, len: pool.geometry.pages() };
    for request in [request, request.within(window)] {
        come_and_go();
        let area = engine.vmalloc(&request).unwrap();
        assert!(!is_kept());
        let _ = engine.free(area.id, area.generation).unwrap();
    }
    come_and_go();
    engine.purge().unwrap();
    assert!(!is_kept());

    // One that grows over a chunk behind it.
    let solo = engine.vmalloc(&Request::bytes(500 * 4096)).unwrap();
    let behind = engine.vmalloc(&Request::bytes(4096).no_reuse()).unwrap();
    assert_eq!((solo.id.0 as usize / SLOTS_MAX, behind.id.0 as usize / SLOTS_MAX), (0, 4));
    let _ = engine.free(behind.id, behind.generation).unwrap();
    let grown = engine.resize(solo.id, solo.generation, 600 * 4096, false).unwrap();
    assert_eq!(grown.pages.len, Pages(600));
}

/// Goal: a tag names no slot that its chunk does not have, and none beyond the window, whatever it says.
/// Method: the last place of the window at which each class fits, and the next.
#[test]
fn a_tag_names_no_slot_beyond_its_chunk_or_the_window() {
    let id = |head: usize, slot: usize| head * SLOTS_MAX + slot;
    for class in (0..crate::class::SLOT_CLASSES).filter_map(Class::from_index) {
        let (tag, last) = (Tag::Chunk(class), GRANULES - class.chunk_granules());
        let slots = class.slots();
        let pages = super::slot_of(tag, GRANULES, id(last, slots - 1)).unwrap();
        assert!(pages.end().0 <= GRANULES as u64 * 128 && pages.len == class.stride());
        if slots < SLOTS_MAX {
            assert_eq!(super::slot_of(tag, GRANULES, id(last, slots)), None);
        }
        assert_eq!(super::slot_in_chunk(class, GRANULES, last, slots), None);
        assert_eq!(super::slot_of(tag, GRANULES, id(last + 1, 0)), None);
    }
    let solo =
        |head, granules, slot| super::slot_of(Tag::Solo { granules }, GRANULES, id(head, slot));
    let pages = PageRange { start: crate::Vpn(36 * 128), len: Pages(4 * 128) };
    assert_eq!(solo(36, 4, 0), Some(pages));
    assert_eq!([solo(36, 5, 0), solo(36, 4, 1), solo(37, 4, 0)], [None; 3]);
    assert_eq!(super::slot_of(Tag::Free, GRANULES, 0), None);
}

/// Goal: who finds no room is told of the longest hole there is where it looked: in its part of the window, or
/// in its range. Method: holes of 3 and of 5 granules, and a request for 6.
#[test]
fn a_refusal_tells_of_the_largest_hole() {
    let pool = new_pool();
    let engine = pool.engine(1);
    let request = |granules: u64| Request::bytes(granules << 19).no_guard();
    let range = |at: u64, granules: u64| PageRange {
        start: crate::Vpn(START.0 + at * 128),
        len: Pages(granules * 128),
    };
    for (at, granules) in [(0, 10), (13, 10), (28, 12)] {
        engine.vmalloc(&request(granules).within(range(at, granules))).unwrap();
    }
    let refused = |request: &Request| match engine.vmalloc(request) {
        Err(crate::AllocError::NoHole { wanted, largest }) => (wanted.0 / 128, largest.0 / 128),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&request(6)), (6, 5));
    assert_eq!(refused(&request(4).within(range(0, 20))), (4, 3));
    assert!(engine.vmalloc(&request(3).within(range(0, 20))).is_ok());
    assert!(engine.vmalloc(&request(5)).is_ok());
    assert_eq!(refused(&request(1)), (1, 0));
}
