//! Page tables: the engine's [`Mapper`] for a format, and for memory that tables lie in.
//!
//! All work is done by run: one walk to a leaf table, then a loop over its entries. A run that
//! fits gets leaves of 2 MiB and 1 GiB, where pages and frames are aligned alike.
//!
//! | verb | walks | may fail | flush owed |
//! |---|---|---|---|
//! | `map_run` | one a leaf table; two if the run crosses a border | yes, all or nothing | none: was invalid |
//! | `unmap_run`, `protect_run` | one a leaf table | no | yes, the caller's |
//! | `split` | one | yes | none; on aarch64 it flushes, see there |
//!
//! A leaf table whose whole span is unmapped in one call is taken out of the tree, so that the next
//! run there can have a 2 MiB leaf; it goes home after the next flush (`retired.rs`).
//!
//! Invariants: pages of one run belong to one caller at a time (the engine's contract), so entries
//! need no lock. What lies under the root's entries of a prepared window is never taken out of the
//! root, which other roots copy. Linux: `vmap_pages_range_noflush`, `vunmap_range_noflush`.

use crate::format::{Entry, Format, LEAF_LEVEL_MAX, index, shift, span};
use crate::mem::TableMem;
use crate::retired::{Retired, Unreachable};
use crate::walk::{Table, Walker};
use core::marker::PhantomData;
use vmalloc_core::planted::{Bug, is_planted};
use vmalloc_core::platform::{MapError, Mapper};
use vmalloc_core::sync::{AtomicU64, Ordering, fence};
use vmalloc_core::{Extent, PageRange, Pages, Pfn, Prot, Vpn};

/// The page tables under one root.
#[derive(Debug)]
pub struct PageTables<F, M> {
    walker: Walker<F, M>,
    retired: Retired,
}

impl<F: Format, M: TableMem> PageTables<F, M> {
    /// New tables, empty.
    ///
    /// # Errors
    ///
    /// [`MapError::NoTable`]: no frame for the root.
    pub fn new(mem: M) -> Result<Self, MapError> {
        let tables = PageTables::over(Pfn(0), mem);
        let root = tables.walker.new_table(|_| 0).ok_or(MapError::NoTable { at: Vpn(0) })?;
        Ok(PageTables { walker: Walker { root, ..tables.walker }, ..tables })
    }

    /// The tables under `root`, as they are: a kernel's, which has mapped itself before.
    pub const fn over(root: Pfn, mem: M) -> Self {
        let walker = Walker { root, mem, format: PhantomData };
        PageTables { walker, retired: Retired::new() }
    }

    /// The root's frame: for CR3, TTBR1_EL1, satp.
    pub const fn root(&self) -> Pfn {
        self.walker.root
    }

    /// Where the tables lie.
    pub const fn mem(&self) -> &M {
        &self.walker.mem
    }

    /// Tables of a new address space, whose upper half is that of these, now and for good: what is
    /// mapped later in a window that was prepared before is seen there, too. For formats with one
    /// root for both halves. Linux: `pgd_ctor`.
    ///
    /// # Errors
    ///
    /// [`MapError::NoTable`].
    pub fn new_space(&self) -> Result<PageTables<F, M>, MapError>
    where
        M: Clone,
    {
        let space = PageTables::new(self.walker.mem.clone())?;
        let (ours, theirs) =
            (self.walker.mem.table(self.root()), self.walker.mem.table(space.root()));
        for upper in 256..512 {
            theirs[upper].store(ours[upper].load(Ordering::Acquire), Ordering::Release);
        }
        Ok(space)
    }

    /// Sends every table home but those that the upper half's entries lead to, the root's own
    /// included: for an address space that no CPU uses any more, and that has been flushed.
    pub fn drop_space(self) {
        self.retired.take_all().give_back(&self.walker.mem);
        let root = self.walker.mem.table(self.root());
        root[..256].iter().for_each(|word| self.drop_below(word, Walker::<F, M>::TOP));
        self.walker.mem.give(self.root());
    }

    fn drop_below(&self, word: &AtomicU64, level: u32) {
        if let Entry::Table(pfn) = F::decode(word.load(Ordering::Acquire), level)
            && level > 0
        {
            self.walker.mem.table(pfn).iter().for_each(|word| self.drop_below(word, level - 1));
            self.walker.mem.give(pfn);
        }
    }

    /// What was taken out of the tree so far. Flush everything on all CPUs, then give it back.
    pub(crate) fn take_retired(&self) -> Unreachable {
        self.retired.take_all()
    }

