//! Which guard pages this process has installed, and where it must take some out again.
//!
//! A guard marker (`MADV_GUARD_INSTALL`) lives in the page tables of one process: a member that
//! attaches to an area installs its own. And when the pages of a slot are given out afresh, under
//! another class, markers of the old slots may stand in the middle of the new area, in whichever
//! process put them there. So each process remembers, for each record, for which reservation
//! (*birth*) its markers are right, and for each granule, whether it ever put one there.
//!
//! A marker in the way makes a populate fail, too: so a range is cleared before it is committed.
//!
//! ```text
//!   births[id] == birth?  yes: nothing to do, two loads
//!                         no:  a marker may be in the slot: remove; then install the guard
//! ```

use crate::os::Span;
use crate::os::advice::{self, AdviseError};
use crate::os::anon::AnonWords;
use crate::os::map::Mapping;
use rustix::io::Errno;
use std::sync::atomic::Ordering;
use vmalloc_core::class::{GRANULE_SHIFT, SLOTS_MAX};
use vmalloc_core::{PAGE_SIZE, PageRange, Pages, View};

/// The guard pages of one mapping.
#[derive(Debug)]
pub(crate) struct Guards {
    supported: bool,
    births: AnonWords,
    marked: AnonWords,
}

impl Guards {
    /// No guards yet, for a window of so many granules. Lazily mapped: costs what is used.
    pub(crate) fn new(granules: usize) -> Result<Guards, Errno> {
        Ok(Guards {
            supported: advice::guards_supported(),
            births: AnonWords::new(granules * SLOTS_MAX)?,
            marked: AnonWords::new(granules.div_ceil(64))?,
        })
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
    /// What `madvise` said; then it is tried again next time.
    pub(crate) fn place(&self, mapping: &Mapping, data: u64, view: &View) -> Result<(), Errno> {
        let birth = &self.births[view.id.0 as usize];
        // Acquire and Release: two threads of this process may meet over one area.
        if !self.supported || birth.load(Ordering::Acquire) == view.birth {
            return Ok(());
        }
        // The view comes from records that others write: a guard outside the area's own slot would
        // end a process that touches what is its own.
        let end = view.pages.end().0.checked_add(view.guard.0);
        if view.pages.len.0 == 0 || end.is_none_or(|end| end > view.slot.end().0) {
            return Err(Errno::INVAL);
        }
        let all =
            PageRange { start: view.pages.start, len: Pages(view.pages.len.0 + view.guard.0) };
        // And if this process has a view of some page of it, the slot is not this area's alone.
        let placed = mapping.while_held(span(data, all), || self.place_held(mapping, data, view));
        placed.map_err(|_| Errno::BUSY)??;
        birth.store(view.birth, Ordering::Release);
        Ok(())
    }

    fn place_held(&self, mapping: &Mapping, data: u64, view: &View) -> Result<(), Errno> {
        self.clear(mapping, data, view.pages)?;
        if view.guard.0 > 0 {
            let guard = PageRange { start: view.pages.end(), len: view.guard };
            self.mark(guard.start.0 >> GRANULE_SHIFT);
            mapping.guard_install(span(data, guard)).map_err(errno)?;
        }
        Ok(())
    }

    /// Takes out what markers of earlier slots stand in `pages`. Nothing to do, and a load for
    /// each half MiB, where this process never put one.
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
        let mut granules = pages.start.0 >> GRANULE_SHIFT..=(pages.end().0 - 1) >> GRANULE_SHIFT;
        if !self.supported || !granules.any(|g| self.is_marked(g)) {
            return Ok(());
        }
        mapping.guard_remove(span(data, pages)).map_err(errno)
    }

    fn is_marked(&self, granule: u64) -> bool {
        let word = &self.marked[(granule / 64) as usize];
        word.load(Ordering::Acquire) >> (granule % 64) & 1 == 1
    }

    fn mark(&self, granule: u64) {
        self.marked[(granule / 64) as usize].fetch_or(1 << (granule % 64), Ordering::AcqRel);
    }
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
