//! What is in an area, and when the pool is full or in pieces.

use super::PAGE;
use super::steps::{
    alloc, expect_apart, expect_filled, expect_zero, fill, filled, frames_of, free, purge, share,
};
use crate::random::Random;
use crate::subject::{Handle, Subject, Want};
use alloc::string::ToString;
use alloc::vec::Vec;
use vmalloc_core::{AllocError, BackError, Pages, Publish, VirtAddr, flags};

/// Goal: what one wrote stays, whatever others do.
pub fn contents_survive_the_traffic_of_others(s: &mut dyn Subject) {
    let members = s.setup().members;
    let mut random = Random::new(2);
    let kept: Vec<Handle> =
        (0..12).map(|i| filled(s, i % members, &Want::pages(1 + i as u64), i as u8)).collect();
    let mut held = Vec::new();
    for round in 0..300 {
        let member = random.index(members);
        match random.below(5) {
            0 | 1 if !held.is_empty() => free(s, held.swap_remove(random.index(held.len()))),
            2 if round % 17 == 0 => purge(s),
            _ => {
                if let Ok(handle) = s.alloc(member, &Want::pages(1 + random.below(24))) {
                    fill(s, handle, 0xee);
                    held.push(handle);
                }
            }
        }
    }
    kept.iter().enumerate().for_each(|(i, &handle)| expect_filled(s, handle, i as u8));
}

/// Goal: zero means zero. Method: fresh, revived dirty, and out of frames that others dirtied.
pub fn vzalloc_is_zero_also_where_others_left_their_bytes(s: &mut dyn Subject) {
    let fresh = alloc(s, 0, &Want::pages(9).zeroed());
    expect_zero(s, fresh);
    fill(s, fresh, 1);
    free(s, fresh);
    let revived = alloc(s, 0, &Want::pages(9).zeroed());
    expect_zero(s, revived);
    free(s, revived);
    // The whole pool dirty, then purged.
    let all: Vec<Handle> = core::iter::from_fn(|| s.alloc(0, &Want::pages(16)).ok()).collect();
    for &handle in &all {
        fill(s, handle, 2);
    }
    for handle in all {
        free(s, handle);
    }
    purge(s);
    let big = alloc(s, 0, &Want::pages(100).zeroed());
    expect_zero(s, big);
}

/// Goal: what a user may come to see is zero, says so, and lies where the machine's caches allow
/// a second address. Method: fresh, and revived from plain areas full of bytes at odd places.
pub fn user_area_is_zero_and_marked_and_aligned_for_a_second_address(s: &mut dyn Subject) {
    let plain: Vec<Handle> = (0..9).map(|_| filled(s, 0, &Want::pages(2), 7)).collect();
    plain.into_iter().for_each(|handle| free(s, handle));
    let align = s.abilities().user_align.bytes();
    for _ in 0..9 {
        let user = alloc(s, 0, &Want::pages(2).user());
        expect_zero(s, user);
        assert_eq!(user.addr.0 % align, 0, "{}", user.addr);
        let area = s.areas(0).into_iter().find(|area| area.addr() == user.addr).expect("listed");
        assert_ne!(area.flags & flags::USERMAP, 0, "{area}");
        assert!(area.to_string().contains(" user"), "{area}");
    }
    let plain = alloc(s, 0, &Want::pages(2));
    assert!(
        !s.areas(0)
            .iter()
            .any(|area| area.addr() == plain.addr && area.flags & flags::USERMAP != 0)
    );
}

/// Goal: the lazy list is a warm cache.
pub fn revived_area_has_the_same_pages_and_cost_no_flush(s: &mut dyn Subject) {
    let first = filled(s, 0, &Want::pages(6), 1);
    let frames = frames_of(s, first);
    free(s, first);
    let before = s.stats(0);
    let again = alloc(s, 0, &Want::pages(6));
    let after = s.stats(0);
    assert_eq!(again.addr, first.addr);
    assert_eq!(frames_of(s, again), frames);
    assert_eq!((after.flushes, after.purged), (before.flushes, before.purged));
    assert_eq!(after.revives, before.revives + 1);
    assert_eq!(after.frames_free, before.frames_free);
}

/// Goal: what several could read and write does not show in an area that one gets for itself.
pub fn what_was_shared_is_zeroed_before_its_next_tenant(s: &mut dyn Subject) {
    let first = filled(s, 0, &Want::pages(6), 1);
    share(s, first, Publish::Shared);
    free(s, first);
    let next = alloc(s, 0, &Want::pages(6));
    assert_eq!(next.addr, first.addr, "revived");
    expect_zero(s, next);
}

/// Goal: nothing of one member's shows in another's area, zeroed or not. For machines where
/// members are processes; in a kernel all is one.
pub fn what_one_member_freed_no_other_can_read(s: &mut dyn Subject) {
    if !s.abilities().shares_window {
        return;
    }
    for pages in [1, 6, 130, 6] {
        let first = filled(s, 0, &Want::pages(pages), 1);
        free(s, first);
        let next = alloc(s, 1, &Want::pages(pages));
        expect_zero(s, next);
        free(s, next);
    }
}

