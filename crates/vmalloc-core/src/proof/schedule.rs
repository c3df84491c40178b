//! A scenario under shuttle: every order of a short one, many by chance of a long one.
//!
//! ```text
//!   depth first   every schedule there is, one after the other
//!   PCT           random priorities, changed at a few random points: finds what few switches show
//! ```
//!
//! Each scenario runs once as written and once with a bug, which it must find.

extern crate std;

use super::told;
use crate::planted::{Bug, with_planted};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::String;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use std::{format, println};

/// How the schedules are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum By {
    /// All of them, which are fewer than this.
    DepthFirst(usize),
    /// So many, with so many changes of priority.
    Pct(usize, usize),
}

/// A bug that a scenario must find.
pub(super) enum Canary {
    /// One of the planted ones.
    Planted(Bug),
    /// The same done wrongly, in these words.
    Wrong(&'static str, fn()),
}

pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) by: By,
    pub(super) canary: Canary,
    pub(super) body: fn(),
}

impl Scenario {
    /// Runs it under its schedules, as it is and with its bug.
    pub(super) fn run(self) {
        told::run(self.name, || self.run_quietly());
    }

    fn run_quietly(&self) -> Result<(), String> {
        let start = Instant::now();
        let schedules = schedule(self.by, self.body, None)?;
        let seconds = start.elapsed().as_secs_f64();
        let (bug, found) = match self.canary {
            Canary::Planted(bug) => ("a planted bug", schedule(self.by, self.body, Some(bug))),
            Canary::Wrong(what, body) => (what, schedule(self.by, body, None)),
        };
        let Err(why) = found else { return Err(format!("{bug} was not found")) };
        let why = told::cell(&why);
        let by = match self.by {
            By::DepthFirst(most) if schedules < most => "depth first, all".into(),
            By::DepthFirst(_) => return Err("not explored whole".into()),
            By::Pct(_, depth) => format!("PCT, depth {depth}"),
        };
        println!("shuttle: scenario | schedules | how | seconds | canary | found as");
        println!("shuttle: {} | {schedules} | {by} | {seconds:.1} | {bug} | {why}", self.name);
        Ok(())
    }
}

/// Runs `body` under many schedules. How many, or what failed.
fn schedule(by: By, body: fn(), bug: Option<Bug>) -> Result<usize, String> {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let check = move || {
        let counted = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            body();
        };
        match by {
            By::DepthFirst(most) => ::shuttle::check_dfs(counted, Some(most)),
            By::Pct(most, depth) => ::shuttle::check_pct(counted, most, depth),
        }
    };
    // On a thread of its own: a panic leaves shuttle's there as it was.
    let run = std::thread::spawn(move || {
        catch_unwind(AssertUnwindSafe(|| match bug {
            Some(bug) => with_planted(bug, check),
            None => check(),
        }))
        .map_err(|cause| told::text(&*cause))
    });
    run.join().map_err(|_| "it could not be run")??;
    Ok(count.load(Ordering::Relaxed))
}
