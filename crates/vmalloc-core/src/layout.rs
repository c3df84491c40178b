//! Where each table lies in the words that the caller supplies.
//!
//! The engine keeps no state but these words: numbers and offsets, never pointers, so that the
//! same words serve a kernel's window, and a pool that several processes map at different
//! addresses. All zero is the state of an empty window.
//!
//! ```text
//!   flat, committed when the window is made                 │ sparse, committed with a granule
//!   zones │ counters │ bins │ tags taken parked link run │ hints │ records (a page a granule) │ presence
//! ```
//!
//! What is *truth*: `tags` (who owns a granule), `records` (who owns an area), `presence` (who is
//! attached). Everything else is a hint that [`crate::recover`] rebuilds from these.

use crate::bits::BitTree;
use crate::class::{CLASSES, Class, GRANULE_PAGES, GRANULE_SHIFT, SLOT_CLASSES, SLOTS_MAX};
use crate::sync::{AtomicU64, Ordering};
use crate::units::Pages;
use core::ops::Range;

mod table;
pub use table::Table;

/// Words a record has: one cache line.
pub(crate) const RECORD_WORDS: usize = 8;
/// The most members (processes) a window can have; a kernel is one member.
pub const MEMBERS_MAX: usize = 64;
/// First-level bins of a zone: run lengths up to 2^27 granules.
pub(crate) const FIRST_BINS: usize = 24;
/// Second-level bins in each.
pub(crate) const SECOND_BINS: usize = 32;
/// Words of a zone's index: lock, dirty, first-level bitmap, second-level bitmaps, heads.
pub(crate) const ZONE_WORDS: usize = 8 + FIRST_BINS + FIRST_BINS * SECOND_BINS;
/// Zones: one for slots and small areas, one for those that want huge pages.
pub(crate) const ZONES: usize = 2;
const COUNTER_WORDS: usize = 16;
/// Where the members' counters begin: at a pair of cache lines, since a lane has one to itself.
const STATS_AT: usize = ZONES * ZONE_WORDS + COUNTER_WORDS;
const _: () = assert!(STATS_AT.is_multiple_of(LANE_WORDS));
/// Lanes a member has: its threads count each in one of its own, as long as there are enough.
pub const LANES: usize = crate::sync::lanes(8);
/// Words of a lane: two cache lines.
pub(crate) const LANE_WORDS: usize = 16;
/// The word of a lane, behind its counters, that says what was parked last.
pub(crate) const LAST_PARKED: usize = 15;
const PAGE_WORDS: usize = 512;
const GRANULES_MAX: usize = 1 << 26;
/// The most flat words: where a flat table begins fits in 32 bits.
const FLAT_WORDS_MAX: usize = {
    let (granules, members) = (GRANULES_MAX, MEMBERS_MAX);
    Geometry { granules, small_granules: granules, members, in_place: true }.flat_words()
};
const _: () = assert!(FLAT_WORDS_MAX <= u32::MAX as usize);

/// The shape of a window. Every member of a pool must use the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Granules (of 128 pages) in the window.
    pub granules: usize,
    /// The first so many granules serve areas that do not want huge pages, the others those that
    /// do. Equal to `granules` where the machine makes no difference.
    pub small_granules: usize,
    /// How many members there can be, 1 to [`MEMBERS_MAX`].
    pub members: usize,
    /// Whether areas are shared where they lie, between members or the handles of one: then each has
    /// a cell a member that says who is attached. Where every mapping is an area of its own, as in a
    /// kernel, nobody would look at them.
    pub in_place: bool,
}

/// Why a [`Geometry`] is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum GeometryError {
    /// `granules` is 0 or over 2^26.
    Granules {
        /// The value given.
        granules: usize,
    },
    /// `small_granules` is over `granules`, or 0.
    Small {
        /// The value given.
        small_granules: usize,
    },
    /// `members` is 0 or over [`MEMBERS_MAX`].
    Members {
        /// The value given.
        members: usize,
    },
    /// The words supplied are fewer than the geometry needs.
    Words {
        /// How many it needs.
        needed: usize,
        /// How many there are.
        given: usize,
    },
}

