//! Where to look first, and how many are free: everything that may be wrong.
//!
//! Two bits a block: `some` (it has a free frame) and `whole` (all its frames are free). Nobody
//! adds or subtracts them. Whoever changes a word of bits so that its block may have turned
//! empty, partly free or wholly free *refreshes* the block: reads its eight words, writes what
//! they say, and looks again until it finds nothing to write. Words that change between partly
//! free and partly free change neither hint, and need no refresh.
//!
//! Why the hints are right when everybody is done. Take the last step that changed the bits of a
//! block from one of the three states to another, or wrote a hint of it. Whoever took that step
//! looks at bits and hints after it, and by choice of the step both stand still by then: so it
//! either finds them in agreement, or writes a hint, which contradicts the choice. That needs
//! one order in which all these steps happen: they are SeqCst, which costs nothing where a
//! locked instruction is a full barrier anyway.
//!
//! A refresh gives up after many rounds, so that somebody who flips hints for fun cannot hold
//! us: the hints are wrong then, and wrong hints are allowed.
//!
//! The free count is sixteen counts, one a lane, that are right only as a sum, modulo 2^64.

use super::claim::starts;
use super::layout::{LANE_WORDS, LANES, ones};
use super::{BLOCK_ORDER, BLOCK_WORDS, Buddy, FULL, WORD_ORDER};
use crate::sync::{AtomicU64, Ordering};
use crate::units::{Extent, Order};
use core::ops::{ControlFlow, Range};

/// How often a refresh looks again. Each round but the first means that another CPU moved the
/// same block between empty, partly and wholly free meanwhile.
const REFRESH_ROUNDS: usize = 1024;

/// What a cursor says that has not been anywhere: no slot.
const NOWHERE: u64 = u64::MAX;

