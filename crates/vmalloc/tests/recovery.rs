//! Death at any moment, while the others go on.

use crate::crash::image::as_if_recovering;
use crate::framed::assert_no_frame_is_out;
use crate::peer::{Peer, command, say};
use crate::support::{KIB, MIB, Random, Scratch, assert_empty, file_of, told, wait_until};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vmalloc::{AttachError, Buf, Holdings, Onlooker, Pool, Request, Token};

/// One round of work on a pool: allocate, write, check, publish, attach, free, in random sizes.
/// What is written is the round's byte, so that a page with two owners shows.
fn work(pool: &Pool, tokens: &mut Vec<Token>, random: &mut Random) {
    let bytes = match random.of(0..8) {
        0..5 => random.of(1..40 * KIB),
        5..7 => random.of(1..400 * KIB),
        _ => random.of(1..3 * MIB),
    };
    let mut request = Request::bytes(bytes);
    if random.of(0..8) == 0 {
        request = request.no_reuse();
    }
    let byte = random.of(1..256) as u8;
    let mut buf = pool.alloc(&request).unwrap_or_else(|e| panic!("{bytes} bytes: {e}"));
    buf.fill(byte);
    match random.of(0..4) {
        0 => {
            let frozen = buf.freeze().unwrap();
            let again = pool.attach(&frozen.token()).unwrap();
            tokens.push(frozen.token());
            drop(frozen);
            assert!(again.iter().all(|&b| b == byte), "somebody else wrote a frozen area");
        }
        1 => {
            let shared = buf.share().unwrap();
            tokens.push(shared.token());
            shared.write_at(0, &[byte]).unwrap();
        }
        _ => {
            let same = buf.iter().all(|&b| b == byte);
            assert!(same, "somebody else wrote a buffer of ours");
        }
    }
    while tokens.len() > random.of(0..12) as usize {
        let token = tokens.swap_remove(random.of(0..tokens.len() as u64) as usize);
        match pool.attach(&token) {
            Ok(frozen) => drop(frozen),
            Err(AttachError::Shared) => drop(pool.attach_shared(&token).unwrap()),
            Err(e) => panic!("{e}"),
        }
        pool.free(&token).unwrap();
    }
    if random.of(0..64) == 0 {
        let _ = pool.purge();
    }
}

/// What the process does that is killed: works until it is.
pub fn victim(argument: &str) {
    let (path, seed) = argument.split_once(' ').unwrap();
    let pool = Pool::open(path).unwrap();
    let mut random = Random(seed.parse().unwrap());
    let mut tokens = Vec::new();
    say("working");
    loop {
        work(&pool, &mut tokens, &mut random);
    }
}

/// What a process does that is to survive: works for as long as its parent listens.
pub fn survivor(argument: &str) {
    let (path, seed) = argument.split_once(' ').unwrap();
    let pool = Pool::open(path).unwrap();
    let stop = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (pool, stop, rounds) = (&pool, &stop, &rounds);
            let mut random = Random(seed.parse::<u64>().unwrap() + thread);
            scope.spawn(move || {
                let mut tokens = Vec::new();
                // Relaxed: it ends a loop, no more.
                while !stop.load(Ordering::Relaxed) {
                    work(pool, &mut tokens, &mut random);
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
                tokens.iter().for_each(|token| pool.free(token).unwrap());
            });
        }
        say("working");
        for _ in std::io::stdin().lines() {
            say(&rounds.load(Ordering::Relaxed).to_string());
        }
        stop.store(true, Ordering::Relaxed);
    });
    say("done");
}

fn spawn(role: &str, path: &Scratch, seed: u64) -> Peer {
    let mut command = command(role);
    command.env("VMALLOC_TEST_ARGUMENT", format!("{} {seed}", path.0.display()));
    let mut peer = Peer::spawn(command);
    assert_eq!(peer.reply().as_deref(), Some("working"));
    peer
}

