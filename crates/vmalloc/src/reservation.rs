//! Reserve and fill later: addresses now, memory for parts of them when it is wanted.
//!
//! ```text
//!   Pool::reserve ─▶ Reservation   no frame, nothing of the pool's budget
//!     commit(range)                zeroed frames there, charged
//!     slice(range), slice_mut      over what is committed, also where two parts meet
//!     decommit(range)              frames back to the system; the addresses stay
//! ```
//!
//! The addresses are this process's own (`os/place.rs`), so they may be more than the pool has.
//! Each part is an area of the pool: it counts against limit and quota, stands in the listing, and
//! is found by recovery when its member dies at whatever moment. Slices borrow the reservation, so
//! none outlives its part; what is not committed is an error, and never a signal.
//!
//! Linux: `get_vm_area` and `VM_SPARSE`, where the caller brings the pages. The engine has commit
//! for machines with page tables.

use crate::buf::Buf;
use crate::error::AllocError;
use crate::os::PAGE_BYTES;
use crate::os::place::{NotShown, Place};
use crate::pool::Pool;
use crate::stitch::StitchError;
use std::fmt;
use std::ops::Range;
use vmalloc_core::Request;

const PAGE: usize = PAGE_BYTES as usize;

/// Addresses of this process that hold nothing until parts of them are committed. Dropping it frees
/// what is.
pub struct Reservation {
    pool: Pool,
    place: Place<Buf>,
}

/// Why nothing was reserved.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReserveError {
    /// No bytes were asked for, or more than there are addresses.
    Size {
        /// How many.
        bytes: usize,
    },
    /// No addresses.
    Map(StitchError),
}

/// Why nothing was committed. Everything is as it was, but after [`CommitError::Map`] with
/// [`StitchError::Os`] the reservation is lost: see [`CommitError::Lost`].
#[derive(Debug)]
#[non_exhaustive]
pub enum CommitError {
    /// The range is empty, or not whole pages of the reservation.
    Range(BadRange),
    /// A byte of it is committed already.
    Committed {
        /// The first one.
        at: usize,
    },
    /// No memory.
    Alloc(AllocError),
    /// The memory could not be shown there.
    Map(StitchError),
    /// The system refused a mapping before, so it is not known what is at these addresses now. What
    /// is committed stays good; make another reservation.
    Lost,
}

/// Why nothing was decommitted.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DecommitError {
    /// The range is empty, or not whole pages of the reservation.
    Range(BadRange),
    /// The range ends inside what one call committed, which goes as a whole or not at all.
    Torn {
        /// The bytes of that part.
        part: Range<usize>,
    },
}

/// A range that is empty or not whole pages, or that passes the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadRange {
    /// The range.
    pub range: Range<usize>,
    /// How many bytes the reservation has.
    pub len: usize,
}

/// A byte of the range that was asked for is not committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotCommitted {
    /// The range.
    pub range: Range<usize>,
    /// The first byte of it that is not committed.
    pub at: usize,
}

impl Pool {
    /// Reserves addresses for `bytes` bytes, rounded up to pages, and no memory. They may be more
    /// than the pool can hold.
    ///
    /// # Errors
    ///
    /// [`ReserveError`]; nothing was reserved.
    ///
    /// # Examples
    ///
    /// ```
    /// # use vmalloc::Pool;
    /// let pool = Pool::create(16 << 20)?;
    /// let mut table = pool.reserve(1 << 30)?;
    /// table.commit(4096..3 * 4096)?;
    /// table.slice_mut(5000..5005)?.copy_from_slice(b"hello");
    /// assert_eq!(table.slice(0..1).unwrap_err().at, 0);
    /// table.decommit(4096..3 * 4096)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserve(&self, bytes: usize) -> Result<Reservation, ReserveError> {
        let whole = bytes.checked_next_multiple_of(PAGE).filter(|whole| *whole > 0);
        let whole = whole.ok_or(ReserveError::Size { bytes })?;
        let place = Place::new(whole).map_err(|e| ReserveError::Map(e.into()))?;
        Ok(Reservation { pool: self.clone(), place })
    }
}

impl Reservation {
    /// Bytes, committed or not: whole pages.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it has a page at least")]
    pub fn len(&self) -> usize {
        self.place.len()
    }

    /// The parts that are committed, in order, each as one call committed it.
    pub fn committed(&self) -> impl Iterator<Item = Range<usize>> {
        self.place.parts(0..self.len())
    }

