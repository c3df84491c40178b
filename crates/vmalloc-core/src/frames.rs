//! The frames of a machine: which are free, and who gets them. A buddy system for many CPUs.
//!
//! One bit a frame, in atomic words, is the whole truth: 1 is free, 0 is not. **One CAS decides
//! who owns a frame**; nothing is linked, nothing is locked. A block of order 6 or less is one
//! CAS in one word; larger ones claim word after word and put all back if they lose one. Since a
//! block is free when its bits are, coalescing is not a step: giving back sets bits, and the
//! larger block is there.
//!
//! ```text
//!  words   header │ lanes, 16 of 8 │ bits, 8 a block      │ some      │ whole
//!          shape  │ count, cursors │ 1 = free             │ 1 a block │ 1 a block
//!          read   │ hint           │ ▲ the truth          │ hint      │ hint
//!          once   │                │                      │           │
//!  take, order 0..=8    cursor ─▶ partly used block ─▶ whole block ─▶ any block ─┐ none: hints
//!  take, order 9..=18   lowest aligned run of whole blocks ──────────────────────┤ from the bits,
//!  take_bulk            whole blocks ─▶ small rest ─▶ every piece, largest first ┘ once more
//!  give                 set the bits ─▶ a word became full, or was empty: fix the block's hints
//! ```
//!
//! A *block* here is the 512 frames of an aligned 2 MiB, whose bits are one cache line. `some`
//! says which blocks have a free frame and `whole` which are wholly free, so small orders can go
//! to blocks that are used already and whole ones stay whole. They are written only when a block
//! changes between empty, part and whole, and always by looking at the bits again, so that two
//! CPUs that race, or a process that died halfway, leave nothing that the next look does not
//! mend. A *lane* is a cache line for the CPUs that share it: its part of the free count, and
//! where it found frames last, a block for each small order, which other lanes avoid.
//!
//! Invariants: a frame has one owner, whatever the hints say; a bit outside the pool is never
//! handed out, whatever the words say; a claim that fails leaves every bit as it was; when nobody
//! is at work, hints and count agree with the bits unless a process died or wrote rubbish, and
//! [`Buddy::rebuild`] mends that too.
//!
//! All state is in words that the caller brings: a kernel's pages, or memory that processes
//! share. A [`Buddy`] is only a checked view of them, so any number may work at once.
//!
//! Neighbours: called through [`crate::platform::Frames`]; knows no mapping and touches no frame.
//! Linux: `mm/page_alloc.c` (`struct zone`, `free_area`, the per-CPU page lists). Ours differs as
//! LLFree (ATC'23) does: no lists, no zone lock, no struct page. Unlike LLFree's, our block hints
//! are not counters but two bits derived from the bits each time, which costs no atomic step on
//! most calls.
//!
//! ```
//! use vmalloc_core::frames::Buddy;
//! use vmalloc_core::platform::Frames;
//! use vmalloc_core::sync::AtomicU64;
//! use vmalloc_core::{Extent, Order, Pages, Pfn};
//!
//! let words: Vec<AtomicU64> =
//!     (0..Buddy::words_needed(Pages(1000))).map(|_| AtomicU64::new(0)).collect();
//! let buddy = Buddy::format(&words, Pfn(3), Pages(1000)).unwrap(); // frames 3..1003
//! let block = buddy.take(Order(4)).unwrap();
//! assert_eq!(block.0 % 16, 0);
//! assert_eq!(buddy.free(), Pages(984));
//! buddy.give(Extent { start: block, len: Pages(16) });
//! assert_eq!(buddy.free(), Pages(1000));
//! ```

mod bulk;
mod check;
mod claim;
mod hints;
mod layout;
mod nodes;

pub use check::{BuddyStats, Hint, VerifyError};
pub use layout::{FormatError, OpenError};

use crate::platform::{Frames, NoFrames};
use crate::policy::{FramePolicy, NodeId, PolicyError};
use crate::sync::{AtomicU64, Ordering};
use crate::units::{Extent, ORDER_MAX, Order, Pages, Pfn};
use core::fmt;
use core::ops::{ControlFlow, Range};
use layout::Shape;

/// The highest order that one word of bits holds: 64 frames.
const WORD_ORDER: Order = Order(6);
/// The order of a block, whose bits are one cache line: 512 frames, 2 MiB.
const BLOCK_ORDER: Order = Order(9);
/// The words of bits of a block.
const BLOCK_WORDS: usize = 8;
/// A word whose 64 frames are all free.
const FULL: u64 = u64::MAX;

/// How many partly used blocks a small order of more than one frame tries before it breaks a
/// whole one. Fewer: more broken blocks. More: slower in a pool of crumbs.
const PARTLY_TRIES: usize = 16;

