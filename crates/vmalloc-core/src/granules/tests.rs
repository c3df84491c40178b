//! The granule layer against the plainest possible model, with its index right, stale, locked by
//! a dead member, and full of rubbish.

extern crate std;

use super::*;
use crate::layout::Geometry;
use crate::sync::AtomicU64;
use std::vec::Vec;

const GRANULES: usize = 300;

fn words(geometry: &Geometry) -> Vec<AtomicU64> {
    (0..geometry.words()).map(|_| AtomicU64::new(0)).collect()
}

fn geometry(members: usize) -> Geometry {
    Geometry { granules: GRANULES, small_granules: GRANULES, members, in_place: true }
}

fn granules<'a>(tables: Tables<'a>, me: usize) -> Granules<'a> {
    Granules { tables, me: Owner::new(me).unwrap(), phase: 0 }
}

/// A small, seeded source of numbers.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

/// Whether the tags, looked at one by one, have such a run.
fn exists(granules: &Granules<'_>, len: usize, align: usize) -> bool {
    (0..=GRANULES.saturating_sub(len))
        .step_by(align)
        .any(|at| (at..at + len).all(|g| granules.is_free(g)))
}

/// Whether the index, without the help of a scan, knows of such a run.
fn index_finds(granules: &Granules<'_>, len: usize, align: usize) -> bool {
    let index = Index::new(granules.tables, 0).lock(granules.me).unwrap();
    index.find(len, align, 0).is_some()
}

/// One random take or give; every answer is checked against the tags.
fn churn(granules: &Granules<'_>, dice: &mut Dice, held: &mut Vec<Range<usize>>) {
    if dice.roll(2) == 0 && !held.is_empty() {
        let run = held.swap_remove(dice.roll(held.len()));
        granules.abandon(run);
        return;
    }
    let (len, align) = (1 + dice.roll(40), 1 << dice.roll(5));
    let could = exists(granules, len, align);
    match granules.take(0, len, align) {
        Ok(at) => {
            assert!(could && at % align == 0, "{len} at {at} aligned to {align}");
            let run = at..at + len;
            assert!(held.iter().all(|h| h.end <= run.start || run.end <= h.start), "{run:?}");
            held.push(run);
        }
        Err(NoRun { largest }) => {
            assert!(!could, "{len} granules aligned to {align} are free, and were not found");
            assert_eq!(largest, granules.largest(0));
        }
    }
}

/// Goal: a run is found whenever there is one, aligned or not, and is nobody else's.
/// Method: random traffic in a window that is often full; each answer against a scan.
#[test]
fn a_run_is_found_whenever_the_tags_have_one() {
    let geometry = geometry(1);
    let words = words(&geometry);
    let granules = granules(Tables::new(&words, geometry).unwrap(), 1);
    let (mut dice, mut held) = (Dice(7), Vec::new());
    for _ in 0..20_000 {
        churn(&granules, &mut dice, &mut held);
        let (len, align) = (1 + dice.roll(40), 1 << dice.roll(5));
        assert_eq!(index_finds(&granules, len, align), exists(&granules, len, align));
    }
    held.drain(..).for_each(|run| granules.abandon(run));
    assert_eq!(granules.largest(0), GRANULES, "free runs join again");
    assert!(index_finds(&granules, GRANULES, 1));
    assert_eq!(granules.take(0, GRANULES, 1), Ok(0));
}

/// Goal: what is taken or given while somebody else has the index is not lost to it.
/// Method: hold the lock as member 2 while member 1 takes and gives by the tags alone.
#[test]
fn the_index_learns_what_happened_behind_its_back() {
    let geometry = geometry(2);
    let words = words(&geometry);
    let tables = Tables::new(&words, geometry).unwrap();
    let (one, two) = (granules(tables, 1), Owner::new(2).unwrap());
    let all = one.take(0, GRANULES, 1).unwrap();
    let lock = Index::new(tables, 0).lock(two).unwrap();
    one.abandon(all..all + GRANULES);
    drop(lock);
    assert!(index_finds(&one, GRANULES, 1));
    let lock = Index::new(tables, 0).lock(two).unwrap();
    assert_eq!(one.take(0, 7, 1), Ok(0));
    drop(lock);
    assert!(index_finds(&one, GRANULES - 7, 1) && !index_finds(&one, GRANULES - 6, 1));
}

/// Goal: a claim is all or nothing. Method: one granule in the middle is another's.
#[test]
fn a_claim_that_fails_halfway_keeps_nothing() {
    let geometry = geometry(1);
    let words = words(&geometry);
    let granules = granules(Tables::new(&words, geometry).unwrap(), 1);
    assert!(granules.claim(5..6));
    assert!(!granules.claim(0..10));
    assert!((0..GRANULES).all(|g| granules.is_free(g) == (g != 5)));
}

