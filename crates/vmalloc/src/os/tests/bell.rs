//! Bells: one word of the pool, two mappings, two threads.

use crate::os::tests::pool;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Goal: a ring through one mapping wakes who sleeps on the same word through another, which is
/// what two processes have.
/// Method: ring until the kernel says that somebody woke.
#[test]
fn a_ring_wakes_who_sleeps_on_another_mapping_of_the_word() {
    let here = pool("bell", 1 << 20);
    let there = crate::os::map::Mapping::new(Arc::clone(here.file()), 4096).unwrap();
    let ends = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ends);
    let sleeper = std::thread::spawn(move || {
        let bell = there.bell(64).unwrap();
        // A ring before it sleeps wakes nobody: it sleeps again until it is told to end.
        while !end.load(Ordering::SeqCst) {
            bell.wait(bell.count(), Duration::from_secs(60)).unwrap();
        }
    });
    let bell = here.bell(64).unwrap();
    let start = Instant::now();
    while bell.ring() == 0 {
        assert!(start.elapsed() < Duration::from_secs(30), "nobody woke");
        std::thread::sleep(Duration::from_millis(20));
    }
    ends.store(true, Ordering::SeqCst);
    bell.ring();
    sleeper.join().unwrap();
    assert!(!bell.wait(bell.count(), Duration::from_millis(5)).unwrap(), "nobody rang");
    assert!(here.bell(4096).is_err() && here.bell(4).is_err(), "not a word of the first part");
}
