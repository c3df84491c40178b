//! The run mapper: several runs of the pool's file, one after the other, at addresses of their own.
//!
//! ```text
//!   reserve   ├───────────────────────────────┬─────┤   PROT_NONE, the last page stays so
//!   map       │ run 2 of the file │ run 7 │ run 2 │guard│   MAP_FIXED, ascending
//! ```
//!
//! The same run may be there twice. Each run is a VMA, and a process may have 65,530
//! (`vm.max_map_count`), beyond which every `mmap` fails, other libraries' too: so all stitched
//! views of this process together take a quarter at most ([`Budget`]), and runs that touch in the
//! file are mapped as one. The runs that a framed pool shows ([`crate::os::shown`]) are from the same
//! budget. Neither freeing nor purging ever needs an `mmap`.
//!
//! A mapping made here has no claims: whoever makes a view of it keeps, for as long, a view of each
//! run that excludes what it must exclude ([`crate::stitch`]).
//!
//! Measured (2 CPUs, Linux 6.18): 5 µs a run.

use crate::os::file::PoolFile;
use crate::os::{PAGE_BYTES, Span, fail};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::fmt;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// VMAs that stitched views of this process take, and runs of framed pools.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// What may be done with the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Loads.
    Read,
    /// Loads and stores that everybody sees.
    Shared,
    /// Loads, and stores that only this mapping sees: a page is copied at the first.
    Private,
}

/// Why nothing was mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub(crate) enum StitchError {
    /// There is no run, or one that is not whole pages of the file.
    Runs,
    /// The budget of VMAs is spent.
    Budget { wanted: usize, taken: usize, most: usize },
    /// The kernel refused.
    Os { call: &'static str, errno: Errno },
}

impl fmt::Display for StitchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StitchError::Runs => write!(f, "no run of whole pages"),
            StitchError::Budget { wanted, taken, most } => {
                write!(
                    f,
                    "{wanted} VMAs wanted, {taken} of {most} are taken by stitched views and runs \
                     of framed pools"
                )
            }
            StitchError::Os { call, errno } => write!(f, "{call}: {errno}"),
        }
    }
}

impl std::error::Error for StitchError {}

/// A share of the VMAs. Given back on drop.
#[derive(Debug)]
pub(in crate::os) struct Budget(usize);

impl Budget {
    pub(in crate::os) fn take(wanted: usize) -> Result<Budget, StitchError> {
        let most = vmas_max();
        let more = |taken: usize| taken.checked_add(wanted).filter(|sum| *sum <= most);
        // Relaxed: a number that guards no other memory.
        TAKEN
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map(|_| Budget(wanted))
            .map_err(|taken| StitchError::Budget { wanted, taken, most })
    }
}

impl Budget {
    /// Takes `more` besides.
    pub(in crate::os) fn grow(&mut self, more: usize) -> Result<(), StitchError> {
        std::mem::forget(Budget::take(more)?);
        self.0 += more;
        Ok(())
    }

    /// Gives `less` of what it took back.
    pub(in crate::os) fn shrink(&mut self, less: usize) {
        drop(Budget(less.min(self.0)));
        self.0 = self.0.saturating_sub(less);
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// The most VMAs that stitched views and runs of framed pools may take: a quarter of
/// `vm.max_map_count`, read once.
pub(crate) fn vmas_max() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/vm/max_map_count");
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65_530_usize) / 4
    })
}

/// How many they take.
pub(crate) fn vmas_taken() -> usize {
    TAKEN.load(Ordering::Relaxed)
}

/// Runs of a file, mapped one after the other. Unmapped on drop.
#[derive(Debug)]
pub(crate) struct Stitch {
    start: NonNull<u8>,
    // Of the runs; the guard page lies behind them.
    len_bytes: usize,
    access: Access,
    _budget: Budget,
}

// SAFETY:
// 1. The mapping belongs to no thread: made in `new`, unmapped in `drop`.
// 2. `start` is given out only inside slices whose rules the methods below state.
unsafe impl Send for Stitch {}
// SAFETY:
// 1. As for `Send`; `&self` gives out atomics, or shared slices of bytes that nobody writes.
unsafe impl Sync for Stitch {}

impl Stitch {
    /// Maps `runs`, whole pages each, in their order.
    ///
    /// # Errors
    ///
    /// [`StitchError`]; nothing is mapped.
    pub(crate) fn new(
        file: &PoolFile,
        runs: &[Span],
        access: Access,
    ) -> Result<Stitch, StitchError> {
        let runs = merge(file, runs)?;
        let len_bytes = runs.iter().try_fold(0_u64, |sum, run| sum.checked_add(run.len));
        let len_bytes = len_bytes.and_then(|sum| usize::try_from(sum).ok());
        let len_bytes = len_bytes.filter(|len| *len > 0).ok_or(StitchError::Runs)?;
        // One for the guard page.
        let budget = Budget::take(runs.len() + 1)?;
        let start = reserve(len_bytes)?;
        // From here on `drop` unmaps it.
        let stitch = Stitch { start, len_bytes, access, _budget: budget };
        let mut at = 0;
        for run in runs {
            stitch.map(file, at, run)?;
            at += run.len as usize;
        }
        Ok(stitch)
    }

