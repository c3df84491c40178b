//! Share, attach, detach: one backing, several mappings.
//!
//! ```text
//!   LIVE ─share▶ FROZEN | SHARED + Token  ┄┄ any channel ┄┄▶  Token ─attach▶ Area
//!   in place (members of one pool):  presence cell, guard pages here      detach: cell = 0
//!   elsewhere (another window):      borrow the backing, reserve, map      detach: vunmap
//! ```
//!
//! The area stays until it is freed *and* the last member has detached, in any order. Linux:
//! `remap_vmalloc_range` pins page by page; `remap_pfn_range` pins nothing.

use crate::context::Context;
use crate::error::{AttachError, FreeError, ShareError};
use crate::layout::Stat;
use crate::lazy;
use crate::machine::{Backing, Machine};
use crate::presence::Presence;
use crate::publish::{Area, AreaId};
use crate::record::{Kind, Record, State, flags};
use crate::slots::{placed, slot_pages};
use crate::units::Pages;

/// What another member needs to attach: numbers, no pointers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token {
    /// The area's record.
    pub area: AreaId,
    /// Which tenant of it.
    pub generation: u64,
    /// Its pages.
    pub pages: Pages,
    /// The machine's word for its backing; checked by the machine that maps it elsewhere.
    pub backing: u64,
}

/// How an area is published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Publish {
    /// Nobody writes it any more.
    Frozen,
    /// Anyone attached may write it.
    Shared,
}

/// Publishes an area that is `context.me`'s alone, and attaches `me` to it.
pub(crate) fn share<M: Machine>(
    context: &Context<'_, M>,
    id: AreaId,
    generation: u64,
    how: Publish,
) -> Result<Token, ShareError> {
    let stale = ShareError::Stale { generation };
    let record = record_of(context, id).ok_or(stale)?;
    let live = State::new(Kind::Live, Some(context.me), generation);
    let shape = record.shape();
    if record.state() != Some(live) || shape.flags & flags::BORROWED != 0 {
        return Err(stale);
    }
    commit_cells(context, id).map_err(ShareError::NoMetadata)?;
    let written = if how == Publish::Shared { flags::OTHERS_WROTE } else { 0 };
    record.add_flags(flags::CELLS | written);
    let presence = Presence::of(context.tables, record.id);
    presence.enter(context.me, generation);
    let kind = if how == Publish::Frozen { Kind::Frozen } else { Kind::Shared };
    context.machine.offer(Backing(shape.backing), generation);
    if !record.step(live, State { kind, ..live }) {
        context.machine.withdraw(Backing(shape.backing), generation);
        presence.leave(context.me, generation);
        return Err(stale);
    }
    Ok(Token { area: id, generation, pages: shape.pages, backing: shape.backing })
}

/// Attaches `me` to a published area where it lies.
pub(crate) fn attach_in_place<M: Machine>(
    context: &Context<'_, M>,
    token: &Token,
) -> Result<Area, AttachError> {
    let stale = AttachError::Stale { generation: token.generation };
    let record = named(context, token)?;
    let published = |s: &State| s.is_published() && s.generation == token.generation;
    record.state().filter(published).ok_or(stale)?;
    let no_cells = |e| AttachError::Alloc(crate::AllocError::NoMetadata(e));
    commit_cells(context, token.area).map_err(no_cells)?;
    Presence::of(context.tables, record.id).enter(context.me, token.generation);
    // The second look, after the cell: see `presence`. Its granule may be another's by now: so it
    // is left by way of the record, and not of the slot as in `detach`.
    let looked = placed(context.tables, record).filter(|(s, ..)| published(s));
    let Some((state, shape, slot)) = looked else {
        leave(context, record, token.generation);
        return Err(stale);
    };
    if let Err(e) = context.machine.map(&context.view(record.id, slot, &shape)) {
        leave(context, record, token.generation);
        return Err(AttachError::Alloc(crate::AllocError::Map(e)));
    }
    context.count(Stat::Attaches, 1);
    Ok(Area::new(context, record.id, slot, state, &shape))
}

