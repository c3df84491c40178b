//! Waiting for others, and the names by which areas are found.

use crate::peer::{Peer, say};
use crate::support::{MIB, Random, assert_empty, file_of};
use rustix::event::{PollFd, PollFlags, poll};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use vmalloc::{NameError, Pool};

/// Longer than any wait that is not for good takes, on a machine however busy.
const LONG: Duration = Duration::from_secs(20);

/// Goal: who waits for a name wakes when another process gives it, long before its time is up; and
/// whose time is up has waited that long, and no longer.
#[test]
fn a_name_is_waited_for_across_processes() {
    let pool = Pool::create(16 * MIB).unwrap();
    let mut peer = Peer::of(&pool);
    let start = Instant::now();
    peer.tell("wait_name frames 20000");
    std::thread::sleep(Duration::from_millis(50));
    let frozen = pool.vmalloc(5000).unwrap().freeze().unwrap();
    pool.name(&frozen.token(), "frames").unwrap();
    assert_eq!(peer.reply(), Some(format!("ok {}", frozen.token())));
    assert!(start.elapsed() < LONG, "it slept until its time was up");

    let start = Instant::now();
    assert_eq!(peer.ok("wait_name nothing 300"), "none");
    assert!((Duration::from_millis(300)..LONG).contains(&start.elapsed()));
    frozen.free().unwrap();
    peer.dismiss();
    assert_empty(&pool);
}

/// Goal: two processes hand a word to and fro by waiting and notifying; a notifier that dies leaves
/// the other waiting for its timeout and no longer.
/// Method: 200 turns, which would take far longer than allowed if one wake-up in ten were lost.
#[test]
fn two_processes_take_turns_by_a_shared_word() {
    let pool = Pool::create(16 * MIB).unwrap();
    let shared = pool.vzalloc(4096).unwrap().share().unwrap();
    let mut peer = Peer::of(&pool);
    let key = peer.ok(&format!("attach_shared {}", shared.token()));
    let signal = shared.signal();
    let word = || shared.words()[0].load(std::sync::atomic::Ordering::SeqCst);
    for turn in 0..200 {
        peer.tell(&format!("wait_word {key} {} 20000", 2 * turn + 1));
        shared.words()[0].store(2 * turn + 1, std::sync::atomic::Ordering::SeqCst);
        signal.notify();
        assert_eq!(peer.reply().as_deref(), Some("ok true"));
        peer.tell(&format!("tell_word {key} {}", 2 * turn + 2));
        let came = signal.wait_for(LONG, || (word() == 2 * turn + 2).then_some(()));
        assert!(came.unwrap().is_some(), "turn {turn} was never told");
        assert_eq!(peer.reply().as_deref(), Some("ok"));
    }
    peer.kill_and_recover(&pool);
    let start = Instant::now();
    let came = signal.wait_for(Duration::from_millis(200), || (word() == 7).then_some(()));
    assert!(came.unwrap().is_none());
    assert!((Duration::from_millis(200)..LONG).contains(&start.elapsed()));
    shared.free().unwrap();
    assert_empty(&pool);
}

/// Goal: an event is readable once another process has published something, and not before.
#[test]
fn an_event_loop_is_woken_by_a_descriptor() {
    let pool = Pool::create(16 * MIB).unwrap();
    let mut peer = Peer::of(&pool);
    let event = pool.signal().event().unwrap();
    let readable = |timeout_ms: i64| {
        let timeout = rustix::fs::Timespec {
            tv_sec: timeout_ms / 1000,
            tv_nsec: timeout_ms % 1000 * 1_000_000,
        };
        let mut fds = [PollFd::new(&event, PollFlags::IN)];
        poll(&mut fds, Some(&timeout)).unwrap() == 1
    };
    assert!(!readable(20));
    let key = peer.ok("vmalloc 5000");
    assert!(!readable(20), "an allocation is nobody's business");
    let token = peer.token(&format!("freeze {key}"));
    assert!(readable(20_000));
    assert!(event.take());
    assert!(!readable(20) && !event.take());
    peer.ok(&format!("free {token}"));
    assert!(readable(20_000));
    drop(event);
    peer.dismiss();
    assert_empty(&pool);
}

