//! What the entries of page tables look like: all that differs between the architectures.
//!
//! Common to all of them: tables of 512 entries of 64 bits, a frame of 4 KiB each; nine bits of the
//! address choose an entry at each level; an entry is empty, leads to a table of the next level,
//! or is a *leaf* that shows frames: one, or 512 at level 1 (2 MiB), or 512 × 512 at level 2 (1 GiB).
//! Level 0 is the level of the 4 KiB leaves, whatever the manuals call it.
//!
//! ```text
//!   level   x86_64   aarch64   riscv64      one entry spans
//!     0     PT       L3        level 0      4 KiB
//!     1     PD       L2        level 1      2 MiB
//!     2     PDPT     L1        level 2      1 GiB    (root of Sv39)
//!     3     PML4     L0        level 3      512 GiB  (root, but for Sv39 and La57)
//!     4     PML5                            256 TiB  (root of La57)
//! ```

mod aarch64;
mod riscv64;
mod x86_64;

pub use aarch64::Aarch64;
pub use riscv64::{Sv39, Sv48};
pub use x86_64::{X86_64, X86_64La57};

use vmalloc_core::{Pfn, Prot, Vpn};

/// What an entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing is mapped.
    Empty,
    /// Leads to a table.
    Table(Pfn),
    /// Shows the frames from `.0` on.
    Leaf(Pfn, Prot),
}

/// A format of page tables. Pure: it encodes and decodes words.
pub trait Format {
    /// Levels, leaf tables and root counted.
    const LEVELS: u32;

    /// Whether an entry must be made invalid, and flushed, before a leaf is replaced by a table.
    const BREAKS_BEFORE_MAKE: bool;

    /// The leaf of `level` that shows `pfn`, a multiple of 512^`level`. Accessed and dirty from the
    /// start, so that no CPU has to write to the table. `is_global`: TLBs may keep it when the
    /// address space changes. `None`: there is no such protection here.
    fn leaf(pfn: Pfn, level: u32, prot: Prot, is_global: bool) -> Option<u64>;

    /// The entry that leads to the table in `pfn`, with all rights: the leaf decides.
    fn table(pfn: Pfn) -> u64;

    /// What an entry of `level` says.
    fn decode(entry: u64, level: u32) -> Entry;

    /// Whether pages of the upper half of the addresses are this root's, and global there.
    #[must_use]
    fn is_upper(at: Vpn) -> bool {
        // The topmost bit that the tables translate.
        at.0 >> (9 * Self::LEVELS - 1) & 1 == 1
    }

    /// Whether a CPU accepts the address: all bits above those that choose entries are equal.
    #[must_use]
    fn is_canonical(at: Vpn) -> bool {
        let above = at.0 >> (9 * Self::LEVELS - 1);
        above == 0 || above == (1 << (53 - 9 * Self::LEVELS)) - 1
    }
}

/// log2 of the pages that an entry of `level` spans.
pub(crate) const fn shift(level: u32) -> u32 {
    9 * level
}

/// The pages that an entry of `level` spans.
pub(crate) const fn span(level: u32) -> u64 {
    1 << shift(level)
}

/// The index of `at` in its table of `level`.
pub(crate) const fn index(level: u32, at: Vpn) -> usize {
    (at.0 >> shift(level)) as usize & 511
}

/// The highest level that has leaves.
pub(crate) const LEAF_LEVEL_MAX: u32 = 2;
