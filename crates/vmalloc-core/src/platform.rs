//! What a machine with page tables gives the engine: frames, a direct map, a mapper, TLBs.
//!
//! Small `&self` traits, cut from the engine's side, that a zero-sized type can implement. The
//! engine trusts none of them: frames are checked before they are used, and a mapper that maps
//! over a live mapping is an error, not a loss. A machine whose kernel does all this for us (the
//! linear window of the crate `vmalloc`) implements [`crate::machine::Machine`] instead.
//!
//! ```text
//!   Frames ─extents─▶ Mapper::map_run ─▶ Tlb::publish        alloc
//!   Mapper::unmap_run ─▶ Tlb::flush_all_cpus ─▶ Frames::give    purge
//! ```

use crate::policy::{FramePolicy, NodeId, PolicyError};
pub use crate::prot::{Cache, Prot, Rights};
use crate::sync::AtomicU64;
use crate::units::{Extent, Order, PAGE_SIZE, PageRange, Pages, Pfn, Vpn};
use core::fmt;

/// The number of 64-bit words in a frame.
pub const FRAME_WORDS: usize = PAGE_SIZE / 8;

/// Page frames, taken and given back. Linux: `alloc_pages`, `alloc_pages_bulk`, `free_pages`.
///
/// [`crate::frames::Buddy`] implements it; a kernel may bring its own.
pub trait Frames {
    /// Takes one block of 2^`order` frames, naturally aligned.
    ///
    /// # Errors
    ///
    /// [`NoFrames`]: no such block is free. Nothing was taken.
    fn take(&self, order: Order) -> Result<Pfn, NoFrames>;

    /// Takes up to `want` frames as extents, the largest blocks first, and writes them to `out`
    /// in ascending order, neighbours merged. Returns how many extents it wrote.
    ///
    /// May take fewer than `want`: because `out` is full, or because no more are free. Returning
    /// 0 means that none are free. What was written belongs to the caller.
    fn take_bulk(&self, want: Pages, out: &mut [Extent]) -> usize;

    /// As [`Frames::take_bulk`], of frames that `policy` allows.
    ///
    /// # Errors
    ///
    /// [`PolicyError`]: they can never be had. An allocator that does not say otherwise cannot
    /// choose, and refuses every policy but [`FramePolicy::ANY`].
    fn take_where(
        &self,
        policy: FramePolicy,
        want: Pages,
        out: &mut [Extent],
    ) -> Result<usize, PolicyError> {
        if policy.is_any() { Ok(self.take_bulk(want, out)) } else { Err(unsupported(policy)) }
    }

    /// How many frames `policy` allows, free or not.
    ///
    /// # Errors
    ///
    /// As [`Frames::take_where`].
    fn reach(&self, policy: FramePolicy) -> Result<Pages, PolicyError> {
        if policy.is_any() { Ok(self.total()) } else { Err(unsupported(policy)) }
    }

    /// The node of a frame, where there are nodes. Linux: `page_to_nid`.
    fn node_of(&self, pfn: Pfn) -> Option<NodeId> {
        let _ = pfn;
        None
    }

    /// Gives back any run of frames that were taken, in whole or in part, whatever the calls
    /// that took them. Free neighbours coalesce.
    ///
    /// # Panics
    ///
    /// If a frame of the run is not one of this allocator's, or is free already: the engine gives
    /// back only what it holds, so this is a bug of ours, and handing the frame out twice would
    /// be worse.
    fn give(&self, run: Extent);

    /// How many frames are free now. May lag behind concurrent calls.
    fn free(&self) -> Pages;

    /// How many frames there are in all.
    fn total(&self) -> Pages;
}

impl<F: Frames + ?Sized> Frames for &F {
    fn take(&self, order: Order) -> Result<Pfn, NoFrames> {
        (**self).take(order)
    }

    fn take_bulk(&self, want: Pages, out: &mut [Extent]) -> usize {
        (**self).take_bulk(want, out)
    }

    fn take_where(
        &self,
        policy: FramePolicy,
        want: Pages,
        out: &mut [Extent],
    ) -> Result<usize, PolicyError> {
        (**self).take_where(policy, want, out)
    }

    fn reach(&self, policy: FramePolicy) -> Result<Pages, PolicyError> {
        (**self).reach(policy)
    }

    fn node_of(&self, pfn: Pfn) -> Option<NodeId> {
        (**self).node_of(pfn)
    }

    fn give(&self, run: Extent) {
        (**self).give(run);
    }

    fn free(&self) -> Pages {
        (**self).free()
    }

    fn total(&self) -> Pages {
        (**self).total()
    }
}

const fn unsupported(policy: FramePolicy) -> PolicyError {
    PolicyError::Unsupported { policy }
}

/// The direct map: frames as words, for the engine's own metadata and for zeroing.
pub trait Ram {
    /// The words of frame `pfn`, which the engine has taken and maps nowhere.
    fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS];

    /// Fills the frames of `run` with zeros.
    fn zero(&self, run: Extent);

    /// How many frames of `run` are RAM, whoever owns them. What is no RAM is a device's: it may
    /// be shown ([`crate::Engine::vmap_pfn`]), and is never read or zeroed. Linux: `pfn_valid`.
    ///
    /// The default: all of them, so that nothing can be taken for a device's.
    fn ram_in(&self, run: Extent) -> Pages {
        run.len
    }

    /// The pages at which the direct map shows `run`, if the machine's [`Mapper`] can change their
    /// protection: then a protection that is asked for with [`crate::flags::RESET_PERMS`] holds
    /// there, too. The default: it cannot.
    fn direct(&self, run: Extent) -> Option<PageRange> {
        let _ = run;
        None
    }
}

