//! Looking at all of the bits: statistics, the check, and the repair.

use super::Buddy;
use super::hints::bits_of;
use super::layout::ones;
use crate::sync::Ordering;
use crate::units::{Extent, ORDER_MAX, Order, Pages, Pfn};
use core::fmt;

/// The number of orders, 0 to 18.
const ORDERS: usize = ORDER_MAX.0 as usize + 1;

/// What is free, in which sizes. Linux: a line of `/proc/buddyinfo`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BuddyStats {
    /// How many frames are free, counted one by one.
    pub free: Pages,
    /// How many frames there are.
    pub total: Pages,
    /// How many blocks of each order are free, if every free run is cut into the largest
    /// naturally aligned blocks. Their sizes add up to `free`.
    pub blocks: [u64; ORDERS],
    /// The longest run of free frames, aligned or not; the lowest of several. Its length is 0 if
    /// none is free.
    pub longest: Extent,
}

impl BuddyStats {
    /// The largest order that is free.
    #[must_use]
    pub fn largest(&self) -> Option<Order> {
        self.blocks.iter().rposition(|&count| count > 0).map(|order| Order(order as u8))
    }

    fn add(&mut self, run: Extent) {
        self.free.0 += run.len.0;
        if run.len > self.longest.len {
            self.longest = run;
        }
        let (mut at, end) = (run.start.0, run.end().0);
        while let Some(fits) = Order::at_most(Pages(end - at)) {
            let order = fits.min(Order(at.trailing_zeros() as u8));
            self.blocks[usize::from(order.0)] += 1;
            at += order.pages().0;
        }
    }
}

impl Buddy<'_> {
    /// Which sizes are free. Reads every bit: a cache line for each 2 MiB.
    ///
    /// Under concurrent calls each word is from some moment of the call, not all from the same.
    #[must_use]
    pub fn stats(&self) -> BuddyStats {
        let mut stats = BuddyStats {
            free: Pages(0),
            total: Pages(self.shape.len()),
            blocks: [0; ORDERS],
            longest: Extent { start: Pfn(self.shape.first), len: Pages(0) },
        };
        // The run of free frames that reaches up to the word we look at.
        let mut run = Extent { start: Pfn(0), len: Pages(0) };
        for word in 0..self.bits.len() {
            let (pfn, mut free) = (self.shape.pfn(word), self.load(word));
            while free != 0 {
                let at = u64::from(free.trailing_zeros());
                let len = u64::from((free >> at).trailing_ones());
                if run.len.0 == 0 || run.end().0 != pfn.0 + at {
                    stats.add(run);
                    run = Extent { start: Pfn(pfn.0 + at), len: Pages(0) };
                }
                run.len.0 += len;
                free &= !ones(at + len);
            }
        }
        stats.add(run);
        stats
    }

    /// Checks that the header is intact, that no bit outside the pool is set, and that hints and
    /// count agree with the bits. Reads every word.
    ///
    /// Meant for when nobody is at work: concurrent calls make it report what is only on its way.
    ///
    /// # Errors
    ///
    /// [`VerifyError`], the first that was found. None of them endangers an owner of frames;
    /// [`Buddy::rebuild`] mends all but the header.
    pub fn verify(&self) -> Result<(), VerifyError> {
        if let Some((word, found)) = self.header_damage() {
            return Err(VerifyError::Header { word, found });
        }
        let mut counted = 0;
        for (word, bits) in self.bits.iter().enumerate() {
            let bits = bits.load(Ordering::Relaxed);
            let strange = bits & !self.shape.valid(word);
            if strange != 0 {
                let pfn = Pfn(self.shape.pfn(word).0 + u64::from(strange.trailing_zeros()));
                return Err(VerifyError::Stranger { pfn });
            }
            counted += u64::from(bits.count_ones());
        }
        for hint in 0..self.some.len() {
            let slots = self.shape.slots_of(hint);
            let (some, whole) = self.survey_slots(hint, slots);
            let hints = [(&self.some[hint], some), (&self.whole[hint], whole)];
            for (index, (map, expected)) in hints.into_iter().enumerate() {
                let wrong = map.load(Ordering::Relaxed) ^ expected;
                if wrong & !slots != 0 {
                    return Err(VerifyError::StrangeHint { word: hint, bits: wrong & !slots });
                }
                if let Some(bit) = bits_of(wrong).next() {
                    let block = self.shape.pfn(self.shape.first_word(hint * 64 + bit));
                    let is_set = expected >> bit & 1 == 0;
                    let hint = if index == 0 { Hint::Some } else { Hint::Whole };
                    return Err(VerifyError::WrongHint { block, hint, is_set });
                }
            }
        }
        let hinted = self.counted();
        if hinted != counted {
            return Err(VerifyError::WrongCount { hinted: hinted as i64, counted: Pages(counted) });
        }
        Ok(())
    }

    /// Writes hints and count anew from the bits, clears bits outside the pool, and forgets where
    /// each lane was. Afterwards [`Buddy::verify`] holds (unless the header is damaged).
    ///
    /// For whoever comes after a process that died, or after words were overwritten. Legal while
    /// others work: nobody's frames change hands, the hints come out right, and the count is off
    /// by no more than what moved meanwhile. Reads every bit, a cache line for each 2 MiB.
    pub fn rebuild(&self) {
        let mut counted = 0;
        for (word, bits) in self.bits.iter().enumerate() {
            let valid = self.shape.valid(word);
            if bits.load(Ordering::Relaxed) & !valid != 0 {
                bits.fetch_and(valid, Ordering::SeqCst);
            }
            counted += u64::from(self.load(word).count_ones());
        }
        // The difference, so that what others count meanwhile is not lost.
        self.count_given(counted.wrapping_sub(self.counted()));
        self.forget_cursors();
        self.clear_strange_hints();
        self.refresh_all();
    }
}

