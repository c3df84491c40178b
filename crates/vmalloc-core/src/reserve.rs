//! Stage 2, reserve: a plan becomes pages that are ours, backed by nothing yet.
//!
//! `Plan ─reserve▶ Reserved`. Dropping a [`Reserved`] gives the pages back: they were never
//! mapped, so no flush is owed. Linux: `__get_vm_area_node`.

use crate::context::Context;
use crate::error::AllocError;
use crate::layout::Counter;
use crate::machine::Machine;
use crate::record::{Kind, State};
use crate::request::Plan;
use crate::slots::{HUGE_ZONE, Slot, SlotError, Wanted};
use crate::sync::Ordering;
use crate::units::PageRange;

/// Pages of the window that nobody else can get; the record is BUILDING(me).
#[must_use]
pub(crate) struct Reserved<'e, 'a, M: Machine> {
    pub(crate) context: &'e Context<'a, M>,
    pub(crate) plan: Plan,
    pub(crate) slot: Slot,
    pub(crate) birth: u64,
}

/// Takes a slot for the plan.
pub(crate) fn reserve<'e, 'a, M: Machine>(
    context: &'e Context<'a, M>,
    plan: &Plan,
) -> Result<Reserved<'e, 'a, M>, AllocError> {
    let take = |want: Wanted| context.slots().take(want, &context.machine);
    let taken = match take(plan.want) {
        // The part of the window for huge pages is full: small pages are better than none.
        Err(SlotError::NoHole { .. }) if plan.want.zone == HUGE_ZONE => {
            take(Wanted { zone: 0, ..plan.want })
        }
        taken => taken,
    };
    let slot = taken.map_err(|e| match e {
        SlotError::NoHole { largest } => AllocError::NoHole { wanted: plan.want.span, largest },
        SlotError::NoMetadata(e) => AllocError::NoMetadata(e),
    })?;
    let birth = context.tables.counter(Counter::Births).fetch_add(1, Ordering::Relaxed);
    let birth = birth.wrapping_add(1);
    Ok(Reserved { context, plan: *plan, slot, birth })
}

impl<M: Machine> Reserved<'_, '_, M> {
    /// The area's pages, absolute, without guard and what the slot has left over.
    pub(crate) fn pages(&self) -> PageRange {
        let slot = self.context.absolute(self.slot.pages);
        PageRange { start: slot.start, len: self.plan.pages }
    }
}

impl<M: Machine> Drop for Reserved<'_, '_, M> {
    fn drop(&mut self) {
        let free = State::new(Kind::Free, None, self.slot.state.generation);
        if self.context.record(self.slot.id).step(self.slot.state, free) {
            self.context.slots().give(self.slot.id);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use crate::class::GRANULE_PAGES;
    use crate::proof::machine::{Pool, START};
    use crate::sync::AtomicU64;
    use crate::{AllocError, Geometry, Request};

    /// Goal: huge pages lie in their part of the window while it has room, then among the small ones,
    /// and only what fits in neither is refused. Method: a window of one huge page for small areas and two for
    /// huge ones.
    #[test]
    fn a_huge_page_lies_among_the_small_ones_when_its_part_is_full() {
        let geometry = Geometry { granules: 12, small_granules: 4, members: 1, in_place: true };
        let words = (0..geometry.words()).map(|_| AtomicU64::new(0)).collect();
        let pool = Pool::new(geometry, words);
        let engine = pool.engine(1);
        let huge = || engine.vmalloc(&Request::bytes(512 * 4096).no_guard().huge());
        let offsets = [huge(), huge(), huge()].map(|area| area.unwrap().pages.start.0 - START.0);
        assert_eq!(offsets, [4, 8, 0].map(|granule| granule * GRANULE_PAGES));
        assert!(matches!(huge(), Err(AllocError::NoHole { .. })));
    }
}
