//! A group: 64 pages, and the one cache line that says what each of them is.
//!
//! ```text
//!            used  live  starts  ends  dirty  flushing
//!   free       0     0      0      0     0       0
//!   building   1     0      ·      ·     0       0      whoever set `used` maps it
//!   live       1     1      ·      ·     0       0      set at the first and last page of a run
//!   closing    1     0      ·      ·     0       0      whoever cleared `live` unmaps it
//!   dirty      1     0      0      0     1       0      unmapped; TLBs may still show it
//!   flushing   1     0      0      0     0       1      whoever holds `flushing` shoots it down
//! ```
//!
//! A run lies in one group, so one CAS on one word decides each change: on `used`, who has free
//! pages; on `live`, who unmaps; on `flushing`, who shoots down. A page that any TLB may show
//! without its being live is always `used & !live`.
//!
//! Both ends of a run are marked, so that its owner closes it by bits of its own pages alone: the
//! words are read one after the other, and the runs beside it come and go meanwhile.

use crate::flush::{Flushed, PendingFlush};
use crate::sync::{AtomicU64, Ordering};
use crate::units::{PageRange, Pages, Vpn};

/// The pages of a group: a bit each in each word.
pub(super) const GROUP_PAGES: u64 = 64;
/// Words a group: a cache line, six of them used.
pub(super) const GROUP_WORDS: usize = 8;

/// One group of a window.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    words: &'a [AtomicU64],
    start: Vpn,
}

/// What is wrong with a run that was to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotARun {
    /// The page is not live.
    Dead,
    /// It is not the first of its run, which begins `before` pages earlier.
    Interior { before: u64 },
    /// The run has another length.
    Length { pages: u64 },
}

impl<'a> Group<'a> {
    /// The group whose words these are, and whose pages begin at `start`.
    pub(super) fn new(words: &'a [AtomicU64], start: Vpn) -> Group<'a> {
        Group { words: &words[..GROUP_WORDS], start }
    }

    fn used(&self) -> &'a AtomicU64 {
        &self.words[0]
    }

