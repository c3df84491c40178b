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
use crate::planted::{Bug, is_planted};
use crate::platform::{Mapper, Tlb};
use crate::units::{PageRange, Pages};

/// The most ranges one flush covers, and so the most areas that a purge step takes.
pub const BATCH: usize = 64;

/// The ranges, from the last one back, with which a new one is merged if they touch.
const NEIGHBOURS: usize = 2;

/// Pages that were unmapped and not yet shot down, in up to `N` ranges: a type of its own for one,
/// which is handed on in registers.
#[must_use = "CPUs may still use these translations: flush them"]
#[derive(Clone, Debug)]
pub struct PendingFlush<const N: usize = BATCH> {
    ranges: Ranges<N>,
}

/// Pages that no CPU can reach. Only [`PendingFlush::flush`] and [`PendingFlush::shoot_down`] make
/// one.
#[derive(Clone, Debug)]
pub struct Flushed<const N: usize = BATCH> {
    ranges: Ranges<N>,
}

/// Pages that one CPU cannot reach any more: enough for pages that no other CPU has used. Only
/// [`PendingFlush::flush_local`] makes one.
#[derive(Debug)]
pub(crate) struct FlushedLocal<const N: usize> {
    ranges: Ranges<N>,
}

#[derive(Clone, Debug)]
struct Ranges<const N: usize> {
    all: [PageRange; N],
    len: usize,
}

/// Unmaps `pages`, which now must be flushed.
pub(crate) fn unmap(machine: &impl Machine, pages: PageRange) -> PendingFlush<1> {
    machine.unmap(pages);
    PendingFlush::parked(pages)
}

/// The same, of page tables that no engine stands on.
pub(crate) fn unmap_run(mapper: &impl Mapper, pages: PageRange) -> PendingFlush<1> {
    mapper.unmap_run(pages);
    PendingFlush::parked(pages)
}

impl PendingFlush<1> {
    /// An obligation that was kept in words: they say that `pages` were unmapped, and not flushed.
    pub(crate) fn parked(pages: PageRange) -> PendingFlush<1> {
        PendingFlush { ranges: Ranges { all: [pages], len: 1 } }
    }

    /// What a failed map leaves: the machine has unmapped what it had mapped of `pages`, and CPUs
    /// may have looked meanwhile.
    pub(crate) fn after_failed_map(pages: PageRange) -> PendingFlush<1> {
        PendingFlush::parked(pages)
    }
}

impl PendingFlush {
    /// Nothing to flush yet.
    pub(crate) const fn empty() -> PendingFlush {
        PendingFlush::with_room()
    }
}

impl<const N: usize> PendingFlush<N> {
    /// Nothing to flush yet, and room for `N` ranges.
    pub(crate) const fn with_room() -> PendingFlush<N> {
        let none = PageRange { start: crate::Vpn(0), len: Pages(0) };
        PendingFlush { ranges: Ranges { all: [none; N], len: 0 } }
    }

    /// Both obligations as one; ranges that touch and come one behind the other become one range.
    ///
    /// # Panics
    ///
    /// If they are over `N` ranges together.
    pub(crate) fn join<const K: usize>(mut self, other: &PendingFlush<K>) -> PendingFlush<N> {
        other.ranges.as_slice().iter().for_each(|range| self.ranges.push(*range));
        self
    }

    /// Unmaps `pages` too. As [`PendingFlush::join`] of [`unmap`], without a list of its own.
    pub(crate) fn unmap(&mut self, machine: &impl Machine, pages: PageRange) {
        machine.unmap(pages);
        self.ranges.push(pages);
    }

    /// Unmaps `pages` too, and owes a flush of at least those: where `at` says in which range the
    /// pages before them are, or where there is no range left, a range is stretched to reach them.
    /// For page tables of ours alone, where a flush that covers more is only that. Which range has
    /// them.
    pub(crate) fn unmap_about<M: Machine>(
        &mut self,
        machine: &M,
        pages: PageRange,
        at: Option<usize>,
    ) -> usize {
        assert!(!M::IN_PLACE, "a flush in place takes frames away");
        machine.unmap(pages);
        match at.or(self.ranges.len.checked_sub(1).filter(|last| last + 1 == N)) {
            Some(at) => {
                self.ranges.all[at] = self.ranges.all[at].hull(pages);
                at
            }
            None => {
                self.ranges.all[self.ranges.len] = pages;
                self.ranges.len += 1;
                self.ranges.len - 1
            }
        }
    }

    /// Shoots all of it down, once. May wait.
    ///
    /// # Errors
    ///
    /// [`FlushError`]: the areas go back to the lazy list, to be unmapped and flushed again.
    #[inline(always)] // a kilobyte that would be copied
    #[track_caller] // a test asks whose flush it was
    pub(crate) fn flush(self, machine: &impl Machine) -> Result<Flushed<N>, FlushError> {
        if !is_planted(Bug::MissingFlush) {
            machine.flush(self.ranges.as_slice())?;
        }
        Ok(Flushed { ranges: self.ranges })
    }

    /// Whether there is nothing to flush.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.len == 0
    }

    /// [`PendingFlush::flush`] where the TLBs are ours to flush: it cannot fail. May wait.
    pub(crate) fn shoot_down(self, tlb: &impl Tlb) -> Flushed<N> {
        tlb.flush_all_cpus(self.ranges.as_slice());
        Flushed { ranges: self.ranges }
    }

    /// Flushes the current CPU alone, for pages that no other has used.
    pub(crate) fn flush_local(self, tlb: &impl Tlb) -> FlushedLocal<N> {
        self.ranges.as_slice().iter().for_each(|range| tlb.flush_local(*range));
        FlushedLocal { ranges: self.ranges }
    }
}