/// Frees what members had published that are dead and recovered; returns how many areas that was.
fn free_orphans(pool: &Pool) -> u64 {
    let areas = pool.areas();
    let orphans = areas.iter().filter(|area| area.owner.is_none());
    let tokens = orphans.filter_map(|area| pool.token_of(area));
    tokens.map(|token| pool.free(&token).unwrap()).count() as u64
}

/// Goal: a process killed at any moment harms nobody and leaves nothing, while others work on the
/// same pool all the time.
/// Method: 100 kills, each 0 to 5 ms after the victim began; two processes of two threads each go
/// on, and must get on between any two kills; at the end the pool is whole, and empty once what
/// the dead had published is freed.
#[test]
fn a_hundred_kills_leave_the_pool_whole_while_others_go_on() {
    let path = Scratch::new("kills");
    let pool = Pool::create_at(&path.0, 64 * MIB).unwrap();
    a_hundred_kills(&pool, &path);
    assert_empty(&pool);
}

/// Goal: the same of a framed pool: no frame is lost, and none has two owners.
/// Method: as above; a page is filled with its owner's byte, and looked at again; at the end each
/// page of each area has a frame of its own, and no other frame is owned.
#[test]
fn a_hundred_kills_lose_no_frame_of_a_framed_pool_while_others_go_on() {
    let path = Scratch::new("kills-framed");
    let pool = Pool::options().framed().create_at(&path.0, 64 * MIB).unwrap();
    a_hundred_kills(&pool, &path);
    assert_no_frame_is_out(&pool);
    let all = pool.vmalloc(64 << 20).expect("every frame is free");
    drop(all);
    assert_no_frame_is_out(&pool);
}

fn a_hundred_kills(pool: &Pool, path: &Scratch) {
    let mut survivors = [spawn("survivor", path, 1000), spawn("survivor", path, 2000)];
    let mut random = Random(1);
    let (mut recovered, mut rounds, mut orphans) = (0, [0, 0], 0);
    let mut slowest = Duration::ZERO;
    for kill in 0..100 {
        let mut victim = spawn("victim", path, kill);
        std::thread::sleep(Duration::from_micros(random.of(0..5000)));
        victim.kill();
        let start = Instant::now();
        if kill % 2 == 0 {
            recovered += pool.recover().areas;
        }
        slowest = slowest.max(start.elapsed());
        orphans += free_orphans(pool);
        if kill % 10 == 9 {
            for (survivor, before) in survivors.iter_mut().zip(&mut rounds) {
                let now: u64 = survivor.ask("how many?").parse().unwrap();
                assert!(now > *before, "a survivor got nothing done");
                *before = now;
            }
        }
    }
    for mut survivor in survivors {
        survivor.hang_up();
        assert_eq!(survivor.reply().as_deref(), Some("done"));
        assert!(survivor.wait().success());
    }
    wait_until("recovery of the last", || {
        pool.recover();
        pool.members().len() == 1
    });
    let verified = pool.verify().unwrap();
    let last = free_orphans(pool);
    assert_eq!(last, verified.areas as u64, "who lives has freed all that is its own");
    println!(
        "100 kills, {recovered} areas recovered here, {slowest:?} at most; {rounds:?} rounds of \
         survivors; {} published areas of the dead",
        orphans + last
    );
}

