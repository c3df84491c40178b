//! The machine that writes page tables: frames, a mapper and TLBs, put behind the stages.
//!
//! A kernel (and `vmalloc-sim`) supplies the traits of [`crate::platform`]; this file is all that
//! lies between them and the engine. Several engines, one a window, may share frames and
//! backings: so the same frames show in several address spaces.
//!
//! Linux: `vm_area_alloc_pages`, `vmap_pages_range`, `vunmap_range_noflush`.

mod copy;

use crate::backing::Backings;
use crate::machine::{BackError, Backing, FlushError, Machine, View};
use crate::platform::{Frames, MapError, Mapper, Prot, Ram, Tlb};
use crate::policy::{FramePolicy, NodeId, PolicyError};
use crate::sync::{AtomicU64, Ordering};
use crate::units::{Extent, ORDER_MAX, PageRange, Pages, Pfn, Vpn};
use core::convert::Infallible;

/// Extents asked of the frame allocator at a time: on the stack, half a kilobyte.
const BULK: usize = 32;

/// Page tables, TLBs and RAM: what the hardware has besides frames.
pub trait Hardware: Mapper + Tlb + Ram {}
impl<T: Mapper + Tlb + Ram> Hardware for T {}

/// A machine with page tables.
pub struct Paged<'a, F, H> {
    frames: F,
    backings: Backings<'a>,
    hardware: H,
}

impl<'a, F: Frames, H: Hardware> Paged<'a, F, H> {
    /// A machine over these frames and this hardware. Engines that share areas share `backings`.
    pub const fn new(frames: F, backings: Backings<'a>, hardware: H) -> Self {
        Paged { frames, backings, hardware }
    }

    /// The frame allocator.
    pub const fn frames(&self) -> &F {
        &self.frames
    }

    /// The hardware.
    pub const fn hardware(&self) -> &H {
        &self.hardware
    }

    /// Makes every address space see what is later mapped in `window`.
    ///
    /// # Errors
    ///
    /// [`MapError::NoTable`].
    pub fn prepare(&self, window: PageRange) -> Result<(), MapError> {
        self.hardware.prepare(window)
    }

    /// Takes frames and hands them to `push`, run by run. What `push` took when this fails is for
    /// the caller to give back.
    fn take_frames(
        &self,
        len: Pages,
        policy: FramePolicy,
        push: impl Fn(Extent) -> Result<(), BackError>,
    ) -> Result<(), BackError> {
        let most = self.frames.reach(policy).map_err(BackError::Policy)?;
        if len > most {
            return Err(BackError::Policy(PolicyError::OutOfReach { wanted: len, most }));
        }
        let mut wanted = len.0;
        let mut runs = [Extent::default(); BULK];
        while wanted > 0 {
            let taken = self.frames.take_where(policy, Pages(wanted), &mut runs);
            let n = taken.map_err(BackError::Policy)?;
            if n == 0 && !policy.is_any() {
                return Err(BackError::NoneAllowed { wanted: len, policy });
            }
            if n == 0 {
                // Those taken so far go back, so they count as free.
                let free = Pages(self.frames.free().0 + len.0 - wanted);
                return Err(BackError::NoFrames { wanted: len, free });
            }
            for (i, run) in runs[..n].iter().enumerate() {
                if let Err(e) = push(*run) {
                    // This run and those behind it were not taken over.
                    runs[i..n].iter().for_each(|run| self.frames.give(*run));
                    return Err(e);
                }
                wanted = wanted.saturating_sub(run.len.0);
            }
        }
        Ok(())
    }

    /// Counts one more user of a backing, if it lives. [`Machine::unback`] gives it up.
    pub(crate) fn pin(&self, backing: Backing) -> bool {
        self.backings.pin(backing.0, &self.frames, &self.hardware)
    }

    /// Shows a backing, from its page `skip` on, at `pages` of `mapper`'s tables: no page beyond
    /// those, whatever the backing has. On failure what it mapped is unmapped, and not flushed.
    pub(crate) fn show_part(
        &self,
        mapper: &impl Mapper,
        backing: Backing,
        skip: u64,
        pages: PageRange,
        prot: Prot,
    ) -> Result<(), MapError> {
        let (mut skip, mut at) = (skip, pages.start);
        self.backings
            .each_extent(backing.0, &self.hardware, |run| {
                let skipped = skip.min(run.len.0);
                skip -= skipped;
                let len = (run.len.0 - skipped).min(pages.end().0 - at.0);
                if len > 0 {
                    let run = Extent { start: Pfn(run.start.0 + skipped), len: Pages(len) };
                    mapper.map_run(at, run, prot)?;
                    at = Vpn(at.0 + len);
                }
                Ok(())
            })
            .inspect_err(|_| {
                let len = Pages(at.0 - pages.start.0);
                mapper.unmap_run(PageRange { start: pages.start, len });
            })
    }

    /// Frames that a backing was made of without owning them are its own from here on.
    pub(crate) fn take_over(&self, backing: Backing) {
        self.backings.take_over(backing.0);
    }

    /// Visits the extents behind a backing, in the order of its pages.
    pub fn each_extent(&self, backing: Backing, mut visit: impl FnMut(Extent)) {
        let _ = self.backings.each_extent(backing.0, &self.hardware, |run| {
            visit(run);
            Ok::<(), Infallible>(())
        });
    }
}