impl<const N: usize> Flushed<N> {
    /// Whether every page of `pages` was flushed.
    #[must_use]
    pub fn covers(&self, pages: PageRange) -> bool {
        self.ranges.cover(pages)
    }

    /// The same, for pages that were probably the range at `hint`.
    pub(crate) fn covers_at(&self, hint: usize, pages: PageRange) -> bool {
        let at_hint = self.ranges.as_slice().get(hint);
        at_hint.is_some_and(|range| has(range, pages)) || self.covers(pages)
    }
}

impl<const N: usize> FlushedLocal<N> {
    /// Whether every page of `pages` was flushed.
    pub(crate) fn covers(&self, pages: PageRange) -> bool {
        self.ranges.cover(pages)
    }
}

impl<const N: usize> Ranges<N> {
    fn as_slice(&self) -> &[PageRange] {
        &self.all[..self.len]
    }

    fn cover(&self, pages: PageRange) -> bool {
        self.as_slice().iter().any(|range| has(range, pages))
    }

    fn push(&mut self, range: PageRange) {
        // The last ones alone: neighbours come one behind the other, and guards part the rest.
        let touching = self.all[..self.len]
            .iter_mut()
            .rev()
            .take(NEIGHBOURS)
            .find(|r| r.end() == range.start || range.end() == r.start);
        match touching {
            Some(r) => {
                let short = u64::from(is_planted(Bug::WrongMerge));
                let len = Pages(r.len.0 + range.len.0 - short);
                *r = PageRange { start: r.start.min(range.start), len }
            }
            None => {
                self.all[self.len] = range;
                self.len += 1;
            }
        }
    }
}

fn has(range: &PageRange, pages: PageRange) -> bool {
    range.start <= pages.start && pages.end() <= range.end()
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::Vpn;
    use std::cell::RefCell;
    use std::vec::Vec;

    /// Says what it was asked.
    #[derive(Default)]
    struct Log {
        all: RefCell<Vec<PageRange>>,
        local: RefCell<Vec<PageRange>>,
    }

    impl Tlb for Log {
        fn publish(&self, _: PageRange) {}

        fn flush_all_cpus(&self, ranges: &[PageRange]) {
            self.all.borrow_mut().extend(ranges);
        }

        fn flush_local(&self, range: PageRange) {
            self.local.borrow_mut().push(range);
        }

        fn may_wait(&self) -> bool {
            true
        }
    }

    fn pages(start: u64, len: u64) -> PageRange {
        PageRange { start: Vpn(start), len: Pages(len) }
    }

    fn pending(ranges: &[PageRange]) -> PendingFlush {
        let each = ranges.iter().map(|range| PendingFlush::parked(*range));
        each.fold(PendingFlush::empty(), |all, one| all.join(&one))
    }

    /// Goal: a flush covers runs that lie wholly in one of its ranges, and no others: whoever asks
    /// gets no page back that was not shot down.
    /// Method: runs inside, at both ends, one page past each, across two ranges, elsewhere.
    #[test]
    fn a_flush_covers_what_was_flushed_and_no_page_more() {
        let (tlb, ranges) = (Log::default(), [pages(10, 5), pages(20, 4)]);
        let flushed = pending(&ranges).shoot_down(&tlb);
        let local = pending(&ranges).flush_local(&tlb);
        assert_eq!((&tlb.all.borrow()[..], &tlb.local.borrow()[..]), (&ranges[..], &ranges[..]));
        for (run, is_covered) in [
            (pages(10, 5), true),
            (pages(10, 1), true),
            (pages(14, 1), true),
            (pages(20, 4), true),
            (pages(9, 2), false),
            (pages(14, 2), false),
            (pages(8, 20), false),
            (pages(13, 8), false),
            (pages(30, 1), false),
            (pages(1, 1), false),
        ] {
            assert_eq!(flushed.covers(run), is_covered, "{run}");
            assert_eq!(local.covers(run), is_covered, "{run}");
            // A hint is where to look first, whatever it is.
            for hint in [0, 1, 2, BATCH] {
                assert_eq!(flushed.covers_at(hint, run), is_covered, "{run}, {hint}");
            }
        }
    }

    /// Goal: there is something to flush as soon as there is a range, and not before.
    #[test]
    fn an_obligation_is_empty_until_something_was_unmapped() {
        assert!(PendingFlush::empty().is_empty());
        assert!(!pending(&[pages(1, 1)]).is_empty());
    }

    /// Goal: neighbours become one range, whichever comes first, also over one range in between;
    /// others stay apart.
    #[test]
    fn ranges_that_touch_become_one() {
        let merged = |ranges: &[PageRange]| {
            let tlb = Log::default();
            pending(ranges).shoot_down(&tlb);
            tlb.all.into_inner()
        };
        assert_eq!(merged(&[pages(10, 5), pages(15, 2)]), [pages(10, 7)]);
        assert_eq!(merged(&[pages(15, 2), pages(10, 5)]), [pages(10, 7)]);
        let apart = [pages(10, 5), pages(16, 2)];
        assert_eq!(merged(&apart), apart);
        let over_one = [pages(10, 5), pages(40, 1), pages(15, 2)];
        assert_eq!(merged(&over_one), [pages(10, 7), pages(40, 1)]);
        // Further back nobody looks: it costs a range, not a page.
        let far = [pages(10, 5), pages(40, 1), pages(50, 1), pages(15, 2)];
        assert_eq!(merged(&far), far);
    }
}
