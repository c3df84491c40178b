//! Recovery: a member died somewhere; whoever comes next finishes what it began.
//!
//! Every step of the engine is one idempotent store or CAS, and a state that is between two
//! steps names its owner. So there is no log: recovery walks the tables once, finds what the dead
//! member was in the middle of, takes it over by CAS, and does the rest of it. The others go on
//! working meanwhile; only one may recover a given member at a time, and if that one dies, too,
//! the next does the same again.
//!
//! ```text
//!   record  BUILDING(dead), PURGING(dead) ─▶ PURGING(me) ─▶ flushed, FREE
//!           LIVE(dead), GIVEN(dead)       ─▶ PARKED          it was nobody else's
//!           FROZEN, SHARED, DYING         ─▶ cell[dead] = 0  and parked if dying and last
//!   granule HELD(dead), orphaned BODY     ─▶ FREE
//!           DRAIN(dead)                   ─▶ DRAIN(me) ─▶ finished, or taken back
//!   hints   bits, index                   ─▶ rebuilt
//! ```

use crate::context::Context;
use crate::grow;
use crate::index::Index;
use crate::layout::{Counter, Stat, ZONES};
use crate::lazy;
use crate::machine::Machine;
use crate::presence::Presence;
use crate::purge;
use crate::record::{Kind, Record, State};
use crate::share;
use crate::slots::slot_pages;
use crate::sync::Ordering;
use crate::tag::{Owner, Tag};
use crate::units::Pages;
use core::ops::AddAssign;

/// How often the parked pages are counted again if the count changes meanwhile.
const RECOUNTS: usize = 64;

/// What recovery found and finished.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Recovered {
    /// Areas that were the dead member's alone, or half made or half purged.
    pub areas: usize,
    /// Areas it was attached to.
    pub detached: usize,
    /// Granules it held.
    pub granules: usize,
}

impl AddAssign for Recovered {
    fn add_assign(&mut self, more: Recovered) {
        self.areas += more.areas;
        self.detached += more.detached;
        self.granules += more.granules;
    }
}

/// Takes over what `dead` left. The caller makes sure that it is dead, that it stays so, and
/// that nobody else recovers it. O(granules + areas).
pub(crate) fn recover<M: Machine>(context: &Context<'_, M>, dead: Owner) -> Recovered {
    let mut found = Recovered::default();
    for zone in 0..ZONES {
        Index::new(context.tables, zone).break_lock(dead);
    }
    let granules = context.tables.geometry().granules;
    for head in 0..granules {
        let slots = match tag(context, head).map(Tag::settled) {
            Some(Tag::Chunk(class)) => class.slots(),
            Some(Tag::Solo { .. }) => 1,
            _ => 0,
        };
        (0..slots).for_each(|slot| recover_area(context, dead, head, slot, &mut found));
        mend_bits(context, head, slots);
    }
    for g in 0..granules {
        found.granules += usize::from(recover_granule(context, dead, g));
    }
    for zone in 0..ZONES {
        Index::new(context.tables, zone).mark_stale();
    }
    context.count(Stat::Recovered, found.areas as u64);
    recount_lazy(context);
    recount(context);
    found
}

/// Has the machine count anew what it has given out.
pub(crate) fn recount<M: Machine>(context: &Context<'_, M>) {
    context.machine.recovered(&|| held_pages(context));
}

/// Pages of all areas, parked ones too: what the machine has given out. `None` while an area is
/// between two states, and so is what it holds; or if a reservation was made meanwhile.
fn held_pages<M: Machine>(context: &Context<'_, M>) -> Option<Pages> {
    let births = || context.tables.counter(Counter::Births).load(Ordering::SeqCst);
    let before = births();
    let mut sum = Pages(0);
    let mut head = 0;
    while head < context.tables.geometry().granules {
        let (granules, slots) = match tag(context, head) {
            Some(Tag::Chunk(class)) => (class.chunk_granules(), class.slots()),
            Some(Tag::Solo { granules }) => (granules.max(1), 1),
            _ => (1, 0),
        };
        for slot in 0..slots {
            let record = Record::of(context.tables, head, slot);
            // A word that we never write holds nothing.
            let Some(state) = record.state() else { continue };
            match state.kind {
                Kind::Free => {}
                Kind::Building | Kind::Purging => return None,
                _ => {
                    let (now, shape) = record.snapshot()?;
                    let slot = slot_pages(context.tables, record.id)?;
                    let grows = record.grower(now.generation).is_some();
                    if grows || matches!(now.kind, Kind::Building | Kind::Purging) {
                        return None;
                    }
                    sum.0 += if now.kind == Kind::Free { 0 } else { shape.pages.min(slot.len).0 };
                }
            }
        }
        head = head.saturating_add(granules);
    }
    (births() == before).then_some(sum)
}

fn recover_area<M: Machine>(
    context: &Context<'_, M>,
    dead: Owner,
    head: usize,
    slot: usize,
    found: &mut Recovered,
) {
    let record = Record::of(context.tables, head, slot);
    let Some(state) = record.state() else { return };
    match state.kind {
        Kind::Building | Kind::Purging if state.owner == Some(dead) => {
            let mine = State::new(Kind::Purging, Some(context.me), state.generation);
            if let Some(pages) = slot_pages(context.tables, record.id)
                && record.step(state, mine)
            {
                found.areas += 1;
                // If the flush fails the area is parked: the next purge tries again.
                let _ = purge::purge_dead(context, record, pages, mine);
            }
        }
        Kind::Live | Kind::Given if state.owner == Some(dead) => {
            found.areas += usize::from(lazy::park(context, record, state));
            lazy::disown(record, dead);
        }
        Kind::Parked => lazy::disown(record, dead),
        Kind::Frozen | Kind::Shared | Kind::Dying => {
            let presence = Presence::of(context.tables, record.id);
            found.detached += usize::from(presence.holds(dead, state.generation));
            presence.erase(dead);
            grow::recover(context, record, dead, state.generation);
            // So that it does not count as its successor's.
            lazy::disown(record, dead);
            share::reap(context, record);
        }
        _ => {}
    }
}

