//! A place: addresses that show nothing, until runs of the pool's file are shown at parts of them.
//!
//! ```text
//!   new    ├──────────────────────────────┬─────┤   PROT_NONE, the last page stays so
//!   show   │      │ run │        │  run  │  │guard│   MAP_FIXED, read and write
//!   clear  │      │ run │                 │guard│   MAP_FIXED, PROT_NONE again
//! ```
//!
//! What keeps a run's frames (`K`, a buffer whose own view nobody uses) is kept beside it, so that
//! a part that is shown has frames. Each part takes two VMAs, itself (one a run, where it has several)
//! and the gap behind it, from the budget of [`crate::os::stitch`].
//!
//! An `mmap` with MAP_FIXED that fails may have unmapped what was there, and anybody may map
//! something in the gap. A place to which that happened is *lost*: it shows no more parts, and its
//! addresses are never unmapped; what it shows already stays good.
//!
//! Invariants: parts are whole pages, do not overlap, and lie in the place. A part is unmapped
//! before `K` is given back.

use crate::os::file::PoolFile;
use crate::os::stitch::{Budget, StitchError, reserve};
use crate::os::{PAGE_BYTES, Span, fail};
use rustix::mm::{MapFlags, ProtFlags};
use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr::NonNull;

/// Addresses, of which parts show runs of a file. Unmapped on drop.
pub(crate) struct Place<K> {
    start: NonNull<u8>,
    // Without the guard page behind it; whole pages.
    len_bytes: usize,
    // By their first byte. Dropped after `drop` has unmapped them.
    parts: BTreeMap<usize, Part<K>>,
    is_lost: bool,
    _budget: Budget,
}

struct Part<K> {
    len_bytes: usize,
    keep: K,
    _budget: Budget,
}

// SAFETY:
// 1. The mapping belongs to no thread: made in `new`, unmapped in `drop`.
// 2. `start` is given out only inside slices whose rules the methods below state.
unsafe impl<K: Send> Send for Place<K> {}
// SAFETY:
// 1. As for `Send`; `&self` gives out shared slices only, and writing takes `&mut self`.
unsafe impl<K: Sync> Sync for Place<K> {}

/// A run that was not shown, why, and what keeps its frames.
pub(crate) struct NotShown<K> {
    /// The reason; `None`: the place is lost.
    pub(crate) error: Option<StitchError>,
    /// To be given back.
    pub(crate) keep: K,
}

impl<K> Place<K> {
    /// Takes addresses for so many bytes, whole pages, and a guard page.
    ///
    /// # Errors
    ///
    /// [`StitchError`]; nothing is mapped.
    pub(crate) fn new(len_bytes: usize) -> Result<Place<K>, StitchError> {
        if len_bytes == 0 || !len_bytes.is_multiple_of(PAGE_BYTES as usize) {
            return Err(StitchError::Runs);
        }
        let budget = Budget::take(1)?;
        let start = reserve(len_bytes)?;
        Ok(Place { start, len_bytes, parts: BTreeMap::new(), is_lost: false, _budget: budget })
    }

    /// Bytes, the guard page left out.
    pub(crate) fn len(&self) -> usize {
        self.len_bytes
    }

    /// The parts that show something and touch `range`, in order.
    pub(crate) fn parts(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let before = self.parts.range(..range.start).next_back();
        let behind = self.parts.range(range.start..range.end.max(range.start));
        let all = before.into_iter().chain(behind);
        let whole = all.map(|(at, part)| *at..*at + part.len_bytes);
        whole.filter(move |part| part.start < range.end && part.end > range.start)
    }

    /// Shows `runs` of the file, one behind the other, from byte `at` on, where nothing is shown. `keep`
    /// keeps their frames, and is all that reaches them: nobody makes a view of them from it.
    ///
    /// # Errors
    ///
    /// [`NotShown`]; nothing new is shown. If the kernel refused, the place is lost.
    pub(crate) fn show(
        &mut self,
        file: &PoolFile,
        at: usize,
        runs: &[Span],
        keep: K,
    ) -> Result<(), NotShown<K>> {
        let len_bytes = runs.iter().fold(0, |sum: usize, run| sum.saturating_add(run.len as usize));
        let range = at..at.saturating_add(len_bytes);
        let is_free = range.end <= self.len_bytes && self.parts(range).next().is_none();
        let is_whole = at.is_multiple_of(PAGE_BYTES as usize)
            && len_bytes > 0
            && runs.iter().all(|run| run.within_aligned(file.bytes(), PAGE_BYTES).is_ok());
        let budget = match Budget::take(runs.len() + 1) {
            _ if self.is_lost => return Err(NotShown { error: None, keep }),
            _ if !is_free || !is_whole => {
                return Err(NotShown { error: Some(StitchError::Runs), keep });
            }
            Err(error) => return Err(NotShown { error: Some(error), keep }),
            Ok(budget) => budget,
        };
        let mut next = at;
        for run in runs {
            if let Err(error) = self.map(next, run.len as usize, Some((file, run.start))) {
                return Err(NotShown { error: Some(error), keep });
            }
            next += run.len as usize;
        }
        self.parts.insert(at, Part { len_bytes, keep, _budget: budget });
        Ok(())
    }

