//! The lazy list: freed areas that still show their frames.
//!
//! Freeing an area neither unmaps nor flushes it: one round of IPIs a free would cost more than
//! the free. The area is *parked* here, mapping and frames and all. If the same shape is asked
//! for again it is *revived*: no frame, no table, no flush. Otherwise a purge takes a batch and
//! flushes once.
//!
//! ```text
//!   vfree ─park▶ PARKED ─┬─ same pages wanted: revive ─▶ LIVE      (zeroed if another's, or asked)
//!                        └─ over the limit, no hole, no frame: purge ─▶ holes, frames
//! ```
//!
//! There is no list to tear: the state word says PARKED, a bit a slot and a tree a class say
//! where to look. Invariants: a parked area is in nobody's use; its frames are free to no one.
//! Neighbours: [`crate::purge`] empties it, [`crate::refit`] gives its areas other sizes. Linux:
//! `purge_vmap_area_root` and the size pools; it keeps addresses only, and gives the frames away
//! before the flush.

use crate::class::{CLASSES, Class, SLOTS_MAX, granules_for};
use crate::context::{Context, Tally};
use crate::layout::Stat;
use crate::machine::{Backing, Machine};
use crate::planted::{Bug, is_planted};
use crate::policy::FramePolicy;
use crate::publish::{Area, make_live};
use crate::record::{Kind, Record, Shape, State, flags, next_generation};
use crate::request::Plan;
use crate::slots::{placed, slot_and_tag, slot_pages};
use crate::sync::Ordering;
use crate::tag::{Owner, Tag};
use crate::units::{PageRange, Pages};
use core::cell::Cell;

/// The most parked areas that `revive` looks at before it gives up.
pub(crate) const LOOKS_MAX: usize = 64;
/// The most chunks of other lanes that it passes by meanwhile: a load each.
const PASSES_MAX: usize = 512;

/// So much may be parked before one makes do with what is parked, but does not fit as it is: 64 MiB.
const FLOOR: Pages = Pages(64 << 8);
/// And one part in so many of what is in use.
const IN_USE_PART: u64 = 2;

/// How often an area is disowned that changes meanwhile: published, dying, parked, and then some.
const DISOWNS: usize = 8;

/// Areas with one of these are purged, and never given to whoever asks for pages of their shape. What
/// `vmap` showed is taken back only to show the same frames (`engine/warm.rs`).
pub(crate) const NEVER_REVIVED: u64 =
    flags::FOREIGN | flags::RESERVED | flags::NO_REUSE | flags::PLACED;

/// Parks an area whose state is `from` (LIVE, DYING or BUILDING, ours to move). `false`: it was
/// in another state. Never waits, never allocates.
pub(crate) fn park<M: Machine>(context: &Context<'_, M>, record: Record<'_>, from: State) -> bool {
    let (pages, flags) = (record.pages(), record.flags());
    if flags & flags::OLD != 0 {
        record.drop_flags(flags::OLD); // it was in use since
    }
    let tally = context.tally();
    // What others wrote is nobody's afterwards: whoever revives it zeroes it. What was frozen, in
    // place, its maker alone has written.
    let is_makers = from.kind == Kind::Live
        || from.kind == Kind::Dying && M::IN_PLACE && flags & flags::OTHERS_WROTE == 0;
    let owner = from.owner.filter(|_| is_makers);
    // Counted before it can be found, so that nobody counts it out before it is counted in.
    context.add_lazy(&tally, pages);
    if !record.step(from, State::new(Kind::Parked, owner, from.generation)) {
        context.sub_lazy(&tally, pages);
        return false;
    }
    hint(context, record.id);
    if flags & NEVER_REVIVED == 0 {
        // Relaxed: a hint; whoever follows it looks at the record.
        tally.last_parked().store(record.id as u64 + 1, Ordering::Relaxed);
    }
    true
}

