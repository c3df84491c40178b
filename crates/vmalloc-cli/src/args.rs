//! The command line: what each command takes, and the help that teaches it.

use crate::size::{Size, capacity};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use vmalloc::Token;

const TOP_EXAMPLES: &str = "\
Examples:
  vmalloc                            watch the whole story, on real memory
  vmalloc create /dev/shm/frames --capacity 1G
  token=$(vmalloc put /dev/shm/frames big.bin)
  vmalloc get /dev/shm/frames $token | sha256sum
  vmalloc info /dev/shm/frames
  vmalloc rm /dev/shm/frames $token  free the area
  vmalloc rm /dev/shm/frames         remove the pool

Sizes: 4096, 64K, 256M, 1G, 1GiB (powers of 1024); 1MB is 1000000.
Exit codes: 0 done, 1 failed, 2 wrong command line.";

/// Large, virtually contiguous memory out of scattered page frames, shared by processes.
///
/// A pool holds areas of any size, as long as it has free frames at all, however scattered they
/// are. Any process of yours can open it and attach to an area by its token: the same memory, no
/// copy. Without a command, `vmalloc` runs the demo.
#[derive(Parser, Debug)]
#[command(name = "vmalloc", version, after_help = TOP_EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(disable_help_subcommand = true, max_term_width = 80)]
pub struct Args {
    /// What to do; nothing means the demo.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The demo's own, for a bare `vmalloc`.
    #[command(flatten)]
    pub demo: DemoArgs,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Watch it work: fill, free half, one block of all that is free, shared by processes.
    Demo(DemoArgs),
    /// Make a pool at a path on tmpfs.
    Create(CreateArgs),
    /// Store a file in a pool, and print the token of its area.
    Put(PutArgs),
    /// Write the bytes of an area to stdout or a file.
    Get(GetArgs),
    /// Free an area, or remove a whole pool.
    Rm(RmArgs),
    /// Show what a pool is and holds: totals, members, areas.
    Info(InfoArgs),
    /// List the pools of this machine that you may see.
    List(ListArgs),
    /// Look for dead members and damage, and recover what the dead held.
    Doctor(crate::doctor::DoctorArgs),
    /// Watch a pool at work: members, areas, rates, frames by state.
    Top(crate::top::TopArgs),
    /// Draw a pool: pages above, the frames behind them below.
    Map(crate::map::MapArgs),
    /// Run a program and keep what it does in pools as a trace.
    Record(crate::record::RecordArgs),
    /// Play a trace again under other settings, side by side.
    Replay(crate::replay::ReplayArgs),
    /// Run the cases of Linux's vmalloc test module, and more, and check for leaks.
    Stress(StressArgs),
    /// Print a script that completes commands and options in a shell.
    Completions(crate::manual::CompletionsArgs),
    /// Print the manual page, or write a page a command to a folder.
    Man(crate::manual::ManArgs),
    /// A member that the demo starts.
    #[command(hide = true)]
    DemoMember(MemberArgs),
    /// A member that a stress case starts.
    #[command(hide = true)]
    StressMember(crate::stress::pool::member::StressMemberArgs),
}

const DEMO_EXAMPLES: &str = "\
Examples:
  vmalloc demo                     256 MiB, three processes
  vmalloc demo --pool 2G --members 5 --seed 7
  vmalloc demo --machine sim       page tables and TLBs, each step counted
  sudo \"$(command -v vmalloc)\" demo
                                   shows the real frames behind the block
  vmalloc demo --stay 60           wait while all are attached: look with
                                   `vmalloc top`, `vmalloc map`
  vmalloc demo --json | jq .block";

/// How the demo runs.
#[derive(ClapArgs, Clone, Debug)]
#[command(after_help = DEMO_EXAMPLES)]
pub struct DemoArgs {
    /// How much memory the pool may hold [default: 256M; 32M on sim].
    #[arg(long, value_name = "SIZE")]
    pub pool: Option<Size>,
    /// How many members, this process among them.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=32))]
    pub members: u32,
    /// Where the random sizes begin; the same seed gives the same sizes [default: a random one].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Real memory and processes, or a simulated machine with page tables and TLBs.
    #[arg(long, value_enum, default_value_t = Machine::Linux)]
    pub machine: Machine,
    /// Wait so long while all members are attached, for others to look at the pool.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub stay: u32,
    /// Print a summary for programs instead of the story.
    #[arg(long)]
    pub json: bool,
}

/// Where the demo runs.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Machine {
    /// This machine: a memfd, processes, the kernel's page tables.
    Linux,
    /// A simulated machine: our own page tables, a TLB a CPU.
    Sim,
}

