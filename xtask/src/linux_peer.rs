//! `cargo xtask bench kernel`: our kernel and Debian's Linux run the same workloads in the same
//! emulator, which counts instructions; printed side by side with what we allow ourselves.
//!
//! ```text
//!   kernel/src/bench.rs ──▶ qemu ─┐
//!                                 ├─ "bench NAME pages=N count=N instructions=N shootdowns=N" ──▶ table
//!   linux.rs: packages, module,   │
//!   initramfs (cpio.rs) ──▶ qemu ─┘
//! ```
//!
//! A Linux that cannot be had here (no `apt-get`, no network, no compiler) is left out, and said so.

mod cpio;
mod linux;

use crate::kernel;
use std::path::Path;

/// What makes the comparison fair, and what it does not say.
const CONDITIONS: &str = "\
Both: qemu -machine q35 -cpu max, one CPU, -icount shift=0,sleep=off; the TSC counts, a tick is an instruction.
Same order, sizes, counts, random numbers; a quarter of each count beforehand, not counted; one byte of each area written.
Linux: init_on_alloc=0 mitigations=off nokaslr; 20 s after boot; frames from its allocator, as ours from ours (`frames`).
Lazy limit: 32 MiB of parked pages on both, which is Linux's for one CPU; the purges are in the counts.
vmap: the same frames each time, which ours shows again as they were parked; vmap_fresh: none that is parked.
Shootdowns: Linux's in a second pass, as calls of flush_tlb_kernel_range(), by a probe; ours as calls of Shootdown::flush_all.
Instructions are not time: a TLB miss, a cache miss, `invlpg` and an interrupt to another CPU weigh one or nothing.";

/// Our share of Linux's instructions: one in so many. Of Linux 6.1, the first in [`linux::SERIES`].
fn share(name: &str) -> Option<u64> {
    match name {
        "vmalloc" | "vmalloc_random_1000" | "busy_vmalloc" => Some(3),
        "vmap" => Some(5),
        _ => None,
    }
}

/// One workload, as one kernel ran it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Measured {
    name: String,
    pages: u64,
    count: u64,
    instructions: u64,
    shootdowns: u64,
}

impl Measured {
    fn each(&self) -> u64 {
        self.instructions / self.count.max(1)
    }

    fn per_1000(&self) -> f64 {
        self.shootdowns as f64 * 1000.0 / self.count.max(1) as f64
    }

    fn is_of(&self, other: &Measured) -> bool {
        (&self.name, self.pages) == (&other.name, other.pages)
    }
}

/// The line of a workload, taken apart; Linux puts the time before it.
fn measured(line: &str) -> Option<Measured> {
    let at = line.find("bench ")?;
    let mut words = line[at + "bench ".len()..].split_whitespace();
    let name = words.next()?.to_owned();
    let mut next = |key: &str| -> Option<u64> {
        words.next()?.strip_prefix(key)?.strip_prefix('=')?.parse().ok()
    };
    Some(Measured {
        name,
        pages: next("pages")?,
        count: next("count")?,
        instructions: next("instructions")?,
        shootdowns: next("shootdowns")?,
    })
}

/// What one Linux printed.
struct Peer {
    /// `6.1.0-56`.
    version: String,
    rows: Vec<Measured>,
}

/// Counts, and prints the table. Whether our kernel ran and every Linux that was booted did.
pub fn run(root: &Path) -> bool {
    let mut ours = Vec::new();
    if let Err(why) = kernel::count(root, &mut |line| ours.extend(measured(line))) {
        println!("our kernel: {why}");
        return false;
    }
    let mut peers = Vec::new();
    let mut is_ok = true;
    for series in linux::SERIES {
        match linux::run(root, series) {
            Ok(peer) => peers.push(peer),
            Err(linux::Failure::Lacking(why)) => println!("left out: Linux {series}: {why}"),
            Err(linux::Failure::Broken(why)) => {
                println!("Linux {series}: {why}");
                is_ok = false;
            }
        }
    }
    for line in table(&ours, &peers) {
        println!("{line}");
    }
    println!("\n{CONDITIONS}");
    is_ok
}

/// The table: a line a workload.
fn table(ours: &[Measured], peers: &[Peer]) -> Vec<String> {
    let mut head = format!("{:<22}{:>6}{:>9}", "instructions a call", "pages", "ours");
    for peer in peers {
        head += &format!("{:>20}{:>8}", peer.version, "ratio");
    }
    let mut lines =
        vec![format!("{head}{:>9}          shootdowns per 1,000 (ours, Linux)", "budget")];
    for row in ours {
        let mut line = format!("{:<22}{:>6}{:>9}", row.name, row.pages, row.each());
        let mut flushes = format!("{:.2}", row.per_1000());
        for peer in peers {
            match peer.rows.iter().find(|theirs| theirs.is_of(row)) {
                Some(theirs) => {
                    let ratio = theirs.instructions as f64 / row.instructions.max(1) as f64;
                    line += &format!("{:>20}{ratio:>7.1}×", theirs.each());
                    flushes += &format!(", {:.2}", theirs.per_1000());
                }
                None => line += &format!("{:>20}{:>8}", "–", "–"),
            }
        }
        let first = peers.first().and_then(|peer| peer.rows.iter().find(|it| it.is_of(row)));
        line += &match first.zip(share(&row.name)) {
            Some((linux, share)) => {
                let budget = linux.each() / share;
                let word = if row.each() <= budget { "met" } else { "missed" };
                format!("{budget:>9} {word:<9}")
            }
            None => " ".repeat(19),
        };
        lines.push(line + &flushes);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what both kernels print is what the table reads, and nothing else is.
    #[test]
    fn measurement_is_read_as_the_kernels_print_it() {
        let line = "bench vmap pages=10 count=20 instructions=900 shootdowns=3";
        let vmap = Measured {
            name: "vmap".into(),
            pages: 10,
            count: 20,
            instructions: 900,
            shootdowns: 3,
        };
        assert_eq!(measured(line).as_ref(), Some(&vmap));
        assert_eq!(measured(&format!("[   24.343324] {line}")), Some(vmap));
        assert_eq!(measured("bench vmap pages=10 count=20 instructions= shootdowns=3"), None);
        assert_eq!(measured("pool: pfn 0x1..0x2"), None);
    }

    /// Goal: a budget is a share of Linux's instructions, met up to it and missed above.
    #[test]
    fn budget_is_met_up_to_its_share_and_missed_above() {
        let row = |instructions| {
            let name = "vmap".to_owned();
            Measured { name, pages: 1, count: 10, instructions, shootdowns: 0 }
        };
        let word = |ours| {
            let peer = Peer { version: "6.1".into(), rows: vec![row(5000)] };
            table(&[row(ours)], &[peer]).remove(1)
        };
        assert!(word(1000).contains(" 100 met"), "{}", word(1000));
        assert!(word(1010).contains(" 100 missed"), "{}", word(1010));
    }

    /// Goal: without a Linux our figures are there, without a budget.
    #[test]
    fn table_without_a_linux_has_our_figures() {
        let line = "bench vmap pages=10 count=20 instructions=900 shootdowns=3";
        let lines = table(&[measured(line).unwrap()], &[]);
        assert!(lines[1].contains(" 45 ") && !lines[1].contains("met"), "{lines:?}");
    }
}
