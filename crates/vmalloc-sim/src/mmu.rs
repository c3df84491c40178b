//! The memory management unit: what an x86_64 CPU does on a TLB miss, written from the manual.
//!
//! Intel SDM volume 3, chapter "Paging", 4-level paging. **Shares no code and no constant with
//! the mapper** (`tables.rs`), on purpose: the two meet only in simulated RAM, so a wrong bit in
//! either makes a test fail.
//!
//! ```text
//!   va  63..48 = bit 47 │ 47..39 │ 38..30 │ 29..21 │ 20..12 │ 11..0
//!                          PML4     PDPT      PD       PT     offset
//!   CR3 ─▶ entry (level 4) ─▶ (3, or 1 GiB) ─▶ (2, or 2 MiB) ─▶ (1, 4 KiB) ─▶ frame
//! ```
//!
//! The machine it models: supervisor and user mode, CR0.WP = 1 (supervisor stores obey R/W),
//! EFER.NXE = 1, CR4.PGE = 1, CR4.SMAP = CR4.SMEP = 0, no protection keys, the PAT as Linux
//! programs it, MAXPHYADDR = [`PHYS_BITS`]. It sets no accessed
//! or dirty bits, so tables should have them set from the start, as Linux's `PAGE_KERNEL` does.

pub mod aarch64;
pub mod riscv64;

use crate::ram::SimRam;
use std::fmt;
use std::sync::atomic::Ordering;
use vmalloc_core::{Cache, Pfn, VirtAddr};

/// MAXPHYADDR: physical addresses have this many bits; higher ones are reserved in entries.
pub const PHYS_BITS: u32 = 46;

// Bits of an entry, from the manual's figure "Formats of CR3 and paging-structure entries".
const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const PWT: u64 = 1 << 3;
const PCD: u64 = 1 << 4;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const PAT_4K: u64 = 1 << 7; // bit 7 of an entry of level 1
const PAT_LARGE: u64 = 1 << 12; // bit 12 of an entry that maps a large page
const XD: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000; // bits 51:12

/// IA32_PAT, entries 0 to 7. The manual's UC- is uncached here, too: there are no MTRRs.
const IA32_PAT: [Cache; 8] = [
    Cache::WriteBack,
    Cache::WriteCombining,
    Cache::Uncached,
    Cache::Uncached,
    Cache::WriteBack,
    Cache::WriteBack, // WP, which nobody asks for
    Cache::Uncached,
    Cache::WriteThrough,
];

/// What an access wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// Read data.
    Load,
    /// Write data.
    Store,
    /// Fetch an instruction.
    Fetch,
}

/// What a walk found for a 4 KiB page, and what a TLB keeps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Translation {
    /// The frame.
    pub pfn: Pfn,
    /// R/W is set at every level.
    pub writable: bool,
    /// XD is clear at every level.
    pub executable: bool,
    /// U/S is set at every level.
    pub user: bool,
    /// What the page-attribute table says for the entry that maps the page.
    pub cache: Cache,
    /// G is set in the entry that maps the page: the TLB keeps it when the address space changes.
    pub global: bool,
}

/// Why an access did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// An entry on the way has P = 0.
    NotPresent {
        /// The address of the access.
        va: VirtAddr,
    },
    /// A store, and some level has R/W = 0.
    ReadOnly {
        /// The address of the access.
        va: VirtAddr,
    },
    /// An access in user mode, and some level has U/S = 0.
    Supervisor {
        /// The address of the access.
        va: VirtAddr,
    },
    /// A fetch, and some level has XD = 1.
    NoExecute {
        /// The address of the access.
        va: VirtAddr,
    },
    /// An entry has a reserved bit set: the tables are spoilt.
    Reserved {
        /// The address of the access.
        va: VirtAddr,
        /// The level of the table that holds the entry: 4 is the root.
        level: u32,
        /// The entry.
        entry: u64,
    },
    /// Bits 63..47 of the address differ. A general protection fault on the real thing.
    NonCanonical {
        /// The address of the access.
        va: VirtAddr,
    },
    /// A device's registers at `pfn`, through a mapping that caches: a real machine would not
    /// fault here, and go wrong later.
    CachedDevice {
        /// The address of the access.
        va: VirtAddr,
        /// What is shown there.
        pfn: Pfn,
    },
    /// There is no RAM at `pfn`, which a table or CR3 named.
    NoRam {
        /// The address of the access.
        va: VirtAddr,
        /// What was named.
        pfn: Pfn,
    },
}

