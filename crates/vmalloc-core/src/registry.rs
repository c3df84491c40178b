//! Which area lives at an address: exact and interior, without a lock and without a scan.
//!
//! ```text
//!   address ─▶ granule ─tag▶ head of chunk ─(page − base) / stride▶ slot ─▶ record
//! ```
//!
//! Three loads and a division, however many areas there are. Linux: `find_vmap_area`, which
//! walks the trees of up to 128 nodes.

use crate::class::{Class, GRANULE_SHIFT, SLOTS_MAX};
use crate::context::Context;
use crate::error::FreeError;
use crate::machine::Machine;
use crate::publish::Area;
use crate::record::{Kind, Record, Shape, State};
use crate::slots::{placed, slot_of};
use crate::sync::Ordering;
use crate::tag::Tag;
use crate::units::{VirtAddr, Vpn};

/// The area around `addr`, in whatever state but free. Guard pages belong to no area.
pub(crate) fn find<M: Machine>(context: &Context<'_, M>, addr: VirtAddr) -> Option<Area> {
    let record = record_at(context, addr.vpn())?;
    let (state, shape, slot) = placed(context.tables, record)?;
    let area = Area::new(context, record.id, slot, state, &shape);
    (state.kind != Kind::Free && area.pages.contains(addr.vpn())).then_some(area)
}

/// The area in use whose first byte is `addr`, or why it cannot be freed.
pub(crate) fn base_of<'a, M: Machine>(
    context: &Context<'a, M>,
    addr: VirtAddr,
) -> Result<(Record<'a>, State, Shape), FreeError> {
    if addr.0 == 0 {
        return Err(FreeError::Null);
    }
    if !context.window().contains(addr.vpn()) {
        return Err(FreeError::Stranger { addr });
    }
    let none = FreeError::NoArea { addr };
    let record = record_at(context, addr.vpn()).ok_or(none)?;
    let (state, shape, slot) = placed(context.tables, record).ok_or(none)?;
    let area = Area::new(context, record.id, slot, state, &shape);
    let is_base = addr == area.addr();
    match state.kind {
        Kind::Free | Kind::Parked | Kind::Purging if is_base && state.generation > 0 => {
            Err(FreeError::Twice { addr })
        }
        Kind::Live | Kind::Frozen | Kind::Shared if is_base => Ok((record, state, shape)),
        Kind::Live | Kind::Frozen | Kind::Shared if area.pages.contains(addr.vpn()) => {
            Err(FreeError::Interior { addr, base: area.addr() })
        }
        Kind::Dying | Kind::Given if is_base => Err(FreeError::Twice { addr }),
        _ => Err(none),
    }
}

/// The record of the slot that holds page `at`, or held it just now.
fn record_at<'a, M: Machine>(context: &Context<'a, M>, at: Vpn) -> Option<Record<'a>> {
    if !context.window().contains(at) {
        return None;
    }
    let offset = at.0 - context.start.0;
    let granule = (offset >> GRANULE_SHIFT) as usize;
    let (head, tag) = match tag(context, granule)?.settled() {
        // The head must say, too, that the granule is its own: tags are shared words.
        Tag::Body { head, .. } if head < granule => (head, tag(context, head)?.settled()),
        tag => (granule, tag),
    };
    let slot = match tag {
        Tag::Chunk(class) => slot_in(class, offset - ((head as u64) << GRANULE_SHIFT))?,
        Tag::Solo { .. } => 0,
        _ => return None,
    };
    let id = head * SLOTS_MAX + slot;
    let pages = slot_of(tag, context.tables.geometry(), id)?;
    pages.contains(Vpn(offset)).then(|| context.record(id))
}

fn slot_in(class: Class, offset: u64) -> Option<usize> {
    let slot = (offset / class.stride().0) as usize;
    (slot < class.slots()).then_some(slot)
}

fn tag<M: Machine>(context: &Context<'_, M>, granule: usize) -> Option<Tag> {
    Tag::decode(context.tables.tag(granule).load(Ordering::Acquire))
}
