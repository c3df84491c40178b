//! The page tables in simulated RAM, as an operating system keeps them: the mapper's side.
//!
//! ```text
//!   kernel root ─┐ upper half (entries 256..512) equal in every root: one set of tables below
//!   root of A ───┼─▶ PDPT ─▶ PD ─▶ PT ─▶ frames         filled by prepare, kept for good
//!   root of B ───┘ lower half (entries 0..256): each root's own, gone with its space
//! ```
//!
//! Tables come zeroed from a pool of frames of their own, on demand, and go back when their space
//! does. Tables of the upper half stay until the machine goes: another space, or a translation
//! parked on a lazy list, may still lead through them. So a map call that finds no frame for its
//! third table leaves the first two, empty and linked, for the next call.
//!
//! Invariants: the upper halves of all roots are equal. A table in use is reachable from a root,
//! by exactly one way (upper halves counted once). A map call checks every page of its run before
//! it writes the first entry, all under one lock: a CPU never sees half a failed run, so nothing
//! has to be undone and nothing flushed. A huge leaf stands where page, frame and length allow and
//! no leaf table ever stood.
//!
//! Neighbours: `space.rs` calls in; `mmu.rs` reads what is written here and shares nothing else.
//! Linux: `vmap_pages_range_noflush`, `vunmap_range_noflush`, `init_mm`, `sync_global_pgds`.

mod entry;