/// Page tables. Linux: `vmap_pages_range`, `vunmap_range_noflush`, `vmalloc_to_pfn`.
///
/// The engine calls it for disjoint ranges from several CPUs at once.
pub trait Mapper {
    /// Makes every address space see whatever is later mapped in `window` (fills the top-level
    /// entries). Called once, before any other call.
    ///
    /// # Errors
    ///
    /// [`MapError::NoTable`].
    fn prepare(&self, window: PageRange) -> Result<(), MapError>;

    /// Maps the frames of `run` at the pages from `at` on, all or nothing. One walk a leaf
    /// table, not one a page. Needs no flush: the pages were invalid before. May use huge leaves
    /// where both sides are aligned; then it implements [`Mapper::split`], too.
    ///
    /// # Errors
    ///
    /// [`MapError`]; nothing was mapped then.
    fn map_run(&self, at: Vpn, run: Extent, prot: Prot) -> Result<(), MapError>;

    /// See [`Machine::user_align`](crate::Machine::user_align). Linux: `SHMLBA`.
    fn user_align(&self) -> Pages {
        Pages(1)
    }

    /// Makes every page of `at` invalid; pages that are not mapped are passed over. **Never
    /// flushes**: CPUs may go on using the old translations until [`Tlb::flush_all_cpus`].
    ///
    /// No huge leaf lies across an end of `at`: the engine calls [`Mapper::split`] first.
    fn unmap_run(&self, at: PageRange);

    /// Gives every page of `at` that is mapped the protection `prot`, in one step a page: a CPU
    /// sees the old one or the new one, never an invalid page. Pages that are not mapped are passed
    /// over. **Never flushes**, and needs no table; as for [`Mapper::unmap_run`], no huge leaf
    /// lies across an end of `at`. Linux: `change_page_attr`.
    fn protect_run(&self, at: PageRange, prot: Prot);

    /// If a huge leaf lies across the border before page `at`, puts smaller leaves in its place
    /// that show the same frames with the same protection. Owes no flush: translations stay true.
    ///
    /// The default is for a mapper that makes no huge leaves.
    ///
    /// # Errors
    ///
    /// [`MapError::NoTable`]; the leaf is as it was.
    fn split(&self, at: Vpn) -> Result<(), MapError> {
        let _ = at;
        Ok(())
    }

    /// The frame mapped at `at` and its protection, from the tables (not from any TLB).
    fn translate(&self, at: Vpn) -> Option<(Pfn, Prot)>;
}

/// Translation look-aside buffers. Linux: `flush_tlb_kernel_range`, `flush_cache_vmap`.
pub trait Tlb {
    /// Called after pages went from invalid to valid: some CPUs need a barrier then.
    fn publish(&self, at: PageRange);

    /// Returns when no CPU holds a translation for any page of `ranges`. May wait for other CPUs.
    fn flush_all_cpus(&self, ranges: &[PageRange]);

    /// Returns when the current CPU holds no translation for any page of `at`; the others may.
    /// Enough where no other CPU has used these pages. x86_64: `invlpg`.
    ///
    /// A machine that brings its own never waits here. The default asks all CPUs, so it may wait.
    fn flush_local(&self, at: PageRange) {
        self.flush_all_cpus(&[at]);
    }

    /// Whether this context may wait for other CPUs (not in an interrupt handler, say).
    fn may_wait(&self) -> bool;

    /// Waits a little, so that others can free something. Called only where waiting is allowed,
    /// for requests that must not fail. Linux: `schedule_timeout_uninterruptible(1)`.
    fn wait_for_others(&self) {
        crate::sync::spin_loop();
    }
}

/// No block of frames of the wanted size is free. Nothing was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoFrames {
    /// What was wanted.
    pub wanted: Pages,
    /// How many frames are free, in pieces that are too small.
    pub free: Pages,
}

/// Why [`Mapper::map_run`] or [`Mapper::prepare`] failed. Nothing was mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MapError {
    /// No frame for a page table on the way to `at`.
    NoTable {
        /// The page whose table is missing.
        at: Vpn,
    },
    /// `at` is mapped already, to `by`.
    Occupied {
        /// The page that is mapped.
        at: Vpn,
        /// The frame that it shows.
        by: Pfn,
    },
    /// The mappings that a process may have are all taken. More addresses would not help, nor would
    /// a purge: only what shows in fewer pieces, or the end of what is shown.
    NoVmas {
        /// How many were wanted.
        wanted: usize,
        /// How many are taken.
        taken: usize,
        /// The most there can be.
        most: usize,
    },
    /// The operating system refused to show the pages, or to make the guard page fault.
    Refused {
        /// Its error number.
        errno: i32,
    },
    /// This machine cannot show pages with such a protection, or change the one they have.
    Unsupported,
}

impl fmt::Display for NoFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no block of {} is free; {} are free in smaller pieces", self.wanted, self.free)
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapError::NoTable { at } => write!(f, "no frame for a page table on the way to {at}"),
            MapError::Occupied { at, by } => write!(f, "{at} is mapped already, to {by}"),
            MapError::NoVmas { wanted, taken, most } => {
                write!(f, "{wanted} mappings wanted, {taken} of {most} are taken")
            }
            MapError::Refused { errno } => {
                write!(f, "the operating system refused (error {errno})")
            }
            MapError::Unsupported => write!(f, "this machine cannot protect pages that way"),
        }
    }
}

impl core::error::Error for NoFrames {}
impl core::error::Error for MapError {}