/// Says of every parked area that was `owner`'s last that it was nobody's, so that whoever has
/// the same number next zeroes what it revives.
pub(crate) fn disown_all<M: Machine>(context: &Context<'_, M>, owner: Owner) {
    all_parked(context, |record| disown(record, owner));
}

/// The same of one area, which may be published or dying still.
pub(crate) fn disown(record: Record<'_>, owner: Owner) {
    for _ in 0..DISOWNS {
        let kinds = [Kind::Parked, Kind::Frozen, Kind::Shared, Kind::Dying];
        let owned = |s: &State| kinds.contains(&s.kind) && s.owner == Some(owner);
        let Some(state) = record.state().filter(owned) else { return };
        if record.step(state, State { owner: None, ..state }) {
            return;
        }
        // Another freed or parked it meanwhile: its owner may stand there still.
    }
}

/// Says where a parked area is. Idempotent.
pub(crate) fn hint<M: Machine>(context: &Context<'_, M>, id: usize) {
    let (head, slot) = (id / SLOTS_MAX, id % SLOTS_MAX);
    if let Some(class) = class_at(context, head) {
        let (parked, chunks) =
            (context.tables.parked(head), context.tables.chunks_with_parked(class));
        // Hints stay while an area is in use and parked again: then there is nothing to write.
        // SeqCst, and after the state: whoever takes the hint back looks at the state after that.
        if parked.load(Ordering::SeqCst) >> slot & 1 == 0 {
            parked.fetch_or(1 << slot, Ordering::SeqCst);
        }
        if !chunks.contains(head) {
            chunks.set(head);
        }
    }
}

/// The same after a death: what should be there already is written again.
pub(crate) fn mend_hint<M: Machine>(context: &Context<'_, M>, id: usize) {
    let (head, slot) = (id / SLOTS_MAX, id % SLOTS_MAX);
    if let Some(class) = class_at(context, head) {
        context.tables.parked(head).fetch_or(1 << slot, Ordering::SeqCst);
        context.tables.chunks_with_parked(class).mend(head);
    }
}

/// Takes a parked area of the planned shape back into use, wherever the hints say that one is; where
/// the machine lends, one of up to twice the pages will do. Of other lanes' chunks only if enough is
/// parked (`low`, as for [`crate::refit`]; over page tables the high mark) or too little free: who
/// takes a neighbour of what another thread uses meets him on each call from then on.
pub(crate) fn revive<M: Machine>(
    context: &Context<'_, M>,
    plan: &Plan,
    low: Pages,
) -> Option<Area> {
    if plan.flags & NEVER_REVIVED != 0 {
        return None;
    }
    if let Some(area) = revive_hinted(context, plan) {
        return Some(area);
    }
    let lane = context.machine.lane().index;
    let others = Cell::new(false);
    let is_mine = |head| {
        let is_mine = context.tables.home(head).is(lane);
        others.set(others.get() || !is_mine);
        is_mine
    };
    revive_where(context, plan, is_mine).or_else(|| {
        let takes = others.get() && is_short(context, plan, low);
        takes.then(|| revive_where(context, plan, |head| !context.tables.home(head).is(lane)))?
    })
}

/// The same, of those chunks that `is_wanted` names; a solo area has no neighbours, and will do
/// wherever it is.
fn revive_where<M: Machine>(
    context: &Context<'_, M>,
    plan: &Plan,
    is_wanted: impl Fn(usize) -> bool,
) -> Option<Area> {
    let first = class_of(plan);
    let fit = if M::BORROWS { Fit::Twice } else { Fit::Exact };
    let (looks, passes) = (Cell::new(0), Cell::new(0));
    let mut found = None;
    for class in first.index()..=first.last_for_twice().index() {
        let class = Class::from_index(class)?;
        let is_wanted = |head| {
            let is_wanted = class.is_solo() || is_wanted(head);
            passes.set(passes.get() + usize::from(!is_wanted));
            (passes.get() <= PASSES_MAX).then_some(is_wanted)
        };
        each_parked_where(context, class, is_wanted, |record| {
            looks.set(looks.get() + 1);
            found = revive_one(context, plan, fit, record);
            found.is_some() || looks.get() >= LOOKS_MAX
        });
        if found.is_some() || fit == Fit::Exact || looks.get() >= LOOKS_MAX {
            break;
        }
    }
    found
}

