//! Tools that others made, over our tests: coverage. ([`crate::mutants`], [`crate::miri`] and
//! [`crate::sanitizers`] are apart.)
//!
//! Each is a command with its needs ([`crate::nightly`]) and the time that it takes; none is a step
//! of CI. What each is run over, and why the rest is left out, stands here, and in
//! `docs/testing.md`.

use crate::nightly::{self, Need};
use crate::suite::passed_in;
use crate::{report, run};
use clap::Args;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The longest that one of them may take: an hour, on a machine with other work.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// How many cases each property test tries: they run often, or without optimisation.
const CASES: &str = "8";

/// Runs `command` to its end. How many tests passed; and whether it said `word`, if there is one.
pub fn listen(command: &Command, word: Option<&str>) -> (Result<u64, String>, bool) {
    let (mut passed, mut heard) = (0, false);
    let ended = run::run_lines_of_both(command, LIMIT, |line| {
        heard |= word.is_some_and(|word| line.contains(word));
        passed += passed_in(line).unwrap_or(0);
        println!("    {line}");
    });
    match ended {
        // Nothing ran: a filter that fits no test proves nothing.
        Ok(()) if passed == 0 => (Err("no test ran".to_owned()), heard),
        Ok(()) => (Ok(passed), heard),
        Err(why) => (Err(why), heard),
    }
}

/// What `cargo xtask coverage` takes.
#[derive(Args)]
pub struct Coverage {
    /// Only the tests of these packages; without any, of all.
    packages: Vec<String>,
    /// Write the tables into this page, between its marks.
    #[arg(long, value_name = "PAGE")]
    report: Option<String>,
}

/// How many of the files that the tests reach least are named.
const LEAST: usize = 10;

/// Lines that the tests reach, by crate, and the files of which they reach least.
pub fn coverage(root: &Path, options: &Coverage) -> bool {
    if !nightly::are_there("coverage", &[Need::AddOn("llvm-cov")]) {
        return false;
    }
    let Some(tools) = llvm_tools() else {
        return nightly::are_there("coverage", &[Need::Stable("llvm-tools")]);
    };
    // Two steps, so that what was reached is told though a test failed or did not end.
    let start = Instant::now();
    let mut tests = run::cargo();
    tests.args(["llvm-cov", "--no-report", "--lib", "--bins", "--tests", "--no-fail-fast"]);
    match &options.packages[..] {
        [] => _ = tests.arg("--workspace"),
        some => some.iter().for_each(|name| _ = tests.args(["--package", name])),
    }
    tests.current_dir(root).env("PROPTEST_CASES", CASES).envs(tools.clone());
    let (passed, _) = listen(&tests, None);
    let seconds = start.elapsed().as_secs();
    let result = match &passed {
        Ok(passed) => format!("{passed} tests passed"),
        Err(why) => format!("**not all tests passed: {why}**"),
    };

    let mut report = run::cargo();
    report.args(["llvm-cov", "report", "--json", "--summary-only"]).current_dir(root).envs(tools);
    let tables = run::capture(&mut report, LIMIT)
        .ok_or("`cargo llvm-cov report` failed: run it by hand to see why".to_owned())
        .and_then(|json| tables(&json, root));
    let told = tables.and_then(|tables| {
        let words = [&["cargo xtask coverage".to_owned()], &options.packages[..]].concat();
        let commit = report::commit(root, &["crates", "xtask"]);
        let head = format!("`{}` at commit {commit}, {seconds} s: {result}.", words.join(" "));
        println!("\n{head}\n\n{tables}");
        let Some(page) = &options.report else { return Ok(()) };
        report::write(root, page, "coverage", &format!("{head}\n\n{tables}"))
    });
    if let Err(why) = &told {
        println!("coverage: {why}");
    }
    told.is_ok() && passed.is_ok()
}

