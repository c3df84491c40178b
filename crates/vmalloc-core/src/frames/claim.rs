//! The bits: who owns a frame. Every change of ownership in the pool is a CAS in this file.
//!
//! ```text
//!   order 0..=6    one word      CAS(old, old - the block)                    won or try again
//!   order 7, 8     2, 4 words    CAS(full, 0) each, ascending; lost one: put the others back
//!   order 9..=18   8..4096 words the same
//!   give           1.. words     CAS(old, old + the run's part); a bit set already: a bug
//! ```
//!
//! Orderings: a take is Acquire and a give Release, so that whoever takes a frame sees what its
//! last owner did to it. Both are SeqCst besides, and [`super::hints`] says why.

use super::{BLOCK_ORDER, BLOCK_WORDS, Buddy, FULL, WORD_ORDER};
use crate::sync::Ordering;
use crate::units::{Extent, Order, Pages, Pfn};
use core::ops::Range;

/// Where in a word a block of an order may begin.
const ALIGNED: [u64; 7] = [
    0xffff_ffff_ffff_ffff,
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
    0x0000_0000_0000_0001,
];

/// Where in `word` blocks of 2^`log2` ones begin, naturally aligned.
pub(super) fn starts(word: u64, log2: u8) -> u64 {
    let mut run = word;
    for step in 0..log2 {
        run &= run >> (1 << step);
    }
    run & ALIGNED[usize::from(log2)]
}

/// The ones of a block of 2^`log2` that begins at bit `at`.
pub(super) fn block_mask(at: u32, log2: u8) -> u64 {
    super::layout::ones(1 << log2) << at
}

