//! Pages reserved now and filled later, in parts.
//!
//! ```text
//!   get_vm_area ─▶ area, nothing in it
//!     Fill::Frames  map_pages(frames of mine) … unmap_pages      they stay mine
//!     Fill::Commit  commit(frames of the engine) … decommit      home after the flush
//!     Fill::Device  ioremap_page_range(all of it, once)
//!   free: what is left in it goes with it
//! ```
//!
//! Each call is all or nothing, and while it runs look-ups say that the area is being built; a
//! second caller waits for a bounded time. Which frames were committed stands in the page tables
//! and nowhere else. For machines with page tables.
//!
//! Linux: `get_vm_area`, `free_vm_area`, `VM_SPARSE` with `vm_area_map_pages` (which leaves the
//! earlier pages mapped when a later one fails) and `vm_area_unmap_pages`, `ioremap_page_range`.
//! It has nothing like commit.

use super::{Engine, Freed};
use crate::back::adopt;
use crate::error::{AllocError, FreeError};
use crate::flush::PendingFlush;
use crate::machine::{BackError, Machine};
use crate::map::map;
use crate::paged::{Hardware, Paged};
use crate::platform::{Frames, MapError};
use crate::prot::{Cache, Prot};
use crate::publish::{Area, AreaId, publish};
use crate::record::{Kind, Shape, State, flags};
use crate::request::{Limits, Request};
use crate::reserve::reserve;
use crate::share::record_of;
use crate::slots::slot_pages;
use crate::units::{Extent, PageRange, Pages, Pfn, Vpn};
use core::fmt;

/// How often a caller looks whether another one is done with the area.
const SPINS: usize = 1 << 16;

/// What may come into a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fill {
    /// Frames of the caller's, in parts. Linux: `VM_SPARSE`.
    Frames,
    /// Frames of the engine's, in parts.
    Commit,
    /// A device's frames, all at once. Linux: `VM_IOREMAP`.
    Device,
}

/// Why a reservation could not be filled or emptied. It is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FillError {
    /// The handle names an area that lives no more, or that is not this member's alone.
    Stale {
        /// The generation that the handle was for.
        generation: u64,
    },
    /// Another caller has been filling the area for very long.
    Busy,
    /// The area is no reservation of the kind that the verb fills.
    WrongKind,
    /// The range does not lie in the area, or for a device is not all of it.
    OutOfArea {
        /// The range.
        part: PageRange,
        /// The area's pages.
        area: PageRange,
    },
    /// The frames are not as many as the pages.
    Length {
        /// How many pages.
        pages: Pages,
        /// How many frames.
        frames: Pages,
    },
    /// Undoing may have to flush, and this context may not wait.
    MayNotWait,
    /// No frames.
    Back(BackError),
    /// The pages could not be mapped; `Occupied`: one is filled already.
    Map(MapError),
}

impl fmt::Display for FillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { generation } => {
                write!(f, "generation {generation} of the area is not this member's alone")
            }
            Self::Busy => write!(f, "another caller is filling the area"),
            Self::WrongKind => write!(f, "the area is no reservation that is filled this way"),
            Self::OutOfArea { part, area } => write!(f, "{part} is not of the area {area}"),
            Self::Length { pages, frames } => write!(f, "{pages} and {} frames", frames.0),
            Self::MayNotWait => write!(f, "this context may not wait for other CPUs"),
            Self::Back(e) => write!(f, "{e}"),
            Self::Map(e) => write!(f, "{e}"),
        }
    }
}

impl core::error::Error for FillError {}

impl<F: Frames, H: Hardware> Engine<'_, Paged<'_, F, H>> {
    /// Reserves pages, as the request says where ([`Request::within`] a range of exactly its size:
    /// there), and fills none. They may be more than there are frames. Linux: `get_vm_area`.
    ///
    /// # Errors
    ///
    /// [`AllocError`]; nothing was reserved.
    pub fn get_vm_area(&self, request: &Request, fill: Fill) -> Result<Area, AllocError> {
        let kind = flags::RESERVED
            | match fill {
                Fill::Frames => flags::SPARSE,
                Fill::Commit => flags::COMMIT,
                Fill::Device => flags::IOREMAP,
            };
        let limits = Limits {
            capacity: self.geometry().pages(),
            align_max: Paged::<F, H>::ALIGN_MAX,
            user_align: Pages(1),
            start: self.context.start,
        };
        let plan = request.with_flags(kind).plan(&self.geometry(), &limits)?;
        self.counted(self.with_purge(&plan, || {
            let reserved = reserve(&self.context, &plan)?;
            let backed = adopt(reserved, &[]).map_err(AllocError::Back)?;
            let mapped = map(backed).map_err(AllocError::Map)?;
            Ok(publish(mapped))
        }))
    }

