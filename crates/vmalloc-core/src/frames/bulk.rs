//! Many frames at once, as extents: the largest blocks first, then every last piece.
//!
//! ```text
//!   1  whole blocks, the largest order first, ascending
//!   2  a rest of less than 512 frames: as single takes find it, used blocks before whole ones
//!   3  every block with a free frame, largest pieces first; of a word, all of a size in one CAS
//! ```
//!
//! A sweep of step 3 also learns the largest order that it leaves behind, so that the next one
//! goes straight to it: a pool of single frames takes two sweeps, not nine. And a sweep gives up
//! its order after a number of looks in vain that grows with the request: in 64 GiB of single
//! frames, the proof that there is no pair anywhere would cost more than the frames do. Single
//! frames are swept to the end, so nothing is missed.
//!
//! Blocks come ascending by order, not over all. [`Gather`] writes them one after another,
//! merging those that touch, and sorts and merges when it is full and at the end.

use super::claim::{block_mask, starts};
use super::hints::bits_of;
use super::{BLOCK_ORDER, BLOCK_WORDS, Buddy, WORD_ORDER};
use crate::sync::Ordering;
use crate::units::{Extent, Order, Pages, Pfn};
use core::ops::{ControlFlow, Range};

/// The order just below a block's: 256 frames.
const PIECE_ORDER: Order = Order(BLOCK_ORDER.0 - 1);

/// How many blocks a sweep looks into in vain, and one more for each 64 frames that are wanted,
/// before it settles for a smaller order.
const LOOKS: u64 = 64;

/// What a bulk request has got so far, and what it still wants.
pub(super) struct Gather<'o> {
    left: u64,
    // Frames outside are not wanted.
    within: Extent,
    out: &'o mut [Extent],
    len: usize,
    // The first `sorted` extents are ascending and do not touch.
    sorted: usize,
    is_full: bool,
}

impl<'o> Gather<'o> {
    pub(super) fn new(want: Pages, out: &'o mut [Extent]) -> Gather<'o> {
        let within = Extent { start: Pfn(0), len: Pages(u64::MAX) };
        Gather { left: want.0, within, is_full: out.is_empty(), out, len: 0, sorted: 0 }
    }

    /// From here on frames of `range` only.
    pub(super) fn only_within(&mut self, range: Extent) {
        self.within = range;
    }

    /// Whether frames may lie anywhere.
    fn is_unbounded(&self) -> bool {
        self.within.len == Pages(u64::MAX)
    }

    /// Whether all of `len` frames from `start` on are wanted.
    fn allows(&self, start: Pfn, len: Pages) -> bool {
        start >= self.within.start && start.0 + len.0 <= self.within.end().0
    }

    /// Whether any frame of the block that begins at `first` is wanted.
    fn touches(&self, first: Pfn) -> bool {
        first < self.within.end() && first.0 + BLOCK_ORDER.pages().0 > self.within.start.0
    }

    /// Which frames of the word of `first` are wanted.
    fn allowed_bits(&self, first: Pfn) -> u64 {
        let up_to = |pfn: Pfn| super::layout::ones(pfn.0.saturating_sub(first.0).min(64));
        up_to(self.within.end()) & !up_to(self.within.start)
    }

    /// Whether no more frames are wanted, or none can be written down.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0 || self.is_full
    }

    /// The extents in ascending order, merged. Returns how many.
    pub(super) fn finish(mut self) -> usize {
        self.compact();
        self.len
    }

    /// The largest order that is still wanted. There is one unless `is_done`.
    fn order(&self) -> Option<Order> {
        Order::at_most(Pages(self.left))
    }

    fn wants(&self, order: Order) -> bool {
        order.pages().0 <= self.left
    }

    /// Room for a block that may begin anywhere: the number of unused extents.
    fn room(&mut self) -> usize {
        if self.len == self.out.len() {
            self.compact();
        }
        self.out.len() - self.len
    }

    /// Where the last extent ends.
    fn end(&self) -> Option<u64> {
        self.out[..self.len].last().map(|last| last.end().0)
    }

