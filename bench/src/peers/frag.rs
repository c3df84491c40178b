//! Fragmentation: a full pool, half of it freed at random, then one block of a quarter of it.
//!
//! All contenders play the same plan, each in a process of its own, so that its costs can be seen:
//! address space, memory, descriptors.

use super::Kind;
use super::store::Plan;
use crate::report::number;
use crate::rng::Rng;
use crate::runner::{Runner, quantile};
use crate::table::Table;
use std::collections::HashMap;
use std::io::Write;
use std::process::Stdio;

const POOL_BYTES: usize = 256 << 20;
const SEEDS: u64 = 20;
const LOW: u64 = 4 << 10;
const HIGH: u64 = 4 << 20;

/// What the seeds showed of one contender.
#[derive(Default)]
struct Seen {
    served: usize,
    /// The largest block over all that was free.
    largest: Vec<f64>,
    /// Address space over the pool's size.
    address: Vec<f64>,
    /// Memory held over memory in use.
    memory: Vec<f64>,
    files: Vec<f64>,
    ms: Vec<f64>,
}

/// Runs the case.
pub fn run(runner: &mut Runner) {
    if !runner.wants("peers/frag") {
        return;
    }
    let about = format!(
        "{} MiB filled with blocks of 4 KiB – 4 MiB, each doubling as likely as the next; half of the blocks \
         freed at random; then one block of a quarter of the pool, every page written; then the largest block \
         there is. memfd and Python have no pool: the limit is kept by the test. Python and memfd pay with a \
         descriptor a block; ours with address space that nothing lies behind; iceoryx2 with slots as large as \
         its largest loan. Medians of {SEEDS} seeds.",
        POOL_BYTES >> 20
    );
    let columns = vec![
        "one block of 25 % of the pool",
        "served",
        "largest block, of what is free",
        "address space, of the pool",
        "memory held, of what is in use",
        "descriptors",
        "the block, ms",
    ];
    let mut table = Table::new("peers/frag", about, columns);
    for kind in Kind::ALL {
        match play_all(kind, runner.seed) {
            Ok(seen) => {
                if kind == Kind::Ours {
                    promise(&mut table, &seen);
                }
                table.row(kind.name(), seen.cells());
            }
            Err(why) => table.skip(kind.name(), &why),
        }
    }
    runner.keep(table);
}

fn promise(table: &mut Table, seen: &Seen) {
    let all = seen.largest.iter().filter(|&&share| share >= 1.0).count();
    let measured = format!("{} of {SEEDS}; all free bytes: {all} of {SEEDS}", seen.served);
    let is_met = seen.served as u64 == SEEDS && all as u64 == SEEDS;
    let what = "one block of 25 % of the pool after half was freed at random";
    table.promise(what, "20 of 20, and all free bytes in one block", measured, is_met);
}

impl Seen {
    fn cells(&self) -> [String; 6] {
        let median = |samples: &[f64]| quantile(samples, 0.5);
        [
            format!("{}/{SEEDS}", self.served),
            format!("{:.1} %", median(&self.largest) * 100.0),
            format!("{}×", number(median(&self.address))),
            format!("{:.2}×", median(&self.memory)),
            format!("{:.0}", median(&self.files)),
            match self.served {
                0 => "–".into(),
                _ => number(median(&self.ms)),
            },
        ]
    }
}

fn play_all(kind: Kind, seed: u64) -> Result<Seen, String> {
    let mut seen = Seen::default();
    for seed in seed..seed + SEEDS {
        let found = play(kind, &plan(seed), seed)?;
        let get =
            |name: &str| found.get(name).copied().ok_or_else(|| format!("it did not say {name}"));
        let is_served = get("served")? == 1.0;
        seen.served += usize::from(is_served);
        seen.largest.push(get("largest")? / get("free")?);
        seen.address.push(get("address")? / POOL_BYTES as f64);
        seen.memory.push(get("memory")? / get("in_use")?);
        seen.files.push(get("files")?);
        if is_served {
            seen.ms.push(get("ns")? / 1e6);
        }
    }
    Ok(seen)
}

fn plan(seed: u64) -> Plan {
    let mut rng = Rng(seed);
    let (mut sizes, mut left) = (Vec::new(), POOL_BYTES);
    while left > 0 {
        let size = rng.log_uniform(LOW, HIGH).next_multiple_of(LOW) as usize;
        sizes.push(size.min(left));
        left -= size.min(left);
    }
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    rng.shuffle(&mut order);
    order.truncate(sizes.len() / 2);
    Plan { pool_bytes: POOL_BYTES, wanted_bytes: POOL_BYTES / 4, sizes, freed: order }
}

fn play(kind: Kind, plan: &Plan, seed: u64) -> Result<HashMap<String, f64>, String> {
    let mut command = kind.command("frag")?;
    command.arg(format!("vmalloc-bench-{}-frag-{seed}.", std::process::id()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(plan.text().as_bytes()).map_err(|e| e.to_string())?;
    drop(stdin);
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("failed: {}", why.lines().next_back().unwrap_or("no word of why")));
    }
    let pair = |word: &str| {
        let (name, value) = word.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    Ok(text.split_whitespace().filter_map(pair).collect())
}