/// The record that a token names, whoever lives there now.
pub(crate) fn named<'a, M: Machine>(
    context: &Context<'a, M>,
    token: &Token,
) -> Result<Record<'a>, AttachError> {
    if token.area.0 as usize >= context.tables.geometry().areas() {
        return Err(AttachError::Malformed);
    }
    // No such slot: there was one, and its granules went to the holes or to another size.
    record_of(context, token.area).ok_or(AttachError::Stale { generation: token.generation })
}

/// The published area that a token names, without attaching to it: for a member that is attached
/// already, and whose cell says so.
pub(crate) fn look<M: Machine>(
    context: &Context<'_, M>,
    token: &Token,
) -> Result<Area, AttachError> {
    let stale = AttachError::Stale { generation: token.generation };
    let record = named(context, token)?;
    let (state, shape, slot) = placed(context.tables, record).ok_or(stale)?;
    if !state.is_published() || state.generation != token.generation {
        return Err(stale);
    }
    Ok(Area::new(context, record.id, slot, state, &shape))
}

/// Detaches `me`; the last one to leave an area that was freed parks it. Idempotent.
pub(crate) fn detach<M: Machine>(context: &Context<'_, M>, id: AreaId, generation: u64) {
    if let Some(record) = record_of(context, id) {
        leave(context, record, generation);
    }
}

/// The same of a record, whose slot may be gone.
fn leave<M: Machine>(context: &Context<'_, M>, record: Record<'_>, generation: u64) {
    Presence::of(context.tables, record.id).leave(context.me, generation);
    reap(context, record);
}

/// Frees a published area: nobody can attach any more; when the last member detaches, it goes.
pub(crate) fn free_published<M: Machine>(
    context: &Context<'_, M>,
    record: Record<'_>,
    state: State,
) -> Result<(), FreeError> {
    let dying = State { kind: Kind::Dying, ..state };
    // Before the step: afterwards another may park the area and revive it.
    let backing = Backing(record.shape().backing);
    if !record.step(state, dying) {
        // Its maker died, and it was said to be nobody's: the same tenant still.
        let nobodys = State { owner: None, ..state };
        if !record.step(nobodys, State { owner: None, ..dying }) {
            return Err(FreeError::Stale { generation: state.generation });
        }
    }
    context.machine.withdraw(backing, state.generation);
    context.count(Stat::Frees, 1);
    crate::sync::fence(crate::sync::Ordering::SeqCst);
    reap(context, record);
    Ok(())
}

/// Parks a dying area that nobody is attached to.
pub(crate) fn reap<M: Machine>(context: &Context<'_, M>, record: Record<'_>) {
    let Some(state) = record.state().filter(|s| s.kind == Kind::Dying) else { return };
    if Presence::of(context.tables, record.id).count(state.generation) == 0 {
        // Several may get here; one CAS wins.
        lazy::park(context, record, state);
    }
}

/// The record that a token or handle names, if the window has such a slot.
pub(crate) fn record_of<'a, M: Machine>(
    context: &Context<'a, M>,
    id: AreaId,
) -> Option<Record<'a>> {
    slot_pages(context.tables, id.0 as usize)?;
    Some(context.record(id.0 as usize))
}

