//! Hot calls in instructions, which no load of the machine changes: counted by callgrind.
//!
//! ```text
//!   this program under valgrind, N calls and then 3 N ─▶ "Collected : …" twice ─▶ the difference / 2 N
//! ```
//!
//! What a run counts stands beside what `bench/instructions.txt` says, which `--accept` writes; more
//! than a tenth above it is a regression, and the run fails. Instructions are not time: an atomic
//! step, a cache miss and a system call weigh one, and the kernel's own are not seen.

use crate::areas::contenders::{Space, ours, ours_eager, tree};
use crate::rng::Rng;
use crate::runner::Runner;
use crate::table::Table;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::Command;
use std::sync::atomic::AtomicU64;
use vmalloc::Pool;
use vmalloc_core::frames::Buddy;
use vmalloc_core::{Extent, Frames, Order, Pages, Pfn};

/// The cases of this group, for messages.
pub const NAMES: [&str; 1] = ["instructions"];

/// Where the counts stand that were accepted.
const ACCEPTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt");

/// How much more than accepted is a regression.
const TOLERANCE: f64 = 1.1;

/// Areas that are there while addresses are looked up.
const AREAS: u64 = 15_000;

/// A call, its name and how to make it so many times.
type Work = (&'static str, fn(u64));

const WORK: &[Work] = &[
    ("pool: vmalloc + free, warm, 4 KiB", |count| pool(4 << 10, count)),
    ("pool: vmalloc + free, warm, 1 MiB", |count| pool(1 << 20, count)),
    ("pool: attach + detach", attach),
    ("engine: vmalloc + vfree, revived", |count| pair(&*ours(1 << 16).1, count)),
    ("engine: vmalloc + vfree, nothing parked", |count| pair(&*ours_eager(1 << 16).1, count)),
    ("engine: look-up, 15,000 areas", |count| find(&*ours(1 << 20).1, count)),
    ("frames: take + give", frames),
    ("tree: take + give", |count| pair(&*tree(1 << 16).1, count)),
    ("tree: look-up, 15,000 areas", |count| find(&*tree(1 << 20).1, count)),
    #[cfg(feature = "mimalloc")]
    ("mimalloc: alloc + free, 4 KiB", |count| mimalloc(4 << 10, count)),
    #[cfg(feature = "mimalloc")]
    ("mimalloc: alloc + free, 1 MiB", |count| mimalloc(1 << 20, count)),
];

fn pool(bytes: usize, count: u64) {
    let pool = Pool::create(16 << 20).expect("a pool");
    for _ in 0..count {
        black_box(pool.vmalloc(bytes).expect("a pool with room"))[0] = 1;
    }
}

fn attach(count: u64) {
    let pool = Pool::create(16 << 20).expect("a pool");
    let frozen = pool.vmalloc(64 << 10).expect("room").freeze().expect("a buffer of ours");
    let token = frozen.token();
    for _ in 0..count {
        black_box(pool.attach(&token).expect("an area that is there"));
    }
}

fn pair(space: &dyn Space, count: u64) {
    for _ in 0..count {
        let start = space.take(10).expect("an empty window");
        space.give(black_box(start), 10);
    }
}

fn find(space: &dyn Space, count: u64) {
    let starts: Vec<u64> =
        (0..AREAS).map(|_| space.take(10).expect("a window with room")).collect();
    let mut rng = Rng(1);
    for _ in 0..count {
        let page = starts[rng.below(AREAS) as usize] + rng.below(10);
        black_box(space.find(page));
    }
}

fn frames(count: u64) {
    let len = Pages(1 << 16);
    let words: Vec<_> = (0..Buddy::words_needed(len)).map(|_| AtomicU64::new(0)).collect();
    let buddy = Buddy::format(&words, Pfn(0), len).expect("words for a pool");
    let cpu = buddy.on_cpu(0);
    for _ in 0..count {
        let start = cpu.take(Order(0)).expect("a free frame");
        cpu.give(Extent { start: black_box(start), len: Pages(1) });
    }
}

#[cfg(feature = "mimalloc")]
fn mimalloc(bytes: usize, count: u64) {
    let heap = crate::raw::GlobalHeap(&mimalloc::MiMalloc);
    for _ in 0..count {
        black_box(heap.take(bytes)).bytes()[0].write(1);
    }
}

/// The child's side: `name count`.
pub fn child(args: &[String]) {
    let (_, work) = WORK.iter().find(|(name, _)| *name == args[0]).expect("a name of this table");
    work(args[1].parse().expect("a number"));
}

/// Runs the group.
pub fn run(runner: &mut Runner) {
    if !runner.wants("instructions") {
        return;
    }
    let about = "Of this program's own code, counted by callgrind; system calls count as one. In a pool every word that \
                 another process may have written is checked, and every claim is an atomic step; the tree and mimalloc \
                 serve one process.";
    let columns = vec!["one call, or pair of calls", "instructions", "accepted", "change"];
    let mut table = Table::new("instructions", about.into(), columns);
    let accepted = accepted();
    // What is not counted here (no valgrind, a peer left out) stays accepted as it was.
    let mut counts = accepted.clone();
    let mut is_counted = false;
    for (name, _) in WORK {
        let count = match count(name) {
            Ok(count) => count,
            Err(why) => {
                table.skip(*name, &why);
                continue;
            }
        };
        counts.insert((*name).to_owned(), count);
        is_counted = true;
        let before = accepted.get(*name);
        let change = before.map(|before| count / before);
        if change.is_some_and(|change| change > TOLERANCE) && !runner.accept {
            println!(
                "{name}: {count:.0} instructions, a regression: {:.0} were accepted",
                before.unwrap_or(&0.0)
            );
            runner.has_regressed = true;
        }
        let percent = |change: f64| format!("{:+.1} %", (change - 1.0) * 100.0);
        let none = || "–".to_owned();
        let before = before.map_or_else(none, |before| format!("{before:.0}"));
        table.row(*name, [format!("{count:.0}"), before, change.map_or_else(none, percent)]);
    }
    runner.keep(table);
    if runner.accept && is_counted {
        let lines = counts.iter().map(|(name, count)| format!("{count:.0}\t{name}\n"));
        let head =
            "# Written by `cargo xtask bench instructions --accept`: instructions, and of what.\n";
        let text = head.to_owned() + &lines.collect::<String>();
        match std::fs::write(ACCEPTED, text) {
            Ok(()) => println!("accepted: bench/instructions.txt"),
            Err(e) => eprintln!("bench/instructions.txt was not written: {e}"),
        }
    }
}

/// What was accepted, by name.
fn accepted() -> BTreeMap<String, f64> {
    let text = std::fs::read_to_string(ACCEPTED).unwrap_or_default();
    let line = |line: &str| {
        let (count, name) = line.split_once('\t')?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// Instructions a call.
fn count(name: &str) -> Result<f64, String> {
    const CALLS: u64 = 2_000;
    let (few, many) = (collected(name, CALLS)?, collected(name, 3 * CALLS)?);
    Ok(many.saturating_sub(few) as f64 / (2 * CALLS) as f64)
}

/// Instructions of a process that makes so many calls.
fn collected(name: &str, calls: u64) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["--child-instructions", name, &calls.to_string()])
        .output()
        .map_err(|_| "apt install valgrind".to_owned())?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| {
        let (_, count) = line.split_once("Collected : ")?;
        count.trim().parse().ok()
    });
    match collected {
        Some(count) if output.status.success() => Ok(count),
        _ => {
            let line =
                text.lines().rfind(|line| line.contains("panicked") || line.contains("rror"));
            Err(format!("valgrind: {}", line.unwrap_or("no count")))
        }
    }
}