    fn live(&self) -> &'a AtomicU64 {
        &self.words[1]
    }

    fn ends(&self) -> &'a AtomicU64 {
        &self.words[2]
    }

    fn dirty(&self) -> &'a AtomicU64 {
        &self.words[3]
    }

    fn flushing(&self) -> &'a AtomicU64 {
        &self.words[4]
    }

    fn starts(&self) -> &'a AtomicU64 {
        &self.words[5]
    }

    /// The pages from bit `first` on.
    pub(super) fn pages(&self, first: u64, len: u64) -> PageRange {
        PageRange { start: Vpn(self.start.0 + first), len: Pages(len) }
    }

    /// Takes the lowest run of `len` free pages. O(log len).
    pub(super) fn take(&self, len: u64) -> Option<u64> {
        let mut used = self.used().load(Ordering::Acquire);
        loop {
            let first = lowest_run(!used, len)?;
            let taken = used | mask(first, len);
            // Acquire: pairs with the Release in `settle`; what was flushed is seen as flushed.
            match self.used().compare_exchange_weak(
                used,
                taken,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(first),
                Err(now) => used = now,
            }
        }
    }

    /// Whether `len` pages side by side are not live: free, or on their way.
    pub(super) fn may_hold(&self, len: u64) -> bool {
        lowest_run(!self.live().load(Ordering::Acquire), len).is_some()
    }

    /// Gives back pages that were taken and never mapped.
    pub(super) fn give_unmapped(&self, first: u64, len: u64) {
        if len > 0 {
            self.used().fetch_and(!mask(first, len), Ordering::AcqRel);
        }
    }

    /// The run is mapped: building → live.
    pub(super) fn open(&self, first: u64, len: u64) {
        self.starts().fetch_or(1 << first, Ordering::AcqRel);
        self.ends().fetch_or(1 << (first + len - 1), Ordering::AcqRel);
        // Release: whoever sees the run live sees where it begins and ends.
        self.live().fetch_or(mask(first, len), Ordering::AcqRel);
    }

    /// Claims the run of `len` pages at `first`, to unmap it: live → closing.
    pub(super) fn close(&self, first: u64, len: u64) -> Result<(), NotARun> {
        let mut live = self.live().load(Ordering::Acquire);
        loop {
            let (starts, ends) =
                (self.starts().load(Ordering::Acquire), self.ends().load(Ordering::Acquire));
            if live >> first & 1 == 0 {
                return Err(NotARun::Dead);
            }
            let pages = u64::from((ends >> first).trailing_zeros().min(63)) + 1;
            let is_begun = starts >> first & 1 == 1;
            if !is_begun || pages != len {
                // Another may have closed it since, and taken the marks away.
                let now = self.live().load(Ordering::Acquire);
                if now != live {
                    live = now;
                    continue;
                }
                // What is not exact here is exact when nobody is at work.
                let before = run_before(live & !ends, first);
                let interior = NotARun::Interior { before };
                return Err(if is_begun { NotARun::Length { pages } } else { interior });
            }
            match self.live().compare_exchange_weak(
                live,
                live & !mask(first, len),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(now) => live = now,
            }
        }
        self.ends().fetch_and(!(1 << (first + len - 1)), Ordering::AcqRel);
        self.starts().fetch_and(!(1 << first), Ordering::AcqRel);
        Ok(())
    }

    /// The run is unmapped: closing → dirty. The obligation stays here until [`Group::claim`].
    pub(super) fn park(&self, first: u64, len: u64, unmapped: PendingFlush<1>) {
        drop(unmapped);
        // Release: whoever claims it flushes after the unmapping.
        self.dirty().fetch_or(mask(first, len), Ordering::AcqRel);
    }

    /// Claims what is dirty, to shoot it down: dirty → flushing. Whether there was anything.
    pub(super) fn claim(&self) -> bool {
        let dirty = self.dirty().load(Ordering::Acquire);
        let flushing = self.flushing();
        if dirty == 0
            || flushing.compare_exchange(0, dirty, Ordering::AcqRel, Ordering::Acquire).is_err()
        {
            return false;
        }
        // Another may have flushed some of it before the claim was ours: what is still dirty
        // counts, and stays so, since only who holds `flushing` takes it away.
        let ours = self.dirty().fetch_and(!dirty, Ordering::AcqRel) & dirty;
        flushing.store(ours, Ordering::Release);
        ours != 0
    }

    /// Flushing → free, by who claimed it: only with proof that no CPU can reach the pages.
    /// Returns how many.
    pub(super) fn settle<const N: usize>(&self, flushed: &Flushed<N>) -> Pages {
        let ours = self.flushing().load(Ordering::Acquire);
        if let Some(hull) = self.hull(ours) {
            assert!(flushed.covers(hull), "{hull} was not flushed");
        }
        // First the claim: if this CPU stops here, it keeps these pages and holds up no others.
        self.flushing().store(0, Ordering::Release);
        self.used().fetch_and(!ours, Ordering::AcqRel);
        Pages(u64::from(ours.count_ones()))
    }

    /// The smallest range with every page that a TLB may show without its being live.
    pub(super) fn stale(&self) -> Option<PageRange> {
        let used = self.used().load(Ordering::Acquire);
        self.hull(used & !self.live().load(Ordering::Acquire))
    }

    fn hull(&self, bits: u64) -> Option<PageRange> {
        let first = u64::from(bits.trailing_zeros());
        (bits != 0).then(|| self.pages(first, 64 - u64::from(bits.leading_zeros()) - first))
    }

    /// How many pages are free, live, dirty, and being flushed.
    pub(super) fn counts(&self) -> [u64; 4] {
        let count = |word: &AtomicU64| u64::from(word.load(Ordering::Acquire).count_ones());
        let free = GROUP_PAGES - count(self.used());
        [free, count(self.live()), count(self.dirty()), count(self.flushing())]
    }

    /// Whether the words agree, no page is between two states, and exactly the live ones satisfy
    /// `is_mapped`. Nobody else may be at work.
    pub(super) fn is_sound(&self, is_mapped: impl Fn(Vpn) -> bool) -> bool {
        let [used, live, ends, dirty, flushing, starts] =
            [0, 1, 2, 3, 4, 5].map(|word: usize| self.words[word].load(Ordering::Acquire));
        let mapped = (0..GROUP_PAGES)
            .filter(|bit| is_mapped(Vpn(self.start.0 + bit)))
            .fold(0, |mapped, bit| mapped | 1 << bit);
        // Each run has an end: a live page that is not one is followed by a live page.
        let runs_end = (live & !ends) << 1 & !live == 0 && (live & !ends) >> 63 == 0;
        used == live | dirty
            && live & dirty == 0
            && ends & !live == 0
            && starts == live & (!(live << 1) | ends << 1)
            && flushing == 0
            && mapped == live
            && runs_end
    }
}

/// `len` bits from `first` on; `len` is 1 to 64.
fn mask(first: u64, len: u64) -> u64 {
    u64::MAX >> (64 - len) << first
}

/// Where the lowest run of `len` ones begins.
fn lowest_run(bits: u64, len: u64) -> Option<u64> {
    // Each round, a bit stands for twice as many ones from it on, up to `len`.
    let (mut runs, mut have) = (bits, 1);
    while have < len {
        let more = have.min(len - have);
        runs &= runs >> more;
        have += more;
    }
    (runs != 0).then(|| u64::from(runs.trailing_zeros()))
}

