//! The paired runner: contenders in turns, so that each round sees the same machine.

use crate::table::Table;
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Batches a sample.
pub const BATCHES: usize = 9;

/// One contender of a case: a name, and what measures it once.
pub struct Contender<'a> {
    name: String,
    once: Box<dyn FnMut() -> f64 + 'a>,
}

impl<'a> Contender<'a> {
    /// A contender; `once` runs a batch and returns what one operation cost.
    pub fn new(name: impl Into<String>, once: impl FnMut() -> f64 + 'a) -> Contender<'a> {
        Contender { name: name.into(), once: Box::new(once) }
    }
}

/// What a case found.
#[derive(Serialize, Clone, Debug)]
pub struct Case {
    /// Its coordinates: `areas/churn/live=15000`.
    pub name: String,
    /// What was measured: `ns a pair`, say.
    pub unit: &'static str,
    /// What ours must reach against a peer, from the design's table.
    pub goals: Vec<Goal>,
    /// The rows; the first is ours.
    pub rows: Vec<Row>,
}

/// A budget: a peer's median over ours, at least.
#[derive(Serialize, Clone, Debug)]
pub struct Goal {
    /// The peer's name.
    pub peer: &'static str,
    /// The peer's cost divided by ours, at least.
    pub at_least: f64,
}

/// One contender's samples.
#[derive(Serialize, Clone, Debug)]
pub struct Row {
    /// Who.
    pub name: String,
    /// One a round.
    pub samples: Vec<f64>,
    /// Its cost over ours: the median of the rounds' ratios.
    pub ratio: f64,
    /// What else there is to say.
    pub note: String,
}

impl Row {
    /// The median of the samples.
    pub fn median(&self) -> f64 {
        quantile(&self.samples, 0.5)
    }

    /// The lower and the upper quartile.
    pub fn spread(&self) -> (f64, f64) {
        (quantile(&self.samples, 0.25), quantile(&self.samples, 0.75))
    }
}

/// Runs cases and keeps what they found.
pub struct Runner {
    /// Fewer rounds and sizes.
    pub quick: bool,
    /// Rounds a case: odd, so that the median is a sample.
    rounds: usize,
    /// Where random numbers begin.
    pub seed: u64,
    /// What was found so far.
    pub cases: Vec<Case>,
    /// What was counted so far.
    pub tables: Vec<Table>,
    /// The command `vmalloc`, where it was built.
    pub vmalloc: Option<PathBuf>,
    /// Counts of instructions are accepted, not judged.
    pub accept: bool,
    /// A count was more than was accepted: the run has failed.
    pub has_regressed: bool,
    names: Vec<String>,
}

impl Runner {
    /// A runner for the cases whose name begins with one of `names`.
    pub fn new(quick: bool, rounds: Option<usize>, seed: u64, names: Vec<String>) -> Runner {
        let rounds = rounds.unwrap_or(if quick { 5 } else { 15 });
        Runner {
            quick,
            rounds,
            seed,
            cases: Vec::new(),
            tables: Vec::new(),
            vmalloc: None,
            accept: false,
            has_regressed: false,
            names,
        }
    }

    /// Prints a table and keeps it.
    pub fn keep(&mut self, table: Table) {
        table.print();
        self.tables.push(table);
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty() && self.tables.is_empty()
    }

    /// Whether the case is wanted; ask before building its contenders.
    pub fn wants(&self, name: &str) -> bool {
        let fits = |n: &String| *n == name || name.starts_with(&format!("{n}/"));
        self.names.is_empty() || self.names.iter().any(fits)
    }

