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