impl Buddy<'_> {
    /// Whether the block of `slot` has a free frame, and whether it is wholly free: by its bits.
    pub(super) fn survey(&self, slot: usize) -> (bool, bool) {
        let first = self.shape.first_word(slot);
        let frames = Extent { start: self.shape.pfn(first), len: BLOCK_ORDER.pages() };
        let is_inner = self.shape.holds(frames);
        let (mut any, mut all) = (0, FULL);
        for (index, bits) in self.bits[first..first + BLOCK_WORDS].iter().enumerate() {
            let bits =
                if is_inner { bits.load(Ordering::SeqCst) } else { self.load(first + index) };
            any |= bits;
            all &= bits;
            if any != 0 && all != FULL {
                return (true, false);
            }
        }
        (any != 0, any != 0)
    }

    /// [`Buddy::survey`] of the slots `mask` of hint word `hint`, as two masks.
    pub(super) fn survey_slots(&self, hint: usize, mask: u64) -> (u64, u64) {
        let (mut all_some, mut all_whole) = (0, 0);
        for bit in bits_of(mask) {
            let (some, whole) = self.survey(hint * 64 + bit);
            all_some |= u64::from(some) << bit;
            all_whole |= u64::from(whole) << bit;
        }
        (all_some, all_whole)
    }

    /// Writes the hints of the slots `mask` of hint word `hint` from the bits.
    fn refresh_mask(&self, hint: usize, mask: u64) {
        for _ in 0..REFRESH_ROUNDS {
            let (some, whole) = self.survey_slots(hint, mask);
            // Not `||`: both maps are to be written in one round.
            if !(settle(&self.some[hint], some, mask) | settle(&self.whole[hint], whole, mask)) {
                return;
            }
        }
    }

    /// Writes the hints of one block from its bits.
    pub(super) fn refresh(&self, slot: usize) {
        let (hint, bit) = (slot / 64, slot % 64);
        for _ in 0..REFRESH_ROUNDS {
            let (some, whole) = self.survey(slot);
            let wanted = |is: bool| u64::from(is) << bit;
            // Not `||`: as in `refresh_mask`.
            if !(settle(&self.some[hint], wanted(some), 1 << bit)
                | settle(&self.whole[hint], wanted(whole), 1 << bit))
            {
                return;
            }
        }
    }

    /// Writes the hints of some blocks from their bits.
    pub(super) fn refresh_slots(&self, slots: Range<usize>) {
        for hint in slots.start / 64..slots.end.div_ceil(64) {
            let up_to = |slot: usize| ones(slot.saturating_sub(hint * 64) as u64);
            self.refresh_mask(hint, up_to(slots.end) & !up_to(slots.start));
        }
    }

    /// Writes the hints of the blocks that some words belong to.
    pub(super) fn refresh_words(&self, words: Range<usize>) {
        if words.is_empty() {
            return;
        }
        let first = self.shape.slot_of_word(words.start);
        match self.shape.slot_of_word(words.end - 1) {
            last if last == first => self.refresh(first),
            last => self.refresh_slots(first..last + 1),
        }
    }

    /// Writes every hint about blocks from the bits: a cache line read for each 2 MiB.
    pub(super) fn refresh_all(&self) {
        for hint in 0..self.some.len() {
            self.refresh_mask(hint, self.shape.slots_of(hint));
        }
    }

    /// Clears the hints about blocks that there are not.
    pub(super) fn clear_strange_hints(&self) {
        for hint in 0..self.some.len() {
            let slots = self.shape.slots_of(hint);
            for map in [self.some, self.whole] {
                map[hint].fetch_and(slots, Ordering::Relaxed);
            }
        }
    }

    /// A word of hints: the maps `some` and `whole`, without slots that are no blocks.
    pub(super) fn hints(&self, hint: usize) -> (u64, u64) {
        let slots = self.shape.slots_of(hint);
        // Relaxed: the bits decide.
        let read = |map: &[AtomicU64]| map[hint].load(Ordering::Relaxed) & slots;
        (read(self.some), read(self.whole))
    }

    /// Calls `visit` for the slots that `pick(some, whole)` picks by the hints, from slot `from`
    /// up and then round from the lowest, until it breaks.
    pub(super) fn each_block<T>(
        &self,
        from: usize,
        pick: impl Fn(u64, u64) -> u64,
        mut visit: impl FnMut(usize) -> ControlFlow<T>,
    ) -> Option<T> {
        let hints = self.some.len();
        let before = ones((from % 64) as u64);
        // The first word comes round again, for the slots below `from`.
        for step in 0..=hints {
            let hint = (from / 64 + step) % hints;
            let (some, whole) = self.hints(hint);
            let part = match step {
                0 => !before,
                _ if step == hints => before,
                _ => FULL,
            };
            for bit in bits_of(pick(some, whole) & part) {
                if let ControlFlow::Break(found) = visit(hint * 64 + bit) {
                    return Some(found);
                }
            }
        }
        None
    }

    /// Calls `visit` for the first slot of each naturally aligned block of `order` 9 to 18 that
    /// is wholly free by the hints, ascending, until it breaks.
    pub(super) fn each_whole_run<T>(
        &self,
        order: Order,
        mut visit: impl FnMut(usize) -> ControlFlow<T>,
    ) -> Option<T> {
        let log2 = order.0 - BLOCK_ORDER.0;
        // More blocks than a word has bits: several full words, and the first stands for all.
        let words = 1usize << log2.saturating_sub(WORD_ORDER.0);
        for hint in (0..self.whole.len()).step_by(words) {
            let found = if words == 1 {
                starts(self.hints(hint).1, log2)
            } else {
                u64::from((hint..hint + words).all(|hint| self.hints(hint).1 == FULL))
            };
            for bit in bits_of(found) {
                if let ControlFlow::Break(found) = visit(hint * 64 + bit) {
                    return Some(found);
                }
            }
        }
        None
    }

    /// Where this lane found its last block of `order` 0 to 8.
    pub(super) fn cursor(&self, order: Order) -> &AtomicU64 {
        &self.lanes[self.lane * LANE_WORDS + 1 + usize::from(order.min(WORD_ORDER).0)]
    }

    /// Whether another lane found its last block of some order in `slot`.
    pub(super) fn is_cursor_of_another_lane(&self, slot: usize) -> bool {
        let is_at = |cursor: &AtomicU64| cursor.load(Ordering::Relaxed) == slot as u64;
        let mut lanes = self.lanes.chunks_exact(LANE_WORDS).enumerate();
        lanes.any(|(lane, words)| lane != self.lane && words[1..].iter().any(is_at))
    }

    /// Puts every cursor nowhere.
    pub(super) fn forget_cursors(&self) {
        for lane in self.lanes.chunks_exact(LANE_WORDS) {
            lane[1..].iter().for_each(|cursor| cursor.store(NOWHERE, Ordering::Relaxed));
        }
    }

    /// Takes `frames` off the free count.
    pub(super) fn count_taken(&self, frames: u64) {
        // Relaxed, as all of the count: nothing is decided by it.
        self.lanes[self.lane * LANE_WORDS].fetch_sub(frames, Ordering::Relaxed);
    }

    /// Adds `frames` to the free count.
    pub(super) fn count_given(&self, frames: u64) {
        self.lanes[self.lane * LANE_WORDS].fetch_add(frames, Ordering::Relaxed);
    }

    /// The free count: a sum modulo 2^64, below 0 for a moment if a take was counted before the
    /// give that it lived on.
    pub(super) fn counted(&self) -> u64 {
        let lane = |lane: usize| self.lanes[lane * LANE_WORDS].load(Ordering::Relaxed);
        (0..LANES).map(lane).fold(0, u64::wrapping_add)
    }
}

/// Makes the bits `mask` of `map` those of `want`. Whether there was anything to do.
fn settle(map: &AtomicU64, want: u64, mask: u64) -> bool {
    let stale = (map.load(Ordering::SeqCst) ^ want) & mask;
    if stale & want != 0 {
        map.fetch_or(stale & want, Ordering::SeqCst);
    }
    if stale & !want != 0 {
        map.fetch_and(!(stale & !want), Ordering::SeqCst);
    }
    stale != 0
}

/// The numbers of the bits of `mask`, ascending.
pub(super) fn bits_of(mut mask: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let bit = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (bit < 64).then_some(bit)
    })
}
