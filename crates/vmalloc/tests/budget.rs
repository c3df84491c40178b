//! How much a pool takes, how much it may, and how much each member may.

use crate::peer::Peer;
use crate::support::{MIB, assert_empty, resident};
use rustix::process::{Signal, kill_process};
use vmalloc::core::{self, BackError};
use vmalloc::{AllocError, AttachError, BudgetError, OverQuota, Pool, ResizeError};

const M: usize = MIB as usize;

fn no_frames(error: &AllocError) -> bool {
    use core::AllocError::Back;
    matches!(error, AllocError::Engine(Back(BackError::NoFrames { .. })))
}

/// Goal: a pool takes memory for what is used, and gives it back: not for what it could hold.
/// Method: a capacity of 2 GiB; the system's own count of its pages, before, with 32 MiB, after.
#[test]
fn a_pool_takes_what_it_uses_and_gives_it_back() {
    let pool = Pool::create(2048 * MIB).unwrap();
    let empty = resident(&pool);
    assert!(empty < 20 * MIB, "{empty} bytes for nothing");
    let mut buf = pool.vmalloc(32 * M).unwrap();
    buf.fill(1);
    let full = resident(&pool);
    assert!((32 * MIB..33 * MIB).contains(&(full - empty)), "{empty}, then {full}");
    drop(buf);
    pool.purge().unwrap();
    assert!(resident(&pool) < empty + MIB);
    assert_empty(&pool);
}

/// Goal: the limit is one for all, changes while they work, and never lies above the capacity; what
/// is there already stays.
#[test]
fn the_limit_is_raised_and_lowered_while_members_work() {
    let pool = Pool::create(64 * MIB).unwrap();
    let mut peer = Peer::of(&pool);
    assert_eq!(pool.limit_bytes(), 64 * MIB);
    pool.set_limit(8 * MIB).unwrap();
    let kept = pool.vmalloc(6 * M).unwrap();
    assert!(no_frames(&pool.vmalloc(3 * M).unwrap_err()));
    assert!(peer.err("vmalloc 3145728").contains("NoFrames"));
    peer.ok("set_limit 16777216");
    assert_eq!((pool.limit_bytes(), pool.info().limit_bytes), (16 * MIB, 16 * MIB));
    let more = pool.vmalloc(9 * M).unwrap();
    // Lower than what is in use: nothing is taken away, nothing new is given.
    pool.set_limit(4 * MIB).unwrap();
    assert!(no_frames(&pool.vmalloc(4096).unwrap_err()));
    drop(more);
    assert!(no_frames(&pool.vmalloc(4096).unwrap_err()), "6 MiB of 4 are in use");
    drop(kept);
    drop(pool.vmalloc(4 * M).unwrap());
    for bytes in [0, 64 * MIB + 1, u64::MAX] {
        let error = pool.set_limit(bytes).unwrap_err();
        assert!(
            matches!(error, BudgetError::Limit { bytes: b, capacity_bytes }
                if b == bytes && capacity_bytes == 64 * MIB),
            "{error:?}"
        );
    }
    pool.set_limit(64 * MIB).unwrap();
    drop(pool.vmalloc(64 * M).unwrap());
    peer.dismiss();
    assert_empty(&pool);
}

/// Goal: what a member has parked is no reason for another to be refused: anybody may purge it, also
/// while that member is stopped.
/// Method: a peer fills the pool, in pieces of another size, frees them and is stopped; then all of
/// the pool is allocated here.
#[test]
fn what_a_stopped_member_has_parked_is_there_for_the_others() {
    let pool = Pool::create(32 * MIB).unwrap();
    let mut peer = Peer::of(&pool);
    let keys: Vec<String> = (0..30).map(|_| peer.ok("vmalloc 1048576")).collect();
    assert!(no_frames(&pool.vmalloc(4 * M).unwrap_err()));
    keys.iter().for_each(|key| drop(peer.ok(&format!("drop {key}"))));
    assert_eq!(pool.verify().unwrap().parked, 30);
    kill_process(peer.pid(), Signal::STOP).unwrap();
    let mut all = pool.vmalloc(32 * M).unwrap();
    all.fill(1);
    drop(all);
    kill_process(peer.pid(), Signal::CONT).unwrap();
    peer.dismiss();
    assert_empty(&pool);
}

