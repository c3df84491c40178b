//! The first words of a pool: what it is, its shape, its budget, its members.
//!
//! ```text
//!   word 0       8             16          64             576     1024     5120 (a page)
//!   magic … sum │ ready, made │ charged … │ member slots │ bells │ names  │ tables │ … │ data
//! ```
//!
//! Whoever opens a pool reads words that another process wrote: each is checked before it is
//! used, and a pool of another version, of another shape than it says, or with a wrong sum is
//! refused with the values found. All numbers are offsets or counts; there is no pointer.

use crate::names::{NAME_WORDS, NAMES};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use vmalloc_core::class::GRANULE_PAGES;
use vmalloc_core::layout::{Geometry, Layout, MEMBERS_MAX, Tables};
use vmalloc_core::{Owner, PAGE_SIZE, PageRange, Pages};

const MAGIC: u64 = u64::from_le_bytes(*b"vmalloc\x01");
/// The layout's version: a pool of another one is refused.
pub(crate) const VERSION: u64 = 5;
/// Words of header before the tables.
const HEADER_WORDS: usize = NAMES_AT + NAMES * NAME_WORDS;
const MEMBERS_AT: usize = 64;
const MEMBER_WORDS: usize = 8;
const BELLS_AT: usize = MEMBERS_AT + MEMBERS_MAX * MEMBER_WORDS;
/// Bells: one for the pool, the others for shared areas.
pub(crate) const BELLS: usize = 64;
const NAMES_AT: usize = 1024;
const _: () = assert!(BELLS_AT + BELLS <= NAMES_AT && HEADER_WORDS.is_multiple_of(512));
const HUGE_BYTES: u64 = 2 << 20;
const WORD_BYTES: u64 = 8;
/// The window is this many times as long as the frames it may hold: addresses are never short.
const WINDOW_RATIO: u64 = 64;
/// The smallest window: 8192 granules, 4 GiB.
const GRANULES_MIN: u64 = 8192;
/// Most pages that a pool may hold: 512 GiB. Its window is 32 TiB, a quarter of what a process
/// has, and its records are as many as 32 bits can number.
pub(crate) const CAPACITY_MAX: Pages = Pages(1 << 27);

const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 1;
const AT_ID: usize = 2;
const AT_CAPACITY: usize = 3;
const AT_GRANULES: usize = 4;
const AT_SMALL: usize = 5;
const AT_MEMBERS: usize = 6;
const AT_SUM: usize = 7;
const AT_READY: usize = 8;
const AT_MADE: usize = 9;
const AT_FRAMED: usize = 10;
const AT_CHARGED: usize = 16;
const AT_RECOUNTS_WANTED: usize = 17;
const AT_RECOUNTS_DONE: usize = 18;
const AT_NAMES_LOCK: usize = 19;
const AT_KNOWS_NODES: usize = 20;
// On a cache line of their own: read with each allocation, hardly ever written.
const AT_LIMIT: usize = 24;
const AT_QUOTA: usize = 25;

/// What a pool is, decided when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// A random number that tokens repeat.
    pub(crate) id: u64,
    /// Pages it may hold.
    pub(crate) capacity: Pages,
    /// The window.
    pub(crate) geometry: Geometry,
    /// Whether the file's offsets are frames, which the pool hands out itself: see
    /// [`crate::framed`].
    pub(crate) is_framed: bool,
}

