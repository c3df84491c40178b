//! What members do, as plain data: any part of a list of moves is a list of moves.

use super::members;
use crate::random::Random;
use std::fmt::Write as _;
use vmalloc_core::Publish;

/// How many members a pool has; the first is number 1.
pub const MEMBERS: usize = 4;

/// One thing that a member does. `nth` counts among what fits, modulo how many there are; of none
/// the move is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Allocates, and writes to every page.
    Alloc {
        /// How many pages.
        pages: u64,
        /// Whether they must be zero.
        zeroed: bool,
        /// Whether the area is purged at once when it is freed.
        strict: bool,
    },
    /// Frees an area of its own, or a published one of nobody's.
    Free {
        /// Which.
        nth: usize,
    },
    /// Publishes an area of its own.
    Share {
        /// Which.
        nth: usize,
        /// Read-only or writable.
        how: Publish,
    },
    /// Attaches by one of the tokens there ever were, be it stale.
    Attach {
        /// Which.
        nth: usize,
    },
    /// Detaches from another's area.
    Detach {
        /// Which.
        nth: usize,
    },
    /// Gives an area of its own another size.
    Resize {
        /// Which.
        nth: usize,
        /// How many pages.
        pages: u64,
    },
    /// Writes to every page of an area that it may write.
    Store {
        /// Which.
        nth: usize,
    },
    /// Purges one batch.
    PurgeStep,
    /// Purges everything.
    Purge,
    /// Purges what was parked at the last decay, and marks the rest.
    Decay,
    /// Is killed, at rest.
    Die,
    /// Recovers one of the dead.
    Recover {
        /// Which.
        nth: usize,
    },
}

/// How an act goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// To its end.
    Whole,
    /// A call of the machine fails: 0 is the first.
    Refused {
        /// Which.
        call: usize,
    },
    /// The member is killed before a write to a word, or a call of the machine: 0 is the first.
    Killed {
        /// Which.
        write: usize,
    },
    /// Before a write another member acts, to the end.
    Met {
        /// Which.
        write: usize,
        /// Who.
        by: usize,
        /// What the other does.
        act: Act,
    },
}

/// A member's move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// Who.
    pub who: usize,
    /// What.
    pub act: Act,
    /// How it goes.
    pub turn: Turn,
}

/// Makes these moves in a fresh pool: what a printed failure calls.
///
/// # Panics
///
/// With what is wrong, if something is.
pub fn replay(moves: &[Move]) {
    if let Err(what) = members::run(moves) {
        panic!("{what}");
    }
}

impl Move {
    /// A move by chance.
    pub(super) fn any(random: &mut Random) -> Move {
        let (who, act) = (1 + random.index(MEMBERS), Act::any(random));
        let far = match act {
            Act::Purge | Act::PurgeStep | Act::Decay => 150,
            Act::Recover { .. } => 1_500,
            _ => 30,
        };
        // Near as often as far: short walks end early, and are decided by their first writes.
        let far = [far, far, 10, 4][random.index(4)];
        let write = random.index(far);
        let turn = match random.below(100) {
            0..40 => Turn::Whole,
            40..55 => Turn::Refused { call: random.index(6) },
            55..67 => Turn::Killed { write },
            _ => {
                // Two who do the same at once: that is where races are.
                let act = if random.below(3) == 0 { act } else { Act::any(random) };
                Turn::Met { write, by: 1 + random.index(MEMBERS), act }
            }
        };
        Move { who, act, turn }
    }
}

impl Act {
    fn any(random: &mut Random) -> Act {
        let nth = random.index(64);
        match random.below(100) {
            0..24 => {
                let pages = match random.below(10) {
                    0..4 => [1, 2, 4, 8][random.index(4)],
                    4..8 => 1 + random.below(12),
                    8 => 1 + random.below(40),
                    _ => 100 + random.below(200),
                };
                Act::Alloc { pages, zeroed: random.below(3) == 0, strict: random.below(6) == 0 }
            }
            24..40 => Act::Free { nth },
            40..50 => {
                let how = [Publish::Frozen, Publish::Shared][random.index(2)];
                Act::Share { nth, how }
            }
            50..64 => Act::Attach { nth },
            64..72 => Act::Detach { nth },
            72..78 => {
                let most = [12, 300][random.index(2)];
                Act::Resize { nth, pages: 1 + random.below(most) }
            }
            78..83 => Act::Store { nth },
            83..88 => Act::PurgeStep,
            88 => Act::Purge,
            89 => Act::Decay,
            90..92 => Act::Die,
            _ => Act::Recover { nth },
        }
    }
}

/// The moves as a test to paste.
pub(super) fn as_test(moves: &[Move], what: &str) -> String {
    let mut text = format!("/// Goal: not this: {}.\n", what.lines().next().unwrap_or_default());
    text += "#[test]\nfn regress() {\n    use vmalloc_core::Publish::*;\n";
    text += "    use vmalloc_sim::simulate::{Act::*, Move, Turn::*, replay};\n    replay(&[\n";
    for one in moves {
        writeln!(text, "        {one:?},").expect("a string grows");
    }
    text + "    ]);\n}"
}
