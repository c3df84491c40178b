//! What the engine asks of a machine, one method a stage of the walk.
//!
//! Two kinds of machine answer. Where we write page tables, [`crate::paged::Paged`] puts the
//! small traits of [`crate::platform`] behind this one: frames from a pool, stitched by a mapper,
//! shot down in TLBs. Where the kernel does all that, as with the linear window of the crate
//! `vmalloc`, a reservation is backed *in place*: `back` commits a range of a sparse file, `map`
//! has nothing to map, and `flush` punches the range out again.
//!
//! ```text
//!             back        map          publish   │  unmap        flush            unback
//!   paged     frames      page tables  barrier   │  page tables  shootdown        frames home
//!   linear    fallocate   guard marker –         │  –            PUNCH_HOLE       budget
//! ```

use crate::platform::{MapError, Prot};
use crate::policy::{FramePolicy, NodeId, PolicyError};
use crate::sync::AtomicU64;
use crate::units::{Extent, PageRange, Pages, Pfn, Vpn};
use core::fmt;
use core::ops::Range;

/// The machine's word for what backs an area; the engine keeps it and never looks inside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Backing(pub u64);

/// A backing shown at pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// The record of the area.
    pub id: crate::AreaId,
    /// The pages that show it.
    pub pages: PageRange,
    /// Guard pages right behind them, which must fault.
    pub guard: Pages,
    /// All pages of the slot: `pages`, guard and what is left over.
    pub slot: PageRange,
    /// What is shown.
    pub backing: Backing,
    /// The rights.
    pub prot: Prot,
    /// The number of the reservation, new each time the slot's pages are given out afresh.
    pub birth: u64,
}

/// Where a thread (or CPU) counts what it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lane {
    /// Which of the member's [`crate::layout::LANES`] lanes; a number too high wraps around.
    pub index: usize,
    /// Whether nobody else counts in it: then counting takes no atomic step.
    pub is_mine: bool,
}

/// A machine, as the engine sees it. Pages are absolute: the window's start is in them.
pub trait Machine {
    /// Whether an area is attached to where it lies, by every member at its own base address;
    /// otherwise its backing is mapped a second time, at other pages.
    const IN_PLACE: bool;

    /// Whether `back` yields zeroed frames.
    const FRESH_IS_ZERO: bool;

    /// The largest alignment, in pages, that addresses can have in every member.
    const ALIGN_MAX: Pages;

    /// Whether an allocation may get a parked area of up to twice the pages it needs; the guard
    /// lies behind all of them then.
    const BORROWS: bool = false;

    /// How many frames there are in all. No request can be larger.
    fn capacity(&self) -> Pages;

    /// How many frames are given out, as the machine counts them. May lag.
    fn held(&self) -> Pages {
        Pages(self.capacity().0.saturating_sub(self.free().0))
    }

    /// Whether a parked area may be made longer or shorter for whoever wants another size: where
    /// frames come and go at the end of an area for less than a whole one costs.
    fn refits(&self) -> bool {
        false
    }

    /// The alignment at which an area may be shown at a second address too: one page, unless the
    /// data cache is indexed by the virtual address. A power of two. Linux: `SHMLBA`.
    fn user_align(&self) -> Pages {
        Pages(1)
    }

    /// Where areas in huge pages best begin, if there is room: so many pages apart, from this page of
    /// the window on. So none of them shares with another what the machine keeps for as many pages.
    fn huge_grid(&self) -> Option<PageRange> {
        None
    }

    /// How many frames are free. May lag.
    fn free(&self) -> Pages;

    /// The lane in which this thread (or CPU) counts, so that it writes no cache line that others
    /// write. The default: all in one.
    fn lane(&self) -> Lane {
        Lane { index: 0, is_mine: false }
    }

    /// Whether this context may wait: purge, yes; an interrupt handler, no.
    fn may_wait(&self) -> bool;

    /// Waits a little, so that others can free something. Called only where waiting is allowed,
    /// for requests that must not fail.
    fn wait_for_others(&self) {
        crate::sync::spin_loop();
    }

    /// Makes the engine's own words `words` usable. Idempotent. Called before the first use of
    /// words beyond [`crate::layout::Geometry::flat_words`].
    ///
    /// # Errors
    ///
    /// [`NoMetadata`].
    fn commit_words(&self, words: Range<usize>) -> Result<(), NoMetadata> {
        let _ = words;
        Ok(())
    }

