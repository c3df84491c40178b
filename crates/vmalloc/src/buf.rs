//! Buffers: what a program holds of an area, typed by who may touch it.
//!
//! ```text
//!              ┌─ freeze ─▶ Frozen: &[u8] for everyone       ┐
//!   Buf: &mut ─┼─ share ──▶ Shared: atomics and copies only  ┴─ token ┄▶ attach in any member
//!              └─ give ─────────────────────────────────────── token ┄▶ take in one: Buf
//! ```
//!
//! A [`Buf`] is one member's alone and is freed when it is dropped. Once published, an area
//! outlives its maker: dropping a [`Frozen`] or [`Shared`] only detaches, and the area goes when
//! somebody frees it and the last member has detached, in any order.

mod give;
mod resize;

use crate::error::{FreeError, ShareError};
use crate::events::About;
use crate::member::Member;
use crate::os::Span;
use crate::os::view::{ExclusiveView, FrozenView, Published, SharedView};
use crate::pool::Pool;
use crate::spread::Seat;
use crate::token::Token;
use crate::trace::Op;
pub(crate) use give::given;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use vmalloc_core::{Area, AreaId, Pages, Publish};

/// Memory of the pool that is this process's alone. Derefs to a slice of as many bytes as were
/// asked for; a guard page lies right behind its last page. Freed on drop.
pub struct Buf {
    id: AreaId,
    generation: u64,
    // Pages that it has: kept here, since the record may lie.
    pages: Pages,
    // Ended only while it is being dropped, published or given; and for good if it could not be
    // given, and not be shown again: then it has no bytes. It keeps the member.
    view: ExclusiveView<Keeper>,
}

/// What each handle keeps, and its view with it: the member, and so the pool.
pub(crate) type Keeper = Arc<Seat<Member>>;

/// Memory of the pool that nobody writes any more: a plain slice, for any number of members.
/// Dropping it detaches, and leaves the area: somebody must free it, by [`Frozen::free`] or
/// [`crate::Pool::free`].
pub struct Frozen {
    hold: Hold<FrozenView<Keeper>>,
}

/// Memory of the pool that any member attached to it may write at any time: reached by copies and
/// atomics only. Dropping it detaches, and leaves the area: somebody must free it, by
/// [`Shared::free`] or [`crate::Pool::free`].
pub struct Shared {
    hold: Hold<SharedView<Keeper>>,
}

/// A buffer that could not be published, and why.
pub struct Unpublished {
    /// The buffer, as it was.
    pub buf: Buf,
    /// The reason.
    pub error: ShareError,
}

/// One handle's share in a member's presence at an area, and its view, which keeps the member.
struct Hold<V: Published<Keeper>> {
    view: V,
    token: Token,
}

impl Buf {
    #[inline]
    pub(crate) fn new(area: &Area, view: ExclusiveView<Keeper>) -> Buf {
        let (id, generation, pages) = (area.id, area.generation, area.pages.len);
        Buf { id, generation, pages, view }
    }

    /// Whose it is.
    #[inline]
    fn member(&self) -> &Keeper {
        self.view.keeper()
    }

    /// Where it lies in the mapping.
    pub(crate) fn span(&self) -> Span {
        self.view.span()
    }

    /// Makes it readable for every member, and writable for none, ever.
    ///
    /// # Errors
    ///
    /// [`Unpublished`] gives the buffer back.
    pub fn freeze(self) -> Result<Frozen, Unpublished> {
        Ok(Frozen { hold: self.publish(Publish::Frozen, ExclusiveView::freeze)? })
    }

    /// Makes it readable and writable for every member.
    ///
    /// # Errors
    ///
    /// [`Unpublished`] gives the buffer back.
    pub fn share(mut self) -> Result<Shared, Unpublished> {
        self.zero_tail();
        Ok(Shared { hold: self.publish(Publish::Shared, ExclusiveView::share)? })
    }

    fn publish<V: Published<Keeper>>(
        mut self,
        how: Publish,
        turn: fn(&mut ExclusiveView<Keeper>) -> V,
    ) -> Result<Hold<V>, Unpublished> {
        let member = Arc::clone(self.member());
        if member.is_forked() {
            return Err(Unpublished { buf: self, error: ShareError::Forked });
        }
        if self.view.has_ended() {
            let error = vmalloc_core::ShareError::Stale { generation: self.generation };
            return Err(Unpublished { buf: self, error: ShareError::Engine(error) });
        }
        let at = self.view.span().start;
        // With a view that has ended there is nothing left for `drop` to free.
        let view = &mut self.view;
        match member.publish(self.id, self.generation, at, how, || turn(view)) {
            Ok((token, view)) => {
                let token = Token::of(&member.ground.shape, &token);
                member.ground.bell(0).ring();
                Ok(Hold { view, token })
            }
            Err(e) => Err(Unpublished { buf: self, error: ShareError::Engine(e) }),
        }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if self.view.has_ended() {
            return;
        }
        let span = self.view.span();
        // The view first: no reference of ours may live when the pages are another's.
        self.view.end();
        let member: &Member = self.view.keeper();
        if !member.is_forked() {
            if member.ground.hide(span.start).is_err() {
                return; // It is shown here still, so it must stay ours.
            }
            member.unclaim(Pages::for_bytes(span.len));
            // An error here means that the records are damaged: then there is nothing to free.
            if let Ok(freed) = member.engine().free(self.id, self.generation) {
                member.note(Op::Free, || About::handle(self.id, self.generation));
                member.relieve(freed);
            }
        }
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.view
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.view
    }
}

