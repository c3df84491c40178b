//! Where the free runs are: a two-level segregated fit over granules, as a hint.
//!
//! The tags are the truth about which granule is free; finding a run in them is a scan. This
//! index finds one in a few steps: runs of equal length share a bin, 32 bins a doubling, and two
//! bitmaps say which bins are not empty. Runs carry their length at both ends (Knuth's boundary
//! tags), so that a run that is given back joins its neighbours at once.
//!
//! ```text
//!   run of 37 granules ─▶ first level: log2 = 5 ─▶ second level: 5 of 32 ─▶ head ⇄ … ⇄ …
//! ```
//!
//! It stands under a try-lock that nobody has to wait for: who cannot get it in bounded time
//! (its holder may be dead) scans the tags and leaves word that the index is *stale*; the next
//! holder rebuilds it. An entry that is wrong costs a rebuild, never a granule: the claim is a
//! CAS on each tag.
//!
//! Neighbours: only [`crate::granules`] uses it. Linux: `free_vmap_area_root`, an augmented tree
//! under one lock, first fit.

use crate::layout::{FIRST_BINS, SECOND_BINS, Tables};
use crate::sync::{AtomicU64, Ordering};
use crate::tag::{Owner, Tag};
use core::ops::Range;

const LOCK: usize = 0;
const CLEAN: usize = 1;
const FIRST: usize = 2;
const SECOND: usize = 8;
const HEADS: usize = SECOND + FIRST_BINS;
const HEAD_MARK: u64 = 1 << 32;
const TAIL_MARK: u64 = 2 << 32;
/// How often the lock is tried: some 100 µs, far longer than any holder needs.
const SPINS: usize = 4096;
/// How many runs of a bin are looked at for the lowest: what is taken low leaves long runs high up.
const LOOKS: usize = 16;

/// A zone's index. All methods but [`Index::lock`] and [`Index::mark_stale`] need the lock.
pub(crate) struct Index<'a> {
    tables: Tables<'a>,
    words: &'a [AtomicU64],
    range: Range<usize>,
}

/// The index with its lock held; unlocks on drop.
pub(crate) struct Locked<'a> {
    index: Index<'a>,
}