/// Whether it is time to make do with what is parked, whatever it is: enough is, or too few frames
/// are free.
pub(crate) fn is_short<M: Machine>(context: &Context<'_, M>, plan: &Plan, low: Pages) -> bool {
    let parked = context.lazy_pages_about(&context.tally());
    let in_use = context.machine.held().0.saturating_sub(parked.0);
    let enough = Pages(in_use / IN_USE_PART).max(FLOOR).min(low);
    // Too few are free: other lanes may have parked what is not seen here.
    parked > Pages(0) && parked >= enough || context.machine.free() < plan.pages
}

/// Takes what this thread's lane parked last, if it will do: zeroed where that is wanted, or where
/// it was nobody's.
fn revive_hinted<M: Machine>(context: &Context<'_, M>, plan: &Plan) -> Option<Area> {
    let id = (context.tally().last_parked().load(Ordering::Relaxed) as usize).wrapping_sub(1);
    // Checked: any member may have written the word.
    slot_pages(context.tables, id)?;
    revive_one(context, plan, Fit::Exact, context.record(id))
}

/// Takes what this thread's lane parked last, if it will do as it is: the same size again and again
/// is found without a search, whatever else is parked beside it.
#[inline(always)] // the shortest way, of a kernel and of a pool
pub(crate) fn revive_last<M: Machine>(context: &Context<'_, M>, plan: &Plan) -> Option<Area> {
    let tally = context.tally();
    let id = (tally.last_parked().load(Ordering::Relaxed) as usize).wrapping_sub(1);
    // Checked: any member may have written the word.
    let (slot, tag) = slot_and_tag(context.tables, id)?;
    let record = context.record(id);
    let parked = record.is_in(Kind::Parked, context.me)?;
    let shape = record.shape();
    // While an area is parked there, its chunk stays of its class: so look again, if it is.
    let is_there = context.tables.tag(id / SLOTS_MAX).load(Ordering::Acquire) == tag;
    let fits = shape.pages == plan.pages && !plan.zeroed;
    if !is_there || !fits || !is_alike(context, plan, &shape, slot) {
        return None;
    }
    let generation = next_generation(parked.generation);
    let live = State::new(Kind::Live, Some(context.me), generation);
    // What was read above was this tenant's, or the generation is another one now.
    if !record.step(parked, live) && !is_planted(Bug::DoublePublish) {
        return None;
    }
    retake(context, &tally, plan, record, slot, live, shape)
}

/// Takes a parked area of at least the planned pages back into use: for a caller that found no
/// room and may not wait for a purge. It needs no flush, since what it maps does not change.
pub(crate) fn borrow_larger<M: Machine>(context: &Context<'_, M>, plan: &Plan) -> Option<Area> {
    let mut found = None;
    for class in (0..CLASSES).filter_map(Class::from_index) {
        each_parked(context, class, |record| {
            found = revive_one(context, plan, Fit::Larger, record);
            found.is_some()
        });
        if found.is_some() {
            break;
        }
    }
    found
}

/// Visits the parked areas of a class until `done`; cleans up hints that lead nowhere.
pub(crate) fn each_parked<M: Machine>(
    context: &Context<'_, M>,
    class: Class,
    done: impl FnMut(Record<'_>) -> bool,
) {
    each_parked_where(context, class, |_| Some(true), done);
}

/// Visits all parked areas, of every class.
pub(crate) fn all_parked<M: Machine>(context: &Context<'_, M>, mut act: impl FnMut(Record<'_>)) {
    for class in (0..CLASSES).filter_map(Class::from_index) {
        each_parked(context, class, |record| {
            act(record);
            false
        });
    }
}

