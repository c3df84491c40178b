//! The short ways: an area freed as it was taken, and the caller's frames shown again.
//!
//! ```text
//!   vfree, free    LIVE(me) ─CAS▶ PARKED(me)     a look at two words says that nothing else is due
//!   vmap           PARKED(me) ─CAS▶ LIVE(me)     the same frames, in order, with the same rights
//! ```
//!
//! Both are the long walks' steps in the long walks' order, without what those decide anew: who finds
//! anything out of the ordinary leaves it to them. An area of `vmap` stays mapped when it is parked,
//! so that to show the same frames again costs no table and no flush; nobody else ever gets it. Which
//! parked area shows them is a hint of the machine's, by the first frame; the backing's extents
//! decide, and the record's CAS.
//!
//! Where words are shared with other processes, an area is freed by its handle this way, and by its
//! address the long one, which checks more.
//! Linux: no counterpart. Its `vunmap` clears the entries at once, and its `vmap` writes them anew.

use super::{Engine, Freed};
use crate::class::{Class, GRANULE_SHIFT, SLOTS_MAX};
use crate::layout::Stat;
use crate::lazy;
use crate::machine::{Backing, Machine};
use crate::prot::Prot;
use crate::publish::{Area, AreaId};
use crate::record::{Kind, Record, State, flags, next_generation};
use crate::slots::slot_pages;
use crate::sync::Ordering;
use crate::tag::Tag;
use crate::units::{Extent, PAGE_SIZE, PageRange, VirtAddr, Vpn};

/// What else a free has to do for an area with one of these.
const DUE: u64 = flags::NO_REUSE | flags::RESET_PERMS | flags::OLD;

impl<M: Machine> Engine<'_, M> {
    /// Parks the area whose first byte is `addr`, if that is all there is to do.
    #[inline(always)] // `vfree` is little else
    pub(super) fn free_warm_at(&self, addr: VirtAddr, vmapped: bool) -> Option<Freed> {
        if M::IN_PLACE {
            return None;
        }
        let record = self.begins_at(addr)?;
        let live = record.is_in(Kind::Live, self.context.me)?;
        let flags = record.flags();
        if (flags & flags::FOREIGN != 0) != vmapped {
            return None;
        }
        self.park_warm(record, live, flags)
    }

    /// The same for the tenant `generation` of area `id`.
    #[inline(always)] // as `free` is
    pub(super) fn free_warm(&self, id: AreaId, generation: u64) -> Option<Freed> {
        // Handles are the caller's: this one may be no area's.
        slot_pages(self.context.tables, id.0 as usize)?;
        let record = self.context.record(id.0 as usize);
        let live = record.is_in(Kind::Live, self.context.me)?;
        if live.generation != generation {
            return None;
        }
        self.park_warm(record, live, record.flags())
    }

    /// LIVE → PARKED, if that is all there is to do.
    #[inline(always)] // as both above
    fn park_warm(&self, record: Record<'_>, live: State, flags: u64) -> Option<Freed> {
        if flags & DUE != 0 {
            return None;
        }
        let (context, pages) = (&self.context, record.pages());
        let tally = context.tally();
        // As in `lazy::park`: counted in before anyone can count it out.
        context.add_lazy(&tally, pages);
        if !record.step(live, State { kind: Kind::Parked, ..live }) {
            context.sub_lazy(&tally, pages);
            return None;
        }
        let (head, slot) = (record.id / SLOTS_MAX, record.id % SLOTS_MAX);
        if context.tables.parked(head).load(Ordering::SeqCst) >> slot & 1 == 0 {
            lazy::hint(context, record.id);
        }
        if flags & lazy::NEVER_REVIVED == 0 {
            tally.last_parked().store(record.id as u64 + 1, Ordering::Relaxed);
        }
        tally.add(Stat::Frees, 1);
        Some(self.limit_in(&tally))
    }

    /// Takes the parked area that shows these frames with these rights back into use.
    #[inline]
    pub(super) fn vmap_warm(&self, frames: &[Extent], prot: Prot) -> Option<Area> {
        if M::IN_PLACE {
            return None;
        }
        let context = &self.context;
        let hint = context.machine.shown_by(frames.first()?.start)?.load(Ordering::Relaxed);
        let id = usize::try_from(hint.checked_sub(1)?).ok()?;
        // The hint may be another window's, of other records.
        if id >= self.geometry().areas() {
            return None;
        }
        let record = context.record(id);
        let parked = record.is_in(Kind::Parked, context.me)?;
        // Only now: while an area is parked there, its chunk stays of its class.
        let start = self.start_of(id)?;
        let shape = record.shape();
        let pages = context.machine.shows(Backing(shape.backing), frames)?;
        if shape.flags & !flags::OLD != flags::VMAP | prot.to_flags() || shape.pages != pages {
            return None;
        }
        let generation = next_generation(parked.generation);
        // What was read above was this tenant's, or the generation is another one now.
        if !record.step(parked, State { kind: Kind::Live, generation, ..parked }) {
            return None;
        }
        let tally = context.tally();
        context.sub_lazy(&tally, pages);
        tally.add(Stat::Revives, 1);
        Some(Area {
            id: AreaId(id as u32),
            generation,
            kind: Kind::Live,
            owner: parked.owner,
            pages: PageRange { start, len: pages },
            guard: shape.guard,
            bytes: shape.bytes,
            flags: shape.flags,
            caller: shape.caller,
            backing: shape.backing,
            birth: shape.birth,
        })
    }

    /// Leaves word which area shows frames that begin with `first`.
    pub(super) fn remember(&self, first: Option<&Extent>, area: &Area) {
        let hint = first.and_then(|run| self.context.machine.shown_by(run.start));
        // Relaxed: a hint.
        hint.into_iter().for_each(|hint| hint.store(u64::from(area.id.0) + 1, Ordering::Relaxed));
    }

    /// The record of the slot whose first byte is `addr`.
    #[inline]
    fn begins_at(&self, addr: VirtAddr) -> Option<Record<'_>> {
        let offset = addr.vpn().0.wrapping_sub(self.context.start.0);
        if offset >= self.geometry().pages().0 || !addr.0.is_multiple_of(PAGE_SIZE as u64) {
            return None;
        }
        let granule = (offset >> GRANULE_SHIFT) as usize;
        let (head, class) = match self.tag(granule)? {
            Tag::Chunk(class) => (granule, class),
            Tag::Body { head, .. } if head < granule => (head, self.chunk(head)?),
            _ => return None,
        };
        let (within, stride) = (offset - ((head as u64) << GRANULE_SHIFT), class.stride().0);
        let slot = within / stride;
        (slot * stride == within && slot < class.slots() as u64)
            .then(|| Record::of(self.context.tables, head, slot as usize))
    }

    /// The first page of a slot of a chunk, one of this window's.
    #[inline]
    fn start_of(&self, id: usize) -> Option<Vpn> {
        let (head, slot) = (id / SLOTS_MAX, id % SLOTS_MAX);
        let class = self.chunk(head)?;
        let offset = ((head as u64) << GRANULE_SHIFT) + slot as u64 * class.stride().0;
        (slot < class.slots()).then(|| Vpn(self.context.start.0 + offset))
    }

    #[inline]
    fn chunk(&self, head: usize) -> Option<Class> {
        match self.tag(head)? {
            Tag::Chunk(class) => Some(class),
            _ => None,
        }
    }

    #[inline]
    fn tag(&self, granule: usize) -> Option<Tag> {
        Tag::decode(self.context.tables.tag(granule).load(Ordering::Acquire))
    }
}
