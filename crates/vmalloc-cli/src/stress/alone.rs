//! The cases that have a machine for themselves: what such a case is, and the table of all.
//!
//! Such a case builds what it needs, breaks what it likes, and says in a sentence what it saw. To
//! add one, write its file and put it into the table of its group.

use super::ours;
use super::pool;
use super::subject::{Stop, Verdict};
use crate::args::Machine;

/// A case with a machine for itself.
pub struct Alone {
    /// Its name.
    pub name: &'static str,
    /// Runs it; what it saw, in a sentence.
    pub run: fn(&Terms) -> Verdict<String>,
}

/// How such a case is to run.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub machine: Machine,
    /// Where randomness begins.
    pub seed: u64,
    /// `--loops`, if it was given: each case says what it is for it.
    pub loops: Option<u64>,
    /// `--pool`, if it was given.
    pub pool_bytes: Option<u64>,
}

impl Terms {
    /// For a case that only real memory can run.
    pub fn on_linux_only(&self, why: &'static str) -> Verdict {
        if self.machine == Machine::Linux { Ok(()) } else { Err(Stop::Unsupported(why)) }
    }

    /// For a case that only the simulated machine can run.
    pub fn on_sim_only(&self, why: &'static str) -> Verdict {
        if self.machine == Machine::Sim { Ok(()) } else { Err(Stop::Unsupported(why)) }
    }
}

/// The group of those that take many processes.
pub const POOL: &str = "pool";

/// All groups: a name for each, and its cases.
pub const GROUPS: [(&str, &[Alone]); 2] = [("ours", ours::CASES), (POOL, pool::CASES)];

/// Stops a case in which something is not as it must be.
pub fn check(is_true: bool, what_is_wrong: impl FnOnce() -> String) -> Verdict {
    if is_true { Ok(()) } else { Err(Stop::from(what_is_wrong())) }
}