    /// Measures the contenders in turns, each round beginning with another one, and prints what
    /// came out. The first contender is ours. Returns the case, for notes.
    pub fn compare(
        &mut self,
        name: &str,
        unit: &'static str,
        goals: &[(&'static str, f64)],
        mut contenders: Vec<Contender<'_>>,
    ) -> &mut Case {
        let count = contenders.len();
        let mut samples = vec![Vec::new(); count];
        // Round 0 warms up, and is not counted.
        for round in 0..=self.rounds {
            for turn in 0..count {
                let who = (round + turn) % count;
                let sample = (contenders[who].once)();
                if round > 0 {
                    samples[who].push(sample);
                }
            }
        }
        let ours = samples[0].clone();
        let rows = contenders.iter().zip(samples).map(|(contender, samples)| {
            let ratios: Vec<f64> = samples.iter().zip(&ours).map(|(a, b)| a / b).collect();
            let (name, ratio) = (contender.name.clone(), quantile(&ratios, 0.5));
            Row { name, samples, ratio, note: String::new() }
        });
        let goals = goals.iter().map(|&(peer, at_least)| Goal { peer, at_least }).collect();
        self.cases.push(Case { name: name.to_owned(), unit, goals, rows: rows.collect() });
        let case = self.cases.last_mut().expect("pushed above");
        crate::report::print(case);
        case
    }
}

/// What one of the `count` operations of `work` costs, in ns: the median of a few batches, so that
/// one in which the thread had to wait for a CPU does not count.
pub fn ns_each(count: usize, mut work: impl FnMut()) -> f64 {
    let mut batch = || {
        let start = Instant::now();
        work();
        start.elapsed().as_nanos() as f64 / count as f64
    };
    let batches: [f64; BATCHES] = std::array::from_fn(|_| batch());
    quantile(&batches, 0.5)
}

/// The least that a batch of several threads takes: long beside the moment in which they start.
const BATCH_NS: u128 = 2_000_000;

/// Runs `work` on so many threads at once, and returns ns of wall time for each of all their
/// operations: half of one thread's if two threads scale perfectly.
///
/// From the first thread's start to the last one's end, so that a thread that waits for a CPU, a
/// lock or a cache line costs what it costs. Adding up what each thread saw while it ran would not
/// do: it says that eight threads on one CPU are eight times as fast as one.
pub fn ns_each_on(threads: usize, count: usize, work: impl Fn(usize) + Sync) -> f64 {
    let start = Instant::now();
    work(0);
    let once = start.elapsed().as_nanos().max(1);
    let turns = usize::try_from(BATCH_NS.div_ceil(once)).unwrap_or(1).clamp(1, 10_000);
    let work = &work;
    ns_in_batches(threads, BATCHES, turns * count, |thread| {
        move || (0..turns).for_each(|_| work(thread))
    })
}

/// The same for work that keeps something from batch to batch: each thread calls `start` once, and
/// what it returns once a batch, of `count` operations.
pub fn ns_in_batches<Work: FnMut()>(
    threads: usize,
    batches: usize,
    count: usize,
    start: impl Fn(usize) -> Work + Sync,
) -> f64 {
    let barrier = std::sync::Barrier::new(threads);
    let run = |thread: usize| {
        if threads <= std::thread::available_parallelism().map_or(1, usize::from) {
            have_a_cpu(thread);
        }
        let mut work = start(thread);
        let span = |_| {
            barrier.wait();
            let start = Instant::now();
            work();
            (start, Instant::now())
        };
        (0..batches).map(span).collect::<Vec<_>>()
    };
    let spans: Vec<Vec<(Instant, Instant)>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|t| {
                scope.spawn({
                    let run = &run;
                    move || run(t)
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().expect("a benchmark thread")).collect()
    });
    let operations = (threads * count) as f64;
    let each = |batch: usize| {
        let of_batch: Vec<_> = spans.iter().map(|spans| spans[batch]).collect();
        wall(&of_batch).as_nanos() as f64 / operations
    };
    quantile(&(0..batches).map(each).collect::<Vec<f64>>(), 0.5)
}

/// Keeps this thread on the `nth` of the CPUs that it may use: two that share one CPU for a batch of
/// 2 ms, because a scheduler has not moved them yet, would say nothing of what they do.
fn have_a_cpu(nth: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let Some(cpu) = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).nth(nth) else {
        return;
    };
    let mut mine = CpuSet::new();
    mine.set(cpu);
    // If it is refused the scheduler decides, as it does elsewhere.
    let _ = sched_setaffinity(None, &mine);
}

/// From the first start to the last end.
fn wall(spans: &[(Instant, Instant)]) -> Duration {
    let first = spans.iter().map(|(start, _)| *start).min();
    let last = spans.iter().map(|(_, end)| *end).max();
    first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first)
}

/// The value below which a share `q` of the samples lies.
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len => sorted[((len - 1) as f64 * q).round() as usize],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Goal: threads that ran one after the other are not said to have run at the same time.
    /// Method: two spans that only touch, in either order, and two that overlap by half.
    #[test]
    fn threads_that_took_turns_are_not_counted_as_parallel() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let in_turn = [(at(0), at(10)), (at(10), at(20))];
        assert_eq!(wall(&in_turn), Duration::from_millis(20));
        assert_eq!(wall(&[in_turn[1], in_turn[0]]), Duration::from_millis(20));
        assert_eq!(wall(&[(at(0), at(10)), (at(5), at(15))]), Duration::from_millis(15));
    }

    /// Goal: what a thread keeps stays with it from batch to batch, and no batch is left out.
    #[test]
    fn each_thread_starts_once_and_works_once_a_batch() {
        let (started, worked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let ns = ns_in_batches(2, 5, 1, |_| {
            started.fetch_add(1, Ordering::Relaxed);
            let mut batch = 0;
            let worked = &worked;
            move || {
                batch += 1;
                worked.fetch_add(batch, Ordering::Relaxed);
            }
        });
        assert!(ns.is_finite());
        assert_eq!((started.into_inner(), worked.into_inner()), (2, 2 * (1 + 2 + 3 + 4 + 5)));
    }
}
