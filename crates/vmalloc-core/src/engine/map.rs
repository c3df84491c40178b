//! Showing what is there already: frames taken over, a device's frames, a physical range.
//!
//! ```text
//!   frames of mine ──vmap──────────▶ area   vunmap: they stay mine
//!   frames of mine ──vmap_put_pages▶ area   vfree: they go home after the flush
//!   no RAM of ours ──vmap_pfn, ioremap, memremap▶ area   vread passes it over, nobody zeroes it
//! ```
//!
//! For machines with page tables; where the kernel has them, the verbs are not there. Linux:
//! `vmap` with `VM_MAP_PUT_PAGES`, `vmap_pfn`, `ioremap`, `memremap`.

use super::{Engine, Freed, mapping};
use crate::back::adopt;
use crate::error::{AllocError, FreeError, PurgeError};
use crate::machine::{BackError, Machine};
use crate::map::map;
use crate::paged::{Hardware, Paged};
use crate::platform::Frames;
use crate::prot::{Cache, Prot, Rights};
use crate::publish::{Area, publish};
use crate::purge::{Purged, sweep};
use crate::record::{Kind, Record, flags};
use crate::registry;
use crate::request::{HUGE_PAGES, Limits};
use crate::reserve::reserve;
use crate::units::{Extent, PAGE_SIZE, Pages, Pfn, VirtAddr};

impl<F: Frames, H: Hardware> Engine<'_, Paged<'_, F, H>> {
    /// As [`Engine::vmap`], and the area takes the frames over: [`Engine::vfree`], not `vunmap`,
    /// frees it, and sends them home to the machine's frame allocator once the pages are flushed.
    /// They must have been taken there. Linux: `VM_MAP_PUT_PAGES`, whose frames go home before.
    ///
    /// # Errors
    ///
    /// [`AllocError`]; nothing was mapped, and the frames are still the caller's.
    /// [`BackError::NotRam`]: they can be nobody's.
    pub fn vmap_put_pages(&self, frames: &[Extent], prot: Prot) -> Result<Area, AllocError> {
        let is_ram = |run: &&Extent| self.ram_in(**run) == run.len;
        if let Some(run) = frames.iter().find(|run| !is_ram(run)) {
            return Err(AllocError::Back(BackError::NotRam { run: *run }));
        }
        self.show(frames, prot, flags::PUT_PAGES, Pages(1))
    }

    /// As [`Engine::vunmap`], and no CPU reaches the frames any more when it returns: one shootdown,
    /// for one area. Where waiting is forbidden the area is parked, and the next purge takes it.
    ///
    /// # Errors
    ///
    /// [`FreeError`]; nothing was unmapped.
    pub fn vunmap_at_once(&self, addr: VirtAddr) -> Result<Freed, FreeError> {
        let (record, state, shape) = registry::base_of(&self.context, addr)?;
        if shape.flags & flags::FOREIGN == 0 {
            return Err(FreeError::WrongVerb);
        }
        if state.kind == Kind::Live && state.owner == Some(self.context.me) {
            record.add_flags(flags::NO_REUSE);
        }
        self.free_record(record, state)
    }

    /// Purges all that [`Engine::vmap`] or [`Engine::attach`] showed and `vunmap` took away, for a shootdown a 128 chunks:
    /// no CPU reaches such frames by an old address any more. What `vfree` parked stays warm. Linux:
    /// `vm_unmap_aliases`.
    ///
    /// # Errors
    ///
    /// [`PurgeError`]; what was not purged is still parked.
    pub fn vm_unmap_aliases(&self) -> Result<Purged, PurgeError> {
        let shows = |record: &Record<'_>| record.flags() & flags::FOREIGN != 0;
        Purged::until_none(|| sweep(&self.context, Pages(u64::MAX), shows))
    }

    /// Shows frames that are no RAM: a device's. [`Engine::vunmap`] takes them away. Never
    /// executable, as with Linux. Linux: `vmap_pfn`.
    ///
    /// # Errors
    ///
    /// [`AllocError`]; nothing was mapped. [`BackError::IsRam`]: `vmap` is for those.
    pub fn vmap_pfn(&self, frames: &[Extent], prot: Prot) -> Result<Area, AllocError> {
        if let Some(run) = frames.iter().find(|run| self.ram_in(**run) != Pages(0)) {
            return Err(AllocError::Back(BackError::IsRam { run: *run, ram: self.ram_in(*run) }));
        }
        let rights = if prot.rights.may_write() { Rights::ReadWrite } else { Rights::Read };
        self.show(frames, prot.rights(rights), flags::VMAP | flags::IOREMAP, Pages(1))
    }

    /// Shows `len_bytes` bytes of a device from physical address `phys` on, neither of which has
    /// to be a multiple of a page; the address of the first byte. The area lies at a multiple of
    /// its size, rounded up to a power of two, at most 2 MiB, so that huge leaves fit. Linux:
    /// `ioremap`, `ioremap_wc`, `ioremap_wt`.
    ///
    /// # Errors
    ///
    /// [`AllocError`]; nothing was mapped. [`BackError::IsRam`]: caching it otherwise than the
    /// direct map does would lose stores.
    pub fn ioremap(&self, phys: u64, len_bytes: u64, cache: Cache) -> Result<VirtAddr, AllocError> {
        let run = frames_of(phys, len_bytes)?;
        let ram = self.ram_in(run);
        if ram != Pages(0) {
            return Err(AllocError::Back(BackError::IsRam { run, ram }));
        }
        self.show_physical(phys, run, cache)
    }

