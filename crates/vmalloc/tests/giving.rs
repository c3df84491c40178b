//! Buffers that go to another process whole.

use crate::peer::{Peer, say};
use crate::support::{KIB, MIB, Random, assert_empty};
use std::sync::atomic::{AtomicU32, Ordering};
use vmalloc::core::{self, Kind};
use vmalloc::{AttachError, Pool, ShareError, Token};

fn stale(error: &AttachError) -> bool {
    matches!(error, AttachError::Engine(core::AttachError::Stale { .. }))
}

/// Goal: what is given has its bytes in the other process, is writable there, and is nobody's here;
/// it comes back the same way, and no old token fits.
#[test]
fn a_given_buffer_is_the_takers_alone() {
    let pool = Pool::create(64 * MIB).unwrap();
    let mut peer = Peer::of(&pool);
    for bytes in [5000, 3 * MIB as usize] {
        let mut buf = pool.vmalloc(bytes).unwrap();
        buf.fill(1);
        let token = buf.give().unwrap();
        assert!(matches!(pool.attach(&token), Err(AttachError::Given)));
        assert!(matches!(pool.attach_shared(&token), Err(AttachError::Given)));
        let key = peer.ok(&format!("take {token}"));
        assert!(stale(&pool.take(&token).unwrap_err()));
        peer.ok(&format!("all {key} 1"));
        peer.ok(&format!("fill {key} 2"));
        let back = peer.token(&format!("give {key}"));
        assert_ne!(back, token);
        assert!(stale(&pool.take(&token).unwrap_err()));
        let buf = pool.take(&back).unwrap();
        assert!(buf.len() == bytes && buf.iter().all(|&byte| byte == 2));
        drop(buf);
        assert!(stale(&pool.take(&back).unwrap_err()));
        // What is published is attached to, not taken.
        let frozen = pool.vmalloc(bytes).unwrap().freeze().unwrap();
        assert!(matches!(pool.take(&frozen.token()), Err(AttachError::Frozen)));
        frozen.free().unwrap();
        assert_empty(&pool);
    }
}

/// Goal: what was given to one member is taken by no other, and a member that is none gets nothing.
#[test]
fn a_buffer_given_to_one_member_is_taken_by_no_other() {
    let pool = Pool::create(16 * MIB).unwrap();
    let (mut first, mut second) = (Peer::of(&pool), Peer::of(&pool));
    let number = second.ok("number").parse().unwrap();
    let token = pool.vmalloc(5000).unwrap().give_to(number).unwrap();
    assert!(first.err(&format!("take {token}")).contains("NotYours"));
    assert!(matches!(
        pool.take(&token),
        Err(AttachError::Engine(core::AttachError::NotYours { .. }))
    ));
    let key = second.ok(&format!("take {token}"));
    second.ok(&format!("drop {key}"));
    for nobody in [0, 60, 65, usize::MAX] {
        let mut unpublished = pool.vmalloc(5000).unwrap().give_to(nobody).unwrap_err();
        assert!(
            matches!(unpublished.error, ShareError::NoMember { member } if member == nobody),
            "{unpublished:?}"
        );
        unpublished.buf.fill(1);
    }
    first.dismiss();
    second.dismiss();
    assert_empty(&pool);
}