/// The page frame allocator: a view of the words that hold its state.
///
/// Cheap to copy. Views of the same words, in any process and on any CPU, work together.
/// [`Buddy::on_cpu`] gives each CPU a view of its own, so that they keep out of each other's
/// cache lines. Linux: `struct zone`.
#[derive(Clone, Copy)]
pub struct Buddy<'a> {
    // Constant: checked once, and never read from the words again.
    shape: Shape,
    lane: usize,
    // The truth. Written by every take and give.
    bits: &'a [AtomicU64],
    // Hints. Written when a block turns empty, partly free or wholly free.
    some: &'a [AtomicU64],
    whole: &'a [AtomicU64],
    // Hints. Written by every take and give, a cache line a lane.
    lanes: &'a [AtomicU64],
    // Written once, by `format`.
    header: &'a [AtomicU64],
    // Constant: the view's own.
    nodes: &'a [Extent],
}

impl<'a> Buddy<'a> {
    /// The same allocator, as CPU number `cpu` should use it. Any number is right; different
    /// numbers, up to 16, only spread the work. Free.
    #[must_use]
    pub fn on_cpu(mut self, cpu: usize) -> Buddy<'a> {
        self.lane = cpu % layout::LANES;
        self
    }

    /// All the frames of the pool, free or not. Free of cost.
    #[must_use]
    pub fn extent(&self) -> Extent {
        Extent { start: Pfn(self.shape.first), len: Pages(self.shape.len()) }
    }

    /// Whether `pfn` is a frame of this pool and free now. One load.
    ///
    /// Under concurrent calls the answer may be old by the time it arrives. Linux: `PageBuddy`.
    #[must_use]
    pub fn is_free(&self, pfn: Pfn) -> bool {
        self.shape.holds(Extent { start: pfn, len: Pages(1) }) && {
            let (word, bit) = self.shape.place(pfn);
            self.load(word) >> bit & 1 == 1
        }
    }

    /// Which of the words are the bits, the only ones that matter: the words before them are
    /// the header and hints, those after them hints. For recovery and for tests.
    #[must_use]
    pub fn bit_words(&self) -> Range<usize> {
        let from = self.header.len() + self.lanes.len();
        from..from + self.bits.len()
    }

    /// A block of `order` 0 to 8, by the hints alone: where this lane found the last one, in a
    /// few used blocks, or in a whole one.
    fn take_near(&self, order: Order) -> Option<Pfn> {
        let cursor = self.cursor(order);
        // Relaxed here and below: a cursor is a hint, and `slot` checks it.
        let here = self.shape.slot(cursor.load(Ordering::Relaxed));
        if let Some(slot) = here
            && let Some(pfn) = self.claim_in_block(slot, order)
        {
            return Some(pfn);
        }
        let try_in = |slot: usize| {
            cursor.store(slot as u64, Ordering::Relaxed);
            self.claim_in_block(slot, order)
        };

        // Used blocks first, so that whole ones stay whole; not those where other lanes work.
        let mut tries_left = PARTLY_TRIES;
        let partly = |some: u64, whole: u64| some & !whole;
        let found = self.each_block(here.unwrap_or(self.shape.skip()), partly, |slot| {
            if self.is_cursor_of_another_lane(slot) {
                return ControlFlow::Continue(());
            }
            if tries_left == 0 {
                return ControlFlow::Break(None);
            }
            tries_left -= 1;
            try_in(slot).map_or(ControlFlow::Continue(()), |pfn| ControlFlow::Break(Some(pfn)))
        });
        if let Some(Some(pfn)) = found {
            return Some(pfn);
        }

        // Then the lowest whole one.
        let whole = |_: u64, whole: u64| whole;
        self.each_block(self.shape.skip(), whole, |slot| {
            if self.is_cursor_of_another_lane(slot) {
                return ControlFlow::Continue(());
            }
            try_in(slot).map_or(ControlFlow::Continue(()), ControlFlow::Break)
        })
    }

    /// A block of `order` 0 to 8, by the hints alone: near, or else anywhere.
    fn take_small(&self, order: Order) -> Option<Pfn> {
        self.take_near(order).or_else(|| {
            self.each_block(
                self.shape.skip(),
                |some, _| some,
                |slot| {
                    self.cursor(order).store(slot as u64, Ordering::Relaxed);
                    self.claim_in_block(slot, order)
                        .map_or(ControlFlow::Continue(()), ControlFlow::Break)
                },
            )
        })
    }

    /// The lowest block of `order` 9 to 18, by the hints alone.
    fn take_large(&self, order: Order) -> Option<Pfn> {
        self.each_whole_run(order, |slot| match self.claim_blocks(slot, order) {
            Some(pfn) => ControlFlow::Break(pfn),
            None => ControlFlow::Continue(()),
        })
    }

    /// A block of `order`, by the hints alone.
    fn take_hinted(&self, order: Order) -> Option<Pfn> {
        if order < BLOCK_ORDER { self.take_small(order) } else { self.take_large(order) }
    }
}

