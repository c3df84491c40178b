//! Buffers that go to another process whole.
//!
//! ```text
//!   Buf ─give─▶ Token ┄┄ any channel ┄┄▶ Pool::take ─▶ Buf: `&mut [u8]`, in another process
//! ```
//!
//! No byte is copied, and nobody shares: at any moment the area is one member's, or on its way.
//! Of all that redeem the token one gets it. What is on its way to one member dies with that
//! member; what is for whoever comes first stays until somebody takes it, or frees it by its token.

use super::{Buf, Unpublished};
use crate::buf::Keeper;
use crate::error::{AttachError, ShareError};
use crate::events::About;
use crate::member::Member;
use crate::os::Span;
use crate::os::view::ExclusiveView;
use crate::pool::Pool;
use crate::token::Token;
use crate::trace::Op;
use vmalloc_core::{Kind, Owner, Pages};

impl Buf {
    /// Gives the buffer to whoever redeems the token first, by [`Pool::take`]. It is not this
    /// process's any more.
    ///
    /// # Errors
    ///
    /// [`Unpublished`] gives the buffer back.
    pub fn give(self) -> Result<Token, Unpublished> {
        self.give_away(None)
    }

    /// Gives the buffer to the member with this number alone (see [`Pool::members`]). If that one
    /// leaves or dies and has not taken it, it is freed.
    ///
    /// # Errors
    ///
    /// [`Unpublished`] gives the buffer back.
    pub fn give_to(self, member: usize) -> Result<Token, Unpublished> {
        match Owner::new(member).filter(|_| member <= self.member().ground.shape.geometry.members) {
            Some(to) => self.give_away(Some(to)),
            None => Err(Unpublished { buf: self, error: ShareError::NoMember { member } }),
        }
    }

    fn give_away(mut self, to: Option<Owner>) -> Result<Token, Unpublished> {
        let member = Keeper::clone(self.member());
        if member.is_forked() {
            return Err(Unpublished { buf: self, error: ShareError::Forked });
        }
        let header = member.ground.header();
        let slot = to.map(|to| (to, header.member(to)));
        if let Some((to, slot)) = slot {
            if !slot.is_active() {
                let error = ShareError::NoMember { member: to.number() };
                return Err(Unpublished { buf: self, error });
            }
            // Before it is given: so that whoever leaves meanwhile looks for it.
            slot.expect_gift();
        }
        if self.view.has_ended() {
            let error = vmalloc_core::ShareError::Stale { generation: self.generation };
            return Err(Unpublished { buf: self, error: ShareError::Engine(error) });
        }
        let span = self.view.span();
        // In a framed pool nobody shows what may be another's a moment later.
        if member.ground.shape.is_framed {
            self.view.end();
            if let Err(errno) = member.ground.hide(span.start) {
                self.show_again(span);
                return Err(Unpublished { buf: self, error: ShareError::Os(Box::new(errno)) });
            }
        }
        let token = match member.engine().give(self.id, self.generation, to) {
            Ok(token) => token,
            Err(e) => {
                self.show_again(span);
                return Err(Unpublished { buf: self, error: ShareError::Engine(e) });
            }
        };
        // It left before it could know? Then it is ours again, if nobody has freed it.
        if let Some((to, slot)) = slot
            && !slot.is_active()
            && member.engine().take_back(&token, Some(to))
        {
            self.show_again(span);
            let error = ShareError::NoMember { member: to.number() };
            return Err(Unpublished { buf: self, error });
        }
        // With a view that has ended there is nothing left for `drop` to free.
        self.view.end();
        member.unclaim(Pages::for_bytes(span.len));
        member.note(Op::Give, || About::handle(self.id, self.generation));
        member.ground.bell(0).ring();
        Ok(Token::of(&member.ground.shape, &token))
    }
}

impl Buf {
    /// The view once more, of what is this process's still. Without addresses for it, the buffer has
    /// no bytes from then on.
    fn show_again(&mut self, span: Span) {
        if !self.view.has_ended() {
            return;
        }
        let member = self.member();
        let engine = member.engine();
        let view = engine.area(self.id).and_then(|area| engine.view_of(&area));
        if view.is_some_and(|view| member.ground.guards_ready(&view).is_ok())
            && let Ok(view) = ExclusiveView::new(Keeper::clone(member), span)
        {
            self.view = view;
        }
    }
}

impl Pool {
    /// Takes a buffer that was given to this member, or to whoever comes first. Of all that try,
    /// one gets it.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; nothing was taken. `Engine(Stale)`: somebody else was first, or it was
    /// freed.
    pub fn take(&self, token: &Token) -> Result<Buf, AttachError> {
        let member = self.member();
        if member.is_forked() {
            return Err(AttachError::Forked);
        }
        self.check_pool(token).map_err(|(token, pool)| AttachError::OtherPool { token, pool })?;
        match member.engine().look(&token.core()) {
            Ok(area) if area.kind == Kind::Frozen => return Err(AttachError::Frozen),
            Ok(_) => return Err(AttachError::Shared),
            Err(_) => {}
        }
        let claimed = member.claim(token.pages).map_err(AttachError::Quota)?;
        let area = member.engine().take(&token.core()).map_err(AttachError::Engine)?;
        claimed.held();
        member.note(Op::Take, || About::handle(area.id, area.generation));
        match ExclusiveView::new(member.here(), member.ground.bytes_of(&area)) {
            Ok(view) => Ok(Buf::new(&area, view)),
            // The area is left as it is, since freeing it would hand the pages to somebody else.
            Err(e) => Err(AttachError::Damaged(Box::new(e))),
        }
    }
}

/// The given area that a token names, if it does.
pub(crate) fn given(member: &Member, token: &Token) -> Option<vmalloc_core::Area> {
    let area = member.engine().area(token.area)?;
    (area.kind == Kind::Given && area.generation == token.generation).then_some(area)
}
