//! Purges: how long one call may take, however much is parked.
//!
//! ```text
//!   all    Pool::purge        everything that is parked, in one call
//!   step   Pool::purge_step   up to 64 areas a call, as a free over the limit does; the longest
//! ```

use crate::runner::{Contender, Runner};
use std::time::Instant;
use vmalloc::{Buf, Pool};

/// The cases of this group, for messages.
pub const NAMES: [&str; 1] = ["purge"];

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
