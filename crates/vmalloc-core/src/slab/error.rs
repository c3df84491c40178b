//! What can go wrong with slabs, one enum a verb, with the values that were wrong.
//!
//! Linux answers `alloc` with NULL, and a wrong `free` with a line in the log if it was built to
//! look, with a corrupted free list if it was not.

use super::object::DirectAddr;
use crate::platform::NoFrames;
use crate::units::{Extent, Order, Pfn};
use core::fmt;

/// Why a cache, or the table under it, could not be made. No word was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CacheError {
    /// Objects of no size, or larger than any block of frames.
    BadSize {
        /// What was asked for.
        object_bytes: usize,
        /// The most that is possible.
        limit_bytes: usize,
    },
    /// The alignment is not a power of two up to a page.
    BadAlign {
        /// What was asked for.
        align_bytes: usize,
    },
    /// The words supplied are fewer than `words_needed` says.
    TooFewWords {
        /// How many it takes.
        needed: usize,
        /// How many there are.
        given: usize,
    },
    /// The table has numbered as many caches as it can, 4,094.
    TooManyCaches,
}

/// Why [`crate::slab::KmemCache::alloc`] failed. Nothing was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AllocError {
    /// No object is free, and no frames for another slab.
    NoFrames(NoFrames),
    /// No object is free, and all records of slabs are in use.
    NoRecord {
        /// How many there are.
        slabs: usize,
    },
    /// The frame allocator gave a block that it must not give: not all in the table, not aligned,
    /// or lent to this table already. It was not used. (One that this table holds was not given
    /// back either: its owner would lose it.)
    BadFrames {
        /// The first frame of the block.
        start: Pfn,
        /// Its order.
        order: Order,
        /// The frames that the table covers.
        table: Extent,
    },
}

/// Why [`crate::slab::KmemCache::free`] failed. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FreeError {
    /// No slab has an object there.
    Stranger {
        /// The address given.
        addr: DirectAddr,
    },
    /// The address lies inside an object that begins elsewhere.
    Interior {
        /// The address given.
        addr: DirectAddr,
        /// Where the object around it begins.
        base: DirectAddr,
    },
    /// The object is nobody's: it was freed before, or never given out.
    Twice {
        /// The address given.
        addr: DirectAddr,
    },
    /// The object is another cache's.
    WrongCache {
        /// The address given.
        addr: DirectAddr,
        /// The number of the cache that it is of.
        cache: u64,
    },
}

/// Why [`crate::slab::KmemCache::destroy`] refused. The cache works as before, but for the empty
/// slabs that were given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InUse {
    /// How many objects are still owned.
    pub objects: usize,
}

/// Which invariant does not hold, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum VerifyError {
    /// A record is between two states, with nobody at work.
    Unfinished {
        /// The number of the slab.
        slab: usize,
    },
    /// A slab's frames are not in the table, or not aligned.
    Misplaced {
        /// The number of the slab.
        slab: usize,
        /// Its first frame.
        base: Pfn,
    },
    /// A frame of a slab does not lead to it.
    Lost {
        /// The number of the slab.
        slab: usize,
        /// The frame.
        pfn: Pfn,
    },
    /// A frame leads to a slab that is not there, or to no kind of owner.
    Dangling {
        /// The frame.
        pfn: Pfn,
        /// What its word says.
        bits: u64,
    },
    /// A slab's word is closed where it should be open, or the reverse, or offers objects that
    /// the slab does not have.
    Occupancy {
        /// The number of the slab.
        slab: usize,
        /// Which word.
        word: usize,
        /// What it says.
        bits: u64,
    },
    /// A slab with a free object that no hint leads to.
    Hint {
        /// The number of the slab.
        slab: usize,
    },
    /// More is remembered in magazines than they hold.
    Rounds {
        /// How many rounds are remembered.
        rounds: usize,
        /// The most that there can be.
        max: usize,
    },
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CacheError::BadSize { object_bytes, limit_bytes } => {
                write!(f, "objects of {object_bytes} bytes; 1 to {limit_bytes} are possible")
            }
            CacheError::BadAlign { align_bytes } => {
                write!(f, "alignment {align_bytes} is not a power of two up to a page")
            }
            CacheError::TooFewWords { needed, given } => {
                write!(f, "{needed} words are needed, {given} were supplied")
            }
            CacheError::TooManyCaches => write!(f, "the table has numbered 4094 caches already"),
        }
    }
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllocError::NoFrames(e) => write!(f, "no frames for a slab: {e}"),
            AllocError::NoRecord { slabs } => write!(f, "all {slabs} records of slabs are in use"),
            AllocError::BadFrames { start, order, table } => {
                write!(
                    f,
                    "the frame allocator gave {start} of {order}, not a free block of {table}"
                )
            }
        }
    }
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FreeError::Stranger { addr } => write!(f, "no slab has an object at {addr}"),
            FreeError::Interior { addr, base } => {
                write!(f, "{addr} lies inside the object at {base}: free that")
            }
            FreeError::Twice { addr } => write!(f, "the object at {addr} is nobody's"),
            FreeError::WrongCache { addr, cache } => {
                write!(f, "the object at {addr} is one of cache {cache}")
            }
        }
    }
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} objects of the cache are still owned", self.objects)
    }
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfinished { slab } => write!(f, "slab {slab} is between two states"),
            Self::Misplaced { slab, base } => {
                write!(f, "slab {slab} begins at {base}, where none can be")
            }
            Self::Lost { slab, pfn } => write!(f, "{pfn} of slab {slab} does not lead to it"),
            Self::Dangling { pfn, bits } => write!(f, "{pfn} leads nowhere: {bits:#x}"),
            Self::Occupancy { slab, word, bits } => {
                write!(f, "word {word} of slab {slab} cannot be {bits:#x}")
            }
            Self::Hint { slab } => write!(f, "no hint leads to slab {slab}, which has room"),
            Self::Rounds { rounds, max } => write!(f, "{rounds} rounds in magazines for {max}"),
        }
    }
}

impl core::error::Error for CacheError {}
impl core::error::Error for AllocError {}
impl core::error::Error for FreeError {}
impl core::error::Error for InUse {}
impl core::error::Error for VerifyError {}
