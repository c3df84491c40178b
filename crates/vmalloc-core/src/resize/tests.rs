//! What a resize leaves in the record and takes from the window.

extern crate std;

use crate::proof::machine::{Pool, START};
use crate::slots::slot_pages;
use crate::{Area, Geometry, PAGE_SIZE, Pages, Request, ResizeError};

const GEOMETRY: Geometry =
    Geometry { granules: 32, small_granules: 16, members: 2, in_place: true };
const PAGE: u64 = PAGE_SIZE as u64;

fn pool() -> Pool {
    Pool::empty(GEOMETRY)
}

/// The number of the reservation, the pages of the slot, and the backing.
fn record(pool: &Pool, area: &Area) -> (u64, u64, u64) {
    let context = pool.context(1);
    let slot = slot_pages(context.tables, area.id.0 as usize).unwrap();
    let shape = context.record(area.id.0 as usize).shape();
    (shape.birth, slot.len.0, shape.backing)
}

/// Goal: whoever remembers the pages of an area by the number of its reservation sees that they are others
/// now, and only then. Method: longer, shorter, and other bytes of the same pages.
#[test]
fn a_reservation_has_a_new_number_when_its_pages_change() {
    let pool = pool();
    let engine = pool.engine(1);
    let beside = engine.vmalloc(&Request::bytes(PAGE)).unwrap();
    let area = engine.vmalloc(&Request::bytes(200 * PAGE)).unwrap();
    let mut last = record(&pool, &area);
    assert_ne!(last.0, record(&pool, &beside).0);
    for (pages, bytes) in
        [(220, 220 * PAGE), (220, 219 * PAGE + 1), (90, 90 * PAGE), (90, 90 * PAGE - 7)]
    {
        let resized = engine.resize(area.id, area.generation, bytes, false).unwrap();
        assert_eq!((resized.pages.len, resized.bytes), (Pages(pages), bytes));
        let now = record(&pool, &area);
        let is_as_before = now.2 == last.2;
        assert_eq!(now.0 == last.0, is_as_before, "{pages} pages, {bytes} bytes");
        assert_eq!(now.2, pages, "the machine's word for them");
        last = now;
    }
    assert_eq!(last.0, 4, "two areas, two changes");
    assert_eq!(pool.backed(), 91);
}

/// Goal: an area that has granules to itself takes more of them as it grows: one in huge pages whole huge
/// pages, so that the next begins at one; others no more than they need. Method: grow both by a few pages.
#[test]
fn a_long_area_takes_the_granules_behind_it() {
    let pool = pool();
    let engine = pool.engine(1);
    let request = Request::bytes(512 * PAGE).no_guard();
    for (request, granules, at) in [(request, 5, 0), (request.huge(), 8, 16)] {
        let area = engine.vmalloc(&request).unwrap();
        assert_eq!(area.pages.start.0, START.0 + at * 128);
        assert_eq!(record(&pool, &area).1, 512);
        let grown = engine.resize(area.id, area.generation, 600 * PAGE, false).unwrap();
        assert_eq!((grown.id, grown.pages.len), (area.id, Pages(600)));
        assert_eq!(record(&pool, &area).1, granules * 128);
    }
    engine.verify().unwrap();
}

/// Goal: a record that says another length than its owner knows is not believed, and one that says the
/// same is.
#[test]
fn a_length_that_the_owner_does_not_know_is_refused() {
    let pool = pool();
    let engine = pool.engine(1);
    let area = engine.vmalloc(&Request::bytes(3 * PAGE)).unwrap();
    let resize =
        |known| engine.resize_known(area.id, area.generation, Some(known), 2 * PAGE, false);
    let (known, recorded) = (Pages(4), Pages(3));
    assert_eq!(resize(known), Err(ResizeError::Forged { known, recorded }));
    assert_eq!(engine.find(area.addr()), Some(area), "as before");
    assert_eq!(resize(recorded).map(|area| area.pages.len), Ok(Pages(2)));
}
