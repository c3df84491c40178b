//! The table under all caches: a word a frame, and the records of the slabs.
//!
//! ```text
//!   header │ frames: 1 word each              │ which records are nobody's │ records: 16 words each
//!          │ NONE  SLAB(record)               │ hint, a BitTree            │ truth, see `occupancy`
//!          │ LARGE(order)  FREED              │                            │
//! ```
//!
//! An address leads to its frame's word, and that to the record: no object's bytes are ever asked
//! what they are. A slab's word stands at each of its frames, so an object anywhere in it is found
//! by one load. A large block of `kmalloc` has its order at its first frame alone; since blocks
//! are aligned to their size, the few places where a block around an address could begin are
//! looked at only to tell an interior address from a stranger.
//!
//! Invariants: a frame's word is not NONE or FREED if and only if the frame is lent to us; it is
//! written after the frames were taken and taken back before they are given.
//! Linux: `struct page` (64 bytes a frame), whose `slab_cache` and compound order this is.

use super::error::{AllocError, CacheError, VerifyError};
use super::occupancy::{CACHE_MAX, RECORD_WORDS, Record, Tag};
use crate::bits::BitTree;
use crate::platform::{Frames, Ram};
use crate::sync::{AtomicU64, Ordering};
use crate::units::{Extent, Order, Pages, Pfn};

const HEADER_WORDS: usize = 8;

/// What a frame is lent for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FrameTag {
    /// Not lent to us.
    None,
    /// Part of the slab with this record.
    Slab(usize),
    /// The first of a block of its own.
    Large(Order),
    /// As `None`; a block began here that was freed.
    Freed,
}

impl FrameTag {
    fn encode(self) -> u64 {
        match self {
            FrameTag::None => 0,
            FrameTag::Slab(record) => 1 | (record as u64) << 8,
            FrameTag::Large(order) => 2 | u64::from(order.0) << 8,
            FrameTag::Freed => 3,
        }
    }

    fn decode(bits: u64) -> Option<FrameTag> {
        let arg = bits >> 8;
        match bits & 0xff {
            0 => Some(FrameTag::None),
            1 => Some(FrameTag::Slab(arg as usize)),
            2 => u8::try_from(arg).ok().map(|order| FrameTag::Large(Order(order))),
            3 => Some(FrameTag::Freed),
            _ => None,
        }
    }

    const fn is_lent(self) -> bool {
        matches!(self, FrameTag::Slab(_) | FrameTag::Large(_))
    }
}

/// The slabs of all caches over the same frames: a view of the caller's words, and of the frames
/// and the RAM that they are made of. Cheap to copy.
pub struct Slabs<'a, F, R> {
    frames: &'a F,
    ram: &'a R,
    // Constant after `format`.
    extent: Extent,
    slabs: usize,
    // Written when a cache is made: the number of the next one.
    header: &'a [AtomicU64],
    // Written when frames are taken and given.
    tags: &'a [AtomicU64],
    // A hint.
    free: BitTree<'a>,
    // The truth about objects: written by every alloc and free.
    records: &'a [AtomicU64],
}

impl<F, R> Clone for Slabs<'_, F, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F, R> Copy for Slabs<'_, F, R> {}

impl<'a, F: Frames, R: Ram> Slabs<'a, F, R> {
    /// The words for slabs out of `frames` frames, at most `slabs` of them at a time: 8 bytes a
    /// frame and 128 a slab, and little more.
    #[must_use]
    pub const fn words_needed(frames: Pages, slabs: usize) -> usize {
        HEADER_WORDS + frames.0 as usize + BitTree::words_needed(slabs) + slabs * RECORD_WORDS
    }

