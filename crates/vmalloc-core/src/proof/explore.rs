//! A scenario under loom: rounds until no thread reaches a word that is not loom's, then all of it.
//!
//! Each scenario runs three times: as written with `SeqCst` as loom takes it or, where it is said to
//! need more, with fences; then with a bug, which it must find.

extern crate std;

use super::told;
use crate::planted::{Bug, with_planted};
use crate::sync::AtomicU64;
use crate::sync::explored::{self, Ordered, Sequential};
use std::boxed::Box;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::string::String;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use std::vec::Vec;
use std::{format, println};

/// Executions of a round that only looks for words.
const LOOK: usize = 200;
/// More than this is no longer a scenario for loom.
const EXECUTIONS_MAX: usize = 2_000_000;

/// What is to be explored.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// How often a thread may be stopped where it need not be. `None`: as often as it can.
    pub(crate) preemptions: Option<usize>,
    /// What the scenario needs of `SeqCst`.
    pub(crate) needs: Sequential,
    /// The bug that it must find.
    pub(crate) canary: Canary,
    pub(crate) body: fn(),
}

/// A bug for a scenario to find.
#[derive(Clone, Copy)]
pub(crate) enum Canary {
    /// All orderings taken away.
    Unordered,
    /// `SeqCst` is `AcqRel`: what the scenario is said to need more than.
    AcqRel,
    /// One of the planted ones.
    Bug(Bug),
    /// The same with a step of the engine done wrongly, which must fail in these words.
    Assert(&'static str, fn()),
}

/// How a run went.
enum Outcome {
    Passed { executions: usize, words: usize },
    Failed(String),
}

impl Scenario {
    /// Explores it, as it is and with its bug.
    pub(crate) fn run(self) {
        told::run(self.name, || self.run_quietly());
    }

    fn run_quietly(self) -> Result<(), String> {
        let start = Instant::now();
        let as_written = Ordered::AsWritten;
        let (executions, words) = match self.explore(self.needs, as_written, None) {
            Outcome::Passed { executions, words } => (executions, words),
            Outcome::Failed(why) => return Err(why),
        };
        let seconds = start.elapsed().as_secs_f64();
        let (bug, wrong, found) = match self.canary {
            Canary::Unordered => ("no orderings", "", self.explore(self.needs, Ordered::Not, None)),
            Canary::AcqRel => {
                ("`SeqCst` as `AcqRel`", "", self.explore(Sequential::Plain, as_written, None))
            }
            Canary::Bug(bug) => {
                ("a planted bug", "", self.explore(self.needs, as_written, Some(bug)))
            }
            Canary::Assert(wrong, body) => {
                let scenario = Scenario { body, ..self };
                ("a step done wrongly", wrong, scenario.explore(self.needs, as_written, None))
            }
        };
        let why = match found {
            Outcome::Failed(why) if why.contains(wrong) => why,
            Outcome::Failed(why) => return Err(format!("not {wrong}, but {why}")),
            Outcome::Passed { executions, .. } => {
                return Err(format!("{bug} not found in {executions} executions"));
            }
        };
        let bound = self.preemptions.map_or("all".into(), |n| format!("{n}"));
        let needs = if self.needs == Sequential::Fenced { "yes" } else { "no" };
        let (name, why) = (self.name, told::cell(&why));
        println!(
            "loom: scenario | words | preemptions | executions | seconds | needs `SeqCst` | canary | found as"
        );
        println!(
            "loom: {name} | {words} | {bound} | {executions} | {seconds:.1} | {needs} | {bug} | {why}"
        );
        Ok(())
    }

    fn explore(&self, sequential: Sequential, ordered: Ordered, bug: Option<Bug>) -> Outcome {
        let mut words = BTreeSet::new();
        let mut limit = LOOK;
        loop {
            let (executions, reached, failure) =
                self.round(&words, limit, sequential, ordered, bug);
            match failure {
                _ if !reached.is_empty() => words.extend(reached),
                Some(why) => return Outcome::Failed(why),
                None if limit < EXECUTIONS_MAX && executions + 1 >= limit => limit = EXECUTIONS_MAX,
                None => {
                    assert!(executions + 1 < EXECUTIONS_MAX, "{}: not explored whole", self.name);
                    return Outcome::Passed { executions, words: words.len() };
                }
            }
        }
    }

    /// One round, on a thread of its own: a panic leaves loom's there as it was. How many
    /// executions, which new words, what failed.
    fn round(
        &self,
        words: &BTreeSet<usize>,
        limit: usize,
        sequential: Sequential,
        ordered: Ordered,
        bug: Option<Bug>,
    ) -> (usize, BTreeSet<usize>, Option<String>) {
        let scenario = *self;
        let count = Arc::new(AtomicUsize::new(0));
        let (words, counter) = (words.clone(), Arc::clone(&count));
        let reached = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
        let found = Arc::clone(&reached);
        let round = std::thread::spawn(move || {
            let mut builder = ::loom::model::Builder::new();
            builder.preemption_bound = scenario.preemptions;
            builder.max_branches = 100_000;
            builder.max_permutations = Some(limit);
            builder.checkpoint_interval = LOOK;
            explored::expect(&words);
            let check = || {
                builder.check(move || {
                    counter.fetch_add(1, Ordering::Relaxed);
                    explored::behave(sequential, ordered);
                    (scenario.body)();
                });
            };
            let checked = catch_unwind(AssertUnwindSafe(|| match bug {
                Some(bug) => with_planted(bug, check),
                None => check(),
            }));
            found.lock().unwrap().extend(explored::reached());
            checked.unwrap_or_else(|cause| resume_unwind(cause));
        });
        let failure = round.join().err().map(|cause| told::text(&*cause));
        let reached = reached.lock().unwrap().clone();
        (count.load(Ordering::Relaxed), reached, failure)
    }
}

/// What one thread does to what all share.
pub(crate) type Walk<W> = Box<dyn FnOnce(&W) + Send>;

/// Runs the walks at once, and each of them first in some executions.
///
/// Loom tries another order of two accesses where one of them changes a word and the *last* access
/// before it was the other thread's. So it passes over a load behind which the writer has loaded the word
/// itself, and a thread that loads and gives up is never tried late if it ran first.
pub(crate) fn race_each_first<W: Send + Sync + 'static>(
    world: &Arc<W>,
    words: impl Fn(&W) -> &[AtomicU64],
    walks: Vec<Walk<W>>,
) {
    let gate = Arc::new(::loom::sync::atomic::AtomicU64::new(0));
    explored::begin(words(world));
    let spawn = |walk: Walk<W>| {
        let (world, gate) = (Arc::clone(world), Arc::clone(&gate));
        ::loom::thread::spawn(move || {
            // Relaxed: it orders nothing, but loom tries both orders of two changes.
            gate.fetch_add(1, Ordering::Relaxed);
            walk(&world);
        })
    };
    let threads: Vec<_> = walks.into_iter().map(spawn).collect();
    for thread in threads {
        thread.join().expect("a thread that panics ends the execution");
    }
    explored::end(words(world));
}
