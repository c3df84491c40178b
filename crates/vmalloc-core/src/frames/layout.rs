//! Where in the words everything is, and the way in: format and open.
//!
//! Everything is a function of two numbers, the first frame and how many there are, kept in a
//! [`Shape`]. They are read from the header once, checked, and from then on live in the view:
//! whoever scribbles over the header later changes nothing.
//!
//! ```text
//!   block       2 MiB of frames, aligned; the first and the last may be partly outside the pool
//!   word        64 frames; word 0 begins where the first block begins
//!   slot        the number of a block, counted from the 1 GiB boundary below the pool, so that
//!               aligned runs of blocks are aligned runs of slots; the first `skip` are no blocks
//! ```

use super::{BLOCK_ORDER, BLOCK_WORDS, Buddy, FULL, WORD_ORDER};
use crate::sync::{AtomicU64, Ordering};
use crate::units::{Extent, ORDER_MAX, Pages, Pfn};
use core::fmt;

/// How many CPUs work without sharing a line of hints.
pub(super) const LANES: usize = 16;
/// The words of a lane, a cache line: its part of the free count, then a cursor for each of the
/// orders 0 to 6 (7 and 8 use the last).
pub(super) const LANE_WORDS: usize = 8;
/// The words of the header, a cache line.
const HEADER_WORDS: usize = 8;

/// Word 0 of the header: what these words are, and in which version.
const MAGIC: u64 = u64::from_le_bytes(*b"vmBuddy1");
/// A physical address has at most 64 bits, so a frame number at most 52.
const PFN_END: u64 = 1 << 52;

const BLOCK_FRAMES: u64 = BLOCK_ORDER.pages().0;
const WORD_FRAMES: u64 = WORD_ORDER.pages().0;
/// Slots count from a multiple of this many blocks: those of the largest order.
const SLOT_ALIGN: u64 = ORDER_MAX.pages().0 / BLOCK_FRAMES;

/// Which frames: `first..end`, at least one, end at most [`PFN_END`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) first: u64,
    pub(super) end: u64,
}

impl Shape {
    fn new(first: Pfn, len: Pages) -> Result<Shape, FormatError> {
        match first.0.checked_add(len.0) {
            _ if len.0 == 0 => Err(FormatError::Empty),
            Some(end) if end <= PFN_END => Ok(Shape { first: first.0, end }),
            _ => Err(FormatError::PastTheEnd { first, len }),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.end - self.first
    }

    fn first_block(&self) -> u64 {
        self.first / BLOCK_FRAMES
    }

    /// How many slots come before the first block.
    pub(super) fn skip(&self) -> usize {
        (self.first_block() % SLOT_ALIGN) as usize
    }

    /// The first slot after the last block.
    pub(super) fn slots_end(&self) -> usize {
        self.skip() + (self.end.div_ceil(BLOCK_FRAMES) - self.first_block()) as usize
    }

    /// `found` as a slot, if it is the slot of a block.
    pub(super) fn slot(&self, found: u64) -> Option<usize> {
        let is_one = found >= self.skip() as u64 && found < self.slots_end() as u64;
        is_one.then_some(found as usize)
    }

    /// The slots of hint word `hint` that are blocks, as a mask.
    pub(super) fn slots_of(&self, hint: usize) -> u64 {
        let at = |slot: usize| ones(slot.saturating_sub(hint * 64) as u64);
        at(self.slots_end()) & !at(self.skip())
    }

    /// The first word of bits of the block in `slot`.
    pub(super) fn first_word(&self, slot: usize) -> usize {
        (slot - self.skip()) * BLOCK_WORDS
    }

    /// The slot of the block that word `word` belongs to.
    pub(super) fn slot_of_word(&self, word: usize) -> usize {
        self.skip() + word / BLOCK_WORDS
    }

    /// The frame of bit 0 of word `word`. May lie outside the pool.
    pub(super) fn pfn(&self, word: usize) -> Pfn {
        Pfn(self.first_block() * BLOCK_FRAMES + word as u64 * WORD_FRAMES)
    }

    /// The word and the bit of a frame of the pool.
    pub(super) fn place(&self, pfn: Pfn) -> (usize, u32) {
        let at = pfn.0 - self.first_block() * BLOCK_FRAMES;
        ((at / WORD_FRAMES) as usize, (at % WORD_FRAMES) as u32)
    }

    /// The bits of word `word` that are frames of the pool.
    pub(super) fn valid(&self, word: usize) -> u64 {
        let pfn = self.pfn(word).0;
        if pfn >= self.first && pfn + WORD_FRAMES <= self.end {
            return FULL;
        }
        ones(self.end.saturating_sub(pfn)) & !ones(self.first.saturating_sub(pfn))
    }

    /// Whether all frames of `run` are frames of the pool.
    pub(super) fn holds(&self, run: Extent) -> bool {
        let end = run.start.0.checked_add(run.len.0);
        run.start.0 >= self.first && end.is_some_and(|end| end <= self.end)
    }

    fn bit_words(&self) -> u64 {
        (self.slots_end() - self.skip()) as u64 * BLOCK_WORDS as u64
    }

    /// The words of one of the two hint maps: whole aligned runs of the largest order.
    fn hint_words(&self) -> u64 {
        (self.slots_end() as u64).next_multiple_of(SLOT_ALIGN) / 64
    }

    fn words(&self) -> u64 {
        (HEADER_WORDS + LANES * LANE_WORDS) as u64 + self.bit_words() + 2 * self.hint_words()
    }
}

/// The lowest `n` bits.
pub(super) fn ones(n: u64) -> u64 {
    if n >= 64 { FULL } else { (1 << n) - 1 }
}

/// Word 3 of the header: a header of which only a part arrived does not have it.
fn check_word(first: u64, len: u64) -> u64 {
    (first.rotate_left(32) ^ len).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ MAGIC
}

impl<'a> Buddy<'a> {
    /// How many words [`Buddy::format`] needs for `len` frames, wherever they begin: a bit a
    /// frame, two more a block of 512, and at most 184 words more. `usize::MAX` if that is more
    /// than a machine can have.
    #[must_use]
    pub const fn words_needed(len: Pages) -> usize {
        if len.0 > PFN_END {
            return usize::MAX;
        }
        // The worst place to begin: the last frame of a block that is the last of its 1 GiB.
        let blocks = (len.0 + BLOCK_FRAMES - 1).div_ceil(BLOCK_FRAMES);
        let hints = (blocks + SLOT_ALIGN - 1).next_multiple_of(SLOT_ALIGN) / 64;
        let words =
            (HEADER_WORDS + LANES * LANE_WORDS) as u64 + blocks * BLOCK_WORDS as u64 + 2 * hints;
        if words > usize::MAX as u64 { usize::MAX } else { words as usize }
    }

