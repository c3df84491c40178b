//! Grow: a shared area made longer while its members use it.
//!
//! ```text
//!   SHARED, grower = 0 ─CAS▶ grower = me ─▶ more granules, frames, guard ─▶ pages, bytes ─▶ grower = 0
//!                                            not published: nobody sees it    ▲ one store: now they do
//! ```
//!
//! Commit first, publish after: whoever reads the length reads one whose frames are there. A
//! shared area never shrinks, so that a view which somebody has stays good. Only one member may
//! grow an area at a time; the others are told so, and need not wait. If it dies over it, recovery
//! gives back what was not published.
//!
//! Neighbours: [`crate::resize`], for areas that are one member's alone. Linux: nothing; the
//! nearest is `vrealloc`.

use crate::context::Context;
use crate::error::ResizeError;
use crate::flush::unmap;
use crate::machine::{BackError, Machine};
use crate::presence::Presence;
use crate::publish::{Area, AreaId};
use crate::record::{Kind, Record, Shape, State, flags};
use crate::resize::grow;
use crate::share::record_of;
use crate::slots::slot_pages;
use crate::tag::Owner;
use crate::units::{PageRange, Pages};

/// Makes the shared tenant `generation` of area `id`, to which `me` is attached, at least `bytes`
/// bytes long.
pub(crate) fn grow_shared<M: Machine>(
    context: &Context<'_, M>,
    id: AreaId,
    generation: u64,
    bytes: u64,
) -> Result<Area, ResizeError> {
    if !M::IN_PLACE {
        return Err(ResizeError::Back(BackError::Unsupported));
    }
    if !context.machine.may_wait() {
        return Err(ResizeError::MayNotWait);
    }
    let stale = ResizeError::Stale { generation };
    let record = record_of(context, id).ok_or(stale)?;
    let shared = |s: &State| s.kind == Kind::Shared && s.generation == generation;
    record.state().filter(shared).ok_or(stale)?;
    if !Presence::of(context.tables, record.id).holds(context.me, generation) {
        return Err(ResizeError::NotMine);
    }
    record.begin_growing(context.me, generation).map_err(|owner| ResizeError::Busy { owner })?;
    let grown = grow_alone(context, record, bytes);
    record.end_growing(context.me, generation);
    let shape = grown?;
    let state = record.state().ok_or(stale)?;
    let slot = slot_pages(context.tables, record.id).ok_or(stale)?;
    Ok(Area::new(context, record.id, slot, state, &shape))
}

fn grow_alone<M: Machine>(
    context: &Context<'_, M>,
    record: Record<'_>,
    bytes: u64,
) -> Result<Shape, ResizeError> {
    let shape = record.shape();
    if shape.flags & flags::FOREIGN != 0 {
        return Err(ResizeError::NotMine);
    }
    if bytes <= shape.bytes {
        return Ok(shape);
    }
    let pages = Pages::for_bytes(bytes);
    let mut new = Shape { bytes, pages: pages.max(shape.pages), ..shape };
    if new.pages > shape.pages {
        new = grow(context, record, &shape, new, false)?;
    }
    record.lengthen(&new);
    Ok(new)
}

/// Gives back what `dead` had added to a published area, if it came no further. Idempotent.
pub(crate) fn recover<M: Machine>(
    context: &Context<'_, M>,
    record: Record<'_>,
    dead: Owner,
    generation: u64,
) {
    if record.grower(generation) != Some(dead) {
        return;
    }
    if let Some(slot) = slot_pages(context.tables, record.id) {
        let shape = record.shape();
        let view = context.view(record.id, slot, &shape);
        let tail =
            PageRange { start: view.pages.end(), len: Pages(view.slot.len.0 - view.pages.len.0) };
        if tail.len.0 > 0 {
            // If the machine refuses, frames stay that nobody uses, until the slot is used again.
            let _ = unmap(&context.machine, tail).flush(&context.machine);
        }
        // It may have published the pages, and not yet the machine's word for them.
        let backing = context.machine.truncate(&view, view.pages.len);
        record.lengthen(&Shape { backing: backing.0, ..shape });
    }
    record.end_growing(dead, generation);
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::proof::machine::{Pool, owner};
    use crate::{PAGE_SIZE, Publish, Request};

    const PAGE: u64 = PAGE_SIZE as u64;

    /// Goal: a shared area is as long as its last grower asked for, in bytes, too; it never shrinks, and
    /// its number changes with its pages only. Neither a frozen one grows nor another tenant.
    #[test]
    fn a_shared_area_grows_and_no_other() {
        let pool = Pool::small();
        let (engine, context) = (pool.engine(1), pool.context(1));
        let share = |how| {
            let area = engine.vmalloc(&Request::bytes(200 * PAGE - 9)).unwrap();
            engine.share(area.id, area.generation, how).unwrap()
        };
        let (shared, frozen) = (share(Publish::Shared), share(Publish::Frozen));
        let grow = |bytes| engine.grow_shared(shared.area, shared.generation, bytes).unwrap();
        let birth = || context.record(shared.area.0 as usize).shape().birth;
        let first = birth();
        let lengths = [(200 * PAGE, 200), (7, 200), (200 * PAGE - 9, 200)];
        for (bytes, pages) in lengths {
            let grown = grow(bytes);
            assert_eq!((grown.bytes, grown.pages.len, birth()), (200 * PAGE, Pages(pages), first));
        }
        let grown = grow(210 * PAGE + 1);
        assert_eq!((grown.bytes, grown.pages.len), (210 * PAGE + 1, Pages(211)));
        assert_eq!(engine.look(&shared), Ok(grown));
        assert_ne!(birth(), first);
        let (frozen, generation) = (frozen.area, frozen.generation);
        let refused = engine.grow_shared(frozen, generation, 201 * PAGE);
        assert_eq!(refused, Err(ResizeError::Stale { generation }));
        let generation = shared.generation + 1;
        let refused = engine.grow_shared(shared.area, generation, 300 * PAGE);
        assert_eq!(refused, Err(ResizeError::Stale { generation }));
    }

    /// Goal: of a member that died growing an area nothing stays but what it had published, and whoever
    /// lives behind the area keeps its pages. Method: frames behind the length, and the machine's word
    /// for them, as if it had come that far.
    #[test]
    fn what_a_dead_grower_added_goes_and_no_page_more() {
        let pool = Pool::small();
        let (one, two) = (pool.engine(1), pool.context(2));
        let area = |pages| one.vmalloc(&Request::bytes(pages * PAGE)).unwrap();
        let [area, behind] = [area(200), area(200)];
        assert!(behind.pages.start > area.pages.end());
        let token = one.share(area.id, area.generation, Publish::Shared).unwrap();
        let record = record_of(&two, token.area).unwrap();
        record.begin_growing(owner(1), token.generation).unwrap();
        let more = PageRange { start: area.pages.end(), len: Pages(20) };
        pool.backed.lock().unwrap().extend(more.start.0..more.end().0);
        let shape = record.shape();
        record.lengthen(&Shape { backing: 220, ..shape });
        recover(&two, record, owner(2), token.generation);
        assert_eq!((pool.backed(), record.shape().backing), (420, 220), "another's");
        recover(&two, record, owner(1), token.generation);
        assert_eq!((pool.backed(), record.shape()), (400, shape));
        let pages = behind.pages.start.0..behind.pages.end().0;
        assert!(pages.into_iter().all(|page| pool.backed.lock().unwrap().contains(&page)));
        assert_eq!(record.grower(token.generation), None);
    }
}