/// As [`each_parked`], in those chunks that `is_wanted` names by their heads, until it says `None`.
fn each_parked_where<M: Machine>(
    context: &Context<'_, M>,
    class: Class,
    is_wanted: impl Fn(usize) -> Option<bool>,
    mut done: impl FnMut(Record<'_>) -> bool,
) {
    let chunks = context.tables.chunks_with_parked(class);
    let mut from = 0;
    while let Some(head) = chunks.next(from) {
        from = head + 1;
        match is_wanted(head) {
            Some(true) => {}
            Some(false) => continue,
            None => return,
        }
        let parked = context.tables.parked(head);
        let mut bits = parked.load(Ordering::Acquire);
        while bits != 0 {
            let slot = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let record = Record::of(context.tables, head, slot);
            let is_parked = record.state().is_some_and(|s| s.kind == Kind::Parked);
            match slot_pages(context.tables, record.id).filter(|_| is_parked) {
                Some(_) if done(record) => return,
                Some(_) => {}
                None => drop_hint(context, record),
            }
        }
        if parked.load(Ordering::SeqCst) == 0 {
            chunks.clear(head);
            if parked.load(Ordering::SeqCst) != 0 {
                chunks.set(head);
            }
        }
    }
}

/// Takes back the hint for an area that is parked no more. If it was parked again meanwhile,
/// the hint is set again.
pub(crate) fn drop_hint<M: Machine>(context: &Context<'_, M>, record: Record<'_>) {
    let (head, slot) = (record.id / SLOTS_MAX, record.id % SLOTS_MAX);
    context.tables.parked(head).fetch_and(!(1 << slot), Ordering::SeqCst);
    if record.state().is_some_and(|s| s.kind == Kind::Parked) {
        hint(context, record.id);
    }
}

/// Which parked areas will do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Exact,
    /// Up to twice the pages.
    Twice,
    Larger,
}

fn revive_one<M: Machine>(
    context: &Context<'_, M>,
    plan: &Plan,
    fit: Fit,
    record: Record<'_>,
) -> Option<Area> {
    let parked = placed(context.tables, record).filter(|(s, ..)| s.kind == Kind::Parked);
    let (state, shape, slot) = parked?;
    let fits = match fit {
        Fit::Exact => shape.pages == plan.pages,
        Fit::Twice => shape.pages >= plan.pages && shape.pages.0 / 2 <= plan.pages.0,
        Fit::Larger => shape.pages >= plan.pages,
    };
    if !fits || !is_alike(context, plan, &shape, slot) {
        return None;
    }
    if !plan.zeroed && state.owner == Some(context.me) {
        // Nothing to do before it is seen: one step.
        let generation = next_generation(state.generation);
        let live = State::new(Kind::Live, Some(context.me), generation);
        return (record.step(state, live) || is_planted(Bug::DoublePublish))
            .then(|| retake(context, &context.tally(), plan, record, slot, live, shape))?;
    }
    rebuild(context, plan, &Parked { record, state, shape, slot }, |new| {
        show(context, record, slot, &new).then_some(new)
    })
}

/// A parked area, as it was when it was looked at.
#[derive(Clone, Copy)]
pub(crate) struct Parked<'a> {
    pub(crate) record: Record<'a>,
    pub(crate) state: State,
    pub(crate) shape: Shape,
    pub(crate) slot: PageRange,
}

