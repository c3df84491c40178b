//! Which slot of a chunk who gets.

extern crate std;

use crate::class::{Class, SLOTS_MAX};
use crate::layout::Tables;
use crate::proof::machine::{Pool, START};
use crate::sync::{AtomicU64, Ordering};
use crate::tag::Tag;
use crate::{Geometry, PageRange, Pages, Request};
use std::vec::Vec;

const GRANULES: usize = 40;

fn new_pool() -> Pool {
    let granules = GRANULES;
    let geometry = Geometry { granules, small_granules: granules, members: 1, in_place: true };
    let words = (0..geometry.words()).map(|_| AtomicU64::new(0)).collect();
    Pool::new(geometry, words)
}

/// The slots that allocations of so many pages get, one a lane, and the alignment they ask for.
fn slots_of(pages: u64, align: u64, lanes: &[usize]) -> Vec<usize> {
    let mut pool = new_pool();
    let request = Request::bytes(pages * 4096).align_bytes(align * 4096);
    let mut take = |&lane: &usize| {
        pool.lane = lane;
        let area = pool.engine(1).vmalloc(&request).unwrap();
        assert_eq!(area.id.0 as usize / SLOTS_MAX, 0, "one chunk has room for all");
        area.id.0 as usize % SLOTS_MAX
    };
    lanes.iter().map(&mut take).collect()
}

/// Goal: two lanes that begin in the same chunk get slots far apart; each goes on upward from its
/// first, and round. Method: areas of 1, 10 and 100 pages, whose chunks have 64, 11 and 7 slots.
#[test]
fn lanes_take_slots_far_apart() {
    for pages in [1, 10, 100] {
        let slots = Class::for_span(Pages(pages + 1)).slots();
        let half = slots / 2;
        assert_eq!(slots_of(pages, 1, &[0, 1, 0, 1]), [0, half, 1, half + 1], "{pages} pages");
        let all = slots_of(pages, 1, &std::vec![1; slots]);
        let round: Vec<usize> = (half..slots).chain(0..half).collect();
        assert_eq!(all, round, "{pages} pages");
    }
}

/// Goal: a lane takes no slot that is not aligned as asked for, wherever it begins.
/// Method: 4 pages in slots of 5, aligned to 4: every fourth slot.
#[test]
fn lane_begins_at_a_slot_that_is_aligned() {
    let slots = slots_of(4, 4, &[0, 1, 2, 3, 0, 1]);
    assert_eq!(slots, [0, 12, 8, 20, 4, 16]);
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
