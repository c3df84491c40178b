//! Addresses at which nothing may be freed, and tags that no engine writes.

extern crate std;

use crate::class::GRANULE_PAGES;
use crate::proof::machine::{Pool, START};
use crate::sync::Ordering;
use crate::tag::{Owner, Tag};
use crate::{Area, FreeError, PAGE_SIZE, Publish, Request, VirtAddr};

const PAGE: u64 = PAGE_SIZE as u64;

/// Goal: a free says what is wrong with its address: an area that was freed, of which only the first byte
/// counts; a page inside of one in use; nothing at all. Method: base, second page and guard of an
/// area in each state, and a slot beside them that was never used.
#[test]
fn a_free_says_what_is_at_its_address() {
    let pool = Pool::small();
    let (engine, other) = (pool.engine(1), pool.engine(2));
    let area = |i: u64| engine.vmalloc(&Request::bytes((2 + i / 9) * PAGE)).unwrap();
    let [live, parked, dying, given] = [0, 1, 2, 3].map(area);
    let _ = engine.vfree(parked.addr()).unwrap();
    let token = engine.share(dying.id, dying.generation, Publish::Shared).unwrap();
    other.attach(&token, crate::Prot::READ_WRITE).unwrap();
    let _ = engine.detach(dying.id, dying.generation);
    let _ = engine.vfree(dying.addr()).unwrap();
    engine.give(given.id, given.generation, None).unwrap();
    let free = |addr| engine.vfree(addr).map(drop);
    let page = |area: &Area, i: u64| VirtAddr(area.addr().0 + i * PAGE);
    for area in [&parked, &dying, &given] {
        let base = area.addr();
        assert_eq!(free(base), Err(FreeError::Twice { addr: base }));
        for addr in [page(area, 1), page(area, 2), VirtAddr(base.0 + 1)] {
            assert_eq!(free(addr), Err(FreeError::NoArea { addr }));
        }
    }
    let (inside, guard, never) = (page(&live, 1), page(&live, 2), page(&given, 3));
    let interior = FreeError::Interior { addr: inside, base: live.addr() };
    assert_eq!(free(inside), Err(interior));
    assert_eq!(free(guard), Err(FreeError::NoArea { addr: guard }));
    assert_eq!(free(never), Err(FreeError::NoArea { addr: never }));
    assert_eq!(free(live.addr()), Ok(()));
}

/// Goal: whatever the tags say, a look finds no area outside of its slot and panics nowhere. Method: the tag of
/// each granule behind an area is part of something that begins behind it, at itself or nowhere.
#[test]
fn a_tag_that_names_no_head_leads_nowhere() {
    let pool = Pool::small();
    let engine = pool.engine(1);
    let area = engine.vmalloc(&Request::bytes(PAGE)).unwrap();
    let tables = pool.context(1).tables;
    for granule in 1..pool.geometry.granules {
        let addr = VirtAddr((START.0 + granule as u64 * GRANULE_PAGES) * PAGE);
        for head in [0, granule, granule + 1, pool.geometry.granules, u32::MAX as usize] {
            let tag = Tag::Body { head, owner: Owner::FIRST };
            tables.tag(granule).store(tag.encode(), Ordering::SeqCst);
            assert_eq!(engine.find(addr), None, "granule {granule} of {head}");
        }
        tables.tag(granule).store(Tag::Free.encode(), Ordering::SeqCst);
    }
    assert_eq!(engine.find(area.addr()), Some(area));
}
