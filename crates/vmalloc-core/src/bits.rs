//! A set of small integers as a tree of 64-bit words, for hints that any number of CPUs share.
//!
//! Level 0 has one bit an element; a bit of level `k + 1` says that a word of level `k` may have
//! a bit set. Setting and clearing are idempotent, so a process that dies between two of them
//! leaves at worst a hint that is wrong, and whoever trips over it mends it. There is no list
//! to tear.
//!
//! ```text
//!   level 1:  [ 1 0 1 ………… ]            next(from): look in this word, else climb,
//!               │   └─────────┐          take the next set bit, descend
//!   level 0:  [0110…][0000…][1000…]
//! ```
//!
//! Neighbours: [`crate::slots`] keeps one a class for chunks with room and one for chunks with
//! parked slots; [`crate::frames`] has its own. Linux keeps lists here, under locks.

use crate::sync::{AtomicU64, Ordering};

const LEVELS: usize = 5;

/// A set of integers below `len` in words that the caller supplies. All operations are lock-free.
#[derive(Clone, Copy)]
pub struct BitTree<'a> {
    words: &'a [AtomicU64],
    len: usize,
}

impl<'a> BitTree<'a> {
    /// The number of words that a set of integers below `len` needs.
    #[must_use]
    pub const fn words_needed(len: usize) -> usize {
        let mut total = 0;
        let mut level = len;
        loop {
            level = level.div_ceil(64);
            total += level;
            if level <= 1 {
                return total;
            }
        }
    }

