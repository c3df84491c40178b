//! Buffers that change their size.
//!
//! ```text
//!   Buf::resize     where it lies: frames for what is new, frames back for what is gone
//!   Buf::vrealloc   the same; if others live behind it, it moves
//!   Shared::grow    where it lies, while others use it; Shared::refresh sees what others have grown
//! ```
//!
//! A buffer keeps its claim on its pages throughout (`os/view/resize.rs`). A shared area only ever
//! grows: what somebody sees of it stays there.

use super::{Buf, Shared};
use crate::buf::Keeper;
use crate::error::{AttachError, ResizeError};
use crate::events::About;
use crate::pool::{Pool, Search};
use crate::trace::Op;
use vmalloc_core::{Area, PAGE_SIZE, Pages, Request, flags};

impl Buf {
    /// Gives the buffer another size where it lies: the first bytes keep their place and contents,
    /// new bytes are zeros. A longer one takes frames for the new pages alone; a shorter one gives
    /// frames back to the system at once.
    ///
    /// Large buffers (over 2 MiB, guard included) grow as long as nobody lives behind them; small
    /// ones within their size class. If there are no frames, does what [`Pool::alloc`] does before
    /// it gives up.
    ///
    /// # Errors
    ///
    /// [`ResizeError`]; the buffer is as it was. `Engine(NoRoom)`: it would have to move, see
    /// [`Buf::vrealloc`].
    pub fn resize(&mut self, bytes: usize) -> Result<(), ResizeError> {
        let mut search = None; // since the first time that there was no room
        loop {
            match self.resize_once(bytes) {
                Err(e)
                    if search.get_or_insert_with(Search::new).may_lengthen(self.member(), &e) => {}
                done => return done,
            }
        }
    }

    fn resize_once(&mut self, bytes: usize) -> Result<(), ResizeError> {
        let member = Keeper::clone(self.member());
        if member.is_forked() {
            return Err(ResizeError::Forked);
        }
        let engine = member.engine();
        let stale = vmalloc_core::ResizeError::Stale { generation: self.generation };
        let view = &mut self.view;
        if view.has_ended() {
            return Err(ResizeError::Engine(stale));
        }
        let (old, new) = (view.span().len, bytes as u64);
        let (pages, was) = (Pages::for_bytes(new).0, Pages::for_bytes(old).0);
        let claimed = member.claim(Pages(pages.saturating_sub(was)));
        let claimed = claimed.map_err(ResizeError::Quota)?;
        if new > 0 && new < old {
            view.resize(new).map_err(|e| ResizeError::Damaged(Box::new(e)))?;
        }
        // Its pages are those it knows of: what a forged record adds to them has no frames.
        let old_pages = self.pages.0;
        let known = Some(self.pages);
        let resized = engine.resize_known(self.id, self.generation, known, new, true);
        let is_here = |area: &Area| member.ground.span(area.pages).start == view.span().start;
        let resized = resized.and_then(|area| is_here(&area).then_some(area).ok_or(stale));
        if let Err(e) = resized.map(|area| self.pages = area.pages.len) {
            // What it let go of is still its own. If the records lied, a guard may stand in it by now,
            // and if it cannot be had back, it stays shorter.
            let whole = crate::os::Span::new(view.span().start, old);
            if member.ground.unguard(self.id, whole).is_ok() {
                let _ = view.resize(old);
            }
            return Err(ResizeError::Engine(e));
        }
        claimed.held();
        member.unclaim(Pages(was.saturating_sub(pages)));
        let handle = About::handle(self.id, self.generation);
        member.note(Op::Resize, || About { bytes: new, ..handle });
        if new > old {
            // If the records lied, our guard is where it was.
            let whole = crate::os::Span::new(view.span().start, new);
            let damaged = |e| ResizeError::Damaged(Box::new(e));
            member.ground.unguard(self.id, whole).map_err(damaged)?;
            view.resize(new).map_err(damaged)?;
            // What the last page held behind the end is from an earlier tenant; new pages are zeros.
            let stale = new.min(old_pages.saturating_mul(PAGE_SIZE as u64));
            if let Some(tail) = view.get_mut(old as usize..stale as usize) {
                tail.fill(0);
            }
        }
        Ok(())
    }