    /// Makes `words` the state of a pool of the frames `first..first + len`, all of them free.
    ///
    /// Writes the state anew whatever the words held; the header's magic last, so that nobody
    /// opens half of it. The words should begin on a cache line, for speed only. O(words).
    /// Nobody else may work on the words meanwhile, or its view will hand out frames that this
    /// one has too. Linux: `memblock_free_all`.
    ///
    /// # Errors
    ///
    /// [`FormatError`]; no word was written then.
    pub fn format(
        words: &'a [AtomicU64],
        first: Pfn,
        len: Pages,
    ) -> Result<Buddy<'a>, FormatError> {
        let shape = Shape::new(first, len)?;
        let buddy = Buddy::view(words, shape)?;
        let set = |word: &AtomicU64, to: u64| word.store(to, Ordering::Relaxed);
        set(&buddy.header[0], 0);
        for word in buddy.header[1..].iter().chain(buddy.lanes).chain(buddy.some) {
            set(word, 0);
        }
        buddy.whole.iter().for_each(|word| set(word, 0));
        for (index, word) in buddy.bits.iter().enumerate() {
            set(word, shape.valid(index));
        }
        buddy.forget_cursors();
        buddy.rebuild();
        set(&buddy.header[1], shape.first);
        set(&buddy.header[2], shape.len());
        set(&buddy.header[3], check_word(shape.first, shape.len()));
        // Release: pairs with the Acquire in `open`, which thus sees all of the above.
        buddy.header[0].store(MAGIC, Ordering::Release);
        Ok(buddy)
    }

