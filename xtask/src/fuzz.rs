//! `cargo xtask fuzz`: the fuzzers of `fuzz/`, one after the other, each for a while.
//!
//! ```text
//!   fuzz [TARGET] --for 60s     no finding, or it fails; the corpus grows in fuzz/corpus/
//!   fuzz [TARGET] --canary      each is built with a bug in it, planted while it runs:
//!                                 planted, it must be found; the same program with the same seed
//!                                 and for as long without it must find nothing
//! ```
//!
//! One build serves both. Who runs one program and reads what it says is [`program`]; here is what
//! is run, and what a table makes of it.

mod program;

use crate::nightly::{self, Need};
use crate::simulate::seconds;
use crate::{report, run};
use clap::{Args, ValueEnum};
use program::{Corpus, Run, Said};
use std::path::Path;
use std::time::Duration;

/// The time that a build may take: proptest, clap and ratatui under a sanitizer.
const BUILD: Duration = Duration::from_secs(60 * 60);
/// For how long without `--for`, in seconds: each; and until a canary must be found.
const TIME: [u64; 2] = [60, 300];
/// The least time without the plant: a canary may be found at once.
const CLEAN_MIN: u64 = 10;

/// What `cargo xtask fuzz` takes.
#[derive(Args)]
pub struct Options {
    /// Which; all of them if absent.
    #[arg(value_enum)]
    target: Option<Target>,
    /// For how long each: `60s`, `5m`. By default a minute, and with `--canary` five at most.
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    time: Option<u64>,
    /// With a planted bug, which must be found; then as long without it, and with nothing found.
    #[arg(long)]
    canary: bool,
    /// Write the results into this page, between its marks.
    #[arg(long, value_name = "PAGE")]
    report: Option<String>,
}

impl Options {
    fn seconds(&self) -> u64 {
        self.time.unwrap_or(TIME[usize::from(self.canary)])
    }

    /// What to type to run it so again.
    fn command_line(&self) -> String {
        let mut line = "cargo xtask fuzz".to_owned();
        if let Some(target) = self.target {
            line += &format!(" {}", target.name());
        }
        if let Some(time) = self.time {
            line += &format!(" --for {time}s");
        }
        line + if self.canary { " --canary" } else { "" }
    }

    /// The marks in a page, between which the results stand.
    fn marks(&self) -> &'static str {
        if self.canary { "fuzz-canaries" } else { "fuzz" }
    }
}

/// The fuzzers; each begins with what it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Target {
    Engine,
    Tables,
    Parsers,
    Pool,
    Arguments,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Target::Engine => "engine",
            Target::Tables => "tables",
            Target::Parsers => "parsers",
            Target::Pool => "pool",
            Target::Arguments => "arguments",
        }
    }

    /// Whether an input is a sequence of operations, each drawn from a few of its bytes.
    fn is_of_operations(self) -> bool {
        matches!(self, Target::Engine | Target::Tables | Target::Pool)
    }

    /// The longest input: what the target's longest sequence of operations takes.
    fn len_max(self) -> u64 {
        match self {
            // Four bytes an operation (`fuzz/lib.rs`), and one that chooses machine or format.
            Target::Engine => 1 + 4 * 60,
            Target::Tables => 1 + 4 * 24,
            Target::Pool => 4 * 32,
            Target::Parsers => 2048,
            Target::Arguments => 512,
        }
    }
}

/// A row of the table, and whether it is as it should be.
struct Row {
    line: String,
    is_ok: bool,
}

/// Runs the fuzzers. Whether none found anything; with `--canary`, whether each found its own, and
/// nothing without it.
pub fn run(root: &Path, options: &Options) -> bool {
    let needs = [Need::Nightly, Need::AddOn("fuzz")];
    if !nightly::are_there("fuzz", &needs) {
        return false;
    }
    let built = program::build(root, options.target.map(Target::name), BUILD);
    if let Err(why) = built {
        println!("fuzz: not built: {why}");
        return false;
    }
    let scratch = run::target_dir(root).join(format!("fuzz-{}", std::process::id()));
    let all = Target::value_variants().iter().copied();
    let targets = all.filter(|target| options.target.is_none_or(|wanted| wanted == *target));
    let rows: Vec<Row> = targets
        .map(|target| {
            println!("── {}", target.name());
            match options.canary {
                true => canary(root, &scratch, target, options.seconds()),
                false => clean(root, &scratch, target, options.seconds()),
            }
        })
        .collect();
    let head = if options.canary { CANARY } else { CLEAN };
    let table: String = std::iter::once(head).chain(rows.iter().map(|row| &*row.line)).collect();
    println!("\n{table}");
    let told = options.report.as_ref().is_none_or(|page| {
        let commit = report::commit(root, &["crates", "fuzz"]);
        let head = format!("`{}` at commit {commit}:", options.command_line());
        let told = report::write(root, page, options.marks(), &format!("{head}\n\n{table}"));
        told.inspect_err(|why| println!("fuzz: {why}")).is_ok()
    });
    told && rows.iter().all(|row| row.is_ok)
}

