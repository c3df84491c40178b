//! Protection changed while an area is in use.
//!
//! ```text
//!   protect:  mapping ─▶ READ ─▶ flush ─▶ the rights asked for ─▶ flush
//!   vfree of a RESET_PERMS area:  unmap ─▶ flush ─▶ direct map writable again ─▶ flush ─▶ frames
//! ```
//!
//! On the way from one protection to another a page can only be read, and that is flushed before
//! the new right is granted: no CPU ever holds a translation that writes beside one that executes.
//! Linux: `set_memory_ro`, `_rw`, `_x`, `_nx`, in which the caller keeps the order.

use super::Engine;
use crate::flush::{BATCH, PendingFlush};
use crate::machine::{Backing, Machine};
use crate::paged::{Hardware, Paged};
use crate::platform::{Frames, MapError};
use crate::prot::{Prot, Rights};
use crate::publish::AreaId;
use crate::record::{Kind, Record, Shape, State, flags};
use crate::share::record_of;
use crate::slots::slot_pages;
use crate::units::Extent;
use core::fmt;

/// Why [`Engine::protect`] or [`Engine::reset_perms`] failed. The area is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ProtectError {
    /// The handle names an area that lives no more, or that is not this member's alone.
    Stale {
        /// The generation that the handle was for.
        generation: u64,
    },
    /// The area shows frames that are not its own, or that others show, too.
    NotMine,
    /// Other CPUs must be asked to forget the old rights, and this context may not wait.
    MayNotWait,
    /// No frame for a page table that a smaller leaf needs.
    Map(MapError),
}

impl fmt::Display for ProtectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { generation } => {
                write!(f, "generation {generation} of the area is not this member's alone")
            }
            Self::NotMine => write!(f, "the area's frames are not its own alone"),
            Self::MayNotWait => write!(f, "this context may not wait for other CPUs"),
            Self::Map(e) => write!(f, "{e}"),
        }
    }
}

impl core::error::Error for ProtectError {}

impl<F: Frames, H: Hardware> Engine<'_, Paged<'_, F, H>> {
    /// Gives an area that is this member's alone other rights, on all CPUs when it returns. While
    /// it runs, look-ups say that the area is being built. Linux: `set_memory_ro` and `_nx` are
    /// [`Rights::Read`], `_rw` is [`Rights::ReadWrite`], `_x` (or `_rox`) [`Rights::ReadExecute`].
    ///
    /// # Errors
    ///
    /// [`ProtectError`]; the area is as it was.
    pub fn protect(&self, id: AreaId, generation: u64, rights: Rights) -> Result<(), ProtectError> {
        self.while_building(id, generation, |record, shape| {
            let machine = &self.context.machine;
            let backing = Backing(shape.backing);
            let is_direct = shape.flags & flags::RESET_PERMS != 0;
            if (is_direct || rights.may_execute()) && !machine.is_exclusive(backing) {
                return Err(ProtectError::NotMine);
            }
            let slot = slot_pages(self.context.tables, record.id).ok_or(ProtectError::NotMine)?;
            let view = self.context.view(record.id, slot, shape);
            if is_direct {
                machine.split_direct(backing).map_err(ProtectError::Map)?;
            }
            // From here on nothing can fail.
            let step = |prot: Prot| {
                machine.hardware().protect_run(view.pages, prot);
                let _ = PendingFlush::parked(view.pages).shoot_down(machine.hardware());
            };
            step(view.prot.rights(Rights::Read));
            if is_direct {
                let writable = if rights.may_write() { Prot::READ_WRITE } else { Prot::READ };
                machine.protect_direct(backing, writable);
            }
            if rights != Rights::Read {
                step(view.prot.rights(rights));
            }
            let bits = view.prot.rights(rights).to_flags();
            record.set_shape(&Shape { flags: shape.flags & !flags::PROT | bits, ..*shape });
            Ok(())
        })
    }

    /// From here on [`Engine::protect`] protects the area's frames in the direct map, too, and a
    /// free purges the area at once and makes them writable there again, before they go home.
    /// Such an area cannot be freed where waiting is forbidden. Linux: `set_vm_flush_reset_perms`.
    ///
    /// # Errors
    ///
    /// [`ProtectError`]; the area is as it was. `NotMine`: made by `vmap` or shared.
    pub fn reset_perms(&self, id: AreaId, generation: u64) -> Result<(), ProtectError> {
        self.while_building(id, generation, |record, shape| {
            let foreign = flags::FOREIGN | flags::RESERVED;
            let is_mine = shape.flags & foreign == 0
                && self.context.machine.is_exclusive(Backing(shape.backing));
            if !is_mine {
                return Err(ProtectError::NotMine);
            }
            record.add_flags(flags::RESET_PERMS | flags::NO_REUSE);
            Ok(())
        })
    }

    fn while_building(
        &self,
        id: AreaId,
        generation: u64,
        work: impl FnOnce(Record<'_>, &Shape) -> Result<(), ProtectError>,
    ) -> Result<(), ProtectError> {
        if !self.context.machine.may_wait() {
            return Err(ProtectError::MayNotWait);
        }
        let stale = ProtectError::Stale { generation };
        let record = record_of(&self.context, id).ok_or(stale)?;
        let live = State::new(Kind::Live, Some(self.context.me), generation);
        let building = State { kind: Kind::Building, ..live };
        if !record.step(live, building) {
            return Err(stale);
        }
        let done = work(record, &record.shape());
        record.step(building, live);
        done
    }
}

impl<F: Frames, H: Hardware> Paged<'_, F, H> {
    /// Makes borders in the direct map at the ends of a backing's runs.
    fn split_direct(&self, backing: Backing) -> Result<(), MapError> {
        let mut result = Ok(());
        self.each_extent(backing, |run| {
            if let (Ok(()), Some(at)) = (result, self.hardware().direct(run)) {
                result = self.hardware().split(at.start);
                result = result.and_then(|()| self.hardware().split(at.end()));
            }
        });
        result
    }

    /// Protects a backing's frames in the direct map, and flushes that.
    pub(crate) fn protect_direct(&self, backing: Backing, prot: Prot) {
        let mut pending = PendingFlush::empty();
        let mut len = 0;
        self.each_extent(backing, |run: Extent| {
            let Some(at) = self.hardware().direct(run) else { return };
            self.hardware().protect_run(at, prot);
            if len == BATCH {
                let full = core::mem::replace(&mut pending, PendingFlush::empty());
                let _ = full.shoot_down(self.hardware());
                len = 0;
            }
            pending = core::mem::replace(&mut pending, PendingFlush::empty())
                .join(&PendingFlush::parked(at));
            len += 1;
        });
        if !pending.is_empty() {
            let _ = pending.shoot_down(self.hardware());
        }
    }
}
