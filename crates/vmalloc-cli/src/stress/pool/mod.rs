//! The hard cases of a pool that many processes share: death, fragmentation, fullness, quotas.
//!
//! ```text
//!   kill, members ─▶ deaths: the parent's side ◀─ a line each ─▶ member: a process that works
//!   frag, full, quota                in this process
//! ```
//!
//! All run in real memory. The pools have no name in any file system, so that nothing is left
//! if this process is killed; the members leave when it does.

mod deaths;
mod frag;
mod full;
mod kill;
pub mod member;
mod members;
mod peer;
mod quota;
mod tag;

use super::alone::{Alone, check};
use super::subject::Verdict;
use vmalloc::Pool;

/// The table.
pub const CASES: &[Alone] = &[
    Alone { name: "kill", run: kill::run },
    Alone { name: "frag", run: frag::run },
    Alone { name: "full", run: full::run },
    Alone { name: "members", run: members::run },
    Alone { name: "quota", run: quota::run },
];

/// Why no case of a pool runs on the simulated machine.
const REAL_ONLY: &str = "processes that die share real memory only: --machine linux";

const MIB: u64 = 1 << 20;

/// Purges, and checks that nothing is left: no area, no page that the budget counts, no frame.
/// Nobody else is a member.
fn empty(pool: &Pool) -> Verdict {
    pool.purge()?;
    let verified = pool.verify()?;
    let info = pool.info();
    check(verified.areas == 0 && verified.parked == 0 && info.committed_bytes == 0, || {
        let areas: Vec<String> = pool.areas().iter().map(ToString::to_string).collect();
        let bytes = info.committed_bytes;
        format!("{bytes} bytes leaked, in {} areas: {}", areas.len(), areas.join("; "))
    })?;
    check(info.stats.holes == info.stats.window, || "pages of the window leaked".into())?;
    // And all of it is there to be had, as one block.
    pool.vmalloc(info.capacity_bytes as usize)?;
    pool.purge()?;
    Ok(())
}
