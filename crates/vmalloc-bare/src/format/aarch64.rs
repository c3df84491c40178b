//! aarch64: Arm ARM, "The AArch64 Virtual Memory System Architecture", 4 KiB granule, 48 bits.
//!
//! ```text
//!   54 UXN │ 53 PXN │ 47..12 frame │ 11 nG │ 10 AF │ 9..8 SH │ 7..6 AP │ 4..2 AttrIndx │ 1 table/page │ 0 valid
//! ```
//!
//! The upper half has a root of its own, TTBR1_EL1, which serves every address space: there is
//! nothing to copy. The kernel sets TCR_EL1 to 48 bits and 4 KiB for it, and MAIR_EL1 as
//! [`Aarch64::MAIR`] says.

use super::{Entry, Format};
use vmalloc_core::{Cache, Pfn, Prot, Rights};

const VALID: u64 = 1 << 0;
/// A table, or at level 0 a page; a block has it clear.
const TABLE: u64 = 1 << 1;
const USER: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const ACCESSED: u64 = 1 << 10;
const NOT_GLOBAL: u64 = 1 << 11;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
const FRAME: u64 = 0x0000_ffff_ffff_f000;

/// Four levels, 4 KiB granule.
#[derive(Clone, Copy, Debug)]
pub struct Aarch64;

impl Aarch64 {
    /// What the entries expect in `MAIR_EL1`: 0 write-back, 1 write-through, 2 normal uncached
    /// (gathering, as write-combining is), 3 device-nGnRE.
    pub const MAIR: u64 = 0x0444_bbff;
}

impl Format for Aarch64 {
    const LEVELS: u32 = 4;
    const BREAKS_BEFORE_MAKE: bool = true;

    fn leaf(pfn: Pfn, level: u32, prot: Prot, is_global: bool) -> Option<u64> {
        let rights = match (prot.rights, prot.user) {
            (Rights::Read, _) => READ_ONLY | PXN | UXN,
            (Rights::ReadWrite, _) => PXN | UXN,
            // What user code may execute, the kernel may not.
            (Rights::ReadExecute, true) => READ_ONLY | PXN,
            (Rights::ReadExecute, false) => READ_ONLY | UXN,
        };
        let attribute: u64 = match prot.cache {
            Cache::WriteBack => 0,
            Cache::WriteThrough => 1,
            Cache::WriteCombining => 2,
            Cache::Uncached => 3,
        };
        let page = if level == 0 { TABLE } else { 0 };
        let user = if prot.user { USER } else { 0 };
        let global = if is_global && !prot.user { 0 } else { NOT_GLOBAL };
        let fixed = VALID | ACCESSED | INNER_SHAREABLE;
        Some(fixed | attribute << 2 | pfn.0 << 12 | rights | page | user | global)
    }

    fn table(pfn: Pfn) -> u64 {
        VALID | TABLE | pfn.0 << 12
    }

    fn decode(entry: u64, level: u32) -> Entry {
        if entry & VALID == 0 {
            return Entry::Empty;
        }
        let pfn = Pfn((entry & FRAME) >> 12);
        if level > 0 && entry & TABLE != 0 {
            return Entry::Table(pfn);
        }
        let user = entry & USER != 0;
        let no_execute = if user { UXN } else { PXN };
        let rights = match (entry & READ_ONLY == 0, entry & no_execute == 0) {
            (true, _) => Rights::ReadWrite,
            (false, true) => Rights::ReadExecute,
            (false, false) => Rights::Read,
        };
        let cache = match entry >> 2 & 7 {
            0 => Cache::WriteBack,
            1 => Cache::WriteThrough,
            2 => Cache::WriteCombining,
            _ => Cache::Uncached,
        };
        Entry::Leaf(pfn, Prot { rights, cache, user })
    }
}
