//! Areas that grew: how this process comes to see more of them.
//!
//! A shared area may be longer at each look. Two things of this process have to follow: the guard
//! page behind it, which must move, and the claim that its shared views have together. Both under
//! one lock of this process ([`crate::linear::Ground::growing`]), so that no thread sees one without the other.

use crate::buf::Keeper;
use crate::error::{AttachError, ResizeError};
use crate::member::Member;
use crate::os::Span;
use crate::os::view::{SharedView, ViewError};
use crate::spread::Spread;
use vmalloc_core::{AllocError, Area, Kind, MapError, Pages};

/// Why this process does not see all of an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FollowError {
    /// The records say what cannot be: they are damaged.
    View(ViewError),
    /// Its pages cannot be had here: the VMAs are spent, or the kernel refused.
    Map(MapError),
}

impl From<FollowError> for AttachError {
    fn from(error: FollowError) -> AttachError {
        match error {
            FollowError::View(e) => AttachError::Damaged(Box::new(e)),
            FollowError::Map(e) => {
                AttachError::Engine(vmalloc_core::AttachError::Alloc(AllocError::Map(e)))
            }
        }
    }
}

impl From<FollowError> for ResizeError {
    fn from(error: FollowError) -> ResizeError {
        match error {
            FollowError::View(e) => ResizeError::Damaged(Box::new(e)),
            FollowError::Map(e) => ResizeError::Engine(vmalloc_core::ResizeError::Map(e)),
        }
    }
}

/// Has this process's guard page and claim follow a published area, which may have grown, or be
/// another than it was if the records lie. Under [`crate::linear::Ground::growing`].
fn follow(member: &Member, area: &Area) -> Result<(), FollowError> {
    let ground = &member.ground;
    let span = ground.span(area.pages);
    let taken = FollowError::View(ViewError::Taken { span });
    let view = member.engine().view_of(area).ok_or(taken)?;
    ground
        .guards_ready(&view)
        .map_err(|e| if is_a_lie(e) { taken } else { FollowError::Map(e) })?;
    ground.mapping.grow_shared(span).map_err(FollowError::View)
}

/// Whether it is the records that are wrong: pages that are no area's, without frames, or in use here.
fn is_a_lie(error: MapError) -> bool {
    let lies = [libc::EINVAL, libc::EFAULT, libc::EIO, libc::EBUSY];
    matches!(error, MapError::Refused { errno } if lies.contains(&errno))
}

/// A view of a published area, as long as it is now: what `make` makes of its bytes.
pub(super) fn published_view<V>(
    member: &Spread<Member>,
    area: &Area,
    make: fn(Keeper, Span) -> Result<V, ViewError>,
) -> Result<V, AttachError> {
    let _one_at_a_time = member.ground.growing();
    follow(member, area)?;
    let view = make(member.here(), member.ground.bytes_of(area));
    Ok(view.map_err(FollowError::View)?)
}

/// What follows a shared area that a view of this process shows; `Err` if by now the records say that
/// it lies elsewhere.
pub(crate) fn follow_view(
    member: &Member,
    area: &Area,
    view: &mut SharedView<Keeper>,
) -> Result<(), FollowError> {
    let span = member.ground.span(area.pages);
    if span.start != view.span().start {
        return Err(FollowError::View(ViewError::Taken { span }));
    }
    follow(member, area)?;
    view.grow(area.bytes).map_err(FollowError::View)
}

/// Whether a token that says `pages` may name `area`: only shared areas grow.
pub(super) fn length_fits(area: &Area, pages: Pages) -> bool {
    area.pages.len == pages || area.kind == Kind::Shared && area.pages.len > pages
}
