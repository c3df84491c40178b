//! Areas shown a second time, somewhere else: several as one, one twice in a row, one to write in
//! that nobody else sees.
//!
//! ```text
//!   Pool::stitch        frozen areas  ─▶ Stitched: one &[u8] over all of them
//!   Frozen::ring        one, twice    ─▶ Stitched
//!   Pool::stitch_shared shared areas  ─▶ SharedRun: atomics and copies
//!   Shared::ring        one, twice    ─▶ SharedRun: a copy may run over the end
//!   Frozen::snapshot    a frozen area ─▶ Snapshot: &mut [u8], pages copied when written
//!   Pool::exchange      buffers       ─▶ Buf: one area with the bytes of all, by copying
//! ```
//!
//! Nothing is copied but in the last, and no frame is taken. What is shown keeps its areas attached,
//! so they stay whatever others free. There is no view of a [`Buf`] beside the one it has: two
//! `&mut` to one byte cannot be had; freeze or share it first.
//!
//! Each run of pages is a VMA of this process, from a budget (`os/stitch.rs`): about eight are worth
//! it, for more [`Pool::exchange`] is the better way.

use crate::OutOfBounds;
use crate::buf::{Buf, Frozen, Shared};
use crate::error::{AllocError, AttachError, Source};
use crate::os::copy;
use crate::os::stitch::{Access, Stitch, StitchError as Mapping};
use crate::os::{PAGE_BYTES, Span};
use crate::pool::Pool;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicU64;

/// Frozen areas as one slice.
pub struct Stitched {
    // Before the areas: it shows their pages.
    stitch: Stitch,
    len: usize,
    areas: Vec<Frozen>,
}

/// Shared areas as one run of bytes, by atomics and copies.
pub struct SharedRun {
    // Before the areas: it shows their pages.
    stitch: Stitch,
    len: usize,
    areas: Vec<Shared>,
}

/// A frozen area to write in: what is written only this value sees. Pages that are written are
/// copied into memory of this process, which is not of the pool.
pub struct Snapshot {
    // Before the area: it shows its pages.
    stitch: Stitch,
    area: Frozen,
}

/// Why areas were not shown as one. Nothing is mapped, nothing attached.
#[derive(Debug)]
#[non_exhaustive]
pub enum StitchError {
    /// No areas were given.
    Empty,
    /// An area that is not the last has bytes that are not whole pages: there would be a gap.
    Ragged {
        /// Which one.
        piece: usize,
        /// Its bytes.
        bytes: usize,
    },
    /// An area could not be attached to once more: it was freed, or is another pool's.
    Attach {
        /// Which one.
        piece: usize,
        /// Why.
        error: AttachError,
    },
    /// The VMAs that stitched views, and runs of framed pools, may take are taken.
    Vmas {
        /// How many were wanted.
        wanted: usize,
        /// How many are taken.
        taken: usize,
        /// The most there can be: a quarter of `vm.max_map_count`.
        most: usize,
    },
    /// The operating system refused.
    Os(Source),
}

/// Buffers that were not made one, and why.
pub struct Unexchanged {
    /// The buffers, as they were.
    pub bufs: Vec<Buf>,
    /// The reason.
    pub error: AllocError,
}

impl Pool {
    /// Shows frozen areas as one slice, in the order given; one may be there several times. All but
    /// the last must be whole pages long.
    ///
    /// # Errors
    ///
    /// [`StitchError`].
    pub fn stitch(&self, pieces: &[&Frozen]) -> Result<Stitched, StitchError> {
        let spans = pieces.iter().map(|piece| piece.span());
        let (runs, len) = runs(spans)?;
        let again = |(piece, frozen): (usize, &&Frozen)| {
            self.attach(&frozen.token()).map_err(|error| StitchError::Attach { piece, error })
        };
        let areas = pieces.iter().enumerate().map(again).collect::<Result<_, _>>()?;
        let stitch = self.map(&runs, Access::Read)?;
        Ok(Stitched { stitch, len, areas })
    }

