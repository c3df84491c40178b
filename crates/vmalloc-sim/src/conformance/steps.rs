//! The steps that the rules are made of.

use crate::random::pattern;
use crate::subject::{Handle, Subject, TokenKey, Want};
use alloc::vec;
use alloc::vec::Vec;
use vmalloc_core::{
    AllocError, Area, AttachError, Extent, FreeError, Kind, Pages, Pfn, Publish, VirtAddr, Vpn,
};

pub(super) fn alloc(s: &mut dyn Subject, member: usize, want: &Want) -> Handle {
    s.alloc(member, want).unwrap_or_else(|e| panic!("{want:?} for member {member}: {e}"))
}

pub(super) fn free(s: &mut dyn Subject, handle: Handle) {
    s.free(handle).unwrap_or_else(|e| panic!("{handle:?}: {e}"));
}

pub(super) fn purge(s: &mut dyn Subject) {
    s.purge().expect("a purge");
}

pub(super) fn share(s: &mut dyn Subject, handle: Handle, how: Publish) -> TokenKey {
    s.share(handle, how).unwrap_or_else(|e| panic!("{handle:?}: {e}"))
}

pub(super) fn attach(s: &mut dyn Subject, member: usize, token: TokenKey) -> Handle {
    s.attach(member, token).unwrap_or_else(|e| panic!("member {member}: {e}"))
}

pub(super) fn filled(s: &mut dyn Subject, member: usize, want: &Want, seed: u8) -> Handle {
    let handle = alloc(s, member, want);
    fill(s, handle, seed);
    handle
}

pub(super) fn fill(s: &mut dyn Subject, handle: Handle, seed: u8) {
    let bytes: Vec<u8> = (0..handle.bytes).map(|at| pattern(seed, at)).collect();
    s.write(handle, 0, &bytes).unwrap_or_else(|e| panic!("{handle:?}: {e}"));
}

pub(super) fn bytes_of(s: &mut dyn Subject, handle: Handle) -> Vec<u8> {
    let mut bytes = vec![0; handle.bytes as usize];
    s.read(handle, 0, &mut bytes).unwrap_or_else(|e| panic!("{handle:?}: {e}"));
    bytes
}

pub(super) fn expect_filled(s: &mut dyn Subject, handle: Handle, seed: u8) {
    let bytes = bytes_of(s, handle);
    let wrong = (0..).zip(&bytes).find(|&(at, &byte)| byte != pattern(seed, at));
    assert_eq!(wrong, None, "first wrong byte of {handle:?}");
}

pub(super) fn expect_zero(s: &mut dyn Subject, handle: Handle) {
    let bytes = bytes_of(s, handle);
    assert_eq!(bytes.iter().position(|&byte| byte != 0), None, "first byte that is not zero");
}

/// All of a window that a refused call must leave as it was.
pub(super) fn still(s: &dyn Subject) -> (Vec<Area>, Pages, Pages, Pages, u64) {
    let stats = s.stats(0);
    (s.areas(0), stats.frames_free, stats.holes, stats.parked, stats.flushes)
}

pub(super) fn refused(s: &mut dyn Subject, want: &Want) -> AllocError {
    let before = still(s);
    let error = s.alloc(0, want).map(|handle| handle.addr).expect_err("must be refused");
    assert_eq!(still(s), before, "changed by a call that failed");
    error
}

pub(super) fn expect_free_refused(
    s: &mut dyn Subject,
    addr: VirtAddr,
    expected: impl Fn(FreeError) -> bool,
) {
    if !s.abilities().frees_by_address {
        return;
    }
    let before = still(s);
    match s.free_at(0, addr) {
        Err(e) if expected(e) => {}
        other => panic!("free of {addr}: {other:?}"),
    }
    assert_eq!(still(s), before, "changed by a call that failed");
}

pub(super) fn expect_stale(s: &mut dyn Subject, member: usize, token: TokenKey) {
    match s.attach(member, token) {
        Err(AttachError::Stale { .. }) => {}
        other => panic!("member {member} by a stale token: {other:?}"),
    }
}

/// In address order, guards counted.
pub(super) fn expect_apart(areas: &[Area]) {
    for pair in areas.windows(2) {
        let end = pair[0].pages.end().0 + pair[0].guard.0;
        assert!(end <= pair[1].pages.start.0, "{} and {}", pair[0], pair[1]);
    }
}

pub(super) fn in_use(area: &Area) -> bool {
    matches!(area.kind, Kind::Live | Kind::Frozen | Kind::Shared | Kind::Dying)
}

pub(super) fn frames_of(s: &dyn Subject, handle: Handle) -> Vec<Option<Pfn>> {
    let start = handle.addr.vpn().0;
    (start..start + handle.pages.0).map(|page| s.frame_at(handle.member, Vpn(page))).collect()
}

pub(super) fn singles(frames: &[Pfn]) -> Vec<Extent> {
    frames.iter().map(|&start| Extent { start, len: Pages(1) }).collect()
}

/// Frames that hold the records of these areas, in a pool where frames lie side by side: none.
pub(super) fn records(s: &dyn Subject, held: &[Handle]) -> u64 {
    let at_most: u64 = held.iter().map(|handle| s.overhead(handle.pages).0).sum();
    let used = s.stats(0).frames.0 - s.stats(0).frames_free.0;
    let pages: u64 = held.iter().map(|handle| handle.pages.0).sum();
    assert!((pages..=pages + at_most).contains(&used), "{used} in use for {pages}");
    used - pages
}

pub(super) fn hex(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number")
}