/// Why the first words are not those of a pool that we can use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum HeaderError {
    /// The magic number is another: not a pool.
    Magic {
        /// What stands there.
        found: u64,
    },
    /// A pool of another version of this crate.
    Version {
        /// Its version.
        found: u64,
        /// Ours.
        ours: u64,
    },
    /// The pool is still being made, or its maker died over it.
    NotReady,
    /// The sum over the header is wrong: it was damaged.
    Sum,
    /// A value is out of range.
    Value {
        /// Which.
        name: &'static str,
        /// What stands there.
        found: u64,
    },
    /// The file is shorter than the header says the pool is.
    Short {
        /// Bytes it should have.
        needed: u64,
        /// Bytes it has.
        found: u64,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Magic { found } => write!(f, "not a pool (it begins with {found:#018x})"),
            HeaderError::Version { found, ours } => {
                write!(f, "a pool of layout {found}; this program knows layout {ours}")
            }
            HeaderError::NotReady => {
                write!(f, "the pool is not finished: its maker is at it, or died")
            }
            HeaderError::Sum => write!(f, "the pool's header is damaged: wrong sum"),
            HeaderError::Value { name, found } => {
                write!(f, "the pool's header is damaged: {name} is {found}")
            }
            HeaderError::Short { needed, found } => {
                write!(f, "the pool should have {needed} bytes, the file has {found}")
            }
        }
    }
}

impl std::error::Error for HeaderError {}

impl Shape {
    /// The shape of a new pool for `capacity` pages.
    pub(crate) fn new(id: u64, capacity: Pages, members: usize) -> Shape {
        // A quarter of the window for small areas: 16 times the frames.
        let granules =
            (capacity.0 * WINDOW_RATIO / GRANULE_PAGES).max(GRANULES_MIN).next_multiple_of(16);
        let geometry = Geometry {
            granules: granules as usize,
            small_granules: (granules / 4) as usize,
            members,
            in_place: true,
        };
        Shape { id, capacity, geometry, is_framed: false }
    }

    /// The same with a window of `pages` pages, rounded up to 16 granules.
    pub(crate) fn with_window(self, pages: Pages) -> Shape {
        let granules = pages.0.div_ceil(GRANULE_PAGES).next_multiple_of(16) as usize;
        let small_granules = granules / if self.is_framed { 2 } else { 4 };
        let geometry = Geometry { granules, small_granules, ..self.geometry };
        Shape { geometry, ..self }
    }

    /// Bytes before the data: header and tables, whole huge pages. The window begins there, or the
    /// frames.
    pub(crate) fn words_bytes(&self) -> u64 {
        // The words about frames lie behind the engine's.
        let end = if self.is_framed { self.frame_words().end } else { self.geometry.words() };
        ((HEADER_WORDS + end) as u64 * WORD_BYTES).next_multiple_of(HUGE_BYTES)
    }

    /// Bytes of the file: nearly all of them holes, or all of them frames.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.words_bytes() + if self.is_framed { self.frames_bytes() } else { self.window_bytes() }
    }

    /// Where in a member's mapping the window begins, counted from its first byte: a framed pool's
    /// lies behind the file.
    pub(crate) fn window_at(&self) -> u64 {
        if self.is_framed { self.file_bytes() } else { self.words_bytes() }
    }

    /// Bytes of addresses.
    pub(crate) fn window_bytes(&self) -> u64 {
        self.geometry.pages().bytes()
    }

    /// Bytes of a framed pool's frames, whole huge pages.
    fn frames_bytes(&self) -> u64 {
        self.capacity.bytes().next_multiple_of(HUGE_BYTES)
    }

    /// Bytes that must be there before anyone looks: header and flat tables.
    pub(crate) fn flat_bytes(&self) -> u64 {
        let words = (HEADER_WORDS + self.geometry.flat_words()) as u64;
        (words * WORD_BYTES).next_multiple_of(PAGE_SIZE as u64)
    }

    /// Where, in bytes of the mapping, a run of the window begins: of a linear pool, of the file too.
    pub(crate) fn window_offset(&self, pages: PageRange) -> u64 {
        self.words_bytes() + pages.start.0 * PAGE_SIZE as u64
    }

    /// Where, in bytes of the file, engine words `at` begin.
    pub(crate) fn words_offset(at: usize) -> u64 {
        (HEADER_WORDS + at) as u64 * WORD_BYTES
    }
}

/// Bytes to read before the shape is known: 40 KiB, as the docs of what must be empty say.
pub(crate) const HEADER_BYTES: u64 = HEADER_WORDS as u64 * WORD_BYTES;
const _: () = assert!(HEADER_BYTES == 40 << 10);

