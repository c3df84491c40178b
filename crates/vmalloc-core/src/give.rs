//! Give and take: an area goes to another member whole, to be that one's alone.
//!
//! ```text
//!   LIVE(me, g) ─give▶ GIVEN(to, g) + Token ┄┄▶ take ▶ LIVE(taker, g + 1)
//!                         │ free by token; or `to` leaves, or dies: it is parked
//! ```
//!
//! Each arrow is one CAS, so there is one taker, and at any moment the state says whose it is: a
//! giver that dies has given or has not; a taker that dies has it or has not. `to` is one member,
//! or nobody: then whoever redeems the token. The generation moves on, so that the token of a gift
//! that was taken fits no later one. Linux: nothing; the nearest is moving pages with `vmsplice`.

use crate::context::Context;
use crate::error::{AllocError, AttachError, ShareError};
use crate::info::Areas;
use crate::lazy;
use crate::machine::Machine;
use crate::publish::{Area, AreaId};
use crate::record::{Kind, State, flags, next_generation};
use crate::share::{self, Token, named, record_of};
use crate::slots::slot_pages;
use crate::tag::Owner;

/// Gives an area that is `context.me`'s alone to `to`, or to whoever takes it.
pub(crate) fn give<M: Machine>(
    context: &Context<'_, M>,
    id: AreaId,
    generation: u64,
    to: Option<Owner>,
) -> Result<Token, ShareError> {
    let stale = ShareError::Stale { generation };
    let record = record_of(context, id).ok_or(stale)?;
    let shape = record.shape();
    if !M::IN_PLACE || shape.flags & flags::FOREIGN != 0 {
        return Err(ShareError::Unsupported);
    }
    let live = State::new(Kind::Live, Some(context.me), generation);
    if !record.step(live, State::new(Kind::Given, to, generation)) {
        return Err(stale);
    }
    Ok(Token { area: id, generation, pages: shape.pages, backing: shape.backing })
}

/// Takes back what was given, if nobody has taken it.
pub(crate) fn take_back<M: Machine>(
    context: &Context<'_, M>,
    token: &Token,
    to: Option<Owner>,
) -> bool {
    let given = State::new(Kind::Given, to, token.generation);
    let mine = State { kind: Kind::Live, owner: Some(context.me), ..given };
    record_of(context, token.area).is_some_and(|record| record.step(given, mine))
}

/// Takes a given area: it is `context.me`'s alone then.
pub(crate) fn take<M: Machine>(
    context: &Context<'_, M>,
    token: &Token,
) -> Result<Area, AttachError> {
    let stale = AttachError::Stale { generation: token.generation };
    let record = named(context, token)?;
    let (given, shape) = record.snapshot().ok_or(stale)?;
    if given.kind != Kind::Given || given.generation != token.generation {
        return Err(stale);
    }
    if shape.pages != token.pages {
        return Err(AttachError::Malformed);
    }
    match given.owner {
        Some(to) if to != context.me => return Err(AttachError::NotYours { to }),
        _ => {}
    }
    let generation = next_generation(given.generation);
    let mine = State::new(Kind::Live, Some(context.me), generation);
    if !record.step(given, mine) {
        return Err(stale);
    }
    let slot = slot_pages(context.tables, record.id).ok_or(stale)?;
    if let Err(e) = context.machine.map(&context.view(record.id, slot, &shape)) {
        record.step(mine, given);
        return Err(AttachError::Alloc(AllocError::Map(e)));
    }
    Ok(Area::new(context, record.id, slot, mine, &shape))
}

/// Says of what `context.me` has published that it is nobody's.
pub(crate) fn disown_published<M: Machine>(context: &Context<'_, M>) {
    for area in Areas::new(context) {
        let record = context.record(area.id.0 as usize);
        if area.kind != Kind::Live && area.owner == Some(context.me) {
            lazy::disown(record, context.me);
            // Whoever left it last may have met us, and left it to us.
            share::reap(context, record);
        }
    }
}

