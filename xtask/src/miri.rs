//! `cargo xtask miri`: our tests in an interpreter that knows what a pointer may do.
//!
//! ```text
//!   for each model of aliasing (stacked borrows, tree borrows)
//!     canary   two exclusive views of one page     must be found, or nothing below means anything
//!     parts    the tests in [`PARTS`], by package   each must pass, and each filter fit a test
//!   --canary   orderings left out of a lock and of the claims: each must be found as a race
//! ```
//!
//! Everything that asks the kernel for more than a clock is out (memfds, shared mappings, futexes):
//! of the crate `vmalloc` Miri runs what stands on a mapping, over memory of the heap. What of the
//! rest is out is so because it takes too long: each part says what, and prints it.

use crate::nightly::{self, CANARY, Need};
use crate::run;
use crate::suite::passed_in;
use clap::{Args, ValueEnum};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The longest that one part may take, on a machine with other work.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// What the command takes.
#[derive(Args)]
pub struct Options {
    /// Which parts; all of them if absent.
    #[arg(value_enum, value_name = "NAME")]
    parts: Vec<Name>,
    /// With orderings left out, which must be found as races: parts `bare` and `os`.
    #[arg(long)]
    canary: bool,
}

/// The parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Name {
    /// `vmalloc-bare`: the direct map, locks, shootdowns, page tables.
    Bare,
    /// `vmalloc`: claims, views, words and copies, over memory of the heap.
    Os,
    /// `vmalloc-core`: what is pure and short.
    Engine,
    /// `vmalloc-sim`: RAM and the MMUs.
    Sim,
}

/// A part of the tests.
struct Part {
    name: Name,
    package: &'static str,
    /// Which test programs: arguments for cargo.
    programs: &'static [&'static str],
    /// Which tests in them: parts of their names, each of which must fit one.
    tests: &'static [&'static str],
    /// What is left out, and why.
    without: &'static str,
    /// What a planted race is found by; without one the part is left out under `--canary`.
    canary: Option<&'static str>,
}

/// What Miri runs.
const PARTS: &[Part] = &[
    Part {
        name: Name::Bare,
        package: "vmalloc-bare",
        programs: &["--lib", "--test", "direct", "--test", "shootdown"],
        tests: &[],
        without: "`arch/`: instructions, not Rust; page tables beside the MMUs: too long",
        canary: Some("Data race"),
    },
    Part {
        name: Name::Os,
        package: "vmalloc",
        programs: &["--lib"],
        tests: &[
            "os::tests::claims",
            "token::tests",
            "header::tests::a_",
            "lanes::tests",
            "spread::tests",
        ],
        without: "what asks the kernel: memfds, shared mappings, guards, other processes",
        canary: Some("Data race"),
    },
    Part {
        name: Name::Engine,
        package: "vmalloc-core",
        programs: &["--lib"],
        tests: &[
            "bits::tests",
            "class::tests",
            "flush::tests",
            "layout::table::tests",
            "slab::occupancy::tests",
            "map_ram::group::tests",
            "kmap::slot::tests",
        ],
        without: "the verbs, on any machine: a kernel of 24 frames takes minutes for one area",
        canary: None,
    },
    Part {
        name: Name::Sim,
        package: "vmalloc-sim",
        programs: &["--test", "mmu"],
        tests: &[],
        without: "kernels and pools in it: too long, and the crate has no unsafe code",
        canary: None,
    },
];

/// A model of what references may do.
struct Model {
    name: &'static str,
    flag: &'static str,
    /// What Miri says where its rules are broken.
    word: &'static str,
}

const MODELS: [Model; 2] = [
    Model { name: "stacked borrows", flag: "", word: "Stacked Borrows rules it violated" },
    Model {
        name: "tree borrows",
        flag: "-Zmiri-tree-borrows",
        word: "Tree Borrows rules it violated",
    },
];

/// The planted fault: `crates/vmalloc/src/os/tests/alias.rs`.
const ALIAS: &str = "os::tests::alias::two_exclusive_views_of_one_page";

/// What a run of tests came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// The tests that passed, by name.
    passed: Vec<String>,
    /// How many did, as the programs counted.
    count: u64,
    /// How many were ignored.
    ignored: u64,
    /// Whether the word was said that was listened for.
    heard: bool,
    /// Why it did not end well.
    failed: Option<String>,
}

/// Runs the parts. Whether all is well: with both models each canary found, each test passed.
pub fn run(root: &Path, options: &Options) -> bool {
    let needs = [Need::Nightly, Need::Component("miri"), Need::Component("rust-src")];
    if !nightly::are_there("miri", &needs) {
        return false;
    }
    let is_wanted = |part: &&Part| options.parts.is_empty() || options.parts.contains(&part.name);
    let parts: Vec<&Part> = PARTS.iter().filter(is_wanted).collect();
    let start = Instant::now();
    let done = if options.canary { races(root, &parts) } else { models(root, &parts) };
    let took = start.elapsed().as_secs();
    match &done {
        Ok(what) => println!("miri: {what}, {took} s"),
        Err(why) => println!("miri: FAILED after {took} s: {why}"),
    }
    done.is_ok()
}

