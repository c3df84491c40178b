//! Who is in a pool: slots and their takeover, storms of comings and goings, forks.

use crate::crash::image::{as_if_recovering, keep_alive};
use crate::peer::{Peer, command, say};
use crate::support::{KIB, MIB, Random, Scratch, assert_empty, file_of, wait_until};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use vmalloc::{AllocError, AttachError, FreeError, OpenError, Pool, ShareError, core::Kind};

/// Goal: as many members as the pool has slots, and not one more; a slot that is left is free.
/// Method: 64 openings of one pool, then one more, then one less and one more.
#[test]
fn the_65th_member_is_told_that_the_pool_is_full() {
    let pool = Pool::create(MIB).unwrap();
    let mut others: Vec<Pool> = (0..63).map(|_| Pool::open(pool.share_path()).unwrap()).collect();
    let mut numbers: Vec<usize> = others.iter().map(Pool::member_number).collect();
    numbers.push(pool.member_number());
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=64).collect::<Vec<_>>());
    let full = Pool::open(pool.share_path()).unwrap_err();
    assert!(matches!(full, OpenError::Full { members: 64 }), "{full:?}");
    let left = others.swap_remove(20).member_number();
    assert_eq!(Pool::open(pool.share_path()).unwrap().member_number(), left);
    drop(others);
    assert_eq!(pool.members().len(), 1);
    assert_empty(&pool);
}

/// Goal: the slot of a killed member goes to the next, who recovers what it held.
/// Method: a pool with two slots; the peer in the second is killed with a buffer in hand.
#[test]
fn a_killed_member_s_slot_is_taken_over() {
    let pool = Pool::options().members(2).create(8 * MIB).unwrap();
    for _ in 0..5 {
        let mut first = Peer::of(&pool);
        assert_eq!(first.ok("number"), "2");
        first.ok("vmalloc 1000000");
        let full = Pool::open(pool.share_path()).unwrap_err();
        assert!(matches!(full, OpenError::Full { members: 2 }), "{full:?}");
        first.kill();
        let second = Pool::open(pool.share_path()).unwrap();
        assert_eq!(second.member_number(), 2);
        assert_eq!(pool.verify().unwrap().areas, 0);
        assert!(
            pool.members().iter().all(|member| member.alive == Some(true) || member.number == 1)
        );
    }
    assert_empty(&pool);
}

/// Goal: who joins while the only slot that is not a living member's is being recovered waits for
/// it, and is not told that the pool is full.
/// Method: a killed member in the second of two slots, and a recoverer that takes its time: its
/// locks, held by this test. Without the lock of a recoverer, the pool is full.
#[test]
fn joining_waits_for_a_slot_that_is_being_recovered() {
    let pool = Pool::options().members(2).create(8 * MIB).unwrap();
    let mut dead = Peer::of(&pool);
    dead.ok("vmalloc 100000");
    dead.kill();
    let (file, _) = file_of(&pool);
    let alive = keep_alive(&file, &[2]);
    let full = Pool::open(pool.share_path()).unwrap_err();
    assert!(matches!(full, OpenError::Full { members: 2 }), "{full:?}");
    drop(alive);

    let recoverer = as_if_recovering(&file, 2);
    std::thread::scope(|scope| {
        let joining = scope.spawn(|| Pool::open(pool.share_path()));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!joining.is_finished(), "it did not wait");
        drop(recoverer);
        let joined = joining.join().unwrap().expect("a slot that was being recovered");
        assert_eq!((joined.member_number(), joined.recovered_at_join().areas), (2, 1));
    });
    assert_empty(&pool);
}

/// What a process of the storm does: comes, works and goes, so many times.
pub fn storm(argument: &str) {
    let (path, seed) = argument.split_once(' ').unwrap();
    let mut random = Random(seed.parse().unwrap());
    for _ in 0..40 {
        let pool = match Pool::open(path) {
            Ok(pool) => pool,
            Err(OpenError::Full { .. }) => continue,
            Err(e) => panic!("{e:?}"),
        };
        let mut bufs = Vec::new();
        for _ in 0..random.of(0..10) {
            let mut buf = pool.vmalloc(random.of(1..200 * KIB) as usize).unwrap();
            buf.fill(1);
            bufs.push(buf);
        }
        if let Some(buf) = bufs.pop() {
            buf.share().unwrap().free().unwrap();
        }
    }
    say("done");
}

