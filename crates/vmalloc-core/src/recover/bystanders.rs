//! What a recovery leaves alone, and what it finishes of the words that the dead member left: each put
//! there by hand.

extern crate std;

use super::*;
use crate::proof::machine::{Pool, owner};
use crate::record::Shape;
use crate::{Area, PAGE_SIZE, Publish, Request};
use std::vec::Vec;

const DEAD: usize = 1;
const OTHER: usize = 3;

fn recovered(pool: &Pool) -> Recovered {
    pool.engine(2).recover(owner(DEAD))
}

fn pages(pages: u64) -> Request {
    Request::bytes(pages * PAGE_SIZE as u64)
}

/// Puts an area into another state.
fn put(pool: &Pool, area: &Area, kind: Kind, who: usize) -> State {
    let context = pool.context(2);
    let record = context.record(area.id.0 as usize);
    let state = State { kind, owner: Some(owner(who)), ..record.state().unwrap() };
    assert!(record.step(record.state().unwrap(), state));
    state
}

/// Goal: a recovery takes nothing from the living: neither areas that they make or purge nor granules
/// that they take or give back.
#[test]
fn what_others_are_in_the_midst_of_stays() {
    let pool = Pool::small();
    let (engine, context) = (pool.engine(OTHER), pool.context(2));
    let areas = [3, 3, 3].map(|n| engine.vmalloc(&pages(n)).unwrap());
    let kinds = [Kind::Building, Kind::Purging, Kind::Live];
    let states = [0, 1, 2].map(|i| put(&pool, &areas[i], kinds[i], OTHER));
    let owner = owner(OTHER);
    let tags = [
        (10, Tag::Held(owner)),
        (11, Tag::Drain { owner, granules: 2, class: None }),
        (12, Tag::Body { head: 11, owner }),
        (14, Tag::Body { head: 13, owner }),
    ];
    for (g, tag) in tags {
        context.tables.tag(g).store(tag.encode(), Ordering::SeqCst);
    }
    assert_eq!(recovered(&pool), Recovered::default());
    for (area, state) in areas.iter().zip(states) {
        assert_eq!(context.record(area.id.0 as usize).state(), Some(state));
    }
    tags.into_iter().for_each(|(g, told)| assert_eq!(tag(&context, g), Some(told)));
    assert_eq!(pool.backed(), 9);
}

/// Goal: what a dead member held is free, each counted once, and areas that it made or purged are gone: also the
/// record that it had claimed before its granules.
#[test]
fn what_the_dead_held_is_free_and_counted() {
    let pool = Pool::small();
    let (engine, context) = (pool.engine(DEAD), pool.context(2));
    let areas = [3, 3, 5, 5].map(|n| engine.vmalloc(&pages(n)).unwrap());
    put(&pool, &areas[0], Kind::Building, DEAD);
    put(&pool, &areas[1], Kind::Purging, DEAD);
    put(&pool, &areas[2], Kind::Given, DEAD);
    put(&pool, &areas[3], Kind::Live, OTHER);
    let claimed = Record::of(context.tables, 10, 0);
    claimed.claim(owner(DEAD)).unwrap();
    for g in [10, 12, 13] {
        context.tables.tag(g).store(Tag::Held(owner(DEAD)).encode(), Ordering::SeqCst);
    }
    let found = recovered(&pool);
    assert_eq!(found, Recovered { areas: 3, detached: 0, granules: 3 });
    assert!(claimed.is_free() && [10, 12, 13].iter().all(|g| tag(&context, *g) == Some(Tag::Free)));
    let left: Vec<_> = engine.areas().map(|area| (area.id, area.kind)).collect();
    assert_eq!(left, [(areas[2].id, Kind::Parked), (areas[3].id, Kind::Live)]);
    assert_eq!(engine.stats().parked, Pages(5));
    engine.verify().unwrap();
    let mut twice = found;
    twice += Recovered { areas: 10, detached: 20, granules: 30 };
    assert_eq!(twice, Recovered { areas: 13, detached: 20, granules: 33 });
}