    /// Finds frames for `pages`, of those that `policy` allows.
    ///
    /// # Errors
    ///
    /// [`BackError`]; nothing was taken.
    fn back(&self, pages: PageRange, policy: FramePolicy) -> Result<Backing, BackError>;

    /// The word that says which area, plus 1, shows frames of the caller's that begin with `first`,
    /// where the machine keeps such words. A hint: of any of the windows over the same frames, and
    /// of whoever wrote it last.
    fn shown_by(&self, first: Pfn) -> Option<&AtomicU64> {
        let _ = first;
        None
    }

    /// The pages of a backing with one user, if they show just these frames in this order. It may be
    /// anyone's, and gone: whoever asks looks afterwards whether it was his all the time.
    fn shows(&self, backing: Backing, frames: &[Extent]) -> Option<Pages> {
        let _ = (backing, frames);
        None
    }

    /// Makes a backing of frames that the caller owns and keeps.
    ///
    /// # Errors
    ///
    /// [`BackError`].
    fn adopt(&self, frames: &[Extent]) -> Result<Backing, BackError>;

    /// From here on `borrow` accepts the backing for tenant `generation` of its area. A machine
    /// whose members share areas in place has no use for it.
    fn offer(&self, backing: Backing, generation: u64) {
        let _ = (backing, generation);
    }

    /// Takes that back; those who have borrowed keep what they have. Idempotent.
    fn withdraw(&self, backing: Backing, generation: u64) {
        let _ = (backing, generation);
    }

    /// Counts one more user of a backing, and says how many pages it has.
    ///
    /// # Errors
    ///
    /// [`BackError::Gone`]: the word names no living backing, or none that is offered for
    /// `generation`.
    fn borrow(&self, backing: Backing, generation: u64) -> Result<Pages, BackError>;

    /// Whether the backing has one user only.
    fn is_exclusive(&self, backing: Backing) -> bool;

    /// How many frames come home when a backing of `pages` pages, which nobody uses any more, is
    /// given up: those that list its frames, too.
    fn would_free(&self, backing: Backing, pages: Pages) -> Pages {
        if self.is_exclusive(backing) { pages } else { Pages(0) }
    }

    /// Shows `view.backing` at `view.pages`, all or nothing, and makes the guard fault. A machine
    /// in place is asked again by each member that attaches or revives: idempotent there.
    ///
    /// # Errors
    ///
    /// [`MapError`]; nothing is mapped then, but a CPU may hold translations that were: the
    /// engine flushes.
    fn map(&self, view: &View) -> Result<(), MapError>;

    /// Finds frames for `more`, the pages right behind `view`, and adds them to its backing, which
    /// has no other user. The new word for the backing.
    ///
    /// # Errors
    ///
    /// [`BackError`]; the backing is as it was.
    fn extend(
        &self,
        view: &View,
        more: PageRange,
        policy: FramePolicy,
    ) -> Result<Backing, BackError>;

    /// Shows `more`, the last pages of `view`, and makes the guard behind them fault; with no
    /// pages in `more`, the guard alone.
    ///
    /// # Errors
    ///
    /// As [`Machine::map`].
    fn map_more(&self, view: &View, more: PageRange) -> Result<(), MapError>;

    /// Fills `more`, the last pages of `view`, with zeros.
    fn zero_more(&self, view: &View, more: PageRange);

    /// Keeps the first `pages` pages of the view's backing and sends the other frames home: they
    /// were never mapped, or have been flushed. The new word for the backing.
    fn truncate(&self, view: &View, pages: Pages) -> Backing;

    /// Called when pages have become valid, before anyone is told of them.
    fn publish(&self, pages: PageRange);

    /// Fills the pages with zeros.
    fn zero(&self, view: &View);

    /// Makes the border before page `at` one at which a later `unmap` may begin or end.
    ///
    /// # Errors
    ///
    /// [`MapError::NoTable`]; nothing has changed.
    fn split(&self, at: Vpn) -> Result<(), MapError> {
        let _ = at;
        Ok(())
    }

    /// Makes the pages invalid. Never flushes; idempotent.
    fn unmap(&self, pages: PageRange);

    /// Returns when no CPU of any member can reach what `ranges` showed. Idempotent.
    ///
    /// # Errors
    ///
    /// [`FlushError`]: the ranges may still be reachable, and stay parked.
    fn flush(&self, ranges: &[PageRange]) -> Result<(), FlushError>;

    /// Makes the frames of a backing writable again wherever they were protected beside its area.
    /// Waits. Called once the area's pages have been flushed, before [`Machine::unback`].
    fn reset_perms(&self, backing: Backing) {
        let _ = backing;
    }