impl core::fmt::Display for GeometryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Granules { granules } => {
                write!(f, "a window of {granules} granules; 1 to {GRANULES_MAX} are possible")
            }
            Self::Small { small_granules } => {
                write!(f, "{small_granules} small granules are none, or more than the window's")
            }
            Self::Members { members } => {
                write!(f, "{members} members; 1 to {MEMBERS_MAX} are possible")
            }
            Self::Words { needed, given } => {
                write!(f, "the tables need {needed} words, {given} were supplied")
            }
        }
    }
}

impl core::error::Error for GeometryError {}

impl Geometry {
    /// A window of `len` pages for one member: a kernel's, or a test's. The last part of a
    /// granule is left out.
    #[must_use]
    pub const fn for_window(len: Pages) -> Geometry {
        let granules = (len.0 / GRANULE_PAGES) as usize;
        Geometry { granules, small_granules: granules, members: 1, in_place: false }
    }

    /// The pages of the window.
    #[must_use]
    pub const fn pages(&self) -> Pages {
        Pages((self.granules as u64) << GRANULE_SHIFT)
    }

    /// The words that all tables need: flat and sparse.
    #[must_use]
    pub const fn words(&self) -> usize {
        self.presence_at() + if self.has_cells() { self.areas() * self.members } else { 0 }
    }

    /// The words that must be there from the start; those behind are committed with the granules
    /// that use them.
    #[must_use]
    pub const fn flat_words(&self) -> usize {
        let hints = BitTree::words_needed(self.granules) * (SLOT_CLASSES + CLASSES);
        (self.hints_at() + hints).next_multiple_of(PAGE_WORDS)
    }

    /// The records of the areas that can begin in granule `g`: one page of words.
    #[must_use]
    pub const fn record_words(&self, g: usize) -> Range<usize> {
        let start = self.flat_words() + g * SLOTS_MAX * RECORD_WORDS;
        start..start + SLOTS_MAX * RECORD_WORDS
    }

    /// Whether areas have presence cells.
    pub(crate) const fn has_cells(&self) -> bool {
        self.in_place || self.members > 1
    }

    /// The presence cells of area `id`: a word a member.
    #[must_use]
    pub const fn presence_words(&self, id: usize) -> Range<usize> {
        let start = self.presence_at() + id * self.members;
        start..start + self.members
    }

    /// The word that says who owns granule `g`.
    pub(crate) const fn tag_word(&self, g: usize) -> usize {
        self.tags_at() + g
    }

    /// Checks the values, which may come from a file.
    ///
    /// # Errors
    ///
    /// [`GeometryError`], with the value that is wrong.
    pub const fn check(&self) -> Result<(), GeometryError> {
        if self.granules == 0 || self.granules > GRANULES_MAX {
            return Err(GeometryError::Granules { granules: self.granules });
        }
        if self.small_granules == 0 || self.small_granules > self.granules {
            return Err(GeometryError::Small { small_granules: self.small_granules });
        }
        if self.members == 0 || self.members > MEMBERS_MAX {
            return Err(GeometryError::Members { members: self.members });
        }
        Ok(())
    }

    /// How many areas the window could have, counting every slot that any chunk might.
    pub(crate) const fn areas(&self) -> usize {
        self.granules * SLOTS_MAX
    }

    const fn tags_at(&self) -> usize {
        STATS_AT + self.members * LANES * LANE_WORDS
    }
    const fn hints_at(&self) -> usize {
        self.tags_at() + 5 * self.granules
    }
    const fn presence_at(&self) -> usize {
        self.flat_words() + self.areas() * RECORD_WORDS
    }
}

/// The tables, as views of the caller's words. Handed on by value from stage to stage: so it is kept
/// small.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    words: &'a [AtomicU64],
    at: Offsets,
}

/// A geometry, with where each table begins: worked out once, for views that are made often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    words: usize,
    at: Offsets,
}

