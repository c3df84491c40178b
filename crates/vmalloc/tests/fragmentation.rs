//! Fill a pool, free half of it at random, and ask for one block of all that is free.
//!
//! An allocator inside one segment refuses a block of a quarter of the pool here, 0 of 20
//! (boost.interprocess, DPDK): what is free lies in pieces. This one gives all of it as one block.

use crate::support::{KIB, MIB, PAGE, Random, assert_empty};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use vmalloc::{Buf, Pool};

/// A pool that was full, and of which half is free in pieces.
pub struct Half {
    /// What was not freed; its first and last bytes are 1.
    pub kept: Vec<Buf>,
    pub free_bytes: u64,
    /// The longest piece that a first fit would have had free.
    pub longest: u64,
}

impl Half {
    /// Fills the pool with areas of 4 KiB to 4 MiB, and frees about every second.
    pub fn of(pool: &Pool, seed: u64, capacity: u64) -> Half {
        let mut random = Random(seed);
        let mut bufs = Vec::new();
        let mut free_bytes = capacity;
        while free_bytes > 0 {
            let bytes = random.of(4 * KIB..4 * MIB + 1).min(free_bytes);
            let mut buf = pool.vmalloc(bytes as usize).unwrap();
            (buf[0], buf[bytes as usize - 1]) = (1, 1);
            free_bytes -= bytes.next_multiple_of(PAGE);
            bufs.push(buf);
        }
        assert!(pool.vmalloc(1).is_err(), "the pool is full");
        let (mut longest, mut run, mut kept) = (0, 0, Vec::new());
        for buf in bufs {
            if random.next().is_multiple_of(2) {
                let bytes = (buf.len() as u64).next_multiple_of(PAGE);
                free_bytes += bytes;
                run += bytes;
                longest = longest.max(run);
            } else {
                run = 0;
                kept.push(buf);
            }
        }
        assert!(longest < free_bytes, "seed {seed} did not fragment the pool");
        Half { kept, free_bytes, longest }
    }

    #[track_caller]
    pub fn assert_kept(&self) {
        let is_whole = |buf: &Buf| buf[0] == 1 && buf[buf.len() - 1] == 1;
        assert!(self.kept.iter().all(is_whole), "a neighbour lost its contents");
    }
}

/// Runs one seed; returns what the longest piece was, in bytes, and how long the allocation of the
/// block took.
fn run(seed: u64, capacity: u64) -> (u64, Duration) {
    let pool = Pool::create(capacity).unwrap();
    let half = Half::of(&pool, seed, capacity);
    let free = half.free_bytes;
    let start = Instant::now();
    let mut block = pool.vmalloc(free as usize).unwrap();
    let took = start.elapsed();
    assert_eq!(block.len() as u64, free);
    block[0] = 2;
    block[free as usize - 1] = 3;
    half.assert_kept();
    assert!(pool.vmas().unwrap() < 10, "{} VMAs", pool.vmas().unwrap());
    drop(block);
    let longest = half.longest;
    drop(half);
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

/// Where in the pool's file a byte lies: the kernel's own word.
fn file_offset(address: usize) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let offset = maps.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let number = |hex: &str| usize::from_str_radix(hex, 16).unwrap();
        let offset = number(fields.nth(1)?);
        (number(start)..number(end)).contains(&address).then(|| address - number(start) + offset)
    });
    offset.unwrap() as u64
}

/// Goal: large areas take as few words of claims as they can, each 16 MiB of the file, and share none,
/// so that two threads do not write the same one; where addresses are short they lie as close as they can.
/// Method: areas of 2, 16 and 7 MiB; a pool with 64 times its capacity of addresses, and one with 4.
#[test]
fn large_areas_lie_apart_where_addresses_are_plenty() {
    const WORD: u64 = 16 * MIB;
    for (times, is_apart) in [(64, true), (4, false)] {
        let pool = Pool::options().window_bytes(times * 256 * MIB).create(256 * MIB).unwrap();
        let bufs = [2, 16, 7, 2, 16].map(|mib| pool.vmalloc((mib * MIB) as usize).unwrap());
        let mut words = HashSet::new();
        let offsets = bufs.iter().map(|buf| (file_offset(buf.as_ptr().addr()), buf.len() as u64));
        let is_alone = offsets.clone().all(|(offset, bytes)| {
            let mut its = offset / WORD..(offset + bytes).div_ceil(WORD);
            its.clone().count() as u64 == bytes.div_ceil(WORD) && its.all(|word| words.insert(word))
        });
        assert_eq!(is_alone, is_apart, "{times} times: {:?}", offsets.collect::<Vec<_>>());
        drop(bufs);
        assert_empty(&pool);
    }
}

/// Goal: a pool whose large areas lie apart is never full while frames are free.
/// Method: filled with areas of 2 MiB, of which every second is freed; then all that is free as one.
#[test]
fn areas_that_lie_apart_leave_room_for_one_of_all_that_is_free() {
    let pool = Pool::create(256 * MIB).unwrap();
    let mut bufs: Vec<Option<Buf>> =
        (0..128).map(|_| Some(pool.vmalloc(2 * MIB as usize).unwrap())).collect();
    bufs.iter_mut().step_by(2).for_each(|buf| *buf = None);
    assert_eq!(pool.vmalloc(128 * MIB as usize).unwrap().len() as u64, 128 * MIB);
    pool.verify().unwrap();
    drop(bufs);
    assert_empty(&pool);
}