/// Goal: processes that come and go as fast as they can disturb neither each other nor the pool.
/// Method: four at a time, three slots, so that some find it full; one of them is killed.
#[test]
fn a_storm_of_joins_and_leaves_leaves_the_pool_whole() {
    let path = Scratch::new("storm");
    let pool = Pool::options().members(4).create_at(&path.0, 32 * MIB).unwrap();
    let mut peers: Vec<Peer> = (0..5)
        .map(|seed| {
            let mut command = command("storm");
            command.env("VMALLOC_TEST_ARGUMENT", format!("{} {seed}", path.0.display()));
            Peer::spawn(command)
        })
        .collect();
    std::thread::sleep(Duration::from_millis(20));
    peers.pop().unwrap().kill();
    for mut peer in peers {
        assert_eq!(peer.reply().as_deref(), Some("done"));
        assert!(peer.wait().success());
    }
    wait_until("the killed one's slot", || {
        pool.recover();
        pool.members().len() == 1
    });
    assert_empty(&pool);
}

/// Goal: two threads that look for dead members at once do not recover a living one.
/// Method: threads that recover all the time, while peers are killed and their slot taken over by
/// a member of this process, whose buffer must stay its own.
#[test]
fn regress_two_threads_do_not_recover_the_same_slot_twice() {
    let pool = Pool::options().members(2).create(16 * MIB).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    pool.recover();
                }
            });
        }
        for _ in 0..12 {
            let mut peer = Peer::of(&pool);
            peer.ok("vmalloc 100000");
            peer.kill();
            // Joins in the very moment in which the slot is free, and waits for it if need be.
            let next = Pool::open(pool.share_path()).expect("a slot that is being recovered");
            let bufs: Vec<_> = (1..20).map(|i| next.vmalloc(i * 5000).unwrap()).collect();
            std::thread::sleep(Duration::from_millis(3));
            let live = pool.areas().iter().filter(|area| area.kind == Kind::Live).count();
            assert_eq!(live, bufs.len(), "a living member's buffers were taken from it");
            assert_eq!(pool.members().len(), 2);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_empty(&pool);
}

/// What the process does that forks: see the test.
pub fn fork(_: &str) {
    let pool = Pool::options().members(2).create(16 * MIB).unwrap();
    let mut buf = pool.vmalloc(100_000).unwrap();
    buf.fill(1);
    let (to_freeze, frozen) = (pool.vmalloc(5000).unwrap(), pool.vzalloc(5000).unwrap());
    let frozen = frozen.freeze().unwrap();
    let shared = pool.vzalloc(5000).unwrap().share().unwrap();
    let token = frozen.token();
    let before = pool.verify().unwrap();

    // SAFETY:
    // 1. This process has two threads: this one, and the harness's, which waits for this test to
    //    end and holds no lock meanwhile. So the child finds none held by a thread it has not.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            assert!(matches!(pool.vmalloc(1), Err(AllocError::Forked)));
            assert!(matches!(pool.attach(&token), Err(AttachError::Forked)));
            assert!(matches!(pool.attach_shared(&token), Err(AttachError::Forked)));
            assert!(matches!(pool.free(&token), Err(FreeError::Forked)));
            let unpublished = to_freeze.freeze().unwrap_err();
            assert!(matches!(unpublished.error, ShareError::Forked));
            drop(unpublished.buf);
            assert!(matches!(frozen.free(), Err(FreeError::Forked)));
            assert_eq!(pool.purge().unwrap().areas, 0);
            assert_eq!(pool.recover().areas, 0);
            // A member of its own it can be.
            let own = Pool::open(pool.share_path()).unwrap();
            assert_eq!(own.member_number(), 2);
            drop(own.vmalloc(5000).unwrap());
            own.purge().unwrap();
            drop((own, shared, buf, pool));
        })) {
            Ok(()) => 0,
            Err(_) => 1,
        };
        // SAFETY:
        // 1. `_exit` returns to no Rust code; nothing is flushed or dropped twice.
        unsafe { libc::_exit(code) };
    }
    let pid = rustix::process::Pid::from_raw(pid).expect("fork");
    let status = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    assert_eq!(status.unwrap().unwrap().1.exit_status(), Some(0), "the child's asserts");

    assert_eq!(pool.verify().unwrap(), before);
    assert!(buf.iter().all(|&byte| byte == 1));
    assert_eq!(pool.members().len(), 1);
    to_freeze.freeze().unwrap().free().unwrap();
    drop(pool.vmalloc(MIB as usize).unwrap());
    shared.free().unwrap();
    frozen.free().unwrap();
    drop(buf);
    assert_empty(&pool);
    say("done");
}