/// Goal: rubbish in the index costs time, and no granule.
/// Method: before every tenth step, overwrite random words of the index.
#[test]
fn an_index_full_of_rubbish_hands_nothing_out_twice() {
    let geometry = geometry(1);
    let words = words(&geometry);
    let tables = Tables::new(&words, geometry).unwrap();
    let granules = granules(tables, 1);
    let (mut dice, mut held) = (Dice(11), Vec::new());
    for step in 0..20_000 {
        if step % 10 == 0 {
            let rubbish = (dice.roll(GRANULES * 3) as u64) << (32 * dice.roll(2));
            let g = dice.roll(GRANULES);
            // Every word but the lock, which a member that lives gives back.
            match dice.roll(3) {
                0 => tables.zone(0)[1 + dice.roll(tables.zone(0).len() - 1)]
                    .store(rubbish, Ordering::Relaxed),
                1 => tables.link(g).store(rubbish, Ordering::Relaxed),
                _ => tables.run(g).store(rubbish, Ordering::Relaxed),
            }
        }
        churn(&granules, &mut dice, &mut held);
    }
}

/// Goal: nobody waits for a dead member that holds the index's lock.
/// Method: lock it as member 2, and forget that; member 1 works on; then break the lock.
#[test]
fn a_dead_holder_of_the_index_stops_nobody() {
    let geometry = geometry(2);
    let words = words(&geometry);
    let tables = Tables::new(&words, geometry).unwrap();
    let (one, two) = (granules(tables, 1), Owner::new(2).unwrap());
    core::mem::forget(Index::new(tables, 0).lock(two).unwrap());
    let (mut dice, mut held) = (Dice(3), Vec::new());
    for _ in 0..50 {
        churn(&one, &mut dice, &mut held);
    }
    assert!(Index::new(tables, 0).lock(one.me).is_none());
    Index::new(tables, 0).break_lock(two);
    assert!(Index::new(tables, 0).lock(one.me).is_some());
    for _ in 0..5_000 {
        churn(&one, &mut dice, &mut held);
    }
}

/// Goal: threads never own the same granule.
/// Method: three members churn at once; each granule has a flag that its owner raises.
#[test]
fn threads_never_own_the_same_granule() {
    let geometry = geometry(3);
    let words = words(&geometry);
    let tables = Tables::new(&words, geometry).unwrap();
    let flags: Vec<AtomicU64> = (0..GRANULES).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for me in 1..=3 {
            let flags = &flags;
            scope.spawn(move || {
                let (granules, mut dice) = (granules(tables, me), Dice(me as u64));
                let mut held: Vec<Range<usize>> = Vec::new();
                for _ in 0..5_000 {
                    if dice.roll(2) == 0 && !held.is_empty() {
                        let run = held.swap_remove(dice.roll(held.len()));
                        run.clone().for_each(|g| flags[g].store(0, Ordering::SeqCst));
                        granules.abandon(run);
                        continue;
                    }
                    let (len, align) = (1 + dice.roll(30), 1 << dice.roll(3));
                    if let Ok(at) = granules.take(0, len, align) {
                        for (g, flag) in (at..).zip(&flags[at..at + len]) {
                            let was = flag.swap(me as u64, Ordering::SeqCst);
                            assert_eq!(was, 0, "granule {g} is {was}'s and {me}'s");
                        }
                        held.push(at..at + len);
                    }
                }
            });
        }
    });
    // A member whose claim failed halfway has given back what it had.
    let all = granules(tables, 1);
    let left: usize = (0..GRANULES).filter(|&g| flags[g].load(Ordering::SeqCst) == 0).count();
    assert_eq!((0..GRANULES).filter(|&g| all.is_free(g)).count(), left);
}

/// Goal: a forged tag of a solo run without granules is no panic when it is given back.
/// Method: the first granule, before which there is none to look at.
#[test]
fn regress_a_forged_run_of_no_granules_is_given_back() {
    let geometry = geometry(1);
    let words = words(&geometry);
    let granules = granules(Tables::new(&words, geometry).unwrap(), 1);
    granules.tables.tag(0).store(Tag::Solo { granules: 0 }.encode(), Ordering::SeqCst);
    granules.retire(0);
    assert!(granules.take(0, 3, 1).is_ok());
}

/// Goal: on a grid no run begins anywhere else, whether or not the index can be had, and one whose
/// alignment the grid has not gets none. Method: a grid of 16 granules from the fifth on, with a run
/// taken at its first place; then the index is locked by another.
#[test]
fn run_on_a_grid_begins_at_a_place_of_the_grid() {
    let (shape, grid) = (geometry(2), 5..21);
    let words = words(&shape);
    let tables = Tables::new(&words, shape).unwrap();
    let granules = granules(tables, 1);
    assert_eq!(granules.take_on(grid.clone(), 0, 3, 1), Some(5));
    assert_eq!(granules.take_on(grid.clone(), 0, 20, 1), Some(21));
    assert_eq!(granules.take_on(grid.clone(), 0, 3, 2), None);
    let _locked = Index::new(tables, 0).lock(Owner::new(2).unwrap()).unwrap();
    assert_eq!(granules.take_on(grid.clone(), 0, 3, 1), Some(53));
    assert_eq!(granules.take_on(grid, 0, GRANULES, 1), None);
}

