//! The workers: threads that all begin at once, each with the cases in an order of its own.
//!
//! ```text
//!   set up ─▶ gate opens ─┬ worker 0: case 4, case 1, …  ┐
//!                         └ worker 1: case 2, case 7, …  ┴▶ summaries
//! ```
//!
//! As the driver of Linux's module: none begins before all are there; Sattolo's shuffle, by which
//! nothing stays in its place; each case as often as asked for; the time divided by that.

use super::grace::Grace;
use super::linux_cases::{Case, Scale, cases};
use super::memory::Memory;
use super::subject::{Stage, Verdict};
use super::summary::{Summary, Worker};
use super::work::Work;
use indicatif::ProgressBar;
use std::cell::Cell;
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::Instant;
use vmalloc_sim::Random;

/// How the cases are run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub threads: usize,
    pub loops: u64,
    pub repeat: u64,
    pub seed: u64,
    pub sequential: bool,
    /// Of Linux's cases, in Linux's order.
    pub names: Vec<&'static str>,
    pub scale: Scale,
    /// What all workers together may hold.
    pub memory_pages: u64,
}

/// What the workers share.
struct Crew<'a, M> {
    stage: &'a M,
    plan: &'a Plan,
    bar: &'a ProgressBar,
    memory: Memory,
    grace: Grace,
    /// Held for writing until all workers are there: `false` then means that one is missing.
    gate: RwLock<bool>,
}

/// Runs the cases of `plan` on `stage`.
pub fn run<M: Stage>(stage: &M, plan: &Plan, bar: &ProgressBar) -> Verdict<Vec<Worker>> {
    let crew = Crew {
        stage,
        plan,
        bar,
        memory: Memory::new(plan.memory_pages),
        grace: Grace::new(plan.threads),
        gate: RwLock::new(false),
    };
    thread::scope(|scope| {
        let crew = &crew;
        let mut gate = crew.gate.write().unwrap_or_else(PoisonError::into_inner);
        let workers: Result<Vec<_>, _> = (0..plan.threads)
            .map(|index| {
                let name = format!("worker{index}");
                thread::Builder::new().name(name).spawn_scoped(scope, move || crew.work(index))
            })
            .collect();
        *gate = workers.is_ok();
        drop(gate);
        let workers = workers.map_err(|e| format!("no thread for a worker: {e}"))?;
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| "a worker panicked".into()))
            .collect()
    })
}

impl<M: Stage> Crew<'_, M> {
    fn work(&self, index: usize) -> Worker {
        let mut random = Random::new(self.plan.seed.wrapping_add(index as u64));
        let mut worker = Worker { worker: index, took_usec: 0, cases: Vec::new() };
        let subject = self.stage.subject(index);
        let wanted = |case: &Case<_>| self.plan.names.contains(&case.name);
        let cases: Vec<_> = cases().into_iter().filter(wanted).collect();
        let mut order: Vec<usize> = (0..cases.len()).collect();
        if !self.plan.sequential {
            sattolo(&mut order, &mut random);
        }
        if !*self.gate.read().unwrap_or_else(PoisonError::into_inner) {
            return worker;
        }
        let started = Instant::now();
        let mut work = Work {
            subject,
            loops: self.plan.loops,
            objects: self.plan.scale.objects,
            random,
            online: self.grace.online(index),
            bar: self.bar,
            untold: Cell::new(0),
        };
        for case in order.into_iter().map(|at| &cases[at]) {
            worker.cases.push(self.run_case(index, case, &mut work));
        }
        worker.took_usec = started.elapsed().as_micros() as u64;
        worker
    }

    fn run_case<'a>(
        &'a self,
        index: usize,
        case: &Case<M::Subject<'a>>,
        work: &mut Work<'_, M::Subject<'a>>,
    ) -> Summary {
        let mut summary = Summary::new(index, case.name, self.plan.repeat, self.plan.loops);
        let pages = (case.pages)(&self.plan.scale);
        let _ticket = work.online.offline(|| self.memory.ticket(pages));
        summary.count(case.is_xfail, || (case.run)(work).map(|()| None));
        summary
    }
}

/// Sattolo's shuffle: one cycle, so that nothing stays where it was.
fn sattolo(order: &mut [usize], random: &mut Random) {
    for i in (1..order.len()).rev() {
        order.swap(i, random.index(i));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shuffle_leaves_nothing_in_its_place_and_loses_nothing() {
        for seed in 0..100 {
            let mut order: Vec<usize> = (0..13).collect();
            sattolo(&mut order, &mut Random::new(seed));
            assert!(order.iter().enumerate().all(|(i, at)| i != *at), "{order:?}");
            order.sort_unstable();
            assert!(order.into_iter().eq(0..13));
        }
    }
}