    /// Gives a reservation back, with what is in it: committed frames go home, others stay their
    /// owner's, after a purge. Linux: `free_vm_area`.
    ///
    /// # Errors
    ///
    /// [`FreeError`]; nothing was freed. `WrongVerb`: the area is no reservation.
    pub fn free_vm_area(&self, id: AreaId, generation: u64) -> Result<Freed, FreeError> {
        let stale = FreeError::Stale { generation };
        let shape = record_of(&self.context, id).ok_or(stale)?.shape();
        if shape.flags & flags::RESERVED == 0 {
            return Err(FreeError::WrongVerb);
        }
        self.free(id, generation)
    }

    /// Shows `frames`, the caller's, at the pages `part` of a [`Fill::Frames`] reservation. Linux:
    /// `vm_area_map_pages`.
    ///
    /// # Errors
    ///
    /// [`FillError`]; nothing of it was mapped.
    pub fn map_pages(
        &self,
        id: AreaId,
        generation: u64,
        part: PageRange,
        frames: &[Extent],
    ) -> Result<(), FillError> {
        self.fill(id, generation, flags::SPARSE, part, |prot| self.show_at(part, frames, prot))
    }

    /// Empties the pages `part` of a [`Fill::Frames`] reservation, on all CPUs when it returns;
    /// those that show nothing are passed over. Linux: `vm_area_unmap_pages`.
    ///
    /// # Errors
    ///
    /// [`FillError`]; nothing was unmapped.
    pub fn unmap_pages(
        &self,
        id: AreaId,
        generation: u64,
        part: PageRange,
    ) -> Result<(), FillError> {
        self.fill(id, generation, flags::SPARSE, part, |_| {
            let hardware = self.context.machine.hardware();
            hardware.split(part.start).map_err(FillError::Map)?;
            hardware.split(part.end()).map_err(FillError::Map)?;
            hardware.unmap_run(part);
            let _ = PendingFlush::parked(part).shoot_down(hardware);
            Ok(())
        })
    }

    /// Fills all of a [`Fill::Device`] reservation, and nothing but all of it, with a device's
    /// frames from `pfn` on. Linux: `ioremap_page_range`.
    ///
    /// # Errors
    ///
    /// [`FillError`]; nothing was mapped.
    pub fn ioremap_page_range(
        &self,
        id: AreaId,
        generation: u64,
        part: PageRange,
        pfn: Pfn,
        cache: Cache,
    ) -> Result<(), FillError> {
        self.fill(id, generation, flags::IOREMAP, part, |prot| {
            let run = Extent { start: pfn, len: part.len };
            if pfn.0.checked_add(part.len.0).is_none_or(|end| end > 1 << 40) {
                return Err(FillError::Back(BackError::NoSuchFrames { run }));
            }
            let ram = self.context.machine.hardware().ram_in(run);
            if ram != Pages(0) {
                return Err(FillError::Back(BackError::IsRam { run, ram }));
            }
            self.show_at(part, &[run], prot.cached(cache))
        })
    }

    /// Gives the pages `part` of a [`Fill::Commit`] reservation frames, filled with zeros.
    ///
    /// # Errors
    ///
    /// [`FillError`]; nothing of it was committed. `Occupied`: a page of it is already.
    pub fn commit(&self, id: AreaId, generation: u64, part: PageRange) -> Result<(), FillError> {
        let machine = &self.context.machine;
        loop {
            let done = self.fill(id, generation, flags::COMMIT, part, |prot| {
                if let Some((at, by)) = self.first_filled(part) {
                    return Err(FillError::Map(MapError::Occupied { at, by }));
                }
                machine.commit_run(part, prot)
            });
            match done {
                Err(FillError::Back(e))
                    if AllocError::Back(e).purge_may_help() && self.made_room(part.len) => {}
                done => return done,
            }
        }
    }

    /// Takes the frames of the pages `part` of a [`Fill::Commit`] reservation home; the pages stay
    /// reserved. Those that have none are passed over.
    ///
    /// # Errors
    ///
    /// [`FillError`]; nothing was taken.
    pub fn decommit(&self, id: AreaId, generation: u64, part: PageRange) -> Result<(), FillError> {
        let machine = &self.context.machine;
        self.fill(id, generation, flags::COMMIT, part, |_| {
            machine.hardware().split(part.start).map_err(FillError::Map)?;
            machine.hardware().split(part.end()).map_err(FillError::Map)?;
            machine.decommit_run(part);
            Ok(())
        })
    }