/// Goal: who is over its quota gets an error with the numbers, and the others go on; what it frees,
/// gives away or has freed for it counts no more, in whatever way it went.
#[test]
fn a_member_over_its_quota_is_told_the_numbers() {
    let pool = Pool::create(64 * MIB).unwrap();
    let other = Pool::open(pool.share_path()).unwrap();
    let number = pool.member_number();
    pool.set_quota_of(number, Some(4 * MIB)).unwrap();
    let over = |error: AllocError| match error {
        AllocError::Quota(over) => over,
        error => panic!("{error:?}"),
    };
    let first = pool.vmalloc(3 * M).unwrap();
    let told = OverQuota { wanted_bytes: 2 * MIB, used_bytes: 3 * MIB, quota_bytes: 4 * MIB };
    assert_eq!(over(pool.vmalloc(2 * M - 5).unwrap_err()), told);
    assert_eq!(over(pool.vmalloc(2 * M).unwrap_err()), told, "a refusal costs nothing");
    drop(other.vmalloc(40 * M).unwrap());
    let me = pool.members().into_iter().find(|member| member.number == number).unwrap();
    assert_eq!((me.used_bytes, me.quota_bytes), (3 * MIB, Some(4 * MIB)));

    // Published it counts; freed by anybody it does not.
    let frozen = first.freeze().unwrap();
    assert_eq!(over(pool.vmalloc(2 * M).unwrap_err()), told);
    let token = frozen.token();
    drop(frozen);
    other.free(&token).unwrap();
    let mut buf = pool.vmalloc(4 * M).unwrap();
    assert!(pool.vmalloc(1).is_err());
    assert!(matches!(buf.resize(5 * M), Err(ResizeError::Quota(_))));
    buf.resize(M).unwrap();
    let second = pool.vmalloc(3 * M).unwrap();
    // Given away it counts as the taker's, who must have room for it.
    let token = second.give().unwrap();
    let third = pool.vmalloc(2 * M).unwrap();
    assert!(matches!(pool.take(&token), Err(AttachError::Quota(_))));
    let taken = other.take(&token).unwrap();
    drop((third, buf));
    // Many small ones, many times: what the process thinks it holds does not creep up.
    for _ in 0..300 {
        let bufs: Vec<_> = (0..8).map(|_| pool.vmalloc(M / 2).unwrap()).collect();
        drop(bufs);
    }
    pool.set_quota_of(number, None).unwrap();
    drop(pool.vmalloc(30 * M).unwrap());
    pool.set_quota(Some(MIB));
    assert!(matches!(other.vmalloc(1).unwrap_err(), AllocError::Quota(_)), "it holds 3 MiB");
    drop(pool.vmalloc(M).unwrap());
    pool.set_quota(None);
    assert!(matches!(pool.set_quota_of(33, None), Err(BudgetError::NoMember { member: 33 })));
    drop((taken, other));
    assert_empty(&pool);
}

/// Goal: a quota holds over the deaths of its members: what a dead one held or had published does
/// not count as its successor's, and what lives does.
/// Method: two slots, so that the number is taken again.
#[test]
fn a_quota_survives_the_death_of_its_member() {
    let pool = Pool::options().members(2).create(64 * MIB).unwrap();
    pool.set_quota(Some(4 * MIB));
    for kill in [true, false] {
        let mut first = Peer::of(&pool);
        let number = first.ok("number");
        let key = first.ok("vmalloc 3145728");
        let token = first.token(&format!("freeze {key}"));
        first.ok("vmalloc 1048576");
        assert!(first.err("vmalloc 1048576").contains("Quota"));
        if kill {
            first.kill();
        } else {
            first.dismiss();
        }
        let mut second = Peer::of(&pool);
        assert_eq!(second.ok("number"), number);
        let key = second.ok("vmalloc 4194304");
        assert!(second.err("vmalloc 4096").contains("Quota"));
        second.ok(&format!("drop {key}"));
        second.dismiss();
        pool.free(&token).unwrap();
        assert_empty(&pool);
    }
}
