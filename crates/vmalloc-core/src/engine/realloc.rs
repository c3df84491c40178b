//! `vrealloc`: another size, in place if that can be had, else somewhere else.
//!
//! ```text
//!   None ─▶ vmalloc      0 bytes ─▶ vfree
//!   Some ─▶ whose? aligned? ─┬ shorter: frames home (or only noted, where nobody may flush)
//!                            ├ longer: resize in place
//!                            └ no room behind, another policy: vmalloc, copy, vfree
//! ```
//!
//! For machines with page tables, where an area is known by its address; a pool of the crate
//! `vmalloc` has the same on its buffers. Linux: `vrealloc_node_align`, whose rules these are; it
//! never makes an area longer than its frames where it lies.

use super::Engine;
use crate::error::{AllocError, FreeError, ResizeError, VreallocError};
use crate::machine::{Backing, Machine};
use crate::paged::{Hardware, Paged};
use crate::platform::Frames;
use crate::policy::FramePolicy;
use crate::publish::Area;
use crate::record::{Kind, flags};
use crate::registry;
use crate::request::{Plan, Request};
use crate::resize::{note_bytes, resize};
use crate::units::VirtAddr;

impl<F: Frames, H: Hardware> Engine<'_, Paged<'_, F, H>> {
    /// Makes what lies at `old` as `request` says, and returns where it lies then. The first
    /// min(old, new) bytes stay. If the request says zeros, every byte behind them is zero, as
    /// long as that was said at each call.
    ///
    /// Nothing (`None`) becomes an area; 0 bytes free it, and leave nothing. A shorter area keeps
    /// its place and gives its frames back, but only notes its new length where the request or the
    /// context may not wait, where a user may see its pages ([`flags::USERMAP`], or shown to
    /// somebody), and where its protection was changed. A longer one grows where it lies; if it
    /// cannot, or if the request wants other frames than the area was made of, it moves: both are
    /// there for a moment. Guard and rights stay those it was made with, unless it moves. The
    /// owner must not use, free or resize it meanwhile. Linux: `vrealloc`, `vrealloc_node_align`.
    ///
    /// # Errors
    ///
    /// [`VreallocError`]; the old area is as it was.
    pub fn vrealloc(
        &self,
        old: Option<VirtAddr>,
        request: &Request,
    ) -> Result<Option<Area>, VreallocError> {
        let Some(addr) = old else {
            return match request.len_bytes() {
                0 => Ok(None),
                _ => self.vmalloc(request).map(Some).map_err(VreallocError::New),
            };
        };
        let area = self.own_at(addr).map_err(VreallocError::Old)?;
        if request.len_bytes() == 0 {
            return self.done_with(&area, request).map(|()| None).map_err(VreallocError::Old);
        }
        let plan = self.plan(request).map_err(VreallocError::New)?;
        let align_bytes = plan.want.align.bytes();
        if !addr.0.is_multiple_of(align_bytes.max(1)) {
            return Err(VreallocError::Misaligned { addr, align_bytes });
        }
        let chooses = plan.flags & FramePolicy::BITS;
        if chooses == 0 || chooses == area.flags & FramePolicy::BITS {
            match self.resize_here(&area, &plan) {
                Err(ResizeError::NoRoom { .. } | ResizeError::MayNotWait) => {}
                done => return done.map(Some).map_err(VreallocError::Resize),
            }
        }
        self.move_to(&area, request).map(Some)
    }

    /// The area at `addr`, which is this member's alone.
    fn own_at(&self, addr: VirtAddr) -> Result<Area, FreeError> {
        let (_, state, shape) = registry::base_of(&self.context, addr)?;
        if shape.flags & flags::FOREIGN != 0 {
            return Err(FreeError::WrongVerb);
        }
        if state.kind != Kind::Live || state.owner != Some(self.context.me) {
            return Err(FreeError::NotMine { owner: state.owner });
        }
        registry::find(&self.context, addr).ok_or(FreeError::NoArea { addr })
    }

    fn resize_here(&self, area: &Area, plan: &Plan) -> Result<Area, ResizeError> {
        let (old, new) = (area.bytes, plan.bytes);
        let machine = &self.context.machine;
        let is_shown = !machine.is_exclusive(Backing(area.backing));
        let keeps_frames = !plan.may_wait
            || !machine.may_wait()
            || is_shown
            || area.flags & (flags::USERMAP | flags::RESET_PERMS) != 0;
        let resized = if plan.pages == area.pages.len || plan.pages < area.pages.len && keeps_frames
        {
            note_bytes(&self.context, area.id, area.generation, new)?
        } else {
            loop {
                match resize(&self.context, area.id, area.generation, None, new, plan.zeroed) {
                    Err(ResizeError::Back(e))
                        if plan.may_wait
                            && AllocError::Back(e).purge_may_help()
                            && self.made_room(plan.pages) => {}
                    done => break done?,
                }
            }
        };
        if plan.zeroed {
            // Between the shorter end and the longer one, as far as there were pages before.
            let pages = area.pages.len.min(resized.pages.len).bytes();
            machine.zero_bytes(area.addr(), old.min(new)..old.max(new).min(pages));
        }
        Ok(resized)
    }

    fn move_to(&self, area: &Area, request: &Request) -> Result<Area, VreallocError> {
        if !self.context.machine.is_exclusive(Backing(area.backing)) {
            return Err(VreallocError::Resize(ResizeError::Shown));
        }
        let new = self.vmalloc(request).map_err(VreallocError::New)?;
        self.context.machine.copy(area.addr(), new.addr(), area.bytes.min(new.bytes));
        if let Err(e) = self.done_with(area, request) {
            // Somebody freed the old one meanwhile: then the new one must not be left behind.
            let _ = self.free(new.id, new.generation);
            return Err(VreallocError::Old(e));
        }
        Ok(new)
    }

    /// Frees, and purges for it where that is allowed and due.
    fn done_with(&self, area: &Area, request: &Request) -> Result<(), FreeError> {
        let freed = self.free(area.id, area.generation)?;
        if freed.over_limit && request.may_wait() {
            let _ = self.relieve();
        }
        Ok(())
    }
}
