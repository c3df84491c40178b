//! What a request becomes, and why it is refused.

use super::*;

const START: Vpn = Vpn(0x1_0000);
/// 16 granules for small areas, 16 for huge pages.
const SPLIT: Geometry = Geometry { granules: 32, small_granules: 16, members: 1, in_place: false };
const LIMITS: Limits =
    Limits { capacity: Pages(3000), align_max: Pages(1024), user_align: Pages(4), start: START };

fn pages(pages: u64) -> Request {
    Request::bytes(pages * PAGE_SIZE as u64)
}

/// Goal: huge pages are for areas of one and more, and lie in their part of the window at multiples of
/// one, if it has such a part. Method: an area just below, of, and just above a huge page.
#[test]
fn huge_pages_are_for_what_is_as_large_as_one() {
    let whole = Geometry { small_granules: 32, ..SPLIT };
    for (asked, is_huge, span) in [(511, false, 512), (512, true, 1024), (1023, true, 1024)] {
        let plan = pages(asked).huge().plan(&SPLIT, &LIMITS).unwrap();
        assert_eq!(plan.flags & flags::HUGE != 0, is_huge, "{asked} pages");
        let align = Pages(if is_huge { 512 } else { 1 });
        let place = (plan.want.zone == HUGE_ZONE, plan.want.span, plan.want.align);
        assert_eq!(place, (is_huge, Pages(span), align), "{asked} pages");
        let plan = pages(asked).huge().plan(&whole, &LIMITS).unwrap();
        let place = (plan.want.zone, plan.want.span, plan.want.align);
        assert_eq!(place, (0, Pages(asked + 1), Pages(1)), "{asked} pages, no part for them");
    }
}

/// Goal: a range is where an area lies, guard and all, huge pages or not; it does not make the area a huge one.
/// Method: the last pages of the window, one page less, and ranges that are not inside.
#[test]
fn an_area_lies_in_the_range_that_was_asked_for() {
    let range = |start, len| PageRange { start: Vpn(START.0 + start), len: Pages(len) };
    let end = SPLIT.pages().0;
    let plan = pages(600).within(range(end - 601, 601)).plan(&SPLIT, &LIMITS).unwrap();
    let offsets = PageRange { start: Vpn(end - 601), len: Pages(601) };
    let place = (plan.want.zone, plan.want.span, plan.want.align, plan.want.within);
    assert_eq!(place, (PLACED_ZONE, Pages(601), Pages(1), offsets));
    let plan = pages(600).huge().within(range(end - 1024, 1024)).plan(&SPLIT, &LIMITS).unwrap();
    let place = (plan.want.zone, plan.want.span, plan.want.align);
    assert_eq!(place, (PLACED_ZONE, Pages(1024), Pages(512)));
    let below = PageRange { start: Vpn(START.0 - 1), len: Pages(601) };
    for wrong in [range(0, 600), range(end - 600, 601), range(0, u64::MAX), below] {
        let refused = pages(600).within(wrong).plan(&SPLIT, &LIMITS);
        let window = PageRange { start: START, len: SPLIT.pages() };
        let why = AllocError::BadRange { range: wrong, wanted: Pages(601), window };
        assert_eq!(refused, Err(why));
    }
}

/// Goal: a request at its limits is served, and one beyond is refused for what is wrong with it and
/// nothing else. Method: each limit, and one more, beside another reason that comes later.
#[test]
fn a_refusal_says_what_is_wrong() {
    let align = |n: u64| n * PAGE_SIZE as u64;
    let plan = |request: Request| request.plan(&SPLIT, &LIMITS);
    let most = pages(LIMITS.capacity.0).align_bytes(align(LIMITS.align_max.0));
    assert_eq!(plan(most).map(|plan| plan.pages), Ok(LIMITS.capacity));
    let refused = plan(most.align_bytes(align(2048)));
    let (align_bytes, align_max_bytes) = (align(2048), align(1024));
    assert_eq!(refused, Err(AllocError::BadAlign { align_bytes, align_max_bytes }));
    assert_eq!(plan(most.no_wait().no_fail()), Err(AllocError::MustWait));
    let odd = AllocError::BadAlign { align_bytes: 4097, align_max_bytes };
    assert_eq!(plan(most.align_bytes(4097)), Err(odd));
    let bytes = LIMITS.capacity.bytes() + 1;
    let too_big = Err(AllocError::TooBig { bytes, limit: LIMITS.capacity });
    assert_eq!(plan(Request::bytes(bytes).align_bytes(3)), too_big);
    assert_eq!(plan(Request::bytes(0).align_bytes(3)), Err(AllocError::ZeroSize));
    // With frames enough the window is the limit, less the guard.
    let limits = Limits { capacity: Pages(1 << 20), ..LIMITS };
    let limit = Pages(SPLIT.pages().0 - 1);
    assert!(pages(limit.0).plan(&SPLIT, &limits).is_ok());
    let whole = pages(limit.0 + 1);
    let too_big = AllocError::TooBig { bytes: whole.len_bytes(), limit };
    assert_eq!(whole.plan(&SPLIT, &limits), Err(too_big));
    assert!(whole.no_guard().plan(&SPLIT, &limits).is_ok());
    // What a user may see lies where caches want it, or at a coarser multiple.
    for (asked, got) in [(1, 4), (4, 4), (16, 16)] {
        let plan = plan(pages(1).user().align_bytes(align(asked))).unwrap();
        assert_eq!(plan.want.align, Pages(got));
    }
}
