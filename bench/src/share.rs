//! Sharing: a buffer is filled in one process and read in another.
//!
//! ```text
//!   this process                              a child of it, one a contender
//!     take a buffer, fill it ──name it──▶ a Unix socket ──▶ find it, read every word
//!     free it                ◀──────────── the sum ───────── let go of it
//! ```
//!
//! One cycle is all of that, so that what a contender puts off is paid by its next cycle.

mod contenders;
mod foreign;
#[cfg(feature = "iceoryx2")]
mod loans;

use crate::peers::Kind;
use crate::runner::{Contender, Runner, ns_each};
use contenders::{NAMES as CONTENDERS, Peer};
pub use contenders::{child, receive_fd, send_fd};
use foreign::Foreign;

/// The cases of this group, for messages.
pub const NAMES: [&str; 1] = ["share"];

/// Sizes in bytes, with their names.
const SIZES: [(usize, &str); 4] =
    [(4 << 10, "4K"), (64 << 10, "64K"), (1 << 20, "1M"), (16 << 20, "16M")];

/// From the design's table; *level* is within a twentieth.
const GOALS: [(&str, f64); 3] =
    [("memfd + SCM_RIGHTS", 10.0), ("iceoryx2", LEVEL), ("boost.interprocess", LEVEL)];
const LEVEL: f64 = 1.0 / 1.05;

/// Runs the group.
pub fn run(runner: &mut Runner) {
    for (bytes, size) in SIZES {
        let name = format!("share/size={size}");
        // The group `peers` has the large ones in its table.
        if runner.wants(&name) || (runner.wants("peers") && bytes >= 1 << 20) {
            case(runner, &name, bytes);
        }
    }
}

fn case(runner: &mut Runner, name: &str, bytes: usize) {
    // A batch of a few milliseconds for most.
    let count = ((4 << 20) / bytes).clamp(1, 50);
    let contenders = CONTENDERS.iter().map(|&name| {
        let mut peer = Peer::new(name, bytes);
        Contender::new(name, move || ns_each(count, || (0..count).for_each(|_| peer.cycle())))
    });
    let mut contenders: Vec<Contender> = contenders.collect();
    for kind in [Kind::Boost, Kind::Python] {
        match Foreign::new(kind, bytes) {
            Ok(mut peer) => {
                contenders.push(Contender::new(kind.name(), move || peer.ns_each(count)));
            }
            Err(why) => println!("{name}: {} is left out: {why}", kind.name()),
        }
    }
    let goals: &[_] = if bytes >= 1 << 20 { &GOALS } else { &[] };
    runner.compare(name, "ns a cycle", goals, contenders);
}
