//! Several threads on one engine, and on two: nothing is given out twice, nothing is lost.

use std::thread;
use vmalloc_core::platform::Prot;
use vmalloc_core::{Area, Pages, Publish, Request};
use vmalloc_sim::{KernelConfig, Random, SimKernel};

const CONFIG: KernelConfig = KernelConfig {
    frames: Pages(1024),
    window: Pages(32 << 10),
    nodes: 1,
    spaces: 2,
    backings: 4096,
    lazy_pages_max: Pages(128),
    tlb: vmalloc_sim::TlbSize::DirectMapped(64),
    ..KernelConfig::USUAL
};

/// One thread's work: areas of its own, each stamped in its first and last word, and checked
/// before it goes. Whoever else was given one of the frames would spoil the stamp.
fn work(kernel: &SimKernel<'_>, thread: usize, rounds: u64) {
    let cpu = kernel.cpu(thread);
    let space = thread / vmalloc_sim::CPUS_PER_SPACE;
    let (engine, other) = (kernel.engine(space), kernel.engine(1 - space));
    let mut random = Random::new(thread as u64);
    let mut held: Vec<(Area, u64)> = Vec::new();
    let last = |area: &Area| vmalloc_core::VirtAddr(area.pages.end().addr().0 - 8);
    for round in 0..rounds {
        let stamp = (thread as u64) << 32 | round;
        if held.len() < 8 && random.below(3) > 0 {
            let mut request = Request::bytes((1 + random.below(24)) * 4096);
            if random.below(4) == 0 {
                request = request.zeroed();
            }
            if random.below(6) == 0 {
                request = request.no_reuse().align_bytes(1 << (12 + random.below(9)));
            }
            let Ok(area) = engine.vmalloc(&request) else { continue };
            cpu.store(area.addr(), stamp).unwrap();
            cpu.store(last(&area), stamp).unwrap();
            held.push((area, stamp));
        } else if let Some(at) = held.len().checked_sub(1).map(|max| random.below(max as u64 + 1)) {
            let (area, stamp) = held.swap_remove(at as usize);
            assert_eq!(cpu.load(area.addr()), Ok(stamp), "thread {thread}, round {round}");
            assert_eq!(cpu.load(last(&area)), Ok(stamp), "thread {thread}, round {round}");
            if random.below(4) == 0 {
                // Shared to the other space, which keeps it a moment longer than the owner.
                let token = engine.share(area.id, area.generation, Publish::Shared).unwrap();
                let guest = other.attach(&token, Prot::READ_WRITE);
                let _ = engine.vfree(area.addr()).unwrap();
                if let Ok(guest) = guest {
                    let _ = other.vunmap(guest.addr()).unwrap();
                }
            } else if engine.vfree(area.addr()).unwrap().over_limit {
                engine.purge_step().unwrap();
            }
        }
        if random.below(64) == 0 {
            let _ = (engine.stats(), engine.areas().count());
        }
    }
    for (area, stamp) in held {
        assert_eq!(cpu.load(area.addr()), Ok(stamp), "thread {thread}, at the end");
        let _ = engine.vfree(area.addr()).unwrap();
    }
}

fn run(threads: usize, rounds: u64) {
    SimKernel::run(CONFIG, |kernel| {
        thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || work(kernel, thread, rounds));
            }
        });
        assert_eq!(kernel.verify(), Ok(()));
        kernel.purge();
        assert_eq!(kernel.verify(), Ok(()));
        assert_eq!(kernel.frames_in_use(), Pages(0));
        for index in 0..kernel.spaces() {
            let stats = kernel.engine(index).stats();
            assert_eq!((stats.areas, stats.parked, stats.holes), (0, Pages(0), stats.window));
        }
    });
}

#[test]
fn two_threads_on_one_engine_lose_nothing() {
    run(2, 3_000);
}

#[test]
fn four_threads_on_two_engines_lose_nothing() {
    run(4, 2_000);
}

/// Goal: one free of an area succeeds, however many try. Method: all threads free all areas.
#[test]
fn each_area_is_freed_by_exactly_one_of_four_threads() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        for _ in 0..20 {
            let areas: Vec<Area> =
                (0..40).map(|_| engine.vmalloc(&Request::bytes(8192)).unwrap()).collect();
            let freed: usize = thread::scope(|scope| {
                let free_all = || areas.iter().filter(|a| engine.vfree(a.addr()).is_ok()).count();
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(free_all)).collect();
                threads.into_iter().map(|t| t.join().unwrap()).sum()
            });
            assert_eq!(freed, areas.len());
            kernel.purge();
            assert_eq!(kernel.verify(), Ok(()));
        }
    });
}

/// Goal: a chunk goes back to the holes when its last slot does, whoever else was about to take
/// one: it was left behind, empty, when the one who retired it and the one who claimed a slot of
/// it each saw the other and stepped back. Method: two threads that make and break the same chunk
/// as fast as they can; afterwards all must be holes.
#[test]
fn regress_chunk_was_left_behind_by_two_who_both_stepped_back() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let churn = || {
            for _ in 0..4_000 {
                let area = engine.vmalloc(&Request::bytes(4096).no_reuse()).unwrap();
                let _ = engine.vfree(area.addr()).unwrap();
            }
        };
        for round in 0..10 {
            thread::scope(|scope| {
                (0..3).for_each(|_| drop(scope.spawn(churn)));
            });
            kernel.purge();
            assert_eq!(kernel.verify(), Ok(()), "round {round}");
            let stats = engine.stats();
            assert_eq!(stats.holes, stats.window, "round {round}");
        }
    });
}

/// Goal: an address space is listed while it works: in address order, with every area that was
/// there all the time, once and as it is. Method: areas that stay, two threads at work beside
/// them, and listings by a third.
#[test]
fn areas_are_listed_while_others_allocate_and_free() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let stay: Vec<Area> =
            (1..=20).map(|pages| engine.vmalloc(&Request::bytes(pages * 4096)).unwrap()).collect();
        thread::scope(|scope| {
            let workers = [0, 1].map(|number| scope.spawn(move || work(kernel, number, 3000)));
            let mut listings = 0;
            while listings < 50 || workers.iter().any(|worker| !worker.is_finished()) {
                let listed: Vec<Area> = engine.areas().collect();
                let starts = listed.windows(2).all(|pair| pair[0].addr() < pair[1].addr());
                assert!(starts, "address order: {listed:?}");
                for area in &stay {
                    assert_eq!(listed.iter().filter(|other| *other == area).count(), 1);
                }
                listings += 1;
            }
        });
        for area in stay {
            let _ = engine.vfree(area.addr()).unwrap();
        }
    });
}