/// Parks what was given to `context.me` and never taken.
pub(crate) fn decline_all<M: Machine>(context: &Context<'_, M>) {
    for area in Areas::new(context) {
        let state = State::new(area.kind, area.owner, area.generation);
        if area.kind == Kind::Given && area.owner == Some(context.me) {
            lazy::park(context, context.record(area.id.0 as usize), state);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::Request;
    use crate::proof::machine::{Pool, owner};

    /// Goal: a gift is taken back while it lies there, by the name it was given under, and then is
    /// the giver's as before; not once somebody has taken it.
    #[test]
    fn a_gift_is_taken_back_until_somebody_has_it() {
        let pool = Pool::small();
        let (giver, other) = (pool.engine(1), pool.engine(2));
        let area = giver.vmalloc(&Request::bytes(4096)).unwrap();
        let token = giver.give(area.id, area.generation, Some(owner(2))).unwrap();
        let refused = pool.engine(3).take(&token);
        assert_eq!(refused, Err(AttachError::NotYours { to: owner(2) }));
        assert!(!giver.take_back(&token, None), "it was given to one member");
        assert!(giver.take_back(&token, Some(owner(2))));
        assert_eq!(giver.find(area.addr()), Some(area), "as before");
        let token = giver.give(area.id, area.generation, None).unwrap();
        let taken = other.take(&token).unwrap();
        assert!(!giver.take_back(&token, None), "somebody has it");
        assert_eq!(giver.find(area.addr()), Some(taken));
    }

    /// Goal: who leaves parks what was given to it by name, and nothing of others; and what it has
    /// published is nobody's then, while its own and others' areas stay as they are.
    #[test]
    fn who_leaves_declines_its_gifts_and_disowns_what_it_published() {
        let pool = Pool::small();
        let (one, two) = (pool.engine(1), pool.engine(2));
        let area = |engine: &crate::Engine<'_, _>| engine.vmalloc(&Request::bytes(4096)).unwrap();
        let gifts = [Some(owner(2)), Some(owner(3)), None].map(|to| {
            let area = area(&one);
            one.give(area.id, area.generation, to).unwrap().area
        });
        let shared = [&one, &two].map(|engine| {
            let area = area(engine);
            engine.share(area.id, area.generation, crate::Publish::Shared).unwrap().area
        });
        let own = area(&two);
        two.decline_gifts();
        two.disown_published();
        let now = |id: AreaId| {
            let area = one.areas().find(|area| area.id == id).unwrap();
            (area.kind, area.owner)
        };
        assert_eq!(gifts.map(|id| now(id).0), [Kind::Parked, Kind::Given, Kind::Given]);
        assert_eq!(shared.map(now), [(Kind::Shared, Some(owner(1))), (Kind::Shared, None)]);
        assert_eq!(now(own.id), (Kind::Live, Some(owner(2))));
    }

    /// Goal: what a member parked is nobody's once it has left, so that its successor zeroes it, and
    /// what others parked is theirs still, and what they have given.
    #[test]
    fn who_leaves_disowns_what_it_parked() {
        let pool = Pool::small();
        let (one, two) = (pool.engine(1), pool.engine(2));
        let areas = [&one, &two].map(|engine| engine.vmalloc(&Request::bytes(4096)).unwrap());
        let _ = (one.vfree(areas[0].addr()).unwrap(), two.vfree(areas[1].addr()).unwrap());
        let gift = one.vmalloc(&Request::bytes(8192)).unwrap();
        one.give(gift.id, gift.generation, Some(owner(2))).unwrap();
        two.leave();
        let owner_of = |area: &Area| one.areas().find(|one| one.id == area.id).unwrap().owner;
        assert_eq!(areas.each_ref().map(owner_of), [Some(owner(1)), None]);
        assert_eq!(owner_of(&gift), Some(owner(2)));
    }
}
