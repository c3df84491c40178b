//! Resize: an area made longer or shorter where it lies.
//!
//! ```text
//!   LIVE ─▶ BUILDING ─┬ grow:   more granules? ─▶ extend the backing ─▶ map the new pages ─┬▶ LIVE
//!                     └ shrink: unmap the tail ─▶ PendingFlush ─▶ Flushed ─▶ truncate ─────┘
//! ```
//!
//! Only for an area that is one member's alone. What cannot be had in place is an error that
//! leaves the area as it was; moving is the caller's. Linux: `vrealloc`, which grows in place
//! into frames it already has, and never into more.

use crate::class::{GRANULE_SHIFT, SLOTS_MAX, granules_for};
use crate::context::Context;
use crate::error::ResizeError;
use crate::flush::{PendingFlush, unmap};
use crate::layout::Counter;
use crate::machine::{Backing, Machine, View};
use crate::policy::FramePolicy;
use crate::publish::{Area, AreaId};
use crate::record::{Kind, Record, Shape, State, flags};
use crate::share::record_of;
use crate::slots::slot_pages;
use crate::sync::Ordering;
use crate::tag::Tag;
use crate::units::{PageRange, Pages};

/// Gives the tenant `generation` of area `id`, this member's alone, `bytes` bytes. If it says that
/// it holds `known` pages, a record that says otherwise is refused.
pub(crate) fn resize<M: Machine>(
    context: &Context<'_, M>,
    id: AreaId,
    generation: u64,
    known: Option<Pages>,
    bytes: u64,
    zeroed: bool,
) -> Result<Area, ResizeError> {
    if bytes == 0 {
        return Err(ResizeError::ZeroSize);
    }
    if !context.machine.may_wait() {
        return Err(ResizeError::MayNotWait);
    }
    let stale = ResizeError::Stale { generation };
    let record = record_of(context, id).ok_or(stale)?;
    let live = State::new(Kind::Live, Some(context.me), generation);
    // While it is BUILDING, whoever finds us dead purges all of the slot.
    let building = State { kind: Kind::Building, ..live };
    if !record.step(live, building) {
        return Err(stale);
    }
    let resized = resize_building(context, record, known, bytes, zeroed);
    record.step(building, live);
    let shape = resized?;
    let slot = slot_pages(context.tables, record.id).ok_or(stale)?;
    Ok(Area::new(context, record.id, slot, live, &shape))
}

/// Notes that the same tenant uses `bytes` of the pages that it has, which are enough. Never
/// waits; no page changes.
pub(crate) fn note_bytes<M: Machine>(
    context: &Context<'_, M>,
    id: AreaId,
    generation: u64,
    bytes: u64,
) -> Result<Area, ResizeError> {
    let stale = ResizeError::Stale { generation };
    let record = record_of(context, id).ok_or(stale)?;
    let live = State::new(Kind::Live, Some(context.me), generation);
    let building = State { kind: Kind::Building, ..live };
    if !record.step(live, building) {
        return Err(stale);
    }
    let shape = Shape { bytes, ..record.shape() };
    record.set_shape(&shape);
    record.step(building, live);
    let slot = slot_pages(context.tables, record.id).ok_or(stale)?;
    Ok(Area::new(context, record.id, slot, live, &shape))
}

fn resize_building<M: Machine>(
    context: &Context<'_, M>,
    record: Record<'_>,
    known: Option<Pages>,
    bytes: u64,
    zeroed: bool,
) -> Result<Shape, ResizeError> {
    let pages = Pages::for_bytes(bytes);
    // Read once: what is checked here is what is used below.
    let shape = record.shape();
    if let Some(known) = known.filter(|known| *known != shape.pages) {
        return Err(ResizeError::Forged { known, recorded: shape.pages });
    }
    // One whose protection is to be put back has frames that must not go home before that.
    let fixed = flags::FOREIGN | flags::RESERVED | flags::RESET_PERMS;
    if shape.flags & fixed != 0 {
        return Err(ResizeError::NotMine);
    }
    if pages != shape.pages && !context.machine.is_exclusive(Backing(shape.backing)) {
        return Err(ResizeError::Shown);
    }
    let new = Shape { bytes, pages, ..shape };
    let new = match pages.cmp(&shape.pages) {
        core::cmp::Ordering::Equal => new,
        core::cmp::Ordering::Greater => grow(context, record, &shape, new, zeroed)?,
        core::cmp::Ordering::Less => shrink(context, record, &shape, new)?,
    };
    record.set_shape(&new);
    Ok(new)
}

