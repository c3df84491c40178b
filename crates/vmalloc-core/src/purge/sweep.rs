//! Sweep: as many parked areas as 128 chunks hold become holes and free frames, for one shootdown.
//!
//! Where the page tables are ours a flush may cover more than was unmapped, and costs an interrupt
//! to every CPU whatever it covers. So a sweep lists no areas. It keeps a word a chunk, a bit a
//! slot, and the records themselves say what was withdrawn: they are PURGING(me).
//!
//! ```text
//!   chunk: PARKED ─CAS▶ PURGING(me), a bit each ─unmap by runs of slots▶ ┐
//!   chunk: …                                                            ┴ one PendingFlush
//!   ─flush▶ Flushed ─▶ chunk by chunk, bit by bit: settle ─▶ holes, frames
//! ```
//!
//! Invariants: as in [`super`]; only a `Flushed` that covers an area settles it, and a purger that
//! died is recovered from the same PURGING. Where a flush takes frames away (machines in place), what
//! lies between two areas may be somebody's: there nothing is swept.
//! Neighbours: called by `engine/care.rs`. Linux: `__purge_vmap_area_lazy`, one flush for the whole
//! list.

use super::{Purged, Withdrawn, decommit, park_again, settle, withdraw};
use crate::class::{CLASSES, Class, SLOTS_MAX};
use crate::context::Context;
use crate::error::PurgeError;
use crate::flush::PendingFlush;
use crate::layout::Stat;
use crate::lazy;
use crate::machine::Machine;
use crate::planted::{Bug, is_planted};
use crate::record::{Kind, Record, State};
use crate::slots::slot_pages;
use crate::units::{PageRange, Pages};

/// The most chunks that one sweep takes from.
pub(crate) const CHUNKS: usize = 128;

/// What was withdrawn of a chunk.
#[derive(Clone, Copy, Default)]
struct Swept {
    head: usize,
    /// A bit a slot.
    slots: u64,
    /// Where in the flush its pages are.
    hint: usize,
}

/// Purges parked areas for which `wanted` says so, the largest first, from up to [`CHUNKS`] chunks,
/// and no more once they have `enough` pages. Waits for other CPUs.
pub(crate) fn sweep<M: Machine>(
    context: &Context<'_, M>,
    enough: Pages,
    wanted: impl Fn(&Record<'_>) -> bool,
) -> Result<Purged, PurgeError> {
    assert!(!M::IN_PLACE, "a flush in place takes frames away");
    if !context.machine.may_wait() {
        return Err(PurgeError::MayNotWait);
    }
    let mut chunks = [Swept::default(); CHUNKS];
    let (mut len, mut purged) = (0, Purged::default());
    for class in (0..CLASSES).rev().filter_map(Class::from_index) {
        lazy::each_parked(context, class, |record| {
            let (head, bit) = (record.id / SLOTS_MAX, 1_u64 << (record.id % SLOTS_MAX));
            let is_new = len == 0 || chunks[len - 1].head != head;
            if purged.pages >= enough || is_new && len == CHUNKS {
                return true;
            }
            if wanted(&record)
                && let Some(area) = withdraw(context, record)
            {
                len += usize::from(is_new);
                let slots = if is_new { 0 } else { chunks[len - 1].slots };
                chunks[len - 1] = Swept { head, slots: slots | bit, hint: 0 };
                purged.areas += 1;
                purged.pages.0 += area.pages.len.0;
            }
            false
        });
    }
    let chunks = &mut chunks[..len];
    if chunks.is_empty() {
        return Ok(purged);
    }
    let mut pending = PendingFlush::empty();
    for chunk in chunks.iter_mut() {
        chunk.hint = unmap(context, chunk, &mut pending);
    }
    let areas = || chunks.iter().flat_map(|chunk| areas_of(context, chunk));
    let flushed = match pending.flush(&context.machine) {
        Ok(flushed) => flushed,
        Err(e) => {
            areas().for_each(|(area, _)| park_again(context, &area));
            return Err(PurgeError::Flush(e));
        }
    };
    context.count(Stat::Flushes, 1);
    areas().for_each(|(area, hint)| settle(context, &area, &flushed, hint));
    Ok(Purged { flushes: 1, ..purged })
}

/// Unmaps what was withdrawn of a chunk, neighbours in one walk with the guard pages between them,
/// which show nothing; which range of `pending` covers it.
fn unmap<M: Machine>(context: &Context<'_, M>, chunk: &Swept, pending: &mut PendingFlush) -> usize {
    let mut run: Option<PageRange> = None;
    let mut hint = None;
    let mut unmap = |run: Option<PageRange>| {
        if let Some(run) = run {
            hint = Some(pending.unmap_about(&context.machine, run, hint));
        }
    };
    for (area, _) in areas_of(context, chunk) {
        // Their frames stand in the page tables only: home before those are emptied.
        decommit(context, &area);
        if is_planted(Bug::FreedBeforeFlush) {
            context.machine.unback(area.pages, area.backing);
        }
        // The slot before this one was withdrawn, too: so all between them is ours.
        let follows = chunk.slots << 1 >> (area.id % SLOTS_MAX) & 1 == 1;
        run = match run {
            Some(before) if follows => Some(before.hull(area.pages)),
            before => {
                unmap(before);
                Some(area.pages)
            }
        };
    }
    unmap(run);
    hint.unwrap_or(0)
}

/// What was withdrawn of a chunk, as its records say it, and where its pages are in the flush.
fn areas_of<M: Machine>(
    context: &Context<'_, M>,
    chunk: &Swept,
) -> impl Iterator<Item = (Withdrawn, usize)> {
    let Swept { head, mut slots, hint } = *chunk;
    core::iter::from_fn(move || {
        while slots != 0 {
            let slot = slots.trailing_zeros() as usize;
            slots &= slots - 1;
            let record = Record::of(context.tables, head, slot);
            if let Some(area) = withdrawn(context, record) {
                return Some((area, hint));
            }
        }
        None
    })
}

/// An area that is PURGING(me). Nobody else moves it, so this is what was withdrawn.
fn withdrawn<M: Machine>(context: &Context<'_, M>, record: Record<'_>) -> Option<Withdrawn> {
    let mine = |state: &State| state.kind == Kind::Purging && state.owner == Some(context.me);
    let state = record.state().filter(mine)?;
    let slot = slot_pages(context.tables, record.id)?;
    Some(Withdrawn::new(context, record, state, slot, &record.shape()))
}