/// The canary and the parts, with each model.
fn models(root: &Path, parts: &[&Part]) -> Result<String, String> {
    let mut total = 0;
    for model in &MODELS {
        let tool = format!("miri, {}", model.name);
        let mut canary = cargo_miri(root, model.flag);
        canary.args(["--package", "vmalloc", "--lib", "--", "--ignored", "--exact", ALIAS]);
        let start = Instant::now();
        let outcome = listen(&canary, Some(model.word));
        let took = start.elapsed().as_secs();
        is_found(&outcome).map_err(|why| format!("{tool}: the canary: {why}"))?;
        println!("{tool}: found its canary, {took} s");
        for part in parts {
            let start = Instant::now();
            let outcome = listen(&of_part(root, part, model.flag), None);
            let took = start.elapsed().as_secs();
            let what = format!("{tool}: {} {}", part.package, part.programs.join(" "));
            has_passed(&outcome, part.tests).map_err(|why| format!("{what}: {why}"))?;
            let Outcome { count, ignored, .. } = outcome;
            println!("{what}: {count} passed, {ignored} ignored, {took} s");
            println!("    left out: {}", part.without);
            total += count;
        }
    }
    let (parts, models) = (parts.len(), MODELS.len());
    if total == 0 {
        return Err("no test ran".to_owned());
    }
    Ok(format!("{parts} parts with {models} models: {total} tests passed, {models} canaries found"))
}

/// The planted races, with one model: orderings are the same in both.
fn races(root: &Path, parts: &[&Part]) -> Result<String, String> {
    let mut found = 0;
    for part in parts {
        let Some(word) = part.canary else { continue };
        let mut command = of_part(root, part, MODELS[1].flag);
        command.env("RUSTFLAGS", CANARY);
        is_found(&listen(&command, Some(word)))
            .map_err(|why| format!("{}: {why}", part.package))?;
        println!("miri: {}: found its canary: {word}", part.package);
        found += 1;
    }
    if found == 0 {
        return Err("no part that was named has a planted race".to_owned());
    }
    Ok(format!("{found} planted races found"))
}

fn of_part(root: &Path, part: &Part, flag: &str) -> Command {
    let mut command = cargo_miri(root, flag);
    command.args(["--package", part.package]).args(part.programs).arg("--").args(part.tests);
    command
}

/// `cargo miri test`.
fn cargo_miri(root: &Path, flag: &str) -> Command {
    let mut command = nightly::cargo(root, "miri");
    // The heap mapping opens /dev/null. A direct map is an address, not a reference, and is leaked: a
    // kernel never unmaps its own.
    let flags = "-Zmiri-disable-isolation -Zmiri-permissive-provenance -Zmiri-ignore-leaks";
    command.args(["miri", "test"]).env("MIRIFLAGS", format!("{flags} {flag}"));
    command.env("RUSTFLAGS", "").env("PROPTEST_CASES", "1");
    command
}

/// Runs `command` to its end, its output passed on.
fn listen(command: &Command, word: Option<&str>) -> Outcome {
    let mut outcome = Outcome::default();
    let ended = run::run_lines_of_both(command, LIMIT, |line| {
        outcome.heard |= word.is_some_and(|word| line.contains(word));
        outcome.count += passed_in(line).unwrap_or(0);
        if let Some((name, result)) = test_in(line) {
            match result {
                "ok" => outcome.passed.push(name.to_owned()),
                _ => outcome.ignored += u64::from(result.starts_with("ignored")),
            }
        }
        println!("    {line}");
    });
    outcome.failed = ended.err();
    outcome
}

/// The name and the result in "test NAME ... RESULT".
fn test_in(line: &str) -> Option<(&str, &str)> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((name, result))
}

/// Whether a planted fault was found: the run failed, and by the right word.
fn is_found(outcome: &Outcome) -> Result<(), String> {
    match (&outcome.failed, outcome.heard) {
        (Some(_), true) => Ok(()),
        (Some(why), false) => Err(format!("failed of something else: {why}")),
        (None, _) => Err("was not found".to_owned()),
    }
}

/// Whether tests ran, all passed, and each of `filters` fitted one.
fn has_passed(outcome: &Outcome, filters: &[&str]) -> Result<(), String> {
    if let Some(why) = &outcome.failed {
        return Err(why.clone());
    }
    if outcome.count == 0 {
        // A filter that fits no test proves nothing.
        return Err("no test ran".to_owned());
    }
    let fits = |filter: &&&str| outcome.passed.iter().any(|name| name.contains(**filter));
    match filters.iter().find(|filter| !fits(filter)) {
        Some(filter) => Err(format!("no test is named {filter}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Outcome {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        listen(&command, Some("Data race"))
    }

    /// Goal: a run in which no test ran is a failure, also of one filter among several, and so is
    /// one that ends badly.
    #[test]
    fn a_run_of_no_test_proves_nothing() {
        let two = sh(
            "echo 'test a::b ... ok'; echo 'test c ... ignored, too long'; echo 'test d ... ok'; \
                      echo 'test result: ok. 2 passed; 0 failed; 1 ignored'",
        );
        assert_eq!((two.count, two.ignored, two.passed.len()), (2, 1, 2));
        assert_eq!(has_passed(&two, &["a::", "d"]), Ok(()));
        assert_eq!(has_passed(&two, &["a::", "c"]), Err("no test is named c".to_owned()));
        assert_eq!(has_passed(&sh("true"), &[]), Err("no test ran".to_owned()));
        assert!(has_passed(&sh("echo 'test result: ok. 2 passed'; exit 1"), &[]).is_err());
    }

    /// Goal: a canary is found only by a run that fails, and that says why.
    #[test]
    fn a_canary_is_found_by_its_word_alone() {
        assert_eq!(is_found(&sh("echo 'error: Data race' >&2; exit 1")), Ok(()));
        assert!(is_found(&sh("echo 'error: Data race' >&2")).is_err());
        assert!(is_found(&sh("echo 'error: out of memory' >&2; exit 1")).is_err());
    }
}
