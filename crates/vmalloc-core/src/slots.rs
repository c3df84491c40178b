//! Slots: where areas live. Taking one is a bit and a CAS.
//!
//! ```text
//!   class ─▶ a chunk with room (hint) ─▶ a free bit (hint) ─▶ record FREE → BUILDING(me) (truth)
//!                   └ none: granules.take ─▶ a new chunk
//! ```
//!
//! A chunk may be retired at the same moment, so after the claim we look at its tag again, and
//! undo if it is no longer the chunk we took it for; the retirer looks at our record after it
//! has changed the tag. One of the two sees the other; if each sees the other and steps back,
//! whoever steps back last retires the chunk.
//!
//! A chunk belongs to the lane that made it, and other lanes make their own: so two threads have no
//! neighbouring records, whose cache lines are fetched together, and no neighbouring pages, which
//! share words and page tables elsewhere. Where chunks of others are many, or there is no place for one
//! more, lanes share: then each begins at another slot.
//!
//! A chunk in which nobody lives any more goes back to the granules, but for the last of its class
//! that has room: who allocates and frees one area again and again makes no chunk each time. Before a
//! request fails for want of granules, those go, too.
//!
//! Invariants: a slot belongs to whoever the record's state names; the bits only say where to
//! look. Neighbours: above [`crate::granules`]; below [`crate::reserve`]. Linux: the per-node
//! size pools, which hold what was freed; ours hold what was never used, too.

use crate::class::{Class, GRANULE_PAGES, GRANULE_SHIFT, SLOTS_MAX, granules_for};
use crate::granules::Granules;
use crate::layout::{Tables, ZONES};
use crate::machine::{Machine, NoMetadata};
use crate::record::{Kind, Record, Shape, State};
use crate::sync::{Ordering, fence};
use crate::tag::Tag;
use crate::units::{PageRange, Pages, Vpn};

/// How often the record of a solo area is tried: far longer than anyone holds it by mistake.
const CLAIM_SPINS: usize = 4096;
/// So many chunks of other lanes are passed by before one's own: few, so that finding a slot stays
/// short where there are many.
const OTHERS_MAX: usize = 8;

/// Why [`Slots::take`] failed. Nothing was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SlotError {
    /// No hole holds the area; the largest has so many pages.
    NoHole { largest: Pages },
    /// The machine cannot supply the pages that the records need.
    NoMetadata(NoMetadata),
}

/// What is to be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    /// Pages of the area and its guard.
    pub(crate) span: Pages,
    /// Its first page is a multiple of so many.
    pub(crate) align: Pages,
    /// Which zone, or [`PLACED_ZONE`].
    pub(crate) zone: usize,
    /// Where, as offsets in the window; looked at in [`PLACED_ZONE`] only.
    pub(crate) within: PageRange,
}

/// The zone for small pages comes first; this one is for areas in huge pages.
pub(crate) const HUGE_ZONE: usize = 1;
/// Neither: wherever `Wanted::within` says.
pub(crate) const PLACED_ZONE: usize = ZONES;

/// A slot: its record is BUILDING(me).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    /// The number of the record.
    pub(crate) id: usize,
    /// The record's state.
    pub(crate) state: State,
    /// Its pages, as offsets in the window.
    pub(crate) pages: PageRange,
}

/// The slots of a window, as one member sees them.
#[derive(Clone, Copy)]
pub(crate) struct Slots<'a> {
    pub(crate) granules: Granules<'a>,
}

