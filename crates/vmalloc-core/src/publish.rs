//! Stage 5, publish: an area that is whole becomes an area that can be found.
//!
//! `Mapped ─publish▶ Area`, and the same for an area revived from the lazy list. One store of
//! the state word, BUILDING → LIVE, with everything written before it. Linux: clearing
//! `VM_UNINITIALIZED`.

use crate::context::Context;
use crate::machine::Machine;
use crate::map::Mapped;
use crate::record::{Kind, Record, Shape, State};
use crate::tag::Owner;
use crate::units::{PageRange, Pages, VirtAddr};

/// The number of an area's record: where it lies, not who lives there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AreaId(pub u32);

/// An area, as it was when it was looked at. Linux: `vm_struct`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    /// Its record.
    pub id: AreaId,
    /// Which tenant of the record it is.
    pub generation: u64,
    /// Live, published, parked…
    pub kind: Kind,
    /// Whose it is, or was last.
    pub owner: Option<Owner>,
    /// Its pages, without the guard.
    pub pages: PageRange,
    /// Guard pages behind them.
    pub guard: Pages,
    /// The bytes asked for.
    pub bytes: u64,
    /// Bits of [`crate::flags`].
    pub flags: u64,
    /// Who asked for it.
    pub caller: u64,
    /// The machine's word for its backing.
    pub backing: u64,
    /// The number of the reservation.
    pub birth: u64,
}

impl Area {
    /// The address of the first byte.
    #[must_use]
    pub const fn addr(&self) -> VirtAddr {
        self.pages.start.addr()
    }

    pub(crate) fn new<M: Machine>(
        context: &Context<'_, M>,
        id: usize,
        slot: PageRange,
        state: State,
        shape: &Shape,
    ) -> Area {
        let start = context.absolute(slot).start;
        Area {
            id: AreaId(id as u32),
            generation: state.generation,
            kind: state.kind,
            owner: state.owner,
            pages: PageRange { start, len: shape.pages.min(slot.len) },
            guard: shape.guard,
            bytes: shape.bytes.min(shape.pages.min(slot.len).bytes()),
            flags: shape.flags,
            caller: shape.caller,
            backing: shape.backing,
            birth: shape.birth,
        }
    }
}

/// Makes a mapped area live.
pub(crate) fn publish<M: Machine>(mapped: Mapped<'_, '_, M>) -> Area {
    let (context, slot) = (mapped.backed.reserved.context, mapped.backed.reserved.slot);
    context.machine.publish(mapped.backed.reserved.pages());
    let shape = mapped.shape;
    // The record owns pages and frames from here on.
    core::mem::forget(mapped);
    make_live(context, context.record(slot.id), slot.pages, slot.state, &shape)
}

/// BUILDING → LIVE for a record whose shape is written.
pub(crate) fn make_live<M: Machine>(
    context: &Context<'_, M>,
    record: Record<'_>,
    slot: PageRange,
    building: State,
    shape: &Shape,
) -> Area {
    let live = State { kind: Kind::Live, ..building };
    // Nobody but its builder moves an area out of BUILDING. Where words are shared a hostile member
    // may have: then its first use finds it stale.
    record.step(building, live);
    Area::new(context, record.id, slot, live, shape)
}