impl Frames for Buddy<'_> {
    /// Takes one block of 2^`order` frames, naturally aligned: pfn % 2^`order` is 0.
    ///
    /// Orders 0 to 6 are one atomic step in one word and another on the lane's count, when the
    /// block that this lane used last has such a piece; orders above 6 one step for each 64
    /// frames. Before it fails it reads every bit of the pool (a cache line for each 2 MiB) and
    /// mends the hints by it. Never waits for another CPU.
    ///
    /// While calls run at once, frames that another call is about to put back, having lost a
    /// race for a larger block, count as taken. Linux: `alloc_pages`.
    ///
    /// # Errors
    ///
    /// [`NoFrames`]: no such block is free, or `order` is above [`ORDER_MAX`]. Nothing was taken.
    fn take(&self, order: Order) -> Result<Pfn, NoFrames> {
        if order <= ORDER_MAX {
            if let Some(pfn) = self.take_hinted(order) {
                return Ok(pfn);
            }
            self.refresh_all();
            if let Some(pfn) = self.take_hinted(order) {
                return Ok(pfn);
            }
        }
        let wanted = Pages(1u64.checked_shl(u32::from(order.0)).unwrap_or(u64::MAX));
        Err(NoFrames { wanted, free: self.free() })
    }

    /// Takes up to `want` frames as extents, the largest blocks first, and writes them to `out`
    /// in ascending order, neighbours merged. Returns how many extents it wrote.
    ///
    /// 64 frames an atomic step while blocks are wholly free, and in used ones all the pieces of
    /// one size in a word by one step. A rest of less than 512 frames comes out of used blocks if
    /// these have pieces as large as the rest. "Largest first" is exact for whole blocks while
    /// the hints are fresh; pieces of blocks are looked for in 64 blocks a size, and one more for
    /// each 64 frames wanted. So extents may be smaller than they could be, but no free frame is
    /// missed. Before it brings less than it was asked for it reads every bit, as `take` does.
    /// Linux: `alloc_pages_bulk`, which knows order 0 only.
    fn take_bulk(&self, want: Pages, out: &mut [Extent]) -> usize {
        let mut got = bulk::Gather::new(want, out);
        self.gather(&mut got);
        if !got.is_done() {
            self.refresh_all();
            self.gather(&mut got);
        }
        got.finish()
    }

    /// Gives back any run of frames that were taken, in whole or in part, whatever the calls
    /// that took them; an empty run is nothing. Free neighbours coalesce by being neighbours.
    ///
    /// One atomic step for each 64 frames and one on the lane's count. Never waits, never
    /// allocates, legal with interrupts off. Linux: `free_pages`.
    ///
    /// # Panics
    ///
    /// If a frame of the run is not one of this pool's, or is free already. Nothing was given
    /// then, unless another call gave the same frame at the same time.
    fn give(&self, run: Extent) {
        assert!(
            self.shape.holds(run),
            "give of {} from {}: not all in the pool, {}",
            run.len,
            run.start,
            self.extent()
        );
        if let Err(free) = self.release(run) {
            panic!("give of {run}: {free} is free already");
        }
    }

    /// How many frames are free now: the sum of 16 counts. May lag behind concurrent calls, and
    /// after a process died in the middle of one be off until [`Buddy::rebuild`].
    fn free(&self) -> Pages {
        Pages((self.counted() as i64).clamp(0, self.shape.len() as i64) as u64)
    }

    /// As [`Frames::take_bulk`], in the ranges that the policy allows: see
    /// [`Buddy::with_nodes`].
    fn take_where(
        &self,
        policy: FramePolicy,
        want: Pages,
        out: &mut [Extent],
    ) -> Result<usize, PolicyError> {
        self.bulk_where(policy, want, out)
    }

    fn reach(&self, policy: FramePolicy) -> Result<Pages, PolicyError> {
        self.total_where(policy)
    }

    fn node_of(&self, pfn: Pfn) -> Option<NodeId> {
        self.node_with(pfn)
    }

    /// How many frames there are in all. Free of cost.
    fn total(&self) -> Pages {
        Pages(self.shape.len())
    }
}

impl fmt::Debug for Buddy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buddy({}, {} free)", self.extent(), self.free())
    }
}