    /// Sends home what was committed at `pages` of a reservation: unmaps, flushes, gives. Waits.
    fn decommit(&self, pages: PageRange) {
        let _ = pages;
    }

    /// Gives up one use of a backing; with the last one its frames go home. The engine calls it
    /// for a backing that was never mapped, or under a [`crate::flush::Flushed`] that covers it.
    fn unback(&self, pages: PageRange, backing: Backing);

    /// The node of the frame behind a page, where there are nodes.
    fn node_of(&self, page: Vpn) -> Option<NodeId> {
        let _ = page;
        None
    }

    /// The frame behind a page, where the machine knows it.
    fn translate(&self, page: Vpn) -> Option<(Pfn, Prot)>;

    /// Copies out of page `page` from byte `offset` on, without faulting; `out` ends within the
    /// page. `false`: nothing is mapped there, and `out` may hold anything.
    fn read(&self, page: Vpn, offset: usize, out: &mut [u8]) -> bool;

    /// Called when a dead member has been recovered: the machine's account of what it has given
    /// out may be wrong by what that member was doing. `held` counts it again: `None` while an
    /// area is between two states.
    fn recovered(&self, held: &dyn Fn() -> Option<Pages>) {
        let _ = held;
    }
}

/// The machine cannot supply memory for the engine's own words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMetadata {
    /// How many bytes were wanted.
    pub bytes: u64,
}

/// Why [`Machine::back`] and its kin failed. Nothing was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BackError {
    /// The pool has too few free frames.
    NoFrames {
        /// How many were wanted.
        wanted: Pages,
        /// How many are free.
        free: Pages,
    },
    /// The pool has them, but the machine itself is short of memory.
    MachineFull {
        /// How many were wanted.
        wanted: Pages,
        /// How many the machine can spare, its reserve kept.
        spare: Pages,
    },
    /// Too few of the frames that the policy allows are free.
    NoneAllowed {
        /// How many were wanted.
        wanted: Pages,
        /// The policy.
        policy: FramePolicy,
    },
    /// Frames under the request's policy can never be had here.
    Policy(PolicyError),
    /// Frames whose numbers are no machine's: past 2^40, where 4 PiB end.
    NoSuchFrames {
        /// The frames.
        run: Extent,
    },
    /// The operating system refused, for another reason than a lack of memory.
    Refused {
        /// Its error number.
        errno: i32,
    },
    /// No memory for the engine's own records of the frames.
    NoMetadata,
    /// Frames that are RAM, or some of them, where a device's are wanted.
    IsRam {
        /// The frames.
        run: Extent,
        /// How many of them are RAM.
        ram: Pages,
    },
    /// Frames that are no RAM, or some of them, where RAM is wanted.
    NotRam {
        /// The frames.
        run: Extent,
    },
    /// The backing lives no more.
    Gone,
    /// This machine has no frames to choose.
    Unsupported,
}

/// The machine could not take memory back. The ranges stay parked; a later purge tries again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlushError {
    /// The operating system's error number, or 0.
    pub errno: i32,
}

impl fmt::Display for NoMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no memory for {} bytes of records", self.bytes)
    }
}

impl fmt::Display for BackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackError::NoFrames { wanted, free } => {
                write!(f, "{wanted} wanted, {free} free in the pool")
            }
            BackError::MachineFull { wanted, spare } => {
                write!(f, "{wanted} wanted, the machine can spare {spare}")
            }
            BackError::NoneAllowed { wanted, policy } => {
                write!(f, "{wanted} wanted, fewer are free that would do: {policy}")
            }
            BackError::Policy(e) => write!(f, "{e}"),
            BackError::NoSuchFrames { run } => {
                write!(f, "{} from {} on are no machine's", run.len, run.start)
            }
            BackError::Refused { errno } => {
                write!(f, "the operating system refused (error {errno})")
            }
            BackError::IsRam { run, ram } => write!(f, "{ram} of {run} are RAM"),
            BackError::NotRam { run } => write!(f, "{run} is not RAM, or not all of it"),
            BackError::NoMetadata => write!(f, "no memory for the records of the frames"),
            BackError::Gone => write!(f, "the backing lives no more"),
            BackError::Unsupported => write!(f, "this machine has no frames to choose"),
        }
    }
}

impl fmt::Display for FlushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the machine could not take memory back (error {})", self.errno)
    }
}

impl core::error::Error for NoMetadata {}
impl core::error::Error for BackError {}
impl core::error::Error for FlushError {}
