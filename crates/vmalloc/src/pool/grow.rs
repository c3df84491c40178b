//! Areas that grew: how this process comes to see more of them.
//!
//! A shared area may be longer at each look. Two things of this process have to follow: the guard
//! page behind it, which must move, and the claim that its shared views have together. Both under
//! one lock of this process ([`crate::linear::Ground::growing`]), so that no thread sees one without the other.

use crate::error::AttachError;
use crate::member::Member;
use crate::os::view::{FrozenView, SharedView, ViewError};
use vmalloc_core::{Area, Kind, Pages};

/// Has this process's guard page and claim follow a published area, which may have grown, or be
/// another than it was if the records lie. Under [`crate::linear::Ground::growing`].
fn follow(member: &Member, area: &Area) -> Result<(), ViewError> {
    let ground = &member.ground;
    let span = ground.span(area.pages);
    let taken = ViewError::Taken { span };
    let view = member.engine().view_of(area).ok_or(taken)?;
    ground.guards_ready(&view).map_err(|_| taken)?;
    ground.mapping.grow_shared(span)
}

/// A view of a frozen area.
pub(super) fn frozen_view(member: &Member, area: &Area) -> Result<FrozenView, AttachError> {
    let damaged = |e: ViewError| AttachError::Damaged(Box::new(e));
    let _one_at_a_time = member.ground.growing();
    follow(member, area).map_err(damaged)?;
    member.ground.mapping.frozen(member.ground.bytes_of(area)).map_err(damaged)
}

/// A view of a shared area, as long as it is now.
pub(super) fn shared_view(member: &Member, area: &Area) -> Result<SharedView, AttachError> {
    let damaged = |e: ViewError| AttachError::Damaged(Box::new(e));
    let _one_at_a_time = member.ground.growing();
    follow(member, area).map_err(damaged)?;
    member.ground.mapping.shared(member.ground.bytes_of(area)).map_err(damaged)
}

/// What follows a shared area that a view of this process shows; `Err` if by now the records say that
/// it lies elsewhere.
pub(crate) fn follow_view(
    member: &Member,
    area: &Area,
    view: &mut SharedView,
) -> Result<(), ViewError> {
    let span = member.ground.span(area.pages);
    if span.start != view.span().start {
        return Err(ViewError::Taken { span });
    }
    follow(member, area)?;
    view.grow(area.bytes)
}

/// Whether a token that says `pages` may name `area`: only shared areas grow.
pub(super) fn length_fits(area: &Area, pages: Pages) -> bool {
    area.pages.len == pages || area.kind == Kind::Shared && area.pages.len > pages
}