/// PARKED → BUILDING(me) → LIVE, for an area that is not to be seen as it is: `fit` is given what
/// it is to be, and says what it has become; if nothing, the area is parked again as it was.
pub(crate) fn rebuild<M: Machine>(
    context: &Context<'_, M>,
    plan: &Plan,
    parked: &Parked<'_>,
    fit: impl FnOnce(Shape) -> Option<Shape>,
) -> Option<Area> {
    let Parked { record, state, shape, slot } = *parked;
    let mine = State::new(Kind::Building, Some(context.me), next_generation(state.generation));
    if !record.step(state, mine) {
        return None;
    }
    let tally = context.tally();
    // A purge that failed meanwhile parks it again under the same number, and spoils it.
    let but_for_age = |shape: Shape| Shape { flags: shape.flags | flags::OLD, ..shape };
    let is_whole = but_for_age(record.shape()) == but_for_age(shape);
    context.sub_lazy(&tally, record.pages());
    let Some(new) = is_whole.then(|| for_tenant(plan, shape)).and_then(fit) else {
        park(context, record, mine);
        return None;
    };
    record.set_shape(&new);
    if plan.zeroed || state.owner != Some(context.me) {
        // What was committed behind it is zero already.
        let kept = Shape { pages: shape.pages.min(new.pages), ..new };
        context.machine.zero(&context.view(record.id, slot, &kept));
    }
    tally.add(Stat::Revives, 1);
    Some(make_live(context, record, slot, mine, &new))
}

/// What a parked area's record says when it is the planned one's.
#[inline(always)] // as `revive_last`
fn for_tenant(plan: &Plan, shape: Shape) -> Shape {
    let flags = plan.flags | shape.flags & flags::CELLS;
    Shape { bytes: plan.bytes, caller: plan.caller, flags, ..shape }
}

/// Shows this process an area that is mapped. In place, each member has guard pages of its own:
/// this one's may be missing.
#[inline(always)] // as `revive_last`
pub(crate) fn show<M: Machine>(
    context: &Context<'_, M>,
    record: Record<'_>,
    slot: PageRange,
    shape: &Shape,
) -> bool {
    !M::IN_PLACE || context.machine.map(&context.view(record.id, slot, shape)).is_ok()
}

/// Whether a parked area will do, but for its pages.
#[inline(always)] // a few comparisons
pub(crate) fn is_alike<M: Machine>(
    context: &Context<'_, M>,
    plan: &Plan,
    shape: &Shape,
    slot: PageRange,
) -> bool {
    let alike = flags::HUGE | flags::PROT | FramePolicy::BITS;
    shape.guard == plan.guard
        && (shape.flags ^ plan.flags) & alike == 0
        && (shape.flags | plan.flags) & NEVER_REVIVED == 0
        // A power of two: the plan says so.
        && context.absolute(slot).start.0 & plan.want.align.0.wrapping_sub(1) == 0
        && context.machine.is_exclusive(Backing(shape.backing))
}

/// After PARKED → LIVE of an area that was ours: whose it is now, and what this process sees of it.
#[inline(always)] // as `revive_last`
fn retake<M: Machine>(
    context: &Context<'_, M>,
    tally: &Tally<'_>,
    plan: &Plan,
    record: Record<'_>,
    slot: PageRange,
    live: State,
    shape: Shape,
) -> Option<Area> {
    if !is_planted(Bug::LostCounter) {
        context.sub_lazy(tally, shape.pages);
    }
    let shape = for_tenant(plan, shape);
    record.set_tenant(shape.bytes, shape.caller, shape.flags);
    if !show(context, record, slot, &shape) {
        park(context, record, live);
        return None;
    }
    tally.add(Stat::Revives, 1);
    Some(Area::new(context, record.id, slot, live, &shape))
}

/// Where an area of the planned shape is found when it is parked.
pub(crate) fn class_of(plan: &Plan) -> Class {
    let class = Class::for_span(plan.want.span);
    let solo = plan.want.zone != 0 || plan.want.align.0 > crate::class::GRANULE_PAGES;
    if solo { Class::solo(granules_for(plan.want.span)) } else { class }
}

fn class_at<M: Machine>(context: &Context<'_, M>, head: usize) -> Option<Class> {
    match Tag::decode(context.tables.tag(head).load(Ordering::Acquire))?.settled() {
        Tag::Chunk(class) => Some(class),
        Tag::Solo { granules } => Some(Class::solo(granules)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
