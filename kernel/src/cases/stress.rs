//! The loops of Linux's `test_vmalloc`, as far as a kernel this small has what they want, on both CPUs.

use super::interrupts::{churn, lend, lent};
use super::{BESIDE, Case};
use crate::arch;
use crate::console::println;
use crate::machine::{KernelEngine, SHOOTDOWNS};
use crate::smp::{self, Job};
use crate::subject::with_engines;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use vmalloc_core::platform::Frames;
use vmalloc_core::{Extent, Order, Pages, Prot, Request};
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
    let loops: [(&'static str, Loop); 8] = [
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
        ("vm_map_ram", vmap_loop),
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