    /// Zeros what its last page holds behind the end, from an earlier tenant: when a shared area
    /// grows, others may look before that could be done.
    pub(super) fn zero_tail(&mut self) {
        let is_forked = self.member().is_forked();
        let view = &mut self.view;
        let len = view.span().len;
        // No page more: it takes no claim and cannot fail, but for a length that never was.
        if !is_forked && view.resize(Pages::for_bytes(len).bytes()).is_ok() {
            view[len as usize..].fill(0);
            let _ = view.resize(len);
        }
    }

    /// As [`Buf::resize`], and if there is no room behind it, moves it: then both are there for a
    /// moment, and an alignment that was asked for is not kept. Linux: `vrealloc`.
    ///
    /// # Errors
    ///
    /// [`ResizeError`]; the buffer is as it was.
    pub fn vrealloc(&mut self, bytes: usize) -> Result<(), ResizeError> {
        let no_room = |e: &ResizeError| {
            matches!(e, ResizeError::Engine(vmalloc_core::ResizeError::NoRoom { .. }))
        };
        match self.resize(bytes) {
            Err(e) if no_room(&e) => {}
            done => return done,
        }
        let was_huge = |area: vmalloc_core::Area| area.flags & flags::HUGE != 0;
        let request = Request::bytes(bytes as u64).zeroed();
        let huge = self.member().engine().area(self.id).is_some_and(was_huge);
        let request = if huge { request.huge() } else { request };
        let pool = Pool::of(self.member());
        let mut moved = pool.alloc(&request).map_err(ResizeError::Alloc)?;
        let kept = self.len().min(bytes);
        moved[..kept].copy_from_slice(&self[..kept]);
        *self = moved;
        Ok(())
    }
}

impl Shared {
    /// Makes the area at least `bytes` bytes long where it lies, for every member: the new bytes
    /// are zeros, and those that were there stay. Other handles see it when they
    /// [`Shared::refresh`]; until then they see what they saw. If there are no frames, does what
    /// [`Pool::alloc`] does before it gives up.
    ///
    /// # Errors
    ///
    /// [`ResizeError`]; the area is as it was. `Engine(Busy)`: another member, which lives, is growing
    /// it just now.
    pub fn grow(&mut self, bytes: usize) -> Result<(), ResizeError> {
        let mut search = None; // since the first time that there was no room
        loop {
            match self.grow_once(bytes) {
                // Other threads may follow and grow areas meanwhile.
                Err(e)
                    if search.get_or_insert_with(Search::new).may_lengthen(self.member(), &e) => {}
                done => return done,
            }
        }
    }

    fn grow_once(&mut self, bytes: usize) -> Result<(), ResizeError> {
        let member = Keeper::clone(self.member());
        if member.is_forked() {
            return Err(ResizeError::Forked);
        }
        let token = self.hold.token;
        let _one_at_a_time = member.ground.growing();
        // What others made it grow by comes first: here it may fail, and nothing has changed.
        let stale = vmalloc_core::ResizeError::Stale { generation: token.generation };
        let area = member.engine().look(&token.core()).map_err(|_| ResizeError::Engine(stale))?;
        crate::pool::follow_view(&member, &area, &mut self.hold.view)?;
        // They count as the maker's; but who is over its quota adds to nobody's.
        let more = Pages::for_bytes(bytes as u64).0.saturating_sub(area.pages.len.0);
        let _claimed = member.claim(Pages(more)).map_err(ResizeError::Quota)?;
        let grown = member.engine().grow_shared(token.area, token.generation, bytes as u64);
        let area = grown.map_err(ResizeError::Engine)?;
        let handle = About::handle(area.id, area.generation);
        member.note(Op::Resize, || About { bytes: area.bytes, ..handle });
        Ok(crate::pool::follow_view(&member, &area, &mut self.hold.view)?)
    }

    /// Takes in what the area has grown by, here or in another process, and returns its length
    /// now.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; this handle shows what it showed. `Engine(Stale)`: it was freed, and grows
    /// no more.
    pub fn refresh(&mut self) -> Result<usize, AttachError> {
        let member = Keeper::clone(self.member());
        if member.is_forked() {
            return Err(AttachError::Forked);
        }
        let _one_at_a_time = member.ground.growing();
        let area = member.engine().look(&self.hold.token.core()).map_err(AttachError::Engine)?;
        crate::pool::follow_view(&member, &area, &mut self.hold.view)?;
        Ok(self.len())
    }
}