    fn map(&self, file: &PoolFile, at: usize, run: Span) -> Result<(), StitchError> {
        let (prot, flags) = match self.access {
            Access::Read => (ProtFlags::READ, MapFlags::SHARED),
            Access::Shared => (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED),
            Access::Private => (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE),
        };
        let flags = flags | MapFlags::FIXED | MapFlags::NORESERVE;
        let os = |errno| StitchError::Os { call: "mmap of a run", errno };
        fail::point("mmap_run").map_err(os)?;
        debug_assert!(at + run.len as usize <= self.len_bytes);
        // SAFETY:
        // 1. `at + run.len <= len_bytes`: the runs' lengths add up to it. So the sum is inside the
        //    reservation.
        let place = unsafe { self.start.add(at) };
        // SAFETY:
        // 1. The range lies in the reservation (above), which is ours alone until `new` returns.
        // 2. It is PROT_NONE, holds no Rust object and no run yet (they are placed one behind the
        //    other), so MAP_FIXED replaces nothing but it.
        // 3. The file does not shrink (invariant 1 of `crate::os`), and `merge` checked the run.
        let mapped = unsafe {
            let place = place.as_ptr().cast();
            rustix::mm::mmap(place, run.len as usize, prot, flags, file, run.start)
        };
        mapped.map(drop).map_err(os)
    }

    /// The bytes, of which `len` are wanted: for [`Access::Read`] and [`Access::Private`].
    ///
    /// The caller holds a frozen view of each run, or the file is sealed against writing. Empty for
    /// another access.
    pub(crate) fn bytes(&self, len: usize) -> &[u8] {
        if self.access == Access::Shared {
            return &[];
        }
        // SAFETY:
        // 1. The bytes are mapped readable until `drop`, and initialised: pages of the file.
        // 2. Nobody writes them: the kernel, if the file is sealed; else the caller's frozen views keep writers of this process out, the
        //    protocol those of others; a private mapping is written by `bytes_mut` alone, which
        //    has `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), len.min(self.len_bytes)) }
    }

    /// The bytes of a private mapping, of which `len` are wanted; empty for another access.
    ///
    /// The caller holds a frozen view of each run.
    pub(crate) fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        if self.access != Access::Private {
            return &mut [];
        }
        // SAFETY:
        // 1. As in `bytes`; mapped writable, and what is written goes to pages of our own.
        // 2. `&mut self` borrows the one way to them. No run is there twice: a private mapping has
        //    copies of what it writes, so two places never show one page that is written.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), len.min(self.len_bytes)) }
    }

    /// The bytes as words, for atomics: for [`Access::Shared`]; none for another.
    ///
    /// The caller holds a shared view of each run.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        if self.access != Access::Shared {
            return &[];
        }
        // SAFETY:
        // 1. Mapped readable and writable until `drop`, aligned to a page; every pattern is valid.
        // 2. All who reach these bytes in this process hold shared views or stitched ones of them,
        //    which give out atomics only; so do other members, by the protocol. The same word at
        //    two addresses is two references to one atomic.
        unsafe {
            std::slice::from_raw_parts(
                self.start.as_ptr().cast(),
                self.len_bytes / size_of::<u64>(),
            )
        }
    }
}

impl Drop for Stitch {
    fn drop(&mut self) {
        // SAFETY:
        // 1. Exactly what `reserve` mapped, runs and guard: unmapped only here.
        // 2. Slices of it borrow `self`.
        let unmapped = unsafe {
            rustix::mm::munmap(self.start.as_ptr().cast(), self.len_bytes + PAGE_BYTES as usize)
        };
        debug_assert!(unmapped.is_ok(), "munmap of a stitched view: {unmapped:?}");
    }
}

/// Whole pages of the file each, and those that touch in the file as one.
fn merge(file: &PoolFile, runs: &[Span]) -> Result<Vec<Span>, StitchError> {
    let mut merged: Vec<Span> = Vec::with_capacity(runs.len());
    for run in runs {
        let run = run.within_aligned(file.bytes(), PAGE_BYTES).map_err(|_| StitchError::Runs)?;
        match merged.last_mut().filter(|last| last.end() == Some(run.start)) {
            Some(last) => last.len += run.len,
            None => merged.push(run),
        }
    }
    Ok(merged)
}

/// Address space for so many bytes and a guard page.
pub(in crate::os) fn reserve(len_bytes: usize) -> Result<NonNull<u8>, StitchError> {
    let os = |errno| StitchError::Os { call: "mmap to reserve", errno };
    fail::point("mmap_stitch").map_err(os)?;
    let all = len_bytes.checked_add(PAGE_BYTES as usize).ok_or(os(Errno::NOMEM))?;
    // SAFETY:
    // 1. The address is null and the flags lack MAP_FIXED: nothing in use is replaced.
    let start = unsafe {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), all, ProtFlags::empty(), flags)
    };
    NonNull::new(start.map_err(os)?.cast()).ok_or(os(Errno::NOMEM))
}
