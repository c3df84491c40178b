//! `cargo test` for everything: its counts added up, and what it skipped told plainly.
//!
//! # For writers of tests: how to skip
//!
//! A test that cannot run here (no root, an old kernel, little memory) must not pass in silence.
//! It appends one line to the file that the variable `VMALLOC_SKIPS` names, then returns:
//!
//! ```
//! fn skip(what: &str, why_and_how: &str) {
//!     use std::io::Write;
//!     let line = format!("{what}: {why_and_how}\n");
//!     let file = std::env::var_os("VMALLOC_SKIPS")
//!         .and_then(|path| std::fs::OpenOptions::new().append(true).create(true).open(path).ok());
//!     match file {
//!         // One write of one line, so lines of concurrent tests do not mix.
//!         Some(mut file) => file.write_all(line.as_bytes()).unwrap(),
//!         None => eprint!("skipped: {line}"),
//!     }
//! }
//! # skip("real frames", "needs CAP_SYS_ADMIN; run as root");
//! ```
//!
//! The file is empty at the start of a run; a line that comes twice is told once. A line
//! `skipped: …` on standard output counts too, but the test harness shows the output of a passing
//! test only under `--nocapture`: prefer the file. Tests under `#[ignore = "why"]` are told with
//! their reason and the command that runs them.
//!
//! libtest counts a test that skipped itself as passed, and so do we; the list says what is
//! missing.

use crate::run;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The variable that names the file to which tests append what they skip.
pub const SKIPS_VAR: &str = "VMALLOC_SKIPS";

/// The features of users, for cargo. Those that change the engine's words are for proofs alone.
pub const FEATURES: &str = "vmalloc/tracing,vmalloc/allocator-api2,vmalloc-bare/lock_api";

/// A part of the suite: cargo runs doctests apart from all others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Libraries, binaries, integration tests and examples, as they are built by default.
    Tests,
    /// What the features of users bring.
    Features,
    /// The examples in the documentation.
    Doctests,
}

impl Part {
    /// All, in the order in which they run.
    pub const ALL: [Part; 3] = [Part::Tests, Part::Features, Part::Doctests];

    /// Its name as a step.
    pub fn name(self) -> &'static str {
        match self {
            Part::Tests => "tests",
            Part::Features => "features",
            Part::Doctests => "doctests",
        }
    }

    /// The arguments for cargo.
    pub fn args(self) -> &'static [&'static str] {
        match self {
            Part::Tests => &[
                "test",
                "--workspace",
                "--no-fail-fast",
                "--lib",
                "--bins",
                "--tests",
                "--examples",
            ],
            Part::Features => &[
                "test",
                "--package",
                "vmalloc",
                "--package",
                "vmalloc-bare",
                "--features",
                FEATURES,
                "--no-fail-fast",
                "--lib",
                "--examples",
                "--test",
                "events",
                "--test",
                "allocator",
            ],
            Part::Doctests => {
                &["test", "--workspace", "--features", FEATURES, "--no-fail-fast", "--doc"]
            }
        }
    }

    /// How long it may take, building included.
    fn limit(self) -> Duration {
        match self {
            Part::Tests => Duration::from_secs(18 * 60),
            Part::Features | Part::Doctests => Duration::from_secs(10 * 60),
        }
    }
}

/// The counts of a run, and what it skipped.
#[derive(Default)]
pub struct Tally {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
}

impl Tally {
    /// Adds something that was not done: what, why, how to get it.
    pub fn skip(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.skipped.contains(&what) {
            self.skipped.push(what);
        }
    }

    /// Counts a failure that no test reported: a closing line never says `0 failed` of a failure.
    pub fn fail_once(&mut self) {
        self.failed = self.failed.max(1);
    }

    /// Counts what a kernel's closing line says: `N passed, 0 failed`.
    pub fn closing(&mut self, line: &str) {
        let passed = line.split_once(" passed, ").and_then(|(n, _)| n.parse().ok());
        self.passed += passed.unwrap_or(0);
    }

    /// Takes a line that cargo printed.
    fn line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
        } else if let Some(skip) = line.strip_prefix("skipped: ") {
            self.skip(skip);
        } else if let Some((name, reason)) = ignored(line) {
            let why = if reason.is_empty() { "marked #[ignore]" } else { reason };
            self.skip(format!("{name}: {why}; run `cargo test --workspace -- --ignored`"));
        }
    }

    /// How many things were not done.
    pub fn skips(&self) -> usize {
        self.skipped.len()
    }

    /// The list of what was skipped, and the closing line.
    pub fn print(&self) {
        self.print_skips();
        println!("{}", self.closing_line());
    }

    /// The list of what was skipped.
    pub fn print_skips(&self) {
        if !self.skipped.is_empty() {
            println!("\nskipped, and how to get it:");
            for skip in &self.skipped {
                println!("  {skip}");
            }
            println!();
        }
    }

    fn closing_line(&self) -> String {
        let skipped = match self.skipped.len() {
            0 => String::new(),
            count => format!(", {count} skipped"),
        };
        format!("{} passed, {} failed{skipped}", self.passed, self.failed)
    }
}

/// How many tests passed, if the line is libtest's last one: "test result: ok. 3 passed; …".
pub fn passed_in(line: &str) -> Option<u64> {
    line.strip_prefix("test result: ").map(|counts| count(counts, "passed"))
}

