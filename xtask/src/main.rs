//! What CI runs, and what a developer runs before CI does: `cargo xtask test`, `ci`, `check`;
//! and `bench`, which measures.
//!
//! ```text
//!   cli ─┬▶ ci: every step of these, in order
//!        │    ├─ suite: `cargo test`, its counts, what it skipped
//!        │    ├─ kernel: the test kernels, in QEMU
//!        │    ├─ docs_run: the commands of the documents, as a reader would type them
//!        │    ├─ publish: packages, licences, minimum Rust, semver
//!        │    └─ checks: imports · unsafe-places · docs · parity · tidy
//!        │           └─ repo (the files) · source (Rust without comments) · markdown
//!        ├▶ proof: loom, shuttle, stateright     simulate: kills and faults by seed
//!        ├▶ fuzz · miri · sanitizers · mutants · tools: coverage; nightly: what these need
//!        ├▶ bench · linux_peer: beside others, and beside Linux in one emulator     model: many CPUs
//!        └▶ screenshots: pictures of real pools, for the documents
//!
//!   run: one child process, its output, a deadline     report: figures in a page, by who found them
//! ```
//!
//! A check is a pure function from the files (and what a tool printed) to findings, so each is
//! tested on bad input given as strings: a check that was never seen to fail proves nothing.

#![forbid(unsafe_code)]

mod bench;
mod checks;
mod ci;
mod cli;
mod docs_run;
mod fuzz;
mod kernel;
mod linux_peer;
mod markdown;
mod miri;
mod model;
mod mutants;
mod nightly;
mod proof;
mod publish;
mod repo;
mod report;
mod run;
mod sanitizers;
mod screenshots;
mod simulate;
mod source;
mod suite;
mod tools;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let root = repo::root();
    let is_ok = match cli::Cli::parse().task {
        cli::Task::Test => suite::run_all(&root),
        cli::Task::Ci => ci::run(&root),
        cli::Task::Kernel(options) => kernel::run(&root, &options),
        cli::Task::Bench(options) => bench::run(&root, &options),
        cli::Task::Simulate(options) => simulate::run(&root, &options),
        cli::Task::Model(options) => model::run(&root, &options),
        cli::Task::Docs => docs_run::run_and_print(&root),
        cli::Task::Screenshots => screenshots::run(&root),
        cli::Task::Loom(options) => proof::run(&root, proof::Checker::Loom, &options),
        cli::Task::Shuttle(options) => proof::run(&root, proof::Checker::Shuttle, &options),
        cli::Task::Stateright(options) => proof::stateright(&root, &options),
        cli::Task::Fuzz(options) => fuzz::run(&root, &options),
        cli::Task::Miri(options) => miri::run(&root, &options),
        cli::Task::Asan(options) => sanitizers::run(&root, &sanitizers::ADDRESS, &options),
        cli::Task::Tsan(options) => sanitizers::run(&root, &sanitizers::THREAD, &options),
        cli::Task::Mutants(options) => mutants::run(&root, &options),
        cli::Task::Coverage(options) => tools::coverage(&root, &options),
        cli::Task::Publish(options) => publish::run(&root, &options),
        cli::Task::Check { name: Some(check) } => checks::run_and_print(check, &root),
        cli::Task::Check { name: None } => {
            // Each runs, whatever the others said.
            let results = checks::ALL.map(|check| checks::run_and_print(check, &root));
            results.iter().all(|is_ok| *is_ok)
        }
    };
    if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
