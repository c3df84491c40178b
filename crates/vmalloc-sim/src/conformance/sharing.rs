//! Sharing, and frames that the caller brings.

use super::PAGE;
use super::steps::{
    attach, expect_filled, expect_free_refused, expect_stale, fill, filled, frames_of, free,
    in_use, purge, share, singles,
};
use crate::subject::{Subject, TokenKey, Want};
use alloc::vec::Vec;
use vmalloc_core::{FreeError, Pages, Publish, ShareError};

/// Goal: a backing lives while anybody shows it, and no longer. Method: owner and two guests
/// leave in each of the six orders.
pub fn area_lives_until_free_and_the_last_detach_in_any_order(s: &mut dyn Subject) {
    purge(s);
    let free_before = s.stats(0).frames_free;
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (seed, order) in (10_u8..).zip(orders) {
        let owner = filled(s, 0, &Want::pages(5), seed);
        let token = share(s, owner, Publish::Shared);
        let all = [owner, attach(s, 1, token), attach(s, 2, token)];
        for (left, who) in order.into_iter().enumerate() {
            purge(s);
            let used = free_before.0 - s.stats(0).frames_free.0;
            assert!((5..=5 + s.overhead(Pages(5)).0).contains(&used), "{used} in use, of 5");
            for &still in &order[left..] {
                expect_filled(s, all[still], seed);
            }
            if who == 0 {
                free(s, owner);
            } else {
                s.detach(all[who]).expect("attached");
            }
        }
        purge(s);
        assert_eq!(s.stats(0).frames_free, free_before, "order {order:?}");
    }
}

/// Goal: the same frames, at different addresses where the machine has several.
pub fn write_through_one_member_is_read_through_the_other(s: &mut dyn Subject) {
    let owner = filled(s, 0, &Want::pages(4), 1);
    let token = share(s, owner, Publish::Shared);
    let guest = attach(s, 1, token);
    expect_filled(s, guest, 1);
    fill(s, guest, 2);
    expect_filled(s, owner, 2);
    fill(s, owner, 3);
    expect_filled(s, guest, 3);
    assert_eq!(frames_of(s, owner), frames_of(s, guest));
}

/// Goal: frozen is for everyone to read.
pub fn frozen_area_cannot_be_written_by_a_guest(s: &mut dyn Subject) {
    let owner = filled(s, 0, &Want::pages(4), 1);
    let token = share(s, owner, Publish::Frozen);
    let guest = attach(s, 1, token);
    for at in [0, 5, 3 * PAGE] {
        assert!(s.write(guest, at, &[9]).is_err(), "a guest wrote byte {at}");
    }
    if !s.abilities().owner_writes_frozen {
        assert!(s.write(owner, 0, &[9]).is_err(), "the owner wrote");
    }
    expect_filled(s, guest, 1);
    expect_filled(s, owner, 1);
}

/// Goal: after the free nobody attaches any more: while the area is parked, while a guest keeps
/// it alive, and after a purge.
pub fn token_of_a_freed_area_is_stale(s: &mut dyn Subject) {
    let parked = filled(s, 0, &Want::pages(4), 1);
    let token = share(s, parked, Publish::Shared);
    free(s, parked);
    expect_stale(s, 1, token);

    let kept = filled(s, 0, &Want::pages(3), 2);
    let kept_token = share(s, kept, Publish::Shared);
    let guest = attach(s, 1, kept_token);
    free(s, kept);
    expect_stale(s, 0, kept_token);
    expect_filled(s, guest, 2);
    s.detach(guest).expect("attached");

    purge(s);
    expect_stale(s, 1, token);
    expect_stale(s, 0, kept_token);
}

