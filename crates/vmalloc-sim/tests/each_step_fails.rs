//! Every step of every verb fails once, and nothing is left behind.
//!
//! A verb is first run with nothing armed, and its steps are counted; then once for each step of
//! each kind, with that step failing:
//!
//! ```text
//!   fresh kernel ─ prepare ─ arm ─ verb ─┬─ refused: all as before
//!                                        └─ served after a purge
//!                 ─ verify ─ again, nothing armed: served ─ give all back ─ every frame is free
//! ```
//!
//! Once where waiting is allowed with nothing parked, once with something parked that a purge can
//! free, and once where nobody may wait, so that a half mapped area must be parked.

use vmalloc_core::platform::{Frames, Prot};
use vmalloc_core::{
    Area, Cache, Extent, Fill, Kind, Order, Pages, Pfn, Publish, Request, Token, VirtAddr,
};
use vmalloc_sim::{KernelConfig, SimKernel, Step};

/// What a verb finds, besides itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Setting {
    NothingParked,
    SomethingParked,
    MayNotWait,
}

const SETTINGS: [Setting; 3] =
    [Setting::NothingParked, Setting::SomethingParked, Setting::MayNotWait];

/// What was made before the verb runs.
struct Prepared {
    /// Single frames, no two side by side, that the test owns.
    frames: Vec<Pfn>,
    area: Area,
    token: Token,
}

