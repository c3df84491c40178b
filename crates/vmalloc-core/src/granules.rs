//! Runs of granules: claimed, put to use, and given back.
//!
//! ```text
//!   take: index finds a run ─▶ CAS each tag FREE → HELD(me) ─▶ publish: bodies, then the head
//!   give: head CAS → DRAIN(me) ─▶ nothing lives here? ─▶ bodies FREE, head FREE ─▶ index
//! ```
//!
//! The CAS on each tag decides; the index only says where to try. If the index cannot be had,
//! or knows of no run, the tags themselves are searched: exact, and slow, and only before a
//! failure.
//!
//! Invariants: a granule belongs to one chunk, one solo run, one builder, or nobody.
//! Neighbours: [`crate::slots`] cuts chunks into slots. Linux: `alloc_vmap_area` on a pool miss.

use crate::class::{Class, GRANULE_PAGES, granules_for};
use crate::index::Index;
use crate::layout::{Tables, ZONES};
use crate::record::Record;
use crate::sync::{Ordering, fence};
use crate::tag::{Owner, Tag};
use crate::units::{PageRange, Pages};
use core::ops::Range;

/// No run of granules fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoRun {
    /// The longest free run, in granules.
    pub(crate) largest: usize,
}

/// The granules of a window, as one member sees them.
#[derive(Clone, Copy)]
pub(crate) struct Granules<'a> {
    pub(crate) tables: Tables<'a>,
    pub(crate) me: Owner,
    /// The number of the window's first granule: alignment is of addresses, not of offsets.
    pub(crate) phase: usize,
}

impl<'a> Granules<'a> {
    /// Claims `len` granules of `zone`, the first a multiple of `align`: all are HELD(me) then.
    pub(crate) fn take(&self, zone: usize, len: usize, align: usize) -> Result<usize, NoRun> {
        // A second try: the first may have found the index stale and had it rebuilt.
        for _ in 0..2 {
            let Some(index) = Index::new(self.tables, zone).lock(self.me) else { break };
            let Some(at) = index.find(len, align, self.phase) else { break };
            if index.remove(at, len) && self.claim(at..at + len) {
                return Ok(at);
            }
            index.rebuild();
        }
        self.take_by_scan(zone, len, align, self.phase)
    }

    /// The same, at a place of `grid` (so many granules apart, from the first on), if the index knows
    /// of a run that is surely long enough: one look.
    pub(crate) fn take_on(
        &self,
        grid: Range<usize>,
        zone: usize,
        len: usize,
        align: usize,
    ) -> Option<usize> {
        let every = grid.len();
        let phase = every - grid.start % every;
        if !every.is_multiple_of(align) || phase % align != self.phase % align {
            return None;
        }
        let Some(index) = Index::new(self.tables, zone).lock(self.me) else {
            return self.take_by_scan(zone, len, every, phase).ok();
        };
        let at = index.find_sure(len, every, phase)?;
        if !index.remove(at, len) {
            return None;
        }
        if !self.claim(at..at + len) {
            index.rebuild();
            return None;
        }
        Some(at)
    }

    /// Claims the granules for `span` pages inside `range`, which are offsets in the window, the
    /// first a multiple of `align`. Looks at every place: exact, and slow.
    pub(crate) fn take_within(
        &self,
        range: PageRange,
        span: Pages,
        align: usize,
    ) -> Result<usize, NoRun> {
        let len = granules_for(span);
        for zone in 0..ZONES {
            let mut heads = self.heads(zone, range, span, align);
            let free = |at: &usize| (*at..at + len).all(|g| self.is_free(g));
            if let Some(at) = heads.find(|at| free(at) && self.claim(*at..at + len)) {
                Index::new(self.tables, zone).mark_stale();
                return Ok(at);
            }
        }
        let granules = range.start.0.div_ceil(GRANULE_PAGES)..range.end().0 / GRANULE_PAGES;
        Err(NoRun { largest: self.longest(granules.start as usize..granules.end as usize) })
    }

    /// Where in a zone an area of `span` pages inside `range` can begin.
    pub(crate) fn heads(
        &self,
        zone: usize,
        range: PageRange,
        span: Pages,
        align: usize,
    ) -> impl Iterator<Item = usize> + use<> {
        let zone = Index::new(self.tables, zone).range();
        let first = zone.start.max(range.start.0.div_ceil(GRANULE_PAGES) as usize);
        let len = granules_for(span);
        let fits = move |at: &usize| {
            at + len <= zone.end
                && at * GRANULE_PAGES as usize + span.0 as usize <= range.end().0 as usize
        };
        (align_up(first, align, self.phase)..).step_by(align).take_while(fits)
    }

