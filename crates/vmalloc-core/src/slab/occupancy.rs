//! The record of a slab: who holds the record, and for each object whether somebody owns it.
//!
//! ```text
//!   word 0     tag: frame number · 4096 + cache     0: nobody's; HELD: being made or unmade
//!   word 1…15  generation, 24 bits │ 40 objects, 1 = owned          600 objects in all
//!                          └ odd: open.  even: closed, nobody may take here
//! ```
//!
//! **One CAS on one word decides who owns an object**: it sets the object's bit, or clears it.
//! The generation in the same word makes the CAS fail when the slab was given up in between: each
//! opening and each closing is a new generation. A slab is given up by closing its words, each by
//! a CAS that succeeds only if none of its objects is owned; if one is, those closed are opened
//! again. So nothing is counted, and no two words need to agree.
//!
//! The tag is written before the words are opened and changed after they are closed. Whoever
//! reads an open word, then the tag, and then changes the word by CAS, knows that the tag was
//! that of the word's generation. That is why records lie beside the slabs and never go back to
//! the frame allocator: a late CAS meets a closed word, and not the bytes of another owner.
//!
//! Linux: `struct slab` with its `counters` and `freelist`, changed by `cmpxchg_double`.

use crate::sync::{AtomicU64, Ordering};
use crate::units::Pfn;

/// The words of a record: two cache lines; small slabs use the first alone.
pub(super) const RECORD_WORDS: usize = 16;
/// Objects that one word decides about.
pub(super) const OBJECTS_A_WORD: usize = 40;
/// The most objects that a slab can have.
pub(super) const OBJECTS_MAX: usize = (RECORD_WORDS - 1) * OBJECTS_A_WORD;

const ALL: u64 = (1 << OBJECTS_A_WORD) - 1;
const ONE_GENERATION: u64 = 1 << OBJECTS_A_WORD;
/// The tag of a record that somebody is making or unmaking a slab with.
const HELD: u64 = 0xfff;
/// Cache numbers lie from 1 to this.
pub(super) const CACHE_MAX: u64 = HELD - 1;

/// Which slab a record is of: its first frame and its cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag {
    pub(super) base: Pfn,
    pub(super) cache: u64,
}

/// What came of closing a slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Closing {
    /// The slab is the caller's alone.
    Done,
    /// An object is owned, or somebody else is closing. All is as it was.
    Refused,
    /// The same, but words were closed for a while: whoever looked for room then found none.
    Undone,
}

/// Why an object could not be put back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PutError {
    /// Nobody owns it.
    NotOwned,
    /// The slab is gone.
    Gone,
}

impl Tag {
    fn encode(self) -> u64 {
        self.base.0 << 12 | self.cache
    }

    fn decode(bits: u64) -> Option<Tag> {
        let cache = bits & 0xfff;
        (cache != 0 && cache != HELD).then_some(Tag { base: Pfn(bits >> 12), cache })
    }
}

/// A record, as a view of its words.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    words: &'a [AtomicU64],
}

