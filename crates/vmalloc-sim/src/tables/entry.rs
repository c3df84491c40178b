//! The bits of an entry, as the mapper writes them.
//!
//! Written down a second time in `mmu.rs`, on purpose: see there. A leaf is an entry that shows
//! frames: of level 1 (one frame), or of level 2 with bit 7 set (512 of them).

use vmalloc_core::{Cache, Pfn, Prot, Rights};

/// Entries in a table, and frames in a huge leaf.
pub(super) const ENTRIES: u64 = 512;
/// Frame numbers an entry can hold on this machine.
pub(super) const PFN_BITS: u32 = 34;

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
/// The page-attribute bits of a leaf of each level, from the least on: PWT, PCD, PAT.
const ATTRIBUTE_BITS: [[u64; 3]; 2] = [[1 << 3, 1 << 4, 1 << 7], [1 << 3, 1 << 4, 1 << 12]];
/// The index in the page-attribute table for each kind of caching, the table as Linux fills it.
const ATTRIBUTES: [(Cache, u64); 4] = [
    (Cache::WriteBack, 0),
    (Cache::WriteCombining, 1),
    (Cache::Uncached, 3),
    (Cache::WriteThrough, 7),
];

/// An entry that leads to a table, with all rights: the leaf decides.
pub(super) fn link(next: Pfn) -> u64 {
    next.0 << 12 | PRESENT | WRITE | USER | ACCESSED
}

/// A leaf of `level`, 1 or 2. Accessed and dirty from the start, so that no CPU has to write them.
pub(super) fn leaf(level: u32, pfn: Pfn, prot: Prot, is_global: bool) -> u64 {
    let rights = match prot.rights {
        Rights::Read => NO_EXECUTE,
        Rights::ReadWrite => NO_EXECUTE | WRITE | DIRTY,
        Rights::ReadExecute => 0,
    };
    let (_, attribute) = ATTRIBUTES.iter().find(|(cache, _)| *cache == prot.cache).expect("each");
    let bit = |(i, bit): (usize, &u64)| if attribute >> i & 1 == 1 { *bit } else { 0 };
    let cache: u64 = ATTRIBUTE_BITS[level as usize - 1].iter().enumerate().map(bit).sum();
    let user = if prot.user { USER } else { 0 };
    let global = if is_global { GLOBAL } else { 0 };
    let large = if level == 2 { LARGE } else { 0 };
    pfn.0 << 12 | PRESENT | ACCESSED | rights | cache | user | global | large
}

/// Whether an entry of `level` shows frames itself.
pub(super) fn is_leaf(level: u32, entry: u64) -> bool {
    entry & PRESENT != 0 && (level == 1 || level == 2 && entry & LARGE != 0)
}

/// Where a present entry of `level` leads: the next table, or the first frame that it shows.
pub(super) fn frame(level: u32, entry: u64) -> Option<Pfn> {
    let mask = if level == 2 && entry & LARGE != 0 { !(ENTRIES - 1) } else { u64::MAX };
    (entry & PRESENT != 0).then_some(Pfn(entry >> 12 & ((1 << PFN_BITS) - 1) & mask))
}

/// The protection that a leaf of `level` gives.
pub(super) fn prot(level: u32, entry: u64) -> Prot {
    let rights = match (entry & WRITE != 0, entry & NO_EXECUTE != 0) {
        (true, _) => Rights::ReadWrite,
        (false, true) => Rights::Read,
        (false, false) => Rights::ReadExecute,
    };
    let is_set = |(i, bit): (usize, &u64)| u64::from(entry & bit != 0) << i;
    let attribute: u64 = ATTRIBUTE_BITS[level as usize - 1].iter().enumerate().map(is_set).sum();
    let (cache, _) = ATTRIBUTES.iter().find(|(_, index)| *index == attribute).expect("ours");
    Prot { rights, cache: *cache, user: entry & USER != 0 }
}
