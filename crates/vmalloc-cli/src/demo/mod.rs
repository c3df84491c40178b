//! `vmalloc demo`: the main job from beginning to end, on real memory or a simulated machine.
//!
//! ```text
//!   fill the pool ─ free half ─ ONE block of all that is free ─ fill it with a pattern
//!     ─ other members attach, check it at their own addresses, write their parts ─ one is killed
//!     ─ nothing is lost ─ everything freed, purged, verified: the frames are back
//! ```
//!
//! [`plan`] decides by seed what is allocated and freed, [`linux`] and
//! [`sim`] play it, [`member`]
//! is what the other processes run, [`tell`] tells it, [`summary`] is what `--json` prints. Every
//! sentence that claims something is checked before it is said; a check that fails ends the demo
//! with exit code 1.

mod linux;
pub mod member;
mod others;
pub mod pattern;
pub mod plan;
mod sim;
mod stale;
mod summary;
mod tell;
mod together;

use crate::args::{DemoArgs, Machine};
use crate::failure::{Done, Failure};
use crate::size::Size;
use plan::Plan;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Write, stdout};
use std::time::{Duration, Instant};
use summary::Summary;
use tell::Tell;
use vmalloc_core::Pages;

/// Below this, half of the areas is hardly more than one.
const POOL_BYTES_MIN: u64 = 1 << 20;

/// What is to be played.
struct Setup {
    seed: u64,
    capacity: Pages,
    members: u32,
    plan: Plan,
    /// How long all wait, attached, for others to look at them.
    stay: Duration,
}

/// Plays the demo.
pub fn run(args: &DemoArgs) -> Done {
    let started = Instant::now();
    let default = if args.machine == Machine::Linux { 256 << 20 } else { 32 << 20 };
    let bytes = args.pool.map_or(default, |size| size.0);
    if bytes < POOL_BYTES_MIN {
        let (has, min) = (Size(bytes), Size(POOL_BYTES_MIN));
        return Err(Failure::new(format_args!(
            "demo: a pool of {has} is too small: {min} at least"
        )));
    }
    let seed = args.seed.unwrap_or_else(random);
    let capacity = Pages::for_bytes(bytes);
    let most = match args.machine {
        // What a pool can be at most; whether the machine has it is found out by asking.
        Machine::Linux => 1 << 40,
        // Its RAM is simulated in ours, word by word.
        Machine::Sim => 256 << 20,
    };
    if bytes > most {
        let (has, most) = (Size(bytes), Size(most));
        return Err(Failure::new(format_args!(
            "demo: a pool of {has} is too large: {most} at most"
        )));
    }
    if args.stay > 0 && args.machine == Machine::Sim {
        return Err(Failure::new(
            "demo: --stay is for the machine linux: nobody can look into a simulated one from \
             outside; leave it out",
        ));
    }
    let (members, stay) = (args.members, Duration::from_secs(args.stay.into()));
    let setup = Setup { seed, capacity, members, plan: Plan::new(seed, capacity), stay };
    let mut tell = Tell::new(args.json);
    let mut summary = match args.machine {
        Machine::Linux => linux::play(&setup, &mut tell)?,
        Machine::Sim => sim::play(&setup, &mut tell)?,
    };
    let elapsed = started.elapsed();
    summary.elapsed_ms = elapsed.as_millis() as u64;
    if args.json {
        return print(&summary);
    }
    tell.title(format_args!(
        "\nAll checks passed in {:.1} s. The same again: --seed {seed}",
        elapsed.as_secs_f64()
    ))
}

fn print(summary: &Summary) -> Done {
    let mut out = stdout().lock();
    let written = serde_json::to_writer_pretty(&mut out, summary).map_err(std::io::Error::from);
    let written = written.and_then(|()| writeln!(out)).and_then(|()| out.flush());
    written.map_err(|e| Failure::output(&e))
}

/// A number that is another each time, short enough to type.
fn random() -> u64 {
    RandomState::new().build_hasher().finish() >> 40
}
