//! What every stage of a walk has at hand: the tables, the machine, and who is walking.

use crate::granules::Granules;
use crate::layout::{Counter, LANE_WORDS, LAST_PARKED, Stat, Tables};
use crate::machine::{Backing, Machine, View};
use crate::platform::Prot;
use crate::publish::AreaId;
use crate::record::{Record, Shape};
use crate::slots::Slots;
use crate::sync::{AtomicU64, Ordering};
use crate::tag::Owner;
use crate::units::{PageRange, Pages, Vpn};

/// One member's way to a window.
pub(crate) struct Context<'a, M> {
    pub(crate) tables: Tables<'a>,
    pub(crate) me: Owner,
    pub(crate) machine: M,
    /// The window's first page, a multiple of a granule.
    pub(crate) start: Vpn,
    /// How many parked pages a lane may keep to itself.
    pub(crate) lazy_slack: Pages,
}

impl<'a, M: Machine> Context<'a, M> {
    pub(crate) fn slots(&self) -> Slots<'a> {
        let phase = (self.start.0 >> crate::class::GRANULE_SHIFT) as usize;
        Slots { granules: Granules { tables: self.tables, me: self.me, phase } }
    }

    /// The window.
    pub(crate) fn window(&self) -> PageRange {
        PageRange { start: self.start, len: self.tables.geometry().pages() }
    }

    /// The pages of a slot, which are offsets, as pages of the window.
    pub(crate) fn absolute(&self, slot: PageRange) -> PageRange {
        PageRange { start: Vpn(self.start.0 + slot.start.0), len: slot.len }
    }

    pub(crate) fn record(&self, id: usize) -> Record<'a> {
        Record::new(self.tables, id)
    }

    /// How an area of this shape, in this slot, is shown.
    pub(crate) fn view(&self, id: usize, slot: PageRange, shape: &Shape) -> View {
        let slot = self.absolute(slot);
        View {
            id: AreaId(id as u32),
            pages: PageRange { start: slot.start, len: shape.pages.min(slot.len) },
            guard: shape.guard,
            slot,
            backing: Backing(shape.backing),
            prot: Prot::from_flags(shape.flags),
            birth: shape.birth,
        }
    }

    /// Where this thread counts; look it up once a call.
    #[inline]
    pub(crate) fn tally(&self) -> Tally<'a> {
        let lane = self.machine.lane();
        Tally { words: self.tables.lane(self.me.number(), lane.index), is_mine: lane.is_mine }
    }

    #[inline]
    pub(crate) fn count(&self, which: Stat, by: u64) {
        self.tally().add(which, by);
    }

    /// The parked pages, exact if nobody parks or revives meanwhile.
    pub(crate) fn lazy_pages(&self) -> Pages {
        let counted = self.tables.counter(Counter::LazyPages).load(Ordering::SeqCst);
        Pages(at_least_0(counted.wrapping_add(self.lazy_in_lanes())))
    }

    /// The parked pages, without what other lanes have not reported yet: one load or two.
    #[inline]
    pub(crate) fn lazy_pages_about(&self, tally: &Tally<'_>) -> Pages {
        let counted = self.tables.counter(Counter::LazyPages).load(Ordering::Relaxed);
        let unseen = tally.words[Stat::Lazy as usize].load(Ordering::Relaxed);
        Pages(at_least_0(counted.wrapping_add(unseen)))
    }

    /// What the lanes have not added to the counter yet.
    pub(crate) fn lazy_in_lanes(&self) -> u64 {
        let lanes = self.tables.stats(Stat::Lazy);
        lanes.fold(0, |sum, lane| sum.wrapping_add(lane.load(Ordering::SeqCst)))
    }

    /// Counts pages as parked.
    #[inline]
    pub(crate) fn add_lazy(&self, tally: &Tally<'_>, pages: Pages) {
        self.change_lazy(tally, pages.0);
    }

    /// Counts pages as no longer parked.
    #[inline]
    pub(crate) fn sub_lazy(&self, tally: &Tally<'_>, pages: Pages) {
        self.change_lazy(tally, pages.0.wrapping_neg());
    }

    /// In this thread's lane, and for all to see only when that has come far from what they see.
    #[inline]
    fn change_lazy(&self, tally: &Tally<'_>, by: u64) {
        let unseen = tally.add(Stat::Lazy, by);
        if (unseen as i64).unsigned_abs() > self.lazy_slack.0 {
            let unseen = tally.words[Stat::Lazy as usize].swap(0, Ordering::Relaxed);
            self.tables.counter(Counter::LazyPages).fetch_add(unseen, Ordering::Relaxed);
        }
    }
}

/// A member's counters in one lane.
pub(crate) struct Tally<'a> {
    words: &'a [AtomicU64; LANE_WORDS],
    is_mine: bool,
}

impl<'a> Tally<'a> {
    /// Adds to a counter and returns what it is then.
    #[inline]
    pub(crate) fn add(&self, which: Stat, by: u64) -> u64 {
        let word = &self.words[which as usize];
        if self.is_mine {
            let sum = word.load(Ordering::Relaxed).wrapping_add(by);
            word.store(sum, Ordering::Relaxed);
            sum
        } else {
            word.fetch_add(by, Ordering::Relaxed).wrapping_add(by)
        }
    }

    /// Which area, plus 1, this lane parked last: a hint.
    #[inline]
    pub(crate) fn last_parked(&self) -> &'a AtomicU64 {
        &self.words[LAST_PARKED]
    }
}

/// A sum of lanes that a hostile member may have written to: what is below 0 is 0.
fn at_least_0(sum: u64) -> u64 {
    if (sum as i64) < 0 { 0 } else { sum }
}
