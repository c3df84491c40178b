//! Fill a pool, free half of it at random, and ask for one block of all that is free.
//!
//! An allocator inside one segment refuses a block of a quarter of the pool here, 0 of 20
//! (boost.interprocess, DPDK): what is free lies in pieces. This one gives all of it as one block.

use crate::support::{KIB, MIB, PAGE, Random, assert_empty};
use std::time::{Duration, Instant};
use vmalloc::Pool;

/// Runs one seed; returns what the longest piece was, in bytes, and how long the allocation of the
/// block took.
fn run(seed: u64, capacity: u64) -> (u64, Duration) {
    let pool = Pool::create(capacity).unwrap();
    let mut random = Random(seed);
    let mut bufs = Vec::new();
    let mut free = capacity;
    while free > 0 {
        let bytes = random.of(4 * KIB..4 * MIB + 1).min(free);
        let mut buf = pool.vmalloc(bytes as usize).unwrap();
        buf[0] = 1;
        free -= bytes.next_multiple_of(PAGE);
        bufs.push(buf);
    }
    assert!(pool.vmalloc(1).is_err(), "the pool is full");
    let mut longest = 0;
    let mut run_bytes = 0;
    let mut kept = Vec::new();
    for buf in bufs {
        if random.next().is_multiple_of(2) {
            let bytes = (buf.len() as u64).next_multiple_of(PAGE);
            free += bytes;
            run_bytes += bytes;
            longest = longest.max(run_bytes);
        } else {
            run_bytes = 0;
            kept.push(buf);
        }
    }
    let start = Instant::now();
    let mut block = pool.vmalloc(free as usize).unwrap();
    let took = start.elapsed();
    assert_eq!(block.len() as u64, free);
    block[0] = 2;
    block[free as usize - 1] = 3;
    assert!(kept.iter().all(|buf| buf[0] == 1), "a neighbour lost its contents");
    assert!(pool.vmas().unwrap() < 10, "{} VMAs", pool.vmas().unwrap());
    assert!(longest < free, "seed {seed} did not fragment the pool");
    drop(block);
    drop(kept);
    assert_empty(&pool);
    (longest, took)
}

fn run_all(seeds: std::ops::Range<u64>, capacity: u64) {
    let start = Instant::now();
    let count = seeds.end - seeds.start;
    let (mut worst, mut slowest) = (0, Duration::ZERO);
    for seed in seeds {
        let (longest, took) = run(seed, capacity);
        worst = worst.max(longest);
        slowest = slowest.max(took);
    }
    println!(
        "{count} of {count} seeds in pools of {} MiB: the longest free piece was {} MiB at most, \
         the block took {slowest:?} at most; {:?} in all",
        capacity / MIB,
        worst / MIB,
        start.elapsed()
    );
}

/// Goal: after half of a full pool was freed at random, one block of everything that is free
/// succeeds, with fewer than ten VMAs of the pool in the process.
/// Method: 20 seeds, sizes from 4 KiB to 4 MiB.
#[test]
fn one_block_takes_all_that_is_free_in_20_of_20_pools_of_256_mib() {
    run_all(0..20, 256 * MIB);
}

/// Goal and method as above, at eight times the size.
#[test]
fn one_block_takes_all_that_is_free_in_3_of_3_pools_of_2_gib() {
    run_all(0..3, 2048 * MIB);
}

/// Goal and method as above, all 20 seeds: each fills and empties 2 GiB of real memory.
#[test]
#[ignore = "a minute: cargo test -p vmalloc --test linux 20_of_20_pools_of_2_gib -- --ignored"]
fn one_block_takes_all_that_is_free_in_20_of_20_pools_of_2_gib() {
    run_all(0..20, 2048 * MIB);
}
