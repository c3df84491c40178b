//! `cargo xtask loom`, `shuttle` and `stateright`: the checkers of the workspace `proof/`.
//!
//! They build the engine's own sources with words of a checker's, so they are built apart. Each line
//! of theirs that begins with the checker's name is a result: `--report` makes a table of them. A run
//! without a result has failed: a NAME that fits no scenario proves nothing.

use crate::{report, run};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The time that a build and a run may take.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// Which checker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checker {
    /// Every order of steps of a piece, and every value that a load may yield.
    Loom,
    /// Orders of steps of whole verbs, with kills.
    Shuttle,
    /// A model of the recovery.
    Stateright,
}

/// What loom and shuttle take.
#[derive(clap::Args, Default)]
pub struct Options {
    /// Only scenarios whose path holds this.
    name: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// What stateright takes, too: it is one model, and explored whole.
#[derive(clap::Args, Default)]
pub struct Output {
    /// Write the results into this page, between its marks: `loom`, or `loom-NAME` for a part.
    #[arg(long, value_name = "PAGE")]
    report: Option<String>,
}

impl Checker {
    fn name(self) -> &'static str {
        match self {
            Checker::Loom => "loom",
            Checker::Shuttle => "shuttle",
            Checker::Stateright => "stateright",
        }
    }

    /// What to type to run it so again.
    fn command_line(self, name: Option<&str>) -> String {
        let name = name.map(|name| format!(" {name}"));
        format!("cargo xtask {}{}", self.name(), name.unwrap_or_default())
    }

    /// Between which marks of a page its results stand: those of a part between their own.
    fn marks(self, name: Option<&str>) -> String {
        let name = name.map(|name| format!("-{name}"));
        format!("{}{}", self.name(), name.unwrap_or_default())
    }

    fn command(self, root: &Path, name: Option<&str>) -> Command {
        let mut command = run::cargo();
        command.current_dir(root.join("proof")).env("RUST_BACKTRACE", "0");
        let filter = name.unwrap_or("proof::");
        match self {
            Checker::Stateright => {
                command.args(["run", "--release", "--quiet", "--package", "proof-recovery"]);
            }
            _ => {
                command.args(["test", "--release", "--package", "proof-engine", "--lib"]);
                command.args(["--features", self.name(), filter]);
                // One at a time: a planted bug and a panic hook are everybody's.
                command.args(["--", "--nocapture", "--test-threads", "1"]);
            }
        }
        command
    }
}

/// Runs scenarios of loom or shuttle. Whether all passed, and there was one.
pub fn run(root: &Path, checker: Checker, options: &Options) -> bool {
    check(root, checker, options.name.as_deref(), &options.output)
}

/// Explores the model. Whether all passed.
pub fn stateright(root: &Path, output: &Output) -> bool {
    check(root, Checker::Stateright, None, output)
}

fn check(root: &Path, checker: Checker, name: Option<&str>, output: &Output) -> bool {
    let start = Instant::now();
    let mark = format!("{}: ", checker.name());
    let mut results: Vec<Vec<String>> = Vec::new();
    let ran = run::run_lines(&mut checker.command(root, name), LIMIT, |line| {
        println!("{line}");
        // libtest writes the name of the test before the first line of it.
        let result = line.find(&mark).map(|at| &line[at + mark.len()..]);
        results.extend(result.map(|text| text.split(" | ").map(str::to_owned).collect()));
    });
    let seconds = start.elapsed().as_secs();
    let told = ran.and_then(|()| table(&results)).and_then(|table| match &output.report {
        Some(page) => {
            let commit = report::commit(root, &["crates", "proof"]);
            let head = format!("`{}` at commit {commit}, {seconds} s:", checker.command_line(name));
            report::write(root, page, &checker.marks(name), &format!("{head}\n\n{table}"))
        }
        None => Ok(()),
    });
    if let Err(why) = &told {
        println!("{}: {why}", checker.name());
    }
    told.is_ok()
}

/// Results as a table; the first has the names of the columns.
fn table(results: &[Vec<String>]) -> Result<String, String> {
    let [head, rows @ ..] = results else { return Err("it said nothing".into()) };
    let is_head = |row: &&Vec<String>| *row != head;
    let line = |row: &[String]| format!("| {} |\n", row.join(" | "));
    let rule = vec!["---".to_owned(); head.len()];
    if let Some(odd) = rows.iter().filter(is_head).find(|row| row.len() != head.len()) {
        return Err(format!("not {} columns: {odd:?}", head.len()));
    }
    let rows: String = rows.iter().filter(is_head).map(|row| line(row)).collect();
    Ok(line(head) + &line(&rule) + &rows)
}

#[cfg(test)]
mod tests {
    use super::{Checker, table};

    /// Goal: a page names the command that was run, not one that would have run more.
    #[test]
    fn the_command_is_told_with_its_filter() {
        assert_eq!(Checker::Loom.command_line(Some("lazy")), "cargo xtask loom lazy");
        assert_eq!(Checker::Stateright.command_line(None), "cargo xtask stateright");
        assert_eq!(Checker::Loom.marks(Some("lazy")), "loom-lazy");
        assert_eq!(Checker::Stateright.marks(None), "stateright");
    }

    /// Goal: results become a table, and what is no result is told. Method: heads that come again,
    /// as each test prints one.
    #[test]
    fn results_are_a_table() {
        let row = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let results = [row("a b"), row("1 2"), row("a b"), row("3 4")];
        assert_eq!(table(&results).unwrap(), "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |\n");
        assert!(table(&[]).is_err() && table(&[row("a b"), row("1")]).is_err());
    }
}