impl Layout {
    /// Works it out.
    ///
    /// # Errors
    ///
    /// [`GeometryError`].
    pub fn new(geometry: Geometry) -> Result<Layout, GeometryError> {
        geometry.check()?;
        // `FLAT_WORDS_MAX` says that they fit.
        let at = Offsets {
            granules: geometry.granules as u32,
            small_granules: geometry.small_granules as u32,
            members: geometry.members as u8,
            in_place: geometry.in_place,
            tags: geometry.tags_at() as u32,
            hints: geometry.hints_at() as u32,
            tree: BitTree::words_needed(geometry.granules) as u32,
            records: geometry.flat_words() as u32,
            presence: geometry.presence_at(),
        };
        Ok(Layout { words: geometry.words(), at })
    }
}

/// A geometry, and where each table begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Offsets {
    presence: usize,
    granules: u32,
    small_granules: u32,
    tags: u32,
    hints: u32,
    tree: u32,
    records: u32,
    members: u8,
    in_place: bool,
}

impl Offsets {
    #[inline]
    const fn granules(&self) -> usize {
        self.granules as usize
    }

    #[inline]
    const fn tags(&self) -> usize {
        self.tags as usize
    }
}

impl<'a> Tables<'a> {
    /// Views `words` as the tables of a window of this geometry, and takes their contents as
    /// they are; words that are all zero are a window in which every granule is free.
    ///
    /// # Errors
    ///
    /// [`GeometryError`].
    pub fn new(words: &'a [AtomicU64], geometry: Geometry) -> Result<Tables<'a>, GeometryError> {
        Tables::laid_out(words, &Layout::new(geometry)?)
    }

    /// The same, where the layout is known: costs a comparison.
    ///
    /// # Errors
    ///
    /// [`GeometryError::Words`].
    #[inline(always)] // as `Engine::new`
    pub fn laid_out(words: &'a [AtomicU64], layout: &Layout) -> Result<Tables<'a>, GeometryError> {
        let Layout { words: needed, at } = *layout;
        if words.len() < needed {
            return Err(GeometryError::Words { needed, given: words.len() });
        }
        Ok(Tables { words, at })
    }

    /// The shape that the tables were made for.
    #[must_use]
    #[inline]
    pub const fn geometry(&self) -> Geometry {
        Geometry {
            granules: self.at.granules as usize,
            small_granules: self.at.small_granules as usize,
            members: self.at.members as usize,
            in_place: self.at.in_place,
        }
    }

    /// The granules of the window: tags beyond are none.
    #[inline]
    pub(crate) fn granules(&self) -> usize {
        self.at.granules()
    }

    /// Who owns granule `g`.
    #[inline]
    pub(crate) fn tag(&self, g: usize) -> &'a AtomicU64 {
        &self.words[self.at.tags() + g]
    }

    /// Hint: which slots of the chunk at `g` are taken.
    #[inline]
    pub(crate) fn taken(&self, g: usize) -> &'a AtomicU64 {
        &self.words[self.at.tags() + self.at.granules() + g]
    }