use crate::faults::{FaultPlan, Step};
use crate::ram::SimRam;
use crate::tlb::SpaceId;
use entry::{ENTRIES, PFN_BITS, is_leaf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmalloc_core::platform::MapError;
use vmalloc_core::{Extent, PageRange, Pages, Pfn, Prot, Vpn};

/// Root entries from here on are the upper half.
const UPPER_HALF: u64 = 256;

/// The tables of every space of one machine.
pub(crate) struct Tables {
    // Constant after construction.
    ram: Arc<SimRam>,
    faults: Arc<FaultPlan>,
    kernel_root: Pfn,
    // Written by whoever changes the shape of the tables, or maps.
    state: Mutex<State>,
    // Written under `state`, read without; may lag.
    in_use: AtomicU64,
    walks: AtomicU64,
}

struct State {
    free: Vec<Pfn>,
    /// Every live root, the kernel's first.
    roots: Vec<Pfn>,
    /// What was prepared, and by whom: `None` for windows in the upper half.
    windows: Vec<(Option<SpaceId>, PageRange)>,
}

/// A space as this file knows it.
#[derive(Clone, Copy)]
pub(crate) struct Root {
    pub(crate) id: SpaceId,
    pub(crate) pfn: Pfn,
}

/// The part of a run that lies below one entry of level 2: that entry, or entries of level 1.
struct Part {
    level: u32,
    table: Pfn,
    first: u64,
    count: u64,
}

/// What an entry of level 2 leads to.
enum Below {
    Table(Pfn),
    /// A huge leaf: the table and the index of it, and what was read there.
    Huge(Pfn, u64, u64),
}

impl Tables {
    /// The kernel's own root, empty. The first table frame is not subject to the fault plan.
    ///
    /// # Panics
    ///
    /// If RAM has no table frame.
    pub(crate) fn new(ram: Arc<SimRam>, faults: Arc<FaultPlan>) -> Tables {
        let area = ram.table_frames();
        // Taken from the end: low frames first.
        let free = (area.start.0..area.end().0).rev().map(Pfn).collect();
        let mut tables = Tables {
            ram,
            faults,
            kernel_root: Pfn(0),
            state: Mutex::new(State { free, roots: Vec::new(), windows: Vec::new() }),
            in_use: AtomicU64::new(0),
            walks: AtomicU64::new(0),
        };
        let root = tables.take_frame(&mut tables.lock()).expect("a frame for the kernel's root");
        tables.lock().roots.push(root);
        tables.kernel_root = root;
        tables
    }

    pub(crate) fn kernel_root(&self) -> Root {
        Root { id: SpaceId(0), pfn: self.kernel_root }
    }

    pub(crate) fn in_use(&self) -> Pages {
        Pages(self.in_use.load(Ordering::Acquire))
    }

    /// Walks from a root to a leaf table that map and unmap calls have made.
    pub(crate) fn walks(&self) -> u64 {
        self.walks.load(Ordering::Acquire)
    }

    /// A root whose upper half is the kernel's.
    pub(crate) fn new_root(&self) -> Result<Pfn, MapError> {
        let mut state = self.lock();
        let root = self.alloc(&mut state, Vpn(0))?;
        for index in UPPER_HALF..ENTRIES {
            self.set(root, index, self.entry(self.kernel_root, index));
        }
        state.roots.push(root);
        Ok(root)
    }

    /// Gives back a root and the tables of its lower half. No CPU uses it any more.
    pub(crate) fn drop_root(&self, root: Root) {
        let mut state = self.lock();
        state.roots.retain(|&pfn| pfn != root.pfn);
        state.windows.retain(|&(owner, _)| owner != Some(root.id));
        for pfn in self.below(root.pfn, 4, 0..UPPER_HALF) {
            self.free(&mut state, pfn);
        }
        self.free(&mut state, root.pfn);
    }

    /// See [`vmalloc_core::platform::Mapper::prepare`]. On an error no table is kept.
    pub(crate) fn prepare(&self, root: Root, window: PageRange) -> Result<(), MapError> {
        if window.len == Pages(0) {
            return Ok(());
        }
        let last = Vpn(window.end().0 - 1);
        let is_upper = is_upper(window.start);
        assert!(
            is_canonical(window.start) && is_canonical(last) && is_upper == self::is_upper(last),
            "{window} does not lie in one half of the canonical addresses"
        );
        let mut state = self.lock();
        let top = if is_upper { self.kernel_root } else { root.pfn };
        let mut new: Vec<(u64, Pfn)> = Vec::new();
        for index in index(4, window.start)..=index(4, last) {
            if self.next(4, top, index).is_some() {
                continue;
            }
            match self.alloc(&mut state, window.start) {
                Ok(table) => new.push((index, table)),
                Err(error) => {
                    for (_, table) in new {
                        self.free(&mut state, table);
                    }
                    return Err(error);
                }
            }
        }
        for (index, table) in new {
            if is_upper {
                for &root in &state.roots {
                    self.link(root, index, table);
                }
            } else {
                self.link(root.pfn, index, table);
            }
        }
        state.windows.push((if is_upper { None } else { Some(root.id) }, window));
        Ok(())
    }

    /// See [`vmalloc_core::platform::Mapper::map_run`].
    pub(crate) fn map_run(
        &self,
        root: Root,
        at: Vpn,
        run: Extent,
        prot: Prot,
    ) -> Result<(), MapError> {
        let tables = self.ram.table_frames();
        assert!(run.end().0 <= 1 << PFN_BITS, "{run} leaves physical memory");
        assert!(
            run.end() <= tables.start || run.start >= tables.end(),
            "{run} holds page tables: {tables}"
        );
        let mut state = self.lock();
        let pages = PageRange { start: at, len: run.len };
        state.check_window(root.id, pages);

        // All checks and allocations first ...
        let mut parts = Vec::new();
        for part in by_leaf_table(pages) {
            let pfn = Pfn(run.start.0 + (part.start.0 - at.0));
            parts.push(self.part_or_new(&mut state, root.pfn, part, pfn)?);
        }
        // ... and then nothing can fail.
        let mut pfn = run.start;
        for Part { level, table, first, count } in parts {
            for index in first..first + count {
                self.set(table, index, entry::leaf(level, pfn, prot, is_upper(at)));
                pfn.0 += if level == 2 { ENTRIES } else { 1 };
            }
        }
        Ok(())
    }

    /// See [`vmalloc_core::platform::Mapper::unmap_run`].
    pub(crate) fn unmap_run(&self, root: Root, at: PageRange) {
        self.each_leaf(root, at, |_, _| 0);
    }

    /// See [`vmalloc_core::platform::Mapper::protect_run`].
    pub(crate) fn protect_run(&self, root: Root, at: PageRange, prot: Prot) {
        let is_global = is_upper(at.start);
        self.each_leaf(root, at, |level, pfn| entry::leaf(level, pfn, prot, is_global));
    }

    /// See [`vmalloc_core::platform::Mapper::split`].
    pub(crate) fn split(&self, root: Root, at: Vpn) -> Result<(), MapError> {
        let mut state = self.lock();
        let Some(Below::Huge(table, index, leaf)) = self.below_level_2(root.pfn, at) else {
            return Ok(());
        };
        if at.0.is_multiple_of(ENTRIES) {
            return Ok(());
        }
        let (first, prot) = (entry::frame(2, leaf).expect("present"), entry::prot(2, leaf));
        let smaller = self.alloc(&mut state, at)?;
        for i in 0..ENTRIES {
            self.set(smaller, i, entry::leaf(1, Pfn(first.0 + i), prot, is_upper(at)));
        }
        self.link(table, index, smaller);
        Ok(())
    }

    /// See [`vmalloc_core::platform::Mapper::translate`].
    pub(crate) fn translate(&self, root: Root, at: Vpn) -> Option<(Pfn, Prot)> {
        if !is_canonical(at) {
            return None;
        }
        let (pfn, prot) = match self.below_level_2(root.pfn, at)? {
            Below::Table(table) => {
                let leaf = self.entry(table, index(1, at));
                (entry::frame(1, leaf)?, entry::prot(1, leaf))
            }
            Below::Huge(_, _, leaf) => {
                let first = entry::frame(2, leaf)?;
                (Pfn(first.0 + at.0 % ENTRIES), entry::prot(2, leaf))
            }
        };
        Some((pfn, prot))
    }

    /// The first page of `at` that is mapped, and its frame. O(leaf tables + their entries).
    pub(crate) fn first_mapped(&self, root: Root, at: PageRange) -> Option<(Vpn, Pfn)> {
        by_leaf_table(at).find_map(|part| {
            self.below_level_2(root.pfn, part.start)?;
            let mut pages = (part.start.0..part.end().0).map(Vpn);
            pages.find_map(|page| Some((page, self.translate(root, page)?.0)))
        })
    }

    /// How many tables the roots lead to, roots included. Equal to [`Tables::in_use`] unless a
    /// table was leaked.
    pub(crate) fn reachable(&self) -> Pages {
        let state = self.lock();
        let upper = self.below(self.kernel_root, 4, UPPER_HALF..ENTRIES).len();
        let lower: usize =
            state.roots.iter().map(|&root| 1 + self.below(root, 4, 0..UPPER_HALF).len()).sum();
        Pages((upper + lower) as u64)
    }

    /// Puts what `new` says of its level and first frame in the place of each leaf of `at`.
    fn each_leaf(&self, root: Root, at: PageRange, new: impl Fn(u32, Pfn) -> u64) {
        let state = self.lock();
        state.check_window(root.id, at);
        for part in by_leaf_table(at) {
            self.walks.fetch_add(1, Ordering::AcqRel);
            let (level, table, first, count) = match self.below_level_2(root.pfn, part.start) {
                None => continue,
                Some(Below::Table(table)) => (1, table, index(1, part.start), part.len.0),
                Some(Below::Huge(table, index, _)) => {
                    assert!(part.len.0 == ENTRIES, "a huge leaf lies across an end of {part}");
                    (2, table, index, 1)
                }
            };
            for index in first..first + count {
                if let Some(pfn) = entry::frame(level, self.entry(table, index)) {
                    self.set(table, index, new(level, pfn));
                }
            }
        }
    }

    /// What the entry of level 2 for `at` leads to, if it is present.
    fn below_level_2(&self, root: Pfn, at: Vpn) -> Option<Below> {
        let next = |table, level| self.next(level, table, index(level, at));
        let table = [4, 3].into_iter().try_fold(root, next)?;
        let index = index(2, at);
        let entry = self.entry(table, index);
        let below = entry::frame(2, entry)?;
        let is_huge = is_leaf(2, entry);
        Some(if is_huge { Below::Huge(table, index, entry) } else { Below::Table(below) })
    }

    /// Where `part` of a run, to show `pfn` and on, goes; every page of it is free. The tables on
    /// the way are made where they are missing.
    fn part_or_new(
        &self,
        state: &mut State,
        root: Pfn,
        part: PageRange,
        pfn: Pfn,
    ) -> Result<Part, MapError> {
        self.walks.fetch_add(1, Ordering::AcqRel);
        let at = part.start;
        let table = self.next_or_new(state, 4, root, at)?;
        let table = self.next_or_new(state, 3, table, at)?;
        let leaf = self.entry(table, index(2, at));
        if is_leaf(2, leaf) {
            let by = Pfn(entry::frame(2, leaf).expect("present").0 + at.0 % ENTRIES);
            return Err(MapError::Occupied { at, by });
        }
        // Where small pages once were their table stays: a CPU may yet walk it.
        let fits = part.len.0 == ENTRIES && pfn.0.is_multiple_of(ENTRIES);
        if fits && leaf == 0 {
            return Ok(Part { level: 2, table, first: index(2, at), count: 1 });
        }
        let table = self.next_or_new(state, 2, table, at)?;
        let first = index(1, at);
        for offset in 0..part.len.0 {
            if let Some(by) = self.next(1, table, first + offset) {
                return Err(MapError::Occupied { at: Vpn(at.0 + offset), by });
            }
        }
        Ok(Part { level: 1, table, first, count: part.len.0 })
    }

    /// The table that the entry of `level` for `at` leads to.
    fn next_or_new(
        &self,
        state: &mut State,
        level: u32,
        table: Pfn,
        at: Vpn,
    ) -> Result<Pfn, MapError> {
        let index = index(level, at);
        if let Some(next) = self.next(level, table, index) {
            return Ok(next);
        }
        // `prepare` filled the roots, so a missing entry is below them, where every space sees it.
        assert!(level < 4, "the window around {at} was not prepared");
        let next = self.alloc(state, at)?;
        self.link(table, index, next);
        Ok(next)
    }

    /// Every table below the entries `entries` of `table`, which is of `level`.
    fn below(&self, table: Pfn, level: u32, entries: std::ops::Range<u64>) -> Vec<Pfn> {
        let mut found = Vec::new();
        if level > 1 {
            let is_table = |&index: &u64| !is_leaf(level, self.entry(table, index));
            let next = |index| self.next(level, table, index);
            for next in entries.filter(is_table).filter_map(next) {
                found.push(next);
                found.extend(self.below(next, level - 1, 0..ENTRIES));
            }
        }
        found
    }

    #[track_caller]
    fn alloc(&self, state: &mut State, at: Vpn) -> Result<Pfn, MapError> {
        if self.faults.fails(Step::AllocTable) {
            return Err(MapError::NoTable { at });
        }
        self.take_frame(state).ok_or(MapError::NoTable { at })
    }

    fn take_frame(&self, state: &mut State) -> Option<Pfn> {
        let pfn = state.free.pop()?;
        for index in 0..ENTRIES {
            self.set(pfn, index, 0);
        }
        self.in_use.fetch_add(1, Ordering::AcqRel);
        Some(pfn)
    }

    /// Gives a table back and spoils it: whoever still walks it finds junk, not old mappings.
    fn free(&self, state: &mut State, pfn: Pfn) {
        self.ram.spoil(Extent { start: pfn, len: Pages(1) });
        state.free.push(pfn);
        self.in_use.fetch_sub(1, Ordering::AcqRel);
    }

    fn link(&self, table: Pfn, index: u64, next: Pfn) {
        self.set(table, index, entry::link(next));
    }

    /// Where a present entry of a table of `level` leads.
    fn next(&self, level: u32, table: Pfn, index: u64) -> Option<Pfn> {
        entry::frame(level, self.entry(table, index))
    }

    fn entry(&self, table: Pfn, index: u64) -> u64 {
        self.ram.frame(table).expect("tables are RAM")[index as usize].load(Ordering::Acquire)
    }

    fn set(&self, table: Pfn, index: u64, entry: u64) {
        // Release: pairs with the Acquire in `mmu::walk`. A new table's zeros, and a frame's
        // contents, are seen by whoever sees the entry.
        self.ram.frame(table).expect("tables are RAM")[index as usize]
            .store(entry, Ordering::Release);
    }

    /// A poisoned lock is taken all the same: asserts run before anything was changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check_window(&self, space: SpaceId, at: PageRange) {
        let is_inside = self.windows.iter().any(|&(owner, window)| {
            owner.is_none_or(|owner| owner == space)
                && at.start >= window.start
                && at.end() <= window.end()
        });
        assert!(is_inside, "{at} lies in no window that was prepared");
    }
}

/// The index of `at` in its table of `level`; the root has level 4.
fn index(level: u32, at: Vpn) -> u64 {
    at.0 >> (9 * (level - 1)) & (ENTRIES - 1)
}

/// Whether `at` lies in the upper half, the kernel's.
pub(crate) fn is_upper(at: Vpn) -> bool {
    at.0 >> 35 & 1 == 1
}

fn is_canonical(at: Vpn) -> bool {
    // Page numbers of canonical addresses have 52 bits, of which the upper 17 are equal.
    at.0 >> 35 == 0 || at.0 >> 35 == (1 << 17) - 1
}

/// Cuts a run of pages at the borders of leaf tables, which are those of huge leaves, too.
fn by_leaf_table(at: PageRange) -> impl Iterator<Item = PageRange> {
    let mut next = at.start;
    std::iter::from_fn(move || {
        let left = at.end().0 - next.0;
        let len = left.min(ENTRIES - index(1, next));
        let part = PageRange { start: next, len: Pages(len) };
        next = part.end();
        (len > 0).then_some(part)
    })
}