    /// Puts claimed granules to use under `head`, a [`Tag::Chunk`] or [`Tag::Solo`].
    pub(crate) fn publish(&self, run: Range<usize>, head: Tag) {
        let body = Tag::Body { head: run.start, owner: self.me }.encode();
        for g in run.start + 1..run.end {
            self.tables.tag(g).store(body, Ordering::Relaxed);
        }
        // Release: whoever sees the head sees its bodies.
        self.tables.tag(run.start).store(head.encode(), Ordering::Release);
    }

    /// Makes the solo run at `head`, `from` granules long and ours, `to` granules long, if those
    /// behind it are free.
    pub(crate) fn extend(&self, head: usize, from: usize, to: usize) -> bool {
        let zone = self.zone_of(head);
        let more = head + from..head + to;
        let index = Index::new(self.tables, zone);
        if more.end > index.range().end {
            return false;
        }
        self.retire_idle_in(more.clone());
        let Some(index) = index.lock(self.me) else { return false };
        if !index.remove(more.start, more.len()) {
            return false;
        }
        if !self.claim(more.clone()) {
            index.rebuild();
            return false;
        }
        let body = Tag::Body { head, owner: self.me }.encode();
        more.clone().for_each(|g| self.tables.tag(g).store(body, Ordering::Relaxed));
        let solo = |granules| Tag::Solo { granules }.encode();
        let word = self.tables.tag(head);
        // Release: whoever sees the longer head sees its bodies. It fails while a late `retire`
        // looks whether anybody lives here.
        let longer =
            word.compare_exchange(solo(from), solo(to), Ordering::SeqCst, Ordering::Relaxed);
        if longer.is_err() {
            let free = Tag::Free.encode();
            more.clone().for_each(|g| self.tables.tag(g).store(free, Ordering::Release));
            index.insert(more);
        }
        longer.is_ok()
    }

    /// Gives back claimed granules that were never published.
    pub(crate) fn abandon(&self, run: Range<usize>) {
        self.free_tags(run, |granules, g| {
            granules.tables.tag(g).store(Tag::Free.encode(), Ordering::Release)
        });
    }

    /// Gives back the chunk or solo run at `head` unless an area lives in it. `true`: given back.
    pub(crate) fn retire(&self, head: usize) -> bool {
        let word = self.tables.tag(head);
        loop {
            let bits = word.load(Ordering::SeqCst);
            let (granules, class) = match Tag::decode(bits) {
                Some(Tag::Chunk(class)) => (class.chunk_granules(), Some(class)),
                Some(Tag::Solo { granules }) => (granules, None),
                _ => return false,
            };
            let drain = Tag::Drain { owner: self.me, granules, class }.encode();
            if word.compare_exchange(bits, drain, Ordering::SeqCst, Ordering::Relaxed).is_err() {
                return false;
            }
            // Pairs with the fence in `Slots::claim`: either it sees DRAIN, or we see its record.
            fence(Ordering::SeqCst);
            if !self.lives_in(head, class) {
                self.finish_drain(head, granules, class);
                return true;
            }
            word.store(bits, Ordering::SeqCst);
            // Pairs with the fence in `Slots::step_back`, and with the load in `Slots::give`:
            // either they see the tag restored, or we see their record free and try again.
            fence(Ordering::SeqCst);
            if self.lives_in(head, class) {
                return false;
            }
        }
    }

    /// Gives back the chunks that are kept although nobody lives in them; whether there were any.
    /// O(granules): before a failure.
    pub(crate) fn retire_idle(&self) -> bool {
        self.retire_idle_in(0..self.tables.granules())
    }

    /// The same of those that begin in `run`.
    fn retire_idle_in(&self, run: Range<usize>) -> bool {
        let idle = run.filter(|&g| self.idle_at(g) > 0);
        idle.filter(|&g| self.retire(g)).count() > 0
    }

    /// The granules of the chunk that begins at `g`, if one does and nobody lives in it; else 0.
    pub(crate) fn idle_at(&self, g: usize) -> usize {
        let class = Tag::chunk(self.tables.tag(g).load(Ordering::Acquire));
        let is_idle = |_: &Class| self.tables.taken(g).load(Ordering::Acquire) == 0;
        class.filter(is_idle).map_or(0, Class::chunk_granules)
    }

