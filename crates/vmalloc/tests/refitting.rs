//! Areas that are parked with one size, and wanted with another.

use crate::limits::guards;
use crate::peer::Peer;
use crate::support::{KIB, MIB, PAGE, Random, assert_empty, resident};
use std::collections::HashSet;
use vmalloc::core::Kind;
use vmalloc::{Buf, Pool};

/// Longer and shorter: in huge pages and not, ends at a page and not.
const SIZES: [(u64, u64); 6] = [
    (9 * MIB, 10 * MIB),
    (9 * MIB, 5 * MIB + 5),
    (9 * MIB + 4 * PAGE, 9 * MIB + 3 * PAGE),
    (8 * MIB + 100, 8 * MIB + 300 * KIB),
    (400 * KIB, 420 * KIB),
    (420 * KIB, 390 * KIB + 1),
];

/// A pool in which areas are made to fit once 8 MiB are parked: half of what it holds.
fn pool() -> Pool {
    Pool::create(16 * MIB).unwrap()
}

/// Parks `bytes`, and before that so much besides that it is enough: then what another thread or
/// process has parked is taken. Others need not see the last area that a thread parked.
fn park(pool: &Pool, bytes: u64, fill: u8) {
    let rest = (9 * MIB).saturating_sub(bytes).max(PAGE);
    pool.vmalloc(rest as usize).unwrap().fill(fill);
    pool.vmalloc(bytes as usize).unwrap().fill(fill);
}

/// Where the parked areas of so many bytes lie, in pages.
fn parked(pool: &Pool, bytes: u64) -> Vec<u64> {
    let is_it = |area: &vmalloc::core::Area| area.kind == Kind::Parked && area.bytes == bytes;
    pool.areas().into_iter().filter(is_it).map(|area| area.pages.start.0).collect()
}

fn start(pool: &Pool, buf: &Buf) -> u64 {
    (buf.as_ptr() as usize - pool.window_base()) as u64 / PAGE
}

/// Goal: where no size comes back, frames do: most areas are made of what lies there already, and no
/// more is held than what is in use and the lazy limit.
/// Method: 16 live buffers of random sizes, replaced a thousand times; how many were made afresh.
#[test]
fn sizes_that_never_come_back_take_frames_that_are_there() {
    let pool = Pool::options().lazy_bytes(48 * MIB).create(256 * MIB).unwrap();
    let mut random = Random(7);
    let mut live: Vec<Option<Buf>> = (0..16).map(|_| None).collect();
    let mut sizes = HashSet::new();
    let (mut was, mut served) = (0, 0);
    for step in 0..1000 {
        let at = random.of(0..16) as usize;
        // Each doubling as likely as the next: 64 KiB to 8 MiB.
        let low = (64 * KIB) << random.of(0..7);
        let bytes = random.of(low..2 * low);
        sizes.insert(bytes.div_ceil(PAGE));
        live[at] = None;
        let mut buf = pool.vmalloc(bytes as usize).unwrap();
        (buf[0], buf[bytes as usize - 1]) = (1, 1);
        live[at] = Some(buf);
        if step == 200 {
            let stats = pool.info().stats;
            (was, served) = (stats.revives, stats.allocs);
        }
        if step % 20 == 0 {
            let used = pool.info().stats.used.bytes();
            let resident = resident(&pool);
            assert!(resident <= used + 49 * MIB, "{used} in use, {resident} resident");
            assert_eq!(pool.info().committed_bytes, used + pool.info().stats.parked.bytes());
        }
    }
    let stats = pool.info().stats;
    let (revived, served) = (stats.revives - was, stats.allocs - served);
    println!("{revived} of {served} allocations from {} sizes took what was parked", sizes.len());
    assert!(revived * 10 >= served * 8, "{revived} of {served}");
    pool.verify().unwrap();
    drop(live);
    assert_empty(&pool);
}

/// Goal: sizes that do come back find their own, warm, as long as little is parked: none is cut to
/// fit another.
/// Method: two sizes in turn; two places.
#[test]
fn sizes_that_come_back_are_left_as_they_are() {
    let pool = Pool::create(512 * MIB).unwrap();
    let mut places = HashSet::new();
    for _ in 0..20 {
        for bytes in [3 * MIB, 2 * MIB] {
            let buf = pool.vmalloc(bytes as usize).unwrap();
            places.insert((bytes, start(&pool, &buf)));
        }
    }
    assert_eq!(places.len(), 2, "{places:?}");
    assert_eq!(pool.info().stats.parked_areas, 2);
    assert_empty(&pool);
}

/// Goal: what is made to fit shows its new owner zeros, whoever had it and wherever its end was;
/// the same for who asks for zeros.
/// Method: one member fills and frees; another, or the same by `vzalloc`, takes it with another
/// size: at the same place, so it was made to fit.
#[test]
fn what_is_made_to_fit_shows_nothing_of_its_last_owner() {
    for (from, to) in SIZES {
        let pool = pool();
        let mut peer = Peer::of(&pool);
        park(&pool, from, 0xee);
        let place = parked(&pool, from);
        let key = peer.ok(&format!("vmalloc {to}"));
        let address = pool.areas().into_iter().find(|area| area.bytes == to).unwrap();
        assert_eq!([address.pages.start.0][..], place, "{from} to {to}: taken afresh");
        peer.ok(&format!("all {key} 0"));
        peer.ok(&format!("fill {key} 221"));
        peer.dismiss();

        assert_empty(&pool);
        park(&pool, from, 0xee);
        let place = parked(&pool, from);
        let buf = pool.vzalloc(to as usize).unwrap();
        assert!(place.contains(&start(&pool, &buf)), "{from} to {to}: taken afresh");
        assert!(buf.iter().all(|&byte| byte == 0), "{from} to {to}: not zeros");
        pool.verify().unwrap();
        drop(buf);
        assert_empty(&pool);
    }
}

/// Goal: the guard page is right behind the new end, and nowhere within it: in the process that had
/// the area, and in one that had the guard of the old end there.
/// Method: a process that fills it all lives; at the byte behind the last page it dies.
#[test]
fn the_guard_page_is_behind_the_new_end() {
    for (from, to) in SIZES {
        let pool = pool();
        if !guards(&pool) {
            return;
        }
        let mut peer = Peer::of(&pool);
        // Its guards stand where the old end is.
        let old = peer.ok(&format!("vmalloc {from}"));
        peer.ok(&format!("drop {old}"));
        park(&pool, from, 1);
        let place = parked(&pool, from);
        let key = peer.ok(&format!("vmalloc {to}"));
        let area = pool.areas().into_iter().find(|area| area.bytes == to).unwrap();
        assert_eq!([area.pages.start.0][..], place, "{from} to {to}: taken afresh");
        peer.ok(&format!("fill {key} 3"));
        peer.dies_behind(&key, to);
        pool.recover();
        assert_empty(&pool);
    }
}

/// Goal: a member whose quota has room for the new size gets it, and is charged for that alone.
#[test]
fn what_is_made_to_fit_counts_as_what_was_asked_for() {
    let pool = pool();
    park(&pool, 9 * MIB, 1);
    pool.set_quota(Some(6 * MIB));
    let buf = pool.vmalloc(5 * MIB as usize).unwrap();
    let used = pool.members()[0].used_bytes;
    assert_eq!(used, 5 * MIB);
    assert!(pool.vmalloc(2 * MIB as usize).is_err(), "over the quota");
    drop(buf);
    assert_empty(&pool);
}