impl<'a> Index<'a> {
    pub(crate) fn new(tables: Tables<'a>, zone: usize) -> Index<'a> {
        let geometry = tables.geometry();
        let range = match zone {
            0 => 0..geometry.small_granules,
            _ => geometry.small_granules..geometry.granules,
        };
        Index { tables, words: tables.zone(zone), range }
    }

    /// Tries to lock, for a bounded time. A stale index is rebuilt first.
    pub(crate) fn lock(self, me: Owner) -> Option<Locked<'a>> {
        for _ in 0..crate::sync::tries(SPINS) {
            // Acquire: sees all that the last holder wrote.
            let taken = self.words[LOCK].compare_exchange(
                0,
                me.number() as u64,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if taken.is_ok() {
                let locked = Locked { index: self };
                if locked.index.words[CLEAN].load(Ordering::Acquire) == 0 {
                    locked.rebuild();
                }
                return Some(locked);
            }
            crate::sync::spin_loop();
        }
        None
    }

    /// Says that tags changed behind the index's back. Call it after the change.
    pub(crate) fn mark_stale(&self) {
        self.words[CLEAN].store(0, Ordering::Release);
    }

    /// Breaks the lock if the dead member `dead` holds it. For recovery only.
    pub(crate) fn break_lock(&self, dead: Owner) {
        if self.words[LOCK].load(Ordering::Acquire) == dead.number() as u64 {
            self.mark_stale();
            let dead = dead.number() as u64;
            let _ = self.words[LOCK].compare_exchange(dead, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// The granules of this zone.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Release: the next holder sees what we wrote.
        self.index.words[LOCK].store(0, Ordering::Release);
    }
}

impl Locked<'_> {
    /// Finds `len` free granules of which the first, counted from `phase`, is a multiple of
    /// `align`; returns it, or `None` if no run holds them.
    ///
    /// Takes a low run of the first bin where every run is long enough, or else searches every run
    /// that might be: exact.
    pub(crate) fn find(&self, len: usize, align: usize, phase: usize) -> Option<usize> {
        if let Some(at) = self.find_sure(len, align, phase) {
            return Some(at);
        }
        let mut bin = Some(bin_of(len));
        while let Some(run_bin) = bin.and_then(|b| self.next_bin(b)) {
            let mut at = self.head(run_bin);
            for _ in 0..self.index.range.len() {
                let Some(start) = at else { break };
                let run = self.run_at(start)?;
                let fit = align_up(run.start, align, phase);
                if fit + len <= run.end {
                    return Some(fit);
                }
                at = self.next(start);
            }
            bin = Some(run_bin + 1);
        }
        None
    }

    /// The same, of runs that are long enough wherever they begin.
    pub(crate) fn find_sure(&self, len: usize, align: usize, phase: usize) -> Option<usize> {
        let sure = len.checked_add(align - 1)?;
        let run = self.low_run_from(bin_at_least(sure))?;
        Some(align_up(run.start, align, phase)).filter(|at| at + len <= run.end)
    }

    /// Takes `at .. at + len` out of the free run that holds it; what is left on either side
    /// stays free. `false`: the index knows of no such run.
    pub(crate) fn remove(&self, at: usize, len: usize) -> bool {
        let Some(run) = self.run_holding(at) else { return false };
        if at + len > run.end {
            return false;
        }
        self.unlink(&run);
        if run.start < at {
            self.link(run.start..at);
        }
        if at + len < run.end {
            self.link(at + len..run.end);
        }
        true
    }

    /// Adds a run that is free now, joined with its free neighbours.
    pub(crate) fn insert(&self, run: Range<usize>) {
        if run.is_empty() {
            return; // what a forged tag said was no granule
        }
        let mut run = run;
        if run.start > self.index.range.start
            && let Some(left) = self.run_ending(run.start)
        {
            self.unlink(&left);
            run.start = left.start;
        }
        if run.end < self.index.range.end
            && let Some(right) = self.run_at(run.end)
        {
            self.unlink(&right);
            run.end = right.end;
        }
        self.link(run);
    }

    /// Forgets all and reads the tags again. O(granules).
    pub(crate) fn rebuild(&self) {
        let Index { tables, words, range } = &self.index;
        // Before the scan: a tag that changes during it is announced after, and we run again.
        words[CLEAN].store(1, Ordering::SeqCst);
        words[FIRST..].iter().for_each(|w| w.store(0, Ordering::Relaxed));
        range.clone().for_each(|g| tables.run(g).store(0, Ordering::Relaxed));
        let mut start = range.start;
        for g in range.clone().chain([range.end]) {
            let free = g < range.end && tables.tag(g).load(Ordering::Acquire) == Tag::Free.encode();
            if !free {
                if g > start {
                    self.link(start..g);
                }
                start = g + 1;
            }
        }
    }

    /// The run that begins at `start`, if the boundary tags say so, and say it twice.
    fn run_at(&self, start: usize) -> Option<Range<usize>> {
        let Index { tables, range, .. } = &self.index;
        let mark = tables.run(start).load(Ordering::Relaxed);
        let len = (mark & 0xffff_ffff) as usize;
        let end = start.checked_add(len).filter(|end| *end <= range.end && len > 0)?;
        let tail = tables.run(end - 1).load(Ordering::Relaxed);
        let agreed = mark & HEAD_MARK != 0 && tail & TAIL_MARK != 0;
        (agreed && tail & 0xffff_ffff == len as u64).then_some(start..end)
    }

    fn run_ending(&self, end: usize) -> Option<Range<usize>> {
        let tail = self.index.tables.run(end - 1).load(Ordering::Relaxed);
        let len = (tail & 0xffff_ffff) as usize;
        let start = end.checked_sub(len).filter(|s| *s >= self.index.range.start)?;
        (tail & TAIL_MARK != 0).then(|| self.run_at(start)).flatten().filter(|r| r.end == end)
    }

    /// The run that holds granule `at`: its head is found by walking left over the run.
    fn run_holding(&self, at: usize) -> Option<Range<usize>> {
        let marked = |g: &usize| self.index.tables.run(*g).load(Ordering::Relaxed) & HEAD_MARK != 0;
        let start = (self.index.range.start..=at).rev().find(marked)?;
        self.run_at(start).filter(|run| run.contains(&at))
    }

    fn link(&self, run: Range<usize>) {
        let Index { tables, words, .. } = &self.index;
        let len = run.len() as u64;
        tables.run(run.start).store(len | HEAD_MARK, Ordering::Relaxed);
        let tail = tables.run(run.end - 1);
        tail.store(tail.load(Ordering::Relaxed) & HEAD_MARK | len | TAIL_MARK, Ordering::Relaxed);
        let bin = bin_of(run.len());
        let next = self.head(bin);
        tables.link(run.start).store(pack(next, None), Ordering::Relaxed);
        if let Some(next) = next {
            let (after, _) = unpack(tables.link(next).load(Ordering::Relaxed));
            tables.link(next).store(pack(after, Some(run.start)), Ordering::Relaxed);
        }
        words[HEADS + bin].store(run.start as u64 + 1, Ordering::Relaxed);
        self.set_bin(bin, true);
    }

    fn unlink(&self, run: &Range<usize>) {
        let Index { tables, words, .. } = &self.index;
        tables.run(run.start).store(0, Ordering::Relaxed);
        tables.run(run.end - 1).store(0, Ordering::Relaxed);
        let (next, prev) = unpack(tables.link(run.start).load(Ordering::Relaxed));
        let (next, prev) = (self.checked(next), self.checked(prev));
        let bin = bin_of(run.len());
        match prev {
            Some(prev) => {
                let (_, before) = unpack(tables.link(prev).load(Ordering::Relaxed));
                tables.link(prev).store(pack(next, before), Ordering::Relaxed);
            }
            None => words[HEADS + bin].store(next.map_or(0, |n| n as u64 + 1), Ordering::Relaxed),
        }
        if let Some(next) = next {
            let (after, _) = unpack(tables.link(next).load(Ordering::Relaxed));
            tables.link(next).store(pack(after, prev), Ordering::Relaxed);
        }
        if self.head(bin).is_none() {
            self.set_bin(bin, false);
        }
    }

    /// A run of the first bin from `bin` on that is not empty: the lowest of those looked at.
    fn low_run_from(&self, bin: usize) -> Option<Range<usize>> {
        let first = self.head(self.next_bin(bin)?)?;
        let run = core::iter::successors(Some(first), |at| self.next(*at));
        self.run_at(run.take(LOOKS).min()?)
    }

    /// The first bin from `bin` on that is not empty.
    fn next_bin(&self, bin: usize) -> Option<usize> {
        let (first, second) = (bin / SECOND_BINS, bin % SECOND_BINS);
        if first >= FIRST_BINS {
            return None;
        }
        let here = self.index.words[SECOND + first].load(Ordering::Relaxed) >> second;
        if here != 0 {
            return Some(bin + here.trailing_zeros() as usize).filter(|b| b / SECOND_BINS == first);
        }
        let above = self.index.words[FIRST].load(Ordering::Relaxed) & !((2_u64 << first) - 1);
        let first = above.trailing_zeros() as usize;
        if first >= FIRST_BINS {
            return None;
        }
        let second = self.index.words[SECOND + first].load(Ordering::Relaxed).trailing_zeros();
        (second < SECOND_BINS as u32).then_some(first * SECOND_BINS + second as usize)
    }

    fn set_bin(&self, bin: usize, full: bool) {
        let words = self.index.words;
        let second = &words[SECOND + bin / SECOND_BINS];
        let mask = 1 << (bin % SECOND_BINS);
        let bits = second.load(Ordering::Relaxed);
        let bits = if full { bits | mask } else { bits & !mask };
        second.store(bits, Ordering::Relaxed);
        let mask = 1 << (bin / SECOND_BINS);
        let first = words[FIRST].load(Ordering::Relaxed);
        let first = if bits != 0 { first | mask } else { first & !mask };
        words[FIRST].store(first, Ordering::Relaxed);
    }

    fn head(&self, bin: usize) -> Option<usize> {
        let head = self.index.words[HEADS + bin].load(Ordering::Relaxed);
        self.checked((head as usize).checked_sub(1))
    }

    fn next(&self, start: usize) -> Option<usize> {
        self.checked(unpack(self.index.tables.link(start).load(Ordering::Relaxed)).0)
    }

    /// Links are shared words: one that points outside the zone is no link.
    fn checked(&self, link: Option<usize>) -> Option<usize> {
        link.filter(|g| self.index.range.contains(g))
    }
}

fn pack(next: Option<usize>, prev: Option<usize>) -> u64 {
    next.map_or(0, |g| g as u64 + 1) | prev.map_or(0, |g| g as u64 + 1) << 32
}

fn unpack(link: u64) -> (Option<usize>, Option<usize>) {
    (((link & 0xffff_ffff) as usize).checked_sub(1), ((link >> 32) as usize).checked_sub(1))
}

/// The bin of runs of `len` granules.
fn bin_of(len: usize) -> usize {
    if len < SECOND_BINS {
        return len;
    }
    let log2 = len.ilog2() as usize;
    (log2 - 4) * SECOND_BINS + (len >> (log2 - 5) & (SECOND_BINS - 1))
}

/// The first bin in which every run has `len` granules or more.
fn bin_at_least(len: usize) -> usize {
    if len < SECOND_BINS {
        return len;
    }
    let step = 1_usize << (len.ilog2() - 5);
    bin_of(len.saturating_add(step - 1))
}

fn align_up(start: usize, align: usize, phase: usize) -> usize {
    (start + phase).next_multiple_of(align) - phase
}