/// The number before `word` in "3 passed; 0 failed; …".
fn count(counts: &str, word: &str) -> u64 {
    let words: Vec<&str> = counts.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
    let pair = words.windows(2).find(|pair| pair[1] == word);
    pair.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

/// The name and the reason in "test NAME ... ignored, REASON".
fn ignored(line: &str) -> Option<(&str, &str)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((name, outcome.strip_prefix("ignored")?.trim_start_matches([',', ' '])))
}

/// Runs one part of the suite and adds to `tally`.
///
/// # Errors
///
/// Why it failed, in words. A run that failed without one failed test (it did not build, a test
/// binary died, it took too long) adds one failure to `tally`.
pub fn run_part(part: Part, root: &Path, tally: &mut Tally) -> Result<(), String> {
    let skips = skips_file(root)?;
    let mut command = run::cargo();
    command.args(part.args()).env(SKIPS_VAR, &skips).current_dir(root);
    let result = follow(&mut command, part.limit(), tally);
    for line in std::fs::read_to_string(&skips).unwrap_or_default().lines() {
        tally.skip(line.trim());
    }
    let _ = std::fs::remove_file(&skips);
    result
}

/// Runs `command`, which speaks as `cargo test` does, and adds what it says to `tally`.
fn follow(command: &mut Command, limit: Duration, tally: &mut Tally) -> Result<(), String> {
    let failed_before = tally.failed;
    let result = run::run_lines(command, limit, |line| {
        println!("{line}");
        tally.line(line);
    });
    let failed = tally.failed - failed_before;
    match result {
        Ok(()) if failed == 0 => Ok(()),
        Err(why) if failed == 0 => {
            tally.failed += 1;
            Err(format!("no test failed, but {why}: it did not build, or a test binary died"))
        }
        _ => Err(format!("{failed} failed")),
    }
}

/// An empty file for the skips, in the target directory.
fn skips_file(root: &Path) -> Result<PathBuf, String> {
    let dir = run::target_dir(root).join("xtask");
    let file = dir.join(format!("skips-{}.txt", std::process::id()));
    std::fs::create_dir_all(&dir)
        .and_then(|()| std::fs::write(&file, ""))
        .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    Ok(file)
}

/// `cargo xtask test`: every part, the skips, the closing line. Whether all passed.
pub fn run_all(root: &Path) -> bool {
    let mut tally = Tally::default();
    let mut is_ok = true;
    for part in Part::ALL {
        println!("cargo {}", part.args().join(" "));
        if let Err(why) = run_part(part, root, &mut tally) {
            println!("{why}");
            is_ok = false;
        }
    }
    println!("cargo xtask kernel");
    if let Err(why) = crate::kernel::run_all(root, &mut tally) {
        println!("{why}");
        is_ok = false;
        tally.fail_once();
    }
    tally.print();
    is_ok
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "\
running 4 tests
test a::b ... ok
test a::c ... FAILED
test a::d ... ignored, takes an hour
test crates/a/src/lib.rs - f (line 3) ... ignored
skipped: real frames: run as root
skipped: real frames: run as root
test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.1s
test result: ok. 30 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.1s
";

    /// Goal: how many tests passed is read from libtest's own line, and from no other.
    #[test]
    fn the_tests_that_passed_are_counted() {
        let line = "test result: ok. 36 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(passed_in(line), Some(36));
        assert_eq!(passed_in("running 36 tests"), None);
    }

    /// Goal: what a kernel has passed is in the closing line.
    #[test]
    fn closing_line_of_a_kernel_is_counted() {
        let mut tally = Tally::default();
        tally.closing("59 passed, 0 failed");
        tally.closing("rubbish");
        assert_eq!(tally.passed, 59);
    }

    fn tally(text: &str) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.line(line));
        tally
    }

    /// Goal: results of several binaries add up, skips and ignored tests are told once each.
    #[test]
    fn counts_add_up_and_skips_are_told_once() {
        let tally = tally(RUN);
        assert_eq!(tally.closing_line(), "42 passed, 1 failed, 3 skipped");
        assert!(tally.skipped[0].starts_with("a::d: takes an hour; run `cargo test"));
        assert!(tally.skipped[1].contains("(line 3): marked #[ignore]"));
        assert_eq!(tally.skipped[2], "real frames: run as root");
    }

    /// Goal: the closing line is the plain one when nothing was skipped.
    #[test]
    fn the_closing_line_is_plain_without_skips() {
        assert_eq!(tally("").closing_line(), "0 passed, 0 failed");
    }

    /// Goal: a run that ends badly is a failure, though no test failed; a failed test counts once.
    #[test]
    fn a_run_that_dies_has_failed() {
        let follow = |script: &str| {
            let mut tally = Tally::default();
            let mut command = Command::new("sh");
            let result = follow(command.args(["-c", script]), Duration::from_secs(60), &mut tally);
            (result, tally.closing_line())
        };
        let (result, line) = follow("echo 'error: no such crate'; exit 101");
        assert!(result.unwrap_err().contains("did not build"));
        assert_eq!(line, "0 passed, 1 failed");
        let (result, line) = follow("echo 'test result: FAILED. 3 passed; 2 failed;'; exit 101");
        assert_eq!(result, Err("2 failed".into()));
        assert_eq!(line, "3 passed, 2 failed");
        let (result, line) = follow("echo 'test result: ok. 3 passed; 0 failed;'");
        assert_eq!(result, Ok(()));
        assert_eq!(line, "3 passed, 0 failed");
    }
}
