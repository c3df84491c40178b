//! What a run says: a line a case and worker, as Linux's module prints it, and JSON.

use super::subject::{Settled, Stop, Verdict};
use serde::Serialize;
use std::fmt;
use std::time::{Duration, Instant};

/// What became of one case at one worker.
#[derive(Serialize, Debug)]
pub struct Summary {
    pub worker: usize,
    pub case: &'static str,
    pub passed: u64,
    pub failed: u64,
    /// Failures that were expected.
    pub xfailed: u64,
    pub repeat: u64,
    pub loops: u64,
    /// Microseconds a repetition.
    pub avg_usec: u64,
    /// Why this machine cannot run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsupported: Option<&'static str>,
    /// Why it failed, the first time, expected or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What the case saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saw: Option<String>,
}

/// What one worker did.
#[derive(Serialize, Debug)]
pub struct Worker {
    pub worker: usize,
    /// Microseconds from its first case to the end of its last.
    pub took_usec: u64,
    pub cases: Vec<Summary>,
}

/// All of it, for programs.
#[derive(Serialize, Debug)]
pub struct Report {
    pub machine: &'static str,
    pub seed: u64,
    pub cpus: u32,
    pub threads: usize,
    pub workers: Vec<Worker>,
    /// The cases that have a machine for themselves.
    pub alone: Vec<Summary>,
    /// The check at the end of Linux's cases; `None`: none of them ran.
    pub settled: Option<Settled>,
    /// What that check found to be wrong.
    pub leaked: Option<String>,
    pub elapsed_ms: u64,
}

impl Summary {
    pub fn new(worker: usize, case: &'static str, repeat: u64, loops: u64) -> Summary {
        Summary {
            worker,
            case,
            passed: 0,
            failed: 0,
            xfailed: 0,
            repeat,
            loops,
            avg_usec: 0,
            unsupported: None,
            why: None,
            saw: None,
        }
    }

    /// Runs a case `repeat` times and counts. Returns how long it all took.
    pub fn count(
        &mut self,
        is_xfail: bool,
        mut run: impl FnMut() -> Verdict<Option<String>>,
    ) -> Duration {
        let started = Instant::now();
        for _ in 0..self.repeat {
            match run() {
                Ok(saw) => {
                    self.passed += 1;
                    self.saw = saw;
                }
                Err(Stop::Unsupported(why)) => {
                    self.unsupported = Some(why);
                    break;
                }
                Err(Stop::Failed(why)) => {
                    *if is_xfail { &mut self.xfailed } else { &mut self.failed } += 1;
                    self.why.get_or_insert_with(|| why.to_string());
                }
            }
        }
        let took = started.elapsed();
        self.avg_usec = took.as_micros() as u64 / self.repeat.max(1);
        took
    }
}

impl Report {
    /// How many cases failed, the check at the end among them.
    pub fn failures(&self) -> u64 {
        self.summaries().map(|summary| summary.failed).sum::<u64>()
            + u64::from(self.leaked.is_some())
    }

    /// Every case of every worker.
    pub fn summaries(&self) -> impl Iterator<Item = &Summary> {
        self.workers.iter().flat_map(|worker| &worker.cases).chain(&self.alone)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { case, passed, failed, xfailed, repeat, loops, avg_usec, .. } = self;
        write!(f, "Summary: {case} ")?;
        if let Some(why) = self.unsupported {
            return write!(f, "unsupported: {why}");
        }
        write!(
            f,
            "passed: {passed} failed: {failed} xfailed: {xfailed} repeat: {repeat} \
             loops: {loops} avg: {avg_usec} usec"
        )?;
        if let Some(why) = &self.why {
            write!(f, "\n  {}: {why}", if self.failed > 0 { "failed" } else { "as expected" })?;
        }
        if let Some(saw) = &self.saw {
            write!(f, "\n  {saw}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cases.iter().try_for_each(|summary| writeln!(f, "{summary}"))?;
        write!(f, "All test took worker{}={} usec", self.worker, self.took_usec)
    }
}
