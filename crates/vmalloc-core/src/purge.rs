//! Purge: a batch of parked areas becomes holes and free frames, for one shootdown.
//!
//! ```text
//!   PARKED ─CAS▶ PURGING(me) ─unmap▶ PendingFlush ┐
//!   PARKED ─CAS▶ PURGING(me) ─unmap▶ PendingFlush ┴join─flush▶ Flushed ─settle▶ holes, frames
//!   LIVE(me) ─CAS▶ PURGING(me) ─…                             freed, and not to be revived: alone
//! ```
//!
//! One step takes at most [`BATCH`] areas, so its caller stalls for no longer than that; a sweep
//! (`purge/sweep.rs`) takes what 128 chunks hold. If the flush fails, each area is tried by itself,
//! and what still fails is parked again: nothing is lost. Any prefix may be done twice: whoever
//! recovers a dead purger starts again from PURGING. Linux: `__purge_vmap_area_lazy`, all at once
//! and under a mutex.

mod sweep;

use crate::class::{CLASSES, Class, SLOT_CLASSES};
use crate::context::Context;
use crate::error::PurgeError;
use crate::flush::{BATCH, Flushed, PendingFlush};
use crate::layout::Stat;
use crate::lazy;
use crate::machine::{Backing, Machine};
use crate::planted::{Bug, is_planted};
use crate::record::{Kind, Record, Shape, State};
use crate::slots::{placed, slot_pages};
use crate::units::{PageRange, Pages};
use core::ops::AddAssign;
pub(crate) use sweep::sweep;

/// What a purge did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Purged {
    /// Areas that are holes now.
    pub areas: usize,
    /// Their pages, without guards.
    pub pages: Pages,
    /// Shootdowns it took.
    pub flushes: usize,
}

/// An area in the batch: its record is PURGING(me).
#[derive(Clone, Copy)]
struct Withdrawn {
    id: usize,
    state: State,
    pages: PageRange,
    backing: Backing,
}

impl AddAssign for Purged {
    fn add_assign(&mut self, step: Purged) {
        self.areas += step.areas;
        self.pages.0 += step.pages.0;
        self.flushes += step.flushes;
    }
}

impl Purged {
    /// Takes steps until one finds nothing; all that they did.
    pub(crate) fn until_none(
        step: impl Fn() -> Result<Purged, PurgeError>,
    ) -> Result<Purged, PurgeError> {
        let mut total = Purged::default();
        loop {
            match step()? {
                Purged { areas: 0, .. } => return Ok(total),
                step => total += step,
            }
        }
    }
}

impl Withdrawn {
    fn new<M: Machine>(
        context: &Context<'_, M>,
        record: Record<'_>,
        state: State,
        slot: PageRange,
        shape: &Shape,
    ) -> Withdrawn {
        let pages = context.view(record.id, slot, shape).pages;
        Withdrawn { id: record.id, state, pages, backing: Backing(shape.backing) }
    }
}

