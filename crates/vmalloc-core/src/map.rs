//! Stage 4, map: pages show their frames.
//!
//! `Backed ─map▶ Mapped`. If the machine fails halfway, what it mapped is unmapped *and flushed*
//! before pages and frames go back: a CPU may have walked the tables meanwhile. Where waiting is
//! forbidden the failed area is parked instead, for the next purge to flush.
//! Linux: `vmap_pages_range`, which leaves the flush out.

use crate::back::Backed;
use crate::flush::PendingFlush;
use crate::lazy;
use crate::machine::Machine;
use crate::platform::MapError;
use crate::record::{Shape, flags};

/// Pages that show their frames, of which nobody knows yet. Consumed by `publish`.
#[must_use]
pub(crate) struct Mapped<'e, 'a, M: Machine> {
    pub(crate) backed: Backed<'e, 'a, M>,
    /// What was mapped. The record says so, too; but where members share it, it may say anything
    /// a moment later.
    pub(crate) shape: Shape,
}

/// Maps the backing at the reserved pages, zeroes it if the plan wants that, writes the record.
pub(crate) fn map<'e, 'a, M: Machine>(
    backed: Backed<'e, 'a, M>,
) -> Result<Mapped<'e, 'a, M>, MapError> {
    let context = backed.reserved.context;
    let shape = shape_of(&backed);
    context.record(backed.reserved.slot.id).set_shape(&shape);
    let view = context.view(backed.reserved.slot.id, backed.reserved.slot.pages, &shape);
    if let Err(e) = context.machine.map(&view) {
        undo(backed, shape);
        return Err(e);
    }
    if backed.reserved.plan.zeroed && !backed.is_zero {
        context.machine.zero(&view);
    }
    Ok(Mapped { backed, shape })
}

/// After a failed map: flush what may have been cached, then give everything back.
fn undo<M: Machine>(backed: Backed<'_, '_, M>, shape: Shape) {
    let context = backed.reserved.context;
    let pending = PendingFlush::after_failed_map(backed.reserved.pages());
    if context.machine.may_wait() && pending.flush(&context.machine).is_ok() {
        return; // dropping `backed` gives frames and pages back
    }
    let slot = backed.reserved.slot;
    // Its owner is the record from here on: it must not be given back below.
    core::mem::forget(backed);
    let record = context.record(slot.id);
    record.set_shape(&Shape { flags: shape.flags | flags::NO_REUSE, ..shape });
    lazy::park(context, record, slot.state);
}

fn shape_of<M: Machine>(backed: &Backed<'_, '_, M>) -> Shape {
    let plan = &backed.reserved.plan;
    Shape {
        bytes: plan.bytes,
        pages: plan.pages,
        guard: plan.guard,
        flags: plan.flags,
        backing: backed.backing.0,
        caller: plan.caller,
        birth: backed.reserved.birth,
    }
}