/// Goal: granules in a range are this member's when they are taken, lie in the range, and are refused with the longest
/// run that the range has. Method: ranges whose ends are no granules' ends, around one that is taken.
#[test]
fn granules_in_a_range_are_claimed_there() {
    let geometry = geometry(1);
    let words = words(&geometry);
    let granules = granules(Tables::new(&words, geometry).unwrap(), 1);
    let pages = |start, end| PageRange { start: crate::Vpn(start), len: Pages(end - start) };
    let range = pages(10 * GRANULE_PAGES - 1, 20 * GRANULE_PAGES + 1);
    let take = |span| granules.take_within(range, Pages(span * GRANULE_PAGES), 1);
    assert_eq!(take(3), Ok(10));
    let held = Some(Tag::Held(granules.me));
    let tag = |g| Tag::decode(granules.tables.tag(g).load(Ordering::SeqCst));
    assert_eq!([9, 10, 12, 13].map(tag), [Some(Tag::Free), held, held, Some(Tag::Free)]);
    assert_eq!(take(8), Err(NoRun { largest: 7 }));
    assert_eq!(take(7), Ok(13));
    assert_eq!(take(1), Err(NoRun { largest: 0 }));
    let last = pages(298 * GRANULE_PAGES, 300 * GRANULE_PAGES);
    assert_eq!(granules.take_within(last, Pages(2 * GRANULE_PAGES), 1), Ok(298));
}

/// Goal: granules on a grid begin at a place of it and at a multiple in the window's own count, and lie
/// nowhere else. Method: every grid of 4 granules, in windows that begin at each of four granules.
#[test]
fn granules_on_a_grid_begin_at_a_place_of_it() {
    for (window, start) in (0..4).flat_map(|window| (0..9).map(move |start| (window, start))) {
        let geometry = geometry(1);
        let words = words(&geometry);
        let tables = Tables::new(&words, geometry).unwrap();
        let granules = Granules { phase: window, ..granules(tables, 1) };
        for align in [1, 2, 4] {
            let taken = granules.take_on(start..start + 4, 0, 3, align);
            let fits = (start + window).is_multiple_of(align);
            assert_eq!(taken.is_some(), fits, "window at {window}, grid from {start}, by {align}");
            if let Some(at) = taken {
                assert_eq!((at % 4, (at + window) % align), (start % 4, 0));
                granules.abandon(at..at + 3);
            }
        }
        assert_eq!(granules.take_on(start..start + 3, 0, 1, 2), None, "no place is like another");
    }
}

/// Goal: a run grows up to the end of its part of the window and no further.
#[test]
fn a_run_grows_up_to_the_end() {
    let geometry = geometry(1);
    let words = words(&geometry);
    let granules = granules(Tables::new(&words, geometry).unwrap(), 1);
    assert_eq!(granules.take(0, 290, 1), Ok(0));
    assert_eq!(granules.take(0, 2, 1), Ok(290));
    granules.publish(290..292, Tag::Solo { granules: 2 });
    assert!(!granules.extend(290, 2, 11), "beyond the window");
    assert!(granules.extend(290, 2, 4) && granules.extend(290, 4, 10));
    assert!(!granules.extend(290, 10, 11));
    assert_eq!(granules.largest(0), 0);
}

/// Goal: a chunk is given back if nobody lives in it, once, and told so; a granule goes with its head
/// only, and a head while it is on its way back by this member only.
#[test]
fn a_chunk_is_given_back_once() {
    let geometry = geometry(2);
    let words = words(&geometry);
    let granules = granules(Tables::new(&words, geometry).unwrap(), 1);
    let class = Class::for_span(Pages(3));
    let len = class.chunk_granules();
    assert_eq!(granules.take(0, len, 1), Ok(0));
    granules.publish(0..len, Tag::Chunk(class));
    let record = Record::of(granules.tables, 0, 2);
    let mine = record.claim(granules.me).unwrap();
    granules.tables.taken(0).store(1 << 2, Ordering::SeqCst);
    assert_eq!(
        (granules.idle_at(0), granules.retire_idle(), granules.retire(0)),
        (0, false, false)
    );
    record.step(mine, crate::record::State { kind: crate::record::Kind::Free, ..mine });
    granules.tables.taken(0).store(0, Ordering::SeqCst);
    assert_eq!((granules.idle_at(0), granules.idle_at(1)), (len, 0));
    assert_eq!((granules.retire_idle(), granules.retire_idle()), (true, false));
    assert_eq!(granules.largest(0), GRANULES);

    let other = Owner::new(2).unwrap();
    let body = |head| Tag::Body { head, owner: other };
    let drain = |owner| Tag::Drain { owner, granules: 2, class: None };
    for (g, tag, head, goes) in [
        (6, body(5), 5, true),
        (6, body(5), 4, false),
        (6, body(6), 6, false),
        (5, drain(granules.me), 5, true),
        (5, drain(granules.me), 4, false),
        (5, drain(other), 5, false),
        (5, Tag::Solo { granules: 1 }, 5, false),
    ] {
        granules.tables.tag(g).store(tag.encode(), Ordering::SeqCst);
        granules.free_if_of(g, head);
        assert_eq!(granules.is_free(g), goes, "{tag:?} at {g}, of {head}");
    }
}