    /// Puts smaller leaves in the place of one that lies across the border before `at`. Where the
    /// architecture wants the entry invalid in between, `flush` is called then, and an access to
    /// the leaf's pages meanwhile faults: their owner sees to it that there is none.
    ///
    /// # Errors
    ///
    /// [`MapError::NoTable`]; a leaf lies across the border still, and shows what it did.
    pub fn split_with(&self, at: Vpn, flush: &dyn Fn(PageRange)) -> Result<(), MapError> {
        loop {
            let place = self.walker.find(at);
            let (level, len) = (place.level, span(place.level));
            let Entry::Leaf(first, prot) = place.entry else { return Ok(()) };
            if at.0.is_multiple_of(len) {
                return Ok(());
            }
            let global = self.is_global(at);
            let part = |i: usize| {
                let pfn = Pfn(first.0 + ((i as u64) << shift(level - 1)));
                F::leaf(pfn, level - 1, prot, global).unwrap_or(0)
            };
            let table = self.walker.new_table(part).ok_or(MapError::NoTable { at })?;
            if F::BREAKS_BEFORE_MAKE {
                place.word.store(0, Ordering::Release);
                flush(PageRange { start: Vpn(at.0 & !(len - 1)), len: Pages(len) });
            }
            // Release: whoever follows the entry finds the table's entries.
            place.word.store(F::table(table), Ordering::Release);
        }
    }

    fn is_global(&self, at: Vpn) -> bool {
        F::is_upper(at)
    }

    /// The level of the largest leaf that can show the first pages of `run` at `at`.
    fn level_for(&self, at: Vpn, run: Extent) -> u32 {
        let fits = |level: &u32| {
            run.len.0 >= span(*level) && (at.0 | run.start.0).is_multiple_of(span(*level))
        };
        let highest = LEAF_LEVEL_MAX.min(F::LEVELS - 1);
        (1..=highest).rev().find(fits).unwrap_or(0)
    }

    /// Cuts a run into parts that lie in one table each, and gives each part's table to `visit`.
    fn each_part(
        &self,
        at: Vpn,
        run: Extent,
        visit: &mut dyn FnMut(&Table, Part) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        let (mut at, mut run) = (at, run);
        while run.len.0 > 0 {
            let mut level = self.level_for(at, run);
            let table = loop {
                let table = self.walker.table_for(at, level)?;
                let word = table[index(level, at)].load(Ordering::Acquire);
                match F::decode(word, level) {
                    // A table of small leaves was here before: its entries will do.
                    Entry::Table(_) if level > 0 => level -= 1,
                    _ => break table,
                }
            };
            let first = index(level, at);
            // A part of large leaves ends where one entry already leads to a table.
            let count = if level == 0 { run.len.0.min((512 - first) as u64) } else { 1 };
            visit(table, Part { at, level, first, count, pfn: run.start })?;
            let pages = count << shift(level);
            at = Vpn(at.0 + pages);
            run = Extent { start: Pfn(run.start.0 + pages), len: Pages(run.len.0 - pages) };
        }
        Ok(())
    }

    /// Whether the part's entries are empty.
    fn check(&self, table: &Table, part: Part) -> Result<(), MapError> {
        let words = &table[part.first..][..part.count as usize];
        // Relaxed: these pages are the caller's; nobody else writes their entries.
        match words.iter().position(|word| word.load(Ordering::Relaxed) != 0) {
            None => Ok(()),
            Some(i) => {
                let at = Vpn(part.at.0 + ((i as u64) << shift(part.level)));
                match F::decode(words[i].load(Ordering::Relaxed), part.level) {
                    Entry::Leaf(by, _) | Entry::Table(by) => Err(MapError::Occupied { at, by }),
                    Entry::Empty => Ok(()),
                }
            }
        }
    }

    /// Writes the part's entries.
    fn write(&self, table: &Table, part: Part, prot: Prot) -> Result<(), MapError> {
        let global = self.is_global(part.at);
        let leaf = |i: u64| F::leaf(Pfn(part.pfn.0 + i), part.level, prot, global);
        let first = leaf(0).ok_or(MapError::Unsupported)?;
        // Entries of neighbours differ by what one frame more makes.
        let step = leaf(span(part.level)).unwrap_or(first).wrapping_sub(first);
        let mut entry = first;
        for word in &table[part.first..][..part.count as usize] {
            word.store(entry, Ordering::Relaxed);
            entry = entry.wrapping_add(step);
        }
        Ok(())
    }

    /// Empties what `range` has of `table`, whose first entry shows `base`, and takes tables out
    /// of which nothing is left.
    fn clear(&self, table: &Table, level: u32, range: PageRange) {
        let mut at = range.start;
        while at < range.end() {
            let word = &table[index(level, at)];
            let border = Vpn((at.0 | (span(level) - 1)) + 1);
            let end = border.min(range.end());
            let part = PageRange { start: at, len: Pages(end.0 - at.0) };
            let is_whole = part.len.0 == span(level);
            match F::decode(word.load(Ordering::Acquire), level) {
                Entry::Empty => {}
                Entry::Table(pfn) if level > 0 => {
                    self.clear(self.walker.mem.table(pfn), level - 1, part);
                    if is_whole && level < Walker::<F, M>::TOP {
                        word.store(0, Ordering::Relaxed);
                        self.retired.push(&self.walker.mem, pfn);
                    }
                }
                _ => {
                    assert!(is_whole, "a leaf of level {level} lies across an end of {range}");
                    word.store(0, Ordering::Relaxed);
                }
            }
            at = end;
        }
    }
}