    /// Hint: which slots of the chunk at `g` are parked on the lazy list.
    #[inline]
    pub(crate) fn parked(&self, g: usize) -> &'a AtomicU64 {
        &self.words[self.at.tags() + 2 * self.at.granules() + g]
    }

    /// Hint: the neighbours, in its bin, of the free run that begins at `g`.
    pub(crate) fn link(&self, g: usize) -> &'a AtomicU64 {
        &self.words[self.at.tags() + 3 * self.at.granules() + g]
    }

    /// Hint: the lane whose chunk begins at `g`: inverted, so that as a link it would lead nowhere. Of
    /// a granule in use nobody needs the link.
    pub(crate) fn home(&self, g: usize) -> Home<'a> {
        Home(self.link(g))
    }

    /// Hint: boundary tag, the length of the free run that begins or ends at `g`.
    pub(crate) fn run(&self, g: usize) -> &'a AtomicU64 {
        &self.words[self.at.tags() + 4 * self.at.granules() + g]
    }

    /// The words of a zone's index.
    pub(crate) fn zone(&self, zone: usize) -> &'a [AtomicU64] {
        &self.words[zone * ZONE_WORDS..][..ZONE_WORDS]
    }

    /// Hint: chunks of a slot class that may have a free slot.
    #[inline]
    pub(crate) fn chunks_with_room(&self, class: Class) -> BitTree<'a> {
        self.hint(class.index())
    }

    /// Hint: chunks (and solo areas) of a class that may have a parked slot.
    #[inline]
    pub(crate) fn chunks_with_parked(&self, class: Class) -> BitTree<'a> {
        self.hint(SLOT_CLASSES + class.index())
    }

    /// The eight words of record `id`.
    #[inline]
    pub(crate) fn record(&self, id: usize) -> &'a [AtomicU64; RECORD_WORDS] {
        let record = self.words[self.at.records as usize + id * RECORD_WORDS..].first_chunk();
        record.expect("ids are checked, or below `areas`")
    }

    /// The presence cells of area `id`; empty where areas have none.
    pub(crate) fn presence(&self, id: usize) -> &'a [AtomicU64] {
        let geometry = self.geometry();
        let members = if geometry.has_cells() { geometry.members } else { 0 };
        &self.words[self.at.presence + id * members..][..members]
    }

    /// A counter of the whole window.
    #[inline]
    pub(crate) fn counter(&self, which: Counter) -> &'a AtomicU64 {
        &self.words[ZONES * ZONE_WORDS + which as usize]
    }

    /// A member's counts of events in one of its lanes; `owner` is 1 to `members`.
    #[inline(always)] // twice a call of the short ways
    pub(crate) fn lane(&self, owner: usize, lane: usize) -> &'a [AtomicU64; LANE_WORDS] {
        let at = STATS_AT + ((owner - 1) * LANES + lane % LANES) * LANE_WORDS;
        self.words[at..].first_chunk().expect("`members` have lanes")
    }

    /// The same counter of every lane of every member.
    pub(crate) fn stats(&self, which: Stat) -> impl Iterator<Item = &'a AtomicU64> {
        let tables = *self;
        let members = 1..=self.geometry().members;
        members.flat_map(move |m| (0..LANES).map(move |lane| &tables.lane(m, lane)[which as usize]))
    }

    #[inline]
    fn hint(&self, i: usize) -> BitTree<'a> {
        let (hints, tree) = (self.at.hints as usize, self.at.tree as usize);
        BitTree::laid_out(&self.words[hints + i * tree..][..tree], self.at.granules())
    }
}

/// Which lane a chunk belongs to. A hint.
#[derive(Clone, Copy)]
pub(crate) struct Home<'a>(&'a AtomicU64);

impl Home<'_> {
    #[inline]
    pub(crate) fn is(self, lane: usize) -> bool {
        self.0.load(Ordering::Relaxed) == !(lane as u64)
    }

    pub(crate) fn is_also_of(self, other: Home<'_>) -> bool {
        self.0.load(Ordering::Relaxed) == other.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(self, lane: usize) {
        self.0.store(!(lane as u64), Ordering::Relaxed);
    }
}

/// Counters of the whole window; hints, recomputed by recovery.
#[derive(Clone, Copy)]
pub(crate) enum Counter {
    /// Pages of parked areas, but for what the lanes have not brought here yet ([`Stat::Lazy`]).
    LazyPages = 0,
    /// Numbers given to reservations, so that a slot's tenants can be told apart. On a line of its
    /// own: each fresh area writes it, each free reads the other.
    Births = 8,
}

/// What a member's counters count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stat {
    /// Allocations that were not revived.
    Fresh = 0,
    Frees = 1,
    Revives = 2,
    Purged = 3,
    Flushes = 4,
    Attaches = 5,
    Failures = 6,
    Recovered = 7,
    /// Pages parked less pages taken back since they were last added to [`Counter::LazyPages`]:
    /// an `i64`.
    Lazy = 8,
}