impl<'a> Slots<'a> {
    /// Takes a slot. ~10 ns from a chunk with room; a new chunk or solo run costs a search.
    pub(crate) fn take(&self, want: Wanted, machine: &impl Machine) -> Result<Slot, SlotError> {
        let class = Class::for_span(want.span);
        if class.is_solo() || want.align.0 > GRANULE_PAGES || want.zone != 0 {
            return self.take_solo(want, machine);
        }
        let lane = machine.lane().index;
        if let Some(slot) = self.take_from_chunks(class, want.align, lane, OTHERS_MAX) {
            return Ok(slot);
        }
        let made = self.new_chunk(class, want, machine);
        if made.is_ok() {
            return made;
        }
        // No place for a chunk of one's own, or no memory for its records.
        if let Some(slot) = self.take_from_chunks(class, want.align, lane, 0) {
            return Ok(slot);
        }
        if !matches!(made, Err(SlotError::NoHole { .. })) {
            return made;
        }
        self.take_solo(want, machine).or_else(|e| self.take_by_scan(want).ok_or(e))
    }

    /// Gives a slot back whose record is FREE already: mends the hints, and retires the chunk if
    /// nothing lives there any more, unless it is the last one of its class with room: that is kept
    /// for whoever comes next, until its pages are wanted.
    pub(crate) fn give(&self, id: usize) {
        let (head, slot) = (id / SLOTS_MAX, id % SLOTS_MAX);
        let tables = self.tables();
        // If somebody is retiring the chunk this moment: whoever of us is later retires it.
        match Tag::decode(tables.tag(head).load(Ordering::SeqCst)).map(Tag::settled) {
            Some(Tag::Chunk(class)) => {
                let bit = 1 << slot;
                tables.parked(head).fetch_and(!bit, Ordering::AcqRel);
                let left = tables.taken(head).fetch_and(!bit, Ordering::AcqRel) & !bit;
                let room = tables.chunks_with_room(class);
                if left != 0 || self.is_last(class, head) || !self.granules.retire(head) {
                    room.set(head);
                }
            }
            Some(Tag::Solo { .. }) => {
                self.granules.retire(head);
            }
            _ => {}
        }
    }

