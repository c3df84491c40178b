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
use crate::layout::Tables;
use crate::machine::Machine;
use crate::publish::Area;
use crate::record::{Kind, Record, Shape, State};
use crate::slots::{placed, slot_in_chunk, slot_of};
use crate::sync::Ordering;
use crate::tag::Tag;
use crate::units::{PageRange, VirtAddr, Vpn};

/// The area around `addr`, in whatever state but free. Guard pages belong to no area.
#[inline]
pub(crate) fn find<M: Machine>(context: &Context<'_, M>, addr: VirtAddr) -> Option<Area> {
    let spot = spot_at(context, addr.vpn())?;
    let (state, shape, slot) = spot.look(context.tables)?;
    // Wraps where the slot is another one by now, behind the page.
    let within = addr.vpn().0.wrapping_sub(context.absolute(slot).start.0);
    if state.kind == Kind::Free || within >= shape.pages.min(slot.len).0 {
        return None;
    }
    Some(Area::new(context, spot.record.id, slot, state, &shape))
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
    let spot = spot_at(context, addr.vpn()).ok_or(none)?;
    let (state, shape, slot) = spot.look(context.tables).ok_or(none)?;
    let record = spot.record;
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

/// The slot that holds a page, as a tag said it a moment ago.
struct Spot<'a> {
    record: Record<'a>,
    slot: PageRange,
    head: usize,
    /// The tag of granule `head`.
    bits: u64,
}

impl Spot<'_> {
    /// As [`placed`]; where the tag is the same still, so is the slot.
    #[inline(always)] // with what is looked at and what is not known
    fn look(&self, tables: Tables<'_>) -> Option<(State, Shape, PageRange)> {
        let tag = || tables.tag(self.head).load(Ordering::Acquire);
        match self.record.snapshot_with(tag)? {
            (state, shape, bits) if bits == self.bits => Some((state, shape, self.slot)),
            _ => placed(tables, self.record),
        }
    }
}

/// The slot that holds page `at`, or held it just now.
#[inline(always)] // a chunk's first granule, which most areas are in; the rest is elsewhere
fn spot_at<'a, M: Machine>(context: &Context<'a, M>, at: Vpn) -> Option<Spot<'a>> {
    let offset = at.0.wrapping_sub(context.start.0);
    let granule = (offset >> GRANULE_SHIFT) as usize;
    if granule >= context.tables.granules() {
        return None;
    }
    let bits = context.tables.tag(granule).load(Ordering::Acquire);
    match Tag::chunk(bits) {
        Some(class) => spot_in_chunk(context.tables, granule, bits, class, offset),
        None => spot_elsewhere(context.tables, granule, bits, offset),
    }
}

/// The same, in the chunk of this class that begins at granule `head`.
#[inline(always)] // as above
fn spot_in_chunk(
    tables: Tables<'_>,
    head: usize,
    bits: u64,
    class: Class,
    offset: u64,
) -> Option<Spot<'_>> {
    let within = offset - ((head as u64) << GRANULE_SHIFT);
    // Tags are shared words: `head` may be anywhere before the page.
    if within >= (SLOTS_MAX as u64) << GRANULE_SHIFT {
        return None;
    }
    let slot = (within as u32 / class.stride().0 as u32) as usize;
    let pages = slot_in_chunk(class, tables.granules(), head, slot)?;
    Some(Spot { record: Record::of(tables, head, slot), slot: pages, head, bits })
}

/// The same, where the page's granule, whose tag this is, begins no chunk in use.
#[inline(never)]
fn spot_elsewhere(tables: Tables<'_>, granule: usize, bits: u64, offset: u64) -> Option<Spot<'_>> {
    let (head, bits) = match Tag::decode(bits)? {
        // The head must say, too, that the granule is its own: tags are shared words.
        Tag::Body { head, .. } if head < granule => {
            (head, tables.tag(head).load(Ordering::Acquire))
        }
        _ => (granule, bits),
    };
    match Tag::decode(bits)?.settled() {
        Tag::Chunk(class) => spot_in_chunk(tables, head, bits, class, offset),
        solo => {
            let id = head * SLOTS_MAX;
            let slot = slot_of(solo, tables.granules(), id)?;
            let record = Record::new(tables, id);
            slot.contains(Vpn(offset)).then_some(Spot { record, slot, head, bits })
        }
    }
}

#[cfg(test)]
mod tests;
