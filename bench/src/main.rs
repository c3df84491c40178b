//! Ours beside its peers: every contender of a case in one process, in turns, for several rounds.
//!
//! ```text
//!   groups (areas.rs, …) ─▶ runner: rounds × contenders in turns ─▶ samples ─▶ report: text, JSON,
//!                                                                              SVG, docs/benchmarks.md
//! ```
//!
//! What counts is the *ratio* of two contenders in the same round: the machine may be slow or
//! loaded, but it is so for both. `cargo xtask bench` builds this program with the peers that
//! build here, and runs it.

mod areas;
mod frames;
mod heaps;
mod instructions;
mod machine;
mod peers;
mod purge;
mod raw;
mod report;
mod rng;
mod runner;
mod scale;
mod share;
mod stress;
mod table;
mod tree;

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures vmalloc beside its peers.
#[derive(Parser)]
#[command(name = "bench")]
struct Args {
    /// Fewer rounds and sizes: minutes become seconds, and figures become rough.
    #[arg(long)]
    quick: bool,
    /// Where the random numbers begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The commit that is measured, for the report.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Peers that were left out, and why; for the report.
    #[arg(long)]
    skipped: Vec<String>,
    /// Writes the report here: `benchmarks.md`, and the JSON and SVG files it shows.
    #[arg(long)]
    out: Option<PathBuf>,
    /// For the program itself: one sample of a group, in a process of its own.
    #[arg(long, hide = true, num_args = 4)]
    child_random: Vec<String>,
    /// For the program itself: the other process of a contender that shares.
    #[arg(long, hide = true, num_args = 2)]
    child_share: Vec<String>,
    /// For the program itself: a peer in a role, `peers.rs` says which.
    #[arg(long, hide = true, num_args = 2.., allow_hyphen_values = true)]
    child_peer: Vec<String>,
    /// For the program itself: a call, so many times, under valgrind.
    #[arg(long, hide = true, num_args = 2)]
    child_instructions: Vec<String>,
    /// The command `vmalloc`, for the group `stress`.
    #[arg(long)]
    vmalloc: Option<PathBuf>,
    /// Writes down the counts of the group `instructions`, instead of failing if they have risen.
    #[arg(long)]
    accept: bool,
    /// Rounds a case, instead of 15 (or 5 with `--quick`).
    #[arg(long)]
    rounds: Option<usize>,
    /// Runs those cases whose name begins with one of these; all if there is none.
    names: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if !args.child_random.is_empty() {
        heaps::child(&args.child_random);
        return ExitCode::SUCCESS;
    }
    if !args.child_share.is_empty() {
        share::child(&args.child_share);
        return ExitCode::SUCCESS;
    }
    if !args.child_peer.is_empty() {
        peers::child(&args.child_peer);
        return ExitCode::SUCCESS;
    }
    if !args.child_instructions.is_empty() {
        instructions::child(&args.child_instructions);
        return ExitCode::SUCCESS;
    }
    let mut runner = runner::Runner::new(args.quick, args.rounds, args.seed, args.names);
    (runner.vmalloc, runner.accept) = (args.vmalloc, args.accept);
    let about = report::About::new(args.quick, args.seed, args.commit, args.skipped);
    for (group, _) in GROUPS {
        let start = std::time::Instant::now();
        let before = runner.cases.len() + runner.tables.len();
        group(&mut runner);
        if runner.cases.len() + runner.tables.len() > before {
            println!("\n({:.0} s)", start.elapsed().as_secs_f64());
        }
        // After each group: who interrupts a run has what it found so far.
        if let Some(out) = args.out.as_ref().filter(|_| !runner.is_empty())
            && let Err(e) = report::write(out, &about, &runner)
        {
            eprintln!("the report was not written: {e}");
            return ExitCode::FAILURE;
        }
    }
    if runner.is_empty() {
        eprintln!("no case has such a name; the groups are: {}", names().join(", "));
        return ExitCode::from(2);
    }
    if runner.has_regressed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A group: what runs it, and the names of its cases.
type Group = (fn(&mut runner::Runner), &'static [&'static str]);

/// The groups, in the order in which they run.
const GROUPS: [Group; 9] = [
    (frames::run, &frames::NAMES),
    (share::run, &share::NAMES),
    (peers::run, &peers::NAMES),
    (instructions::run, &instructions::NAMES),
    (purge::run, &purge::NAMES),
    (areas::run, &areas::NAMES),
    (scale::run, &scale::NAMES),
    (stress::run, &stress::NAMES),
    (heaps::run, &heaps::NAMES),
];

/// What there is to ask for.
fn names() -> Vec<&'static str> {
    GROUPS.map(|(_, names)| names).concat()
}