    /// Puts zeroed memory of the pool behind `range`, which is whole pages and holds none. Takes two
    /// VMAs of this process, from the budget of stitched views.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; nothing was committed.
    pub fn commit(&mut self, range: Range<usize>) -> Result<(), CommitError> {
        self.check(&range).map_err(CommitError::Range)?;
        if let Some(part) = self.place.parts(range.clone()).next() {
            return Err(CommitError::Committed { at: part.start.max(range.start) });
        }
        let request = Request::bytes(range.len() as u64).zeroed();
        let buf = self.pool.alloc(&request).map_err(CommitError::Alloc)?;
        let ground = &self.pool.member().ground;
        let no_runs = CommitError::Map(StitchError::Empty);
        let runs = ground.runs_in_file(buf.span()).ok_or(no_runs)?;
        let shown = self.place.show(ground.mapping.file(), range.start, &runs, buf);
        shown.map_err(|NotShown { error, keep }| {
            drop(keep);
            error.map_or(CommitError::Lost, |e| CommitError::Map(e.into()))
        })
    }

    /// Gives the memory of all that was committed in `range` back; what holds none is passed over.
    /// The frames go to the system at once, but for the first page of each part, which is parked as
    /// whatever is freed, for the next allocation or purge.
    ///
    /// # Errors
    ///
    /// [`DecommitError`]; nothing was decommitted.
    pub fn decommit(&mut self, range: Range<usize>) -> Result<(), DecommitError> {
        self.check(&range).map_err(DecommitError::Range)?;
        let parts: Vec<_> = self.place.parts(range.clone()).collect();
        let is_torn = |part: &&Range<usize>| part.start < range.start || part.end > range.end;
        if let Some(part) = parts.iter().find(is_torn) {
            return Err(DecommitError::Torn { part: part.clone() });
        }
        for mut buf in parts.iter().filter_map(|part| self.place.clear(part.start)) {
            // If it keeps its size, all of it is parked.
            let _ = buf.resize(PAGE);
        }
        Ok(())
    }

    /// The bytes of `range`, all committed.
    ///
    /// # Errors
    ///
    /// [`NotCommitted`]: the first byte that is not, or that is none of the reservation's.
    pub fn slice(&self, range: Range<usize>) -> Result<&[u8], NotCommitted> {
        self.place.bytes(range.clone()).map_err(|at| NotCommitted { range, at })
    }

    /// The bytes of `range`, all committed, to write in.
    ///
    /// # Errors
    ///
    /// [`NotCommitted`], as of [`Reservation::slice`].
    pub fn slice_mut(&mut self, range: Range<usize>) -> Result<&mut [u8], NotCommitted> {
        self.place.bytes_mut(range.clone()).map_err(|at| NotCommitted { range, at })
    }

    fn check(&self, range: &Range<usize>) -> Result<(), BadRange> {
        let len = self.len();
        let is_whole = range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE);
        if is_whole && range.start < range.end && range.end <= len {
            return Ok(());
        }
        Err(BadRange { range: range.clone(), len })
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.committed().collect();
        f.debug_struct("Reservation")
            .field("bytes", &self.len())
            .field("committed", &parts)
            .finish()
    }
}

impl fmt::Display for BadRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BadRange { range, len } = self;
        write!(f, "bytes {range:?} are not whole pages of a reservation of {len} bytes")
    }
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReserveError::Size { bytes } => write!(f, "{bytes} bytes cannot be reserved"),
            ReserveError::Map(e) => write!(f, "{e}"),
        }
    }
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommitError::Range(e) => write!(f, "{e}"),
            CommitError::Committed { at } => write!(f, "byte {at} is committed already"),
            CommitError::Alloc(e) => write!(f, "{e}"),
            CommitError::Map(e) => write!(f, "{e}"),
            CommitError::Lost => write!(f, "a mapping failed before: make another reservation"),
        }
    }
}

impl fmt::Display for DecommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecommitError::Range(e) => write!(f, "{e}"),
            DecommitError::Torn { part } => {
                write!(f, "bytes {part:?} were committed at once, and go at once")
            }
        }
    }
}

impl fmt::Display for NotCommitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} of {:?} is not committed", self.at, self.range)
    }
}

impl std::error::Error for BadRange {}
impl std::error::Error for ReserveError {}
impl std::error::Error for CommitError {}
impl std::error::Error for DecommitError {}
impl std::error::Error for NotCommitted {}
