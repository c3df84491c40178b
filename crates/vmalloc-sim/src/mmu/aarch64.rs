//! What an aarch64 CPU does on a TLB miss, written from the manual.
//!
//! Arm ARM, "The VMSAv8-64 address translation system": 4 KiB granule, 48 bits of address, no
//! hierarchical permissions. **Shares no code and no constant with any mapper**, on purpose.
//!
//! ```text
//!   va  63..48 all equal │ 47..39 L0 │ 38..30 L1 │ 29..21 L2 │ 20..12 L3 │ 11..0
//!   descriptor bits 1:0 = x0 invalid, 01 block (L1, L2), 11 table (L0..L2) or page (L3)
//! ```
//!
//! The machine it models: MAIR_EL1 = [`MAIR_EL1`], accesses by EL1 and EL0, SCTLR_EL1.WXN = 0, no
//! PAN, no hardware update of the access flag.

use super::{Fault, Translation};
use crate::ram::SimRam;
use std::sync::atomic::Ordering;
use vmalloc_core::{Cache, Pfn, VirtAddr};

/// What the machine's MAIR_EL1 holds.
pub const MAIR_EL1: u64 = 0x0444_bbff;

/// Walks the tables under `ttbr` for `va`. `executable` is for EL0 where EL0 has access, else for
/// EL1.
///
/// # Errors
///
/// A [`Fault`]; `Reserved` for a block where there can be none, an address beyond 48 bits, or an
/// access flag that is clear.
pub fn walk(ram: &SimRam, ttbr: Pfn, va: VirtAddr) -> Result<Translation, Fault> {
    if !matches!(va.0 >> 48, 0 | 0xffff) {
        return Err(Fault::NonCanonical { va });
    }
    let mut table = ttbr;
    for level in 0..=3_u32 {
        let low_bits = 39 - 9 * level;
        let words = ram.frame(table).ok_or(Fault::NoRam { va, pfn: table })?;
        let descriptor = words[(va.0 >> low_bits & 511) as usize].load(Ordering::Acquire);
        let output = descriptor & 0x0000_ffff_ffff_f000;
        match (descriptor & 0b11, level) {
            (0b00 | 0b10, _) => return Err(Fault::NotPresent { va }),
            (0b01, 0 | 3) => return Err(Fault::Reserved { va, level, entry: descriptor }),
            (0b11, 0..=2) => table = Pfn(output >> 12),
            _ => {
                let is_accessed = descriptor >> 10 & 1 == 1;
                let below = (1_u64 << low_bits) - 1;
                // Below a block the address bits are reserved, as zeros.
                if !is_accessed || output & below != 0 {
                    return Err(Fault::Reserved { va, level, entry: descriptor });
                }
                return Ok(translation(descriptor, (output | va.0 & below) >> 12));
            }
        }
    }
    unreachable!("level 3 ends every walk")
}

/// From the manual's figure "Attribute fields in stage 1 Block and Page descriptors".
fn translation(descriptor: u64, pfn: u64) -> Translation {
    let bit = |at: u32| descriptor >> at & 1 == 1;
    let (ap1, ap2, not_global, pxn, uxn) = (bit(6), bit(7), bit(11), bit(53), bit(54));
    let attribute = MAIR_EL1 >> (8 * (descriptor >> 2 & 7)) & 0xff;
    let cache = match attribute {
        0xff => Cache::WriteBack,
        0xbb => Cache::WriteThrough,
        0x44 => Cache::WriteCombining,
        _ => Cache::Uncached,
    };
    Translation {
        pfn: Pfn(pfn),
        writable: !ap2,
        executable: if ap1 { !uxn } else { !pxn },
        user: ap1,
        cache,
        global: !not_global,
    }
}
