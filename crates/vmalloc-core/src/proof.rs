//! What the checkers run: each lock-free piece of the engine, and its verbs, in every order of steps.
//!
//! ```text
//!   cargo xtask loom      pieces, two or three threads: every order, and every value that a weakly
//!                         ordered processor may load                            crate::sync::explored
//!   cargo xtask shuttle   whole verbs, more threads, kills: every order of short ones, else many
//!                         by chance                                            crate::sync::scheduled
//! ```
//!
//! A piece that is a module of its own has its scenarios beside it, as `slab/proof.rs`; those of the
//! engine are in `proof/pieces/`. The code is the engine's own; only its words are another's. Each scenario must pass as the engine is
//! written and must *not* pass with a bug: orderings taken away, or one of [`crate::planted`].

// The unit tests', too.
pub(crate) mod machine;

#[cfg(loom)]
pub(crate) mod explore;
#[cfg(loom)]
pub(crate) mod hardware;
#[cfg(loom)]
mod pieces;
#[cfg(shuttle)]
mod schedule;
#[cfg(any(loom, shuttle))]
mod told;
#[cfg(shuttle)]
mod verbs;
