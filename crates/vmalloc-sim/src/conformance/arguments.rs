//! What is refused, and where an area may lie.

use super::PAGE;
use super::steps::{
    alloc, expect_apart, expect_filled, expect_free_refused, fill, filled, free, purge, refused,
};
use crate::random::Random;
use crate::subject::{Subject, Want};
use alloc::vec::Vec;
use vmalloc_core::{AllocError, FreeError, Pages, VirtAddr};

/// Goal: size 0 has an error of its own.
pub fn size_zero_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    let live = filled(s, 0, &Want::pages(3), 1);
    let error = refused(s, &Want::bytes(0));
    assert_eq!(error, AllocError::ZeroSize);
    expect_filled(s, live, 1);
}

/// Goal: sizes near 2^64 do not wrap around to small ones.
pub fn size_that_overflows_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    for bytes in [u64::MAX, u64::MAX - PAGE + 1, u64::MAX - PAGE, 1 << 63, 1 << 52] {
        match refused(s, &Want::bytes(bytes)) {
            AllocError::TooBig { bytes: told, .. } => assert_eq!(told, bytes),
            other => panic!("{bytes} bytes: {other}"),
        }
    }
}

/// Goal: one page more than the pool has is refused for good, and the error says what is the
/// most.
pub fn more_than_the_pool_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    let frames = s.setup().frames;
    for pages in [frames.0 + 1, 2 * frames.0] {
        let bytes = Pages(pages).bytes();
        let error = refused(s, &Want::pages(pages));
        assert_eq!(error, AllocError::TooBig { bytes, limit: frames });
    }
}

/// Goal: an alignment is a power of two that the machine can keep in every member, or an error.
pub fn bad_alignment_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    let max = s.abilities().align_max.bytes();
    for align in [0, 3, PAGE + 1, 3 * PAGE, 2 * max, 1 << 63, u64::MAX] {
        let error = refused(s, &Want::pages(1).align(align));
        let expected = AllocError::BadAlign { align_bytes: align, align_max_bytes: max };
        assert_eq!(error, expected);
    }
}

/// Goal: `free(NULL)` is not a free. Linux returns in silence; we say so.
pub fn free_of_null_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    let live = filled(s, 0, &Want::pages(2), 1);
    expect_free_refused(s, VirtAddr(0), |e| e == FreeError::Null);
    expect_filled(s, live, 1);
}

/// Goal: an address outside the window is told apart from one inside.
pub fn free_of_a_stranger_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    let live = filled(s, 0, &Want::pages(2), 1);
    let window = s.stats(0).window.bytes();
    for addr in [PAGE, 8 * PAGE + 5, live.addr.0.wrapping_add(2 * window), u64::MAX] {
        let addr = VirtAddr(addr);
        expect_free_refused(s, addr, |e| e == FreeError::Stranger { addr });
    }
    expect_filled(s, live, 1);
}

/// Goal: inside an area no address but the base frees it. Method: every page, and odd bytes.
pub fn free_of_an_interior_address_names_the_base_and_changes_nothing(s: &mut dyn Subject) {
    let live = filled(s, 0, &Want::pages(5), 1);
    for offset in [1, 8, PAGE - 1, PAGE, 2 * PAGE, 4 * PAGE, 5 * PAGE - 1] {
        let (addr, base) = (VirtAddr(live.addr.0 + offset), live.addr);
        expect_free_refused(s, addr, |e| e == FreeError::Interior { addr, base });
    }
    expect_filled(s, live, 1);
}

/// Goal: a guard page belongs to no area.
pub fn free_of_a_guard_page_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    let live = filled(s, 0, &Want::pages(5), 1);
    let addr = VirtAddr(live.addr.0 + 5 * PAGE);
    expect_free_refused(s, addr, |e| e == FreeError::NoArea { addr });
    expect_filled(s, live, 1);
}

/// Goal: a double free is an error, at once and after a purge. Method: a neighbour lives on, so
/// that the slot's surroundings stay.
pub fn second_free_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    if !s.abilities().frees_by_address {
        return;
    }
    let live = filled(s, 0, &Want::pages(2), 1);
    let gone = filled(s, 0, &Want::pages(2), 2);
    free(s, gone);
    let twice = |e| matches!(e, FreeError::Twice { .. } | FreeError::NoArea { .. });
    expect_free_refused(s, gone.addr, |e| e == FreeError::Twice { addr: gone.addr });
    purge(s);
    expect_free_refused(s, gone.addr, twice);
    expect_filled(s, live, 1);
}

/// Goal: alignment is of addresses, and at most the machine's. Method: several of each, all live.
pub fn base_is_a_multiple_of_every_power_of_two_asked_for(s: &mut dyn Subject) {
    let most = s.abilities().align_max.bytes().min(s.setup().window.bytes() / 16);
    let mut held = Vec::new();
    for align in (0..64).map(|log2| 1_u64 << log2).take_while(|&align| align <= most) {
        for pages in [1, 2, 7] {
            let handle = alloc(s, 0, &Want::pages(pages).align(align));
            assert_eq!(handle.addr.0 % align.max(PAGE), 0, "{} for {align}", handle.addr);
            fill(s, handle, 3);
            held.push(handle);
        }
    }
    for handle in held {
        expect_filled(s, handle, 3);
        free(s, handle);
    }
}

/// Goal: the page behind an area faults: while the area lives, parked, revived and purged.
pub fn guard_page_is_never_readable(s: &mut dyn Subject) {
    if !s.abilities().guards_fault {
        return;
    }
    for pages in (1..=17).chain([63, 64, 127, 128]) {
        let handle = filled(s, 0, &Want::pages(pages), 1);
        let last = VirtAddr(handle.addr.0 + pages * PAGE - 1);
        let guard = VirtAddr(last.0 + 1);
        assert!(s.is_readable(0, last), "the last byte of {pages} pages");
        assert!(!s.is_readable(0, guard), "behind {pages} pages");
        free(s, handle);
        assert!(!s.is_readable(0, guard), "behind {pages} parked pages");
        let again = alloc(s, 0, &Want::pages(pages));
        let guard = VirtAddr(again.addr.0 + again.pages.bytes());
        assert!(!s.is_readable(0, guard), "behind {pages} revived pages");
        free(s, again);
        purge(s);
    }
}

/// Goal: no page is given out twice, and between two areas lies a page of neither. Method: random
/// sizes and frees; every live area against every other, parked ones too.
pub fn areas_and_their_guards_never_overlap(s: &mut dyn Subject) {
    let mut random = Random::new(1);
    let mut held = Vec::new();
    for _ in 0..200 {
        if random.below(3) == 0 && !held.is_empty() {
            free(s, held.swap_remove(random.index(held.len())));
        } else if let Ok(handle) = s.alloc(0, &Want::pages(1 + random.below(20))) {
            held.push(handle);
        }
        expect_apart(&s.areas(0));
    }
}
