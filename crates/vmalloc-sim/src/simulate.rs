//! Deterministic simulation: everything that happens is chosen by a seed, so a failure comes again.
//!
//! ```text
//!   seed ─┬─ even: a kernel      ─ random operations, faults ─ sim: tables, TLBs ─ the model
//!         └─ odd:  a pool's members ─ moves: whole, refused by the machine, killed before a write,
//!                                   met by another member before a write       ─ the oracle
//!                     after each: verify() · every byte through every CPU · what is listed
//!   failure ─▶ seed, shrunk to a short list that is printed as a test
//! ```
//!
//! Only with the feature `simulate`: the engine's words are then `vmalloc_core::sync::stepped`.
//! Two threads never run at once. What it does not do: reorder memory, or switch between walks more
//! than twice; loom and the threads' tests do.

mod kernel;
mod members;
mod moves;
mod oracle;
mod shrink;

pub use moves::{Act, MEMBERS, Move, Turn, replay};

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What was simulated.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Figures {
    /// Seeds.
    pub seeds: u64,
    /// Operations that were carried out.
    pub operations: u64,
    /// Operations that another member's was carried out in the midst of.
    pub meetings: u64,
    /// Members killed, at rest or before a write.
    pub kills: u64,
    /// Dead members recovered.
    pub recoveries: u64,
    /// Calls of the machine that were made to fail.
    pub faults: u64,
    /// Shootdowns after which the TLBs were compared.
    pub flushes: u64,
}

impl Figures {
    /// Adds what another seed did.
    pub fn add(&mut self, other: &Figures) {
        self.seeds += other.seeds;
        self.operations += other.operations;
        self.meetings += other.meetings;
        self.kills += other.kills;
        self.recoveries += other.recoveries;
        self.faults += other.faults;
        self.flushes += other.flushes;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { seeds, operations, meetings, kills, recoveries, faults, flushes } = self;
        write!(
            f,
            "{seeds} seeds, {operations} operations, {meetings} meetings, {kills} kills, \
             {recoveries} recoveries, {faults} faults, {flushes} flushes checked"
        )
    }
}

/// A seed that fails. `Display` prints a test to paste.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What is wrong after the short list.
    pub what: String,
    /// How many operations the short list has.
    pub len: usize,
    /// The short list, as a test.
    pub test: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} fails; {} operations are enough: {}", self.seed, self.len, self.what)?;
        writeln!(f, "\n{}", self.test)
    }
}

impl std::error::Error for Failure {}

/// Runs `seed`, of `steps` operations.
///
/// # Errors
///
/// [`Failure`]; the same one for the same seed and steps.
pub fn simulate(seed: u64, steps: usize) -> Result<Figures, Box<Failure>> {
    if seed.is_multiple_of(2) {
        kernel::simulate(seed, steps)
    } else {
        members::simulate(seed, steps)
    }
}

/// Runs `body`; a panic is an error, in its own words.
fn told<R>(body: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| cause.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("of an unknown kind")))
    })
}
