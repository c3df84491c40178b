//! The thirteen cases of Linux's `lib/test_vmalloc.c`, in sizes for a kernel with 32 MiB of frames.
//!
//! Reduced: hundreds of rounds, not a million; 3,000 areas in the busy list, not 15,000; 400 per-CPU
//! objects, not 35,000 (`percpu`); batches of 32, not 508 (`later`). `vmalloc stress` runs them at
//! Linux's sizes on a simulated machine. Nothing of the thirteen is left out.

use super::interrupts::{churn, lend, lent};
use super::{BESIDE, Case, later, percpu};
use crate::arch;
use crate::console::println;
use crate::machine::{self, KernelEngine, SHOOTDOWNS};
use crate::smp::{self, Job};
use crate::subject::{with_engines, words};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use vmalloc_core::map_ram::{BLOCK_PAGES, MapRam};
use vmalloc_core::platform::Frames;
use vmalloc_core::{
    Extent, Kind, Order, PageRange, Pages, Prot, PurgeError, Request, VirtAddr, Vpn,
};
use vmalloc_sim::{Random, Setup};

/// 32 MiB of frames, and a window of 256 MiB.
const LARGE: Setup =
    Setup { frames: Pages(8192), window: Pages(64 << 10), members: 1, lazy_pages_max: Pages(2048) };

static ROUNDS: AtomicU64 = AtomicU64::new(0);

pub fn allocate_beside() {
    let (engine, mut random) = (lent(), Random::new(11));
    for _ in 0..ROUNDS.load(Ordering::Acquire) {
        churn(engine, &mut random, 3);
    }
}

/// Goal: two CPUs that allocate at once never get the same page. Method: each writes marks of its
/// own and looks for them.
pub fn both_cpus_allocate() {
    with_engines(LARGE, |parts, engines| {
        let engine = &engines[0];
        ROUNDS.store(1500, Ordering::Release);
        BESIDE.store(2, Ordering::Release);
        lend(engine, || {
            smp::begin(Job::Beside, 0, 0);
            let mut random = Random::new(12);
            for _ in 0..1500 {
                churn(engine, &mut random, 4);
            }
            smp::wait().expect("no fault");
        });
        settle(engine, parts.buddy, LARGE.frames);
    });
}

fn settle(engine: &KernelEngine<'_>, buddy: &impl Frames, frames: Pages) {
    engine.purge().expect("may wait");
    engine.verify().expect("sound");
    assert_eq!(buddy.free(), frames, "frames that did not come home");
}

/// Goal: the list is one that a reader of Linux's knows. Prints it.
pub fn vmallocinfo() {
    with_engines(LARGE, |parts, engines| {
        let engine = &engines[0];
        let held: Vec<_> = [1, 2, 10, 100, 700]
            .map(|pages| engine.vmalloc(&Request::bytes(pages * 4096).caller(pages)).expect("room"))
            .into();
        let _ = engine.vfree(held[1].addr()).expect("live");
        println!("vmallocinfo:");
        let mut lines = 0;
        for area in engine.areas() {
            println!("{area}");
            lines += 1;
        }
        assert_eq!(lines, 5);
        for area in held.iter().filter(|area| area.addr() != held[1].addr()) {
            let _ = engine.vfree(area.addr()).expect("live");
        }
        settle(engine, parts.buddy, LARGE.frames);
        println!("shootdowns so far: {}", SHOOTDOWNS.load(Ordering::Relaxed));
    });
}

