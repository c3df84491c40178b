//! Backings: the frames of an area, as extents, counted.
//!
//! A backing lives while anything maps it and no longer; two windows that show the same frames
//! count as two. The extents stand in the record while they are few, and else in frames of the
//! pool itself, chained, which are reached through the direct map: the engine asks no heap for
//! memory.
//!
//! ```text
//!   record: state │ users │ pages │ extents │ [e0][e1] │ head ─▶ frame: next │ n │ e2 e3 … e511
//!                                                       └ tail ─▶ …
//! ```
//!
//! The machine's word for a backing is its number and generation, so that a word that outlives
//! it is refused. Linux: `vm_struct::pages`, one pointer for each page, counted nowhere.

mod resize;
mod shown;

use crate::bits::BitTree;
use crate::machine::BackError;
use crate::platform::{FRAME_WORDS, Frames, Ram};
use crate::sync::{AtomicU64, Ordering};
use crate::units::{Extent, ORDER_MAX, Order, Pages, Pfn};

const RECORD_WORDS: usize = 8;
const STATE: usize = 0;
const USERS: usize = 1;
/// The users' word: how many there are, and in the upper half for which tenant of its area the
/// backing is offered; 0: for none.
const USERS_MAX: u64 = (1 << 32) - 1;
const PAGES: usize = 2;
const EXTENTS: usize = 3;
const INLINE: usize = 4;
const INLINE_MAX: usize = 2;
const HEAD: usize = 6;
const TAIL: usize = 7;
/// Extents in a chained frame: all its words but two.
const PER_FRAME: usize = FRAME_WORDS - 2;
/// Words that say which area shows frames that begin with one of its hash.
const HINTS: usize = 256;
const FREE: u64 = 0;
const OWNED: u64 = 1;
const ADOPTED: u64 = 2;
/// An extent as one word: 40 bits of frame number, 24 of length.
const LEN_MAX: u64 = (1 << 24) - 1;
const PFN_MAX: u64 = 1 << 40;

/// The backings that engines over the same frames share. A view of the caller's words.
#[derive(Clone, Copy)]
pub struct Backings<'a> {
    free: BitTree<'a>,
    records: &'a [AtomicU64],
    len: usize,
    hints: &'a [AtomicU64],
}

/// A backing being made: nobody knows it yet. Give it to [`Backings::finish`] or
/// [`Backings::discard`].
#[must_use]
pub(crate) struct Draft {
    index: usize,
    kind: u64,
}

impl<'a> Backings<'a> {
    /// The words that `len` backings need; an area that is mapped needs one.
    #[must_use]
    pub const fn words_needed(len: usize) -> usize {
        BitTree::words_needed(len) + HINTS + len * RECORD_WORDS
    }

