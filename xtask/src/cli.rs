//! The arguments of `cargo xtask`, as clap reads them.
//!
//! A file of its own because the check of the documents asks it which commands exist.

use crate::bench;
use crate::checks::Check;
use crate::fuzz;
use crate::kernel;
use crate::miri;
use crate::model;
use crate::mutants;
use crate::proof;
use crate::publish;
use crate::sanitizers;
use crate::simulate;
use crate::tools;
use clap::{Parser, Subcommand};

/// Tests, checks and CI of vmalloc.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
}

/// The tasks.
#[derive(Subcommand)]
pub enum Task {
    /// Run every test and doctest, then list what was skipped and how to get it.
    Test,
    /// Run what CI runs, stop at the first failure and say how to repeat that step alone.
    Ci,
    /// Boot the test kernels in QEMU.
    Kernel(kernel::Options),
    /// Measure vmalloc beside its peers, and write docs/benchmarks.md; `kernel`: beside Linux.
    Bench(bench::Options),
    /// Run the engine under kills, faults and meetings that a seed chooses.
    Simulate(simulate::Options),
    /// Model a machine of 128 CPUs and 1 TiB, and check the model against this one: 10 minutes; needs
    /// valgrind.
    Model(model::Options),
    /// Take the pictures of docs/img from real pools; needs tmux and chromium.
    Screenshots,
    /// Explore lock-free pieces in every order of steps with few preemptions, weak memory included:
    /// 3 minutes, and 15 on a busy machine.
    Loom(proof::Options),
    /// Explore whole verbs, with kills, in many orders of steps: 4 minutes.
    Shuttle(proof::Options),
    /// Explore a model of the recovery with two kills: a minute.
    Stateright(proof::Output),
    /// Run the fuzzers; needs nightly and cargo-fuzz.
    Fuzz(fuzz::Options),
    /// Run what Miri can run of what has unsafe code or is pure, by both models of aliasing; needs
    /// nightly and its components miri and rust-src: 27 minutes on a busy machine.
    Miri(miri::Options),
    /// Run the tests of the crate `vmalloc` under AddressSanitizer, and a bug that it must find; needs
    /// nightly.
    Asan(sanitizers::Options),
    /// Run the tests of the crate `vmalloc` that share memory between threads under ThreadSanitizer,
    /// and a bug that it must find; needs nightly.
    Tsan(sanitizers::Options),
    /// Change the engine, bit by bit, and see which changes no test notices; needs cargo-mutants.
    Mutants(mutants::Options),
    /// Which lines the tests reach, a crate a row; needs cargo-llvm-cov.
    Coverage(tools::Coverage),
    /// Run the commands that the documents show, but those marked as not run, as a reader would; 90
    /// seconds at most.
    Docs,
    /// Look whether the crates are ready to be published: packages, licences, minimum Rust, semver.
    Publish(publish::Options),
    /// Run one check of the sources and documents, or all of them.
    Check {
        /// Which check; all of them if absent.
        #[arg(value_enum)]
        name: Option<Check>,
    },
}
