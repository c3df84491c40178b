//! Which guard pages this process has installed, and where it must take some out again.
//!
//! A guard marker (`MADV_GUARD_INSTALL`) lives in the page tables of one process: a member that
//! attaches to an area installs its own. And when the pages of a slot are given out afresh, under
//! another class, markers of the old slots may stand in the middle of the new area, in whichever
//! process put them there. So each process remembers, for each record, for which reservation
//! (*birth*) and place its markers are right, and for each granule, whether it ever put one there.
//!
//! A marker in the way makes a populate fail, too: so a range is cleared before it is committed.
//!
//! ```text
//!   placed[id] == key of birth, place, epochs?   yes: nothing to do, a few loads
//!                         no:  a marker may be in the slot: remove; then install the guard
//! ```
//!
//! What the records say may be a lie: a marker goes only into the area's own slot, and only while
//! this process has no view there; and when a granule gets markers for another chunk or class than before
//! (its *epoch*), all that was remembered of it is looked at again. So a marker ends nobody who
//! touches what is its own.

use crate::os::Span;
use crate::os::advice::{self, AdviseError};
use crate::os::anon::AnonWords;
use crate::os::map::Mapping;
use rustix::io::Errno;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use vmalloc_core::class::{GRANULE_SHIFT, SLOTS_MAX};
use vmalloc_core::{PAGE_SIZE, PageRange, Pages, View};

/// Granules whose epochs share a word: eight bits each, and what flows over into the neighbour's
/// makes it look again, no more.
const EPOCHS_A_WORD: u64 = 8;

/// The guard pages of one mapping.
#[derive(Debug)]
pub(crate) struct Guards {
    supported: bool,
    granules: u64,
    // A word a record: the key of what was placed.
    placed: AnonWords,
    // A word a record: from where to where, from its first page on, this process took markers out;
    // and for how many pages that is said.
    clean: AnonWords,
    clean_pages: AnonWords,
    // A bit a granule: a marker was put there once.
    marked: AnonWords,
    // A word a granule: for which chunk or solo run, of which class.
    tenants: AnonWords,
    epochs: AnonWords,
}

impl Guards {
    /// No guards yet, for a window of so many granules. Lazily mapped: costs what is used.
    pub(crate) fn new(granules: usize) -> Result<Guards, Errno> {
        Ok(Guards {
            supported: advice::guards_supported(),
            granules: granules as u64,
            placed: AnonWords::new(granules * SLOTS_MAX)?,
            clean: AnonWords::new(granules * SLOTS_MAX)?,
            clean_pages: AnonWords::new(granules * SLOTS_MAX)?,
            marked: AnonWords::new(granules.div_ceil(64))?,
            tenants: AnonWords::new(granules)?,
            epochs: AnonWords::new(granules.div_ceil(EPOCHS_A_WORD as usize))?,
        })
    }

    /// None are ever put anywhere, for a window whose guard pages fault by themselves.
    pub(crate) fn without_markers(self) -> Guards {
        Guards { supported: false, ..self }
    }

    /// Whether this kernel has guard markers; without them an overrun is not caught.
    pub(crate) fn supported(&self) -> bool {
        self.supported
    }

    /// Makes the guard of `view` fault, and its pages not. `data` is where the window begins in
    /// the file. Nothing to do, and a few ns, where it was done for this reservation before.
    ///
    /// # Errors
    ///
    /// What `madvise` said; then it is tried again next time. EINVAL, EBUSY: the view does not lie
    /// in its slot, or the slot is not its own.
    #[inline]
    pub(crate) fn place(&self, mapping: &Mapping, data: u64, view: &View) -> Result<(), Errno> {
        if !self.supported {
            return Ok(());
        }
        let end = view.pages.end().0.checked_add(view.guard.0);
        if view.pages.len.0 == 0 || end.is_none_or(|end| end > view.slot.end().0) {
            return Err(Errno::INVAL);
        }
        if self.are_placed(view) { Ok(()) } else { self.place_anew(mapping, data, view) }
    }

    /// The same where it was not done before.
    #[cold]
    fn place_anew(&self, mapping: &Mapping, data: u64, view: &View) -> Result<(), Errno> {
        let all =
            PageRange { start: view.pages.start, len: Pages(view.pages.len.0 + view.guard.0) };
        mapping
            .while_held(span(data, all), || self.place_held(mapping, data, view))
            .map_err(|_| Errno::BUSY)??;
        self.remember(view);
        Ok(())
    }

    /// Whether the guard of `view` is there and none within it, since this process put it there for
    /// this reservation.
    pub(crate) fn are_placed(&self, view: &View) -> bool {
        // Acquire and Release: two threads of this process may meet over one area.
        let placed = &self.placed[view.id.0 as usize];
        !self.supported || placed.load(Ordering::Acquire) == self.key(view)
    }

    /// As [`Guards::place`] for a view whose last pages `more` are new, or whose end has moved: looks
    /// at `more` and the guard alone, since this process has a view of the rest.
    ///
    /// # Errors
    ///
    /// As [`Guards::place`].
    pub(crate) fn place_more(
        &self,
        mapping: &Mapping,
        data: u64,
        view: &View,
        more: PageRange,
    ) -> Result<(), Errno> {
        let end = view.pages.end().0.checked_add(view.guard.0);
        let is_tail = more.start >= view.pages.start && more.end() == view.pages.end();
        if end.is_none_or(|end| end > view.slot.end().0) || !is_tail {
            return Err(Errno::INVAL);
        }
        let tail = PageRange { start: more.start, len: Pages(more.len.0 + view.guard.0) };
        if !self.supported || tail.len.0 == 0 {
            return Ok(());
        }
        // Where it was said to end may be a lie, and a marker stand before that.
        let before =
            PageRange { start: view.pages.start, len: Pages(more.start.0 - view.pages.start.0) };
        let is_clean = self.is_clean(view.id.0 as usize, before);
        let to_clear = if is_clean { more } else { view.pages };
        mapping
            .while_held(span(data, tail), || {
                if to_clear.len.0 > 0 {
                    self.clear(mapping, data, to_clear)?;
                }
                self.install(mapping, data, view)
            })
            .map_err(|_| Errno::BUSY)??;
        self.remember(view);
        Ok(())
    }

