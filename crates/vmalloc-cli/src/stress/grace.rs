//! Grace periods, for what is freed later: `kvfree_rcu`.
//!
//! ```text
//!   worker 0  ──q────q──────q────     q: between two rounds it holds no reference to what others
//!   worker 1  ────q───────q──────        have given up
//!                  │start     │over: everybody has been at a q since
//! ```
//!
//! Quiescent-state-based reclamation. A worker that waits or has ended is offline, and held to be
//! quiescent all the time, so two that wait for each other do not hang. Linux: RCU.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

const OFFLINE: u64 = u64::MAX;

/// The workers' quiescent states.
pub struct Grace {
    epoch: AtomicU64,
    /// Of each worker, the epoch it saw at its last quiescent state.
    seen: Vec<AtomicU64>,
}

/// A worker that is online, until this is dropped.
pub struct Online<'a> {
    grace: &'a Grace,
    worker: usize,
}

/// A grace period that has begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Period(u64);

impl Grace {
    pub fn new(workers: usize) -> Grace {
        let seen = (0..workers).map(|_| AtomicU64::new(OFFLINE)).collect();
        Grace { epoch: AtomicU64::new(0), seen }
    }

    /// From here on `worker` must pass quiescent states.
    pub fn online(&self, worker: usize) -> Online<'_> {
        let online = Online { grace: self, worker };
        online.quiescent();
        online
    }

    /// Whether every worker has been quiescent since the period began.
    pub fn is_over(&self, period: Period) -> bool {
        self.seen.iter().all(|seen| seen.load(Ordering::SeqCst) >= period.0)
    }
}

impl Online<'_> {
    /// Says that this worker holds nothing that others have given up before.
    pub fn quiescent(&self) {
        // SeqCst, as everything here: who sees the period begun is after everything before it.
        let epoch = self.grace.epoch.load(Ordering::SeqCst);
        self.grace.seen[self.worker].store(epoch, Ordering::SeqCst);
    }

    /// Begins a grace period, for what was given up until now.
    pub fn begin(&self) -> Period {
        Period(self.grace.epoch.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// See [`Grace::is_over`].
    pub fn is_over(&self, period: Period) -> bool {
        self.grace.is_over(period)
    }

    /// Runs `body`, which may wait for others, offline.
    pub fn offline<R>(&self, body: impl FnOnce() -> R) -> R {
        self.grace.seen[self.worker].store(OFFLINE, Ordering::SeqCst);
        let result = body();
        self.quiescent();
        result
    }

    /// Waits until `period` is over. Linux: `synchronize_rcu`.
    pub fn wait(&self, period: Period) {
        self.offline(|| {
            while !self.is_over(period) {
                thread::yield_now();
            }
        });
    }
}

impl Drop for Online<'_> {
    fn drop(&mut self) {
        self.grace.seen[self.worker].store(OFFLINE, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_period_is_over_when_everybody_has_been_quiescent_and_no_sooner() {
        let grace = Grace::new(3);
        let (one, two) = (grace.online(0), grace.online(1));
        let period = one.begin();
        assert!(!one.is_over(period));
        one.quiescent();
        assert!(!one.is_over(period), "worker 1 may hold a reference still");
        two.quiescent();
        assert!(one.is_over(period), "worker 2 is not there");
    }

    #[test]
    fn workers_that_wait_or_have_ended_are_not_waited_for() {
        let grace = Grace::new(2);
        let (one, two) = (grace.online(0), grace.online(1));
        let period = one.begin();
        two.offline(|| one.wait(period));
        assert!(!grace.is_over(one.begin()));
        drop(two);
        one.wait(one.begin());
    }
}