/// The header, as views of the pool's words.
#[derive(Clone, Copy)]
pub(crate) struct Header<'a> {
    words: &'a [AtomicU64],
}

impl<'a> Header<'a> {
    /// Views the pool's words, of which there are at least a header's.
    pub(crate) fn new(words: &'a [AtomicU64]) -> Header<'a> {
        assert!(words.len() >= HEADER_WORDS, "{} words are no header", words.len());
        Header { words }
    }

    /// Writes the shape of a new pool. Nobody takes it for one until [`Header::set_ready`].
    pub(crate) fn write(&self, shape: &Shape, made_unix_s: u64) {
        let set = |i: usize, value: u64| self.words[i].store(value, Ordering::Relaxed);
        set(AT_MAGIC, MAGIC);
        set(AT_VERSION, VERSION);
        set(AT_ID, shape.id);
        set(AT_CAPACITY, shape.capacity.0);
        set(AT_GRANULES, shape.geometry.granules as u64);
        set(AT_SMALL, shape.geometry.small_granules as u64);
        set(AT_MEMBERS, shape.geometry.members as u64);
        set(AT_MADE, made_unix_s);
        set(AT_FRAMED, u64::from(shape.is_framed));
        set(AT_SUM, self.sum());
    }

    /// Says that the pool is finished.
    pub(crate) fn set_ready(&self) {
        // Release: whoever sees it ready sees the rest.
        self.words[AT_READY].store(1, Ordering::Release);
    }

    /// Reads the shape and checks every value, against each other and against the file's size.
    pub(crate) fn parse(&self, file_bytes: u64) -> Result<Shape, HeaderError> {
        let get = |i: usize| self.words[i].load(Ordering::Relaxed);
        let magic = get(AT_MAGIC);
        if magic != MAGIC {
            return Err(match magic {
                0 => HeaderError::NotReady,
                found => HeaderError::Magic { found },
            });
        }
        if get(AT_VERSION) != VERSION {
            return Err(HeaderError::Version { found: get(AT_VERSION), ours: VERSION });
        }
        // Acquire: pairs with `set_ready`.
        if self.words[AT_READY].load(Ordering::Acquire) != 1 {
            return Err(HeaderError::NotReady);
        }
        if get(AT_SUM) != self.sum() {
            return Err(HeaderError::Sum);
        }
        let value = |name, i: usize, max: u64| match get(i) {
            found if found == 0 || found > max => Err(HeaderError::Value { name, found }),
            found => Ok(found),
        };
        let capacity = Pages(value("capacity", AT_CAPACITY, CAPACITY_MAX.0)?);
        let granules = value("granules", AT_GRANULES, 1 << 26)?;
        let small = value("small granules", AT_SMALL, granules)?;
        let members = value("members", AT_MEMBERS, MEMBERS_MAX as u64)?;
        let geometry = Geometry {
            granules: granules as usize,
            small_granules: small as usize,
            members: members as usize,
            in_place: true,
        };
        if small % 4 != 0 || geometry.check().is_err() {
            return Err(HeaderError::Value { name: "small granules", found: small });
        }
        let is_framed = match get(AT_FRAMED) {
            0 => false,
            1 => true,
            found => return Err(HeaderError::Value { name: "the kind of pool", found }),
        };
        let shape = Shape { id: get(AT_ID), capacity, geometry, is_framed };
        let needed = shape.file_bytes();
        if file_bytes < needed {
            return Err(HeaderError::Short { needed, found: file_bytes });
        }
        Ok(shape)
    }

    /// Seconds since 1970 when the pool was made, as its maker saw it.
    pub(crate) fn made_unix_s(&self) -> u64 {
        self.words[AT_MADE].load(Ordering::Relaxed)
    }

    /// Pages committed, by all members.
    pub(crate) fn charged(&self) -> &'a AtomicU64 {
        &self.words[AT_CHARGED]
    }

    /// Pages that the pool may hold now, if somebody has said so.
    pub(crate) fn limit(&self) -> Option<Pages> {
        pages_if_any(&self.words[AT_LIMIT])
    }