impl<F: Frames, H: Hardware> Machine for Paged<'_, F, H> {
    const IN_PLACE: bool = false;
    const FRESH_IS_ZERO: bool = false;
    const ALIGN_MAX: Pages = ORDER_MAX.pages();

    fn capacity(&self) -> Pages {
        self.frames.total()
    }

    fn free(&self) -> Pages {
        self.frames.free()
    }

    fn user_align(&self) -> Pages {
        self.hardware.user_align()
    }

    fn may_wait(&self) -> bool {
        self.hardware.may_wait()
    }

    fn wait_for_others(&self) {
        self.hardware.wait_for_others();
    }

    fn back(&self, pages: PageRange, policy: FramePolicy) -> Result<Backing, BackError> {
        let draft = self.backings.begin(true)?;
        let push = |run| self.backings.push(&draft, run, &self.frames, &self.hardware);
        match self.take_frames(pages.len, policy, push) {
            Ok(()) => Ok(Backing(self.backings.finish(draft))),
            Err(e) => {
                self.backings.discard(draft, &self.frames, &self.hardware);
                Err(e)
            }
        }
    }

    fn adopt(&self, frames: &[Extent]) -> Result<Backing, BackError> {
        let draft = self.backings.begin(false)?;
        for run in frames {
            if let Err(e) = self.backings.push(&draft, *run, &self.frames, &self.hardware) {
                self.backings.discard(draft, &self.frames, &self.hardware);
                return Err(e);
            }
        }
        Ok(Backing(self.backings.finish(draft)))
    }

    fn shown_by(&self, first: Pfn) -> Option<&AtomicU64> {
        Some(self.backings.hint(first))
    }

    #[inline]
    fn shows(&self, backing: Backing, frames: &[Extent]) -> Option<Pages> {
        self.backings.shows(backing.0, frames, &self.hardware)
    }

    fn offer(&self, backing: Backing, generation: u64) {
        self.backings.offer(backing.0, generation);
    }

    fn withdraw(&self, backing: Backing, generation: u64) {
        self.backings.withdraw(backing.0, generation);
    }

    fn borrow(&self, backing: Backing, generation: u64) -> Result<Pages, BackError> {
        self.backings.borrow(backing.0, generation, &self.frames, &self.hardware)
    }

    fn is_exclusive(&self, backing: Backing) -> bool {
        self.backings.is_exclusive(backing.0)
    }

    fn would_free(&self, backing: Backing, _pages: Pages) -> Pages {
        self.backings.would_free(backing.0)
    }

    fn map(&self, view: &View) -> Result<(), MapError> {
        self.map_more(view, view.pages)
    }

    fn extend(
        &self,
        view: &View,
        more: PageRange,
        policy: FramePolicy,
    ) -> Result<Backing, BackError> {
        let push = |run| self.backings.append(view.backing.0, run, &self.frames, &self.hardware);
        self.take_frames(more.len, policy, push).inspect_err(|_| {
            self.truncate(view, view.pages.len);
        })?;
        Ok(view.backing)
    }

    fn map_more(&self, view: &View, more: PageRange) -> Result<(), MapError> {
        let skip = more.start.0 - view.pages.start.0;
        self.show_part(&self.hardware, view.backing, skip, more, view.prot)
    }

    fn zero_more(&self, _view: &View, more: PageRange) {
        for page in (more.start.0..more.end().0).map(Vpn) {
            if let Some((pfn, _)) = self.hardware.translate(page) {
                self.hardware.zero(Extent { start: pfn, len: Pages(1) });
            }
        }
    }

    fn truncate(&self, view: &View, pages: Pages) -> Backing {
        self.backings.truncate(view.backing.0, pages, &self.frames, &self.hardware);
        view.backing
    }

    fn publish(&self, pages: PageRange) {
        self.hardware.publish(pages);
    }

    fn zero(&self, view: &View) {
        self.each_extent(view.backing, |run| self.hardware.zero(run));
    }

    fn split(&self, at: Vpn) -> Result<(), MapError> {
        self.hardware.split(at)
    }

    fn unmap(&self, pages: PageRange) {
        self.hardware.unmap_run(pages);
    }

    fn flush(&self, ranges: &[PageRange]) -> Result<(), FlushError> {
        self.hardware.flush_all_cpus(ranges);
        Ok(())
    }

    fn reset_perms(&self, backing: Backing) {
        self.protect_direct(backing, Prot::READ_WRITE);
    }

    fn decommit(&self, pages: PageRange) {
        self.decommit_run(pages);
    }

    fn unback(&self, _pages: PageRange, backing: Backing) {
        self.backings.release(backing.0, &self.frames, &self.hardware);
    }

    fn node_of(&self, page: Vpn) -> Option<NodeId> {
        self.frames.node_of(self.hardware.translate(page)?.0)
    }

    fn translate(&self, page: Vpn) -> Option<(Pfn, Prot)> {
        self.hardware.translate(page)
    }

    fn read(&self, page: Vpn, offset: usize, out: &mut [u8]) -> bool {
        let Some((pfn, _)) = self.hardware.translate(page) else { return false };
        if self.hardware.ram_in(Extent { start: pfn, len: Pages(1) }) == Pages(0) {
            return false; // a device's: to look may be to change
        }
        let words = self.hardware.words(pfn);
        for (i, byte) in (offset..).zip(out) {
            // Relaxed: a copy of memory that others may be writing.
            *byte = (words[i / 8].load(Ordering::Relaxed) >> (i % 8 * 8)) as u8;
        }
        true
    }
}