type Loop = fn(&KernelEngine<'_>, &dyn Frames, &mut Random);

/// Linux's names.
pub fn cases() -> impl Iterator<Item = Case> {
    let loops: [(&'static str, Loop); 14] = [
        ("fix_size_alloc", |e, _, _| each(e, 300, |_| Request::bytes(3 * 4096))),
        ("full_fit_alloc", full_fit),
        ("long_busy_list_alloc", long_busy_list),
        ("random_size_alloc", |e, _, random| {
            each(e, 200, |_| Request::bytes(4096 * (1 + random.below(100))))
        }),
        ("fix_align_alloc", |e, _, _| {
            each(e, 200, |_| Request::bytes(5 * 4096).align_bytes(1 << 16))
        }),
        ("random_size_align_alloc", |e, _, random| {
            each(e, 200, |_| {
                Request::bytes(4096 * (1 + random.below(10))).align_bytes(4096 << random.below(8))
            })
        }),
        ("align_shift_alloc", |e, _, _| {
            for shift in 0..48 {
                let request = Request::bytes(4096).align_bytes(1 << shift);
                match e.vmalloc(&request) {
                    Ok(area) => release(e, area.addr().0, 1 << shift),
                    Err(_) => assert!(shift > 20, "no room at 2^{shift}"),
                }
            }
        }),
        ("pcpu_alloc", |e, _, random| percpu::run(e, random)),
        ("kvfree_rcu_1_arg_vmalloc", |e, _, _| later::free_later(e, false)),
        ("kvfree_rcu_2_arg_vmalloc", |e, _, _| later::free_later(e, true)),
        ("vm_map_ram", map_ram),
        ("no_block_alloc", no_block),
        ("vrealloc", vrealloc),
        ("vmap_of_shuffled_frames", vmap_loop),
    ];
    loops.into_iter().map(|(name, run)| {
        let case = move || {
            with_engines(LARGE, |parts, engines| {
                run(&engines[0], parts.buddy, &mut Random::new(1));
                settle(&engines[0], parts.buddy, LARGE.frames);
            });
        };
        (name, Box::new(case) as Box<dyn Fn()>)
    })
}

fn each(engine: &KernelEngine<'_>, count: usize, mut request: impl FnMut(usize) -> Request) {
    for i in 0..count {
        let area = engine.vmalloc(&request(i)).expect("room");
        release(engine, area.addr().0, 1);
    }
}

fn release(engine: &KernelEngine<'_>, addr: u64, align: u64) {
    assert!(addr.is_multiple_of(align.max(4096)));
    arch::store(addr, addr).expect("mapped");
    if engine.vfree(vmalloc_core::VirtAddr(addr)).expect("live").over_limit {
        engine.relieve().expect("may wait");
    }
}

fn full_fit(engine: &KernelEngine<'_>, _: &dyn Frames, _: &mut Random) {
    let take = |_| engine.vmalloc(&Request::bytes(4096)).expect("room").addr();
    let held: Vec<_> = (0..1000).map(take).collect();
    for addr in held.iter().step_by(2) {
        let _ = engine.vfree(*addr).expect("live");
    }
    each(engine, 300, |_| Request::bytes(4096));
    for addr in held.iter().skip(1).step_by(2) {
        let _ = engine.vfree(*addr).expect("live");
    }
}

fn long_busy_list(engine: &KernelEngine<'_>, _: &dyn Frames, _: &mut Random) {
    let held: Vec<_> =
        (0..3000).map(|_| engine.vmalloc(&Request::bytes(4096)).expect("room").addr()).collect();
    each(engine, 100, |_| Request::bytes(100 * 4096));
    each(engine, 100, |_| Request::bytes(4096));
    for addr in held {
        let _ = engine.vfree(addr).expect("live");
    }
}

fn vmap_loop(engine: &KernelEngine<'_>, frames: &dyn Frames, random: &mut Random) {
    let take = |_| Extent { start: frames.take(Order(0)).expect("a frame"), len: Pages(1) };
    let mut runs: Vec<Extent> = (0..16).map(take).collect();
    for _ in 0..200 {
        random.shuffle(&mut runs);
        let area = engine.vmap(&runs, Prot::READ_WRITE).expect("room");
        arch::store(area.addr().0 + 15 * 4096, 1).expect("mapped");
        let _ = engine.vunmap(area.addr()).expect("live");
    }
    engine.purge().expect("may wait");
    runs.iter().for_each(|run| frames.give(*run));
}

/// A block of short-lived maps in the second window, which no engine has here.
fn map_ram(_: &KernelEngine<'_>, frames: &dyn Frames, _: &mut Random) {
    let start = Vpn(machine::window_of(1).start.0.next_multiple_of(BLOCK_PAGES.0));
    let window = PageRange { start, len: BLOCK_PAGES };
    let words = words(MapRam::<()>::words_needed(window.len, 2));
    let ram = MapRam::new(&words, 2, window, machine::mmu()).expect("a block");
    ram.prepare().expect("frames for the upper tables");
    let run = Extent { start: frames.take(Order(0)).expect("a frame"), len: Pages(1) };
    // Twice round the block: what was unmapped is flushed and used again.
    for round in 0..2 * BLOCK_PAGES.0 {
        let at = ram.vm_map_ram(arch::cpu(), &[run], Prot::READ_WRITE).expect("room").start.addr();
        arch::store(at.0 + 8, round).expect("mapped");
        ram.vm_unmap_ram(at, Pages(1)).expect("live");
    }
    let at = ram.vm_map_ram(arch::cpu(), &[run], Prot::READ).expect("room").start.addr();
    assert_eq!(arch::load(at.0 + 8), Ok(2 * BLOCK_PAGES.0 - 1), "the frame, by another address");
    ram.vm_unmap_ram(at, Pages(1)).expect("live");
    ram.vm_unmap_aliases().expect("may wait");
    assert!(arch::load(at.0).is_err() && smp::load_there(at.0).is_err());
    assert!(ram.is_sound());
    frames.give(run);
}

/// Who may not wait gets an area or an error, and no CPU is asked for anything.
fn no_block(engine: &KernelEngine<'_>, _: &dyn Frames, _: &mut Random) {
    for _ in 0..200 {
        let flushes = SHOOTDOWNS.load(Ordering::Relaxed);
        arch::interrupts_off();
        let area = engine.vmalloc(&Request::bytes(4096).no_wait().no_reuse()).expect("room");
        let stored = arch::store(area.addr().0, 1);
        let freed = engine.vfree(area.addr());
        let purged = engine.purge_step();
        arch::interrupts_on();
        assert!(stored.is_ok() && freed.is_ok(), "{stored:?}, {freed:?}");
        assert_eq!(purged, Err(PurgeError::MayNotWait));
        assert_eq!(SHOOTDOWNS.load(Ordering::Relaxed), flushes, "somebody was waited for");
        assert_eq!(engine.find(area.addr()).map(|area| area.kind), Some(Kind::Parked));
        engine.purge().expect("may wait");
    }
}

/// 1 page, 4, 1, a half, 1, in place; every second time with neighbours in the way, and more than
/// lies before them, so that it has to move.
fn vrealloc(engine: &KernelEngine<'_>, _: &dyn Frames, _: &mut Random) {
    let mut moves = 0;
    for round in 0..200 {
        let mut at = engine.vmalloc(&Request::bytes(4096)).expect("room").addr();
        let walls: Vec<VirtAddr> = (0..round % 2 * 20)
            .map(|_| engine.vmalloc(&Request::bytes(4096)).expect("room").addr())
            .collect();
        arch::store(at.0, round).expect("mapped");
        for bytes in [4 * 4096, 4096, 2048, 4096, round % 2 * 149 * 4096 + 4096] {
            let area = engine.vrealloc(Some(at), &Request::bytes(bytes)).expect("room");
            let now = area.expect("not of 0 bytes").addr();
            moves += u64::from(now != at);
            at = now;
            assert_eq!((arch::load(at.0), smp::load_there(at.0)), (Ok(round), Ok(round)));
            arch::store(at.0 + bytes - 8, !bytes).expect("mapped to the end");
        }
        walls.into_iter().chain([at]).for_each(|addr| release(engine, addr.0, 1));
    }
    assert!(moves > 50, "moved {moves} times");
}
