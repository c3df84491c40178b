//! The crate from outside: pools, buffers and tokens between real processes.
//!
//! Another process is this test program started again ([`peer::Peer`]): it runs the one test
//! `child_main`, which obeys its parent line by line. A test that cannot run here says so by
//! [`support::skip`].
//!
//! The suite that every machine passes, and the model with it, run on a [`subject_linux`].

mod budget;
mod carved;
mod conformance;
mod crash;
mod decay;
mod each_point;
mod each_step_fails;
mod examples;
mod fragmentation;
mod framed;
mod giving;
mod hostile;
mod limits;
mod members;
mod model;
mod peer;
mod recovery;
mod refitting;
mod refusals;
mod reserving;
mod resize;
mod sharing;
mod signals;
mod stitching;
mod subject_linux;
mod support;
mod trust;

/// Goal: none of its own. Method: the entry of every child process.
#[test]
fn child_main() {
    peer::play();
}