/// Bits that the dead member set and came no further, or did not come to set. The records say
/// what they should be; others are at work, so each is looked at again after its bit was changed.
fn mend_bits<M: Machine>(context: &Context<'_, M>, head: usize, slots: usize) {
    for record in (0..slots).map(|slot| Record::of(context.tables, head, slot)) {
        if record.state().is_some_and(|s| s.kind == Kind::Parked) {
            lazy::mend_hint(context, record.id);
        }
    }
    let Some(Tag::Chunk(class)) = tag(context, head) else { return };
    let taken = context.tables.taken(head);
    for slot in 0..slots {
        let (record, bit) = (Record::of(context.tables, head, slot), 1 << slot);
        if record.is_free() {
            taken.fetch_and(!bit, Ordering::SeqCst);
        }
        if !record.is_free() {
            taken.fetch_or(bit, Ordering::SeqCst);
            if record.is_free() {
                taken.fetch_and(!bit, Ordering::SeqCst);
            }
        }
    }
    // Made or emptied by the dead member, which did not come to retire it?
    let is_empty = taken.load(Ordering::SeqCst) == 0;
    if !(is_empty && context.slots().granules.retire(head)) {
        context.tables.chunks_with_room(class).mend(head);
    }
}

/// Counts the parked pages again: the dead member may have counted an area and come no further,
/// or the other way round. Exact if nobody parks or revives meanwhile.
fn recount_lazy<M: Machine>(context: &Context<'_, M>) {
    let counter = context.tables.counter(Counter::LazyPages);
    for _ in 0..RECOUNTS {
        let (before, in_lanes) = (counter.load(Ordering::SeqCst), context.lazy_in_lanes());
        let areas = crate::info::Areas::new(context);
        let parked = areas.filter(|area| area.kind == Kind::Parked).map(|area| area.pages.len.0);
        let parked = parked.sum::<u64>().wrapping_sub(in_lanes);
        if context.lazy_in_lanes() != in_lanes {
            continue;
        }
        let counted = counter.compare_exchange(before, parked, Ordering::SeqCst, Ordering::Relaxed);
        if counted.is_ok() {
            return;
        }
    }
}

fn recover_granule<M: Machine>(context: &Context<'_, M>, dead: Owner, g: usize) -> bool {
    let word = context.tables.tag(g);
    let bits = word.load(Ordering::Acquire);
    let step = |to: Tag| {
        word.compare_exchange(bits, to.encode(), Ordering::SeqCst, Ordering::Relaxed).is_ok()
    };
    match Tag::decode(bits) {
        Some(Tag::Held(owner)) if owner == dead => {
            // A solo area's record is claimed before its granules are published.
            // Without memory to look at it the granule stays held: the next recovery tries again.
            if context.machine.commit_words(context.tables.geometry().record_words(g)).is_err() {
                return false;
            }
            let record = Record::of(context.tables, g, 0);
            if let Some(state) = record.state()
                && state.kind == Kind::Building
                && state.owner == Some(dead)
            {
                record.step(state, State::new(Kind::Free, None, state.generation));
            }
            step(Tag::Free)
        }
        Some(Tag::Body { head, owner }) if owner == dead && !covers(context, head, g) => {
            step(Tag::Free)
        }
        Some(Tag::Drain { owner, granules, class }) if owner == dead => {
            let mine = Tag::Drain { owner: context.me, granules, class };
            if !step(mine) {
                return false;
            }
            let end = (g + granules).min(context.tables.geometry().granules);
            let intact = (g + 1..end)
                .all(|b| matches!(tag(context, b), Some(Tag::Body { head, .. }) if head == g));
            let granules_of = context.slots().granules;
            if intact && granules_of.lives_in(g, class) {
                // It had only begun to look, and somebody lives here: as you were.
                let back = class.map_or(Tag::Solo { granules }, Tag::Chunk);
                word.store(back.encode(), Ordering::Release);
            } else {
                granules_of.finish_drain(g, granules, class);
            }
            true
        }
        // A solo run whose area is free: its owner died between the two.
        Some(Tag::Solo { .. }) if Record::of(context.tables, g, 0).is_free() => {
            context.slots().granules.retire(g)
        }
        _ => false,
    }
}

/// Whether what begins at `head` reaches granule `g`.
fn covers<M: Machine>(context: &Context<'_, M>, head: usize, g: usize) -> bool {
    if head >= g {
        return false;
    }
    let granules = match tag(context, head) {
        Some(Tag::Drain { granules, .. }) => granules,
        Some(tag) => tag.granules().unwrap_or(0),
        None => 0,
    };
    g - head < granules
}

fn tag<M: Machine>(context: &Context<'_, M>, g: usize) -> Option<Tag> {
    Tag::decode(context.tables.tag(g).load(Ordering::Acquire))
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod bystanders;