/// One of the two hints about a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hint {
    /// Whether the block has a free frame.
    Some,
    /// Whether all its frames are free.
    Whole,
}

/// What [`Buddy::verify`] found. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum VerifyError {
    /// The header was overwritten: [`Buddy::open`] will refuse these words.
    Header {
        /// Which word of it.
        word: usize,
        /// What stands there.
        found: u64,
    },
    /// A bit is set for a frame that is not in the pool. It is never handed out.
    Stranger {
        /// The frame.
        pfn: Pfn,
    },
    /// A hint about a block is wrong.
    WrongHint {
        /// The first frame of the block.
        block: Pfn,
        /// Which hint.
        hint: Hint,
        /// What it says; the bits say the opposite.
        is_set: bool,
    },
    /// Hints are set about blocks that there are not.
    StrangeHint {
        /// Which word of the map.
        word: usize,
        /// The bits that should not be set.
        bits: u64,
    },
    /// The free count is wrong.
    WrongCount {
        /// What it says; below 0 if takes were counted that were not.
        hinted: i64,
        /// How many frames are free by the bits.
        counted: Pages,
    },
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VerifyError::Header { word, found } => {
                write!(f, "the header was overwritten: word {word} is {found:#x}")
            }
            VerifyError::Stranger { pfn } => {
                write!(f, "{pfn} counts as free, but is not in the pool")
            }
            VerifyError::WrongHint { block, hint, is_set } => {
                let is_not = if *is_set { "is" } else { "is not" };
                let state = match hint {
                    Hint::Some => "partly",
                    Hint::Whole => "wholly",
                };
                write!(
                    f,
                    "the block at {block} {is_not} {state} free by the hints, unlike the bits"
                )
            }
            VerifyError::StrangeHint { word, bits } => {
                write!(f, "hints {bits:#x} of word {word} speak of no block")
            }
            VerifyError::WrongCount { hinted, counted } => {
                write!(f, "{hinted} frames are free by the count, {} by the bits", counted.0)
            }
        }
    }
}

impl core::error::Error for VerifyError {}