    /// Whether a block at `start` can be written down. Asked before it is claimed.
    fn has_room_at(&mut self, start: Pfn) -> bool {
        let has_room =
            self.end() == Some(start.0) || self.room() > 0 || self.end() == Some(start.0);
        self.is_full |= !has_room;
        has_room
    }

    /// Of the blocks of `order` that begin at the bits `found` of the word of `first`, the frames
    /// of as many as are wanted and can be written down.
    fn choose(&mut self, first: Pfn, found: u64, order: Order) -> u64 {
        let (mut room, mut end) = (self.room(), self.end());
        let mut left = self.left;
        let mut chosen = 0;
        for bit in bits_of(found) {
            if left < order.pages().0 {
                break;
            }
            let start = first.0 + bit as u64;
            if end != Some(start) {
                if room == 0 {
                    self.is_full |= chosen == 0;
                    break;
                }
                room -= 1;
            }
            chosen |= block_mask(bit as u32, order.0);
            end = Some(start + order.pages().0);
            left -= order.pages().0;
        }
        chosen
    }

    /// Writes down a run that was claimed.
    fn push(&mut self, start: Pfn, len: u64) {
        self.left -= len;
        if self.end() == Some(start.0) {
            self.out[self.len - 1].len.0 += len;
            return;
        }
        self.out[self.len] = Extent { start, len: Pages(len) };
        self.len += 1;
    }

    /// Writes down the frames `claimed` of the word of `first`.
    fn push_bits(&mut self, first: Pfn, mut claimed: u64) {
        while claimed != 0 {
            let start = claimed.trailing_zeros();
            let len = (claimed >> start).trailing_ones();
            self.push(Pfn(first.0 + u64::from(start)), u64::from(len));
            claimed &= !super::layout::ones(u64::from(start + len));
        }
    }

    /// Sorts, and merges what touches.
    fn compact(&mut self) {
        let out = &mut self.out[..self.len];
        if self.len - self.sorted > 8 {
            out.sort_unstable_by_key(|extent| extent.start);
        } else {
            // Few new ones: put each in its place, so that being full often is not dear.
            for new in self.sorted..out.len() {
                let place = out[..new].partition_point(|extent| extent.start < out[new].start);
                out[place..=new].rotate_right(1);
            }
        }
        let mut kept = 0;
        for next in 1..out.len() {
            if out[kept].end() == out[next].start {
                out[kept].len.0 += out[next].len.0;
            } else {
                kept += 1;
                out[kept] = out[next];
            }
        }
        self.len = self.len.min(kept + 1);
        self.sorted = self.len;
    }
}