    /// Makes all of `words` free backings.
    ///
    /// # Panics
    ///
    /// If `words` is shorter than [`Backings::words_needed`] says.
    #[must_use]
    pub fn format(words: &'a [AtomicU64], len: usize) -> Backings<'a> {
        words.iter().for_each(|w| w.store(0, Ordering::Relaxed));
        let (free, words) = words.split_at(BitTree::words_needed(len));
        let (hints, records) = words.split_at(HINTS);
        let backings = Backings { free: BitTree::new(free, len), records, len, hints };
        (0..len).for_each(|i| backings.free.set(i));
        backings
    }

    /// How many are in use. O(len).
    #[must_use]
    pub fn in_use(&self) -> usize {
        (0..self.len).filter(|&i| self.word(i, STATE).load(Ordering::Relaxed) & 3 != FREE).count()
    }

    /// Begins a backing whose frames go home with it (`owned`) or stay the caller's.
    pub(crate) fn begin(&self, owned: bool) -> Result<Draft, BackError> {
        let mut from = 0;
        while let Some(index) = self.free.next(from) {
            from = index + 1;
            // The bit is a hint: whoever clears it first goes on to the record.
            self.free.clear(index);
            let word = self.word(index, STATE);
            let state = word.load(Ordering::Acquire);
            let kind = if owned { OWNED } else { ADOPTED };
            let taken = state & !3 | kind;
            if state & 3 == FREE
                && word.compare_exchange(state, taken, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                (USERS..RECORD_WORDS).for_each(|i| self.word(index, i).store(0, Ordering::Relaxed));
                return Ok(Draft { index, kind });
            }
        }
        Err(BackError::NoMetadata)
    }

    /// Adds frames behind those the draft has; neighbours merge.
    pub(crate) fn push<F: Frames, R: Ram>(
        &self,
        draft: &Draft,
        run: Extent,
        frames: &F,
        ram: &R,
    ) -> Result<(), BackError> {
        // They would lose their upper bits in a record, and show others' frames.
        if run.start.0.checked_add(run.len.0).is_none_or(|end| end > PFN_MAX) {
            return Err(BackError::NoSuchFrames { run });
        }
        let mut run = run;
        while run.len.0 > 0 {
            let part = Extent { start: run.start, len: Pages(run.len.0.min(LEN_MAX)) };
            self.push_part(draft, part, frames, ram)?;
            let pages = self.word(draft.index, PAGES);
            pages.store(pages.load(Ordering::Relaxed) + part.len.0, Ordering::Relaxed);
            run = Extent { start: part.end(), len: Pages(run.len.0 - part.len.0) };
        }
        Ok(())
    }

    /// The draft becomes a backing with one user; its word names it.
    pub(crate) fn finish(&self, draft: Draft) -> u64 {
        // Release: whoever is told of the backing sees its extents.
        self.word(draft.index, USERS).store(1, Ordering::Release);
        self.name(draft.index)
    }

    /// Counts one more user, offered or not: of an area that lives. `false`: the backing does not.
    pub(crate) fn pin<F: Frames, R: Ram>(&self, name: u64, frames: &F, ram: &R) -> bool {
        let Some(index) = self.index_of(name) else { return false };
        let more = |users: u64| (users & USERS_MAX > 0).then(|| users + 1);
        let users = self.word(index, USERS);
        if users.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_err() {
            return false;
        }
        if self.index_of(name).is_none() {
            // As in `borrow`: it is another one that we counted.
            self.release(self.name(index), frames, ram);
            return false;
        }
        true
    }

    /// Frames that were adopted are owned from here on: they go home with the backing.
    pub(crate) fn take_over(&self, name: u64) {
        let Some(index) = self.index_of(name) else { return };
        let owned = |state: u64| (state & 3 == ADOPTED).then_some(state & !3 | OWNED);
        let _ = self.word(index, STATE).fetch_update(Ordering::AcqRel, Ordering::Acquire, owned);
    }

    /// Gives a draft back, with what frames it owns.
    pub(crate) fn discard<F: Frames, R: Ram>(&self, draft: Draft, frames: &F, ram: &R) {
        self.dissolve(draft.index, draft.kind, frames, ram);
    }

    /// Lets `borrow` succeed for tenant `generation` of the area that has this backing, and for
    /// no other: a backing outlives a tenant when its area is revived.
    pub(crate) fn offer(&self, name: u64, generation: u64) {
        let Some(index) = self.index_of(name) else { return };
        let offer = |users: u64| Some(users & USERS_MAX | offered_for(generation));
        let _ = self.word(index, USERS).fetch_update(Ordering::AcqRel, Ordering::Acquire, offer);
    }

    /// Takes back the offer for tenant `generation`, if it stands.
    pub(crate) fn withdraw(&self, name: u64, generation: u64) {
        let Some(index) = self.index_of(name) else { return };
        let stands = |users: &u64| users & !USERS_MAX == offered_for(generation);
        let none = |users: u64| Some(users).filter(stands).map(|users| users & USERS_MAX);
        let _ = self.word(index, USERS).fetch_update(Ordering::AcqRel, Ordering::Acquire, none);
    }

    /// Counts one more user, if the backing is offered for tenant `generation`; the backing's
    /// pages.
    pub(crate) fn borrow<F: Frames, R: Ram>(
        &self,
        name: u64,
        generation: u64,
        frames: &F,
        ram: &R,
    ) -> Result<Pages, BackError> {
        let index = self.index_of(name).ok_or(BackError::Gone)?;
        let offered = |users: u64| users & !USERS_MAX == offered_for(generation);
        let more = |users: u64| (users & USERS_MAX > 0 && offered(users)).then(|| users + 1);
        self.word(index, USERS)
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .map_err(|_| BackError::Gone)?;
        if self.index_of(name).is_none() {
            // It died and another took its place meanwhile: it is that one we counted.
            self.release(self.name(index), frames, ram);
            return Err(BackError::Gone);
        }
        Ok(Pages(self.word(index, PAGES).load(Ordering::Relaxed)))
    }

    /// Whether the backing has one user. A name that lives no more is nobody's: `false`.
    pub(crate) fn is_exclusive(&self, name: u64) -> bool {
        let users = |index| self.word(index, USERS).load(Ordering::Acquire) & USERS_MAX;
        self.index_of(name).is_some_and(|index| users(index) == 1)
    }

    /// The frames that go home with the last user, if one is left: its own, and those of the chain.
    pub(crate) fn would_free(&self, name: u64) -> Pages {
        let Some(index) = self.index_of(name).filter(|_| self.is_exclusive(name)) else {
            return Pages(0);
        };
        let word = |i: usize| self.word(index, i).load(Ordering::Relaxed);
        let own = if word(STATE) & 3 == OWNED { word(PAGES) } else { 0 };
        let chained = word(EXTENTS).saturating_sub(INLINE_MAX as u64).div_ceil(PER_FRAME as u64);
        Pages(own + chained)
    }

    /// Counts one user less; after the last one the frames go home. A name that lives no more is
    /// passed over.
    pub(crate) fn release<F: Frames, R: Ram>(&self, name: u64, frames: &F, ram: &R) {
        let Some(index) = self.index_of(name) else { return };
        let less = |users: u64| (users & USERS_MAX > 0).then(|| users - 1);
        let was = self.word(index, USERS).fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        if was.is_ok_and(|users| users & USERS_MAX == 1) {
            let kind = self.word(index, STATE).load(Ordering::Acquire) & 3;
            self.dissolve(index, kind, frames, ram);
        }
    }

    /// Visits the extents in the order they were added, until `visit` fails.
    pub(crate) fn each_extent<R: Ram, E>(
        &self,
        name: u64,
        ram: &R,
        mut visit: impl FnMut(Extent) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(index) = self.index_of(name) else { return Ok(()) };
        self.each_at(index, ram, &mut visit)
    }

    /// Frames that go home with a living backing; those that `vmap` was given are not among them.
    /// O(len).
    #[must_use]
    pub fn owned_frames(&self) -> Pages {
        let owned = |i: &usize| self.word(*i, STATE).load(Ordering::Relaxed) & 3 == OWNED;
        let pages = |i: usize| self.word(i, PAGES).load(Ordering::Relaxed);
        Pages((0..self.len).filter(owned).map(pages).sum())
    }

    /// Frames that hold extents of living backings. O(len + chained frames).
    pub fn metadata_frames<R: Ram>(&self, ram: &R) -> Pages {
        let mut count = 0;
        for index in 0..self.len {
            let mut at = self.word(index, HEAD).load(Ordering::Relaxed);
            while let Some(pfn) = at.checked_sub(1) {
                count += 1;
                at = ram.words(Pfn(pfn))[0].load(Ordering::Relaxed);
            }
        }
        Pages(count)
    }

    fn push_part<F: Frames, R: Ram>(
        &self,
        draft: &Draft,
        part: Extent,
        frames: &F,
        ram: &R,
    ) -> Result<(), BackError> {
        let count = self.word(draft.index, EXTENTS);
        let n = count.load(Ordering::Relaxed) as usize;
        if let Some(last) = n.checked_sub(1) {
            let word = self.extent_word(draft.index, last, ram);
            let before = unpack(word.load(Ordering::Relaxed));
            if before.end() == part.start && before.len.0 + part.len.0 <= LEN_MAX {
                let len = Pages(before.len.0 + part.len.0);
                word.store(pack(Extent { start: before.start, len }), Ordering::Relaxed);
                return Ok(());
            }
        }
        if n >= INLINE_MAX && (n - INLINE_MAX).is_multiple_of(PER_FRAME) {
            self.chain(draft.index, frames, ram)?;
        }
        self.extent_word(draft.index, n, ram).store(pack(part), Ordering::Relaxed);
        if n >= INLINE_MAX {
            let tail = self.word(draft.index, TAIL).load(Ordering::Relaxed) - 1;
            ram.words(Pfn(tail))[1].fetch_add(1, Ordering::Relaxed);
        }
        count.store(n as u64 + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Appends an empty frame to the chain.
    fn chain<F: Frames, R: Ram>(&self, index: usize, frames: &F, ram: &R) -> Result<(), BackError> {
        let pfn = frames.take(Order(0)).map_err(|_| BackError::NoMetadata)?;
        ram.words(pfn)[..2].iter().for_each(|w| w.store(0, Ordering::Relaxed));
        match self.word(index, TAIL).load(Ordering::Relaxed).checked_sub(1) {
            Some(tail) => ram.words(Pfn(tail))[0].store(pfn.0 + 1, Ordering::Relaxed),
            None => self.word(index, HEAD).store(pfn.0 + 1, Ordering::Relaxed),
        }
        self.word(index, TAIL).store(pfn.0 + 1, Ordering::Relaxed);
        Ok(())
    }

    /// The word of extent `n`, which is inline, or in the chain's last frame.
    fn extent_word<'r, R: Ram>(&self, index: usize, n: usize, ram: &'r R) -> &'r AtomicU64
    where
        'a: 'r,
    {
        if n < INLINE_MAX {
            return self.word(index, INLINE + n);
        }
        let tail = self.word(index, TAIL).load(Ordering::Relaxed) - 1;
        &ram.words(Pfn(tail))[2 + (n - INLINE_MAX) % PER_FRAME]
    }

    fn each_at<R: Ram, E>(
        &self,
        index: usize,
        ram: &R,
        visit: &mut impl FnMut(Extent) -> Result<(), E>,
    ) -> Result<(), E> {
        let n = self.word(index, EXTENTS).load(Ordering::Relaxed) as usize;
        for i in 0..n.min(INLINE_MAX) {
            visit(unpack(self.word(index, INLINE + i).load(Ordering::Relaxed)))?;
        }
        let mut at = self.word(index, HEAD).load(Ordering::Relaxed);
        while let Some(pfn) = at.checked_sub(1) {
            let words = ram.words(Pfn(pfn));
            let here = words[1].load(Ordering::Relaxed) as usize;
            for word in &words[2..2 + here.min(PER_FRAME)] {
                visit(unpack(word.load(Ordering::Relaxed)))?;
            }
            at = words[0].load(Ordering::Relaxed);
        }
        Ok(())
    }

    /// Frames home, chain home, record free, one generation on.
    fn dissolve<F: Frames, R: Ram>(&self, index: usize, kind: u64, frames: &F, ram: &R) {
        if kind == OWNED {
            let _ = self.each_at(index, ram, &mut |run| {
                frames.give(run);
                Ok::<(), core::convert::Infallible>(())
            });
        }
        let mut at = self.word(index, HEAD).load(Ordering::Relaxed);
        while let Some(pfn) = at.checked_sub(1) {
            at = ram.words(Pfn(pfn))[0].load(Ordering::Relaxed);
            frames.give(Extent { start: Pfn(pfn), len: Pages(1) });
        }
        self.word(index, HEAD).store(0, Ordering::Relaxed);
        let generation = self.word(index, STATE).load(Ordering::Relaxed) >> 2;
        // Release: whoever takes the record sees it empty.
        self.word(index, STATE).store((generation + 1) << 2 | FREE, Ordering::Release);
        self.free.set(index);
    }

    fn name(&self, index: usize) -> u64 {
        let generation = self.word(index, STATE).load(Ordering::Acquire) >> 2;
        index as u64 | (generation & 0xffff_ffff) << 32
    }

    fn index_of(&self, name: u64) -> Option<usize> {
        let index = (name & 0xffff_ffff) as usize;
        let is_it = |state: u64| state & 3 != FREE && state >> 2 & 0xffff_ffff == name >> 32;
        let lives = index < self.len && is_it(self.word(index, STATE).load(Ordering::Acquire));
        lives.then_some(index)
    }

    fn word(&self, index: usize, word: usize) -> &'a AtomicU64 {
        &self.records[index * RECORD_WORDS + word]
    }
}

/// The upper half of the users' word. It tells tenants of one backing apart, of which there are
/// fewer than 2^32.
fn offered_for(generation: u64) -> u64 {
    (generation & USERS_MAX).max(1) << 32
}

fn pack(run: Extent) -> u64 {
    run.start.0 << 24 | run.len.0
}

fn unpack(word: u64) -> Extent {
    Extent { start: Pfn(word >> 24), len: Pages(word & LEN_MAX) }
}

const _: () = assert!(ORDER_MAX.0 < 24, "a block of the highest order fits one extent word");
