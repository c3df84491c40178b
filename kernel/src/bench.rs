//! Instructions a call, where the emulator counts them: `-icount shift=0` makes a tick of the counter
//! an instruction. The workloads, their counts and the order in them are those of Linux's side,
//! `bench/linux-peer/vmalloc_bench.c`.
//!
//! The frame allocator is the engine's own and does real work; a purge every 32 MiB of parked pages,
//! which is Linux's limit for one CPU, is part of the count.

use crate::arch;
use crate::console::println;
use crate::machine::{KernelEngine, SHOOTDOWNS};
use crate::subject::with_engines;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use vmalloc_core::platform::Frames;
use vmalloc_core::{Extent, Order, Pages, Prot, Request, VirtAddr};
use vmalloc_sim::{Random, Setup};

const SETUP: Setup = Setup {
    frames: Pages(40 << 10),
    window: Pages(512 << 10),
    members: 1,
    lazy_pages_max: Pages(8192),
};

/// Frames that are shown in turn: more than may be parked, so that none is parked when its turn comes.
const RING: usize = 10_240;
/// From one to the next in the ring: they are no neighbours, and all have their turn.
const RING_STRIDE: usize = 7919;

/// Runs the workloads, and prints a line each.
pub fn run() {
    with_engines(SETUP, |parts, engines| {
        let engine = &engines[0];
        for pages in [1, 10, 100] {
            measure("vmalloc", pages, 200_000 / pages.max(10), || vmalloc(engine, pages));
        }
        let mut random = Random::new(1);
        measure("vmalloc_random_1000", 0, 1000, || vmalloc(engine, 1 + random.below(1000)));
        for pages in [1, 10, 100] {
            measure("vmalloc_no_reuse", pages, 1000, || no_reuse(engine, pages));
        }
        for pages in [1, 10] {
            let take =
                |_| Extent { start: parts.buddy.take(Order(0)).expect("a frame"), len: Pages(1) };
            let runs: Vec<Extent> = (0..pages).map(take).collect();
            measure("vmap", pages, 20_000, || {
                let area = engine.vmap(&runs, Prot::READ_WRITE).expect("room");
                arch::store(area.addr().0, 1).expect("mapped");
                relieve(engine, engine.vunmap(area.addr()).expect("live").over_limit);
            });
        }
        let take =
            |_| Extent { start: parts.buddy.take(Order(0)).expect("a frame"), len: Pages(1) };
        let ring: Vec<Extent> = (0..RING).map(take).collect();
        let mut at = 0;
        for pages in [1, 10] {
            measure("vmap_fresh", pages as u64, 20_000, || {
                let mut runs = [Extent::default(); 10];
                for run in &mut runs[..pages] {
                    at = (at + RING_STRIDE) % RING;
                    *run = ring[at];
                }
                let area = engine.vmap(&runs[..pages], Prot::READ_WRITE).expect("room");
                arch::store(area.addr().0, 1).expect("mapped");
                relieve(engine, engine.vunmap(area.addr()).expect("live").over_limit);
            });
        }
        ring.into_iter().for_each(|frame| parts.buddy.give(frame));
        for pages in [1, 10] {
            let take =
                || Extent { start: parts.buddy.take(Order(0)).expect("room"), len: Pages(1) };
            measure("frames", pages, 20_000, || {
                let mut taken = [const { None }; 10];
                taken[..pages as usize].fill_with(|| Some(take()));
                taken.into_iter().flatten().for_each(|frame| parts.buddy.give(frame));
            });
        }
        let take = |_| engine.vmalloc(&Request::bytes(4096)).expect("room").addr();
        let held: Vec<VirtAddr> = (0..15_000).map(take).collect();
        for pages in [1, 10] {
            measure("busy_vmalloc", pages, 20_000, || vmalloc(engine, pages));
        }
        for addr in held {
            let _ = engine.vfree(addr).expect("live");
        }
    });
}

fn vmalloc(engine: &KernelEngine<'_>, pages: u64) {
    let area = engine.vmalloc(&Request::bytes(pages * 4096)).expect("room");
    arch::store(area.addr().0, 1).expect("mapped");
    relieve(engine, engine.vfree(area.addr()).expect("live").over_limit);
}

/// Frames and mapping made and unmade each time: a purge each, of one area.
fn no_reuse(engine: &KernelEngine<'_>, pages: u64) {
    let area = engine.vmalloc(&Request::bytes(pages * 4096).no_reuse()).expect("room");
    arch::store(area.addr().0, 1).expect("mapped");
    let _ = engine.vfree(area.addr()).expect("live");
}

fn relieve(engine: &KernelEngine<'_>, over_limit: bool) {
    if over_limit {
        engine.relieve().expect("may wait");
    }
}

fn measure(name: &str, pages: u64, count: u64, mut run: impl FnMut()) {
    (0..count / 4).for_each(|_| run());
    let (start, flushes) = (arch::counter(), SHOOTDOWNS.load(Ordering::Relaxed));
    (0..count).for_each(|_| run());
    let instructions = arch::counter() - start;
    let shootdowns = SHOOTDOWNS.load(Ordering::Relaxed) - flushes;
    println!(
        "bench {name} pages={pages} count={count} instructions={instructions} \
         shootdowns={shootdowns}"
    );
}