    pub(crate) fn set_limit(&self, limit: Pages) {
        self.words[AT_LIMIT].store(limit.0, Ordering::Relaxed);
    }

    /// Pages that a member may hold: its own quota, or the one for all, if there is any.
    #[inline]
    pub(crate) fn quota_of(&self, owner: Owner) -> Option<Pages> {
        pages_if_any(&self.member(owner).words[4]).or_else(|| pages_if_any(&self.words[AT_QUOTA]))
    }

    pub(crate) fn set_quota(&self, quota: Option<Pages>) {
        self.words[AT_QUOTA].store(quota.map_or(0, |pages| pages.0.max(1)), Ordering::Relaxed);
    }

    /// Whether somebody has ever wanted frames of some NUMA node in this pool.
    pub(crate) fn knows_nodes(&self) -> bool {
        self.words[AT_KNOWS_NODES].load(Ordering::SeqCst) != 0
    }

    /// Says that somebody has, for good.
    pub(crate) fn set_knows_nodes(&self) {
        self.words[AT_KNOWS_NODES].store(1, Ordering::SeqCst);
    }

    /// Says that the charge may be wrong, by what a member that died was about.
    pub(crate) fn want_recount(&self) {
        self.words[AT_RECOUNTS_WANTED].fetch_add(1, Ordering::SeqCst);
    }

    /// The recount that is due, if one is.
    pub(crate) fn recount_due(&self) -> Option<u64> {
        let wanted = self.words[AT_RECOUNTS_WANTED].load(Ordering::SeqCst);
        let done = self.words[AT_RECOUNTS_DONE].load(Ordering::SeqCst);
        (done < wanted).then_some(wanted)
    }

    /// Says that a count begun after `recount` was wanted has been taken over.
    pub(crate) fn recount_done(&self, recount: u64) {
        self.words[AT_RECOUNTS_DONE].fetch_max(recount, Ordering::SeqCst);
    }

    /// Who is changing the table of names; 0 if nobody is.
    pub(crate) fn names_lock(&self) -> &'a AtomicU64 {
        &self.words[AT_NAMES_LOCK]
    }

    /// An entry of the table of names.
    pub(crate) fn name(&self, entry: usize) -> &'a [AtomicU64] {
        &self.words[NAMES_AT + entry * NAME_WORDS..][..NAME_WORDS]
    }

    /// Where, in bytes of the file, a bell is. Only [`crate::os::bell`] reaches these words.
    pub(crate) const fn bell_offset(bell: usize) -> u64 {
        assert!(bell < BELLS);
        (BELLS_AT + bell) as u64 * WORD_BYTES
    }

    /// A member's slot.
    #[inline]
    pub(crate) fn member(&self, owner: Owner) -> MemberSlot<'a> {
        let start = MEMBERS_AT + (owner.number() - 1) * MEMBER_WORDS;
        MemberSlot { words: &self.words[start..][..MEMBER_WORDS] }
    }

    /// The engine's tables.
    #[inline]
    pub(crate) fn tables(&self, layout: &Layout) -> Tables<'a> {
        Tables::laid_out(&self.words[HEADER_WORDS..], layout)
            .expect("the shape was checked, and the mapping is as long as it says")
    }

    /// Some of the words behind the header: the engine's, or a framed pool's frames.
    pub(crate) fn words_at(&self, words: Range<usize>) -> &'a [AtomicU64] {
        &self.words[HEADER_WORDS..][words]
    }

    /// FNV-1a over the words that never change.
    fn sum(&self) -> u64 {
        (AT_MAGIC..AT_SUM).chain([AT_MADE, AT_FRAMED]).fold(0xcbf2_9ce4_8422_2325, |sum, i| {
            let word = self.words[i].load(Ordering::Relaxed);
            word.to_le_bytes()
                .iter()
                .fold(sum, |sum: u64, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
        })
    }
}

/// A number of pages that somebody may have set; 0 for none.
#[inline]
fn pages_if_any(word: &AtomicU64) -> Option<Pages> {
    // Relaxed: it guards no other memory.
    Some(Pages(word.load(Ordering::Relaxed))).filter(|pages| pages.0 > 0)
}