/// Goal: a gift that is never taken holds nothing back: its addressee leaves, or dies; or it was
/// for anybody, and somebody frees it. It outlives a giver that dies.
#[test]
fn a_gift_that_nobody_takes_is_not_lost() {
    let pool = Pool::create(16 * MIB).unwrap();
    for way in ["leaves", "dies", "freed", "giver dies"] {
        let mut peer = Peer::of(&pool);
        let number: usize = peer.ok("number").parse().unwrap();
        match way {
            "leaves" | "dies" => {
                let token = pool.vmalloc(MIB as usize).unwrap().give_to(number).unwrap();
                if way == "leaves" {
                    peer.dismiss();
                } else {
                    peer.kill_and_recover(&pool);
                }
                assert!(pool.take(&token).is_err(), "{way}");
            }
            "freed" => {
                let token = pool.vmalloc(MIB as usize).unwrap().give().unwrap();
                peer.ok(&format!("free {token}"));
                assert!(pool.take(&token).is_err(), "{way}");
                peer.dismiss();
            }
            _ => {
                let key = peer.ok("vmalloc 100000");
                peer.ok(&format!("fill {key} 7"));
                let token = peer.token(&format!("give {key}"));
                peer.kill_and_recover(&pool);
                let kinds: Vec<Kind> = pool.areas().iter().map(|area| area.kind).collect();
                assert!(kinds.contains(&Kind::Given), "{kinds:?}");
                assert!(pool.take(&token).unwrap().iter().all(|&byte| byte == 7));
            }
        }
        assert_empty(&pool);
    }
}

/// Goal: of many that redeem a token, exactly one gets the buffer, whoever they are.
/// Method: three threads of this member, and two peers, 60 times.
#[test]
fn a_gift_has_exactly_one_taker() {
    let pool = Pool::create(16 * MIB).unwrap();
    let mut peers = [Peer::of(&pool), Peer::of(&pool)];
    for round in 0..60 {
        let mut buf = pool.vmalloc(9000).unwrap();
        buf.fill(round);
        let token = buf.give().unwrap();
        peers.iter_mut().for_each(|peer| peer.tell(&format!("take {token}")));
        let here = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| match pool.take(&token) {
                    Ok(buf) => {
                        assert!(buf.iter().all(|&byte| byte == round));
                        here.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(e) => assert!(stale(&e), "{e:?}"),
                });
            }
        });
        let mut takers = here.load(Ordering::SeqCst);
        for peer in &mut peers {
            let reply = peer.reply().unwrap();
            if let Some(key) = reply.strip_prefix("ok ") {
                takers += 1;
                peer.ok(&format!("all {key} {round}"));
                peer.ok(&format!("drop {key}"));
            }
        }
        assert_eq!(takers, 1, "round {round}");
    }
    peers.into_iter().for_each(Peer::dismiss);
    assert_empty(&pool);
}

/// What the process does that is killed: gives to itself and to anybody, and takes.
pub fn giver(argument: &str) {
    let (path, seed) = argument.split_once(' ').unwrap();
    let pool = Pool::open(path).unwrap();
    let mut random = Random(seed.parse().unwrap());
    say("working");
    let mut tokens: Vec<Token> = Vec::new();
    loop {
        let mut buf = pool.vmalloc(random.of(1..200 * KIB) as usize).unwrap();
        buf.fill(3);
        tokens.push(match random.of(0..2) {
            0 => buf.give().unwrap(),
            _ => buf.give_to(pool.member_number()).unwrap(),
        });
        if tokens.len() > 4 {
            let token = tokens.swap_remove(random.of(0..4) as usize);
            assert!(pool.take(&token).unwrap().iter().all(|&byte| byte == 3));
        }
    }
}

/// Goal: a process that is killed while it gives and takes leaves each area with one owner: what it
/// had, and what was for it alone, goes; what was for anybody can be taken.
/// Method: 30 kills at random moments.
#[test]
fn a_giver_that_is_killed_leaves_every_area_with_one_owner() {
    let pool = Pool::create(16 * MIB).unwrap();
    let mut random = Random(9);
    for seed in 0..30 {
        let mut peer = Peer::working("giver", &pool, seed);
        std::thread::sleep(std::time::Duration::from_micros(random.of(0..5000)));
        peer.kill_and_recover(&pool);
        pool.verify().unwrap();
        for area in pool.areas() {
            match area.kind {
                Kind::Parked => {}
                Kind::Given => {
                    let token = pool.token_of(&area).unwrap();
                    assert!(pool.take(&token).unwrap().iter().all(|&byte| byte == 3));
                }
                _ => panic!("{area}"),
            }
        }
        assert_empty(&pool);
    }
}