/// Goal: no call fails for want of what another member is just recovering from a dead one: not an
/// allocation, nor a part of a reservation, nor a buffer or a shared area that is to be longer.
/// Method: a killed member that holds most of the pool, and a recoverer that takes its time: its
/// locks, held by this test.
#[test]
fn regress_memory_that_another_is_recovering_is_waited_for() {
    const BYTES: usize = 4 << 20;
    /// Takes so much in a pool, of which it gets an area of 2 MiB and a page, alone at its end.
    type Verb = fn(&Pool, Buf) -> Result<usize, String>;
    let verbs: [(&str, Verb); 4] = [
        ("allocate", |pool, _| told(pool.vmalloc(BYTES)).map(|buf| buf.len())),
        ("commit", |pool, _| {
            let mut reservation = told(pool.reserve(BYTES))?;
            told(reservation.commit(0..BYTES)).map(|()| BYTES)
        }),
        ("resize", |_, mut buf| told(buf.resize(BYTES)).map(|()| buf.len())),
        ("grow", |_, buf| {
            let mut shared = told(buf.share())?;
            let grown = told(shared.grow(BYTES)).map(|()| shared.len());
            told(shared.free()).and(grown)
        }),
    ];
    for (what, verb) in verbs {
        let pool = Pool::create(9 * MIB).unwrap();
        let mut dead = Peer::of(&pool);
        let number: usize = dead.ok("number").parse().unwrap();
        dead.ok(&format!("vmalloc {}", 6 * MIB));
        let (file, _) = file_of(&pool);
        let start = || pool.vmalloc((2 << 20) + 4096).unwrap();
        let before = verb(&pool, start()).unwrap_err();
        assert!(before.contains("NoFrames"), "{what}: {before}: it lives");
        dead.kill();
        let recoverer = as_if_recovering(&file, number);
        std::thread::scope(|scope| {
            let buf = start();
            let at_work = scope.spawn(|| verb(&pool, buf));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!at_work.is_finished(), "{what} did not wait: {:?}", at_work.join().unwrap());
            drop(recoverer);
            let found = at_work.join().unwrap();
            let found = found.unwrap_or_else(|e| panic!("{what}, memory that came back: {e}"));
            assert_eq!(found, BYTES, "{what}");
        });
        assert_empty(&pool);
    }
}

/// Goal: a request that must not fail waits while a living member holds the memory, and not for
/// a dead one. Method: the same member, killed while it waits; nobody else comes.
#[test]
fn regress_a_request_that_must_not_fail_does_not_wait_for_the_dead() {
    let pool = Pool::create(8 * MIB).unwrap();
    let mut peer = Peer::of(&pool);
    peer.ok(&format!("vmalloc {}", 6 * MIB));
    // Not in a scope: if it hangs, this test need not.
    let asking = pool.clone();
    let at_work =
        std::thread::spawn(move || asking.alloc(&Request::bytes(4 * MIB).no_fail()).map(drop));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!at_work.is_finished(), "{:?}", at_work.join());
    peer.kill();
    wait_until("memory that a dead member held", || at_work.is_finished());
    at_work.join().unwrap().unwrap();
    assert_empty(&pool);
}

/// Goal: a watcher recovers who dies, though nobody calls a verb, while others work; it stops when
/// it is dropped, and then nothing is recovered until somebody comes.
/// Method: two members are killed, one after the other; what becomes of them is seen from outside,
/// by one who only looks. A third member works all the time.
#[test]
fn a_watcher_recovers_the_dead_though_nobody_calls_a_verb() {
    let path = Scratch::new("watch");
    // So large that the member at work always finds room: else it would recover the dead.
    let pool = Pool::create_at(&path.0, 1 << 30).unwrap();
    let onlooker = Onlooker::open(&path.0).unwrap();
    let mut survivor = spawn("survivor", &path, 7);
    let watcher = pool.watch().unwrap();
    for _ in 0..2 {
        let mut victim = Peer::of(&pool);
        let number: usize = victim.ok("number").parse().unwrap();
        victim.ok("vmalloc 100000");
        victim.kill();
        wait_until("the watcher", || onlooker.members().iter().all(|m| m.number != number));
        assert_eq!(onlooker.holdings(number), Holdings::default());
    }
    drop(watcher);
    assert_ne!(survivor.ask("how many?"), "0");
    survivor.dismiss();

    let mut victim = Peer::of(&pool);
    victim.ok("vmalloc 100000");
    victim.kill();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(onlooker.members().len(), 2, "nobody watches any more");
    assert_eq!(pool.recover().areas, 1);
    assert_empty(&pool);
}