/// A verb, run on what was prepared. `Ok` with the area it made, if it makes one.
type Verb = fn(&SimKernel<'_>, &Prepared) -> Result<Option<Area>, String>;

const CONFIG: KernelConfig = KernelConfig {
    frames: Pages(256),
    window: Pages(4096),
    nodes: 1,
    spaces: 2,
    backings: 256,
    lazy_pages_max: Pages(64),
    device_frames: Pages(64),
    ..KernelConfig::USUAL
};

fn prepare(kernel: &SimKernel<'_>, setting: Setting) -> Prepared {
    // Every other frame is the test's, so that areas are in pieces and need records.
    let mut frames: Vec<Pfn> = std::iter::from_fn(|| kernel.frames().take(Order(0)).ok()).collect();
    frames.sort();
    let (odd, even): (Vec<Pfn>, Vec<Pfn>) = frames.iter().partition(|pfn| pfn.0 % 2 == 1);
    even.iter().for_each(|&pfn| kernel.frames().give(single(pfn)));
    let engine = kernel.engine(0);
    let area = engine.vmalloc(&Request::bytes(9 * 4096)).unwrap();
    let shared = engine.vmalloc(&Request::bytes(7 * 4096)).unwrap();
    let token = engine.share(shared.id, shared.generation, Publish::Shared).unwrap();
    if setting != Setting::NothingParked {
        let parked = engine.vmalloc(&Request::bytes(5 * 4096)).unwrap();
        let _ = engine.vfree(parked.addr()).unwrap();
        let solo = engine.vmalloc(&Request::bytes(4096).align_bytes(1 << 20)).unwrap();
        let _ = engine.vfree(solo.addr()).unwrap();
    }
    kernel.hardware().set_may_wait(setting != Setting::MayNotWait);
    Prepared { frames: odd, area, token }
}

fn single(start: Pfn) -> Extent {
    Extent { start, len: Pages(1) }
}

/// What must be as before when a verb was refused.
fn in_use(kernel: &SimKernel<'_>) -> Vec<Area> {
    let areas = (0..kernel.spaces()).flat_map(|i| kernel.engine(i).areas());
    areas.filter(|area| !matches!(area.kind, Kind::Parked)).collect()
}

/// Runs `verb`, which works in window `window`, with each of its steps failing in turn; returns
/// how many steps there were.
fn fail_each_step(window: usize, verb: Verb) -> u64 {
    SETTINGS.into_iter().map(|setting| fail_each_step_in(setting, window, verb)).sum()
}

fn fail_each_step_in(setting: Setting, window: usize, verb: Verb) -> u64 {
    let counts = SimKernel::run(CONFIG, |kernel| {
        let prepared = prepare(kernel, setting);
        let plan = kernel.hardware().faults();
        plan.reset();
        verb(kernel, &prepared).expect("nothing was armed");
        Step::ALL.map(|step| (step, plan.seen(step)))
    });
    for (step, count) in counts {
        for n in 1..=count {
            fail_one(setting, window, verb, step, n);
        }
    }
    counts.iter().map(|(_, count)| count).sum()
}

fn fail_one(setting: Setting, window: usize, verb: Verb, step: Step, n: u64) {
    let name = format!("{setting:?}, {step:?} number {n}");
    SimKernel::run(CONFIG, |kernel| {
        let at_start = kernel.frames_in_use();
        let prepared = prepare(kernel, setting);
        let borrowed = Pages(prepared.frames.len() as u64);
        let (before, used) = (in_use(kernel), kernel.frames_in_use());

        kernel.hardware().faults().fail_nth(step, n);
        let made = verb(kernel, &prepared);
        assert_eq!(kernel.hardware().faults().fired(step), 1, "{name}: fired");
        kernel.hardware().faults().reset();

        assert_eq!(kernel.verify_with(borrowed), Ok(()), "{name}");
        if made.is_err() {
            assert_eq!(in_use(kernel), before, "{name}: changed by a call that failed");
            let parks = setting == Setting::MayNotWait;
            assert!(parks || kernel.frames_in_use() <= used, "{name}: holds more frames");
        }
        // One step failed once: with something to purge in its own window, the verb tries again. No
        // purge makes an allocator choose.
        let tries_again =
            setting == Setting::SomethingParked && window == 0 && step != Step::Policy;
        assert_eq!(made.is_ok(), tries_again, "{name}: {made:?}");
        if made.is_err() {
            verb(kernel, &prepared).unwrap_or_else(|e| panic!("{name}, then: {e}"));
        }
        assert_eq!(kernel.verify_with(borrowed), Ok(()), "{name}: after a second try");

        kernel.hardware().set_may_wait(true);
        give_all_back(kernel, &prepared.frames);
        assert_eq!(kernel.verify(), Ok(()), "{name}: at the end");
        assert_eq!(kernel.frames_in_use(), at_start, "{name}: frames at the end");
    });
}

fn give_all_back(kernel: &SimKernel<'_>, frames: &[Pfn]) {
    for index in 0..kernel.spaces() {
        let engine = kernel.engine(index);
        let live: Vec<Area> = engine.areas().filter(|a| a.kind != Kind::Parked).collect();
        for area in live {
            let _ = engine.free(area.id, area.generation).expect("live");
        }
    }
    kernel.purge();
    frames.iter().for_each(|&pfn| kernel.frames().give(single(pfn)));
}

fn told<T: Copy>(result: Result<T, impl ToString>) -> Result<Option<T>, String> {
    result.map(Some).map_err(|e| e.to_string())
}

#[test]
fn every_step_of_vmalloc_fails_cleanly() {
    let steps =
        fail_each_step(0, |kernel, _| told(kernel.engine(0).vmalloc(&Request::bytes(40 * 4096))));
    assert!(steps >= 3 * 40, "frames, a record, a table, and a map call for each extent: {steps}");
}

/// Goal: what failed in a caller that may not wait is parked, and nobody gets it before its flush: it may
/// show nothing. Method: one map call fails; the same request again, also with an area that is not
/// to be reused in any case.
#[test]
fn what_was_mapped_in_part_is_not_revived() {
    for request in [Request::bytes(5 * 4096), Request::bytes(5 * 4096).no_reuse()] {
        SimKernel::run(CONFIG, |kernel| {
            let engine = kernel.engine(0);
            kernel.hardware().set_may_wait(false);
            kernel.hardware().faults().fail_nth(Step::MapRun, 1);
            assert!(engine.vmalloc(&request).is_err());
            kernel.hardware().faults().reset();
            kernel.hardware().set_may_wait(true);
            assert_eq!(engine.stats().parked, Pages(5));
            let area = engine.vmalloc(&Request::bytes(5 * 4096).zeroed()).unwrap();
            assert_eq!(kernel.cpu(0).load(area.addr()), Ok(0));
            assert_eq!(engine.stats().revives, 0);
            assert_eq!(kernel.verify(), Ok(()));
        });
    }
}

#[test]
fn every_step_of_a_solo_vmalloc_fails_cleanly() {
    // More granules than a chunk's: mapped by several tables.
    fail_each_step(0, |kernel, _| {
        let request = Request::bytes(20 * 4096).align_bytes(2 << 20);
        told(kernel.engine(0).vmalloc(&request))
    });
}

#[test]
fn every_step_of_vzalloc_fails_cleanly() {
    let steps =
        fail_each_step(0, |kernel, _| told(kernel.engine(0).vzalloc(&Request::bytes(33 * 4096))));
    assert!(steps >= 3 * 33);
}

#[test]
fn every_step_of_vmap_fails_cleanly() {
    let steps = fail_each_step(0, |kernel, prepared| {
        let runs: Vec<Extent> = prepared.frames[..30].iter().rev().map(|&p| single(p)).collect();
        told(kernel.engine(0).vmap(&runs, Prot::READ_WRITE))
    });
    assert!(steps >= 3 * 30);
}

/// Goal: as for `vmap`. Method: a device's frames, no two of which are neighbours in their order.
#[test]
fn every_step_of_vmap_pfn_fails_cleanly() {
    let steps = fail_each_step(0, |kernel, _| {
        let device = kernel.hardware().ram().device_frames();
        let runs: Vec<Extent> = (0..30).rev().map(|i| single(Pfn(device.start.0 + i))).collect();
        told(kernel.engine(0).vmap_pfn(&runs, Prot::READ_WRITE.cached(Cache::Uncached)))
    });
    assert!(steps >= 3 * 30, "{steps}");
}

/// Goal: a physical range is shown or it is not. Method: `ioremap` and `memremap` of a device, and
/// `memremap` of RAM that no direct map shows.
#[test]
fn every_step_of_ioremap_and_memremap_fails_cleanly() {
    fn area_at(kernel: &SimKernel<'_>, addr: VirtAddr) -> Area {
        kernel.engine(0).find(addr).expect("it was made just now")
    }
    let ioremap: Verb = |kernel, _| {
        let phys = kernel.hardware().ram().device_frames().start.0 * 4096 + 0x123;
        let made = kernel.engine(0).ioremap(phys, 40 * 4096, Cache::Uncached);
        told(made.map(|addr| area_at(kernel, addr)))
    };
    let device: Verb = |kernel, _| {
        let phys = kernel.hardware().ram().device_frames().start.0 * 4096;
        let made = kernel.engine(0).memremap(phys, 9 * 4096, Cache::WriteCombining);
        told(made.map(|addr| area_at(kernel, addr)))
    };
    let ram: Verb = |kernel, prepared| {
        let phys = prepared.frames[3].0 * 4096;
        let made = kernel.engine(0).memremap(phys, 4096, Cache::WriteBack);
        told(made.map(|addr| area_at(kernel, addr)))
    };
    for verb in [ioremap, device, ram] {
        assert!(fail_each_step(0, verb) >= 3, "a map call in each setting");
    }
}

#[test]
fn every_step_of_attach_fails_cleanly() {
    let steps = fail_each_step(1, |kernel, prepared| {
        told(kernel.engine(1).attach(&prepared.token, Prot::READ))
    });
    assert!(steps >= 3 * 7);
}

/// Goal: sharing, freeing, purging and reserving have no step that can fail here. Method: count
/// them.
#[test]
fn share_free_purge_and_reserve_ask_the_machine_for_nothing() {
    let share: Verb = |kernel, prepared| {
        let area = &prepared.area;
        let shared = kernel.engine(0).share(area.id, area.generation, Publish::Frozen);
        shared.map(|_| None).map_err(|e| e.to_string())
    };
    let free: Verb = |kernel, prepared| {
        let freed = kernel.engine(0).vfree(prepared.area.addr());
        freed.map(|_| None).map_err(|e| e.to_string())
    };
    let purge: Verb = |kernel, _| {
        kernel.hardware().set_may_wait(true);
        kernel.engine(0).purge().map(|_| None).map_err(|e| e.to_string())
    };
    let reserve: Verb =
        |kernel, _| told(kernel.engine(0).get_vm_area(&Request::bytes(300 * 4096), Fill::Commit));
    for verb in [share, free, purge, reserve] {
        assert_eq!(fail_each_step(0, verb), 0);
    }
}

/// Goal: freeing never waits. Method: free with interrupts off, over the limit, strict areas too;
/// the simulated machine panics if somebody waits for other CPUs then.
#[test]
fn free_is_legal_with_interrupts_off() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let areas: Vec<Area> = (1..12)
            .map(|pages| engine.vmalloc(&Request::bytes(pages * 4096)).unwrap())
            .chain([engine.vmalloc(&Request::bytes(4096).no_reuse()).unwrap()])
            .collect();
        let off = kernel.hardware().interrupts_off();
        let mut over_limit = false;
        for area in &areas {
            over_limit |= engine.vfree(area.addr()).unwrap().over_limit;
        }
        assert!(over_limit, "67 pages are parked, 64 allowed");
        assert!(engine.purge_step().is_err(), "a purge waits");
        drop(off);
        kernel.purge();
        assert_eq!(kernel.verify(), Ok(()));
        assert_eq!(kernel.frames_in_use(), Pages(0));
    });
}
