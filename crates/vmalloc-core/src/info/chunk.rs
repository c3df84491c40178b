//! The largest request that would be served: `VmallocChunk`, with the truth in it.
//!
//! ```text
//!   granules   [free][parked chunk][free] [chunk: one slot lives, one is free] [live] …
//!                └─ a purge makes one hole ─┘          └ a slot of its class
//! ```
//!
//! A request that may wait purges before it fails, so what is parked counts as free: addresses and
//! frames. Linux prints 0, since the walk that it once made under a lock took too long.

use super::LOOKS;
use crate::class::{Class, GRANULE_PAGES, GRANULE_SHIFT};
use crate::context::Context;
use crate::machine::{Backing, Machine};
use crate::record::{Kind, Record};
use crate::request::HUGE_PAGES;
use crate::sync::Ordering;
use crate::tag::Tag;
use crate::units::Pages;

/// What a look at one chunk or solo run finds.
#[derive(Clone, Copy, Default)]
struct Slots {
    /// Slots that nobody uses.
    unused: usize,
    /// Slots in use.
    used: usize,
    /// Frames that come home with a purge.
    frames: u64,
}

/// The most pages that one request can have now, a guard page behind them. O(granules + areas).
pub(super) fn largest_request<M: Machine>(context: &Context<'_, M>) -> Pages {
    let geometry = context.tables.geometry();
    let (mut frames, mut span, mut run) = (context.machine.free().0, 0, 0..0);
    let mut at = 0;
    while at < geometry.granules {
        let tag = Tag::decode(context.tables.tag(at).load(Ordering::Acquire)).map(Tag::settled);
        let (granules, slots, stride) = match tag {
            Some(Tag::Free) => (1, Slots::default(), 0),
            Some(Tag::Chunk(class)) => {
                (class.chunk_granules(), look(context, at, Some(class)), class.stride().0)
            }
            Some(Tag::Solo { granules }) => (granules.max(1), look(context, at, None), 0),
            // Somebody is at work on it.
            _ => (1, Slots { used: 1, ..Slots::default() }, 0),
        };
        frames = frames.saturating_add(slots.frames);
        let end = at.saturating_add(granules).min(geometry.granules);
        // Huge pages have a part of the window to themselves.
        if slots.used > 0 || at == geometry.small_granules {
            run = at..at;
        }
        if slots.used > 0 {
            run = end..end;
            span = span.max(if slots.unused > 0 { stride } else { 0 });
        } else {
            run.end = end;
            span = span.max(span_in(context, run.clone()));
        }
        at = end;
    }
    Pages(span.saturating_sub(1).min(frames).min(context.machine.capacity().0))
}

/// The slots at `head`, of a chunk of `class` or of a solo run.
fn look<M: Machine>(context: &Context<'_, M>, head: usize, class: Option<Class>) -> Slots {
    let mut slots = Slots::default();
    for slot in 0..class.map_or(1, Class::slots) {
        let record = Record::of(context.tables, head, slot);
        match (0..LOOKS).find_map(|_| record.snapshot()) {
            Some((state, _)) if state.kind == Kind::Free => slots.unused += 1,
            Some((state, shape)) if state.kind == Kind::Parked => {
                slots.unused += 1;
                slots.frames += context.machine.would_free(Backing(shape.backing), shape.pages).0;
            }
            _ => slots.used += 1,
        }
    }
    slots
}

/// The pages of an area and its guard that fit in a run of granules; in the part for huge pages
/// they are whole huge pages, and begin at a multiple of one.
fn span_in<M: Machine>(context: &Context<'_, M>, run: core::ops::Range<usize>) -> u64 {
    let pages = |granule: usize| context.start.0 + ((granule as u64) << GRANULE_SHIFT);
    if run.start < context.tables.geometry().small_granules {
        return run.len() as u64 * GRANULE_PAGES;
    }
    let start = pages(run.start).next_multiple_of(HUGE_PAGES);
    let len = pages(run.end).saturating_sub(start) / HUGE_PAGES * HUGE_PAGES;
    // One huge page has no room for a guard behind a huge area.
    if len > HUGE_PAGES { len } else { 0 }
}