    /// Takes markers out of `pages`, the first pages of record `id`, unless this process knows that
    /// there are none: for a view that becomes longer by what the records say.
    ///
    /// # Errors
    ///
    /// What `madvise` said.
    pub(crate) fn ensure_clean(
        &self,
        id: usize,
        mapping: &Mapping,
        data: u64,
        pages: PageRange,
    ) -> Result<(), Errno> {
        if self.is_clean(id, pages) { Ok(()) } else { self.clear(mapping, data, pages) }
    }

    /// Whether this process knows that no marker stands in `pages`, the first pages of record `id`.
    fn is_clean(&self, id: usize, pages: PageRange) -> bool {
        let known = Pages(self.clean_pages[id].load(Ordering::Acquire));
        let known = PageRange { start: pages.start, len: known };
        // The record may lie elsewhere now: then so far from there may be past the end.
        let is_inside = *granules(known).end() < self.granules;
        known.len >= pages.len
            && is_inside
            && self.clean[id].load(Ordering::Acquire) == self.extent(known)
    }

    /// No marker stands in the view's pages, and its guard is there.
    fn remember(&self, view: &View) {
        self.clean_pages[view.id.0 as usize].store(view.pages.len.0, Ordering::Release);
        self.clean[view.id.0 as usize].store(self.extent(view.pages), Ordering::Release);
        self.placed[view.id.0 as usize].store(self.key(view), Ordering::Release);
    }

    fn place_held(&self, mapping: &Mapping, data: u64, view: &View) -> Result<(), Errno> {
        self.clear(mapping, data, view.pages)?;
        self.install(mapping, data, view)
    }

    fn install(&self, mapping: &Mapping, data: u64, view: &View) -> Result<(), Errno> {
        if view.guard.0 > 0 {
            let guard = PageRange { start: view.pages.end(), len: view.guard };
            let head = u64::from(view.id.0) / SLOTS_MAX as u64;
            // Which chunk, of which class: the length of its slots tells.
            let tenant = (head + 1) << 32 | view.slot.len.0;
            granules(guard).for_each(|granule| self.mark(granule, tenant));
            // It may stand in what was clean, whether or not the call fails.
            self.clean[view.id.0 as usize].store(0, Ordering::Release);
            mapping.guard_install(span(data, guard)).map_err(errno)?;
        }
        Ok(())
    }

    /// Takes out what markers of earlier slots stand in `pages`, which are not none. Nothing to
    /// do, and a load for each half MiB, where this process never put one.
    ///
    /// # Errors
    ///
    /// What `madvise` said.
    pub(crate) fn clear(
        &self,
        mapping: &Mapping,
        data: u64,
        pages: PageRange,
    ) -> Result<(), Errno> {
        if !self.supported || !granules(pages).any(|granule| self.is_marked(granule)) {
            return Ok(());
        }
        mapping.guard_remove(span(data, pages)).map_err(errno)
    }

    /// Says in one word for what a placement is right: never 0.
    fn key(&self, view: &View) -> u64 {
        mix(mix(self.extent(view.pages), view.birth), view.guard.0).max(1)
    }

    /// Says in one word which pages these are, and in which epochs: never 0.
    fn extent(&self, pages: PageRange) -> u64 {
        let (first, last) = granules(pages).into_inner();
        let epochs = first / EPOCHS_A_WORD..=last / EPOCHS_A_WORD;
        let epochs = epochs.map(|word| self.epochs[word as usize].load(Ordering::Acquire));
        epochs.fold(mix(mix(1, pages.start.0), pages.len.0), mix).max(1)
    }

    fn is_marked(&self, granule: u64) -> bool {
        let word = &self.marked[(granule / 64) as usize];
        word.load(Ordering::Acquire) >> (granule % 64) & 1 == 1
    }

    fn mark(&self, granule: u64, tenant: u64) {
        self.marked[(granule / 64) as usize].fetch_or(1 << (granule % 64), Ordering::AcqRel);
        if self.tenants[granule as usize].swap(tenant, Ordering::AcqRel) != tenant {
            let one = 1 << (granule % EPOCHS_A_WORD * 8);
            self.epochs[(granule / EPOCHS_A_WORD) as usize].fetch_add(one, Ordering::AcqRel);
        }
    }
}

/// FNV-1a by words, with the high half folded in.
fn mix(sum: u64, word: u64) -> u64 {
    let product = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}

/// The granules that a run of pages touches.
fn granules(pages: PageRange) -> RangeInclusive<u64> {
    pages.start.0 >> GRANULE_SHIFT..=pages.end().0.saturating_sub(1) >> GRANULE_SHIFT
}

fn span(data: u64, pages: PageRange) -> Span {
    Span::new(data + pages.start.0 * PAGE_SIZE as u64, pages.len.bytes())
}

fn errno(error: AdviseError) -> Errno {
    match error {
        AdviseError::NoMemory { errno, .. } | AdviseError::Os { errno, .. } => errno,
        AdviseError::Interrupted { .. } => Errno::INTR,
        AdviseError::Poisoned { .. } => Errno::HWPOISON,
        AdviseError::Range(_) | AdviseError::Unsupported { .. } => Errno::INVAL,
    }
}
