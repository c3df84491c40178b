//! x86_64: Intel SDM volume 3, "4-level paging and 5-level paging".
//!
//! ```text
//!   63 XD │ 51..12 frame │ 8 G │ 7 PS (PAT at level 0) │ 6 D │ 5 A │ 4 PCD │ 3 PWT │ 2 U/S │ 1 R/W │ 0 P
//!                         12 PAT in leaves above level 0
//! ```
//!
//! The kernel sets EFER.NXE, CR0.WP and CR4.PGE, and the page attribute table as [`X86_64::PAT`]
//! says, as Linux does; with the table that a CPU has after a reset, what was asked for as
//! write-combining or write-through is cached less, never more.

use super::{Entry, Format};
use vmalloc_core::{Cache, Pfn, Prot, Rights};

const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const PWT: u64 = 1 << 3;
const PCD: u64 = 1 << 4;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const XD: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Four levels: addresses of 48 bits.
#[derive(Clone, Copy, Debug)]
pub struct X86_64;

/// Five levels, CR4.LA57: addresses of 57 bits.
#[derive(Clone, Copy, Debug)]
pub struct X86_64La57;

impl X86_64 {
    /// What the entries expect in the model-specific register `IA32_PAT` (0x277): 0 write-back,
    /// 1 write-combining, 2 uncached-, 3 uncached, 4 write-back, 5 write-protected, 6 uncached-,
    /// 7 write-through.
    pub const PAT: u64 = 0x0407_0506_0007_0106;
}

/// The bit of a leaf that is the upper bit of the index into the page attribute table.
const fn pat_bit(level: u32) -> u64 {
    if level == 0 { 1 << 7 } else { 1 << 12 }
}

fn leaf(pfn: Pfn, level: u32, prot: Prot, is_global: bool) -> u64 {
    let rights = match prot.rights {
        Rights::Read => XD,
        Rights::ReadWrite => XD | RW | D,
        Rights::ReadExecute => 0,
    };
    let cache = match prot.cache {
        Cache::WriteBack => 0,
        Cache::WriteCombining => PWT,
        Cache::WriteThrough => pat_bit(level) | PCD | PWT,
        Cache::Uncached => PCD | PWT,
    };
    let large = if level > 0 { PS } else { 0 };
    let user = if prot.user { US } else { 0 };
    let global = if is_global && !prot.user { G } else { 0 };
    P | A | pfn.0 << 12 | rights | cache | large | user | global
}

fn decode(entry: u64, level: u32) -> Entry {
    if entry & P == 0 {
        return Entry::Empty;
    }
    if level > 0 && entry & PS == 0 {
        return Entry::Table(Pfn((entry & FRAME) >> 12));
    }
    let frame = if level > 0 { entry & FRAME & !pat_bit(level) } else { entry & FRAME };
    let rights = match (entry & RW != 0, entry & XD != 0) {
        (true, _) => Rights::ReadWrite,
        (false, true) => Rights::Read,
        (false, false) => Rights::ReadExecute,
    };
    let cache = match (entry & pat_bit(level) != 0, entry & PCD != 0, entry & PWT != 0) {
        (true, true, true) => Cache::WriteThrough,
        (_, true, _) => Cache::Uncached,
        (_, false, true) => Cache::WriteCombining,
        (_, false, false) => Cache::WriteBack,
    };
    Entry::Leaf(Pfn(frame >> 12), Prot { rights, cache, user: entry & US != 0 })
}

macro_rules! format {
    ($name:ident, $levels:literal) => {
        impl Format for $name {
            const LEVELS: u32 = $levels;
            const BREAKS_BEFORE_MAKE: bool = false;

            fn leaf(pfn: Pfn, level: u32, prot: Prot, is_global: bool) -> Option<u64> {
                Some(leaf(pfn, level, prot, is_global))
            }

            fn table(pfn: Pfn) -> u64 {
                P | RW | US | A | pfn.0 << 12
            }

            fn decode(entry: u64, level: u32) -> Entry {
                decode(entry, level)
            }
        }
    };
}

format!(X86_64, 4);
format!(X86_64La57, 5);
