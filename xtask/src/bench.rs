//! `cargo xtask bench`: builds `bench/` with every peer that builds here, and runs it.
//!
//! A peer may want what this machine lacks (cmake, a C++ compiler, a library): then it is left
//! out, and said so, on the terminal and in the report. Nothing else is left out.

use crate::report;
use crate::run::{self, Profile};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A peer that needs more than a Rust compiler.
struct Peer {
    /// Its feature in `bench/Cargo.toml`.
    feature: &'static str,
    /// What it needs, for whoever lacks it.
    needs: &'static str,
    /// A command without which there is no need to try.
    tool: &'static str,
}

const PEERS: &[Peer] = &[
    Peer { feature: "jemalloc", needs: "a C compiler and make", tool: "make" },
    Peer { feature: "mimalloc", needs: "a C compiler", tool: "cc" },
    Peer { feature: "iceoryx2", needs: "a registry of crates", tool: "cc" },
    Peer { feature: "snmalloc", needs: "a C++ compiler and cmake", tool: "cmake" },
];

/// The time that one build may take: some peers bring a hundred crates.
const BUILD: Duration = Duration::from_secs(30 * 60);
/// The time that a full run may take.
const RUN: Duration = Duration::from_secs(2 * 60 * 60);

/// What `cargo xtask bench` takes.
#[derive(clap::Args)]
pub struct Options {
    /// Few rounds and sizes: a first look, in a minute or two.
    #[arg(long)]
    quick: bool,
    /// Where the random sizes begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds a case, an odd number; by default 15, or 5 with `--quick`.
    #[arg(long)]
    rounds: Option<usize>,
    /// Write down the counts of `instructions`, instead of failing where they have risen.
    #[arg(long)]
    accept: bool,
    /// Do not write docs/benchmarks.md; only runs of everything do.
    #[arg(long)]
    dry: bool,
    /// Only the cases whose names begin so: `areas`, `areas/churn`, …; `peers`: kills, fragmentation
    /// and sharing beside other shared memories; `instructions`: hot calls, under valgrind;
    /// `kernel`: instructions beside Linux, in QEMU
    names: Vec<String>,
}

/// Builds and runs the benchmarks. Whether that went well.
pub fn run(root: &Path, options: &Options) -> bool {
    if options.names == ["kernel"] {
        return crate::linux_peer::run(root);
    }
    let dir = root.join("bench");
    let (features, skipped) = features(&dir);
    if let Err(why) = run::run(&mut cargo(&dir, "build", &features), BUILD) {
        println!("bench was not built: {why}");
        return false;
    }
    let mut command = Command::new(run::target_dir(&dir).join("release/bench"));
    command.current_dir(root).args([
        "--seed",
        &options.seed.to_string(),
        "--commit",
        &report::commit(root, &["crates", "bench"]),
    ]);
    if options.names.is_empty() || options.names.iter().any(|name| name == "stress") {
        match run::build_vmalloc(root, Profile::Release) {
            Ok(vmalloc) => {
                command.arg("--vmalloc").arg(vmalloc);
            }
            Err(why) => println!("left out: stress, since vmalloc-cli was not built: {why}"),
        }
    }
    if options.accept {
        command.arg("--accept");
    }
    if options.quick {
        command.arg("--quick");
    }
    if let Some(rounds) = options.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    for skip in &skipped {
        println!("left out: {skip}");
        command.args(["--skipped", skip]);
    }
    if options.names.is_empty() && !options.dry {
        command.arg("--out").arg("docs");
    }
    command.args(&options.names);
    match run::run(&mut command, RUN) {
        Ok(()) => true,
        Err(why) => {
            println!("bench: {why}");
            false
        }
    }
}

/// The features that build here, and why the others do not.
fn features(dir: &Path) -> (Vec<&'static str>, Vec<String>) {
    let is_there = |peer: &&Peer| {
        let mut ask = Command::new(peer.tool);
        run::capture(ask.arg("--version"), Duration::from_secs(60)).is_some()
    };
    let (able, unable): (Vec<&Peer>, Vec<&Peer>) = PEERS.iter().partition(is_there);
    let why = |peer: &Peer| format!("{}, which needs {}", peer.feature, peer.needs);
    let mut skipped: Vec<String> = unable.into_iter().map(why).collect();
    let all: Vec<&str> = able.iter().map(|peer| peer.feature).collect();
    if run::run(cargo(dir, "build", &all).arg("--quiet"), BUILD).is_ok() {
        return (all, skipped);
    }
    let mut builds = Vec::new();
    for peer in able {
        let mut build = cargo(dir, "build", &[peer.feature]);
        match run::run(build.arg("--quiet"), BUILD) {
            Ok(()) => builds.push(peer.feature),
            Err(_) => skipped.push(why(peer)),
        }
    }
    (builds, skipped)
}

fn cargo(dir: &Path, task: &str, features: &[&str]) -> Command {
    let mut command = run::cargo();
    command.args([task, "--release", "--no-default-features"]).current_dir(dir);
    command.args(["--features", &features.join(",")]);
    command
}