impl Buddy<'_> {
    /// A word of bits, without those that are no frames of the pool, whoever may have set them.
    pub(super) fn load(&self, word: usize) -> u64 {
        // SeqCst: see `hints`.
        self.bits[word].load(Ordering::SeqCst) & self.shape.valid(word)
    }

    /// Claims in word `word` the bits that `choose` picks among the free ones; 0: none. Called
    /// again if another CPU changed the word meanwhile. Returns what was claimed.
    pub(super) fn claim_bits(&self, word: usize, mut choose: impl FnMut(u64) -> u64) -> u64 {
        let valid = self.shape.valid(word);
        let mut old = self.bits[word].load(Ordering::Relaxed);
        loop {
            let claim = choose(old & valid);
            debug_assert_eq!(claim & !(old & valid), 0);
            if claim == 0 {
                return 0;
            }
            let new = old & !claim;
            // Relaxed on failure: only the CAS that succeeds owns anything.
            match self.bits[word].compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => {
                    self.count_taken(u64::from(claim.count_ones()));
                    if old & valid == FULL || new & valid == 0 {
                        self.refresh(self.shape.slot_of_word(word));
                    }
                    return claim;
                }
                Err(now) => old = now,
            }
        }
    }

    /// Claims the lowest block of `order` 0 to 8 in the 2 MiB block of `slot`.
    pub(super) fn claim_in_block(&self, slot: usize, order: Order) -> Option<Pfn> {
        let first = self.shape.first_word(slot);
        if order <= WORD_ORDER {
            for word in first..first + BLOCK_WORDS {
                let claim = self.claim_bits(word, |free| match starts(free, order.0) {
                    0 => 0,
                    found => block_mask(found.trailing_zeros(), order.0),
                });
                if claim != 0 {
                    return Some(self.pfn_of(word, claim));
                }
            }
            if order == Order(0) {
                // It was said to have a free frame.
                self.refresh(slot);
            }
            return None;
        }
        let words = 1 << (order.0 - WORD_ORDER.0);
        (first..first + BLOCK_WORDS)
            .step_by(words)
            .find(|&word| self.claim_words(word..word + words))
            .map(|word| self.shape.pfn(word))
    }

    /// Claims the block of `order` 9 to 18 that begins at `slot`; `None` if not all of it is free.
    pub(super) fn claim_blocks(&self, slot: usize, order: Order) -> Option<Pfn> {
        let first = self.shape.first_word(slot);
        let words = BLOCK_WORDS << (order.0 - BLOCK_ORDER.0);
        if self.claim_words(first..first + words) {
            return Some(self.shape.pfn(first));
        }
        // They were said to be whole.
        self.refresh_slots(slot..slot + words / BLOCK_WORDS);
        None
    }

    /// Claims all the frames of `words`, or none.
    pub(super) fn claim_words(&self, words: Range<usize>) -> bool {
        // A look first: what is known to be lost is not even tried, and nothing is put back.
        if words.clone().any(|word| self.load(word) != FULL) {
            return false;
        }
        for word in words.clone() {
            // Relaxed on failure: nothing of that word is ours then.
            let won =
                self.bits[word].compare_exchange(FULL, 0, Ordering::SeqCst, Ordering::Relaxed);
            if won.is_err() {
                // Ours since the CAS, so nobody else set a bit of them.
                for ours in words.start..word {
                    self.bits[ours].fetch_or(FULL, Ordering::SeqCst);
                }
                self.refresh_words(words.start..word);
                return false;
            }
        }
        self.count_taken(words.len() as u64 * 64);
        self.refresh_words(words);
        true
    }

    /// Sets the bits of `run`, which lies in the pool. On `Err` that frame was free already;
    /// the frames before it were given only if the race for it was lost after the first look.
    pub(super) fn release(&self, run: Extent) -> Result<(), Pfn> {
        let (first, bit) = self.shape.place(run.start);
        let parts = self.parts(run);
        if u64::from(bit) + run.len.0 > 64
            && let Some((word, twice)) = parts
                .clone()
                .map(|(word, mask)| (word, self.load(word) & mask))
                .find(|&(_, twice)| twice != 0)
        {
            return Err(self.pfn_of(word, twice));
        }

        let mut given = 0;
        let mut result = Ok(());
        let mut end = first;
        let mut is_hint_stale = false;
        for (word, mask) in parts {
            match self.release_bits(word, mask) {
                Ok(crossed) => is_hint_stale |= crossed,
                Err(pfn) => {
                    result = Err(pfn);
                    break;
                }
            }
            given += u64::from(mask.count_ones());
            end = word + 1;
        }
        self.count_given(given);
        if is_hint_stale {
            self.refresh_words(first..end);
        }
        result
    }

    /// The words that `run` has bits in, and which of their bits.
    #[inline]
    fn parts(&self, run: Extent) -> impl Iterator<Item = (usize, u64)> + Clone + use<> {
        let (first, bit) = self.shape.place(run.start);
        let mut left = run.len.0;
        (first..).scan(u64::from(bit), move |bit, word| {
            let len = left.min(64 - *bit);
            let mask = super::layout::ones(len) << *bit;
            (left, *bit) = (left - len, 0);
            (len > 0).then_some((word, mask))
        })
    }

    /// Says that the frames of `run` are free, whatever the bits say now; how many they did not
    /// call free. 0, and nothing is done, if not all of them are frames of this pool.
    ///
    /// For an owner that keeps the truth elsewhere, a word a frame say, and takes these bits for
    /// a hint: it may set one twice, and asks its own word before it uses what it was handed. Such
    /// a hint mends what a process left that died over it. Never waits, never allocates.
    pub fn restore(&self, run: Extent) -> Pages {
        if run.len.0 == 0 || !self.shape.holds(run) {
            return Pages(0);
        }
        let (first, _) = self.shape.place(run.start);
        let (mut end, mut given) = (first, 0);
        for (word, mask) in self.parts(run) {
            // A look first: what is said already costs no cache line. SeqCst: see `hints`.
            if self.load(word) & mask != mask {
                let old = self.bits[word].fetch_or(mask, Ordering::SeqCst);
                given += u64::from((mask & !old).count_ones());
            }
            end = word + 1;
        }
        if given > 0 {
            self.count_given(given);
            self.refresh_words(first..end);
        }
        Pages(given)
    }

    /// Sets the bits of `mask`. Whether the word was empty or is full now.
    fn release_bits(&self, word: usize, mask: u64) -> Result<bool, Pfn> {
        let valid = self.shape.valid(word);
        let mut old = self.bits[word].load(Ordering::Relaxed);
        loop {
            if old & mask != 0 {
                return Err(self.pfn_of(word, old & mask));
            }
            let new = old | mask;
            // Relaxed on failure: nothing was given.
            match self.bits[word].compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return Ok(old & valid == 0 || new & valid == FULL),
                Err(now) => old = now,
            }
        }
    }

    /// The frame of the lowest bit in `mask` of word `word`.
    fn pfn_of(&self, word: usize, mask: u64) -> Pfn {
        Pfn(self.shape.pfn(word).0 + u64::from(mask.trailing_zeros()))
    }
}