/// Goal: a token names a tenant, not a place. Method: the area is revived, and shared again.
pub fn token_of_an_earlier_tenant_is_stale(s: &mut dyn Subject) {
    let first = filled(s, 0, &Want::pages(4), 1);
    let old = share(s, first, Publish::Shared);
    free(s, first);
    let next = filled(s, 0, &Want::pages(4), 2);
    assert_eq!(next.addr, first.addr, "revived");
    expect_stale(s, 1, old);
    let new = share(s, next, Publish::Shared);
    expect_stale(s, 1, old);
    let guest = attach(s, 1, new);
    expect_filled(s, guest, 2);
}

/// Goal: sharing is the owner's to do, once.
pub fn only_the_owner_shares_and_only_once(s: &mut dyn Subject) {
    if !s.abilities().refuses_second_share {
        return;
    }
    let owner = filled(s, 0, &Want::pages(4), 1);
    let token = share(s, owner, Publish::Shared);
    let is_stale =
        |shared: Result<TokenKey, ShareError>| matches!(shared, Err(ShareError::Stale { .. }));
    assert!(is_stale(s.share(owner, Publish::Frozen)), "a second time");
    let guest = attach(s, 1, token);
    assert!(is_stale(s.share(guest, Publish::Shared)), "by a guest");
    expect_filled(s, guest, 1);
}

/// Goal: page i shows the i-th frame. Method: the same frames in two orders, written through one
/// and read through the other.
pub fn vmap_shows_the_frames_given_in_their_order(s: &mut dyn Subject) {
    if !s.abilities().vmaps {
        return;
    }
    let mut frames = s.take_frames(40).expect("40 frames");
    let forward = s.vmap(0, &singles(&frames)).expect("vmap");
    frames.reverse();
    let backward = s.vmap(1, &singles(&frames)).expect("vmap");
    for page in 0..40_u64 {
        s.write(forward, page * PAGE, &[page as u8; 100]).expect("mapped");
    }
    for page in 0..40_u64 {
        let mut bytes = [0; 100];
        s.read(backward, page * PAGE, &mut bytes).expect("mapped");
        assert_eq!(bytes, [39 - page as u8; 100], "page {page}");
    }
    assert_eq!(frames_of(s, backward), frames.iter().map(|&pfn| Some(pfn)).collect::<Vec<_>>());
    s.vunmap(forward).expect("mapped");
    s.vunmap(backward).expect("mapped");
    purge(s);
    s.give_frames(&frames);
}

/// Goal: the frames were lent. Method: map, write, unmap, purge; map again: the bytes are there,
/// and no frame went to the pool.
pub fn vunmap_leaves_the_frames_to_their_owner(s: &mut dyn Subject) {
    if !s.abilities().vmaps {
        return;
    }
    let frames = s.take_frames(10).expect("10 frames");
    let free_before = s.stats(0).frames_free;
    let first = s.vmap(0, &singles(&frames)).expect("vmap");
    fill(s, first, 7);
    s.vunmap(first).expect("mapped");
    assert!(!s.areas(0).iter().any(in_use), "still listed as in use");
    purge(s);
    assert!(!s.is_readable(0, first.addr), "readable after the purge");
    assert_eq!(s.stats(0).frames_free, free_before);
    let second = s.vmap(1, &singles(&frames)).expect("vmap");
    expect_filled(s, second, 7);
    s.vunmap(second).expect("mapped");
    purge(s);
    s.give_frames(&frames);
}

/// Goal: each kind of area is freed by its own verb.
pub fn vfree_of_a_vmapped_area_is_refused(s: &mut dyn Subject) {
    if !s.abilities().vmaps || !s.abilities().frees_by_address {
        return;
    }
    let frames = s.take_frames(3).expect("3 frames");
    let mapped = s.vmap(0, &singles(&frames)).expect("vmap");
    fill(s, mapped, 1);
    expect_free_refused(s, mapped.addr, |e| e == FreeError::WrongVerb);
    expect_filled(s, mapped, 1);
    s.vunmap(mapped).expect("mapped");
    purge(s);
    s.give_frames(&frames);
}
