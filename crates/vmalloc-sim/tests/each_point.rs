//! Every call that the engine makes of a machine, and that may fail, walked by one test a machine.
//!
//! ```text
//!   the services, one after the other:          the sources of the engine: map_run(, take(, …
//!     count ─▶ fail each call, each kind ─▶ sites ──┴─▶ the same lines, but for those named here
//! ```
//!
//! `each_step_fails` looks closely at the verbs; this one makes sure that no call is left out. A
//! call that somebody adds is reached by a service, or is named here with the reason; and a method
//! that may fail, added to the traits of a machine, is one of those that are looked for.

use std::collections::BTreeSet;
use std::path::Path;
use vmalloc_core::frames::Buddy;
use vmalloc_core::platform::{Frames, Mapper};
use vmalloc_core::{Extent, Order, PageRange, Pages, Pfn, Request, Vpn};
use vmalloc_sim::points::{World, calls_in, missed, services};
use vmalloc_sim::{AddressSpace, FaultyFrames, KernelConfig, SimKernel, Site, Step};

/// The direct map can be split; pages of a device fill a huge leaf.
const CONFIG: KernelConfig = KernelConfig {
    frames: Pages(256),
    window: Pages(4096),
    spaces: 2,
    cpus_per_space: 1,
    backings: 16,
    lazy_pages_max: Pages(64),
    direct_map: true,
    device_frames: Pages(1300),
    beside: Pages(2048),
    watches_frames: true,
    ..KernelConfig::USUAL
};

/// A gigabyte boundary of the lower half that no engine's window is near.
const USER: PageRange = PageRange { start: Vpn(0x800_0000), len: Pages(2048) };

/// Below a root's entry of its own, in the kernel's half.
const BESIDE: PageRange =
    PageRange { start: Vpn(0xf_fff8_0000_0000 + (1 << 28)), len: Pages(2048) };

/// The methods of the traits that may fail, as calls of them begin.
const CALLS: [&str; 7] = [
    ".take(Order(",
    "frames.take(",
    ".take_bulk(",
    ".take_where(",
    ".reach(",
    ".map_run(",
    ".split(",
];

/// Of the traits, what is not looked for by that name, and why.
const NOT_BY_NAME: [(&str, &str); 2] = [
    ("take", "with what is taken: others take, too"),
    ("prepare", "with whose it is: tests prepare, too"),
];

/// The names of the services, in their order.
fn names() -> Vec<&'static str> {
    let services = services::<FaultyFrames<&Buddy<'static>>, AddressSpace>();
    services.iter().map(|(name, _)| *name).collect()
}

fn single(start: Pfn) -> Extent {
    Extent { start, len: Pages(1) }
}

/// What is there before a service, and must be there after it.
struct Kept {
    /// Every other frame but those of one block, so that areas are in pieces and need records.
    frames: Vec<Pfn>,
}

fn keep(kernel: &SimKernel<'_>) -> Kept {
    let mut all: Vec<Pfn> = std::iter::from_fn(|| kernel.frames().take(Order(0)).ok()).collect();
    all.sort();
    let is_kept = |pfn: &Pfn| pfn.0 % 2 == 1 && !(0x140..0x150).contains(&pfn.0);
    let (frames, given): (Vec<Pfn>, Vec<Pfn>) = all.iter().partition(|pfn| is_kept(pfn));
    given.iter().for_each(|&pfn| kernel.frames().give(single(pfn)));
    kernel.space(0).prepare(USER).unwrap();
    Kept { frames }
}

fn park(kernel: &SimKernel<'_>) {
    let engine = kernel.engine(0);
    let parked = engine.vmalloc(&Request::bytes(5 * 4096)).unwrap();
    let _ = engine.vfree(parked.addr()).unwrap();
}

/// Runs service `nth` of [`services`].
fn serve(kernel: &SimKernel<'_>, kept: &Kept, nth: usize) -> Result<(), String> {
    let world = World {
        engine: kernel.engine(0),
        guest: kernel.engine(1),
        hardware: kernel.space(0).clone(),
        frames: &kept.frames,
        pool: kernel.frames().extent(),
        device: kernel.hardware().ram().device_frames(),
        user: USER,
        beside: BESIDE,
    };
    let services = services::<FaultyFrames<&_>, AddressSpace>();
    services[nth].1(&world)
}

/// Nothing is left but what was kept. Page tables stay, and are all reachable.
fn settle(kernel: &SimKernel<'_>, kept: &Kept, context: &dyn Fn() -> String) {
    let borrowed = Pages(kept.frames.len() as u64);
    assert_eq!(kernel.verify_with(borrowed), Ok(()), "{}", context());
    kernel.purge();
    assert_eq!(kernel.verify_with(borrowed), Ok(()), "{}, purged", context());
    assert_eq!(kernel.frames_in_use(), borrowed, "{}: frames", context());
    assert_eq!(kernel.backings().in_use(), 0, "{}: backings", context());
    for index in 0..kernel.spaces() {
        let (engine, stats) = (kernel.engine(index), kernel.engine(index).stats());
        assert_eq!(engine.areas().count(), 0, "{}: areas", context());
        assert_eq!(stats.holes, stats.window, "{}: pages that are no hole", context());
    }
    for (space, pages) in [(0, USER), (0, BESIDE)] {
        assert_eq!(kernel.space(space).first_mapped(pages), None, "{}", context());
    }
}

