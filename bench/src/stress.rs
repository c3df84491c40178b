//! The cases of Linux's `lib/test_vmalloc.c` by 1 to 64 threads, as `vmalloc stress` runs them.
//!
//! The command is the one that anybody has; this group gives it threads and reads its report.

use crate::report::number;
use crate::runner::Runner;
use crate::table::Table;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The cases of this group, for messages.
pub const NAMES: [&str; 1] = ["stress"];

const THREADS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
const QUICK: [usize; 4] = [1, 2, 8, 64];
/// The cell of a case that failed.
const FAILED: &str = "FAILED";

/// Runs the group; `vmalloc` is the command, if it was built.
pub fn run(runner: &mut Runner) {
    if !runner.wants("stress") {
        return;
    }
    let loops = if runner.quick { 20 } else { 100 };
    let about = format!(
        "Each case of Linux's `lib/test_vmalloc.c` once by so many threads at the same time: µs of one of them, the mean, \
         as Linux prints it; `vmalloc stress --case linux --loops {loops} --threads N`. Beyond {} threads they wait \
         for a CPU, too.",
        std::thread::available_parallelism().map_or(1, usize::from)
    );
    let heads = vec!["µs by threads", "1", "2", "4", "8", "16", "32", "64"];
    let mut table = Table::new("stress", about, heads);
    let mut cells: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut failures = Vec::new();
    for (turn, threads) in THREADS.into_iter().enumerate() {
        if runner.quick && !QUICK.contains(&threads) {
            continue;
        }
        let found = match runner.vmalloc.as_deref() {
            Some(command) => stress(command, threads, loops, runner.seed),
            None => Err("`cargo xtask bench` builds the command vmalloc".to_owned()),
        };
        let found = match found {
            Ok(found) => found,
            Err(why) => {
                table.skip(format!("{threads} threads"), &why);
                break;
            }
        };
        for (case, cell) in found.cells {
            let row = cells.entry(case).or_insert_with(|| vec!["–".into(); THREADS.len()]);
            row[turn] = cell;
        }
        failures.extend(found.failures);
    }
    for (case, row) in cells {
        table.row(case, row);
    }
    if !failures.is_empty() {
        table.about += &format!(" {FAILED}: {}.", failures.join("; "));
    }
    runner.keep(table);
}

/// What a run of all cases said.
#[derive(Default)]
struct Found {
    /// A cell a case.
    cells: BTreeMap<String, String>,
    /// Why cases failed: for each the first thread's word.
    failures: Vec<String>,
}

fn stress(command: &Path, threads: usize, loops: u64, seed: u64) -> Result<Found, String> {
    let (threads, loops_text, seed) = (threads.to_string(), loops.to_string(), seed.to_string());
    let output = Command::new(command)
        .args(["stress", "--case", "linux", "--json", "--threads", &threads])
        .args(["--loops", &loops_text, "--seed", &seed])
        .output()
        .map_err(|e| e.to_string())?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|_| {
        let text = String::from_utf8_lossy(&output.stderr);
        text.lines().next_back().unwrap_or("no report").to_owned()
    })?;
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    let mut found = Found::default();
    let workers = report["workers"].as_array().ok_or("a report without workers")?;
    for case in workers.iter().filter_map(|worker| worker["cases"].as_array()).flatten() {
        let name = case["case"].as_str().unwrap_or("?").to_owned();
        if case["unsupported"].is_string() {
            found.cells.insert(name, "not here".into());
        } else if case["failed"].as_u64() != Some(0) {
            let why = format!("{name}, {threads} threads, seed {seed}: {}", case["why"]);
            println!("{why}");
            // Of several threads the first one's will do for the page.
            if found.cells.insert(name, FAILED.into()).as_deref() != Some(FAILED) {
                found.failures.push(why);
            }
        } else {
            let sum = sums.entry(name).or_default();
            sum.0 += case["avg_usec"].as_f64().unwrap_or(f64::NAN);
            sum.1 += 1.0;
        }
    }
    for (name, (sum, count)) in sums {
        found.cells.entry(name).or_insert_with(|| number(sum / count));
    }
    Ok(found)
}
