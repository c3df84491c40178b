//! `cargo xtask mutants`: changes of the engine, and which of them no test notices.
//!
//! ```text
//!   cargo mutants --list ─▶ a copy of the engine in which each function has all its mutants as arms
//!                           of one `match` ─▶ built once ─▶ the tests, once a mutant, until one fails
//! ```
//!
//! cargo-mutants finds the changes; it would build the tests anew for each, which takes longer than they
//! run. Here an arm that does not compile is left out, and is unviable. A variable of the
//! environment says which arm it is, so what runs is the same program for all. What cannot be an arm is
//! not run, and counted: a `const fn`, and one that returns `impl Trait`.

mod copy;
mod graft;

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

/// Words for the tests, and what checks the checks: the engine that ships has none of it.
const NOT_MUTATED: [&str; 4] = ["sync/**", "proof.rs", "proof/**", "planted.rs"];

/// What `cargo xtask mutants` takes.
#[derive(Args)]
pub struct Options {
    /// Only mutants of these files of the engine: `record`, `lazy`, `frames/claim`; without any, of
    /// all of it.
    files: Vec<String>,
    /// Only mutants whose line in the list has this in it.
    #[arg(long)]
    only: Option<String>,
    /// Write the table into this page, between its marks.
    #[arg(long, value_name = "PAGE")]
    report: Option<String>,
}

impl Options {
    /// What to type to run it so again.
    fn command_line(&self) -> String {
        let only = self.only.iter().map(|word| format!("--only '{word}'"));
        let words = self.files.iter().cloned().chain(only);
        words.fold("cargo xtask mutants".to_owned(), |line, word| line + " " + &word)
    }
}

/// Runs the mutants. Whether all were caught; those that were not are printed.
pub fn run(root: &Path, options: &Options) -> bool {
    if !nightly::are_there("mutants", &[Need::AddOn("mutants")]) {
        return false;
    }
    let start = Instant::now();
    // That of the copy: the run is long, and there may be another when it ends.
    let commit = report::commit(root, &["crates", "xtask"]);
    let told = all(root, options).and_then(|mutants| {
        let table = table(&mutants);
        let (command, seconds) = (options.command_line(), start.elapsed().as_secs());
        let body = format!("`{command}` at commit {commit}, {seconds} s:\n\n{table}");
        println!("\n{body}");
        if let Some(page) = &options.report {
            report::write(root, page, "mutants", &body)?;
        }
        Ok(mutants.iter().all(|mutant| mutant.outcome != Outcome::Missed))
    });
    told.unwrap_or_else(|why| {
        println!("mutants: {why}");
        false
    })
}

fn all(root: &Path, options: &Options) -> Result<Vec<Mutant>, String> {
    let mut list = run::cargo();
    list.args(["mutants", "--list", "--json", "--package", "vmalloc-core"]).current_dir(root);
    for folder in NOT_MUTATED {
        list.args(["--exclude", &format!("crates/vmalloc-core/src/{folder}")]);
    }
    // What is printed is read by people.
    list.args(["--exclude-re", "fmt::(Display|Debug) for"]);
    for file in &options.files {
        list.args(["--file", &format!("crates/vmalloc-core/src/{file}.rs")]);
    }
    let list = run::capture(&mut list, LIMIT).ok_or("`cargo mutants --list` failed")?;
    let mut mutants = graft::listed(&list)?;
    if let Some(word) = &options.only {
        mutants.retain(|mutant| mutant.name.contains(word));
    }
    let copy = Copy::of(root)?;
    copy.plant(&mut mutants)?;
    let programs = copy.build()?;
    if let Some((_, test)) = copy.noticed_by(&programs, 0) {
        return Err(format!("without a mutant this fails, too: {test}"));
    }
    for mutant in &mut mutants {
        if mutant.outcome == Outcome::Missed {
            let start = Instant::now();
            if let Some((outcome, test)) = copy.noticed_by(&programs, mutant.id) {
                mutant.outcome = outcome;
                println!(
                    "caught in {:.1} s: {} ({test})",
                    start.elapsed().as_secs_f64(),
                    mutant.name
                );
            } else {
                println!("MISSED: {}", mutant.name);
            }
        }
    }
    Ok(mutants)
}

/// A row a file, and all of them; what was missed below.
fn table(mutants: &[Mutant]) -> String {
    const COLUMNS: [Outcome; 5] =
        [Outcome::Caught, Outcome::Hung, Outcome::Missed, Outcome::Unviable, Outcome::NotRun];
    let mut files: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants {
        files.entry(&mutant.file).or_default().push(mutant);
    }
    let row = |name: &str, of: &[&Mutant]| {
        let count = |outcome| of.iter().filter(|mutant| mutant.outcome == outcome).count();
        let counts = COLUMNS.map(|outcome| format!(" {} |", count(outcome)));
        format!("| {name} | {} |{}\n", of.len(), counts.concat())
    };
    let mut table = "| file | mutants | caught | hung | missed | unviable | not run |\n".to_owned();
    table += "|---|---|---|---|---|---|---|\n";
    for (file, of) in &files {
        table += &row(&format!("`{file}`"), of);
    }
    table += &row("all", &mutants.iter().collect::<Vec<_>>());
    let missed = mutants.iter().filter(|mutant| mutant.outcome == Outcome::Missed);
    let missed: String = missed.map(|mutant| format!("- `{}`\n", mutant.name)).collect();
    if missed.is_empty() { table } else { format!("{table}\nMissed:\n\n{missed}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a page names the command that was run, not one that would have run more.
    #[test]
    fn the_command_is_told_with_what_was_asked_for() {
        let line = |files: &[&str], only: Option<&str>| {
            let files = files.iter().map(|file| (*file).to_owned()).collect();
            Options { files, only: only.map(str::to_owned), report: None }.command_line()
        };
        assert_eq!(line(&[], None), "cargo xtask mutants");
        assert_eq!(
            line(&["tag", "give"], Some("with ||")),
            "cargo xtask mutants tag give --only 'with ||'"
        );
    }

    /// Goal: what was missed is counted in its file's row, and named.
    #[test]
    fn what_was_missed_is_counted_and_named() {
        let mutant = |id, outcome| Mutant {
            id,
            outcome,
            file: "a.rs".into(),
            name: format!("a.rs:{id}"),
            ..Mutant::default()
        };
        let table = table(&[mutant(1, Outcome::Caught), mutant(2, Outcome::Missed)]);
        assert!(table.contains("| `a.rs` | 2 | 1 | 0 | 1 | 0 | 0 |\n"), "{table}");
        assert!(table.ends_with("\nMissed:\n\n- `a.rs:2`\n"), "{table}");
    }
}