    fn tables(&self) -> Tables<'a> {
        self.granules.tables
    }

    /// Whether no other chunk of its class and lane is seen to have room.
    fn is_last(&self, class: Class, head: usize) -> bool {
        let (room, home) = (self.tables().chunks_with_room(class), self.tables().home(head));
        let (mut from, mut others) = (0, 0);
        while let Some(other) = room.next(from) {
            others += usize::from(other != head);
            if others > OTHERS_MAX || other != head && self.tables().home(other).is_also_of(home) {
                return false;
            }
            from = other + 1;
        }
        true
    }

    /// A slot of this lane's chunks; of any lane's once `others_max` of others were seen with room.
    fn take_from_chunks(
        &self,
        class: Class,
        align: Pages,
        lane: usize,
        others_max: usize,
    ) -> Option<Slot> {
        let room = self.tables().chunks_with_room(class);
        let eligible = class.aligned_slots(align);
        let (mut from, mut others) = (0, 0);
        while let Some(head) = room.next(from) {
            let is_mine = self.tables().home(head).is(lane);
            if !is_mine && others < others_max {
                others += 1;
                from = head + 1;
                continue;
            }
            // In a chunk of one's own there is nobody to stay away from.
            let first = if is_mine { 0 } else { class.first_slot(lane) };
            if let Some(slot) = self.take_in(head, class, eligible, first) {
                return Some(slot);
            }
            let taken = self.tables().taken(head);
            if taken.load(Ordering::SeqCst) | !class.aligned_slots(Pages(1)) == u64::MAX {
                room.clear(head);
                // Somebody may have given a slot back between the two: then say so again.
                if taken.load(Ordering::SeqCst) | !class.aligned_slots(Pages(1)) != u64::MAX {
                    room.set(head);
                }
            }
            from = head + 1;
        }
        None
    }

    /// Takes a slot of the chunk at `head`, if it is one of `class` and has one of `eligible`: the
    /// first from slot `first` on, and round.
    fn take_in(&self, head: usize, class: Class, eligible: u64, first: usize) -> Option<Slot> {
        let tag = Tag::Chunk(class).encode();
        let taken = self.tables().taken(head);
        let fits = head + class.chunk_granules() <= self.tables().geometry().granules;
        loop {
            if self.tables().tag(head).load(Ordering::Acquire) != tag || !fits {
                self.tables().chunks_with_room(class).clear(head);
                return None;
            }
            let free = !taken.load(Ordering::Acquire) & eligible;
            if free == 0 {
                return None;
            }
            let slot = first_from(first, free);
            // AcqRel: as a lock would; the record below is the truth.
            if taken.fetch_or(1 << slot, Ordering::AcqRel) >> slot & 1 == 0
                && let Some(slot) = self.claim(head, slot, class)
            {
                return Some(slot);
            }
        }
    }

    /// Claims the record of a slot whose bit is ours.
    fn claim(&self, head: usize, slot: usize, class: Class) -> Option<Slot> {
        let record = Record::of(self.tables(), head, slot);
        let state = record.claim(self.granules.me)?;
        let (taken, bit) = (self.tables().taken(head), 1 << slot);
        // Pairs with the fence in `Granules::retire`.
        fence(Ordering::SeqCst);
        if self.tables().tag(head).load(Ordering::SeqCst) != Tag::Chunk(class).encode() {
            self.step_back(&record, state, class);
            return None;
        }
        if taken.load(Ordering::Acquire) & bit == 0 {
            // The chunk was retired and made again between our bit and our claim.
            taken.fetch_or(bit, Ordering::AcqRel);
        }
        let start = ((head as u64) << GRANULE_SHIFT) + slot as u64 * class.stride().0;
        Some(Slot {
            id: record.id,
            state,
            pages: PageRange { start: Vpn(start), len: class.stride() },
        })
    }

    /// Undoes a claim in a chunk that is no longer what we took it for.
    fn step_back(&self, record: &Record<'_>, state: State, class: Class) {
        let (head, bit) = (record.id / SLOTS_MAX, 1 << (record.id % SLOTS_MAX));
        let taken = self.tables().taken(head);
        record.step(state, State::new(Kind::Free, None, state.generation));
        let left = taken.fetch_and(!bit, Ordering::SeqCst) & !bit;
        if !record.is_free() {
            // Another has it by now, and it was his bit.
            taken.fetch_or(bit, Ordering::AcqRel);
            return;
        }
        // Pairs with the fence in `Granules::retire`: whoever was retiring it may have seen our
        // record and stepped back, too. Then it is ours to do.
        fence(Ordering::SeqCst);
        match Tag::decode(self.tables().tag(head).load(Ordering::SeqCst)) {
            Some(Tag::Chunk(now)) if now == class && left == 0 => {
                self.granules.retire(head);
            }
            Some(Tag::Solo { .. }) => {
                self.granules.retire(head);
            }
            _ => {}
        }
    }

    fn new_chunk(
        &self,
        class: Class,
        want: Wanted,
        machine: &impl Machine,
    ) -> Result<Slot, SlotError> {
        let len = class.chunk_granules();
        let head = self.take_granules(want.zone, len, 1)?;
        self.commit(head, len, machine)?;
        self.tables().taken(head).store(0, Ordering::Relaxed);
        self.tables().parked(head).store(0, Ordering::Relaxed);
        let lane = machine.lane().index;
        self.tables().home(head).set(lane);
        self.granules.publish(head..head + len, Tag::Chunk(class));
        let slot = self.take_in(head, class, class.aligned_slots(want.align), 0);
        self.tables().chunks_with_room(class).set(head);
        // Others may have emptied it already, or a stale record stands in the way: look again.
        slot.or_else(|| self.take_from_chunks(class, want.align, lane, 0))
            .ok_or_else(|| SlotError::NoHole { largest: self.largest(want.zone) })
    }

    fn take_solo(&self, want: Wanted, machine: &impl Machine) -> Result<Slot, SlotError> {
        let len = granules_for(want.span);
        let align = (want.align.0 >> GRANULE_SHIFT).max(1) as usize;
        let head = match want.zone {
            PLACED_ZONE => {
                let take = || self.granules.take_within(want.within, want.span, align);
                match take().or_else(|e| if self.granules.retire_idle() { take() } else { Err(e) })
                {
                    Ok(head) => head,
                    Err(e) => return self.take_by_scan(want).ok_or(no_hole(e.largest)),
                }
            }
            zone => {
                let grid = machine.huge_grid().filter(|_| zone == HUGE_ZONE);
                let in_granules = |grid: PageRange| {
                    let granule = |page: Vpn| (page.0 >> GRANULE_SHIFT) as usize;
                    Some(granule(grid.start)..granule(grid.end())).filter(|grid| !grid.is_empty())
                };
                let take_on = |grid| self.granules.take_on(grid, zone, len, align);
                match grid.and_then(in_granules).and_then(take_on) {
                    Some(head) => head,
                    None => self.take_granules(zone, len, align)?,
                }
            }
        };
        self.commit(head, len, machine)?;
        let record = Record::of(self.tables(), head, 0);
        // Somebody who takes this for a chunk that was here before may hold the record for the few
        // steps until he looks again.
        let claim = || {
            crate::sync::spin_loop();
            record.claim(self.granules.me)
        };
        let Some(state) = (0..crate::sync::tries(CLAIM_SPINS)).find_map(|_| claim()) else {
            // Only a hostile member can have left a record here that is not FREE.
            self.granules.abandon(head..head + len);
            return Err(no_hole(0));
        };
        self.granules.publish(head..head + len, Tag::Solo { granules: len });
        let start = Vpn((head as u64) << GRANULE_SHIFT);
        let pages = PageRange { start, len: Pages((len as u64) << GRANULE_SHIFT) };
        Ok(Slot { id: record.id, state, pages })
    }

    /// Looks at every slot of every chunk that is large enough, hints or no hints.
    fn take_by_scan(&self, want: Wanted) -> Option<Slot> {
        (0..self.tables().geometry().granules).find_map(|head| {
            match Tag::decode(self.tables().tag(head).load(Ordering::Acquire))? {
                Tag::Chunk(class) if class.stride() >= want.span => {
                    let slots = class.aligned_slots(want.align) & slots_within(head, class, &want);
                    self.take_in(head, class, slots, 0)
                }
                _ => None,
            }
        })
    }

    fn take_granules(&self, zone: usize, len: usize, align: usize) -> Result<usize, SlotError> {
        let take = || self.granules.take(zone, len, align);
        take()
            .or_else(|e| if self.granules.retire_idle() { take() } else { Err(e) })
            .map_err(|_| SlotError::NoHole { largest: self.largest(zone) })
    }

    fn commit(&self, head: usize, len: usize, machine: &impl Machine) -> Result<(), SlotError> {
        let words = self.tables().geometry().record_words(head);
        machine.commit_words(words).map_err(|e| {
            self.granules.abandon(head..head + len);
            SlotError::NoMetadata(e)
        })
    }

    /// Whether an empty window has a place for what is wanted.
    pub(crate) fn could_fit(&self, want: Wanted) -> bool {
        let align = (want.align.0 >> GRANULE_SHIFT).max(1) as usize;
        let heads = |zone| self.granules.heads(zone, want.within, want.span, align);
        (0..ZONES).any(|zone| heads(zone).next().is_some())
    }

    fn largest(&self, zone: usize) -> Pages {
        Pages((self.granules.largest(zone) as u64) << GRANULE_SHIFT)
    }
}