    /// A set over `words`, whose contents it takes as they are (all zero: the empty set).
    ///
    /// # Panics
    ///
    /// If `words` is shorter than [`BitTree::words_needed`] says, or `len` is over 2^30.
    #[must_use]
    pub fn new(words: &'a [AtomicU64], len: usize) -> BitTree<'a> {
        assert!(words.len() >= Self::words_needed(len), "words for {len} bits");
        assert!(len <= 1 << (6 * LEVELS), "{len} bits are more than the tree can hold");
        BitTree { words, len }
    }

    /// The same over words that were counted when the tables were laid out: nothing to check.
    #[inline]
    pub(crate) fn laid_out(words: &'a [AtomicU64], len: usize) -> BitTree<'a> {
        debug_assert!(words.len() >= Self::words_needed(len) && len <= 1 << (6 * LEVELS));
        BitTree { words, len }
    }

    /// Adds `i`. A few atomic steps at most; none above level 0 if the levels above know already.
    #[inline]
    pub fn set(&self, i: usize) {
        self.raise(0, self.len.div_ceil(64), i);
    }

    /// Sets bit `at` of the level that begins at `base`, and what must be set above it.
    #[inline]
    fn raise(&self, base: usize, level_len: usize, at: usize) {
        let (mut base, mut level_len, mut at) = (base, level_len, at);
        loop {
            let word = &self.words[base + at / 64];
            let bit = 1 << (at % 64);
            // AcqRel: whoever finds the bit sees what was written before it was set.
            let was = word.fetch_or(bit, Ordering::AcqRel);
            if level_len == 1 || was != 0 && self.parent_knows(base, level_len, at) {
                return;
            }
            base += level_len;
            at /= 64;
            level_len = level_len.div_ceil(64);
        }
    }

    /// Adds `i`, and says so on every level, whatever is said there: one who died while he removed it
    /// may have cut it off further up.
    pub(crate) fn mend(&self, i: usize) {
        let (mut base, mut level_len, mut at) = (0, self.len.div_ceil(64), i);
        loop {
            self.words[base + at / 64].fetch_or(1 << (at % 64), Ordering::SeqCst);
            if level_len == 1 {
                return;
            }
            base += level_len;
            at /= 64;
            level_len = level_len.div_ceil(64);
        }
    }

    /// Removes `i`.
    pub fn clear(&self, i: usize) {
        let (mut base, mut level_len, mut at) = (0, self.len.div_ceil(64), i);
        // SeqCst: who clears an element looks again at what it stands for.
        let bit = 1 << (at % 64);
        let mut left = self.words[at / 64].fetch_and(!bit, Ordering::SeqCst) & !bit;
        // Its word became empty: so the level above has a bit to lose. Each bit is cleared once, for
        // whoever sets it afterwards means it.
        while left == 0 && level_len > 1 {
            let word = &self.words[base + at / 64];
            (base, at) = (base + level_len, at / 64);
            level_len = level_len.div_ceil(64);
            let bit = 1 << (at % 64);
            left = self.words[base + at / 64].fetch_and(!bit, Ordering::SeqCst) & !bit;
            // Someone may have set a bit below between our two steps: say so again. SeqCst here
            // and above: either they see our clear and repeat theirs, or we see their bit.
            if word.load(Ordering::SeqCst) != 0 {
                return self.raise(base, level_len, at);
            }
        }
    }

    /// Whether `i` is in the set.
    #[must_use]
    #[inline]
    pub fn contains(&self, i: usize) -> bool {
        i < self.len && self.words[i / 64].load(Ordering::SeqCst) >> (i % 64) & 1 == 1
    }

    /// The smallest element that is `from` or more. O(levels).
    #[must_use]
    #[inline]
    pub fn next(&self, from: usize) -> Option<usize> {
        let mut from = from;
        // A stale bit above leads to an empty word below: go on after it. Each round moves on.
        while from < self.len {
            match self.step(from) {
                Ok(i) => return (i < self.len).then_some(i),
                Err(next) => from = next?,
            }
        }
        None
    }

    /// The next element, or where to look next (`None`: nowhere).
    #[inline]
    fn step(&self, from: usize) -> Result<usize, Option<usize>> {
        let (mut base, mut level_len, mut at, mut level) = (0, self.len.div_ceil(64), from, 0);
        loop {
            if at / 64 >= level_len {
                return Err(None);
            }
            let word = self.words[base + at / 64].load(Ordering::Acquire) >> (at % 64);
            if word != 0 {
                let found = at + word.trailing_zeros() as usize;
                return if level == 0 { Ok(found) } else { self.descend(found, level) };
            }
            if level_len == 1 {
                return Err(None);
            }
            base += level_len;
            at = at / 64 + 1;
            level_len = level_len.div_ceil(64);
            level += 1;
        }
    }

    fn descend(&self, found: usize, level: usize) -> Result<usize, Option<usize>> {
        let mut at = found;
        for below in (0..level).rev() {
            let base = self.base_of(below);
            let Some(word) = self.words.get(base + at) else { return Err(None) };
            let word = word.load(Ordering::Acquire);
            if word == 0 {
                return Err(Some((at + 1) << (6 * (below + 1))));
            }
            at = at * 64 + word.trailing_zeros() as usize;
        }
        Ok(at)
    }

    fn base_of(&self, level: usize) -> usize {
        let (mut base, mut len) = (0, self.len.div_ceil(64));
        for _ in 0..level {
            base += len;
            len = len.div_ceil(64);
        }
        base
    }

    fn parent_knows(&self, base: usize, level_len: usize, at: usize) -> bool {
        let parent = at / 64;
        let word = self.words[base + level_len + parent / 64].load(Ordering::SeqCst);
        word >> (parent % 64) & 1 == 1
    }
}

impl core::fmt::Debug for BitTree<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut set = f.debug_set();
        let mut from = 0;
        while let Some(i) = self.next(from) {
            set.entry(&i);
            from = i + 1;
        }
        set.finish()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    fn words(len: usize) -> Vec<AtomicU64> {
        (0..BitTree::words_needed(len)).map(|_| AtomicU64::new(0)).collect()
    }

    /// Goal: an element that is put in while the last one beside it is taken out is found, on however
    /// many levels the tree forgets the one: also by who does not begin at their word. Method: it is put in before each write of the other.
    #[test]
    fn regress_an_element_is_found_that_came_while_its_neighbour_went() {
        use crate::sync::stepped;
        use std::cell::Cell;
        use std::rc::Rc;
        for len in [64, 66, 4096, 4100, 300_000] {
            for write in 0.. {
                let words = Rc::new(words(len));
                BitTree::new(&words, len).set(len - 1);
                let (theirs, writes, came) =
                    (Rc::clone(&words), Cell::new(0), Rc::new(Cell::new(false)));
                let told = Rc::clone(&came);
                let hook = move || {
                    if writes.replace(writes.get() + 1) == write {
                        BitTree::new(&theirs, len).set(len - 2);
                        told.set(true);
                    }
                };
                stepped::with_hook(hook, || BitTree::new(&words, len).clear(len - 1));
                if !came.get() {
                    break;
                }
                let found = BitTree::new(&words, len).next(0);
                assert_eq!(found, Some(len - 2), "{len}, write {write}");
            }
        }
    }

    /// Goal: the tree is a set. Method: random steps against `BTreeSet`, for lengths on both
    /// sides of each level.
    #[test]
    fn a_bit_tree_is_a_set() {
        for len in [1, 63, 64, 65, 4095, 4096, 4097, if cfg!(miri) { 8200 } else { 300_000 }] {
            let words = words(len);
            let (tree, mut set, mut x) = (BitTree::new(&words, len), BTreeSet::new(), 9_u64);
            for _ in 0..if cfg!(miri) { 20 } else { 4_000 } {
                x = x
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let i = (x >> 33) as usize % len;
                if x >> 20 & 1 == 0 {
                    tree.set(i);
                    set.insert(i);
                } else {
                    tree.clear(i);
                    set.remove(&i);
                }
                let from = (x >> 13) as usize % len;
                assert_eq!(tree.next(from), set.range(from..).next().copied(), "{len} from {from}");
                assert_eq!(tree.contains(i), set.contains(&i));
            }
        }
    }

    /// Goal: a bit that is set when all is quiet is found, however the threads met.
    /// Method: threads toggle their own bits of the same words, and leave them set.
    #[test]
    fn a_bit_that_stays_set_is_found_whatever_the_others_did() {
        let words = words(4096);
        let tree = BitTree::new(&words, 4096);
        std::thread::scope(|scope| {
            for t in 0..3 {
                scope.spawn(move || {
                    for round in 0..if cfg!(miri) { 20 } else { 3_000 } {
                        let i = (round * 64 + t) % 4096;
                        tree.set(i);
                        tree.clear(i);
                        tree.set(i);
                        assert!(tree.next(i) == Some(i), "bit {i} is set and was not found");
                        tree.clear(i);
                    }
                    tree.set(t * 1000);
                });
            }
        });
        assert_eq!(
            [tree.next(0), tree.next(1), tree.next(1001)],
            [Some(0), Some(1000), Some(2000)]
        );
    }
}
