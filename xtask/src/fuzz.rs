//! `cargo xtask fuzz`: the fuzzers of `fuzz/`, one after the other, each for a while.
//!
//! ```text
//!   fuzz [TARGET] --for 60s             no finding, or it fails; the corpus grows in fuzz/corpus/
//!   fuzz [TARGET] --for 60s --canary    with a planted bug each; fails unless it is found
//! ```
//!
//! libFuzzer stops at the first finding and leaves it in `fuzz/artifacts/`, to be run again by
//! `cargo +nightly fuzz run TARGET FILE`. A run begins with what the last one left in the corpus;
//! where an input is a sequence of operations, also with a few long ones of chance.

use crate::nightly::{self, Need};
use crate::run;
use crate::simulate::seconds;
use clap::{Args, ValueEnum};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The time that a build may take: proptest, clap and ratatui under a sanitizer.
const BUILD: Duration = Duration::from_secs(30 * 60);
/// How long one input may take, in seconds: a thousand times what the slowest needs.
const PATIENCE: u64 = 60;

/// What `cargo xtask fuzz` takes.
#[derive(Args)]
pub struct Options {
    /// Which; all of them if absent.
    #[arg(value_enum)]
    target: Option<Target>,
    /// For how long each: `60s`, `5m`.
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = seconds)]
    time: u64,
    /// With a planted bug, which must be found.
    #[arg(long)]
    canary: bool,
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

/// How many seeds.
const SEEDS: u64 = 16;

/// Writes files of chance bytes, the same each time, from which a run begins.
fn sow(dir: &Path, len: u64) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    (0..SEEDS).try_for_each(|seed| {
        let bytes = (0..len).map(|at| mix(seed << 32 | at) as u8);
        std::fs::write(dir.join(seed.to_string()), bytes.collect::<Vec<u8>>())
    })
}

