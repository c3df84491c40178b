//! `cargo xtask simulate`: builds the simulator of `crates/vmalloc-sim` and runs it.
//!
//! It is built by itself: with its features the engine's words are not the ones that ship.

use crate::{report, run};
use std::path::Path;
use std::time::Duration;

/// The time that its build may take.
const BUILD: Duration = Duration::from_secs(15 * 60);
/// How many operations a seed has, if nobody says otherwise.
const STEPS: u64 = 200;

/// What `cargo xtask simulate` takes.
#[derive(clap::Args)]
pub struct Options {
    /// This seed alone; else one after the other.
    #[arg(long)]
    seed: Option<u64>,
    /// For how long: `60s`, `5m`.
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = seconds)]
    time: u64,
    /// How many operations a seed has.
    #[arg(long, default_value_t = STEPS)]
    steps: u64,
    /// Write the figures of a clean run into this page, between its marks.
    #[arg(long, value_name = "PAGE")]
    report: Option<String>,
}

/// Runs the simulator. Whether every seed was clean.
pub fn run(root: &Path, options: &Options) -> bool {
    let package = ["--package", "vmalloc-sim", "--features", "simulate", "--bin", "simulate"];
    let mut build = run::cargo();
    build.args(["build", "--release"]).args(package).current_dir(root);
    let mut simulate = run::cargo();
    simulate.args(["run", "--release", "--quiet"]).args(package).current_dir(root).arg("--");
    simulate.args(["--seconds", &options.time.to_string(), "--steps", &options.steps.to_string()]);
    if let Some(seed) = options.seed {
        simulate.args(["--seed", &seed.to_string()]);
    }
    // Shrinking a failure takes a while more.
    let limit = Duration::from_secs(options.time.saturating_add(15 * 60));
    let mut last = String::new();
    let result = run::run(&mut build, BUILD)
        .and_then(|()| {
            run::run_lines(&mut simulate, limit, |line| {
                println!("{line}");
                last = line.to_owned();
            })
        })
        .and_then(|()| match &options.report {
            Some(page) => report::write(root, page, "simulate", &as_table(root, options, &last)?),
            None => Ok(()),
        });
    if let Err(why) = &result {
        println!("simulate: {why}");
    }
    result.is_ok()
}

/// The last line of a clean run, as a table with the command and the commit.
fn as_table(root: &Path, options: &Options, line: &str) -> Result<String, String> {
    let figures = line.strip_suffix(": clean").ok_or(format!("not the line of a run: {line}"))?;
    let cells = figures.split(", ").map(|figure| figure.split_once(' ').ok_or(figure));
    let cells: Vec<_> = cells.collect::<Result<_, _>>().map_err(|f| format!("no figure: {f}"))?;
    let row = |cell: fn(&(&str, &str)) -> String| cells.iter().map(cell).collect::<String>();
    let (names, numbers) = (row(|(_, name)| format!(" {name} |")), row(|(n, _)| format!(" {n} |")));
    let command = command_line(options);
    let commit = report::commit(root, &["crates"]);
    let lines = "---|".repeat(cells.len());
    Ok(format!("`{command}` at commit {commit}: clean.\n\n|{names}\n|{lines}\n|{numbers}"))
}

/// What to type to run it so again.
fn command_line(options: &Options) -> String {
    let mut line = format!("cargo xtask simulate --for {}s", options.time);
    if options.steps != STEPS {
        line += &format!(" --steps {}", options.steps);
    }
    if let Some(seed) = options.seed {
        line += &format!(" --seed {seed}");
    }
    line
}

/// Seconds, from `60`, `60s` or `5m`.
pub fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(number) => (number, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let number: u64 =
        number.parse().map_err(|_| format!("{text} is no time, such as 60s or 5m"))?;
    number.checked_mul(unit).ok_or_else(|| format!("{text} is too long"))
}

#[cfg(test)]
mod tests {
    use super::{Options, STEPS, command_line, seconds};

    /// Goal: a page names the command that was run: what differs from the defaults is in it.
    #[test]
    fn the_command_is_told_with_what_was_asked_for() {
        let options = |seed, steps| Options { seed, time: 60, steps, report: None };
        let line = |seed, steps| command_line(&options(seed, steps));
        assert_eq!(line(None, STEPS), "cargo xtask simulate --for 60s");
        assert_eq!(line(Some(7), 9), "cargo xtask simulate --for 60s --steps 9 --seed 7");
    }

    /// Goal: times are read with and without a unit, and nothing else is.
    #[test]
    fn times_are_seconds_or_minutes() {
        assert_eq!([seconds("60s"), seconds("7"), seconds("5m")], [Ok(60), Ok(7), Ok(300)]);
        for bad in ["", "s", "-1s", "1h", "18446744073709551615m"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