const FREE: u64 = 0;
const ACTIVE: u64 = 1;

/// A member's slot: whether somebody is in it, and for humans, who. Whether that somebody lives
/// is told by a lock, not by these words.
#[derive(Clone, Copy)]
pub(crate) struct MemberSlot<'a> {
    words: &'a [AtomicU64],
}

impl MemberSlot<'_> {
    /// Whether somebody joined here and has not left: alive, or dead and not recovered.
    pub(crate) fn is_active(&self) -> bool {
        self.words[0].load(Ordering::SeqCst) & 0xff == ACTIVE
    }

    /// Says who is here. The caller holds the slot's lock.
    pub(crate) fn enter(&self, pid: u32, uid: u32) {
        self.words[1].store(pid.into(), Ordering::Relaxed);
        self.words[2].store(uid.into(), Ordering::Relaxed);
        self.set_quota(None);
        let times = self.words[0].load(Ordering::Relaxed) >> 8;
        // Release: whoever sees ACTIVE sees who.
        self.words[0].store((times + 1) << 8 | ACTIVE, Ordering::Release);
    }

    /// Says that nobody is here any more. The caller holds the slot's lock.
    pub(crate) fn leave(&self) {
        let times = self.words[0].load(Ordering::Relaxed) >> 8;
        // SeqCst: a giver that sees us here has said before that something is on its way.
        self.words[0].store(times << 8 | FREE, Ordering::SeqCst);
    }

    /// A number for who is here now, the `owner` in its lowest byte.
    pub(crate) fn stamp(&self, owner: Owner) -> u64 {
        self.words[0].load(Ordering::Relaxed) & !0xff | owner.number() as u64
    }

    /// Sets this member's own quota, or takes it away.
    pub(crate) fn set_quota(&self, quota: Option<Pages>) {
        self.words[4].store(quota.map_or(0, |pages| pages.0.max(1)), Ordering::Relaxed);
    }

    /// Says that something is on its way to this member alone.
    pub(crate) fn expect_gift(&self) {
        self.words[3].store(1, Ordering::SeqCst);
    }

    /// Whether something was, since this was asked last.
    pub(crate) fn gifts_expected(&self) -> bool {
        self.words[3].load(Ordering::SeqCst) != 0 && self.words[3].swap(0, Ordering::SeqCst) != 0
    }

    /// The process that joined here, in its own pid namespace.
    pub(crate) fn pid(&self) -> u32 {
        self.words[1].load(Ordering::Relaxed) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(shape: &Shape) -> Vec<AtomicU64> {
        let words: Vec<AtomicU64> = (0..HEADER_WORDS).map(|_| AtomicU64::new(0)).collect();
        Header::new(&words).write(shape, 1);
        Header::new(&words).set_ready();
        words
    }

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        let shape = Shape::new(7, Pages(65_536), 64);
        let words = made(&shape);
        assert_eq!(Header::new(&words).parse(shape.file_bytes()), Ok(shape));
    }

    /// Goal: no word of the header can change unnoticed.
    /// Method: flip every bit of every constant word in turn.
    #[test]
    fn every_flipped_bit_of_a_header_is_refused() {
        let shape = Shape::new(7, Pages(65_536), 64);
        for word in (AT_MAGIC..=AT_READY).chain([AT_MADE, AT_FRAMED]) {
            for bit in 0..64 {
                let words = made(&shape);
                words[word].fetch_xor(1 << bit, Ordering::Relaxed);
                let parsed = Header::new(&words).parse(shape.file_bytes());
                assert!(parsed.is_err(), "word {word} bit {bit}: {parsed:?}");
            }
        }
    }

    #[test]
    fn a_file_that_is_too_short_is_refused_with_both_sizes() {
        let shape = Shape::new(7, Pages(65_536), 64);
        let needed = shape.file_bytes();
        let parsed = Header::new(&made(&shape)).parse(needed - 1);
        assert_eq!(parsed, Err(HeaderError::Short { needed, found: needed - 1 }));
    }
}