/// Goal: every call to the machine can be made to fail, and what fails leaves nothing: frames, pages,
/// backings, tables, translations, counters. Method: each call of each service fails in turn, on a
/// kernel of its own, with and without something to purge; the calls met are those in the sources.
#[test]
fn every_point_of_the_machine_with_page_tables_is_walked_and_leaves_nothing() {
    let names = names();
    let (mut sites, mut failures, mut coped) = (BTreeSet::new(), 0, 0);
    let mut steps = BTreeSet::new();
    for (nth, what) in names.iter().enumerate() {
        for parked in [false, true] {
            let (counts, tables) = SimKernel::run(CONFIG, |kernel| {
                let kept = keep(kernel);
                if parked {
                    park(kernel);
                }
                let plan = kernel.hardware().faults();
                plan.reset();
                plan.note_sites();
                serve(kernel, &kept, nth).unwrap_or_else(|e| panic!("{what}: {e}"));
                let counts = Step::ALL.map(|step| (step, plan.seen(step)));
                sites.extend(plan.sites());
                settle(kernel, &kept, &|| (*what).to_owned());
                (counts, kernel.hardware().counters().tables_in_use)
            });
            for (step, count) in counts {
                for n in 1..=count {
                    let failed = fail_one(what, nth, parked, step, n, tables);
                    failures += u32::from(failed);
                    coped += u32::from(!failed);
                    steps.insert(format!("{step:?}"));
                }
            }
            let counted = counts.iter().map(|(step, n)| format!("{n} {step:?}"));
            println!("{what}, parked: {parked}: {}", Vec::from_iter(counted).join(", "));
        }
    }
    println!("{} sites, {failures} failures that were errors, {coped} coped with", sites.len());
    assert_eq!(steps.len(), Step::ALL.len(), "a kind of which no service has one: {steps:?}");
    look_for_missed(&sites);
}

fn fail_one(what: &str, nth: usize, parked: bool, step: Step, n: u64, tables: Pages) -> bool {
    SimKernel::run(CONFIG, |kernel| {
        let kept = keep(kernel);
        if parked {
            park(kernel);
        }
        kernel.hardware().faults().fail_nth(step, n);
        let done = serve(kernel, &kept, nth);
        let fired = kernel.hardware().faults().fired(step);
        kernel.hardware().faults().reset();
        let context = || format!("{what}, parked: {parked}: {step:?} number {n} fails: {done:?}");
        assert_eq!(fired, 1, "{}: not the same calls", context());
        settle(kernel, &kept, &context);
        serve(kernel, &kept, nth).unwrap_or_else(|e| panic!("{}, and then {e}", context()));
        settle(kernel, &kept, &context);
        let now = kernel.hardware().counters().tables_in_use;
        assert!(now <= tables, "{}: page tables, {tables} without a failure: {now}", context());
        done.is_err()
    })
}

/// Calls that only hand on what one of the others asks for.
const HANDED_ON: [&str; 4] =
    ["(**self)", "self.take_bulk(", "context.machine.prepare(", "context.machine.split("];

fn look_for_missed(sites: &BTreeSet<Site>) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let calls = calls_in(&here.join("../vmalloc-core/src"), "vmalloc-core/src", |line| {
        let is_asked = CALLS.iter().any(|call| line.contains(call)) || line.contains(".prepare(");
        is_asked && !HANDED_ON.iter().any(|call| line.contains(call))
    });
    assert_eq!(missed(&calls, sites), [""; 0], "no service comes by these calls");
    let tables = calls_in(&here.join("src"), "vmalloc-sim/src", |line| {
        line.contains("self.alloc(&mut state") || line.contains("self.alloc(state")
    });
    println!(
        "{} calls in the sources, {} of the simulated machine's own",
        calls.len(),
        tables.len()
    );
    // Not the root of a space, which no engine asks for: `tests/hardware.rs`.
    let text = std::fs::read_to_string(here.join("src/tables.rs")).unwrap();
    let new_root =
        text.lines().position(|line| line.contains("let root = self.alloc(")).unwrap() + 1;
    assert_eq!(missed(&tables, sites), [format!("vmalloc-sim/src/tables.rs:{new_root}")]);
}

/// Goal: a verb that finds no record for a backing leaves nothing. Method: as many records as the
/// service has not enough of, with and without something parked that has one.
#[test]
fn every_service_without_a_record_for_its_frames_fails_cleanly() {
    let names = names();
    for (nth, what) in names.iter().enumerate() {
        for parked in [false, true] {
            for backings in usize::from(parked).. {
                let config = KernelConfig { backings, ..CONFIG };
                let done = SimKernel::run(config, |kernel| {
                    let kept = keep(kernel);
                    if parked {
                        park(kernel);
                    }
                    let done = serve(kernel, &kept, nth);
                    let context = || format!("{what}, {backings} backings: {done:?}");
                    settle(kernel, &kept, &context);
                    done
                });
                if done.is_ok() {
                    println!("{what}, parked: {parked}: {backings} backings");
                    break;
                }
                assert!(backings < 8, "{what}: {done:?}");
            }
        }
    }
}

/// Goal: a method that may fail and is added to the traits is looked for above. Method: those that
/// return a `Result`, or how much they took, in the source of the traits.
#[test]
fn every_method_that_may_fail_is_looked_for() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vmalloc-core/src");
    let text = std::fs::read_to_string(core.join("platform.rs")).unwrap();
    let mut fallible = BTreeSet::new();
    for start in text.split("    fn ").skip(1) {
        let head = start.split(['{', ';']).next().unwrap();
        let fails = head.contains("-> Result") || head.contains("-> usize");
        if fails && !head.starts_with("fmt(") {
            fallible.insert(head.split('(').next().unwrap());
        }
    }
    let named = |name: &&&str| {
        CALLS.contains(&&*format!(".{name}(")) || NOT_BY_NAME.iter().any(|(not, _)| not == *name)
    };
    let unnamed: Vec<_> = fallible.iter().filter(|name| !named(name)).collect();
    assert!(unnamed.is_empty(), "{unnamed:?}");
    assert_eq!(fallible.len(), 7, "{fallible:?}");
}