impl<'a> Record<'a> {
    pub(super) fn new(words: &'a [AtomicU64]) -> Record<'a> {
        Record { words }
    }

    /// Which slab this is the record of, if it is one's.
    pub(super) fn tag(&self) -> Option<Tag> {
        // Acquire: pairs with the Release in `set_tag`, so that a tag read after an open word is
        // not older than the word, and a CAS after it fails if it is younger.
        Tag::decode(self.words[0].load(Ordering::Acquire))
    }

    /// Whether the record is nobody's.
    pub(super) fn is_free(&self) -> bool {
        self.words[0].load(Ordering::Acquire) == 0
    }

    /// Takes a record that is nobody's. `false`: somebody has it.
    pub(super) fn hold(&self) -> bool {
        // AcqRel: as a lock would.
        self.words[0].compare_exchange(0, HELD, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Gives up a record held, or whose words this caller has closed.
    pub(super) fn release(&self) {
        self.words[0].store(0, Ordering::Release);
    }

    /// Makes the slab of a record held: all objects free but the first, which is the caller's.
    pub(super) fn open(&self, tag: Tag, objects: usize) {
        self.words[0].store(tag.encode(), Ordering::Release);
        for at in 1..=words_for(objects) {
            let first = u64::from(at == 1);
            let closed = self.words[at].load(Ordering::Relaxed);
            // Release: whoever takes an object sees what its constructor wrote.
            self.words[at].store(next(closed) | absent(at, objects) | first, Ordering::Release);
        }
    }

    /// Takes any free object.
    pub(super) fn take(&self, tag: Tag, objects: usize) -> Option<usize> {
        (1..=words_for(objects)).find_map(|at| self.take_in(tag, at, ALL))
    }

    /// Takes object `index`, if it is free.
    pub(super) fn take_at(&self, tag: Tag, index: usize) -> bool {
        let (at, bit) = place(index);
        at < RECORD_WORDS && self.take_in(tag, at, bit).is_some()
    }

    fn take_in(&self, tag: Tag, at: usize, eligible: u64) -> Option<usize> {
        let word = &self.words[at];
        loop {
            // Acquire: before the tag, see above.
            let seen = word.load(Ordering::Acquire);
            let free = !seen & eligible & ALL;
            if free == 0 || !is_open(seen) || self.tag() != Some(tag) {
                return None;
            }
            let bit = free & free.wrapping_neg();
            // Acquire: pairs with the Release of who owned the object last.
            if word.compare_exchange(seen, seen | bit, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                return Some((at - 1) * OBJECTS_A_WORD + bit.trailing_zeros() as usize);
            }
        }
    }

    /// Puts object `index` back; whether all objects of its word were owned before.
    pub(super) fn put(&self, tag: Tag, index: usize) -> Result<bool, PutError> {
        let (at, bit) = place(index);
        loop {
            let seen = self.words[at].load(Ordering::Acquire);
            if self.tag() != Some(tag) {
                return Err(PutError::Gone);
            }
            // A closed word: all of its objects were free when it was closed.
            if !is_open(seen) || seen & bit == 0 {
                return Err(PutError::NotOwned);
            }
            // Release: the next owner sees what this one wrote.
            if self.words[at]
                .compare_exchange(seen, seen & !bit, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                return Ok(seen & ALL == ALL);
            }
        }
    }

    /// Whether somebody owns object `index`.
    pub(super) fn is_owned(&self, tag: Tag, index: usize) -> bool {
        let (at, bit) = place(index);
        let seen = self.words[at].load(Ordering::Acquire);
        is_open(seen) && seen & bit != 0 && self.tag() == Some(tag)
    }

    /// Closes all words, if no object is owned: the slab is the caller's alone then.
    pub(super) fn close(&self, tag: Tag, objects: usize) -> Closing {
        for at in 1..=words_for(objects) {
            if !self.close_word(tag, at, objects) {
                (1..at).for_each(|at| self.reopen_word(at, objects));
                return if at == 1 { Closing::Refused } else { Closing::Undone };
            }
        }
        Closing::Done
    }

    fn close_word(&self, tag: Tag, at: usize, objects: usize) -> bool {
        let seen = self.words[at].load(Ordering::Acquire);
        is_open(seen)
            && seen & ALL == absent(at, objects)
            && self.tag() == Some(tag)
            // AcqRel: whoever gets the frames next comes after every owner of an object.
            && self.words[at]
                .compare_exchange(seen, next(seen), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    fn reopen_word(&self, at: usize, objects: usize) {
        // Ours since we closed it: nobody else writes a closed word.
        let closed = self.words[at].load(Ordering::Relaxed);
        self.words[at].store(next(closed) | absent(at, objects), Ordering::Release);
    }

    /// How many objects are owned now.
    pub(super) fn owned(&self, objects: usize) -> usize {
        (1..=words_for(objects))
            .map(|at| (self.words[at].load(Ordering::SeqCst), absent(at, objects)))
            .map(
                |(seen, absent)| {
                    if is_open(seen) { (seen & ALL & !absent).count_ones() } else { 0 }
                },
            )
            .sum::<u32>() as usize
    }

    /// Whether an object is free.
    pub(super) fn has_room(&self, objects: usize) -> bool {
        (1..=words_for(objects)).any(|at| {
            let seen = self.words[at].load(Ordering::SeqCst);
            is_open(seen) && seen & ALL != ALL
        })
    }

    /// The first word that a slab of so many objects (0: a free record) cannot have, while nobody
    /// is at work.
    pub(super) fn damage(&self, objects: usize) -> Option<(usize, u64)> {
        (1..RECORD_WORDS).map(|at| (at, self.words[at].load(Ordering::SeqCst))).find(
            |&(at, seen)| {
                let used = at <= words_for(objects);
                is_open(seen) != used || used && absent(at, objects) & !seen != 0
            },
        )
    }
}

/// The words that decide about so many objects.
fn words_for(objects: usize) -> usize {
    objects.div_ceil(OBJECTS_A_WORD).min(RECORD_WORDS - 1)
}

/// The word and the bit of an object.
fn place(index: usize) -> (usize, u64) {
    (1 + index / OBJECTS_A_WORD, 1 << (index % OBJECTS_A_WORD))
}

/// The bits of word `at` that are no objects: set while it is open, so that nobody takes them.
fn absent(at: usize, objects: usize) -> u64 {
    let here = objects.saturating_sub((at - 1) * OBJECTS_A_WORD).min(OBJECTS_A_WORD);
    ALL & !((1 << here) - 1)
}

fn is_open(word: u64) -> bool {
    word & ONE_GENERATION != 0
}

/// The next generation of a word, no bit set.
fn next(word: u64) -> u64 {
    (word & !ALL).wrapping_add(ONE_GENERATION)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    const OBJECTS: usize = 100;
    const OURS: Tag = Tag { base: Pfn(64), cache: 1 };
    const THEIRS: Tag = Tag { base: Pfn(64), cache: 2 };

    fn words() -> [AtomicU64; RECORD_WORDS] {
        [const { AtomicU64::new(0) }; RECORD_WORDS]
    }

    fn slab(words: &[AtomicU64]) -> Record<'_> {
        let record = Record::new(words);
        assert!(record.hold() && !record.hold());
        record.open(OURS, OBJECTS);
        assert_eq!(record.put(OURS, 0), Ok(false));
        record
    }

    /// Goal: nobody takes from a slab that is being closed.
    /// Method: close, and try while the tag still is what it was.
    #[test]
    fn a_closed_word_gives_nothing() {
        let words = words();
        let record = slab(&words);
        assert_eq!(record.close(OURS, OBJECTS), Closing::Done);
        assert_eq!(record.tag(), Some(OURS));
        assert!(record.take(OURS, OBJECTS).is_none() && !record.take_at(OURS, 50));
        assert_eq!(record.close(OURS, OBJECTS), Closing::Refused, "nobody closes it twice");
        assert_eq!(record.put(OURS, 50), Err(PutError::NotOwned));
    }

    /// Goal: who still believes in a slab that went home takes nothing of the next one, and puts
    /// nothing back there.
    /// Method: close, release, open for another cache; every call with the old tag.
    #[test]
    fn an_old_tag_opens_nothing() {
        let words = words();
        let record = slab(&words);
        assert_eq!(record.close(OURS, OBJECTS), Closing::Done);
        record.release();
        assert!(record.hold());
        record.open(THEIRS, OBJECTS);
        assert!(record.take(OURS, OBJECTS).is_none() && !record.take_at(OURS, 50));
        assert_eq!(record.put(OURS, 0), Err(PutError::Gone));
        assert!(!record.is_owned(OURS, 0) && record.is_owned(THEIRS, 0));
        assert_eq!(record.close(OURS, OBJECTS), Closing::Refused);
    }

    /// Goal: a CAS prepared in one life of a slab fails in the next, though the bits are the same.
    /// Method: the words before and after a close and an opening, and after a close undone.
    #[test]
    fn no_word_says_the_same_in_two_lives() {
        let words = words();
        let record = slab(&words);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..4 {
            assert!(seen.insert(words[2].load(Ordering::Relaxed)));
            assert_eq!(record.close(OURS, OBJECTS), Closing::Done);
            assert!(seen.insert(words[2].load(Ordering::Relaxed)));
            record.release();
            assert!(record.hold());
            record.open(OURS, OBJECTS);
            assert_eq!(record.put(OURS, 0), Ok(false));
            // The third word has an owner, so the first two are opened again.
            assert!(seen.insert(words[2].load(Ordering::Relaxed)) && record.take_at(OURS, 99));
            assert_eq!(record.close(OURS, OBJECTS), Closing::Undone);
            assert_eq!(record.put(OURS, 99), Ok(false));
        }
        assert_eq!(record.owned(OBJECTS), 0);
    }
}
