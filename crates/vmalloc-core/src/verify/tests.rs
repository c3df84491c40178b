//! Each invariant broken by hand, one word at a time: it is told which, and where.

extern crate std;

use super::*;
use crate::class::SLOTS_MAX;
use crate::layout::Counter;
use crate::proof::machine::{InPlace, Pool, owner};
use crate::sync::AtomicU64;
use crate::{Area, Geometry, PAGE_SIZE, Publish, Request};

const GEOMETRY: Geometry =
    Geometry { granules: 16, small_granules: 16, members: 2, in_place: true };

fn pool() -> Pool {
    Pool::empty(GEOMETRY)
}

/// Three areas of a chunk, the last parked, one of three granules, and a shared one: 2 + 3 + 300 + 5 pages in
/// use, and 4 parked.
fn areas(pool: &Pool) -> [Area; 5] {
    let engine = pool.engine(1);
    let bytes = |pages: u64| Request::bytes(pages * PAGE_SIZE as u64);
    let areas = [2, 3, 300, 5, 4].map(|n| engine.vmalloc(&bytes(n)).unwrap());
    engine.share(areas[3].id, areas[3].generation, Publish::Frozen).unwrap();
    let _ = engine.vfree(areas[4].addr()).unwrap();
    areas
}

/// What `verify` says while `word` holds `bits`.
fn with(context: &Context<'_, InPlace<'_>>, word: &AtomicU64, bits: u64) -> VerifyError {
    let before = word.swap(bits, Ordering::SeqCst);
    let told = verify(context).unwrap_err();
    word.store(before, Ordering::SeqCst);
    assert!(verify(context).is_ok(), "{told}");
    told
}

/// Goal: a window that keeps its invariants is counted: areas, parked ones, their pages, and granules in which
/// nobody lives, among them those of an empty chunk.
#[test]
fn a_sound_window_is_counted() {
    let pool = pool();
    let context = pool.context(1);
    let none = Verified { areas: 0, parked: 0, pages: Pages(0), free_granules: 16 };
    assert_eq!(verify(&context), Ok(none));
    let areas = areas(&pool);
    let seen = verify(&context).unwrap();
    assert_eq!((seen.areas, seen.parked, seen.pages), (4, 1, Pages(314)));
    let lived_in = 16 - seen.free_granules;
    // One that goes at once takes what nobody else lives in with it.
    let engine = pool.engine(1);
    let long = engine.vmalloc(&Request::bytes(40 * PAGE_SIZE as u64).no_reuse()).unwrap();
    let with_long = verify(&context).unwrap();
    assert_eq!((with_long.areas, with_long.pages), (5, Pages(354)));
    assert!(16 - with_long.free_granules > lived_in);
    let _ = engine.vfree(long.addr()).unwrap();
    assert_eq!(verify(&context), Ok(seen));
    assert_eq!(areas[2].pages.len, Pages(300));
}

/// Goal: a tag that no engine writes, that names a head which does not reach it, that is of no length, or that goes beyond the
/// window is told; and one between two owners.
#[test]
fn a_wrong_tag_is_told() {
    let pool = pool();
    let context = pool.context(1);
    let areas = areas(&pool);
    let g = areas[2].id.0 as usize / SLOTS_MAX;
    let owner = owner(1);
    let tag = |g: usize, tag: Tag| (g, tag.encode());
    let wrong = [
        (g, 0xff),
        (15, 0xff),
        (g + 1, 0xff),
        tag(15, Tag::Body { head: 14, owner }),
        tag(15, Tag::Solo { granules: 0 }),
        tag(15, Tag::Solo { granules: 2 }),
        tag(g + 2, Tag::Body { head: g + 1, owner }),
        tag(g + 1, Tag::Free),
    ];
    for (granule, bits) in wrong {
        let told = with(&context, context.tables.tag(granule), bits);
        assert_eq!(told, VerifyError::Tag { granule, bits }, "{bits:#x}");
    }
    let shorter = with(&context, context.tables.tag(g), Tag::Solo { granules: 2 }.encode());
    let body = Tag::Body { head: g, owner }.encode();
    assert!(matches!(shorter, VerifyError::Overlap { .. } | VerifyError::Tag { .. }), "{shorter}");
    assert_eq!(context.tables.tag(g + 2).load(Ordering::SeqCst), body);
    for stuck in [Tag::Held(owner), Tag::Drain { owner, granules: 1, class: None }] {
        let told = with(&context, context.tables.tag(15), stuck.encode());
        assert_eq!(told, VerifyError::Stuck { granule: 15 });
    }
}

/// Goal: a record between two states, or longer than its slot, is told; a slot or a parked area that no bit
/// shows; and a count of parked pages that is not their sum. Method: for the first and the last area
/// of a chunk, and for one with granules of its own.
#[test]
fn a_wrong_record_is_told() {
    let pool = pool();
    let context = pool.context(1);
    let areas = areas(&pool);
    for area in [&areas[0], &areas[1], &areas[2]] {
        let (id, number) = (area.id, area.id.0 as usize);
        let record = context.record(number);
        let live = record.state().unwrap();
        for kind in [Kind::Building, Kind::Purging] {
            assert!(record.step(live, State { kind, ..live }));
            assert_eq!(verify(&context), Err(VerifyError::Unfinished { id }));
            assert!(record.step(State { kind, ..live }, live));
        }
        let slot = slot_pages(context.tables, number).unwrap();
        let shape = record.shape();
        for (pages, guard) in [(slot.len.0 + 1, 0), (slot.len.0, 1), (1, slot.len.0)] {
            record.set_shape(&Shape { pages: Pages(pages), guard: Pages(guard), ..shape });
            assert_eq!(verify(&context), Err(VerifyError::Overlap { id, slot }));
        }
        record.set_shape(&Shape { pages: slot.len, guard: Pages(0), ..shape });
        assert!(verify(&context).is_ok(), "it fills its slot");
        record.set_shape(&shape);
    }
    let word = |area: &Area| (area.id.0 as usize / SLOTS_MAX, area.id.0 as usize % SLOTS_MAX);
    for area in [&areas[0], &areas[1], &areas[3], &areas[4]] {
        let (head, slot) = word(area);
        let taken = context.tables.taken(head);
        let bits = taken.load(Ordering::SeqCst);
        let told = with(&context, taken, bits & !(1 << slot));
        assert_eq!(told, VerifyError::Hint { id: area.id });
    }
    let (head, slot) = word(&areas[4]);
    let parked = context.tables.parked(head);
    let told = with(&context, parked, parked.load(Ordering::SeqCst) & !(1 << slot));
    assert_eq!(told, VerifyError::Hint { id: areas[4].id });
    let counter = context.tables.counter(Counter::LazyPages);
    let counted = counter.load(Ordering::SeqCst).wrapping_add(1);
    let told = with(&context, counter, counted);
    assert_eq!(told, VerifyError::LazyPages { counted: Pages(5), found: Pages(4) });
}