const CREATE_EXAMPLES: &str = "\
Examples:
  vmalloc create /dev/shm/frames --capacity 1G
  vmalloc create /dev/shm/fixed --capacity 1G --framed

The pool takes memory only for what it holds, and about 0.6 % of the capacity
for its tables. Only you can open it (mode 0600). It lives until it is removed
(`vmalloc rm PATH`) or the machine goes down. `ls` shows addresses: 64 times the
capacity, and 4 GiB at least; `du` shows the memory. With --framed its frames
are memory from the start, `ls` shows them and tables that are mostly holes, and
a block costs a mapping for each run of its frames.";

/// What pool to make.
#[derive(ClapArgs, Debug)]
#[command(after_help = CREATE_EXAMPLES)]
pub struct CreateArgs {
    /// Where: a path on tmpfs that is free, /dev/shm/NAME say.
    pub path: PathBuf,
    /// The most that it may hold, 4K to 512G.
    #[arg(long, value_name = "SIZE", value_parser = capacity)]
    pub capacity: Size,
    /// How many processes may be members at a time.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub members: u32,
    /// Framed: its frames are there from the start, and the pool hands them out itself.
    #[arg(long)]
    pub framed: bool,
}

const PUT_EXAMPLES: &str = "\
Examples:
  token=$(vmalloc put /dev/shm/frames big.bin)
  tar c src | vmalloc put /dev/shm/frames -

The area is frozen: nobody writes it any more. It stays, with its exact number
of bytes, until `vmalloc rm PATH TOKEN`, whatever becomes of the process that
made it. The length of a pipe is not known beforehand, so what comes out of one
is gathered in this process's memory first.";

/// What to store where.
#[derive(ClapArgs, Debug)]
#[command(after_help = PUT_EXAMPLES)]
pub struct PutArgs {
    /// The pool: a path, or another process's /proc/PID/fd/N.
    pub path: PathBuf,
    /// The file; - for stdin.
    pub file: PathBuf,
}

const GET_EXAMPLES: &str = "\
Examples:
  vmalloc get /dev/shm/frames $token > copy.bin
  vmalloc get /dev/shm/frames $token -o copy.bin
  vmalloc get /dev/shm/frames $token | tar t

What is not text is not written to a terminal, unless by -o - or --force.";

/// What to write where.
#[derive(ClapArgs, Debug)]
#[command(after_help = GET_EXAMPLES)]
pub struct GetArgs {
    /// The pool: a path, or another process's /proc/PID/fd/N.
    pub path: PathBuf,
    /// The area's token, as `vmalloc put` printed it.
    pub token: Token,
    /// Write to this file instead of stdout; - for stdout, whatever it is.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write to a terminal even what is not text.
    #[arg(long)]
    pub force: bool,
}

const RM_EXAMPLES: &str = "\
Examples:
  vmalloc rm /dev/shm/frames $token     free one area
  vmalloc rm /dev/shm/frames            remove the pool, if it is empty
  vmalloc rm --force /dev/shm/frames    remove the pool and what it holds

Processes that are attached to a freed area, or are members of a removed pool,
keep their memory until they leave; nobody else can get at it any more.";

/// What to free or remove.
#[derive(ClapArgs, Debug)]
#[command(after_help = RM_EXAMPLES)]
pub struct RmArgs {
    /// The pool.
    pub path: PathBuf,
    /// The area to free; without it, the pool itself is removed.
    pub token: Option<Token>,
    /// Remove a pool even if it holds areas or has living members.
    #[arg(long, conflicts_with = "token")]
    pub force: bool,
}

const INFO_EXAMPLES: &str = "\
Examples:
  vmalloc info /dev/shm/frames
  vmalloc info 4711              every pool that process 4711 has open
  vmalloc info /dev/shm/frames --json | jq '.[0].areas[].token'
  vmalloc info /dev/shm/frames --metrics
  sudo \"$(command -v vmalloc)\" info --kernel
                                 the machine's own /proc/vmallocinfo, added up

It only looks: it takes no member slot and changes nothing. Addresses are
offsets in the pool's window. A name of digits alone is a process; write ./4711
for a file.";