fn commit_cells<M: Machine>(
    context: &Context<'_, M>,
    id: AreaId,
) -> Result<(), crate::machine::NoMetadata> {
    let geometry = context.tables.geometry();
    if !geometry.has_cells() {
        return Ok(());
    }
    context.machine.commit_words(geometry.presence_words(id.0 as usize))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::Request;
    use crate::proof::machine::{Pool, owner};

    /// Goal: a look shows a published area under its token, and neither its next tenant nor one that
    /// is its owner's alone. Method: the token with the next generation; a token made up for a live area.
    #[test]
    fn a_look_shows_what_is_published_under_that_token() {
        let pool = Pool::small();
        let (one, two) = (pool.engine(1), pool.engine(2));
        let area = one.vmalloc(&Request::bytes(3 * 4096)).unwrap();
        let token = one.share(area.id, area.generation, Publish::Shared).unwrap();
        let seen = two.look(&token).unwrap();
        assert_eq!((seen.id, seen.pages, seen.bytes), (area.id, area.pages, area.bytes));
        let next = Token { generation: token.generation + 1, ..token };
        assert_eq!(two.look(&next), Err(AttachError::Stale { generation: next.generation }));
        let own = one.vmalloc(&Request::bytes(3 * 4096)).unwrap();
        let made_up = Token { area: own.id, generation: own.generation, ..token };
        assert_eq!(two.look(&made_up), Err(AttachError::Stale { generation: own.generation }));
    }

    /// Goal: who is attached to an area is told, of the tenant that was asked for and while it is published; and
    /// how it is shown, guard and all, while its slot is there.
    #[test]
    fn who_is_attached_is_told() {
        let pool = Pool::small();
        let (one, two) = (pool.engine(1), pool.engine(2));
        let area = one.vmalloc(&Request::bytes(5 * 4096).no_reuse()).unwrap();
        assert!(!one.is_attached(&area, owner(1)), "it is not published");
        let view = two.view_of(&area).unwrap();
        assert_eq!((view.pages, view.slot.start), (area.pages, area.pages.start));
        assert!(view.slot.len > area.pages.len, "its guard");
        let token = one.share(area.id, area.generation, Publish::Shared).unwrap();
        let shared = two.attach(&token, crate::Prot::READ_WRITE).unwrap();
        let attached = |area: &Area| [1, 2, 3].map(|n| one.is_attached(area, owner(n)));
        assert_eq!(attached(&shared), [true, true, false]);
        let next = Area { generation: shared.generation + 1, ..shared };
        assert_eq!(attached(&next), [false; 3], "another tenant");
        let _ = one.detach(area.id, area.generation);
        let _ = one.vfree(area.addr()).unwrap();
        let dying = one.area(area.id).unwrap();
        assert_eq!((dying.kind, attached(&dying)), (Kind::Dying, [false, true, false]));
        let _ = two.detach(area.id, area.generation);
        assert_eq!(attached(&dying), [false; 3]);
        one.purge().unwrap();
        let gone = Area { id: AreaId(area.id.0 | 63), ..area };
        assert!(one.view_of(&gone).is_none(), "no such slot");
    }

    /// Goal: an area that a recovery says to be nobody's between the look and the step of its free is
    /// freed all the same, and once. Method: its state of before, handed to the free afterwards.
    #[test]
    fn what_is_disowned_in_the_midst_of_its_free_is_freed() {
        let pool = Pool::small();
        let (one, two) = (pool.engine(1), pool.context(2));
        let area = one.vmalloc(&Request::bytes(4096)).unwrap();
        let token = one.share(area.id, area.generation, Publish::Shared).unwrap();
        attach_in_place(&two, &token).unwrap();
        let record = record_of(&two, area.id).unwrap();
        let before = record.state().unwrap();
        let _ = one.detach(area.id, area.generation);
        one.disown_published();
        assert_eq!(record.state(), Some(State { owner: None, ..before }));
        assert_eq!(free_published(&two, record, before), Ok(()));
        let dying = State { kind: Kind::Dying, owner: None, ..before };
        assert_eq!(record.state(), Some(dying), "nobody's still");
        let stale = FreeError::Stale { generation: before.generation };
        assert_eq!(free_published(&two, record, before), Err(stale), "twice");
        detach(&two, area.id, area.generation);
        assert_eq!(record.state().map(|state| state.kind), Some(Kind::Parked));
        assert_eq!(owner(1), before.owner.unwrap());
    }
}
