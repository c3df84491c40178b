//! Refit: a parked area is made longer or shorter for whoever wants another size.
//!
//! Sizes that come back are found parked as they are ([`crate::lazy`]). Where sizes are random, no
//! two are alike, and each allocation would take fresh frames while as many lie parked. So once
//! enough is parked, the one whose pages are nearest is taken, and only the difference is committed
//! or given back:
//!
//! ```text
//!   PARKED ─▶ BUILDING(me) ─┬ longer:  commit the pages behind it ─┬▶ zeroed if due ─▶ LIVE
//!                           └ shorter: guard, flush, the tail home ┘
//!                             failed: PARKED, as it was
//! ```
//!
//! Fresh frames first, as long as less is parked than 64 MiB or half of what is in use: sizes
//! that do come back find all of theirs warm then, instead of cutting each other's.
//!
//! Invariants: at most [`LOOKS_MAX`] areas are looked at; an area gets no slot of more than twice
//! what it needs, so addresses last. Neighbours: above [`crate::resize`], which moves the end.
//! Linux: no counterpart, its lazy list holds addresses only.

use crate::class::Class;
use crate::context::Context;
use crate::lazy::{self, LOOKS_MAX, Parked};
use crate::machine::Machine;
use crate::publish::Area;
use crate::record::{Kind, Shape};
use crate::request::Plan;
use crate::resize::{grow, shrink};
use crate::slots::placed;
use crate::units::Pages;
use core::cmp::Ordering;

/// A page that is committed costs as much as so many that are given back.
const PRICE_OF_MORE: u64 = 2;

/// A parked area that could be made to fit.
struct Near<'a> {
    parked: Parked<'a>,
    price: u64,
}

/// Makes the parked area that is nearest to the planned size fit, if enough is parked, or too few
/// frames are free for anything else. `None`: fresh frames, then.
#[inline(never)] // it would only be in the way of what is warm
pub(crate) fn refit<M: Machine>(context: &Context<'_, M>, plan: &Plan, low: Pages) -> Option<Area> {
    let machine = &context.machine;
    if !machine.refits()
        || !plan.may_wait
        || !lazy::is_short(context, plan, low)
        || !machine.may_wait()
    {
        return None;
    }
    let near = nearest(context, plan)?;
    take(context, plan, &near.parked)
}

/// The parked area that costs least to make fit.
fn nearest<'a, M: Machine>(context: &Context<'a, M>, plan: &Plan) -> Option<Near<'a>> {
    let first = lazy::class_of(plan);
    let (mut looks, mut best) = (0, None::<Near<'_>>);
    for class in first.index()..=first.last_for_twice().index() {
        lazy::each_parked(context, Class::from_index(class)?, |record| {
            looks += 1;
            if let Some(near) = look(context, plan, record.id)
                && best.as_ref().is_none_or(|best| near.price < best.price)
            {
                best = Some(near);
            }
            looks >= LOOKS_MAX
        });
        if looks >= LOOKS_MAX {
            break;
        }
    }
    best
}

/// The parked area of record `id`, if it could be made to fit: within a factor of two either way.
fn look<'a, M: Machine>(context: &Context<'a, M>, plan: &Plan, id: usize) -> Option<Near<'a>> {
    let record = context.record(id);
    let (state, shape, slot) = placed(context.tables, record)?;
    let (have, want, span) = (shape.pages.0, plan.pages.0, plan.want.span.0);
    let price = if have < want { (want - have) * PRICE_OF_MORE } else { have - want };
    let is_near = have <= want.saturating_mul(2) && want <= have.saturating_mul(2);
    let has_room = slot.len.0 >= span && slot.len.0 <= span.saturating_mul(2);
    let fits = state.kind == Kind::Parked
        && is_near
        && has_room
        && lazy::is_alike(context, plan, &shape, slot);
    fits.then_some(Near { parked: Parked { record, state, shape, slot }, price })
}

/// Takes it into use with another end. If that fails it is parked again as it was.
fn take<M: Machine>(context: &Context<'_, M>, plan: &Plan, parked: &Parked<'_>) -> Option<Area> {
    let Parked { record, shape, slot, .. } = *parked;
    lazy::rebuild(context, plan, parked, |new| {
        let new = Shape { pages: plan.pages, ..new };
        match new.pages.cmp(&shape.pages) {
            Ordering::Equal => lazy::show(context, record, slot, &new).then_some(new),
            Ordering::Greater => grow(context, record, &shape, new, true).ok(),
            Ordering::Less => shrink(context, record, &shape, new).ok(),
        }
    })
}
