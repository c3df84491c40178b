//! One fuzzer, built and run: what libFuzzer is told, and what it says.
//!
//! libFuzzer stops at the first finding and leaves it in `fuzz/artifacts/`, to be run again by
//! `cargo +nightly fuzz run TARGET FILE`. A run begins with a corpus; where an input is a sequence of
//! operations, also with a few long ones of chance. `fuzz/TARGET.dict`, where there is one, has texts
//! that chance seldom makes.

use crate::{nightly, run};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long one input may take, in seconds: a thousand times what the slowest needs.
const PATIENCE: u64 = 60;
/// What a run may take beyond its own time: one input, and its sanitizer's last words.
const GRACE: u64 = 5 * 60;
/// As `fuzz/lib.rs` has it.
const CANARY: &str = "VMALLOC_CANARY";

/// From what a run begins.
pub enum Corpus {
    /// What earlier runs left in this folder, and what this one will.
    Kept(PathBuf),
    /// Nothing; and always the same seed.
    Fresh,
}

/// One run.
pub struct Run {
    pub name: &'static str,
    /// The longest input, in bytes.
    pub len_max: u64,
    pub is_of_operations: bool,
    pub seconds: u64,
    pub corpus: Corpus,
    /// Whether the target's bug is planted.
    pub is_planted: bool,
}

/// `cargo fuzz TASK` in `fuzz/`, with all that is built below its own `target`.
fn cargo_fuzz(root: &Path, task: &str) -> Command {
    let dir = root.join("fuzz");
    let mut command = nightly::cargo(root, "fuzz");
    let target = run::target_dir(&dir);
    command.args(["fuzz", task, "--target-dir"]).arg(target).current_dir(dir);
    command
}

/// Builds one fuzzer, or all.
///
/// # Errors
///
/// Why it was not built, in words.
pub fn build(root: &Path, name: Option<&str>, limit: Duration) -> Result<(), String> {
    run::run(cargo_fuzz(root, "build").args(name), limit)
}

impl Run {
    /// What was said. With a finding, if there was one.
    ///
    /// # Errors
    ///
    /// Why it ended badly, if not of a finding.
    pub fn run(&self, root: &Path, scratch: &Path) -> Result<Said, String> {
        let said = self.within(root, scratch);
        let _ = std::fs::remove_dir_all(scratch);
        said
    }

    fn within(&self, root: &Path, scratch: &Path) -> Result<Said, String> {
        let made = |dir: PathBuf| match std::fs::create_dir_all(&dir) {
            Ok(()) => Ok(dir),
            Err(error) => Err(format!("{}: {error}", dir.display())),
        };
        let mut fuzzer = cargo_fuzz(root, "run");
        fuzzer.arg(self.name).arg(match &self.corpus {
            Corpus::Kept(dir) => made(dir.clone())?,
            Corpus::Fresh => made(scratch.join("corpus"))?,
        });
        let mut length = "-len_control=20";
        if self.is_of_operations {
            let seeds = made(scratch.join("seeds"))?;
            sow(&seeds, self.len_max).map_err(|e| format!("{}: {e}", seeds.display()))?;
            fuzzer.arg(&seeds);
            // At once as long as may be: at ten inputs a second libFuzzer stays with one operation.
            length = "-len_control=0";
        }
        fuzzer.arg("--").arg(format!("-max_total_time={}", self.seconds));
        fuzzer.arg(format!("-max_len={}", self.len_max)).arg(format!("-timeout={PATIENCE}"));
        fuzzer.args([length, "-print_final_stats=1", "-verbosity=1"]);
        let dictionary = root.join(format!("fuzz/{}.dict", self.name));
        if dictionary.is_file() {
            fuzzer.arg(format!("-dict={}", dictionary.display()));
        }
        if let Corpus::Fresh = self.corpus {
            fuzzer.arg("-seed=1");
        }
        if self.is_planted {
            // What canaries find is no finding: not kept.
            fuzzer.env(CANARY, "1").arg(format!("-artifact_prefix={}/", scratch.display()));
        } else {
            fuzzer.env_remove(CANARY);
        }
        let mut said = listen(&fuzzer, Duration::from_secs(self.seconds + GRACE))?;
        said.finding = said.finding.map(|what| short(&what, root));
        Ok(said)
    }
}

/// How many seeds.
const SEEDS: u64 = 16;