    /// The same, by the hints of one class.
    pub(crate) fn retire_idle_of(&self, class: Class) {
        let room = self.tables.chunks_with_room(class);
        let mut from = 0;
        while let Some(head) = room.next(from) {
            self.retire_idle_in(head..head + 1);
            from = head + 1;
        }
    }

    /// Finishes what a `retire` began; any prefix of it may have been done.
    pub(crate) fn finish_drain(&self, head: usize, granules: usize, class: Option<Class>) {
        let end = (head + granules).min(self.tables.geometry().granules);
        self.tables.taken(head).store(0, Ordering::Relaxed);
        self.tables.parked(head).store(0, Ordering::Relaxed);
        if let Some(class) = class {
            self.tables.chunks_with_room(class).clear(head);
            self.tables.chunks_with_parked(class).clear(head);
        } else {
            self.tables.chunks_with_parked(Class::solo(granules)).clear(head);
        }
        self.free_tags(head..end, |granules, g| granules.free_if_of(g, head));
    }

    /// Whether an area lives in the chunk (or solo run) at `head`.
    pub(crate) fn lives_in(&self, head: usize, class: Option<Class>) -> bool {
        (0..class.map_or(1, Class::slots))
            .any(|slot| !Record::of(self.tables, head, slot).is_free())
    }

    /// The longest run of free granules of a zone, from the tags. O(granules).
    pub(crate) fn largest(&self, zone: usize) -> usize {
        self.longest(Index::new(self.tables, zone).range())
    }

    fn longest(&self, granules: Range<usize>) -> usize {
        let (mut largest, mut run) = (0, 0);
        for g in granules {
            run = if self.is_free(g) { run + 1 } else { 0 };
            largest = largest.max(run);
        }
        largest
    }

    pub(crate) fn is_free(&self, g: usize) -> bool {
        self.tables.tag(g).load(Ordering::Acquire) == Tag::Free.encode()
    }

    /// Frees granule `g` if it belongs to what begins at `head`.
    pub(crate) fn free_if_of(&self, g: usize, head: usize) {
        let word = self.tables.tag(g);
        let bits = word.load(Ordering::Acquire);
        let ours = match Tag::decode(bits) {
            Some(Tag::Body { head: of, .. }) => of == head && g != head,
            Some(Tag::Drain { owner, .. }) => g == head && owner == self.me,
            _ => false,
        };
        if ours {
            let free = Tag::Free.encode();
            let _ = word.compare_exchange(bits, free, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Frees the tags of a run, last to first, so that the head names the rest until the end;
    /// under the index's lock if it can be had, so that index and tags change together.
    fn free_tags(&self, run: Range<usize>, free: impl Fn(&Self, usize)) {
        let zone = self.zone_of(run.start);
        let index = Index::new(self.tables, zone).lock(self.me);
        run.clone().rev().for_each(|g| free(self, g));
        match index {
            Some(index) => index.insert(run),
            None => Index::new(self.tables, zone).mark_stale(),
        }
    }

    /// CASes every tag of the run from FREE to HELD(me), or none.
    fn claim(&self, run: Range<usize>) -> bool {
        let (free, held) = (Tag::Free.encode(), Tag::Held(self.me).encode());
        for g in run.clone() {
            // Acquire: we see what the last owner left. Nothing to release yet.
            let word = self.tables.tag(g);
            if word.compare_exchange(free, held, Ordering::Acquire, Ordering::Relaxed).is_err() {
                (run.start..g).for_each(|g| self.tables.tag(g).store(free, Ordering::Release));
                return false;
            }
        }
        true
    }

    fn take_by_scan(
        &self,
        zone: usize,
        len: usize,
        align: usize,
        phase: usize,
    ) -> Result<usize, NoRun> {
        let range = Index::new(self.tables, zone).range();
        let mut at = align_up(range.start, align, phase);
        while at + len <= range.end {
            match (at..at + len).rev().find(|&g| !self.is_free(g)) {
                Some(busy) => at = align_up(busy + 1, align, phase),
                None if self.claim(at..at + len) => {
                    Index::new(self.tables, zone).mark_stale();
                    return Ok(at);
                }
                None => {}
            }
        }
        Err(NoRun { largest: self.largest(zone) })
    }

    fn zone_of(&self, g: usize) -> usize {
        usize::from(g >= self.tables.geometry().small_granules)
    }
}

fn align_up(start: usize, align: usize, phase: usize) -> usize {
    (start + phase).next_multiple_of(align) - phase
}

#[cfg(test)]
mod tests;
