//! Tools that others made, over our tests: mutants, coverage. ([`crate::miri`] and [`crate::sanitizers`] are apart.)
//!
//! Each is a command with its needs ([`crate::nightly`]) and the time that it takes; none is a step
//! of CI. What each is run over, and why the rest is left out, stands here, and in
//! `docs/testing.md`.

use crate::nightly::{self, Need};
use crate::run;
use crate::suite::passed_in;
use clap::Args;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The longest that one of them may take: an hour, on a machine with other work.
const LIMIT: Duration = Duration::from_secs(60 * 60);

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

/// What `cargo xtask mutants` takes.
#[derive(Args)]
pub struct Mutants {
    /// Only mutants of these files of the engine: `record`, `lazy`, `frames/claim`; without any, of
    /// all of it, which takes a day.
    files: Vec<String>,
    /// The part `k` of `n`, as `0/8`.
    #[arg(long)]
    shard: Option<String>,
}

/// The tests that a mutant has to pass: the quickest that reach most of the engine.
const MUTANTS_TESTS: &str = "--lib --test conformance --test model --test care --test resize \
                             --test recover --test each_step_fails --test suite_in_place";

/// Mutants of the engine. Whether all were caught; what was not is printed by the tool.
pub fn mutants(root: &Path, options: &Mutants) -> bool {
    if !nightly::are_there("mutants", &[Need::AddOn("mutants")]) {
        return false;
    }
    let mut command = run::cargo();
    command.args(["mutants", "--package", "vmalloc-core", "--no-shuffle", "--colors", "never"]);
    // The tool's own look at the tree without a mutant knows the engine's package alone.
    command.args(["--test-package", "vmalloc-core,vmalloc-sim", "--baseline", "skip"]);
    command.args(["--timeout", "120", "--build-timeout", "600", "--output"]);
    let out = run::target_dir(root).join("mutants");
    command.arg(&out).current_dir(root).env("PROPTEST_CASES", "32");
    for file in &options.files {
        command.args(["--file", &format!("crates/vmalloc-core/src/{file}.rs")]);
    }
    if let Some(shard) = &options.shard {
        command.args(["--shard", shard]);
    }
    command.arg("--").args(MUTANTS_TESTS.split_whitespace());
    let ended = std::fs::create_dir_all(&out)
        .map_err(|e| e.to_string())
        .and_then(|()| run::run(&mut command, 24 * LIMIT));
    if let Err(why) = &ended {
        println!("mutants: {why}");
    }
    ended.is_ok()
}

/// Lines that the tests reach, by crate.
pub fn coverage(root: &Path) -> bool {
    let needs = [Need::AddOn("llvm-cov"), Need::Stable("llvm-tools")];
    if !nightly::are_there("coverage", &needs) {
        return false;
    }
    let mut command = run::cargo();
    command.args(["llvm-cov", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"]);
    command.args(["--ignore-run-fail", "--json", "--summary-only"]).current_dir(root);
    let Some(json) = run::capture(&mut command, 2 * LIMIT) else {
        println!("coverage: `cargo llvm-cov` failed: run it by hand to see why");
        return false;
    };
    let table = table(&json, root);
    match &table {
        Ok(table) => print!("{table}"),
        Err(why) => println!("coverage: {why}"),
    }
    table.is_ok()
}

/// The crates' rows, as Markdown, of what llvm-cov exports.
fn table(json: &str, root: &Path) -> Result<String, String> {
    let export: serde_json::Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let files = export["data"][0]["files"].as_array().ok_or("it exported no files")?;
    let mut crates: std::collections::BTreeMap<String, (u64, u64)> = Default::default();
    for file in files {
        let path = Path::new(file["filename"].as_str().unwrap_or_default());
        let path = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        let Some((package, _)) = path.split_once("/src/") else { continue };
        let lines = &file["summary"]["lines"];
        let sums = crates.entry(package.to_owned()).or_default();
        sums.0 += lines["covered"].as_u64().unwrap_or(0);
        sums.1 += lines["count"].as_u64().unwrap_or(0);
    }
    let mut table = String::from("| crate | lines | reached |\n|---|---|---|\n");
    for (name, (covered, count)) in crates {
        let share = 100.0 * covered as f64 / count.max(1) as f64;
        table += &format!("| `{name}` | {count} | {share:.1} % |\n");
    }
    Ok(table)
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

    /// Goal: the table of coverage adds the files of a crate up.
    #[test]
    fn coverage_is_added_up_by_crate() {
        let file = |name: &str, covered: u64| {
            format!(
                r#"{{"filename":"/r/crates/a/src/{name}","summary":{{"lines":{{"covered":{covered},"count":10}}}}}}"#
            )
        };
        let json = format!(r#"{{"data":[{{"files":[{},{}]}}]}}"#, file("x.rs", 9), file("y.rs", 6));
        let table = table(&json, Path::new("/r")).unwrap();
        assert!(table.ends_with("| `crates/a` | 20 | 75.0 % |\n"), "{table}");
    }
}