/// The slots of the chunk at `head` in which what is wanted lies where it is wanted.
fn slots_within(head: usize, class: Class, want: &Wanted) -> u64 {
    let start = |slot: usize| ((head as u64) << GRANULE_SHIFT) + slot as u64 * class.stride().0;
    let end = want.within.end().0;
    let fits =
        |slot: &usize| start(*slot) >= want.within.start.0 && start(*slot) + want.span.0 <= end;
    (0..class.slots()).filter(fits).fold(0, |slots, slot| slots | 1 << slot)
}

/// The lowest bit of `bits` from bit `first` on, and round: there is one.
#[inline]
fn first_from(first: usize, bits: u64) -> usize {
    let above = bits & u64::MAX << first;
    if above == 0 { bits } else { above }.trailing_zeros() as usize
}

fn no_hole(largest_granules: usize) -> SlotError {
    SlotError::NoHole { largest: Pages((largest_granules as u64) << GRANULE_SHIFT) }
}

/// An area and the pages of its slot, of one moment. A granule may become a chunk of another class
/// between a look at its tag and one at a record: so the tag is looked at while the state says that
/// somebody lives there, and the chunk stays that long.
#[inline]
pub(crate) fn placed(tables: Tables<'_>, record: Record<'_>) -> Option<(State, Shape, PageRange)> {
    let (state, shape, slot) = record.snapshot_with(|| slot_pages(tables, record.id))?;
    Some((state, shape, slot?))
}