impl Translation {
    /// Whether `access` is allowed here.
    ///
    /// # Errors
    ///
    /// [`Fault::ReadOnly`], [`Fault::NoExecute`].
    pub fn check(&self, va: VirtAddr, access: Access) -> Result<(), Fault> {
        match access {
            Access::Store if !self.writable => Err(Fault::ReadOnly { va }),
            Access::Fetch if !self.executable => Err(Fault::NoExecute { va }),
            _ => Ok(()),
        }
    }
}

/// Whether bits 63..47 of `va` are all equal.
#[must_use]
pub fn is_canonical(va: VirtAddr) -> bool {
    matches!(va.0 >> 47, 0 | 0x1_ffff)
}

/// Walks the tables under `cr3` for `va`, as a CPU does on a TLB miss. Reads up to four entries;
/// checks no rights ([`Translation::check`] does).
///
/// # Errors
///
/// Every [`Fault`] but those of [`Translation::check`].
pub fn walk(ram: &SimRam, cr3: Pfn, va: VirtAddr) -> Result<Translation, Fault> {
    if !is_canonical(va) {
        return Err(Fault::NonCanonical { va });
    }
    walk_from(ram, cr3, 4, va)
}

/// The same with CR4.LA57 = 1: five levels, and addresses of 57 bits.
///
/// # Errors
///
/// As [`walk`].
pub fn walk_la57(ram: &SimRam, cr3: Pfn, va: VirtAddr) -> Result<Translation, Fault> {
    if !matches!(va.0 >> 56, 0 | 0xff) {
        return Err(Fault::NonCanonical { va });
    }
    walk_from(ram, cr3, 5, va)
}

fn walk_from(ram: &SimRam, cr3: Pfn, levels: u32, va: VirtAddr) -> Result<Translation, Fault> {
    let (mut table, mut level) = (cr3, levels);
    let (mut writable, mut executable, mut user) = (true, true, true);
    loop {
        // How many bits of the address lie below this level's index.
        let below = 12 + 9 * (level - 1);
        let index = (va.0 >> below) as usize & 0x1ff;
        let words = ram.frame(table).ok_or(Fault::NoRam { va, pfn: table })?;
        // Acquire: pairs with the store that made the entry valid; what was written to the frame
        // before that is seen through it.
        let entry = words[index].load(Ordering::Acquire);
        if entry & P == 0 {
            return Err(Fault::NotPresent { va });
        }
        if entry & reserved(level, entry) != 0 {
            return Err(Fault::Reserved { va, level, entry });
        }
        writable &= entry & RW != 0;
        executable &= entry & XD == 0;
        user &= entry & US != 0;
        let maps_page = level == 1 || entry & PS != 0;
        if maps_page {
            let page_mask = (1 << below) - 1;
            let pa = (entry & ADDRESS & !page_mask) | (va.0 & page_mask);
            let (global, cache) = (entry & G != 0, cache(level, entry));
            let pfn = Pfn(pa >> 12);
            return Ok(Translation { pfn, writable, executable, user, cache, global });
        }
        table = Pfn((entry & ADDRESS) >> 12);
        level -= 1;
    }
}

/// The manual's "memory type used to access the page": PAT, PCD and PWT make an index.
fn cache(level: u32, entry: u64) -> Cache {
    let pat = if level == 1 { PAT_4K } else { PAT_LARGE };
    let bit = |mask: u64| usize::from(entry & mask != 0);
    IA32_PAT[bit(pat) << 2 | bit(PCD) << 1 | bit(PWT)]
}

/// The bits that must be 0 in a present `entry` of `level`.
fn reserved(level: u32, entry: u64) -> u64 {
    let too_high = ADDRESS & !((1 << PHYS_BITS) - 1);
    let is_large = entry & PS != 0;
    too_high
        | match level {
            4 | 5 => PS,
            3 if is_large => 0x3fff_e000, // bits 29:13 below a 1 GiB page
            2 if is_large => 0x001f_e000, // bits 20:13 below a 2 MiB page
            _ => 0,
        }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NotPresent { va } => write!(f, "nothing is mapped at {va}"),
            Fault::ReadOnly { va } => write!(f, "store to {va}, which is read-only"),
            Fault::Supervisor { va } => write!(f, "user access to {va}, which is the kernel's"),
            Fault::NoExecute { va } => write!(f, "fetch from {va}, which is not executable"),
            Fault::Reserved { va, level, entry } => {
                write!(f, "entry {entry:#x} of level {level} for {va} has a reserved bit set")
            }
            Fault::NonCanonical { va } => write!(f, "{va} is not canonical"),
            Fault::CachedDevice { va, pfn } => {
                write!(f, "{va} shows {pfn}, a device's, and would cache it")
            }
            Fault::NoRam { va, pfn } => write!(f, "the tables lead {va} to {pfn}, which is no RAM"),
        }
    }
}

impl std::error::Error for Fault {}
