//! What is parked and not used goes back to the system.

use crate::peer::Peer;
use crate::support::{MIB, assert_empty, resident, wait_until};
use std::time::Duration;
use vmalloc::Pool;

/// Goal: what nobody used between two calls goes, whichever member parked it, and what was used, by
/// whomever, stays. Method: this process and another park an area each, and between the calls the
/// other takes its own again.
#[test]
fn what_no_member_used_between_two_calls_goes() {
    let pool = Pool::create(64 * MIB).unwrap();
    let mut peer = Peer::of(&pool);
    drop(pool.vmalloc(5 << 20).unwrap());
    let ask = |peer: &mut Peer| {
        let key = peer.ok("vmalloc 9000000");
        peer.ok(&format!("fill {key} 3"));
        key
    };
    let key = ask(&mut peer);
    peer.ok(&format!("drop {key}"));
    assert_eq!(pool.decay().unwrap().areas, 0);
    let key = ask(&mut peer);
    peer.ok(&format!("drop {key}"));
    let before = resident(&pool);
    let purged = pool.decay().unwrap();
    assert_eq!((purged.areas, purged.pages.bytes(), purged.flushes), (1, 5 << 20, 1));
    assert_eq!(before - resident(&pool), 5 << 20);
    assert_eq!(pool.decay().unwrap().areas, 1);
    pool.verify().unwrap();
    drop(peer);
    pool.recover();
    assert_empty(&pool);
}

/// Goal: a watcher does so by itself, what is in use stays, and none goes when it has ended.
#[test]
fn a_watcher_gives_back_what_nobody_uses() {
    let pool = Pool::create(64 * MIB).unwrap();
    let mut used = pool.vmalloc(3 << 20).unwrap();
    used.fill(7);
    let watcher = pool.watch_and_decay(Duration::from_millis(1)).unwrap();
    drop(pool.vmalloc(5 << 20).unwrap());
    wait_until("the watcher", || pool.areas().len() == 1);
    assert!(used.iter().all(|&byte| byte == 7));
    drop(watcher);
    drop(used);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(pool.areas().len(), 1, "nobody watches any more");
    assert_empty(&pool);
}