    /// Takes away what [`Engine::ioremap`] showed at `addr`. Linux: `iounmap`.
    ///
    /// # Errors
    ///
    /// [`FreeError`]; nothing was unmapped. `WrongVerb`: no such area.
    pub fn iounmap(&self, addr: VirtAddr) -> Result<Freed, FreeError> {
        let base = addr.vpn().addr();
        let (_, _, shape) = registry::base_of(&self.context, base)?;
        if shape.flags & flags::IOREMAP == 0 {
            return Err(FreeError::WrongVerb);
        }
        self.vunmap(base)
    }

    /// Shows a physical range as memory: RAM where the direct map shows it, if it does, else in an
    /// area; what is no RAM as [`Engine::ioremap`] does. Linux: `memremap`.
    ///
    /// # Errors
    ///
    /// [`AllocError`]; nothing was mapped. [`BackError::IsRam`]: a part of the range is RAM, or
    /// all of it and `cache` is not [`Cache::WriteBack`].
    pub fn memremap(
        &self,
        phys: u64,
        len_bytes: u64,
        cache: Cache,
    ) -> Result<VirtAddr, AllocError> {
        let run = frames_of(phys, len_bytes)?;
        let ram = self.ram_in(run);
        if ram == Pages(0) {
            return self.show_physical(phys, run, cache);
        }
        if ram != run.len || cache != Cache::WriteBack {
            return Err(AllocError::Back(BackError::IsRam { run, ram }));
        }
        let base = match self.context.machine.hardware().direct(run) {
            Some(pages) => pages.start,
            None => self.vmap(&[run], Prot::READ_WRITE)?.pages.start,
        };
        Ok(VirtAddr(base.addr().0 + phys % PAGE_SIZE as u64))
    }

    /// Takes away what [`Engine::memremap`] showed at `addr`; of the direct map, nothing. Linux:
    /// `memunmap`.
    ///
    /// # Errors
    ///
    /// [`FreeError`]; nothing was unmapped.
    pub fn memunmap(&self, addr: VirtAddr) -> Result<Option<Freed>, FreeError> {
        if !self.is_vmalloc_addr(addr) {
            return Ok(None);
        }
        self.vunmap(addr.vpn().addr()).map(Some)
    }

    fn show_physical(&self, phys: u64, run: Extent, cache: Cache) -> Result<VirtAddr, AllocError> {
        let align = Pages(run.len.0.next_power_of_two().min(HUGE_PAGES));
        let prot = Prot::READ_WRITE.cached(cache);
        let area = self.show(&[run], prot, flags::VMAP | flags::IOREMAP, align)?;
        Ok(VirtAddr(area.addr().0 + phys % PAGE_SIZE as u64))
    }

    /// The walk of `vmap`, for frames that need not be the pool's.
    fn show(
        &self,
        frames: &[Extent],
        prot: Prot,
        kind: u64,
        align: Pages,
    ) -> Result<Area, AllocError> {
        let pages = frames.iter().fold(0_u64, |sum, run| sum.saturating_add(run.len.0));
        let bytes = pages.saturating_mul(PAGE_SIZE as u64);
        let limits = Limits {
            // A device may be larger than all of memory.
            capacity: self.geometry().pages(),
            align_max: Paged::<F, H>::ALIGN_MAX,
            user_align: Pages(1),
            start: self.context.start,
        };
        let request = mapping(bytes, prot, kind).align_bytes(align.bytes());
        let plan = request.plan(&self.geometry(), &limits)?;
        self.counted(self.with_purge(&plan, || {
            let reserved = reserve(&self.context, &plan)?;
            let backed = adopt(reserved, frames).map_err(AllocError::Back)?;
            let backing = backed.backing;
            let mapped = map(backed).map_err(AllocError::Map)?;
            if kind & flags::PUT_PAGES != 0 {
                // Nothing can fail any more, so they need not be given back to the caller.
                self.context.machine.take_over(backing);
            }
            Ok(publish(mapped))
        }))
    }

    fn ram_in(&self, run: Extent) -> Pages {
        if run.start.0.checked_add(run.len.0).is_none() {
            // Refused later, as frames that no machine has.
            return Pages(0);
        }
        self.context.machine.hardware().ram_in(run)
    }
}

/// The frames of a physical range.
fn frames_of(phys: u64, len_bytes: u64) -> Result<Extent, AllocError> {
    if len_bytes == 0 {
        return Err(AllocError::ZeroSize);
    }
    let start = Pfn(phys / PAGE_SIZE as u64);
    let wraps = |len| BackError::NoSuchFrames { run: Extent { start, len } };
    let end =
        phys.checked_add(len_bytes).ok_or(AllocError::Back(wraps(Pages::for_bytes(len_bytes))))?;
    Ok(Extent { start, len: Pages(end.div_ceil(PAGE_SIZE as u64) - start.0) })
}