    /// Shows nothing any more at the part that begins at byte `at`, and returns what kept its
    /// frames; `None` if no part does.
    pub(crate) fn clear(&mut self, at: usize) -> Option<K> {
        let part = self.parts.remove(&at)?;
        // If it fails, the place is lost: nobody reaches the part any more, mapped or not.
        let _ = self.map(at, part.len_bytes, None);
        Some(part.keep)
    }

    /// The bytes of `range`, all of which are shown.
    ///
    /// # Errors
    ///
    /// The first byte that is not.
    pub(crate) fn bytes(&self, range: Range<usize>) -> Result<&[u8], usize> {
        let (start, len) = self.shown(range)?;
        // SAFETY:
        // 1. `shown`: in the mapping, and of parts that are mapped readable until `clear` or `drop`,
        //    which take `&mut self`; their frames are kept as long. Initialised: pages of the file.
        // 2. In this process the parts' frames are reached by this place alone (`show`), and written
        //    by `bytes_mut`, which takes `&mut self`; no other process writes: the protocol's promise.
        Ok(unsafe { std::slice::from_raw_parts(start, len) })
    }

    /// The bytes of `range`, to write in.
    ///
    /// # Errors
    ///
    /// The first byte that is not shown.
    pub(crate) fn bytes_mut(&mut self, range: Range<usize>) -> Result<&mut [u8], usize> {
        let (start, len) = self.shown(range)?;
        // SAFETY:
        // 1. As in `bytes`; mapped writable, too.
        // 2. `&mut self` borrows the one way to them, and no two parts show one frame: each is kept
        //    by a `K` of its own.
        Ok(unsafe { std::slice::from_raw_parts_mut(start, len) })
    }

    /// Where the bytes of `range` are, if each of them is shown; else the first that is not.
    fn shown(&self, range: Range<usize>) -> Result<(*mut u8, usize), usize> {
        if range.start > range.end || range.end > self.len_bytes {
            return Err(range.start.max(self.len_bytes.min(range.end)));
        }
        let mut at = range.start;
        for part in self.parts(range.clone()) {
            if part.start > at {
                break;
            }
            at = part.end;
        }
        if at < range.end {
            return Err(at);
        }
        Ok((self.at(range.start), range.len()))
    }

    /// The address of byte `at`, which is at most the length.
    fn at(&self, at: usize) -> *mut u8 {
        debug_assert!(at <= self.len_bytes);
        // SAFETY:
        // 1. `at <= len_bytes`: the callers checked it. So the sum is inside the mapping.
        unsafe { self.start.as_ptr().add(at) }
    }

    /// Maps a run of a file, or nothing, over `len` bytes from `at` on.
    fn map(
        &mut self,
        at: usize,
        len: usize,
        run: Option<(&PoolFile, u64)>,
    ) -> Result<(), StitchError> {
        if self.is_lost {
            return Ok(()); // Only from `clear`: what is there is not ours to replace.
        }
        let place = self.at(at).cast();
        let mapped = fail::point("mmap_part").and_then(|()| match run {
            // SAFETY:
            // 1. The range lies in the place, all of whose pages are its own: it is not lost. So
            //    MAP_FIXED replaces nothing but a part of it that shows nothing (`show`).
            // 2. The file does not shrink (invariant 1 of `crate::os`), and `show` checked the run.
            Some((file, from)) => unsafe {
                let prot = ProtFlags::READ | ProtFlags::WRITE;
                let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE;
                rustix::mm::mmap(place, len, prot, flags, file, from)
            },
            // SAFETY:
            // 1. As above; `&mut self`: no slice of the part that is replaced is out.
            None => unsafe {
                let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
                rustix::mm::mmap_anonymous(place, len, ProtFlags::empty(), flags)
            },
        });
        self.is_lost = mapped.is_err();
        mapped.map(drop).map_err(|errno| StitchError::Os { call: "mmap of a part", errno })
    }
}

impl<K> Drop for Place<K> {
    fn drop(&mut self) {
        if self.is_lost {
            return;
        }
        let all = self.len_bytes + PAGE_BYTES as usize;
        // SAFETY:
        // 1. Exactly what `reserve` mapped, parts and guard: unmapped only here, and none of it is
        //    anybody else's, for the place is not lost.
        // 2. Slices of it borrow `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), all) };
        debug_assert!(unmapped.is_ok(), "munmap of a place: {unmapped:?}");
    }
}
