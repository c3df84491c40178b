//! The operating system: the one folder of this crate that holds `unsafe`.
//!
//! What the layers above ask of Linux goes through here, and comes back as a safe type or as an
//! error that carries the call's `errno` and the values that were wrong.
//!
//! ```text
//!   file ──▶ PoolFile ──▶ map ──▶ Mapping ──claim──▶ view: ExclusiveView │ FrozenView │ SharedView
//!    ▲  │      │  ▲                │  │ words (metadata, atomics only)         data, by claim
//!    │  │      │  └── commit ◀─────┘  └─ advice: guards, huge pages, populate
//!  passing   locks     ▲         stitch: runs of the file at addresses of their own
//!                              shown: runs of frames in the window of a framed pool
//!  discover  life      memory ◀─ cgroup    bell · fork · pagemap · fail (every call may be told to fail)
//! ```
//!
//! `allocator` stands above all of it, and is here because an allocator's promise is `unsafe`.
//!
//! Invariants:
//! 1. A file that shrinks under a mapping kills its reader (SIGBUS), so only a sealed memfd, or a
//!    file on tmpfs that nobody but our own user can write, becomes a [`file::PoolFile`].
//! 2. A mapping has two parts: below its `words_bytes` (of a framed pool: in all of the file) only
//!    `&[AtomicU64]` ever exist; above it, only views, and each view holds a *claim* on its pages that excludes every other. So no
//!    code above can make two `&mut` to the same byte of a mapping, whatever the metadata in the
//!    pool (which other processes write) says: the second asker gets an error. Giving frames back
//!    takes a claim too.
//! 3. Memory is committed before it is touched, after a look at what the machine has left.
//!
//! What the claims cannot see is another process, or a second mapping of the same pool in this
//! one. A pool is one trust domain: the protocol above decides which member owns an area.
//!
//! Linux: `mm/shmem.c`, `mm/memfd.c`, `mm/madvise.c`, `fs/locks.c`, from the other side.

pub(crate) mod advice;
#[cfg(feature = "allocator-api2")]
pub(crate) mod allocator;
#[cfg(not(miri))]
pub(crate) mod anon;
#[cfg(miri)]
#[path = "anon/heap.rs"]
pub(crate) mod anon;
pub(crate) mod bell;
pub(crate) mod cgroup;
pub(crate) mod claims;
pub(crate) mod commit;
pub(crate) mod copy;
pub(crate) mod discover;
pub(crate) mod extents;
pub(crate) mod fail;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod keep;
pub(crate) mod life;
pub(crate) mod locks;
pub(crate) mod map;
pub(crate) mod memory;
pub(crate) mod numa;
pub(crate) mod open;
pub(crate) mod pagemap;
pub(crate) mod passing;
pub(crate) mod place;
mod poison;
pub(crate) mod seal;
pub(crate) mod shown;
pub(crate) mod stitch;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod view;

use std::fmt;

/// The page size this crate is built for. [`map::Mapping::new`] refuses a kernel with another.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// The size of a huge page.
pub(crate) const HUGE_BYTES: u64 = 2 << 20;
/// The alignment of the data in every member, and so the largest of an area. Linux's own test
/// module asks for as much.
pub(crate) const DATA_ALIGN_BYTES: u64 = 4 << 20;
const _: () = assert!(DATA_ALIGN_BYTES.is_multiple_of(HUGE_BYTES));

// Offsets and addresses are used interchangeably; a pool is larger than 32 bits can name.
const _: () = assert!(usize::BITS == 64);

/// A run of bytes of the pool file, or of its mapping, `start .. start + len`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Span {
    /// The first byte's offset there.
    pub start: u64,
    /// How many bytes.
    pub len: u64,
}

impl Span {
    /// The run of `len` bytes from offset `start`.
    pub(crate) const fn new(start: u64, len: u64) -> Span {
        Span { start, len }
    }

    /// The offset behind the last byte; `None` if it does not fit in a `u64`.
    pub(crate) const fn end(self) -> Option<u64> {
        self.start.checked_add(self.len)
    }

    /// Whether both ends are multiples of `align`, a power of two.
    pub(crate) const fn is_aligned(self, align: u64) -> bool {
        (self.start | self.len) & (align - 1) == 0
    }

    /// This run, if it is not empty and lies inside `0 .. limit`.
    ///
    /// # Errors
    ///
    /// [`RangeError`].
    pub(crate) fn within(self, limit: u64) -> Result<Span, RangeError> {
        match self.end() {
            Some(end) if self.len > 0 && end <= limit => Ok(self),
            _ => Err(RangeError::Outside { span: self, limit }),
        }
    }

    /// As [`Span::within`], and both ends are multiples of `align`, a power of two.
    ///
    /// # Errors
    ///
    /// [`RangeError`].
    pub(crate) fn within_aligned(self, limit: u64, align: u64) -> Result<Span, RangeError> {
        self.within(limit)?;
        if !self.is_aligned(align) {
            return Err(RangeError::Misaligned { span: self, align });
        }
        Ok(self)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x}", self.len, self.start)
    }
}

/// Why a run of bytes was refused. Nothing was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub(crate) enum RangeError {
    /// `span` is empty, wraps, or does not lie below `limit`.
    Outside { span: Span, limit: u64 },
    /// An end of `span` is not a multiple of `align` bytes.
    Misaligned { span: Span, align: u64 },
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RangeError::Outside { span, limit } => {
                write!(f, "{span} are not a run of bytes below {limit:#x}")
            }
            RangeError::Misaligned { span, align } => {
                write!(f, "{span} are not aligned to {align} bytes")
            }
        }
    }
}

impl std::error::Error for RangeError {}