/// Goal: of granules that a dead member was giving back those are given back whose area is gone or of
/// which a part is gone already; where it had only begun to look, and somebody lives there, they stay.
#[test]
fn granules_on_their_way_back_are_given_back_or_stay() {
    for (lives, intact) in [(true, true), (false, true), (true, false), (false, false)] {
        let pool = Pool::small();
        let context = pool.context(2);
        // Not at the begin of the window, and behind it granules of another run.
        let areas = [500, 300].map(|n| pool.engine(OTHER).vmalloc(&pages(n)).unwrap());
        let g = areas[1].id.0 as usize / crate::class::SLOTS_MAX;
        assert_eq!(tag(&context, g), Some(Tag::Solo { granules: 3 }));
        let drain = Tag::Drain { owner: owner(DEAD), granules: 3, class: None };
        context.tables.tag(g).store(drain.encode(), Ordering::SeqCst);
        if !lives {
            let record = context.record(areas[1].id.0 as usize);
            let state = record.state().unwrap();
            record.step(state, State::new(Kind::Free, None, state.generation));
        }
        if !intact {
            context.tables.tag(g + 2).store(Tag::Free.encode(), Ordering::SeqCst);
        }
        assert_eq!(recovered(&pool).granules, 1);
        let tags = [0, 1, 2].map(|i| tag(&context, g + i).unwrap());
        if lives && intact {
            let body = Tag::Body { head: g, owner: owner(OTHER) };
            assert_eq!(tags, [Tag::Solo { granules: 3 }, body, body]);
        } else {
            assert_eq!(tags, [Tag::Free; 3], "lives: {lives}, intact: {intact}");
        }
    }
}

/// Goal: the bits of a chunk say what its records say, and a chunk in which nobody lives is given back.
/// Method: bits that are set, and that are not, against the records.
#[test]
fn bits_of_a_chunk_are_mended() {
    let pool = Pool::small();
    let (engine, context) = (pool.engine(OTHER), pool.context(2));
    let [kept, gone] = [3, 3].map(|n| engine.vmalloc(&pages(n)).unwrap());
    let alone = engine.vmalloc(&pages(40)).unwrap();
    for area in [&gone, &alone] {
        let record = context.record(area.id.0 as usize);
        let state = record.state().unwrap();
        record.step(state, State::new(Kind::Free, None, state.generation));
    }
    let [head, other] = [&kept, &alone].map(|area| area.id.0 as usize / crate::class::SLOTS_MAX);
    assert_ne!(head, other);
    let Some(Tag::Chunk(class)) = tag(&context, head) else { panic!("no chunk") };
    let bit = |area: &Area| 1_u64 << (area.id.0 as usize % crate::class::SLOTS_MAX);
    let taken = context.tables.taken(head);
    taken.store(bit(&gone) | 1 << 40, Ordering::SeqCst);
    context.tables.chunks_with_room(class).clear(head);
    recovered(&pool);
    assert_eq!(taken.load(Ordering::SeqCst), bit(&kept) | 1 << 40 & !class_bits(class));
    assert_eq!(context.tables.chunks_with_room(class).next(0), Some(head));
    assert_eq!(tag(&context, other), Some(Tag::Free));
    let found: Vec<_> = engine.areas().map(|area| area.id).collect();
    assert_eq!(found, [kept.id]);
}

/// The bits of the slots that a chunk of this class has.
fn class_bits(class: crate::class::Class) -> u64 {
    u64::MAX >> (64 - class.slots())
}

/// Goal: the pages that are held are those of all areas, and not known while one is between two
/// states.
#[test]
fn held_pages_are_counted_when_nothing_moves() {
    let pool = Pool::small();
    let (engine, context) = (pool.engine(OTHER), pool.context(2));
    assert_eq!(held_pages(&context), Some(Pages(0)));
    let areas = [3, 700, 5, 7].map(|n| engine.vmalloc(&pages(n)).unwrap());
    let _ = engine.vfree(areas[2].addr()).unwrap();
    let token = engine.share(areas[3].id, areas[3].generation, Publish::Shared).unwrap();
    assert_eq!(held_pages(&context), Some(Pages(715)));
    let record = context.record(token.area.0 as usize);
    record.begin_growing(owner(OTHER), token.generation).unwrap();
    assert_eq!(held_pages(&context), None, "it grows");
    record.end_growing(owner(OTHER), token.generation);
    for kind in [Kind::Building, Kind::Purging] {
        put(&pool, &areas[0], kind, OTHER);
        assert_eq!(held_pages(&context), None);
    }
    put(&pool, &areas[0], Kind::Live, OTHER);
    // A length that its slot does not have is not counted.
    let record = context.record(areas[0].id.0 as usize);
    record.set_shape(&Shape { pages: Pages(1 << 30), ..record.shape() });
    assert_eq!(held_pages(&context), Some(Pages(716)));
}
