//! The operation language: what may be done to a machine, as plain data.
//!
//! Random tests, fuzzers and regressions speak it, for every machine the same. Operands are
//! numbers that always mean something: `nth: 7` of three areas is the second, and of none is a
//! step left out. So any part of a failing sequence is a sequence, and shrinking works.
//!
//! `Debug` prints an operation as it is written in Rust; a failing sequence prints as a test to
//! paste ([`crate::Divergence`]).

#[cfg(feature = "proptest")]
mod strategies;

use crate::Step;
use crate::subject::Want;
#[cfg(feature = "proptest")]
pub use strategies::{op, sequences, want};
use vmalloc_core::Publish;

/// One thing done to a machine. `nth` counts among what fits: areas owned, attached, vmapped, or
/// any area that is shown; modulo how many there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Allocates.
    Alloc {
        /// For whom.
        member: usize,
        /// What.
        want: Want,
    },
    /// Frees an owned area.
    Free {
        /// Which.
        nth: usize,
    },
    /// Tries to free at an address inside an owned area, its base excepted, or in its guard.
    FreeInside {
        /// Which area.
        nth: usize,
        /// How far in, modulo area and guard.
        offset: u64,
    },
    /// Frees an owned area, and then again.
    FreeTwice {
        /// Which.
        nth: usize,
    },
    /// Writes a pattern to an area, of whatever kind.
    Write {
        /// Which.
        nth: usize,
        /// From which byte, modulo its size.
        at: u64,
        /// How many bytes, at most to its end.
        len: u64,
        /// What pattern.
        seed: u8,
    },
    /// Reads an area, of whatever kind, and compares.
    Read {
        /// Which.
        nth: usize,
        /// From which byte, modulo its size.
        at: u64,
        /// How many bytes, at most to its end.
        len: u64,
    },
    /// Gives an owned area another size, where it lies; an error if it is published.
    Resize {
        /// Which.
        nth: usize,
        /// How many bytes.
        bytes: u64,
        /// Whether new pages are to be zero.
        zeroed: bool,
    },
    /// Publishes an owned area; an error if it is published already.
    Share {
        /// Which.
        nth: usize,
        /// Read-only or writable.
        how: Publish,
    },
    /// Attaches by a token, be it stale.
    Attach {
        /// Who.
        member: usize,
        /// Which of the tokens there ever were.
        nth: usize,
    },
    /// Detaches an attached area.
    Detach {
        /// Which.
        nth: usize,
    },
    /// Takes frames one by one and shows them as an area, in another order.
    Vmap {
        /// To whom.
        member: usize,
        /// How many.
        frames: usize,
        /// Which order.
        shuffle: u64,
    },
    /// Unmaps a vmapped area; its frames go back with the next full purge.
    Vunmap {
        /// Which.
        nth: usize,
    },
    /// Purges one batch of a member's window.
    PurgeStep {
        /// Whose.
        member: usize,
    },
    /// Purges everything.
    Purge,
    /// Checks all there is to check.
    Verify,
    /// Makes a step that is to come fail, once.
    FailNext {
        /// What kind of step.
        step: Step,
        /// Which: 1 is the next.
        n: u64,
    },
    /// From here on nobody may wait for other CPUs, or they may again.
    MayWait {
        /// Whether they may.
        may: bool,
    },
}