impl Buddy<'_> {
    /// Gathers what there is by the hints, until `got` is done or nothing is left.
    pub(super) fn gather(&self, got: &mut Gather<'_>) {
        self.gather_blocks(got);
        self.gather_rest(got);
        self.gather_pieces(got);
    }

    /// Whole blocks, the largest order first.
    fn gather_blocks(&self, got: &mut Gather<'_>) {
        let mut order = got.order();
        while let Some(now) = order.filter(|&order| order >= BLOCK_ORDER && !got.is_done()) {
            self.each_whole_run(now, |slot| {
                let start = self.shape.pfn(self.shape.first_word(slot));
                if got.wants(now) && !got.allows(start, now.pages()) {
                    return ControlFlow::Continue(());
                }
                if !got.wants(now) || !got.has_room_at(start) {
                    return ControlFlow::Break(());
                }
                if let Some(start) = self.claim_blocks(slot, now) {
                    got.push(start, now.pages().0);
                }
                ControlFlow::Continue(())
            });
            order = got.order().map(|order| order.min(Order(now.0 - 1)));
        }
    }

    /// A rest smaller than a block, as single takes would find it.
    fn gather_rest(&self, got: &mut Gather<'_>) {
        if !got.is_unbounded() {
            return; // a single take may come from anywhere
        }
        while let Some(order) = got.order().filter(|&order| order < BLOCK_ORDER)
            && got.room() > 0
        {
            match self.take_near(order) {
                Some(start) => got.push(start, order.pages().0),
                None => return,
            }
        }
    }

    /// Every piece smaller than a block, largest first, wherever it is.
    fn gather_pieces(&self, got: &mut Gather<'_>) {
        let looks = LOOKS + got.left / 64;
        let mut order = got.order().map(|order| order.min(PIECE_ORDER));
        while let Some(now) = order.filter(|_| !got.is_done()) {
            let next = self.sweep(now, got, looks);
            // If the rest is smaller now, any block may have a piece of its size.
            order = if got.wants(now) { next } else { got.order() };
        }
    }

    /// Gathers the pieces of `order` 0 to 8, until `looks` blocks had none. Returns the order
    /// to go on with: the largest smaller one that it saw, if any.
    fn sweep(&self, order: Order, got: &mut Gather<'_>, mut looks: u64) -> Option<Order> {
        let cursor = self.cursor(order);
        let from = self.shape.slot(cursor.load(Ordering::Relaxed));
        let mut left_behind = None;
        let stopped = self.each_block(
            from.unwrap_or(self.shape.skip()),
            |some, _| some,
            |slot| {
                let left = got.left;
                let first = self.shape.first_word(slot);
                if !got.touches(self.shape.pfn(first)) {
                    return ControlFlow::Continue(());
                }
                let size = 1 << order.0.saturating_sub(WORD_ORDER.0);
                for word in (first..first + BLOCK_WORDS).step_by(size) {
                    if order <= WORD_ORDER {
                        self.sweep_word(word, order, got);
                    } else {
                        self.sweep_words(word..word + size, order, got);
                    }
                }
                if got.is_done() || !got.wants(order) {
                    return ControlFlow::Break(slot);
                }
                if left_behind.is_none_or(|seen: Order| seen.0 + 1 < order.0) {
                    left_behind = left_behind.max(self.largest_in(slot, order));
                }
                if got.left < left {
                    return ControlFlow::Continue(());
                }
                if order == Order(0) {
                    // It was said to have a free frame.
                    self.refresh(slot);
                    return ControlFlow::Continue(());
                }
                looks -= 1;
                if looks == 0 { ControlFlow::Break(slot) } else { ControlFlow::Continue(()) }
            },
        );
        if let Some(slot) = stopped {
            cursor.store(slot as u64, Ordering::Relaxed);
            return left_behind.or(order.0.checked_sub(1).map(Order));
        }
        left_behind
    }

    /// Gathers the pieces of `order` 0 to 6 of one word.
    fn sweep_word(&self, word: usize, order: Order, got: &mut Gather<'_>) {
        let pfn = self.shape.pfn(word);
        let allowed = got.allowed_bits(pfn);
        // Again until nothing is chosen: writing down may have made room for more.
        loop {
            let choose = |free| got.choose(pfn, starts(free & allowed, order.0), order);
            let claimed = self.claim_bits(word, choose);
            if claimed == 0 {
                return;
            }
            got.push_bits(pfn, claimed);
        }
    }

    /// Gathers the piece of `order` 7 or 8 that is `words`.
    fn sweep_words(&self, words: Range<usize>, order: Order, got: &mut Gather<'_>) {
        let start = self.shape.pfn(words.start);
        let fits = got.wants(order) && got.allows(start, order.pages());
        if fits && got.has_room_at(start) && self.claim_words(words) {
            got.push(start, order.pages().0);
        }
    }

    /// The largest order below `below`, itself at most 8, of which the block of `slot` has a piece.
    fn largest_in(&self, slot: usize, below: Order) -> Option<Order> {
        let first = self.shape.first_word(slot);
        let mut largest = None;
        let mut words = first..first + BLOCK_WORDS;
        if below == PIECE_ORDER {
            let is_full = |word| self.load(word) == super::FULL;
            if words.clone().step_by(2).any(|word| is_full(word) && is_full(word + 1)) {
                return Some(Order(PIECE_ORDER.0 - 1));
            }
        }
        let mut order = Order(0);
        while let Some(word) = words.next()
            && order < below
        {
            let free = self.load(word);
            while order < below && order <= WORD_ORDER && starts(free, order.0) != 0 {
                largest = Some(order);
                order.0 += 1;
            }
        }
        largest
    }
}