    /// Runs `work` on a part of a reservation that nobody else fills or frees meanwhile.
    fn fill(
        &self,
        id: AreaId,
        generation: u64,
        kind: u64,
        part: PageRange,
        work: impl FnOnce(Prot) -> Result<(), FillError>,
    ) -> Result<(), FillError> {
        if !self.context.machine.may_wait() {
            return Err(FillError::MayNotWait);
        }
        let stale = FillError::Stale { generation };
        let record = record_of(&self.context, id).ok_or(stale)?;
        let live = State::new(Kind::Live, Some(self.context.me), generation);
        let building = State { kind: Kind::Building, ..live };
        let mut spins = 0;
        while !record.step(live, building) {
            if record.state() != Some(building) && record.state() != Some(live) {
                return Err(stale);
            }
            spins += 1;
            if spins == crate::sync::tries(SPINS) {
                return Err(FillError::Busy);
            }
            crate::sync::spin_loop();
        }
        let checked = || {
            let shape: Shape = record.shape();
            if shape.flags & (flags::RESERVED | kind) != flags::RESERVED | kind {
                return Err(FillError::WrongKind);
            }
            let slot = slot_pages(self.context.tables, record.id).ok_or(stale)?;
            let view = self.context.view(record.id, slot, &shape);
            let end = part.start.0.checked_add(part.len.0);
            let inside = part.start >= view.pages.start
                && part.len > Pages(0)
                && end.is_some_and(|end| end <= view.pages.end().0);
            if !inside || kind == flags::IOREMAP && part != view.pages {
                return Err(FillError::OutOfArea { part, area: view.pages });
            }
            Ok(view.prot)
        };
        let done = checked().and_then(work);
        record.step(building, live);
        done
    }

    fn show_at(&self, part: PageRange, frames: &[Extent], prot: Prot) -> Result<(), FillError> {
        let hardware = self.context.machine.hardware();
        let len = frames.iter().fold(0_u64, |sum, run| sum.saturating_add(run.len.0));
        if len != part.len.0 {
            return Err(FillError::Length { pages: part.len, frames: Pages(len) });
        }
        let is_none =
            |run: &&Extent| run.start.0.checked_add(run.len.0).is_none_or(|end| end > 1 << 40);
        if let Some(run) = frames.iter().find(is_none) {
            return Err(FillError::Back(BackError::NoSuchFrames { run: *run }));
        }
        let mut at = part.start;
        for run in frames.iter().filter(|run| run.len > Pages(0)) {
            if let Err(e) = hardware.map_run(at, *run, prot) {
                let done = PageRange { start: part.start, len: Pages(at.0 - part.start.0) };
                if done.len > Pages(0) {
                    hardware.unmap_run(done);
                    let _ = PendingFlush::after_failed_map(done).shoot_down(hardware);
                }
                return Err(FillError::Map(e));
            }
            at = Vpn(at.0 + run.len.0);
        }
        hardware.publish(part);
        Ok(())
    }

    fn first_filled(&self, part: PageRange) -> Option<(Vpn, Pfn)> {
        let hardware = self.context.machine.hardware();
        let mut pages = (part.start.0..part.end().0).map(Vpn);
        pages.find_map(|page| Some((page, hardware.translate(page)?.0)))
    }
}

/// Extents that are collected before one flush: on the stack, a kilobyte.
const BATCH: usize = 64;

impl<F: Frames, H: Hardware> Paged<'_, F, H> {
    /// Takes frames for `part`, no page of which is mapped, and shows them, zeroed.
    fn commit_run(&self, part: PageRange, prot: Prot) -> Result<(), FillError> {
        let mut at = part.start;
        let mut runs = [Extent::default(); BATCH];
        let failed = 'taken: loop {
            let left = Pages(part.end().0 - at.0);
            if left == Pages(0) {
                self.hardware().publish(part);
                return Ok(());
            }
            let n = self.frames().take_bulk(left, &mut runs);
            if n == 0 {
                let free = self.frames().free();
                break FillError::Back(BackError::NoFrames { wanted: part.len, free });
            }
            for (i, run) in runs[..n].iter().enumerate() {
                self.hardware().zero(*run);
                if let Err(e) = self.hardware().map_run(at, *run, prot) {
                    runs[i..n].iter().for_each(|run| self.frames().give(*run));
                    break 'taken FillError::Map(e);
                }
                at = Vpn(at.0 + run.len.0);
            }
        };
        self.decommit_run(PageRange { start: part.start, len: Pages(at.0 - part.start.0) });
        Err(failed)
    }

    /// Unmaps `part`, flushes, and sends its frames home, up to [`BATCH`] runs of them a flush.
    pub(crate) fn decommit_run(&self, part: PageRange) {
        let hardware = self.hardware();
        let mut at = part.start;
        while at < part.end() {
            let first = at;
            let mut runs = [Extent::default(); BATCH];
            let mut n = 0;
            while at < part.end() {
                if let Some((pfn, _)) = hardware.translate(at) {
                    match runs[..n].last_mut().filter(|run| run.end() == pfn) {
                        Some(run) => run.len.0 += 1,
                        None if n == BATCH => break,
                        None => {
                            runs[n] = Extent { start: pfn, len: Pages(1) };
                            n += 1;
                        }
                    }
                }
                at = Vpn(at.0 + 1);
            }
            let done = PageRange { start: first, len: Pages(at.0 - first.0) };
            hardware.unmap_run(done);
            let flushed = PendingFlush::parked(done).shoot_down(hardware);
            assert!(flushed.covers(done), "{done} was not flushed");
            runs[..n].iter().for_each(|run| self.frames().give(*run));
        }
    }
}