pub(crate) fn grow<M: Machine>(
    context: &Context<'_, M>,
    record: Record<'_>,
    old: &Shape,
    new: Shape,
    zeroed: bool,
) -> Result<Shape, ResizeError> {
    let slot = room_for(context, record, &new)?;
    let before = context.view(record.id, slot, old);
    let more = PageRange { start: before.pages.end(), len: Pages(new.pages.0 - old.pages.0) };
    let policy = FramePolicy::of(old.flags);
    let backing = context.machine.extend(&before, more, policy).map_err(|e| {
        guard_again(context, &before);
        ResizeError::Back(e)
    })?;
    let new = Shape { backing: backing.0, birth: next_birth(context), ..new };
    let after = context.view(record.id, slot, &new);
    if let Err(e) = context.machine.map_more(&after, more) {
        // A CPU may have looked while a part of it was mapped.
        let _ = PendingFlush::after_failed_map(more).flush(&context.machine);
        context.machine.truncate(&after, old.pages);
        guard_again(context, &before);
        return Err(ResizeError::Map(e));
    }
    if zeroed && !M::FRESH_IS_ZERO {
        context.machine.zero_more(&after, more);
    }
    context.machine.publish(more);
    Ok(new)
}

/// A machine in place may have taken the guard out of the way already.
fn guard_again<M: Machine>(context: &Context<'_, M>, view: &View) {
    if M::IN_PLACE {
        let none = PageRange { start: view.pages.end(), len: Pages(0) };
        let _ = context.machine.map_more(view, none);
    }
}

pub(crate) fn shrink<M: Machine>(
    context: &Context<'_, M>,
    record: Record<'_>,
    old: &Shape,
    new: Shape,
) -> Result<Shape, ResizeError> {
    let stale = ResizeError::NotMine;
    let slot = slot_pages(context.tables, record.id).ok_or(stale)?;
    let before = context.view(record.id, slot, old);
    let new = Shape { birth: next_birth(context), ..new };
    let after = context.view(record.id, slot, &new);
    let tail = PageRange { start: after.pages.end(), len: Pages(old.pages.0 - new.pages.0) };
    context.machine.split(tail.start).map_err(ResizeError::Map)?;
    // The guard moves first: if it cannot, nothing has changed.
    let none = PageRange { start: tail.start, len: Pages(0) };
    context.machine.map_more(&after, none).map_err(ResizeError::Map)?;
    unmap(&context.machine, tail).flush(&context.machine).map_err(|e| {
        // Only a machine in place can fail here, and what it shows is as it was: the guard back.
        let _ = context.machine.map_more(&View { birth: next_birth(context), ..before }, tail);
        ResizeError::Flush(e)
    })?;
    let backing = context.machine.truncate(&before, new.pages);
    Ok(Shape { backing: backing.0, ..new })
}

/// The slot, long enough for the new shape: a solo area takes the granules behind it, if nobody
/// has them.
fn room_for<M: Machine>(
    context: &Context<'_, M>,
    record: Record<'_>,
    new: &Shape,
) -> Result<PageRange, ResizeError> {
    let span = Pages(new.pages.0 + new.guard.0);
    let slot = slot_pages(context.tables, record.id).ok_or(ResizeError::NotMine)?;
    let no_room = ResizeError::NoRoom { wanted: span, slot: slot.len };
    if span <= slot.len {
        return Ok(slot);
    }
    let head = record.id / SLOTS_MAX;
    let tag = Tag::decode(context.tables.tag(head).load(Ordering::Acquire));
    let Some(Tag::Solo { granules }) = tag else { return Err(no_room) };
    let huge = new.flags & flags::HUGE != 0;
    let multiple = if huge { crate::HUGE_PAGES >> GRANULE_SHIFT } else { 1 };
    let wanted = granules_for(span).next_multiple_of(multiple as usize);
    if !context.slots().granules.extend(head, granules, wanted) {
        return Err(no_room);
    }
    slot_pages(context.tables, record.id).ok_or(no_room)
}

fn next_birth<M: Machine>(context: &Context<'_, M>) -> u64 {
    context.tables.counter(Counter::Births).fetch_add(1, Ordering::Relaxed).wrapping_add(1)
}

#[cfg(test)]
mod tests;
