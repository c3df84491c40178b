//! `cargo xtask asan` and `tsan`: the tests of the crate `vmalloc` under a sanitizer, and a bug for it.
//!
//! ```text
//!   build ─▶ the tests: none may fail ─▶ the canary, by the same program: it must fail, and the
//!                                        sanitizer must say why
//! ```
//!
//! A sanitizer that was not linked, or sees nothing, lets everything pass; so does it let the canary,
//! and then the command fails. The canaries are ignored tests in
//! `crates/vmalloc/src/os/tests/canary.rs`, built for a sanitizer alone. Each is a bug that nothing
//! else here notices: without the sanitizer that test passes.

use crate::nightly::{self, Need};
use crate::{report, run, tools};
use clap::Args;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a build may take, a standard library among it, on a machine with other work.
const BUILD: Duration = Duration::from_secs(60 * 60);

/// What the commands take.
#[derive(Args)]
pub struct Options {
    /// Only the planted bug, which must be found.
    #[arg(long)]
    canary: bool,
    /// Write the results into this page, between its marks.
    #[arg(long, value_name = "PAGE")]
    report: Option<String>,
}

/// A sanitizer, and what it is run over.
pub struct Sanitizer {
    tool: &'static str,
    needs: &'static [Need],
    flags: &'static str,
    /// More arguments for cargo.
    cargo: &'static [&'static str],
    /// Its own options: the variable, and what it is set to.
    options: (&'static str, &'static str),
    /// Which tests of the library: arguments for libtest.
    tests: &'static [&'static str],
    /// What it says of its canary.
    canary: &'static str,
}

/// The Linux machine. Not run: what ends a process on purpose, and what steps through a process
/// instruction by instruction or counts its mappings, for the sanitizer's are among them.
pub const ADDRESS: Sanitizer = Sanitizer {
    tool: "asan",
    needs: &[Need::Nightly],
    flags: "-Zsanitizer=address --cfg asan",
    cargo: &[],
    // Leaks are not its business here: the tests' children end by `_exit`. Nor are signals: some
    // children are to die of one, and any other process fails of it as well.
    options: ("ASAN_OPTIONS", "detect_leaks=0:abort_on_error=1:handle_segv=0:handle_sigbus=0"),
    tests: &["--skip", "pagemap", "--skip", "nothing_mapped", "--skip", "congruent"],
    canary: "AddressSanitizer: use-after-poison",
};

/// It is blind where one page is mapped twice, and between processes: so it runs the tests in which
/// threads share one mapping. With a standard library that is instrumented, too.
pub const THREAD: Sanitizer = Sanitizer {
    tool: "tsan",
    needs: &[Need::Nightly, Need::Component("rust-src")],
    flags: "-Zsanitizer=thread --cfg tsan",
    cargo: &["-Zbuild-std"],
    options: ("TSAN_OPTIONS", "halt_on_error=1"),
    tests: &["claims", "bell", "racing", "lanes"],
    canary: "ThreadSanitizer: data race",
};

/// The folder of the canaries, as libtest names it.
const CANARIES: &str = "os::tests::canary";

/// Runs the tests and the canary. Whether the ones passed and the other was found.
pub fn run(root: &Path, sanitizer: &Sanitizer, options: &Options) -> bool {
    let tool = sanitizer.tool;
    if !nightly::are_there(tool, sanitizer.needs) {
        return false;
    }
    if let Err(why) = run::run(sanitizer.cargo(root).arg("--no-run"), BUILD) {
        println!("{tool}: not built: {why}");
        return false;
    }
    let mut rows = Vec::new();
    if !options.canary {
        let (ended, seconds) = timed(|| sanitizer.listen(root, sanitizer.tests).0);
        rows.push(("tests", ended.map(|passed| format!("{passed} passed")), seconds));
    }
    let (ended, seconds) = timed(|| sanitizer.listen(root, &["--ignored", CANARIES]));
    rows.push(("canary", found(ended, sanitizer.canary), seconds));

    let mut table = String::from("| run | result | seconds |\n|---|---|---|\n");
    for (what, ended, seconds) in &rows {
        let result = match ended {
            Ok(result) => result.clone(),
            Err(why) => format!("**failed: {why}**"),
        };
        table += &format!("| {what} | {result} | {seconds:.1} |\n");
    }
    println!("\n{table}");
    let told = options.report.as_ref().is_none_or(|page| {
        let commit = report::commit(root, &["crates"]);
        let flag = if options.canary { " --canary" } else { "" };
        let head = format!("`cargo xtask {tool}{flag}` at commit {commit}, built before:");
        let told = report::write(root, page, tool, &format!("{head}\n\n{table}"));
        told.inspect_err(|why| println!("{tool}: {why}")).is_ok()
    });
    told && rows.iter().all(|(_, ended, _)| ended.is_ok())
}

fn timed<R>(work: impl FnOnce() -> R) -> (R, f64) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed().as_secs_f64())
}

/// A canary is found when its test ended badly, and the sanitizer said why.
fn found((ended, heard): (Result<u64, String>, bool), word: &str) -> Result<String, String> {
    match ended {
        Err(_) if heard => Ok(format!("found: `{word}`")),
        Err(why) => Err(format!("not found, but {why}")),
        Ok(_) => Err("not found".to_owned()),
    }
}

impl Sanitizer {
    /// `cargo test` of the library, for the machine that we are on, named: so that build scripts are
    /// left alone.
    fn cargo(&self, root: &Path) -> Command {
        let mut command = nightly::cargo(root, self.tool);
        command.env("RUSTFLAGS", self.flags).env(self.options.0, self.options.1);
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        command.args(["test", "--package", "vmalloc", "--lib", "--target", &target]);
        command.args(self.cargo);
        command
    }

    fn listen(&self, root: &Path, tests: &[&str]) -> (Result<u64, String>, bool) {
        let mut command = self.cargo(root);
        tools::listen(command.arg("--").args(tests), Some(self.canary))
    }
}

#[cfg(test)]
mod tests {
    use super::found;

    /// Goal: a canary is found by the sanitizer's word alone: not by a test that failed of something
    /// else, one that passed, or none.
    #[test]
    fn a_canary_is_found_by_the_sanitizers_word_alone() {
        let died = || Err("it ended with signal 6".to_owned());
        assert_eq!(found((died(), true), "data race"), Ok("found: `data race`".to_owned()));
        assert!(found((died(), false), "data race").is_err());
        assert!(found((Ok(1), true), "data race").is_err());
        assert!(found((Err("no test ran".to_owned()), false), "data race").is_err());
    }
}