/// The pages of the slot that record `id` describes, as offsets in the window.
#[inline]
pub(crate) fn slot_pages(tables: Tables<'_>, id: usize) -> Option<PageRange> {
    slot_and_tag(tables, id).map(|(pages, _)| pages)
}

/// The same, and the tag that says so.
#[inline]
pub(crate) fn slot_and_tag(tables: Tables<'_>, id: usize) -> Option<(PageRange, u64)> {
    let (head, slot) = (id / SLOTS_MAX, id % SLOTS_MAX);
    if head >= tables.granules() {
        return None;
    }
    let bits = tables.tag(head).load(Ordering::Acquire);
    let window = tables.granules();
    let pages = match (Tag::chunk(bits), Tag::solo(bits)) {
        (Some(class), _) => slot_in_chunk(class, window, head, slot),
        (None, Some(granules)) => slot_alone(granules, window, head, slot),
        (None, None) => slot_elsewhere(bits, window, id),
    };
    Some((pages?, bits))
}

/// The pages of a slot in a chunk of this class, which may not fit a window of so many granules, nor
/// have a slot of that number.
#[inline]
pub(crate) fn slot_in_chunk(
    class: Class,
    granules: usize,
    head: usize,
    slot: usize,
) -> Option<PageRange> {
    if slot >= class.slots() || head + class.chunk_granules() > granules {
        return None;
    }
    let start = ((head as u64) << GRANULE_SHIFT) + slot as u64 * class.stride().0;
    Some(PageRange { start: Vpn(start), len: class.stride() })
}

/// The pages of the one slot of a solo run of so many granules.
#[inline]
fn slot_alone(granules: usize, window: usize, head: usize, slot: usize) -> Option<PageRange> {
    let (start, len) = ((head as u64) << GRANULE_SHIFT, (granules as u64) << GRANULE_SHIFT);
    let is_there = slot == 0 && head + granules <= window;
    is_there.then_some(PageRange { start: Vpn(start), len: Pages(len) })
}

/// The pages of slot `id`, where the tag of its granule is none of a chunk or solo run in use.
fn slot_elsewhere(bits: u64, granules: usize, id: usize) -> Option<PageRange> {
    slot_of(Tag::decode(bits)?.settled(), granules, id)
}

/// The same, where the record's granule has this tag, which may say what does not fit a window of so
/// many granules.
#[inline]
pub(crate) fn slot_of(tag: Tag, window: usize, id: usize) -> Option<PageRange> {
    let (head, slot) = (id / SLOTS_MAX, id % SLOTS_MAX);
    match tag {
        Tag::Chunk(class) => slot_in_chunk(class, window, head, slot),
        Tag::Solo { granules } => slot_alone(granules, window, head, slot),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
