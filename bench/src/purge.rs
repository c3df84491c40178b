//! Purges: how long one call may take, however much is parked.
//!
//! ```text
//!   all    Pool::purge        everything that is parked, in one call
//!   step   Pool::purge_step   up to 64 areas a call, as a free over the limit does; the longest
//!   calls  every vmalloc and free of a program that frees more than may be parked: the tail
//! ```

use crate::report::number;
use crate::rng::Rng;
use crate::runner::{Contender, Runner, quantile};
use crate::table::Table;
use std::time::Instant;
use vmalloc::{Buf, Pool};

/// The cases of this group, for messages.
pub const NAMES: [&str; 2] = ["purge", "purge/calls"];

/// How large a parked area is.
const BYTES: usize = 64 << 10;

/// Runs the group.
pub fn run(runner: &mut Runner) {
    for parked in [64, 512, 4096] {
        let name = format!("purge/parked={parked}");
        if !runner.wants(&name) {
            continue;
        }
        let pool = Pool::create(1 << 30).expect("a pool: only what is used is taken");
        let contenders = vec![
            Contender::new("a step, the longest", || {
                park(&pool, parked);
                steps(&pool)
            }),
            Contender::new("all at once", || {
                park(&pool, parked);
                let start = Instant::now();
                pool.purge().expect("a purge");
                start.elapsed().as_nanos() as f64
            }),
        ];
        runner.compare(&name, "ns the longest call", &[], contenders);
    }
    if runner.wants("purge/calls") {
        let table = calls(runner);
        runner.keep(table);
    }
}

/// Blocks that live at once.
const LIVE: usize = 64;

/// Each call of a program that keeps its lazy list full, by itself.
fn calls(runner: &Runner) -> Table {
    let count = if runner.quick { 4_000 } else { 40_000 };
    let about = format!(
        "{LIVE} live blocks of 4 KiB – 1 MiB in a pool of 256 MiB of which 16 MiB may be parked; one replaced at a \
         time, every page written, {count} times. A free beyond the limit purges one step of up to 64 areas, and \
         nothing else in this process does. What else ran on this machine shows in the last columns."
    );
    let columns = vec!["µs a call", "calls", "median", "p99", "p99.9", "worst"];
    let mut table = Table::new("purge/calls", about, columns);
    let pool = Pool::options().lazy_bytes(16 << 20).create(256 << 20).expect("a pool");
    let mut rng = Rng(runner.seed);
    let mut live: Vec<Option<Buf>> = (0..LIVE).map(|_| None).collect();
    let (mut allocs, mut frees) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let at = rng.below(LIVE as u64) as usize;
        let bytes = rng.log_uniform(4 << 10, 1 << 20) as usize;
        if let Some(buf) = live[at].take() {
            let start = Instant::now();
            drop(buf);
            frees.push(start.elapsed().as_nanos() as f64 / 1e3);
        }
        let start = Instant::now();
        let mut buf = pool.vmalloc(bytes).expect("a pool with room");
        allocs.push(start.elapsed().as_nanos() as f64 / 1e3);
        buf.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        live[at] = Some(buf);
    }
    for (name, calls) in [("vmalloc", &allocs), ("free", &frees)] {
        let quantiles = [0.5, 0.99, 0.999, 1.0].map(|q| number(quantile(calls, q)));
        table.row(name, std::iter::once(calls.len().to_string()).chain(quantiles));
    }
    table.about += &format!(" {} areas were purged.", pool.info().stats.purged);
    table
}

/// Frees so many areas whose every page was written.
fn park(pool: &Pool, count: usize) {
    let area = |_| {
        let mut buf = pool.vmalloc(BYTES).expect("a pool with room");
        buf.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        buf
    };
    drop((0..count).map(area).collect::<Vec<Buf>>());
}

/// Purges in steps, and says how long the longest took.
fn steps(pool: &Pool) -> f64 {
    let mut longest = 0.0_f64;
    loop {
        let start = Instant::now();
        let purged = pool.purge_step().expect("a step");
        longest = longest.max(start.elapsed().as_nanos() as f64);
        if purged.areas == 0 {
            return longest;
        }
    }
}
