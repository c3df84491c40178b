//! What every stage of a walk has at hand: the tables, the machine, and who is walking.

use crate::granules::Granules;
use crate::layout::{Counter, Stat, Tables};
use crate::machine::{Backing, Lane, Machine, View};
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

    #[inline]
    pub(crate) fn count(&self, which: Stat, by: u64) {
        self.add(self.machine.lane(), which, by);
    }

    /// The parked pages, exact if nobody parks or revives meanwhile.
    pub(crate) fn lazy_pages(&self) -> Pages {
        let counted = self.tables.counter(Counter::LazyPages).load(Ordering::SeqCst);
        Pages(at_least_0(counted.wrapping_add(self.lazy_in_lanes())))
    }

    /// The parked pages, without what other lanes have not reported yet: one load or two.
    #[inline]
    pub(crate) fn lazy_pages_about(&self) -> Pages {
        let counted = self.tables.counter(Counter::LazyPages).load(Ordering::Relaxed);
        let lane = self.tables.stat(self.me.number(), self.machine.lane().index, Stat::Lazy);
        Pages(at_least_0(counted.wrapping_add(lane.load(Ordering::Relaxed))))
    }

    /// What the lanes have not added to the counter yet.
    pub(crate) fn lazy_in_lanes(&self) -> u64 {
        let lanes = self.tables.stats(Stat::Lazy);
        lanes.fold(0, |sum, lane| sum.wrapping_add(lane.load(Ordering::SeqCst)))
    }

    /// Counts pages as parked.
    #[inline]
    pub(crate) fn add_lazy(&self, pages: Pages) {
        self.change_lazy(pages.0);
    }

    /// Which area, plus 1, this thread's lane parked last.
    #[inline]
    pub(crate) fn last_parked(&self) -> &'a AtomicU64 {
        self.tables.last_parked(self.me.number(), self.machine.lane().index)
    }

    /// Counts pages as no longer parked.
    #[inline]
    pub(crate) fn sub_lazy(&self, pages: Pages) {
        self.change_lazy(pages.0.wrapping_neg());
    }

    /// In this thread's lane, and for all to see only when that has come far from what they see.
    fn change_lazy(&self, by: u64) {
        let lane = self.machine.lane();
        let unseen = self.add(lane, Stat::Lazy, by);
        if (unseen as i64).unsigned_abs() > self.lazy_slack.0 {
            let word = self.tables.stat(self.me.number(), lane.index, Stat::Lazy);
            let unseen = word.swap(0, Ordering::Relaxed);
            self.tables.counter(Counter::LazyPages).fetch_add(unseen, Ordering::Relaxed);
        }
    }

    /// Adds to a counter of this member's and returns what it is then.
    #[inline]
    fn add(&self, lane: Lane, which: Stat, by: u64) -> u64 {
        let word = self.tables.stat(self.me.number(), lane.index, which);
        if lane.is_mine {
            let sum = word.load(Ordering::Relaxed).wrapping_add(by);
            word.store(sum, Ordering::Relaxed);
            sum
        } else {
            word.fetch_add(by, Ordering::Relaxed).wrapping_add(by)
        }
    }
}

/// A sum of lanes that a hostile member may have written to: what is below 0 is 0.
fn at_least_0(sum: u64) -> u64 {
    if (sum as i64) < 0 { 0 } else { sum }
}
