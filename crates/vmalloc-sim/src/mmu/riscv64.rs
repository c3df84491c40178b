//! What a riscv64 hart does on a TLB miss, written from the manual.
//!
//! The privileged architecture, "Virtual Address Translation Process", steps 1 to 10, for Sv39 and
//! Sv48. **Shares no code and no constant with any mapper**, on purpose. The hart it models has
//! neither Svnapot nor Svpbmt, and leaves accessed and dirty bits to software: a leaf without them
//! faults.

use super::{Fault, Translation};
use crate::ram::SimRam;
use std::sync::atomic::Ordering;
use vmalloc_core::{Cache, Pfn, VirtAddr};

/// Walks the tables under `root`, which satp names, with `levels` levels: 3 for Sv39, 4 for Sv48.
///
/// # Errors
///
/// A [`Fault`]; `Reserved` for whatever the manual calls a page fault in spite of V = 1.
pub fn walk(ram: &SimRam, root: Pfn, levels: u32, va: VirtAddr) -> Result<Translation, Fault> {
    let sign = va.0 as i64 >> (12 + 9 * levels - 1);
    if sign != 0 && sign != -1 {
        return Err(Fault::NonCanonical { va });
    }
    let (mut table, mut level) = (root, levels - 1);
    loop {
        let words = ram.frame(table).ok_or(Fault::NoRam { va, pfn: table })?;
        let vpn = va.0 >> (12 + 9 * level) & 0x1ff;
        let pte = words[vpn as usize].load(Ordering::Acquire);
        let [v, r, w, x, u, g, a, d] = std::array::from_fn(|bit| pte >> bit & 1 == 1);
        let bad = Fault::Reserved { va, level, entry: pte };
        if !v {
            return Err(Fault::NotPresent { va });
        }
        let ppn = pte >> 10 & 0xfff_ffff_ffff;
        if (w && !r) || pte >> 54 != 0 {
            return Err(bad);
        }
        if !r && !x {
            // A pointer to the next level; D, A and U are reserved there.
            if level == 0 || d || a || u {
                return Err(bad);
            }
            table = Pfn(ppn);
            level -= 1;
            continue;
        }
        let below = (1 << (9 * level)) - 1;
        if ppn & below != 0 || !a || (w && !d) {
            return Err(bad);
        }
        let pfn = Pfn(ppn | va.0 >> 12 & below);
        let cache = Cache::WriteBack;
        return Ok(Translation { pfn, writable: w, executable: x, user: u, cache, global: g });
    }
}