    /// Makes `words` the table of no slab. `extent` is where `frames` has its frames. The words
    /// should begin on a cache line, for speed only.
    ///
    /// # Errors
    ///
    /// [`CacheError::TooFewWords`].
    pub fn format(
        words: &'a [AtomicU64],
        extent: Extent,
        slabs: usize,
        frames: &'a F,
        ram: &'a R,
    ) -> Result<Self, CacheError> {
        let (given, needed) = (words.len(), Self::words_needed(extent.len, slabs));
        if given < needed {
            return Err(CacheError::TooFewWords { needed, given });
        }
        words[..needed].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let table = Slabs::laid_out(words, extent, slabs, frames, ram);
        (0..slabs).for_each(|slab| table.free.set(slab));
        Ok(table)
    }

    /// The table that these words are, which are as many as needed.
    pub(super) fn laid_out(
        words: &'a [AtomicU64],
        extent: Extent,
        slabs: usize,
        frames: &'a F,
        ram: &'a R,
    ) -> Self {
        let (header, words) = words.split_at(HEADER_WORDS);
        // Records before frames: what begins on a cache line stays on one.
        let (records, words) = words.split_at(slabs * RECORD_WORDS);
        let (tags, words) = words.split_at(extent.len.0 as usize);
        let free = BitTree::new(words, slabs);
        Slabs { frames, ram, extent, slabs, header, tags, free, records }
    }

    /// The frames that the table covers.
    #[must_use]
    pub const fn extent(&self) -> Extent {
        self.extent
    }

    /// How many slabs there can be.
    #[must_use]
    pub const fn slabs_max(&self) -> usize {
        self.slabs
    }