    /// Shows shared areas as one run of bytes, in the order given; one may be there several times.
    /// All but the last must be whole pages long. What they grow by later is not shown.
    ///
    /// # Errors
    ///
    /// [`StitchError`].
    pub fn stitch_shared(&self, pieces: &[&Shared]) -> Result<SharedRun, StitchError> {
        let spans = pieces.iter().map(|piece| piece.span());
        let (runs, len) = runs(spans)?;
        let again = |(piece, shared): (usize, &&Shared)| {
            self.attach_shared(&shared.token())
                .map_err(|error| StitchError::Attach { piece, error })
        };
        let areas = pieces.iter().enumerate().map(again).collect::<Result<_, _>>()?;
        let stitch = self.map(&runs, Access::Shared)?;
        Ok(SharedRun { stitch, len, areas })
    }

    /// Makes one buffer with the bytes of all, in the order given, and frees them: for buffers that
    /// are in too many pieces to be stitched. Copies, so the pool needs room for both for a moment;
    /// the pieces' frames then go back to the system.
    ///
    /// # Errors
    ///
    /// [`Unexchanged`] gives the buffers back, as they were. Without room for both its error says how
    /// many pages were wanted and how many are free.
    pub fn exchange(&self, bufs: Vec<Buf>) -> Result<Buf, Unexchanged> {
        let total = bufs.iter().fold(0_usize, |sum, buf| sum.saturating_add(buf.len()));
        let mut whole = match self.vmalloc(total) {
            Ok(whole) => whole,
            Err(error) => return Err(Unexchanged { bufs, error }),
        };
        let mut rest = &mut whole[..];
        for buf in &bufs {
            let (piece, behind) = rest.split_at_mut(buf.len());
            piece.copy_from_slice(buf);
            rest = behind;
        }
        drop(bufs);
        // What cannot be given back now stays parked.
        let _ = self.purge();
        Ok(whole)
    }

    fn map(&self, runs: &[Span], access: Access) -> Result<Stitch, StitchError> {
        let ground = &self.member().ground;
        let in_file = runs.iter().map(|run| ground.runs_in_file(*run));
        let in_file = in_file.collect::<Option<Vec<_>>>().ok_or(Mapping::Runs)?.concat();
        Ok(Stitch::new(ground.mapping.file(), &in_file, access)?)
    }
}

impl From<Mapping> for StitchError {
    fn from(error: Mapping) -> StitchError {
        match error {
            Mapping::Budget { wanted, taken, most } => StitchError::Vmas { wanted, taken, most },
            e => StitchError::Os(Box::new(e)),
        }
    }
}

impl Frozen {
    /// Shows the area twice in a row, so that what runs over its end goes on at its beginning: a
    /// ring. It must be whole pages long.
    ///
    /// # Errors
    ///
    /// [`StitchError`].
    pub fn ring(&self) -> Result<Stitched, StitchError> {
        self.pool().stitch(&[self, self])
    }

    /// Shows the area once more, to write in: pages that are written are copied first, so nobody
    /// else sees it. Costs no copy and no frame until then; since a frozen area is never written,
    /// what was not written here stays as it is, too.
    ///
    /// The copies are ordinary memory of this process, outside the pool's budget.
    ///
    /// # Errors
    ///
    /// [`StitchError`].
    pub fn snapshot(&self) -> Result<Snapshot, StitchError> {
        let pool = self.pool();
        let attached = pool.attach(&self.token());
        let area = attached.map_err(|error| StitchError::Attach { piece: 0, error })?;
        let (runs, _) = runs(std::iter::once(self.span()))?;
        Ok(Snapshot { stitch: pool.map(&runs, Access::Private)?, area })
    }
}

impl Shared {
    /// Shows the area twice in a row: a ring, whose copies may run over the end of the area. It must
    /// be whole pages long.
    ///
    /// # Errors
    ///
    /// [`StitchError`].
    pub fn ring(&self) -> Result<SharedRun, StitchError> {
        self.pool().stitch_shared(&[self, self])
    }