/// Purges up to [`BATCH`] parked areas for which `wanted` says so, and no more once they have `enough`
/// pages. The largest first: fewest areas for the pages. Waits for other CPUs.
pub(crate) fn purge_step<M: Machine>(
    context: &Context<'_, M>,
    enough: Pages,
    wanted: impl Fn(&Record<'_>) -> bool,
) -> Result<Purged, PurgeError> {
    if !context.machine.may_wait() {
        return Err(PurgeError::MayNotWait);
    }
    let mut batch = [None; BATCH];
    let (mut len, mut pages) = (0, 0);
    for class in (0..CLASSES).rev().filter_map(Class::from_index) {
        lazy::each_parked(context, class, |record| {
            let more = len < BATCH && pages < enough.0;
            if more
                && wanted(&record)
                && let Some(withdrawn) = withdraw(context, record)
            {
                pages += withdrawn.pages.len.0;
                batch[len] = Some(withdrawn);
                len += 1;
            }
            !more
        });
    }
    finish(context, &batch)
}

/// Gives back the chunks that were kept for whoever comes next: after a purge that found nothing.
pub(crate) fn retire_idle<M: Machine>(context: &Context<'_, M>) {
    let granules = context.slots().granules;
    (0..SLOT_CLASSES).filter_map(Class::from_index).for_each(|c| granules.retire_idle_of(c));
}

/// Purges an area that its owner frees and that nobody is to revive: LIVE → PURGING(me), with no time
/// on the list. If it cannot be flushed it is parked. `false`: it was in another state.
pub(crate) fn purge_live<M: Machine>(
    context: &Context<'_, M>,
    record: Record<'_>,
    live: State,
) -> bool {
    let Some(slot) = slot_pages(context.tables, record.id) else { return false };
    let state = State::new(Kind::Purging, Some(context.me), live.generation);
    if !record.step(live, state) {
        return false;
    }
    let _ = finish(context, &[Some(Withdrawn::new(context, record, state, slot, &record.shape()))]);
    true
}

/// Purges what a dead member was building or purging: its record is PURGING(me) already. All
/// pages of the slot are flushed, since nobody knows how far it came.
pub(crate) fn purge_dead<M: Machine>(
    context: &Context<'_, M>,
    record: Record<'_>,
    slot: PageRange,
    state: State,
) -> Result<Purged, PurgeError> {
    let backing = Backing(record.shape().backing);
    let pages = context.absolute(slot);
    finish(context, &[Some(Withdrawn { id: record.id, state, pages, backing })])
}

/// PARKED → PURGING(me).
fn withdraw<M: Machine>(context: &Context<'_, M>, record: Record<'_>) -> Option<Withdrawn> {
    let found = placed(context.tables, record).filter(|(s, ..)| s.kind == Kind::Parked);
    let (parked, shape, slot) = found?;
    let state = State::new(Kind::Purging, Some(context.me), parked.generation);
    if !record.step(parked, state) {
        return None;
    }
    lazy::drop_hint(context, record);
    context.sub_lazy(&context.tally(), shape.pages);
    Some(Withdrawn::new(context, record, state, slot, &shape))
}

/// Unmaps the batch, flushes once, and settles each area.
fn finish<M: Machine, const N: usize>(
    context: &Context<'_, M>,
    batch: &[Option<Withdrawn>; N],
) -> Result<Purged, PurgeError> {
    let areas = || batch.iter().flatten();
    if areas().next().is_none() {
        return Ok(Purged::default());
    }
    // Their frames stand in the page tables only: home before those are emptied.
    areas().for_each(|area| decommit(context, area));
    let mut pending = PendingFlush::<N>::with_room();
    areas().for_each(|area| pending.unmap(&context.machine, area.pages));
    if is_planted(Bug::FreedBeforeFlush) {
        areas().for_each(|area| context.machine.unback(area.pages, area.backing));
    }
    let flushed = match pending.flush(&context.machine) {
        Ok(flushed) => flushed,
        Err(_) if areas().count() > 1 => return one_by_one(context, batch),
        Err(e) => {
            areas().for_each(|area| park_again(context, area));
            return Err(PurgeError::Flush(e));
        }
    };
    context.count(Stat::Flushes, 1);
    areas().enumerate().for_each(|(hint, area)| settle(context, area, &flushed, hint));
    let pages = Pages(areas().map(|area| area.pages.len.0).sum());
    Ok(Purged { areas: areas().count(), pages, flushes: 1 })
}

/// Sends home the frames of an area that was filled in parts.
fn decommit<M: Machine>(context: &Context<'_, M>, area: &Withdrawn) {
    if context.record(area.id).flags() & crate::record::flags::COMMIT != 0 {
        context.machine.decommit(area.pages);
    }
}

/// The batch could not be flushed: each area by itself, so that one which never can be does not
/// keep the others for good.
fn one_by_one<M: Machine>(
    context: &Context<'_, M>,
    batch: &[Option<Withdrawn>],
) -> Result<Purged, PurgeError> {
    let mut total = Purged::default();
    let mut failed = None;
    for area in batch.iter().flatten() {
        match finish(context, &[Some(*area)]) {
            Ok(one) => {
                total += one;
            }
            Err(e) => failed = Some(e),
        }
    }
    match failed {
        Some(e) if total.areas == 0 => Err(e),
        _ => Ok(total),
    }
}

/// Frames home, pages to the holes: only with proof that no CPU can reach them.
fn settle<M: Machine, const N: usize>(
    context: &Context<'_, M>,
    area: &Withdrawn,
    flushed: &Flushed<N>,
    hint: usize,
) {
    assert!(flushed.covers_at(hint, area.pages), "{} was not flushed", area.pages);
    if context.record(area.id).flags() & crate::record::flags::RESET_PERMS != 0 {
        context.machine.reset_perms(area.backing);
    }
    if !is_planted(Bug::FreedBeforeFlush) {
        context.machine.unback(area.pages, area.backing);
    }
    let free = State::new(Kind::Free, None, area.state.generation);
    if context.record(area.id).step(area.state, free) {
        context.slots().give(area.id);
    }
    context.count(Stat::Purged, 1);
}

/// The flush failed: the area goes back to the lazy list, mapped nowhere, and not to be revived.
fn park_again<M: Machine>(context: &Context<'_, M>, area: &Withdrawn) {
    let record = context.record(area.id);
    let shape = record.shape();
    let is_torn = |slot: PageRange| {
        area.pages.len != shape.pages || shape.pages.0.saturating_add(shape.guard.0) > slot.len.0
    };
    if M::IN_PLACE && slot_pages(context.tables, area.id).is_some_and(is_torn) {
        // Its builder died: what the record says may be half written. All of the slot goes next
        // time, and is counted until then.
        let pages = area.pages.len;
        record.set_shape(&Shape { pages, guard: Pages(0), backing: pages.0, ..shape });
    }
    record.add_flags(crate::record::flags::NO_REUSE);
    lazy::park(context, record, area.state);
}

#[cfg(test)]
mod tests;