/// Goal: a name leads to its area from any process, once, until it is taken away or the area goes;
/// then it can be another's.
#[test]
fn a_name_leads_to_its_area_until_either_goes() {
    let pool = Pool::create(16 * MIB).unwrap();
    let mut peer = Peer::of(&pool);
    let frozen = pool.vmalloc(5000).unwrap().freeze().unwrap();
    let shared = pool.vmalloc(5000).unwrap().share().unwrap();
    let (first, second) = (frozen.token(), shared.token());
    pool.name(&first, "camera/0").unwrap();
    pool.name(&first, [0xff, 0, b'\n']).unwrap();
    assert_eq!(peer.ok("named camera/0"), first.to_string());
    assert_eq!(peer.ok("named camera"), "none");
    let taken = peer.err(&format!("name {second} camera/0"));
    assert!(taken.contains("Taken"), "{taken}");
    assert_eq!(peer.ok("unname camera/0"), first.to_string());
    assert!(matches!(pool.unname("camera/0"), Err(NameError::Missing)));
    peer.ok(&format!("name {second} camera/0"));
    assert_eq!(pool.named("camera/0"), Some(second));
    let mut names = pool.names();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(names, [(b"camera/0".to_vec(), second), (vec![0xff, 0, b'\n'], first)]);

    frozen.free().unwrap();
    assert_eq!(pool.named([0xff, 0, b'\n']), None, "its area is gone");
    assert!(matches!(pool.name(&first, "late"), Err(NameError::Engine(_))));
    let other = Pool::create(MIB).unwrap();
    assert!(matches!(other.name(&second, "x"), Err(NameError::OtherPool { .. })));
    for bytes in [0, 65, 5000] {
        let error = pool.name(&second, vec![b'x'; bytes]).unwrap_err();
        assert!(matches!(error, NameError::Length { bytes: b } if b == bytes), "{error:?}");
    }
    pool.name(&second, [b'x'; 64]).unwrap();
    assert_eq!(pool.named([b'x'; 64]), Some(second));
    shared.free().unwrap();
    assert!(pool.names().is_empty());
    peer.dismiss();
    assert_empty(&pool);
}

/// Goal: a table that is full says so, and names of areas that are gone make room.
#[test]
fn a_full_table_of_names_is_an_error_until_an_area_goes() {
    let pool = Pool::create(16 * MIB).unwrap();
    let [first, second] = [1, 2].map(|_| pool.vmalloc(100).unwrap().freeze().unwrap());
    for i in 0..255 {
        pool.name(&first.token(), format!("a{i}")).unwrap();
    }
    pool.name(&second.token(), "b").unwrap();
    let full = pool.name(&first.token(), "c").unwrap_err();
    assert!(matches!(full, NameError::Full { names: 256 }), "{full:?}");
    second.free().unwrap();
    pool.name(&first.token(), "c").unwrap();
    assert_eq!(pool.names().len(), 256);
    first.free().unwrap();
    assert_empty(&pool);
}

/// What the process does that is killed: gives names and takes them away.
pub fn namer(argument: &str) {
    let (path, seed) = argument.split_once(' ').unwrap();
    let pool = Pool::open(path).unwrap();
    let mut random = Random(seed.parse().unwrap());
    let frozen = pool.vmalloc(100).unwrap().freeze().unwrap();
    say("working");
    loop {
        let name = format!("name-{}", random.of(0..8));
        if pool.name(&frozen.token(), &name).is_err() {
            pool.unname(&name).unwrap();
        }
    }
}

/// Goal: a process that dies while it changes names hangs nobody, and leaves no name twice or torn.
/// Method: 30 kills at random moments; then the word that a writer holds, left by a dead member.
#[test]
fn a_namer_that_is_killed_hangs_nobody() {
    let pool = Pool::create(16 * MIB).unwrap();
    let ours = pool.vmalloc(100).unwrap().freeze().unwrap();
    let mut random = Random(5);
    for seed in 0..30 {
        let mut peer = Peer::working("namer", &pool, seed);
        std::thread::sleep(Duration::from_micros(random.of(0..3000)));
        peer.kill();
        pool.name(&ours.token(), "ours").unwrap();
        pool.unname("ours").unwrap();
        let names = pool.names();
        for (name, _) in &names {
            assert_eq!(names.iter().filter(|(other, _)| other == name).count(), 1);
            let text = std::str::from_utf8(name).unwrap();
            let number: u64 = text.strip_prefix("name-").unwrap().parse().unwrap();
            assert!(number < 8);
        }
        pool.recover();
        for area in pool.areas() {
            if let Some(token) = pool.token_of(&area).filter(|token| *token != ours.token()) {
                pool.free(&token).unwrap();
            }
        }
        assert!(pool.names().is_empty());
    }
    // Word 19 says who writes: member 2, which is dead; then rubbish.
    let (file, _) = file_of(&pool);
    for held in [(1 << 8) | 2_u64, u64::MAX, 64] {
        file.write_all_at(&held.to_ne_bytes(), 19 * 8).unwrap();
        pool.name(&ours.token(), "ours").unwrap();
        assert_eq!(pool.unname("ours").unwrap(), ours.token());
    }
    // A member that lives and holds it: an error that says who, and no hang.
    let mut peer = Peer::of(&pool);
    let number: u64 = peer.ok("number").parse().unwrap();
    file.write_all_at(&number.to_ne_bytes(), 19 * 8).unwrap();
    let busy = pool.name(&ours.token(), "ours").unwrap_err();
    assert!(matches!(busy, NameError::Busy { member } if member as u64 == number), "{busy:?}");
    peer.kill_and_recover(&pool);
    pool.name(&ours.token(), "ours").unwrap();
    ours.free().unwrap();
    assert_empty(&pool);
}