    /// Opens the pool whose state is in `words`, which another process may have written.
    ///
    /// `within` are the frames that the caller knows to exist (the size of the file, say): words
    /// that speak of others are refused. Reads the header once, changes nothing. O(1). What the
    /// other words hold need not be checked: the worst that wrong bits can do is hand out frames
    /// of this pool that somebody else has, and wrong hints only cost time. See
    /// [`Buddy::verify`] and [`Buddy::rebuild`].
    ///
    /// # Errors
    ///
    /// [`OpenError`]: the words are not a pool's, or not this pool's.
    ///
    /// # Examples
    ///
    /// ```
    /// use vmalloc_core::frames::{Buddy, OpenError};
    /// use vmalloc_core::sync::AtomicU64;
    /// use vmalloc_core::{Extent, Pages, Pfn};
    ///
    /// let within = Extent { start: Pfn(0), len: Pages(64) };
    /// let words: Vec<AtomicU64> =
    ///     (0..Buddy::words_needed(within.len)).map(|_| AtomicU64::new(0)).collect();
    /// assert_eq!(Buddy::open(&words, within).unwrap_err(), OpenError::BadMagic { found: 0 });
    /// Buddy::format(&words, within.start, within.len).unwrap();
    /// assert_eq!(Buddy::open(&words, within).unwrap().extent(), within);
    /// ```
    pub fn open(words: &'a [AtomicU64], within: Extent) -> Result<Buddy<'a>, OpenError> {
        let Some(header) = words.get(..HEADER_WORDS) else {
            return Err(OpenError::NoHeader { given: words.len() });
        };
        // Acquire: pairs with the Release in `format`. The rest: Relaxed, checked below.
        let magic = header[0].load(Ordering::Acquire);
        let first = header[1].load(Ordering::Relaxed);
        let len = header[2].load(Ordering::Relaxed);
        let check = header[3].load(Ordering::Relaxed);
        if magic != MAGIC {
            return Err(OpenError::BadMagic { found: magic });
        }
        if check != check_word(first, len) {
            return Err(OpenError::BadCheck { found: check, expected: check_word(first, len) });
        }
        let shape = Shape::new(Pfn(first), Pages(len)).map_err(OpenError::BadShape)?;
        let found = Extent { start: Pfn(first), len: Pages(len) };
        let within_end = within.start.0.saturating_add(within.len.0);
        if shape.first < within.start.0 || shape.end > within_end {
            return Err(OpenError::Outside { found, within });
        }
        Buddy::view(words, shape).map_err(OpenError::BadShape)
    }

    fn view(words: &'a [AtomicU64], shape: Shape) -> Result<Buddy<'a>, FormatError> {
        let given = words.len();
        if (given as u64) < shape.words() {
            return Err(FormatError::TooFewWords { given, needed: shape.words() });
        }
        let (header, words) = words.split_at(HEADER_WORDS);
        let (lanes, words) = words.split_at(LANES * LANE_WORDS);
        let (bits, words) = words.split_at(shape.bit_words() as usize);
        let (some, words) = words.split_at(shape.hint_words() as usize);
        let whole = &words[..shape.hint_words() as usize];
        Ok(Buddy { shape, lane: 0, bits, some, whole, lanes, header, nodes: &[] })
    }

    /// The first word of the header that no longer says what `format` wrote, and what it says.
    pub(super) fn header_damage(&self) -> Option<(usize, u64)> {
        let (first, len) = (self.shape.first, self.shape.len());
        let expected = [MAGIC, first, len, check_word(first, len)];
        let found = self.header.iter().map(|word| word.load(Ordering::Relaxed));
        found.zip(expected).enumerate().find(|(_, (is, was))| is != was).map(|(i, (is, _))| (i, is))
    }
}

/// Why [`Buddy::format`] failed. No word was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FormatError {
    /// A pool of no frames.
    Empty,
    /// The frames would pass the end of a 64-bit physical address space, frame 2^52.
    PastTheEnd {
        /// The first frame.
        first: Pfn,
        /// How many frames.
        len: Pages,
    },
    /// The words do not hold the state. [`Buddy::words_needed`] is always enough.
    TooFewWords {
        /// How many words there are.
        given: usize,
        /// How many it takes.
        needed: u64,
    },
}

/// Why [`Buddy::open`] failed. No word was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Fewer words than a header.
    NoHeader {
        /// How many words there are.
        given: usize,
    },
    /// The first word is not that of a formatted pool, or of another version. 0: not formatted,
    /// or not yet.
    BadMagic {
        /// What stands there.
        found: u64,
    },
    /// The header's parts do not belong together: it was overwritten.
    BadCheck {
        /// What stands there.
        found: u64,
        /// What the rest of the header calls for.
        expected: u64,
    },
    /// The header speaks of a pool that cannot be, or not in these words.
    BadShape(FormatError),
    /// The header speaks of frames that the caller knows nothing of.
    Outside {
        /// What the header says.
        found: Extent,
        /// What the caller allows.
        within: Extent,
    },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FormatError::Empty => write!(f, "a pool of no frames"),
            FormatError::PastTheEnd { first, len } => {
                write!(f, "{len} from {first} pass the last frame number, {:#x}", PFN_END - 1)
            }
            FormatError::TooFewWords { given, needed } => {
                write!(f, "{given} words for a state of {needed}")
            }
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::NoHeader { given } => write!(f, "{given} words hold no header"),
            OpenError::BadMagic { found } => {
                write!(f, "no pool of frames here: the first word is {found:#x}, not {MAGIC:#x}")
            }
            OpenError::BadCheck { found, expected } => {
                write!(f, "the header was overwritten: check word {found:#x}, not {expected:#x}")
            }
            OpenError::BadShape(_) => write!(f, "the header speaks of a pool that cannot be"),
            OpenError::Outside { found, within } => {
                write!(f, "the header speaks of {found}; only {} from {}", within.len, within.start)
            }
        }
    }
}

impl core::error::Error for FormatError {}
impl core::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            OpenError::BadShape(cause) => Some(cause),
            _ => None,
        }
    }
}
