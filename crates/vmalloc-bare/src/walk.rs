//! Ways down the tables: to the entry that decides about a page, with or without making tables.
//!
//! ```text
//!   root ─index(level)─▶ entry ─Table▶ … ─▶ Place { table, level, entry }
//! ```
//!
//! Several CPUs walk at once. A table that is missing is made by whoever links its own first (one
//! compare-and-swap); the other gives its frame back, which nobody has seen. Tables disappear only
//! when the pages of all their span are unmapped by the one who owns them, so a walk for pages
//! that are somebody's never meets a table that goes.

use crate::format::{Entry, Format, index};
use crate::mem::TableMem;
use core::marker::PhantomData;
use vmalloc_core::platform::{FRAME_WORDS, MapError};
use vmalloc_core::sync::{AtomicU64, Ordering};
use vmalloc_core::{Pfn, Vpn};

/// A table, as words.
pub(crate) type Table = [AtomicU64; FRAME_WORDS];

/// Where a walk ended.
pub(crate) struct Place<'t> {
    /// The entry.
    pub(crate) word: &'t AtomicU64,
    /// Its level.
    pub(crate) level: u32,
    /// What it said.
    pub(crate) entry: Entry,
}

/// A root, and how tables are reached and read.
#[derive(Debug)]
pub(crate) struct Walker<F, M> {
    pub(crate) root: Pfn,
    pub(crate) mem: M,
    pub(crate) format: PhantomData<F>,
}

impl<F: Format, M: TableMem> Walker<F, M> {
    /// The root's level.
    pub(crate) const TOP: u32 = F::LEVELS - 1;

    /// Down to the entry that decides about `at`: a leaf, or empty, at whatever level.
    pub(crate) fn find(&self, at: Vpn) -> Place<'_> {
        let (mut table, mut level) = (self.mem.table(self.root), Self::TOP);
        loop {
            let word = &table[index(level, at)];
            // Acquire: pairs with the Release of whoever linked the table.
            let entry = F::decode(word.load(Ordering::Acquire), level);
            match entry {
                Entry::Table(pfn) if level > 0 => {
                    table = self.mem.table(pfn);
                    level -= 1;
                }
                _ => return Place { word, level, entry },
            }
        }
    }

    /// The leaf table for `at`, if it is there; else what stands in its place.
    #[inline]
    pub(crate) fn leaf_table(&self, at: Vpn) -> Result<&Table, Place<'_>> {
        let (mut table, mut level) = (self.mem.table(self.root), Self::TOP);
        while level > 0 {
            let word = &table[index(level, at)];
            let entry = F::decode(word.load(Ordering::Acquire), level);
            let Entry::Table(pfn) = entry else { return Err(Place { word, level, entry }) };
            table = self.mem.table(pfn);
            level -= 1;
        }
        Ok(table)
    }

    /// The table of `level` for `at`, made with those above it where they are missing.
    ///
    /// # Errors
    ///
    /// `NoTable`: those that were made on the way stay, empty, for the next one. `Occupied`: a leaf
    /// of a higher level shows `at`.
    pub(crate) fn table_for(&self, at: Vpn, level: u32) -> Result<&Table, MapError> {
        let (mut table, mut here) = (self.mem.table(self.root), Self::TOP);
        while here > level {
            let word = &table[index(here, at)];
            let pfn = match F::decode(word.load(Ordering::Acquire), here) {
                Entry::Table(pfn) => pfn,
                Entry::Empty => self.link(word, at)?,
                Entry::Leaf(first, _) => {
                    let by = Pfn(first.0 + (at.0 & (crate::format::span(here) - 1)));
                    return Err(MapError::Occupied { at, by });
                }
            };
            table = self.mem.table(pfn);
            here -= 1;
        }
        Ok(table)
    }

    /// Makes the empty entry `word` lead to a new table, unless somebody has just done that.
    fn link(&self, word: &AtomicU64, at: Vpn) -> Result<Pfn, MapError> {
        let pfn = self.new_table(|_| 0).ok_or(MapError::NoTable { at })?;
        // Release: whoever follows the entry finds the table's zeros. Acquire: or the other's.
        match word.compare_exchange(0, F::table(pfn), Ordering::Release, Ordering::Acquire) {
            Ok(_) => Ok(pfn),
            Err(now) => {
                self.mem.give(pfn);
                match F::decode(now, 1) {
                    Entry::Table(theirs) => Ok(theirs),
                    Entry::Leaf(by, _) => Err(MapError::Occupied { at, by }),
                    Entry::Empty => Err(MapError::NoTable { at }),
                }
            }
        }
    }

    /// A table with these entries, that nothing leads to.
    #[track_caller]
    pub(crate) fn new_table(&self, entry: impl Fn(usize) -> u64) -> Option<Pfn> {
        let pfn = self.mem.take()?;
        for (index, word) in self.mem.table(pfn).iter().enumerate() {
            word.store(entry(index), Ordering::Relaxed);
        }
        Some(pfn)
    }
}
