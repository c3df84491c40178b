//! The CPUs: a stack each, and a clock. Whoever's clock is least makes the next access.
//!
//! ```text
//!   CPU:    … access: its instructions go on its clock ─ is another's clock less? give way
//!             └ back again: the line is charged, the access takes effect …
//!   here:   least clock first ─▶ resume until it gives way
//! ```
//!
//! So accesses take effect in the order of the clocks, and a run is a function of its seed. Turns
//! are counted in a stretch of simulated time, after one that warms the caches.

use super::lines::{Charge, Costs, Lines, Ps};
use super::machine::be_cpu;
use super::outcome::{Outcome, hot_lines};
use super::work::{Site, Worker, Workload};
use crate::Random;
use generator::{Generator, Gn};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ptr;
use vmalloc_core::Geometry;
use vmalloc_core::sync::AtomicU64;
use vmalloc_core::sync::stepped::{Access, with_watch};

/// Words of a CPU's stack: a purge keeps a batch there.
const STACK_WORDS: usize = 1 << 15;
/// CPUs do not begin at the same moment.
const START_SPREAD: Ps = 2_000_000;

/// What to simulate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    /// How many CPUs, 128 at most.
    pub cpus: usize,
    /// What they do.
    pub workload: Workload,
    /// What that costs.
    pub costs: Costs,
    /// Instructions between two accesses, in thousandths.
    pub milli_instructions: u64,
    /// The window.
    pub geometry: Geometry,
    /// Areas that are there to be looked up.
    pub areas: usize,
    /// Turns that each CPU makes before, for nothing: until the window is as it stays.
    pub turns_before: u32,
    /// Simulated time to warm up in, then to count in.
    pub warm_up: Ps,
    /// Simulated time to count in.
    pub time: Ps,
    /// Where the random numbers begin.
    pub seed: u64,
}

/// What the accesses meet.
struct World {
    costs: Costs,
    /// Of the instructions between two accesses.
    between: Ps,
    random: Random,
    /// Where the engine's words begin.
    words: usize,
    lines: Lines,
    clocks: Vec<Ps>,
    /// What interrupts took, and its clock does not show yet.
    owed: Vec<Ps>,
    now_runs: usize,
    /// The least clock of the others.
    horizon: Ps,
    begin: Ps,
    end: Ps,
    is_counting: bool,
    turns: Vec<u64>,
    accesses: u64,
    shootdowns: u64,
    waited: Ps,
    moved: Ps,
}

std::thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fn with_world<R>(look: impl FnOnce(&mut World) -> R) -> R {
    WORLD.with_borrow_mut(|world| look(world.as_mut().expect("a run")))
}

/// Told of each access before it has an effect.
fn on_access(access: Access) {
    if with_world(World::is_to_wait) {
        give_way();
    }
    with_world(|world| world.charge(access));
}

/// Back to the loop that runs the CPUs; returns when this one is to go on.
#[expect(deprecated, reason = "a scope cannot be reached from a function that is told")]
fn give_way() {
    generator::yield_with(());
}

/// Told of each shootdown.
fn on_shootdown() {
    WORLD.with_borrow_mut(|world| {
        // Not yet, while the site is made.
        if let Some(world) = world {
            world.shoot_down();
        }
    });
}

impl World {
    /// The CPU works on to its next access. Whether others come first.
    fn is_to_wait(&mut self) -> bool {
        let cpu = self.now_runs;
        // A tenth more or less: else CPUs that do the same never meet, or always.
        let jitter = 900 + self.random.below(200);
        self.clocks[cpu] += self.between * jitter / 1000 + std::mem::take(&mut self.owed[cpu]);
        self.clocks[cpu] > self.horizon
    }

    fn charge(&mut self, access: Access) {
        let (cpu, costs) = (self.now_runs, self.costs);
        let now = self.clocks[cpu];
        if !self.is_counting && now >= self.begin {
            self.is_counting = true;
            self.lines.forget_counts();
        }
        let at = access.address.wrapping_sub(self.words) / costs.line_bytes;
        let Charge { end, waited, moved } =
            self.lines.touch(cpu, at, access.touch, access.order, now);
        self.clocks[cpu] = end;
        if self.is_counting && now < self.end {
            self.accesses += 1;
            // What is over with the stretch is not part of it.
            let (wait, way) = (now + waited, now + waited + moved);
            self.waited += wait.min(self.end) - now;
            self.moved += way.min(self.end) - wait.min(self.end);
        }
    }

