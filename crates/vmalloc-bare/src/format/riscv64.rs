//! riscv64: the privileged architecture, "Sv39" and "Sv48".
//!
//! ```text
//!   53..10 frame │ 7 D │ 6 A │ 5 G │ 4 U │ 3 X │ 2 W │ 1 R │ 0 V      no R, W, X: leads to a table
//! ```
//!
//! How memory is cached is the platform's (physical memory attributes), not the page table's,
//! unless the CPU has Svpbmt: so nothing but [`Cache::WriteBack`], which here means "as the platform
//! says", can be asked for.

use super::{Entry, Format};
use vmalloc_core::{Cache, Pfn, Prot, Rights};

const V: u64 = 1 << 0;
const R: u64 = 1 << 1;
const W: u64 = 1 << 2;
const X: u64 = 1 << 3;
const U: u64 = 1 << 4;
const G: u64 = 1 << 5;
const A: u64 = 1 << 6;
const D: u64 = 1 << 7;
const FRAME_BITS: u32 = 44;

/// Three levels: addresses of 39 bits.
#[derive(Clone, Copy, Debug)]
pub struct Sv39;

/// Four levels: addresses of 48 bits.
#[derive(Clone, Copy, Debug)]
pub struct Sv48;

fn leaf(pfn: Pfn, prot: Prot, is_global: bool) -> Option<u64> {
    if prot.cache != Cache::WriteBack {
        return None;
    }
    let rights = match prot.rights {
        Rights::Read => R,
        Rights::ReadWrite => R | W | D,
        Rights::ReadExecute => R | X,
    };
    let user = if prot.user { U } else { 0 };
    let global = if is_global && !prot.user { G } else { 0 };
    Some(V | A | pfn.0 << 10 | rights | user | global)
}

fn decode(entry: u64) -> Entry {
    if entry & V == 0 {
        return Entry::Empty;
    }
    let pfn = Pfn(entry >> 10 & ((1 << FRAME_BITS) - 1));
    let rights = match (entry & R != 0, entry & W != 0, entry & X != 0) {
        (false, false, false) => return Entry::Table(pfn),
        (_, true, _) => Rights::ReadWrite,
        (_, false, true) => Rights::ReadExecute,
        (_, false, false) => Rights::Read,
    };
    Entry::Leaf(pfn, Prot { rights, cache: Cache::WriteBack, user: entry & U != 0 })
}

macro_rules! format {
    ($name:ident, $levels:literal) => {
        impl Format for $name {
            const LEVELS: u32 = $levels;
            const BREAKS_BEFORE_MAKE: bool = false;

            fn leaf(pfn: Pfn, _level: u32, prot: Prot, is_global: bool) -> Option<u64> {
                leaf(pfn, prot, is_global)
            }

            fn table(pfn: Pfn) -> u64 {
                V | pfn.0 << 10
            }

            fn decode(entry: u64, _level: u32) -> Entry {
                decode(entry)
            }
        }
    };
}

format!(Sv39, 3);
format!(Sv48, 4);