/// SplitMix64.
fn mix(i: u64) -> u64 {
    let z = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Runs the fuzzers. Whether none found anything; with `--canary`, whether each did.
pub fn run(root: &Path, options: &Options) -> bool {
    let needs = [Need::Nightly, Need::AddOn("fuzz")];
    if !nightly::are_there("fuzz", &needs) {
        return false;
    }
    let all = Target::value_variants().iter().copied();
    let targets = all.filter(|target| options.target.is_none_or(|wanted| wanted == *target));
    let mut is_ok = true;
    for target in targets {
        match fuzz(root, target, options) {
            Ok(line) => println!("{:<10} {line}", target.name()),
            Err(why) => {
                println!("{:<10} FAILED: {why}", target.name());
                is_ok = false;
            }
        }
    }
    is_ok
}

fn fuzz(root: &Path, target: Target, options: &Options) -> Result<String, String> {
    let kind = if options.canary { "canary" } else { "clean" };
    let dir = root.join("fuzz");
    let cargo_fuzz = |task: &str| {
        let mut command = nightly::cargo(root, "fuzz");
        command.current_dir(&dir).args(["fuzz", task, target.name()]);
        command.arg("--target-dir").arg(dir.join("target").join(kind));
        if options.canary {
            command.env("RUSTFLAGS", nightly::CANARY);
        }
        command
    };
    run::run(&mut cargo_fuzz("build"), BUILD)?;
    // What canaries find is no finding, and their corpus is a bug's: neither is kept.
    let scratch = std::env::temp_dir().join(format!("vmalloc-fuzz-{}", std::process::id()));
    let corpus = match options.canary {
        true => scratch.join("corpus"),
        false => dir.join("corpus").join(target.name()),
    };
    for made in [&corpus, &scratch] {
        std::fs::create_dir_all(made).map_err(|e| format!("{}: {e}", made.display()))?;
    }
    let mut fuzzer = cargo_fuzz("run");
    fuzzer.arg(&corpus);
    let mut length = "-len_control=20";
    if target.is_of_operations() {
        let seeds = scratch.join("seeds");
        sow(&seeds, target.len_max()).map_err(|e| format!("{}: {e}", seeds.display()))?;
        fuzzer.arg(&seeds);
        // At once as long as may be: at ten inputs a second libFuzzer stays with one operation.
        length = "-len_control=0";
    }
    fuzzer.arg("--").arg(format!("-max_total_time={}", options.time));
    fuzzer.arg(format!("-max_len={}", target.len_max())).arg(format!("-timeout={PATIENCE}"));
    fuzzer.args([length, "-print_final_stats=1", "-verbosity=1"]);
    if options.canary {
        fuzzer.arg(format!("-artifact_prefix={}/", scratch.display()));
    }
    let start = Instant::now();
    let (ended, said) = listen(&fuzzer, Duration::from_secs(options.time + 15 * 60));
    let took = start.elapsed();
    let _ = std::fs::remove_dir_all(&scratch);
    let line = format!("{} in {:.0} s", said.figures(), took.as_secs_f64());
    match (ended, options.canary, said.finding) {
        (Ok(()), false, _) => Ok(format!("no finding: {line}")),
        (Err(_), true, Some(finding)) => Ok(format!("found its canary: {line}: {finding}")),
        (Ok(()), true, _) => Err(format!("did not find its canary: {line}")),
        (Err(why), _, finding) => Err(format!("{why}: {line}: {}", finding.unwrap_or_default())),
    }
}

/// What libFuzzer said of a run.
#[derive(Default)]
struct Said {
    /// Inputs that were run, from its last line of the kind `#1234 NEW cov: 567 …`.
    inputs: u64,
    covered: u64,
    /// The panic or the sanitizer's word, if any.
    finding: Option<String>,
}

impl Said {
    fn hear(&mut self, line: &str) {
        let number_after = |word: &str| {
            let mut words = line.split_whitespace().skip_while(|w| *w != word);
            words.nth(1).and_then(|text| text.parse().ok())
        };
        if let Some(count) = line.strip_prefix('#') {
            let digits = count.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            self.inputs = digits.parse().unwrap_or(self.inputs).max(self.inputs);
            self.covered = number_after("cov:").unwrap_or(self.covered).max(self.covered);
        }
        if let Some(count) = number_after("stat::number_of_executed_units:") {
            self.inputs = count;
        }
        let is_finding = line.contains("panicked at") || line.contains("SUMMARY:");
        if is_finding && self.finding.is_none() {
            self.finding = Some(line.trim().to_owned());
        }
    }

    fn figures(&self) -> String {
        format!("{} inputs, {} edges covered", self.inputs, self.covered)
    }
}

/// Runs `fuzzer` to its end and reads both its streams, for libFuzzer speaks on the one for errors.
/// If it ended badly, its last lines are printed.
fn listen(fuzzer: &Command, limit: Duration) -> (Result<(), String>, Said) {
    let mut said = Said::default();
    let mut last: std::collections::VecDeque<String> = std::collections::VecDeque::new();
    let ended = run::run_lines_of_both(fuzzer, limit, |line| {
        said.hear(line);
        last.push_back(line.to_owned());
        if last.len() > 40 {
            last.pop_front();
        }
    });
    if ended.is_err() {
        last.iter().for_each(|line| println!("    {line}"));
    }
    (ended, said)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the figures of a run are libFuzzer's own, and a finding is the first of its words.
    #[test]
    fn the_figures_are_those_that_libfuzzer_printed() {
        let mut said = Said::default();
        for line in [
            "INFO: Seed: 1",
            "#2\tINITED cov: 40 ft: 41 corp: 1/1b exec/s: 0 rss: 40Mb",
            "#4096\tpulse  cov: 571 ft: 900 corp: 8/9b exec/s: 100 rss: 50Mb",
            "thread '<unnamed>' panicked at src/size.rs:3:1:",
            "SUMMARY: libFuzzer: deadly signal",
        ] {
            said.hear(line);
        }
        assert_eq!((said.inputs, said.covered), (4096, 571));
        assert_eq!(
            said.finding.as_deref(),
            Some("thread '<unnamed>' panicked at src/size.rs:3:1:")
        );
        said.hear("stat::number_of_executed_units: 5000");
        assert_eq!(said.inputs, 5000);
    }
}