/// Goal: `no_reuse` catches a use after free.
pub fn strict_area_is_unreadable_once_freed(s: &mut dyn Subject) {
    if !s.abilities().freed_faults {
        return;
    }
    let strict = filled(s, 0, &Want::pages(3).no_reuse(), 1);
    free(s, strict);
    for page in 0..3 {
        assert!(!s.is_readable(0, VirtAddr(strict.addr.0 + page * PAGE)), "page {page}");
    }
}

/// Goal: huge areas work like others, whether or not the machine has huge pages.
pub fn huge_area_is_served_and_kept(s: &mut dyn Subject) {
    let huge = filled(s, 0, &Want::pages(1024).huge(), 1);
    let other = filled(s, 0, &Want::pages(600).huge(), 2);
    expect_filled(s, huge, 1);
    free(s, huge);
    expect_filled(s, other, 2);
    let again = alloc(s, 0, &Want::pages(1024).huge().zeroed());
    expect_zero(s, again);
}

/// Goal: a full pool is an error of the call, and nothing is lost by it.
pub fn full_pool_is_an_error_and_the_pool_goes_on(s: &mut dyn Subject) {
    let mut held = Vec::new();
    let error = loop {
        match s.alloc(held.len() % 2, &Want::pages(16)) {
            Ok(handle) => held.push(handle),
            Err(e) => break e,
        }
        let last = held.len() - 1;
        fill(s, held[last], last as u8);
    };
    let is_full = |e| {
        let AllocError::Back(e) = e else { return false };
        matches!(
            e,
            BackError::NoFrames { .. } | BackError::NoMetadata | BackError::MachineFull { .. }
        )
    };
    assert!(is_full(error), "{error}");
    let room = s.setup().frames.0 - s.overhead(Pages(16)).0 * held.len() as u64;
    assert!(held.len() as u64 >= room / 16 - 1, "full with {} of 16 pages", held.len());
    for round in 0..20 {
        let at = round % held.len();
        expect_filled(s, held[at], at as u8);
        let member = held[at].member;
        free(s, held[at]);
        held[at] = filled(s, member, &Want::pages(16), at as u8);
        assert!(s.alloc(0, &Want::pages(17)).is_err_and(is_full), "round {round}");
    }
    held.iter().enumerate().for_each(|(i, &handle)| expect_filled(s, handle, i as u8));
}

/// Goal: free frames are never too scattered. Method: fill with random sizes, free half at
/// random, ask for one block of all that is free, less what its records may need; ten seeds.
pub fn after_freeing_half_at_random_one_block_takes_every_free_frame(s: &mut dyn Subject) {
    for seed in 0..10 {
        let mut random = Random::new(seed);
        let mut held = Vec::new();
        while let Ok(handle) = s.alloc(0, &Want::pages(1 + random.below(32))) {
            fill(s, handle, held.len() as u8);
            held.push((handle, held.len() as u8));
        }
        random.shuffle(&mut held);
        for (handle, _) in held.split_off(held.len() / 2) {
            free(s, handle);
        }
        let used = |pages: Pages| pages.0 + s.overhead(pages).0;
        let live: u64 = held.iter().map(|(handle, _)| used(handle.pages)).sum();
        let free_pages = Pages(s.setup().frames.0 - live);
        let block = Want::pages(free_pages.0 - s.overhead(free_pages).0);
        let block = filled(s, 0, &block, 0x55);
        expect_filled(s, block, 0x55);
        for (handle, seed) in held {
            expect_filled(s, handle, seed);
            free(s, handle);
        }
        free(s, block);
    }
}

/// Goal: a hole that fits exactly, at an address that is right, is found. Linux's search passes
/// such holes over. Method: blocks of 4 MiB at multiples of 4 MiB without guards, as many as go
/// in; every other one freed leaves holes of exactly that size.
pub fn exactly_fitting_aligned_holes_are_all_served(s: &mut dyn Subject) {
    const BLOCK: u64 = 4 << 20;
    if s.abilities().align_max.bytes() < BLOCK {
        return;
    }
    let want = Want::bytes(BLOCK).align(BLOCK).no_guard();
    let mut held: Vec<Handle> = core::iter::from_fn(|| s.alloc(0, &want).ok()).collect();
    assert!(held.len() >= 12, "{} blocks", held.len());
    held.sort_by_key(|handle| handle.addr);
    let every_other: Vec<Handle> = held.into_iter().step_by(2).collect();
    for &handle in &every_other {
        free(s, handle);
    }
    purge(s);
    for hole in 0..every_other.len() {
        let again = alloc(s, 0, &want);
        assert_eq!(again.addr.0 % BLOCK, 0, "hole {hole}");
    }
    expect_apart(&s.areas(0));
}
