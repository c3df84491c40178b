//! The machine that writes page tables: frames, a mapper and TLBs, put behind the stages.
//!
//! A kernel (and `vmalloc-sim`) supplies the traits of [`crate::platform`]; this file is all that
//! lies between them and the engine. Several engines, one a window, may share frames and
//! backings: so the same frames show in several address spaces.
//!
//! Linux: `vm_area_alloc_pages`, `vmap_pages_range`, `vunmap_range_noflush`.

use crate::backing::Backings;
use crate::machine::{BackError, Backing, FlushError, Machine, View};
use crate::platform::{Frames, MapError, Mapper, Prot, Ram, Tlb};
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

    fn may_wait(&self) -> bool {
        self.hardware.may_wait()
    }

    fn back(&self, pages: PageRange, _huge: bool) -> Result<Backing, BackError> {
        let draft = self.backings.begin(true)?;
        let mut wanted = pages.len.0;
        let mut runs = [Extent::default(); BULK];
        while wanted > 0 {
            let n = self.frames.take_bulk(Pages(wanted), &mut runs);
            if n == 0 {
                self.backings.discard(draft, &self.frames, &self.hardware);
                let (wanted, free) = (pages.len, self.frames.free());
                return Err(BackError::NoFrames { wanted, free });
            }
            for (i, run) in runs[..n].iter().enumerate() {
                if let Err(e) = self.backings.push(&draft, *run, &self.frames, &self.hardware) {
                    // This run and those behind it are not the draft's yet.
                    runs[i..n].iter().for_each(|run| self.frames.give(*run));
                    self.backings.discard(draft, &self.frames, &self.hardware);
                    return Err(e);
                }
                wanted = wanted.saturating_sub(run.len.0);
            }
        }
        Ok(Backing(self.backings.finish(draft)))
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

    fn map(&self, view: &View) -> Result<(), MapError> {
        let mut at = view.pages.start;
        let end = view.pages.end();
        self.backings
            .each_extent(view.backing.0, &self.hardware, |run| {
                // Never beyond the area's pages, whatever the backing has.
                let len = run.len.0.min(end.0 - at.0);
                if len > 0 {
                    let run = Extent { start: run.start, len: Pages(len) };
                    self.hardware.map_run(at, run, view.prot)?;
                    at = Vpn(at.0 + len);
                }
                Ok(())
            })
            .inspect_err(|_| {
                let len = Pages(at.0 - view.pages.start.0);
                self.hardware.unmap_run(PageRange { start: view.pages.start, len });
            })
    }

    fn publish(&self, pages: PageRange) {
        self.hardware.publish(pages);
    }

    fn zero(&self, view: &View) {
        self.each_extent(view.backing, |run| self.hardware.zero(run));
    }

    fn unmap(&self, pages: PageRange) {
        self.hardware.unmap_run(pages);
    }

    fn flush(&self, ranges: &[PageRange]) -> Result<(), FlushError> {
        self.hardware.flush_all_cpus(ranges);
        Ok(())
    }

    fn unback(&self, _pages: PageRange, backing: Backing) {
        self.backings.release(backing.0, &self.frames, &self.hardware);
    }

    fn translate(&self, page: Vpn) -> Option<(Pfn, Prot)> {
        self.hardware.translate(page)
    }
}
