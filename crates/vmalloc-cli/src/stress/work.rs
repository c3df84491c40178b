//! What a worker hands to a case: its subject, numbers by seed, and a pulse to count its rounds.

use super::grace::Online;
use super::subject::Subject;
use indicatif::ProgressBar;
use std::cell::Cell;
use vmalloc_sim::Random;

/// Rounds that a worker does before it tells the progress bar.
const ROUNDS_TOLD: u64 = 256;

/// One worker's means.
pub struct Work<'a, S: Subject> {
    /// The machine, as this worker sees it.
    pub subject: S,
    /// How often a case of so many loops goes round. Linux: `test_loop_count`.
    pub loops: u64,
    /// Linux: `nr_pcpu_objects`.
    pub objects: u64,
    /// This worker's numbers.
    pub random: Random,
    /// For what is freed later.
    pub online: Online<'a>,
    /// Counts the rounds of all workers.
    pub bar: &'a ProgressBar,
    /// Rounds that the bar has not been told of.
    pub untold: Cell<u64>,
}

impl<S: Subject> Work<'_, S> {
    /// Called at the beginning of each round, where nothing is held that others have freed.
    pub fn round(&self) {
        self.online.quiescent();
        self.untold.set(self.untold.get() + 1);
        if self.untold.get() == ROUNDS_TOLD {
            self.bar.inc(self.untold.take());
        }
    }
}