    fn shoot_down(&mut self) {
        let (cpu, others) = (self.now_runs, self.clocks.len() - 1);
        self.clocks[cpu] += self.costs.shootdown + self.costs.shootdown_each * others as Ps;
        for (other, owed) in self.owed.iter_mut().enumerate() {
            *owed += if other == cpu { 0 } else { self.costs.interrupted };
        }
        self.shootdowns += u64::from(self.is_counting);
    }

    /// A turn is done. Whether another one begins.
    fn goes_on(&mut self) -> bool {
        let (cpu, now) = (self.now_runs, self.clocks[self.now_runs]);
        self.turns[cpu] += u64::from((self.begin..self.end).contains(&now));
        now < self.end
    }
}

/// Runs a setting on `words`, which are all zero and as many as its geometry needs. What the CPUs
/// hold in the end stays theirs, unless they `leave`: then it is freed and purged.
///
/// # Panics
///
/// If there are too few words, or the window is too small for the work.
#[must_use]
pub fn simulate(words: &[AtomicU64], setting: &Setting, leave: bool) -> Outcome {
    let Setting { cpus, workload, geometry, areas, seed, .. } = *setting;
    let site = Site::new(workload, words, geometry, cpus, areas, on_shootdown);
    let mut workers: Vec<Worker> = (0..cpus).map(|cpu| Worker::new(&site, cpu, seed)).collect();
    for _ in 0..setting.turns_before {
        workers.iter_mut().for_each(|worker| worker.turn(&site));
    }
    let outcome = work(words, setting, &site, &mut workers);
    if leave {
        workers.into_iter().for_each(|worker| worker.leave(&site));
        site.leave();
    }
    outcome
}

fn work(
    words: &[AtomicU64],
    setting: &Setting,
    site: &Site<'_>,
    workers: &mut [Worker],
) -> Outcome {
    let Setting { cpus, workload, costs, geometry, seed, .. } = *setting;
    let mut random = Random::new(seed);
    let clocks: Vec<Ps> = (0..cpus).map(|_| random.below(START_SPREAD)).collect();
    let begin = START_SPREAD + setting.warm_up;
    let mut queue: BinaryHeap<_> =
        clocks.iter().enumerate().map(|(cpu, clock)| Reverse((*clock, cpu))).collect();
    let world = World {
        costs,
        between: costs.instruction * setting.milli_instructions / 1000,
        random,
        words: ptr::from_ref(&words[0]).addr(),
        lines: Lines::new(costs, cpus),
        clocks,
        owed: vec![0; cpus],
        now_runs: 0,
        horizon: 0,
        begin,
        end: begin + setting.time,
        is_counting: false,
        turns: vec![0; cpus],
        accesses: 0,
        shootdowns: 0,
        waited: 0,
        moved: 0,
    };
    WORLD.set(Some(world));
    let mut stacks: Vec<Generator<'_, (), ()>> = workers
        .iter_mut()
        .map(|worker| {
            Gn::new_opt(STACK_WORDS, move || {
                loop {
                    worker.turn(site);
                    if !with_world(World::goes_on) {
                        break;
                    }
                }
            })
        })
        .collect();
    with_watch(on_access, || {
        while let Some(Reverse((_, cpu))) = queue.pop() {
            let horizon = queue.peek().map_or(Ps::MAX, |Reverse((clock, _))| *clock);
            with_world(|world| (world.now_runs, world.horizon) = (cpu, horizon));
            be_cpu(cpu);
            stacks[cpu].resume();
            if !stacks[cpu].is_done() {
                queue.push(Reverse((with_world(|world| world.clocks[cpu]), cpu)));
            }
        }
    });
    drop(stacks);
    let world = WORLD.take().expect("put there above");
    Outcome {
        cpus,
        workload,
        time: setting.time,
        turns: world.turns,
        accesses: world.accesses,
        shootdowns: world.shootdowns,
        waited: world.waited,
        moved: world.moved,
        hot: hot_lines(&world.lines, &geometry, costs.line_bytes),
    }
}

/// Accesses that a turn of one CPU makes, in thousandths: whatever they cost.
#[must_use]
pub fn accesses_each(words: &[AtomicU64], setting: &Setting) -> u64 {
    let outcome = simulate(words, &Setting { cpus: 1, ..*setting }, false);
    outcome.accesses * 1000 / outcome.turns.iter().sum::<u64>().max(1)
}