/// Which pool to show.
#[derive(ClapArgs, Debug)]
#[command(after_help = INFO_EXAMPLES)]
pub struct InfoArgs {
    /// A pool's path, or the number of a process that has pools open.
    #[arg(value_name = "PATH|PID", required_unless_present = "kernel")]
    pub target: Option<PathBuf>,
    /// Print JSON: a list with one object a pool.
    #[arg(long)]
    pub json: bool,
    /// Print OpenMetrics text, for Prometheus and its relatives.
    #[arg(long, conflicts_with = "json")]
    pub metrics: bool,
    /// Show the machine's own vmalloc areas, as root, instead of a pool.
    #[arg(long, conflicts_with_all = ["target", "metrics"])]
    pub kernel: bool,
    /// With --kernel: read this copy of /proc/vmallocinfo.
    #[arg(long, requires = "kernel", value_name = "FILE")]
    pub file: Option<PathBuf>,
}

const LIST_HELP: &str = "\
Found by way of /proc/*/fd and /dev/shm, with no daemon: a pool elsewhere that
no process has open is not seen. As root, those of all users are shown.";

/// How to list.
#[derive(ClapArgs, Debug)]
#[command(after_help = LIST_HELP)]
pub struct ListArgs {
    /// Print JSON: a list with one object a pool.
    #[arg(long)]
    pub json: bool,
}

const STRESS_HELP: &str = "\
Examples:
  vmalloc stress                         Linux's cases and ours, 10,000 loops each
  vmalloc stress --case linux --threads 8
  vmalloc stress --case pool             processes that die, fragmentation, limits
  vmalloc stress --case vrealloc_test --machine sim --loops 100000
  vmalloc stress --preset stress         all CPUs, 1,000,000 loops, 20 times

Cases: --case all (the groups linux and ours), a group (linux, ours, pool) or
names; a wrong name lists them. The order of Linux's cases is shuffled, another
way for each thread. A case that is expected to fail counts as xfailed when it
does. Under 1.5 GiB of memory: those who want more wait for the others.

For the group pool, --loops says how many processes are killed (kill), seeds
played (frag), seconds it lasts (members), requests refused (full, quota).

Presets: smoke (10,000 loops, 10 times), performance (in sequence, 1,000,000
loops, 3 times), stress (see above); --threads, --loops and --repeat go first.
Exit codes: 0 all passed, 1 a case failed or something leaked.";

/// What to run, and how often.
#[derive(ClapArgs, Debug)]
#[command(after_help = STRESS_HELP)]
pub struct StressArgs {
    /// Which cases; may be given several times.
    #[arg(long, value_name = "NAME", default_value = "all", value_parser = case_name)]
    pub case: Vec<String>,
    /// A pool in real memory, or a simulated machine with a CPU for each thread.
    #[arg(long, value_enum, default_value_t = Machine::Linux)]
    pub machine: Machine,
    /// How many workers run the cases at the same time [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// How often each case goes round [default: 10000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub loops: Option<u64>,
    /// How large the pool is in the cases of the group pool [default: 16M to 256M].
    #[arg(long, value_name = "SIZE", value_parser = capacity)]
    pub pool: Option<Size>,
    /// How often each worker runs each case [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub repeat: Option<u64>,
    /// Threads, loops and repetitions as in Linux's `test_vmalloc.sh`.
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// Where sizes and orders begin; the same seed gives the same [default: a random one].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Run the cases in their own order instead of a shuffled one.
    #[arg(long)]
    pub sequential: bool,
    /// Print a report for programs.
    #[arg(long)]
    pub json: bool,
}

/// Ready-made runs.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preset {
    /// One thread, 10,000 loops, 10 times.
    Smoke,
    /// One thread, in sequence, 1,000,000 loops, 3 times.
    Performance,
    /// A thread a CPU, 1,000,000 loops, 20 times.
    Stress,
}

/// The name of a case or a group; what is none is a wrong command line.
fn case_name(name: &str) -> Result<String, String> {
    if crate::stress::names().contains(&name) {
        return Ok(name.to_owned());
    }
    Err(format!("no such case; there are:\n  {}", crate::stress::names().join("\n  ")))
}

/// How the demo starts a member.
#[derive(ClapArgs, Debug)]
pub struct MemberArgs {
    /// How it gets at the pool.
    #[arg(long, value_enum)]
    pub way: Way,
    /// The path that opens the pool, where the way is a path.
    #[arg(long)]
    pub pool: Option<PathBuf>,
    /// The shared block.
    #[arg(long)]
    pub token: Token,
    /// Which part of the block is this member's.
    #[arg(long)]
    pub part: u32,
    /// How many parts there are.
    #[arg(long)]
    pub parts: u32,
    /// The pattern's key.
    #[arg(long)]
    pub key: u64,
}

/// How a process is handed a pool.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// By the path `/proc/PID/fd/N`.
    Path,
    /// The descriptor sent over a Unix socket.
    Socket,
    /// The descriptor inherited, as standard input.
    Inherited,
}