    pub(crate) fn ram(&self) -> &'a R {
        self.ram
    }

    /// Numbers for `count` new caches, one after the other; the first of them.
    pub(crate) fn number_caches(&self, count: u64) -> Result<u64, CacheError> {
        let more = |last: u64| Some(last + count).filter(|&last| last <= CACHE_MAX);
        self.header[0]
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map(|last| last + 1)
            .map_err(|_| CacheError::TooManyCaches)
    }

    /// What a frame is lent for; `None` for frames that the table does not cover.
    pub(crate) fn tag_of(&self, pfn: Pfn) -> FrameTag {
        // Acquire: pairs with the Release of who lent it.
        self.word(pfn)
            .and_then(|word| FrameTag::decode(word.load(Ordering::Acquire)))
            .unwrap_or(FrameTag::None)
    }

    /// Takes a block of frames for `tag`: at its first frame alone, or at each (`all`).
    pub(crate) fn lend(&self, order: Order, tag: FrameTag, all: bool) -> Result<Pfn, AllocError> {
        let start = self.frames.take(order).map_err(AllocError::NoFrames)?;
        let bad = AllocError::BadFrames { start, order, table: self.extent };
        let run = Extent { start, len: order.pages() };
        let first = start.0.checked_sub(self.extent.start.0);
        let holds = first.is_some_and(|first| {
            first.checked_add(run.len.0).is_some_and(|end| end <= self.extent.len.0)
        });
        if !holds || !start.0.is_multiple_of(run.len.0) {
            self.frames.give(run);
            return Err(bad);
        }
        let count = if all { run.len.0 } else { 1 };
        for at in 0..count {
            if !self.step(Pfn(start.0 + at), |now| !now.is_lent(), tag) {
                (0..at).for_each(|at| self.set_tag(Pfn(start.0 + at), FrameTag::None));
                return Err(bad);
            }
        }
        Ok(start)
    }

    /// Gives back a block whose slab is this caller's alone.
    pub(crate) fn take_back(&self, start: Pfn, order: Order) {
        let run = Extent { start, len: order.pages() };
        (0..run.len.0).for_each(|at| self.set_tag(Pfn(start.0 + at), FrameTag::None));
        self.frames.give(run);
    }

    /// Gives back a large block. `false`: it is none of this order any more.
    pub(crate) fn take_back_large(&self, start: Pfn, order: Order) -> bool {
        let mine = self.step(start, |now| now == FrameTag::Large(order), FrameTag::Freed);
        if mine {
            self.frames.give(Extent { start, len: order.pages() });
        }
        mine
    }

    /// Record number `slab`.
    pub(super) fn record(&self, slab: usize) -> Option<Record<'a>> {
        let words = self.records.get(slab.checked_mul(RECORD_WORDS)?..)?;
        words.get(..RECORD_WORDS).map(Record::new)
    }

    /// The record of the slab that a frame belongs to, and its tag.
    pub(super) fn slab_of(&self, pfn: Pfn) -> Option<(usize, Record<'a>, Tag)> {
        let FrameTag::Slab(slab) = self.tag_of(pfn) else { return None };
        let record = self.record(slab)?;
        let tag = record.tag()?;
        (tag.base <= pfn).then_some((slab, record, tag))
    }

    /// The number of the cache whose slab a frame belongs to.
    pub(crate) fn cache_of(&self, pfn: Pfn) -> Option<u64> {
        self.slab_of(pfn).map(|(_, _, tag)| tag.cache)
    }

    /// A record that was nobody's, held. Searches all of them before it fails.
    pub(super) fn hold_record(&self) -> Result<(usize, Record<'a>), AllocError> {
        let mut from = 0;
        while let Some(slab) = self.free.next(from) {
            self.free.clear(slab);
            if let Some(record) = self.record(slab).filter(Record::hold) {
                return Ok((slab, record));
            }
            from = slab + 1;
        }
        (0..self.slabs)
            .find_map(|slab| self.record(slab).filter(Record::hold).map(|record| (slab, record)))
            .ok_or(AllocError::NoRecord { slabs: self.slabs })
    }

    /// Gives up a record that is held.
    pub(super) fn release_record(&self, slab: usize, record: Record<'a>) {
        record.release();
        self.free.set(slab);
    }

    /// Checks that each frame's word leads to a slab around it, while nobody is at work. The
    /// caches check that each slab's frames lead to it.
    ///
    /// # Errors
    ///
    /// [`VerifyError`]: which frame or record.
    pub fn verify(&self) -> Result<(), VerifyError> {
        for at in 0..self.extent.len.0 {
            let pfn = Pfn(self.extent.start.0 + at);
            let bits = self.tags[at as usize].load(Ordering::SeqCst);
            let is_sound = match FrameTag::decode(bits) {
                Some(FrameTag::Slab(_)) => self.slab_of(pfn).is_some(),
                Some(FrameTag::Large(order)) => {
                    pfn.0.is_multiple_of(order.pages().0)
                        && at + order.pages().0 <= self.extent.len.0
                }
                other => other.is_some(),
            };
            if !is_sound {
                return Err(VerifyError::Dangling { pfn, bits });
            }
        }
        for slab in 0..self.slabs {
            let record = self.record(slab).ok_or(VerifyError::Unfinished { slab })?;
            if record.tag().is_none() {
                if !record.is_free() {
                    return Err(VerifyError::Unfinished { slab });
                }
                if let Some((word, bits)) = record.damage(0) {
                    return Err(VerifyError::Occupancy { slab, word, bits });
                }
            }
        }
        Ok(())
    }

    fn word(&self, pfn: Pfn) -> Option<&'a AtomicU64> {
        self.tags.get(usize::try_from(pfn.0.checked_sub(self.extent.start.0)?).ok()?)
    }

    fn set_tag(&self, pfn: Pfn, to: FrameTag) {
        if let Some(word) = self.word(pfn) {
            word.store(to.encode(), Ordering::Release);
        }
    }

    /// Changes a frame's word, if it says what it should.
    fn step(&self, pfn: Pfn, from: impl Fn(FrameTag) -> bool, to: FrameTag) -> bool {
        let change =
            |bits: u64| FrameTag::decode(bits).filter(|&now| from(now)).map(|_| to.encode());
        // AcqRel: who gives the frames back comes after who was lent them.
        self.word(pfn).is_some_and(|word| {
            word.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).is_ok()
        })
    }
}
