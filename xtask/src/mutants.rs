//! `cargo xtask mutants`: changes of the engine, and which of them no test notices.
//!
//! ```text
//!   cargo mutants --list ─▶ a copy of the engine in which each function has all its mutants as arms
//!                           of one `match` ─▶ built once ─▶ each test once: what it reaches
//!                        ─▶ the tests that reach it, once a mutant, until one fails
//! ```
//!
//! cargo-mutants finds the changes; it would build the tests anew for each, which takes longer than they
//! run. Here an arm that does not compile is left out, and is unviable. A variable of the
//! environment says which arm it is, so what runs is the same program for all. What cannot be an arm is
//! not run, and counted: a `const fn`, and one that returns `impl Trait`.

mod copy;
mod graft;
mod reach;
mod table;

use crate::nightly::{self, Need};
use crate::{report, run};
use clap::Args;
use copy::Copy;
use graft::{Mutant, Outcome};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a command of cargo's may take.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// Where the engine is.
const SOURCES: &str = "crates/vmalloc-core/src/";

/// Words for the tests, and what checks the checks: the engine that ships has none of it.
const NOT_MUTATED: [&str; 4] = ["sync/**", "**/proof.rs", "**/proof/**", "planted.rs"];

/// What `cargo xtask mutants` takes.
#[derive(Args)]
pub struct Options {
    /// Only mutants of these files of the engine: `record`, `lazy`, `frames/claim`; without any, of
    /// all of it.
    files: Vec<String>,
    /// Only mutants whose line in the list has this in it.
    #[arg(long)]
    only: Option<String>,
    /// How many tests run at a time.
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Write the rows of these files into this page, between its marks, each when it is done.
    #[arg(long, value_name = "PAGE", conflicts_with = "only")]
    report: Option<String>,
}

/// Runs the mutants. Whether all were caught; those that were not are printed.
pub fn run(root: &Path, options: &Options) -> bool {
    if !nightly::are_there("mutants", &[Need::AddOn("mutants")]) {
        return false;
    }
    all(root, options).unwrap_or_else(|why| {
        println!("mutants: {why}");
        false
    })
}

/// Whether all were caught.
fn all(root: &Path, options: &Options) -> Result<bool, String> {
    let mut mutants = list(root)?;
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    for mutant in &mutants {
        *sizes.entry(table::short(&mutant.file).to_owned()).or_default() += 1;
    }
    let file_of = |mutant: &Mutant| table::short(&mutant.file).trim_end_matches(".rs").to_owned();
    if let Some(file) = options.files.iter().find(|f| !mutants.iter().any(|m| file_of(m) == **f)) {
        return Err(format!("{SOURCES}{file}.rs has no mutants"));
    }
    mutants.retain(|mutant| {
        (options.files.is_empty() || options.files.contains(&file_of(mutant)))
            && options.only.as_ref().is_none_or(|word| mutant.name.contains(word))
    });
    // In the order in which they were asked for.
    mutants.sort_by_key(|m| (options.files.iter().position(|file| file_of(m) == *file), m.id));
    // That of the copy: the run is long, and there may be another when it ends.
    let commit = report::commit(root, &["crates", "xtask"]);
    let copy = Copy::of(root)?;
    copy.plant(&mut mutants)?;
    let start = Instant::now();
    let tests = reach::tests(&copy.build()?, options.jobs)?;
    println!("{} tests, built and run in {} s", tests.len(), start.elapsed().as_secs());
    for of_file in mutants.chunk_by_mut(|a, b| a.file == b.file) {
        let outcomes = reach::in_parallel(options.jobs, of_file, |mutant| match mutant.outcome {
            Outcome::Missed => tried(&tests, mutant),
            known => known,
        });
        of_file.iter_mut().zip(outcomes).for_each(|(mutant, outcome)| mutant.outcome = outcome);
        if let Some(page) = &options.report {
            report::edit(root, page, "mutants", |old| {
                table::merged(old, of_file, &commit, &sizes)
            })?;
        }
    }
    println!("\nat commit {commit}:\n\n{}", table::merged("", &mutants, &commit, &BTreeMap::new()));
    Ok(mutants.iter().all(|mutant| mutant.outcome != Outcome::Missed))
}

/// All mutants that there are.
fn list(root: &Path) -> Result<Vec<Mutant>, String> {
    let mut list = run::cargo();
    list.args(["mutants", "--list", "--json", "--package", "vmalloc-core"]).current_dir(root);
    for files in NOT_MUTATED {
        list.args(["--exclude", &format!("{SOURCES}{files}")]);
    }
    // What is printed is read by people.
    list.args(["--exclude-re", "fmt::(Display|Debug) for"]);
    let list = run::capture(&mut list, LIMIT).ok_or("`cargo mutants --list` failed")?;
    graft::listed(&list)
}

/// Runs the tests on `mutant`, and tells.
fn tried(tests: &[reach::Test], mutant: &Mutant) -> Outcome {
    let start = Instant::now();
    let (outcome, by) = reach::outcome(tests, mutant);
    let word = if outcome == Outcome::Missed { "MISSED" } else { "caught" };
    let (seconds, name) = (start.elapsed().as_secs_f64(), table::short(&mutant.name));
    println!("{word} in {seconds:.1} s: {name} ({by})");
    outcome
}
