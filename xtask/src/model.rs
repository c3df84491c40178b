//! `cargo xtask model`: what a machine of 128 CPUs and 1 TiB would see, by the model of
//! `crates/vmalloc-sim/src/scale.rs`.
//!
//! ```text
//!   measure: constants and work on this machine's clock ─┐
//!   measure --count under valgrind: instructions ────────┴▶ model ─▶ tables, and a row of each
//!                                                                     build with other lanes
//! ```
//!
//! Each is built by itself: the model's words are not the ones that ship, and how many lanes there
//! are is settled when the engine is built.

use crate::{report, run};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The time that one build may take.
const BUILD: Duration = Duration::from_secs(15 * 60);
/// The time that a run of one program may take.
const RUN: Duration = Duration::from_secs(30 * 60);
/// Lanes to try instead of the engine's: twice as many, and one for each CPU beside the shared one.
const LANES: [&str; 2] = ["16", "129"];
/// Workloads whose rows are told for these.
const ROWS: [&str; 2] = ["pair", "purge"];
/// Workloads whose instructions are counted.
const WORK: [&str; 5] = ["pair", "pair-one-lane", "mixed", "find", "purge"];
/// Turns whose instructions are counted, once more than the turns that are taken off.
const TURNS: u64 = 2_000;
/// The variable that says how many lanes an engine for the model is built with.
const LANES_VAR: &str = "VMALLOC_MODEL_LANES";

/// What `cargo xtask model` takes.
#[derive(clap::Args)]
pub struct Options {
    /// The first of three seeds.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write what a run prints into this page, between its marks.
    #[arg(long, value_name = "PAGE")]
    report: Option<String>,
}

/// Measures, models, prints. Whether that went well.
pub fn run(root: &Path, options: &Options) -> bool {
    let result = tables(root, options).and_then(|tables| match &options.report {
        Some(page) => report::write(root, page, "model", &tables),
        None => Ok(()),
    });
    if let Err(why) = &result {
        println!("model: {why}");
    }
    result.is_ok()
}

fn tables(root: &Path, options: &Options) -> Result<String, String> {
    let measure = build(root, "measure", None)?;
    println!("measures for some minutes, on two CPUs if there are two");
    let mut measured = lines(&mut Command::new(&measure))?;
    for name in WORK {
        let (few, many) = (count(&measure, name, TURNS)?, count(&measure, name, 2 * TURNS)?);
        let each = many.saturating_sub(few) / TURNS;
        let _ = writeln!(measured, "{name}/instructions {each}");
    }
    let figures = run::target_dir(root).join("model.txt");
    std::fs::write(&figures, &measured)
        .map_err(|error| format!("{}: {error}", figures.display()))?;
    let seed = options.seed.to_string();
    let model = |program: &Path| {
        let mut command = Command::new(program);
        command.arg("--measured").arg(&figures).args(["--seed", &seed]);
        command
    };
    let mut text = lines(&mut model(&build(root, "model", None)?))?;
    // The last table goes on.
    for lanes in LANES {
        let program = build(root, "model", Some(lanes))?;
        for row in ROWS {
            text += &lines(model(&program).args(["--row", row]))?;
        }
    }
    let commit = report::commit(root, &["crates"]);
    let seed = if options.seed == 1 { String::new() } else { format!(" --seed {seed}") };
    Ok(format!("`cargo xtask model{seed}` at commit {commit}:\n\n{text}"))
}

/// Builds a program of `vmalloc-sim`, which has a feature of the same name.
fn build(root: &Path, program: &str, lanes: Option<&str>) -> Result<PathBuf, String> {
    let mut build = run::cargo();
    build.args(["build", "--release", "--quiet", "--package", "vmalloc-sim"]);
    build.args(["--features", program, "--bin", program]).current_dir(root);
    match lanes {
        Some(lanes) => build.env(LANES_VAR, lanes),
        None => build.env_remove(LANES_VAR),
    };
    run::run(&mut build, BUILD).map_err(|why| format!("{program} was not built: {why}"))?;
    Ok(run::target_dir(root).join("release").join(program))
}

/// What a command prints, shown as it comes.
fn lines(command: &mut Command) -> Result<String, String> {
    let mut text = String::new();
    run::run_lines(command, RUN, |line| {
        println!("{line}");
        let _ = writeln!(text, "{line}");
    })?;
    Ok(text)
}

/// Instructions of so many turns and all that is around them.
fn count(measure: &Path, name: &str, turns: u64) -> Result<u64, String> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(measure).args(["--count", name, &turns.to_string()]);
    let mut collected = None;
    let found = run::run_lines_of_both(&command, RUN, |line| {
        collected = collected_by(line).or(collected);
    });
    match (found, collected) {
        (Ok(()), Some(count)) => Ok(count),
        (Err(why), _) => Err(format!("valgrind (apt install valgrind): {why}")),
        (Ok(()), None) => Err("valgrind counted nothing".into()),
    }
}

/// The count in callgrind's closing line.
fn collected_by(line: &str) -> Option<u64> {
    line.split_once("Collected : ")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::collected_by;

    /// Goal: callgrind's count is read from the line that has it, and from no other.
    #[test]
    fn instructions_are_read_from_callgrinds_closing_line() {
        assert_eq!(collected_by("==7== Collected : 123456"), Some(123_456));
        assert_eq!(collected_by("==7== Events    : Ir"), None);
        assert_eq!(collected_by("==7== Collected : "), None);
    }
}
