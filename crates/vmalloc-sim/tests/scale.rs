//! The model of many CPUs, on small windows. `cargo xtask model` runs it on one of 1 TiB.

use std::collections::BTreeSet;
use vmalloc_core::layout::LANES;
use vmalloc_core::{Geometry, Pages};
use vmalloc_sim::scale::{
    Costs, Outcome, Setting, Site, Words, Worker, Workload, accesses_each, simulate,
};

const COSTS: Costs = Costs {
    instruction: 100,
    change: 5_000,
    fence: 7_000,
    spin: 30_000,
    near: 50_000,
    far: 110_000,
    fetch: 20_000,
    shootdown: 1_000_000,
    shootdown_each: 200_000,
    interrupted: 500_000,
    socket: 64,
    line_bytes: 64,
    cache_lines: 4096,
};

/// 4 GiB.
const GEOMETRY: Geometry = Geometry::for_window(Pages(1 << 20));

fn setting(workload: Workload, cpus: usize) -> Setting {
    Setting {
        cpus,
        workload,
        costs: COSTS,
        milli_instructions: 20_000,
        geometry: GEOMETRY,
        areas: 1_000,
        turns_before: 10,
        warm_up: 20_000_000,
        time: 50_000_000,
        seed: 1,
    }
}

fn run(setting: &Setting) -> Outcome {
    simulate(&Words::new(setting.geometry.words()), setting, false)
}

/// Goal: a seed's figures come again, and another seed's are others. Method: each workload, on
/// more CPUs than there are lanes.
#[test]
fn the_same_seed_has_the_same_figures() {
    for workload in Workload::ALL {
        let setting = setting(workload, LANES + 3);
        let first = run(&setting);
        assert_eq!(first, run(&setting), "{workload:?}");
        assert_ne!(first, run(&Setting { seed: 2, ..setting }), "{workload:?}");
        assert!(first.accesses > 1_000, "{first:?}");
    }
}

/// Goal: CPUs with a lane each wait for nobody: the pair costs each of them what it costs one.
#[test]
fn cpus_in_lanes_of_their_own_do_not_meet() {
    let one = run(&setting(Workload::Pair, 1));
    let all = run(&setting(Workload::Pair, LANES - 1));
    assert_eq!(all.waited, 0, "{all:?}");
    assert!((all.ns_each() / one.ns_each() - 1.0).abs() < 0.02, "{one:?} {all:?}");
}

/// Goal: the lane that all share is where they wait, and the model names it.
#[test]
fn a_shared_lane_is_the_hottest_line() {
    let outcome = run(&setting(Workload::PairOneLane, 4));
    let (busy, moved) = outcome.shares();
    assert!(busy > 0.1 && moved > 0.1, "{outcome:?}");
    let names: BTreeSet<&str> = outcome.hot.iter().take(3).map(|hot| hot.name.as_str()).collect();
    let lane = format!("lane 0 of {LANES}, parked");
    assert!(names.contains(lane.as_str()), "{:?}", outcome.hot);
}

/// Goal: a shootdown costs whoever asks for it, and whoever is interrupted. Method: the same work
/// with shootdowns that cost nothing, much for one, and much for all.
#[test]
fn shootdowns_are_paid_by_all() {
    const DEAR: u64 = 100_000_000;
    let long = Setting { time: 1_000_000_000, ..setting(Workload::Purge, 4) };
    let free = Costs { shootdown: 0, shootdown_each: 0, interrupted: 0, ..COSTS };
    let turns = |costs: Costs| {
        let outcome = run(&Setting { costs, ..long });
        assert!(outcome.shootdowns > 0, "{outcome:?}");
        outcome.turns_a_second()
    };
    let (nothing, one) = (turns(free), turns(Costs { shootdown: DEAR, ..free }));
    let all = turns(Costs { shootdown: DEAR, interrupted: DEAR, ..free });
    let each = turns(Costs { shootdown_each: DEAR / 3, ..free });
    assert!(nothing > 1.1 * one && one > 1.1 * all, "{nothing} {one} {all}");
    assert_eq!(one as u64 / 1000, each as u64 / 1000, "three others, a third each");
}

/// Goal: what runs in the midst of each other's walks is the engine: when all have left, each
/// invariant holds, and nothing is left. Method: `Site::leave` looks.
#[test]
fn the_engine_is_whole_after_its_cpus_met() {
    for workload in Workload::ALL {
        let setting = setting(workload, 12);
        let words = Words::new(setting.geometry.words());
        let outcome = simulate(&words, &setting, true);
        assert!(outcome.accesses > 0, "{outcome:?}");
    }
}

/// Goal: the accesses of a turn are counted whatever they cost, and are some tens at most for a pair.
#[test]
fn accesses_do_not_depend_on_costs() {
    let setting = setting(Workload::Pair, 1);
    let count = |setting: &Setting| accesses_each(&Words::new(setting.geometry.words()), setting);
    let slow = Costs { change: 50_000, instruction: 1_000, ..COSTS };
    let (fast, slow) = (count(&setting), count(&Setting { costs: slow, ..setting }));
    // A turn that is cut by the end of the stretch counts in part.
    assert!(fast.abs_diff(slow) < fast / 20, "{fast} {slow}");
    assert!((5_000..100_000).contains(&fast), "{fast}");
}

/// Goal: each workload does what it says without a model, too: as `measure` runs it.
#[test]
fn workers_work_without_a_model() {
    for workload in Workload::ALL {
        let words = Words::new(GEOMETRY.words());
        let site = Site::new(workload, &words, GEOMETRY, 2, 1_000, || ());
        let mut workers = [0, 1].map(|cpu| Worker::new(&site, cpu, 1));
        for turn in 0..500 {
            workers[turn % 2].turn(&site);
        }
        workers.into_iter().for_each(|worker| worker.leave(&site));
        site.leave();
    }
}