/// Goal: a forked child is no member: each verb says so, dropping what it inherited harms nothing,
/// and the parent goes on as if nothing had been.
/// Method: a real fork, without exec, in a process that does nothing else.
#[test]
fn a_forked_child_is_refused_and_harms_nothing() {
    let mut peer = Peer::spawn(command("fork"));
    assert_eq!(peer.reply().as_deref(), Some("done"));
    assert!(peer.wait().success());
}

/// A forked child that only sleeps.
fn sleeping_child() -> rustix::process::Pid {
    // SAFETY:
    // 1. As in `fork`; and the child only sleeps.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        std::thread::sleep(Duration::from_secs(60));
        // SAFETY:
        // 1. As in `fork`.
        unsafe { libc::_exit(0) };
    }
    rustix::process::Pid::from_raw(pid).expect("fork")
}

/// What the process does whose child outlives it in the pool: see the test.
pub fn fork_and_leave(_: &str) {
    let path = Scratch::new("fork-leave");
    let pool = Pool::options().members(1).create_at(&path.0, MIB).unwrap();
    let child = sleeping_child();
    drop(pool);
    let again = Pool::open(&path.0);
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
    again.expect("the slot of a member that left, though its child has the description");
    drop(path);
    say("done");
}

/// What the process does that is killed while its child lives: see the test.
pub fn fork_and_die(path: &str) {
    let pool = Pool::open(path).unwrap();
    let _buf = pool.vmalloc(100_000).unwrap();
    let child = sleeping_child();
    say(&child.as_raw_nonzero().to_string());
    std::thread::sleep(Duration::from_secs(60));
}

/// Goal: a member that was killed is recovered while a child that it forked lives on.
/// Method: a real fork, whose parent is killed; the child is asked after, and ended at the end.
#[test]
fn a_killed_parent_is_recovered_while_its_forked_child_lives() {
    let pool = Pool::create(8 * MIB).unwrap();
    let mut command = command("fork-and-die");
    command.env("VMALLOC_TEST_ARGUMENT", pool.share_path());
    let mut parent = Peer::spawn(command);
    let child = parent.reply().unwrap().parse().unwrap();
    let child = rustix::process::Pid::from_raw(child).unwrap();
    assert_eq!(pool.members().len(), 2);
    parent.kill();
    // The child lets go of its parent's lock when it first runs, and that may be later.
    let mut recovered = 0;
    wait_until("the lock of the dead", || {
        recovered += pool.recover().areas;
        recovered > 0
    });
    let lives = rustix::process::test_kill_process(child);
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
    assert_eq!((recovered, lives), (1, Ok(())));
    assert_eq!(pool.members().len(), 1);
    assert_empty(&pool);
}

/// Goal: a member that leaves frees its slot, though a child that it forked still has its open
/// file description, and with it the lock.
/// Method: a pool with one slot; the parent leaves and joins again while the child sleeps.
#[test]
fn regress_a_member_that_leaves_is_gone_though_its_forked_child_is_not() {
    let mut peer = Peer::spawn(command("fork-and-leave"));
    assert_eq!(peer.reply().as_deref(), Some("done"));
    assert!(peer.wait().success());
}
