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

use crate::runner::{Contender, Runner, ns_each};
pub use contenders::child;
use contenders::{NAMES as CONTENDERS, Peer};

/// The cases of this group, for messages.
pub const NAMES: [&str; 1] = ["share"];

/// Sizes in bytes, with their names.
const SIZES: [(usize, &str); 4] =
    [(4 << 10, "4K"), (64 << 10, "64K"), (1 << 20, "1M"), (16 << 20, "16M")];

/// Runs the group.
pub fn run(runner: &mut Runner) {
    for (bytes, size) in SIZES {
        let name = format!("share/size={size}");
        if !runner.wants(&name) {
            continue;
        }
        // A batch of a few milliseconds for most.
        let count = ((4 << 20) / bytes).clamp(1, 50);
        let contenders = CONTENDERS.map(|name| {
            let mut peer = Peer::new(name, bytes);
            Contender::new(name, move || ns_each(count, || (0..count).for_each(|_| peer.cycle())))
        });
        let goals: &[_] = if bytes >= 1 << 20 { &[("memfd + SCM_RIGHTS", 10.0)] } else { &[] };
        runner.compare(&name, "ns a cycle", goals, contenders.into());
    }
}
