//! `cargo xtask ci`: the steps in order, the first failure stops and says how to repeat it alone.
//!
//! The steps are the table in [`steps`]. Quick ones that fail often come first.

use crate::checks::{self, Check};
use crate::run;
use crate::suite::{self, Part, Tally};
use std::path::Path;
use std::time::{Duration, Instant};

/// Targets without an operating system, for which the engine must build.
const BARE_TARGETS: [&str; 3] =
    ["x86_64-unknown-none", "aarch64-unknown-none", "riscv64gc-unknown-none-elf"];

/// The crates that `cargo xtask miri` runs, with the words and mappings that they have under it.
const MIRI_BUILDS: [&str; 10] = [
    "check",
    "--tests",
    "-p",
    "vmalloc",
    "-p",
    "vmalloc-sim",
    "-p",
    "vmalloc-bare",
    "--target-dir",
    "target/cfg-miri",
];

/// One step.
struct Step {
    name: String,
    work: Work,
}

/// What a step does.
enum Work {
    /// Runs cargo with these arguments, within so many minutes.
    Cargo { args: Vec<&'static str>, env: Option<(&'static str, &'static str)>, minutes: u64 },
    /// Builds the engine for a target, if that is installed.
    Bare(&'static str),
    /// Runs a part of the tests.
    Tests(Part),
    /// Lints the test kernel, and boots it.
    Kernels,
    /// Looks at manifests and licences.
    Publish,
    /// Runs a check.
    Check(Check),
    /// Runs the commands of the documents.
    Docs,
}

/// How a step ended well.
enum Done {
    Ok,
    Skipped,
}

impl Work {
    /// What to type to repeat this step alone.
    fn alone(&self) -> String {
        match self {
            Work::Cargo { args, env, .. } => {
                let env = env.map(|(name, value)| format!("{name}=\"{value}\" "));
                format!("{}cargo {}", env.unwrap_or_default(), args.join(" "))
            }
            Work::Bare(target) => format!("cargo {}", bare_args(target).join(" ")),
            Work::Kernels => "cargo xtask kernel".to_owned(),
            Work::Publish => "cargo xtask publish --quick".to_owned(),
            Work::Tests(part) => format!("cargo {}", part.args().join(" ")),
            Work::Docs => "cargo xtask docs".to_owned(),
            Work::Check(check) => format!("cargo xtask check {}", check.name()),
        }
    }

    fn run(&self, root: &Path, tally: &mut Tally) -> Result<Done, String> {
        match self {
            Work::Cargo { args, env, minutes } => {
                let mut command = run::cargo();
                command.args(args).envs(*env).current_dir(root);
                run::run(&mut command, Duration::from_secs(minutes * 60))?;
            }
            Work::Bare(target) if !is_installed(target) => {
                tally.skip(format!("the engine for {target}: run `rustup target add {target}`"));
                return Ok(Done::Skipped);
            }
            Work::Bare(target) => {
                let mut command = run::cargo();
                command.args(bare_args(target)).current_dir(root);
                run::run(&mut command, Duration::from_secs(5 * 60))?;
            }
            Work::Kernels => {
                crate::kernel::lint(root)?;
                crate::kernel::run_all(root, tally)?;
            }
            Work::Docs => crate::docs_run::run_all(root)?.into_iter().for_each(|s| tally.skip(s)),
            Work::Publish => {
                let before = tally.skips();
                crate::publish::run_quick(root, tally)?;
                if tally.skips() > before {
                    return Ok(Done::Skipped);
                }
            }
            Work::Tests(part) => suite::run_part(*part, root, tally)?,
            Work::Check(check) => {
                let report = checks::run(*check, root)?;
                for finding in &report.findings {
                    println!("{finding}");
                }
                for skip in report.skipped {
                    tally.skip(skip);
                }
                if !report.findings.is_empty() {
                    return Err(format!("{} wrong", report.findings.len()));
                }
            }
        }
        Ok(Done::Ok)
    }
}

/// The steps, in order.
fn steps() -> Vec<Step> {
    let cargo = |name: &str, args: &[&'static str], minutes| {
        let work = Work::Cargo { args: args.to_vec(), env: None, minutes };
        Step { name: name.to_owned(), work }
    };
    let step = |name: &str, work| Step { name: name.to_owned(), work };
    let doc = Work::Cargo {
        args: vec!["doc", "--workspace", "--no-deps"],
        env: Some(("RUSTDOCFLAGS", "-D warnings")),
        minutes: 10,
    };
    // What only Miri builds, so that it goes on building.
    let miri = Work::Cargo {
        args: MIRI_BUILDS.to_vec(),
        env: Some(("RUSTFLAGS", "--cfg miri")),
        minutes: 10,
    };
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    let mut steps = vec![
        cargo("fmt", &["fmt", "--all", "--check"], 2),
        cargo("clippy", &clippy, 10),
        cargo("clippy-features", &CLIPPY_FEATURES, 10),
    ];
    steps.extend(Part::ALL.map(|part| step(part.name(), Work::Tests(part))));
    steps.extend([
        cargo("simulate", &SIMULATE, 10),
        cargo("loom", &["xtask", "loom", "proof::pieces::sharing"], 10),
        cargo("stateright", &["xtask", "stateright"], 10),
        step("rustdoc", doc),
        step("miri-builds", miri),
    ]);
    steps.extend(checks::ALL.map(|check| step(check.name(), Work::Check(check))));
    steps.push(step("docs-run", Work::Docs));
    steps.extend(BARE_TARGETS.map(|target| step(target, Work::Bare(target))));
    steps.push(step("publish", Work::Publish));
    steps.push(step("kernels", Work::Kernels));
    // Without the heavy peers, which are features: those are built by who measures.
    steps.push(cargo("bench-clippy", &BENCH_CLIPPY, 10));
    steps.push(cargo("bench-tests", &BENCH_TESTS, 10));
    // Built apart, so that the time limit of the demo is the demo's alone.
    steps.push(cargo("demo-build", &["build", "--release"], 10));
    steps.push(cargo("demo", &["run", "--release"], 3));
    steps
}

/// What only users' features build is linted, too.
const CLIPPY_FEATURES: [&str; 8] = [
    "clippy",
    "--workspace",
    "--all-targets",
    "--features",
    suite::FEATURES,
    "--",
    "-D",
    "warnings",
];

/// The benchmarks are a workspace of their own: linted and tested, not run.
const BENCH_CLIPPY: [&str; 7] =
    ["clippy", "--manifest-path", "bench/Cargo.toml", "--all-targets", "--", "-D", "warnings"];
const BENCH_TESTS: [&str; 3] = ["test", "--manifest-path", "bench/Cargo.toml"];

/// The simulation in short, the planted bugs, and the model of many CPUs: on an engine that is built
/// for them.
const SIMULATE: [&str; 10] = [
    "test",
    "--package",
    "vmalloc-sim",
    "--features",
    "simulate,model",
    "--lib",
    "--test",
    "simulate",
    "--test",
    "scale",
];

fn bare_args(target: &'static str) -> [&'static str; 7] {
    ["build", "--package", "vmalloc-core", "--package", "vmalloc-bare", "--target", target]
}

/// Whether the standard library of `target` is installed for the compiler that cargo will use.
pub fn is_installed(target: &str) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = std::process::Command::new(rustc);
    command.args(["--print", "target-libdir", "--target", target]);
    run::capture(&mut command, Duration::from_secs(60))
        .is_some_and(|dir| Path::new(dir.trim()).is_dir())
}

/// Runs every step until one fails. Whether all passed.
pub fn run(root: &Path) -> bool {
    let mut tally = Tally::default();
    let mut summary = Vec::new();
    for Step { name, work } in steps() {
        println!("\n── {name}: {}", work.alone());
        let start = Instant::now();
        let result = work.run(root, &mut tally);
        let word = match result {
            Ok(Done::Ok) => "ok",
            Ok(Done::Skipped) => "skipped",
            Err(_) => "FAILED",
        };
        let line = format!("{name:<28} {word:<8} {:>7.1} s", start.elapsed().as_secs_f64());
        println!("{line}");
        summary.push(line);
        if let Err(why) = result {
            println!("\n{}", summary.join("\n"));
            println!("\nci failed at {name}: {why}\nto repeat it alone: {}", work.alone());
            tally.fail_once();
            tally.print();
            return false;
        }
    }
    println!("\n{}", summary.join("\n"));
    tally.print();
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: each step says how to repeat it, with its environment.
    #[test]
    fn each_step_says_how_to_repeat_it() {
        let alone: Vec<String> = steps().iter().map(|step| step.work.alone()).collect();
        assert!(alone.contains(&"cargo fmt --all --check".to_owned()));
        assert!(alone.contains(&"cargo xtask check unsafe-places".to_owned()));
        assert!(
            alone.contains(&"RUSTDOCFLAGS=\"-D warnings\" cargo doc --workspace --no-deps".into())
        );
    }

    /// Goal: a check that exists is a step of CI.
    #[test]
    fn every_check_is_a_step() {
        let names: Vec<String> = steps().into_iter().map(|step| step.name).collect();
        assert!(checks::ALL.iter().all(|check| names.contains(&check.name().to_owned())));
    }

    /// Goal: a target that is not installed is a skip that says how to get it, not a failure.
    #[test]
    fn a_missing_target_is_skipped_and_told() {
        let mut tally = Tally::default();
        let work = Work::Bare("no-such-target");
        assert!(matches!(work.run(Path::new("."), &mut tally), Ok(Done::Skipped)));
    }
}