/// Writes files of chance bytes, the same each time, from which a run begins.
fn sow(dir: &Path, len: u64) -> std::io::Result<()> {
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

/// What libFuzzer said of a run.
#[derive(Default)]
pub struct Said {
    /// Inputs that were run, from its last line of the kind `#1234 NEW cov: 567 …`.
    pub inputs: u64,
    pub edges: u64,
    /// From its first word to the finding or the end.
    pub seconds: f64,
    /// The panic or the sanitizer's word, if any.
    pub finding: Option<String>,
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
            self.edges = number_after("cov:").unwrap_or(self.edges).max(self.edges);
        }
        if let Some(count) = number_after("stat::number_of_executed_units:") {
            self.inputs = count;
        }
        let is_finding = line.contains("panicked at") || line.contains("SUMMARY:");
        match &mut self.finding {
            None if is_finding => self.finding = Some(line.trim().to_owned()),
            // A panic says where, and on the next line what.
            Some(what) if what.ends_with(':') => {
                let place = what.rsplit_once(" at ").map_or(&**what, |(_, place)| place);
                *what = format!("{place} {}", line.trim());
            }
            _ => {}
        }
    }
}

/// The letters of a finding that a table has room for.
const LETTERS: usize = 120;

/// A finding for a page: files as seen from `root`, on one line that has an end.
fn short(finding: &str, root: &Path) -> String {
    let seen = finding.replace(&format!("{}/", root.display()), "").replace("fuzz/../", "");
    let seen = seen.replace("fuzz_targets/../../", "");
    let seen = match seen.starts_with("fuzz_targets/") {
        true => format!("fuzz/{seen}"),
        false => seen,
    };
    match seen.char_indices().nth(LETTERS) {
        Some((end, _)) => format!("{}…", &seen[..end]),
        None => seen,
    }
}

/// Runs `fuzzer` to its end and reads both its streams, for libFuzzer speaks on the one for errors.
/// If it ended badly, its last lines are printed.
fn listen(fuzzer: &Command, limit: Duration) -> Result<Said, String> {
    let mut said = Said::default();
    let mut last: VecDeque<String> = VecDeque::new();
    let mut began = None;
    let ended = run::run_lines_of_both(fuzzer, limit, |line| {
        if line.starts_with("INFO: ") {
            began.get_or_insert_with(Instant::now);
        }
        if said.finding.is_none() {
            said.seconds = began.map_or(0.0, |at| at.elapsed().as_secs_f64());
        }
        said.hear(line);
        last.push_back(line.to_owned());
        if last.len() > 40 {
            last.pop_front();
        }
    });
    if ended.is_err() {
        last.iter().for_each(|line| println!("    {line}"));
    }
    match ended {
        Ok(()) if said.inputs == 0 => Err("it ran nothing".to_owned()),
        Ok(()) => Ok(Said { finding: None, ..said }),
        Err(_) if said.finding.is_some() => Ok(said),
        Err(why) => Err(why),
    }
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
            "no character ends here",
            "SUMMARY: libFuzzer: deadly signal",
        ] {
            said.hear(line);
        }
        assert_eq!((said.inputs, said.edges), (4096, 571));
        assert_eq!(said.finding.as_deref(), Some("src/size.rs:3:1: no character ends here"));
        said.hear("stat::number_of_executed_units: 5000");
        assert_eq!(said.inputs, 5000);
    }

    /// Goal: a page names our files and no folder of this machine, and a finding is one short line.
    #[test]
    fn a_finding_is_short_and_names_our_files() {
        let root = Path::new("/somewhere/else");
        let seen = |what: &str| short(what, root);
        assert_eq!(seen("/somewhere/else/crates/a.rs:1:2: no"), "crates/a.rs:1:2: no");
        assert_eq!(seen("/somewhere/else/fuzz/../crates/a.rs:1: no"), "crates/a.rs:1: no");
        assert_eq!(seen("fuzz_targets/../../crates/a.rs:1: no"), "crates/a.rs:1: no");
        assert_eq!(seen("fuzz_targets/a.rs:1: no"), "fuzz/fuzz_targets/a.rs:1: no");
        assert_eq!(seen(&"é".repeat(200)), format!("{}…", "é".repeat(120)));
    }

    /// Goal: a run that ended badly without a finding, or ran nothing, is no clean run.
    #[test]
    fn a_run_that_died_is_not_clean() {
        let sh = |script: &str| {
            let mut command = Command::new("sh");
            listen(command.args(["-c", script]), Duration::from_secs(60))
        };
        assert!(sh("echo '#7 NEW cov: 3' >&2").is_ok_and(|said| said.finding.is_none()));
        assert!(sh("echo '#7 NEW cov: 3'; exit 1").is_err());
        assert!(sh("true").is_err());
        let said = sh("echo 'SUMMARY: libFuzzer: timeout'; exit 70").unwrap();
        assert_eq!(said.finding.as_deref(), Some("SUMMARY: libFuzzer: timeout"));
    }
}
