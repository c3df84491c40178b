//! The invariants, checked from the words themselves. Linux: the `DEBUG_AUGMENT_*` checks.
//!
//! Run it while nobody else works on the window: it compares several words, and an operation
//! that is half done looks like a fault. O(granules + areas).

use crate::context::Context;
use crate::machine::Machine;
use crate::publish::AreaId;
use crate::record::{Kind, Record, Shape, State, flags};
use crate::slots::slot_pages;
use crate::sync::Ordering;
use crate::tag::Tag;
use crate::units::{PageRange, Pages, Vpn};
use core::fmt;

/// What a window that keeps its invariants holds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Verified {
    /// Areas in use.
    pub areas: usize,
    /// Areas parked.
    pub parked: usize,
    /// Pages of both, guards left out.
    pub pages: Pages,
    /// Granules that nobody owns, or of a chunk in which nobody lives.
    pub free_granules: usize,
}

/// Which invariant does not hold, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum VerifyError {
    /// 1: a granule's tag is a word that the engine never writes, or names a head that does not
    /// reach it.
    Tag {
        /// The granule.
        granule: usize,
        /// Its tag.
        bits: u64,
    },
    /// 1: a granule is between two owners, with nobody at work.
    Stuck {
        /// The granule.
        granule: usize,
    },
    /// 1: an area's record is between two states, with nobody at work.
    Unfinished {
        /// The record.
        id: AreaId,
    },
    /// 1: a taken slot that the bits show as free, or a parked one that no bit shows.
    Hint {
        /// The record.
        id: AreaId,
    },
    /// 1: the count of parked pages is not their sum.
    LazyPages {
        /// What the counter says.
        counted: Pages,
        /// What the records say.
        found: Pages,
    },
    /// 2: a page of an area shows no frame.
    Unmapped {
        /// The page.
        page: Vpn,
    },
    /// 4: a guard page shows a frame.
    GuardMapped {
        /// The page.
        page: Vpn,
    },
    /// 4: an area and its guard are longer than their slot.
    Overlap {
        /// The record.
        id: AreaId,
        /// The slot it should lie in.
        slot: PageRange,
    },
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag { granule, bits } => write!(f, "granule {granule} has the tag {bits:#x}"),
            Self::Stuck { granule } => write!(f, "granule {granule} is between two owners"),
            Self::Unfinished { id } => write!(f, "area {} is between two states", id.0),
            Self::Hint { id } => write!(f, "no hint leads to area {}", id.0),
            Self::LazyPages { counted, found } => {
                write!(f, "{counted} are counted as parked, {found} are")
            }
            Self::Unmapped { page } => write!(f, "{page} of an area shows no frame"),
            Self::GuardMapped { page } => write!(f, "guard page {page} shows a frame"),
            Self::Overlap { id, slot } => write!(f, "area {} is longer than its slot {slot}", id.0),
        }
    }
}

impl core::error::Error for VerifyError {}

/// Checks invariants 1, 2 (as far as the tables show it) and 4.
pub(crate) fn verify<M: Machine>(context: &Context<'_, M>) -> Result<Verified, VerifyError> {
    let mut seen = Verified::default();
    let mut parked = Pages(0);
    let granules = context.tables.geometry().granules;
    let mut g = 0;
    while g < granules {
        let bits = context.tables.tag(g).load(Ordering::SeqCst);
        let bad = VerifyError::Tag { granule: g, bits };
        let tag = Tag::decode(bits).ok_or(bad)?;
        let (len, slots) = match tag {
            Tag::Free => {
                seen.free_granules += 1;
                (1, 0)
            }
            Tag::Chunk(class) => (class.chunk_granules(), class.slots()),
            Tag::Solo { granules } => (granules, 1),
            Tag::Body { .. } => return Err(bad),
            Tag::Held(_) | Tag::Drain { .. } => return Err(VerifyError::Stuck { granule: g }),
        };
        if len == 0 || g + len > granules {
            return Err(bad);
        }
        for b in g + 1..g + len {
            let bits = context.tables.tag(b).load(Ordering::SeqCst);
            match Tag::decode(bits) {
                Some(Tag::Body { head, .. }) if head == g => {}
                _ => return Err(VerifyError::Tag { granule: b, bits }),
            }
        }
        let areas = seen.areas + seen.parked;
        for slot in 0..slots {
            verify_slot(context, g, slot, &mut seen, &mut parked)?;
        }
        if slots > 0 && seen.areas + seen.parked == areas {
            // Kept for whoever comes next, and anyone's who wants its granules.
            seen.free_granules += len;
        }
        g += len;
    }
    let counted = context.lazy_pages();
    if counted != parked {
        return Err(VerifyError::LazyPages { counted, found: parked });
    }
    Ok(seen)
}

fn verify_slot<M: Machine>(
    context: &Context<'_, M>,
    head: usize,
    slot: usize,
    seen: &mut Verified,
    parked: &mut Pages,
) -> Result<(), VerifyError> {
    let record = Record::of(context.tables, head, slot);
    let id = AreaId(record.id as u32);
    let (state, shape) = record.snapshot().ok_or(VerifyError::Unfinished { id })?;
    if state.kind == Kind::Free {
        return Ok(());
    }
    let pages = slot_pages(context.tables, record.id).ok_or(VerifyError::Unfinished { id })?;
    if shape.pages.0 + shape.guard.0 > pages.len.0 {
        return Err(VerifyError::Overlap { id, slot: pages });
    }
    let bit = |word: u64| word >> slot & 1 == 1;
    let is_chunk =
        matches!(Tag::decode(context.tables.tag(head).load(Ordering::SeqCst)), Some(Tag::Chunk(_)));
    if is_chunk && !bit(context.tables.taken(head).load(Ordering::SeqCst)) {
        return Err(VerifyError::Hint { id });
    }
    match state.kind {
        Kind::Building | Kind::Purging => return Err(VerifyError::Unfinished { id }),
        Kind::Parked => {
            if !bit(context.tables.parked(head).load(Ordering::SeqCst)) {
                return Err(VerifyError::Hint { id });
            }
            seen.parked += 1;
            parked.0 += shape.pages.0;
        }
        _ => seen.areas += 1,
    }
    seen.pages.0 += shape.pages.0;
    verify_pages(context, record.id, pages, state, &shape)
}

fn verify_pages<M: Machine>(
    context: &Context<'_, M>,
    id: usize,
    slot: PageRange,
    state: State,
    shape: &Shape,
) -> Result<(), VerifyError> {
    let view = context.view(id, slot, shape);
    // An area whose map or flush failed shows nothing; a machine in place has no tables to ask.
    let hollow = state.kind == Kind::Parked && shape.flags & flags::NO_REUSE != 0;
    let hollow = hollow || shape.flags & flags::RESERVED != 0;
    if !M::IN_PLACE && !hollow {
        for page in (view.pages.start.0..view.pages.end().0).map(Vpn) {
            context.machine.translate(page).ok_or(VerifyError::Unmapped { page })?;
        }
    }
    for page in (view.pages.end().0..view.slot.end().0).map(Vpn) {
        if context.machine.translate(page).is_some() {
            return Err(VerifyError::GuardMapped { page });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