    /// Copies what the area holds now into a buffer. Others may write meanwhile, and a mapping that
    /// copies on write would show it: so this one copies at once. Words arrive whole, no more.
    ///
    /// # Errors
    ///
    /// [`AllocError`].
    pub fn snapshot(&self) -> Result<Buf, AllocError> {
        let mut copy = self.pool().vmalloc(self.len())?;
        copy::copy_out(self.all_words(), 0, &mut copy);
        Ok(copy)
    }
}

/// Whole pages of each, and how many bytes are wanted of all.
fn runs(spans: impl Iterator<Item = Span>) -> Result<(Vec<Span>, usize), StitchError> {
    let spans: Vec<Span> = spans.collect();
    let Some((last, others)) = spans.split_last() else { return Err(StitchError::Empty) };
    if let Some(piece) = others.iter().position(|span| !span.len.is_multiple_of(PAGE_BYTES)) {
        return Err(StitchError::Ragged { piece, bytes: spans[piece].len as usize });
    }
    let len = others.iter().map(|span| span.len).fold(last.len, u64::saturating_add);
    let whole = |span: &Span| Span::new(span.start, span.len.next_multiple_of(PAGE_BYTES));
    Ok((spans.iter().map(whole).collect(), len as usize))
}

impl Deref for Stitched {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        debug_assert!(!self.areas.is_empty());
        self.stitch.bytes(self.len)
    }
}

impl SharedRun {
    /// How many bytes, those shown twice counted twice.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: each area has a byte at least.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.areas.is_empty()
    }

    /// The bytes as 64-bit atomics, as many as there are whole ones. A word that is shown twice is
    /// one atomic at two addresses.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        &self.stitch.words()[..self.len / size_of::<u64>()]
    }

    /// Copies `bytes` in from byte `at` on. Others may see any part of it done before the rest.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was written.
    pub fn write_at(&self, at: usize, bytes: &[u8]) -> Result<(), OutOfBounds> {
        self.check(at, bytes.len())?;
        copy::copy_in(self.stitch.words(), at, bytes);
        Ok(())
    }

    /// Copies out from byte `at` on. What others write meanwhile may be there in part.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was read.
    pub fn read_at(&self, at: usize, out: &mut [u8]) -> Result<(), OutOfBounds> {
        self.check(at, out.len())?;
        copy::copy_out(self.stitch.words(), at, out);
        Ok(())
    }

    fn check(&self, at: usize, count: usize) -> Result<(), OutOfBounds> {
        match at.checked_add(count) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(OutOfBounds { at, count, len: self.len }),
        }
    }
}

impl Deref for Snapshot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.stitch.bytes(self.area.len())
    }
}

impl DerefMut for Snapshot {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.stitch.bytes_mut(self.area.len())
    }
}

impl fmt::Debug for Stitched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stitched({:?})", self.areas)
    }
}

impl fmt::Debug for SharedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedRun({:?})", self.areas)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({:?})", self.area)
    }
}

impl fmt::Debug for Unexchanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unexchanged").field("error", &self.error).finish_non_exhaustive()
    }
}

impl fmt::Display for StitchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StitchError::Empty => write!(f, "no areas to show"),
            StitchError::Ragged { piece, bytes } => {
                write!(f, "area {piece} has {bytes} bytes, not whole pages: there would be a gap")
            }
            StitchError::Attach { piece, error } => write!(f, "area {piece}: {error}"),
            StitchError::Vmas { wanted, taken, most } => write!(
                f,
                "{wanted} VMAs wanted, {taken} of {most} are taken by stitched views and runs of framed \
                 pools: drop some, or exchange the pieces for one area"
            ),
            StitchError::Os(e) => write!(f, "not mapped: {e}"),
        }
    }
}

impl fmt::Display for Unexchanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not exchanged: {}", self.error)
    }
}

impl std::error::Error for StitchError {}
impl std::error::Error for Unexchanged {}
