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