/// A part of a run, in one table.
#[derive(Clone, Copy)]
struct Part {
    at: Vpn,
    level: u32,
    first: usize,
    count: u64,
    pfn: Pfn,
}

impl<F: Format, M: TableMem> Mapper for PageTables<F, M> {
    /// Makes the tables that the root's entries of the window lead to. Roots made later by
    /// [`PageTables::new_space`] copy them; of roots made before, the kernel's list is not kept
    /// here: prepare every window first.
    fn prepare(&self, window: PageRange) -> Result<(), MapError> {
        if window.len == Pages(0) {
            return Ok(());
        }
        let (top, last) = (Walker::<F, M>::TOP, Vpn(window.end().0 - 1));
        assert!(
            F::is_canonical(window.start)
                && F::is_canonical(last)
                && F::is_upper(window.start) == F::is_upper(last),
            "{window} does not lie in one half of the canonical addresses"
        );
        let mut at = window.start;
        while at <= last {
            self.walker.table_for(at, top - 1)?;
            at = Vpn((at.0 | (span(top) - 1)) + 1);
        }
        Ok(())
    }

    fn map_run(&self, at: Vpn, run: Extent, prot: Prot) -> Result<(), MapError> {
        if F::leaf(Pfn(0), 0, prot, false).is_none() {
            return Err(MapError::Unsupported);
        }
        let first = index(0, at);
        if first as u64 + run.len.0 <= 512
            && self.level_for(at, run) == 0
            && let Ok(table) = self.walker.leaf_table(at)
        {
            // What most runs are: a part of one leaf table that is there.
            let part = Part { at, level: 0, first, count: run.len.0, pfn: run.start };
            if part.count > 0 {
                self.check(table, part)?;
                // Release: whoever finds an entry finds what was written to its frame before.
                fence(Ordering::Release);
                self.write(table, part, prot)?;
            }
            return Ok(());
        }
        self.each_part(at, run, &mut |table, part| self.check(table, part))?;
        fence(Ordering::Release);
        self.each_part(at, run, &mut |table, part| self.write(table, part, prot))
    }

    fn unmap_run(&self, at: PageRange) {
        let first = index(0, at.start);
        if at.len.0 < 512 && first as u64 + at.len.0 <= 512 {
            match self.walker.leaf_table(at.start) {
                Ok(table) => {
                    for word in &table[first..][..at.len.0 as usize] {
                        word.store(0, Ordering::Relaxed);
                    }
                    return;
                }
                Err(place) if place.entry == Entry::Empty => return,
                Err(_) => {}
            }
        }
        self.clear(self.walker.mem.table(self.root()), Walker::<F, M>::TOP, at);
    }

    fn protect_run(&self, at: PageRange, prot: Prot) {
        let mut page = at.start;
        while page < at.end() {
            let (words, level) = match self.walker.leaf_table(page) {
                Ok(table) => {
                    let first = index(0, page);
                    let len = (at.end().0 - page.0).min((512 - first) as u64);
                    (&table[first..][..len as usize], 0)
                }
                Err(place) => (core::slice::from_ref(place.word), place.level),
            };
            for word in words {
                let global = self.is_global(page);
                // Planted, for the fuzzer to find: large leaves are passed by.
                let is_passed_by = level > 0 && is_planted(Bug::LargeLeafPassedBy);
                if let Entry::Leaf(pfn, _) = F::decode(word.load(Ordering::Relaxed), level)
                    && !is_passed_by
                {
                    let is_whole =
                        page.0.is_multiple_of(span(level)) && page.0 + span(level) <= at.end().0;
                    assert!(is_whole, "a leaf of level {level} lies across an end of {at}");
                    if let Some(leaf) = F::leaf(pfn, level, prot, global) {
                        word.store(leaf, Ordering::Release);
                    }
                }
                page = Vpn((page.0 | (span(level) - 1)) + 1);
            }
        }
    }

    /// # Panics
    ///
    /// If the architecture wants a flush in between: [`crate::Hardware`] makes it.
    fn split(&self, at: Vpn) -> Result<(), MapError> {
        assert!(!F::BREAKS_BEFORE_MAKE, "this format splits in `Hardware`, which can flush");
        self.split_with(at, &|_| {})
    }

    fn translate(&self, at: Vpn) -> Option<(Pfn, Prot)> {
        if !F::is_canonical(at) {
            return None;
        }
        let place = self.walker.find(at);
        let Entry::Leaf(first, prot) = place.entry else { return None };
        Some((Pfn(first.0 + (at.0 & (span(place.level) - 1))), prot))
    }
}