/// How many ones lie right before bit `first`.
fn run_before(bits: u64, first: u64) -> u64 {
    if first == 0 { 0 } else { u64::from((bits << (64 - first)).leading_ones()) }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::sync::stepped::{Access, with_watch};
    use std::cell::Cell;

    /// Goal: the bit tricks are what they say. Method: against a walk bit by bit, for patterns
    /// with runs of all lengths.
    #[test]
    fn the_lowest_run_is_what_a_walk_finds() {
        let mut x = 1_u64;
        for _ in 0..if cfg!(miri) { 1 } else { 300 } {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            for bits in [x, x | x << 7, x & x >> 3, x | x >> 9 | x << 20, u64::MAX, 0] {
                for len in 1..=64 {
                    let is_run = |&first: &u64| bits & mask(first, len) == mask(first, len);
                    let walked = (0..=64 - len).find(is_run);
                    assert_eq!(lowest_run(bits, len), walked, "{len} in {bits:#x}");
                }
                for first in 0..64 {
                    let walked = (0..first).rev().take_while(|bit| bits >> bit & 1 == 1).count();
                    assert_eq!(run_before(bits, first), walked as u64, "before {first}");
                }
            }
        }
    }

    /// Goal: runs that touch are told apart. Method: three runs side by side, one of them the
    /// last of the group; each wrong way to close one, then the right one.
    #[test]
    fn a_run_closes_only_from_its_first_page_with_its_own_length() {
        let words = [const { AtomicU64::new(0) }; GROUP_WORDS];
        let group = Group::new(&words, Vpn(0));
        for (len, first) in [(3, 0), (60, 3), (1, 63)] {
            assert_eq!(group.take(len), Some(first));
            group.open(first, len);
        }
        assert_eq!(group.take(1), None);
        assert_eq!(group.close(4, 59), Err(NotARun::Interior { before: 1 }));
        assert_eq!(group.close(62, 1), Err(NotARun::Interior { before: 59 }));
        assert_eq!(group.close(3, 61), Err(NotARun::Length { pages: 60 }));
        assert_eq!(group.close(3, 60), Ok(()));
        assert_eq!(group.close(3, 60), Err(NotARun::Dead));
        assert_eq!((group.close(0, 3), group.close(63, 1)), (Ok(()), Ok(())));
    }

    /// Goal: who closes a run is not told that it is a part of the one beside it, which another CPU
    /// closes just then. Method: the words as they are seen by who reads `live` before that and
    /// the marks after it.
    #[test]
    fn regress_a_run_is_closed_by_the_bits_of_its_own_pages() {
        for beside in [4, 6] {
            let words = [const { AtomicU64::new(0) }; GROUP_WORDS];
            let group = Group::new(&words, Vpn(0));
            assert_eq!(group.take(8), Some(0));
            group.open(5, 1);
            group.open(beside, 1);
            group.starts().fetch_and(!(1 << beside), Ordering::AcqRel);
            group.ends().fetch_and(!(1 << beside), Ordering::AcqRel);
            assert_eq!(group.close(5, 1), Ok(()));
        }
    }

    /// Goal: of two who close one run the second is told that there is none, whenever the first
    /// comes. Method: he comes before each access of the second, loads among them.
    #[test]
    fn regress_second_of_two_unmaps_was_told_of_a_wrong_count() {
        type Shared = [AtomicU64; GROUP_WORDS];
        std::thread_local! {
            static WORDS: Shared = const { [const { AtomicU64::new(0) }; GROUP_WORDS] };
            /// Accesses until the first comes; what he was told.
            static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
            static FIRST: Cell<Option<Result<(), NotARun>>> = const { Cell::new(None) };
        }
        fn first_comes(_: Access) {
            match LEFT.get() {
                Some(0) => {
                    LEFT.set(None); // his own accesses are told, too
                    let closed = WORDS.with(|words| Group::new(words, Vpn(0)).close(7, 5));
                    FIRST.set(Some(closed));
                }
                Some(left) => LEFT.set(Some(left - 1)),
                None => {}
            }
        }
        let mut late = 0;
        for access in 0.. {
            FIRST.set(None);
            let second = WORDS.with(|words| {
                words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
                let group = Group::new(words, Vpn(0));
                assert_eq!(group.take(12), Some(0));
                group.open(7, 5);
                LEFT.set(Some(access));
                let second = with_watch(first_comes, || group.close(7, 5));
                LEFT.set(None);
                second
            });
            match FIRST.get() {
                Some(Ok(())) => assert_eq!(second, Err(NotARun::Dead), "access {access}"),
                Some(closed) => {
                    assert_eq!((closed, second), (Err(NotARun::Dead), Ok(())), "access {access}");
                    late += 1;
                }
                None => break,
            }
        }
        assert!(late > 0, "the second was never done before the first came");
    }
}
