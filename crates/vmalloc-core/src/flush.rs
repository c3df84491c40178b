//! The obligation to shoot down, as two types.
//!
//! Unmapping leaves stale translations in TLBs; pages and frames must not reach a new owner
//! before they are gone. So [`unmap`] yields a [`PendingFlush`], only [`PendingFlush::flush`]
//! turns that into a [`Flushed`], and only a `&Flushed` that covers an area opens the way back to
//! holes and frames. A purge that forgets the shootdown does not compile:
//!
//! ```compile_fail
//! # use vmalloc_core::flush::{Flushed, PendingFlush};
//! fn settle(_: &Flushed) {}
//! fn purge(unmapped: PendingFlush) {
//!     settle(&unmapped); // not flushed
//! }
//! ```
//!
//! Linux keeps this rule in comments, and returns frames before the flush.

use crate::machine::{FlushError, Machine};
use crate::units::{PageRange, Pages};

/// The most ranges one flush covers, and so the most areas that a purge step takes.
pub const BATCH: usize = 64;

/// Pages that were unmapped and not yet shot down.
#[must_use = "CPUs may still use these translations: flush them"]
#[derive(Clone, Debug)]
pub struct PendingFlush {
    ranges: Ranges,
}

/// Pages that no CPU can reach. Only [`PendingFlush::flush`] makes one.
#[derive(Clone, Debug)]
pub struct Flushed {
    ranges: Ranges,
}

#[derive(Clone, Debug)]
struct Ranges {
    all: [PageRange; BATCH],
    len: usize,
}

/// Unmaps `pages`, which now must be flushed.
pub(crate) fn unmap(machine: &impl Machine, pages: PageRange) -> PendingFlush {
    machine.unmap(pages);
    let mut pending = PendingFlush::empty();
    pending.ranges.push(pages);
    pending
}

impl PendingFlush {
    /// What a failed map leaves: the machine has unmapped what it had mapped of `pages`, and CPUs
    /// may have looked meanwhile.
    pub(crate) fn after_failed_map(pages: PageRange) -> PendingFlush {
        let mut pending = PendingFlush::empty();
        pending.ranges.push(pages);
        pending
    }

    /// Nothing to flush yet.
    pub(crate) const fn empty() -> PendingFlush {
        let none = PageRange { start: crate::Vpn(0), len: Pages(0) };
        PendingFlush { ranges: Ranges { all: [none; BATCH], len: 0 } }
    }

    /// Both obligations as one; ranges that touch become one range.
    ///
    /// # Panics
    ///
    /// If they are over [`BATCH`] ranges together.
    pub(crate) fn join(mut self, other: &PendingFlush) -> PendingFlush {
        other.ranges.as_slice().iter().for_each(|range| self.ranges.push(*range));
        self
    }

    /// Shoots all of it down, once. May wait.
    ///
    /// # Errors
    ///
    /// [`FlushError`]: the areas go back to the lazy list, to be unmapped and flushed again.
    pub(crate) fn flush(self, machine: &impl Machine) -> Result<Flushed, FlushError> {
        machine.flush(self.ranges.as_slice())?;
        Ok(Flushed { ranges: self.ranges })
    }
}

impl Flushed {
    /// Whether every page of `pages` was flushed.
    #[must_use]
    pub fn covers(&self, pages: PageRange) -> bool {
        let inside = |r: &PageRange| r.start <= pages.start && pages.end() <= r.end();
        self.ranges.as_slice().iter().any(inside)
    }
}

impl Ranges {
    fn as_slice(&self) -> &[PageRange] {
        &self.all[..self.len]
    }

    fn push(&mut self, range: PageRange) {
        let touching = self.all[..self.len]
            .iter_mut()
            .find(|r| r.end() == range.start || range.end() == r.start);
        match touching {
            Some(r) => {
                *r =
                    PageRange { start: r.start.min(range.start), len: Pages(r.len.0 + range.len.0) }
            }
            None => {
                self.all[self.len] = range;
                self.len += 1;
            }
        }
    }
}
