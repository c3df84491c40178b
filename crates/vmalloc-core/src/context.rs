//! What every stage of a walk has at hand: the tables, the machine, and who is walking.

use crate::granules::Granules;
use crate::layout::{Counter, Stat, Tables};
use crate::machine::{Backing, Machine, View};
use crate::platform::Prot;
use crate::publish::AreaId;
use crate::record::{Record, Shape};
use crate::slots::Slots;
use crate::sync::Ordering;
use crate::tag::Owner;
use crate::units::{PageRange, Pages, Vpn};

/// One member's way to a window.
pub(crate) struct Context<'a, M> {
    pub(crate) tables: Tables<'a>,
    pub(crate) me: Owner,
    pub(crate) machine: M,
    /// The window's first page, a multiple of a granule.
    pub(crate) start: Vpn,
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

    pub(crate) fn count(&self, which: Stat, by: u64) {
        self.tables.count(self.me.number(), which, by);
    }

    pub(crate) fn lazy_pages(&self) -> Pages {
        Pages(self.tables.counter(Counter::LazyPages).load(Ordering::Relaxed))
    }

    /// Counts pages as parked (or as no longer parked). A hint: never below 0.
    pub(crate) fn add_lazy(&self, pages: Pages) {
        self.tables.counter(Counter::LazyPages).fetch_add(pages.0, Ordering::Relaxed);
    }

    pub(crate) fn sub_lazy(&self, pages: Pages) {
        let less = |now: u64| Some(now.saturating_sub(pages.0));
        let counter = self.tables.counter(Counter::LazyPages);
        let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}