/// A run that should find nothing; it begins with what earlier ones kept.
fn clean(root: &Path, scratch: &Path, target: Target, seconds: u64) -> Row {
    let kept = Corpus::Kept(root.join("fuzz/corpus").join(target.name()));
    let said = one(root, scratch, target, seconds, kept, false);
    clean_row(target, &said)
}

/// A run with the plant, which must be found; and one without, for as long.
fn canary(root: &Path, scratch: &Path, target: Target, seconds: u64) -> Row {
    let planted = one(root, scratch, target, seconds, Corpus::Fresh, true);
    let took = planted.as_ref().map_or(0.0, |said| said.seconds).ceil() as u64;
    let without = one(root, scratch, target, took.max(CLEAN_MIN), Corpus::Fresh, false);
    canary_row(target, &planted, &without)
}

fn one(
    root: &Path,
    scratch: &Path,
    target: Target,
    seconds: u64,
    corpus: Corpus,
    is_planted: bool,
) -> Result<Said, String> {
    let (name, len_max) = (target.name(), target.len_max());
    let is_of_operations = target.is_of_operations();
    Run { name, len_max, is_of_operations, seconds, corpus, is_planted }.run(root, scratch)
}

const CLEAN: &str = "| target | found | inputs | edges | seconds |\n|---|---|---|---|---|\n";
const CANARY: &str = "| target | canary found after | seconds | as | without it | seconds | found |\n\
                      |---|---|---|---|---|---|---|\n";

/// What a run found, for a table; whether that was nothing.
fn found(said: &Result<Said, String>) -> (String, bool) {
    match said {
        Ok(Said { finding: None, .. }) => ("nothing".to_owned(), true),
        Ok(Said { finding: Some(what), .. }) | Err(what) => (cell(what), false),
    }
}

/// Words of a program, as a cell.
fn cell(what: &str) -> String {
    format!("`{}`", what.replace('`', "'").replace('|', "/"))
}

fn clean_row(target: Target, said: &Result<Said, String>) -> Row {
    let (found, is_ok) = found(said);
    let (inputs, edges, seconds) = figures(said);
    let line = format!("| `{}` | {found} | {inputs} | {edges} | {seconds} |\n", target.name());
    Row { line, is_ok }
}

fn canary_row(
    target: Target,
    planted: &Result<Said, String>,
    without: &Result<Said, String>,
) -> Row {
    let is_found = matches!(planted, Ok(Said { finding: Some(_), .. }));
    let how = match planted {
        Ok(Said { finding: Some(what), .. }) => cell(what),
        Ok(Said { finding: None, .. }) => "**not found**".to_owned(),
        Err(why) => format!("**not found**: {}", cell(why)),
    };
    let (inputs, _, seconds) = figures(planted);
    let (clean_inputs, _, clean_seconds) = figures(without);
    let (found, is_clean) = found(without);
    let line = format!(
        "| `{}` | {inputs} inputs | {seconds} | {how} | {clean_inputs} inputs | {clean_seconds} | {found} |\n",
        target.name(),
    );
    Row { line, is_ok: is_found && is_clean }
}

/// Inputs, edges, and seconds to a tenth.
fn figures(said: &Result<Said, String>) -> (u64, u64, String) {
    let none = Said::default();
    let said = said.as_ref().unwrap_or(&none);
    (said.inputs, said.edges, format!("{:.1}", said.seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(finding: Option<&str>) -> Result<Said, String> {
        let finding = finding.map(str::to_owned);
        Ok(Said { inputs: 36, edges: 7, seconds: 1.26, finding })
    }

    /// Goal: a run is well when nothing was found, and a canary's when it was, and nothing without.
    #[test]
    fn a_row_is_well_when_its_finding_is_the_planted_one() {
        let died = || Err("it ended with signal 9".to_owned());
        assert!(clean_row(Target::Pool, &said(None)).is_ok);
        assert!(!clean_row(Target::Pool, &said(Some("a | `b`"))).is_ok);
        assert!(!clean_row(Target::Pool, &died()).is_ok);
        let is_ok = |planted, without| canary_row(Target::Engine, &planted, &without).is_ok;
        assert!(is_ok(said(Some("a")), said(None)));
        assert!(!is_ok(said(None), said(None)));
        assert!(!is_ok(said(Some("a")), said(Some("a"))));
        assert!(!is_ok(died(), said(None)) && !is_ok(said(Some("a")), died()));
        let line = canary_row(Target::Engine, &said(Some("a | `b`")), &said(None)).line;
        assert_eq!(
            line,
            "| `engine` | 36 inputs | 1.3 | `a / 'b'` | 36 inputs | 1.3 | nothing |\n"
        );
    }

    /// Goal: a page names the command that was run.
    #[test]
    fn the_command_is_told_with_what_was_asked_for() {
        let options = |target, time, canary| Options { target, time, canary, report: None };
        let (all, one) = (options(None, None, true), options(Some(Target::Pool), Some(30), false));
        assert_eq!((all.command_line(), all.seconds()), ("cargo xtask fuzz --canary".into(), 300));
        assert_eq!(one.command_line(), "cargo xtask fuzz pool --for 30s");
    }
}