impl Frozen {
    pub(crate) fn new(token: Token, view: FrozenView<Keeper>) -> Frozen {
        Frozen { hold: Hold { view, token } }
    }

    pub(crate) fn pool(&self) -> Pool {
        Pool::of(self.hold.view.keeper())
    }

    pub(crate) fn span(&self) -> Span {
        self.hold.view.span()
    }

    /// What another member needs to attach.
    #[must_use]
    pub fn token(&self) -> Token {
        self.hold.token
    }

    /// Frees the area: nobody can attach any more, and when the last member has detached, it goes.
    ///
    /// # Errors
    ///
    /// [`FreeError`]: somebody freed it before.
    pub fn free(self) -> Result<(), FreeError> {
        self.hold.free()
    }
}

impl Deref for Frozen {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.hold.view
    }
}

impl AsRef<[u8]> for Buf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// What crates ask of memory that somebody else owns: `bytes::Bytes::from_owner`, and so Arrow.
impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Shared {
    pub(crate) fn new(token: Token, view: SharedView<Keeper>) -> Shared {
        Shared { hold: Hold { view, token } }
    }

    /// What another member needs to attach.
    #[must_use]
    pub fn token(&self) -> Token {
        self.hold.token
    }

    pub(crate) fn pool(&self) -> Pool {
        Pool::of(self.hold.view.keeper())
    }

    pub(crate) fn span(&self) -> Span {
        self.hold.view.span()
    }

    pub(crate) fn all_words(&self) -> &[AtomicU64] {
        self.hold.view.words()
    }

    pub(crate) fn member(&self) -> &Keeper {
        self.hold.view.keeper()
    }

    /// The bytes asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hold.view.span().len as usize
    }

    /// Never: an area has a byte at least.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `bytes` in from byte `at` on. Others may see any part of it done before the rest.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was written.
    pub fn write_at(&self, at: usize, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let out = OutOfBounds { at, count: bytes.len(), len: self.len() };
        self.hold.view.copy_in(at as u64, bytes).map_err(|_| out)
    }

    /// Copies out from byte `at` on. What others write meanwhile may be there in part.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was read.
    pub fn read_at(&self, at: usize, out: &mut [u8]) -> Result<(), OutOfBounds> {
        let error = OutOfBounds { at, count: out.len(), len: self.len() };
        self.hold.view.copy_out(at as u64, out).map_err(|_| error)
    }

    /// The bytes as 64-bit atomics, as many as there are whole ones: for flags, counters, queues.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // The view's last word may pass the length; what is handed out does not.
        &self.hold.view.words()[..self.len() / 8]
    }

    /// Frees the area: nobody can attach any more, and when the last member has detached, it goes.
    ///
    /// # Errors
    ///
    /// [`FreeError`]: somebody freed it before.
    pub fn free(self) -> Result<(), FreeError> {
        self.hold.free()
    }
}

/// A copy would leave the area. Nothing was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfBounds {
    /// The first byte.
    pub at: usize,
    /// How many bytes.
    pub count: usize,
    /// The area's.
    pub len: usize,
}

impl<V: Published<Keeper>> Hold<V> {
    fn free(&self) -> Result<(), FreeError> {
        let member = self.view.keeper();
        if member.is_forked() {
            return Err(FreeError::Forked);
        }
        let Token { area, generation, .. } = self.token;
        let freed = member.engine().free(area, generation);
        member.note_free(area, generation, &freed);
        let freed = freed.map(|freed| member.relieve(freed)).map_err(FreeError::Engine);
        member.ground.bell(0).ring();
        freed
    }
}

impl<V: Published<Keeper>> Drop for Hold<V> {
    fn drop(&mut self) {
        // The view first: it must be gone when the others are told that we are.
        self.view.end();
        self.view.keeper().detach(self.token.area, self.token.generation);
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buf").field("area", &self.id.0).field("bytes", &self.len()).finish()
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frozen({}, {} bytes)", self.hold.token, self.len())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({}, {} bytes)", self.hold.token, self.len())
    }
}

impl fmt::Debug for Unpublished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpublished").field("error", &self.error).finish_non_exhaustive()
    }
}

impl fmt::Display for Unpublished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not published: {}", self.error)
    }
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes from byte {} leave an area of {}", self.count, self.at, self.len)
    }
}

impl std::error::Error for Unpublished {}
impl std::error::Error for OutOfBounds {}