/// Where cargo-llvm-cov finds LLVM's own tools, if it has to be told: those of nightly do as well,
/// and Miri's user has them.
fn llvm_tools() -> Option<Vec<(&'static str, PathBuf)>> {
    if Need::Stable("llvm-tools").is_there() {
        return Some(Vec::new());
    }
    let mut rustc = Command::new("rustc");
    rustc.args(["+nightly", "--print", "target-libdir"]).env_remove("RUSTUP_TOOLCHAIN");
    let folder = run::capture(&mut rustc, LIMIT)?;
    let folder = Path::new(folder.trim()).parent()?.join("bin");
    let tools = [("LLVM_COV", "llvm-cov"), ("LLVM_PROFDATA", "llvm-profdata")];
    let tools = tools.map(|(variable, name)| (variable, folder.join(name)));
    tools.iter().all(|(_, path)| path.exists()).then(|| tools.into())
}

/// How much of something is reached: lines reached, and all.
#[derive(Clone, Copy, Default)]
struct Reached {
    covered: u64,
    count: u64,
}

impl Reached {
    fn percent(self) -> f64 {
        100.0 * self.covered as f64 / self.count.max(1) as f64
    }
}

/// The crates' rows, as Markdown, of what llvm-cov exports; and the rows of the files.
fn tables(json: &str, root: &Path) -> Result<String, String> {
    let export: serde_json::Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let files = export["data"][0]["files"].as_array().ok_or("it exported no files")?;
    let mut crates: BTreeMap<String, Reached> = BTreeMap::new();
    let mut least = Vec::new();
    for file in files {
        let path = Path::new(file["filename"].as_str().unwrap_or_default());
        let path = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        let Some((package, _)) = path.split_once("/src/") else { continue };
        let number = |name: &str| file["summary"]["lines"][name].as_u64().unwrap_or(0);
        let lines = Reached { covered: number("covered"), count: number("count") };
        let sums = crates.entry(package.to_owned()).or_default();
        sums.covered += lines.covered;
        sums.count += lines.count;
        least.push((path, lines));
    }
    least.sort_by(|(_, a), (_, b)| a.percent().total_cmp(&b.percent()));
    least.truncate(LEAST);
    let row = |(name, lines): (String, Reached)| {
        format!("| `{name}` | {} | {:.1} % |\n", lines.count, lines.percent())
    };
    let head = |what: &str| format!("| {what} | lines | reached |\n|---|---|---|\n");
    let crates: String = crates.into_iter().map(row).collect();
    let least: String = least.into_iter().map(row).collect();
    Ok(format!("{}{crates}\n{}{least}", head("crate"), head("least reached")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a run in which no test ran is a failure, and so is one that ends badly.
    #[test]
    fn a_run_of_no_test_proves_nothing() {
        let sh = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            listen(&command, Some("Data race"))
        };
        assert_eq!(sh("true"), (Err("no test ran".to_owned()), false));
        assert_eq!(sh("echo 'test result: ok. 2 passed; 0 failed'"), (Ok(2), false));
        let (ended, heard) = sh("echo 'error: Data race' >&2; exit 1");
        assert!(ended.is_err() && heard);
    }

    /// Goal: coverage adds the files of a crate up, and names the file that is reached least first.
    #[test]
    fn coverage_is_added_up_by_crate_and_the_least_reached_file_comes_first() {
        let file = |name: &str, covered: u64| {
            format!(
                r#"{{"filename":"/r/crates/a/src/{name}","summary":{{"lines":{{"covered":{covered},"count":10}}}}}}"#
            )
        };
        let json = format!(r#"{{"data":[{{"files":[{},{}]}}]}}"#, file("x.rs", 9), file("y.rs", 6));
        let told = tables(&json, Path::new("/r")).unwrap();
        let (crates, files) = told.split_once("\n\n").unwrap();
        assert!(crates.ends_with("| `crates/a` | 20 | 75.0 % |"), "{crates}");
        assert!(
            files.ends_with(
                "| `crates/a/src/y.rs` | 10 | 60.0 % |\n| `crates/a/src/x.rs` | 10 | 90.0 % |\n"
            ),
            "{files}"
        );
    }
}
