//! The window of a framed pool in this process: which runs of frames it shows, and where.
//!
//! ```text
//!   Mapping   │ words │ frames f0 f1 f2 …    ║ window: PROT_NONE
//!   show      │       │    └──┬──┘   └┐      ║   │ f1 f2 │ f7 │        MAP_FIXED, a run each
//!   hide      │                              ║                        one call, PROT_NONE again
//! ```
//!
//! An area is shown when this process gets to use it, and hidden before anybody is told that it does
//! not any more: so a frame that goes to a new owner is shown nowhere, in no process. Each run is
//! a VMA, from the budget of [`crate::os::stitch`]; runs that touch in the file and in the window
//! are one. To hide is one call for all runs of an area, and needs no VMA: where the kernel has
//! none left for its own bookkeeping, the runs are protected instead, as good.
//!
//! Invariants: no frame is shown twice in this window (`here`); where a view is, nothing is shown
//! or hidden (both hold the claim); a place to which the kernel may have let somebody else is never
//! touched again (*lost*).
//!
//! Neighbours: [`crate::framed`] says which frames; [`crate::os::view`] makes the views. Linux:
//! `remap_file_pages`, which is no more.

use crate::os::anon::AnonWords;
use crate::os::map::Mapping;
use crate::os::stitch::{Budget, StitchError};
use crate::os::{PAGE_BYTES, Span, fail, pagemap};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why nothing more is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ShowError {
    /// The place, or a run, is not whole pages of window or frames, or was lost.
    Range,
    /// A view of this process is there, or a frame is shown elsewhere: the records lie.
    Taken,
    /// The budget of VMAs is spent.
    Vmas { wanted: usize, taken: usize, most: usize },
    /// The kernel refused.
    Os(Errno),
}

impl fmt::Display for ShowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShowError::Range => write!(f, "no whole pages of the window and of frames"),
            ShowError::Taken => write!(f, "pages or frames that this process uses already"),
            ShowError::Vmas { wanted, taken, most } => {
                write!(f, "{wanted} VMAs wanted, {taken} of {most} are taken")
            }
            ShowError::Os(errno) => write!(f, "mmap of frames: {errno}"),
        }
    }
}

impl std::error::Error for ShowError {}

/// What this process shows in its window.
#[derive(Debug)]
pub(crate) struct Shown {
    // Constant.
    mapping: Arc<Mapping>,
    first_frame: u64,
    // A word a page of the file from `first_frame` on: whether it is shown.
    here: AnonWords,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    // By the first byte of the area: its runs in the file, in the window one behind the other.
    areas: BTreeMap<u64, Vec<Span>>,
    vmas: Budget,
    lost: Vec<Span>,
}

impl Shown {
    /// Nothing yet. The frames are the file's from byte `frames_at` on.
    ///
    /// # Errors
    ///
    /// What `mmap` said.
    pub(crate) fn new(mapping: Arc<Mapping>, frames_at: u64) -> Result<Shown, Errno> {
        let frames = (mapping.words_bytes().saturating_sub(frames_at)) / PAGE_BYTES;
        let here = AnonWords::new(frames as usize)?;
        let vmas = Budget::take(0).map_err(|_| Errno::NOMEM)?;
        let state = State { areas: BTreeMap::new(), vmas, lost: Vec::new() };
        let first_frame = frames_at / PAGE_BYTES;
        Ok(Shown { mapping, first_frame, here, state: Mutex::new(state) })
    }

    /// How many bytes are shown of the area that begins at byte `at`.
    pub(crate) fn len(&self, at: u64) -> u64 {
        self.lock().areas.get(&at).map_or(0, |runs| bytes(runs))
    }

    /// Whether this process shows the frame that is page `pfn` of the file.
    pub(crate) fn shows(&self, pfn: u64) -> bool {
        let word = pfn.checked_sub(self.first_frame).and_then(|i| self.here.get(i as usize));
        // Relaxed: who asks has the frame by the protocol, or was lied to.
        word.is_none_or(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// Where in the file the bytes of `span` are, which is whole pages of one area that is shown.
    pub(crate) fn runs_of(&self, span: Span) -> Option<Vec<Span>> {
        let state = self.lock();
        let (start, runs) = state.areas.range(..=span.start).next_back()?;
        let (mut skip, mut left) = (span.start - start, span.len);
        let mut found = Vec::new();
        for run in runs {
            let skipped = skip.min(run.len);
            skip -= skipped;
            let len = (run.len - skipped).min(left);
            if len > 0 {
                found.push(Span::new(run.start + skipped, len));
                left -= len;
            }
        }
        (left == 0).then_some(found)
    }

    /// Shows `runs` of the file at byte `at` of the mapping, behind the first `had` bytes of the
    /// area, which are shown already. About 5 µs a run.
    ///
    /// # Errors
    ///
    /// [`ShowError`]; what was shown before is shown still, and no more.
    pub(crate) fn show(&self, at: u64, had: u64, runs: &[Span]) -> Result<(), ShowError> {
        let place = Span::new(at.saturating_add(had), bytes(runs));
        let whole = place.within_aligned(self.mapping.bytes(), PAGE_BYTES);
        if whole.is_err() || place.start < self.mapping.words_bytes() {
            return Err(ShowError::Range);
        }
        let held = self.mapping.while_held(place, || self.show_held(at, had, place, runs));
        held.map_err(|_| ShowError::Taken)?
    }

    fn show_held(&self, at: u64, had: u64, place: Span, runs: &[Span]) -> Result<(), ShowError> {
        let mut state = self.lock();
        if state.areas.get(&at).map_or(0, |runs| bytes(runs)) != had {
            return Err(ShowError::Taken);
        }
        if state.lost.iter().any(|lost| touch(*lost, place)) {
            return Err(ShowError::Range);
        }
        let next = state.areas.range(at + 1..).next();
        if next.is_some_and(|(next, _)| *next < place.start + place.len) {
            return Err(ShowError::Taken);
        }
        // One more, for the rest of the window behind it.
        let wanted = runs.len() + usize::from(had == 0);
        state.vmas.grow(wanted).map_err(|e| match e {
            StitchError::Budget { wanted, taken, most } => ShowError::Vmas { wanted, taken, most },
            _ => ShowError::Range,
        })?;
        let shown = self.show_runs(place, runs);
        match shown {
            Ok(()) => state.areas.entry(at).or_default().extend_from_slice(runs),
            Err(ShowError::Os(_)) if !self.is_intact(place) => {
                self.mapping.lose();
                state.lost.push(place);
            }
            Err(_) => state.vmas.shrink(wanted),
        }
        shown
    }

    /// Marks the frames as shown and maps the runs, all or none.
    fn show_runs(&self, place: Span, runs: &[Span]) -> Result<(), ShowError> {
        for (done, run) in runs.iter().enumerate() {
            if let Err(e) = self.mark(*run) {
                runs[..done].iter().for_each(|run| self.unmark(*run));
                return Err(e);
            }
        }
        let mut at = place.start;
        for run in runs {
            if let Err(errno) = self.map(at, *run) {
                let shown = Span::new(place.start, at - place.start);
                let hidden = shown.len == 0 || self.map_nothing(shown).is_ok();
                // What cannot be hidden stays marked: nobody here shows or clears those frames.
                if hidden {
                    runs.iter().for_each(|run| self.unmark(*run));
                }
                return Err(ShowError::Os(errno));
            }
            at += run.len;
        }
        // Contents of buffers are not for core dumps. A wish.
        let _ = self.mapping.advise(place, libc::MADV_DONTDUMP);
        Ok(())
    }

    /// Hides all of the area that begins at byte `at`. Nothing to do if nothing of it is shown.
    ///
    /// # Errors
    ///
    /// What the kernel said, or EBUSY: a view is there. It is shown still.
    pub(crate) fn hide_area(&self, at: u64) -> Result<(), Errno> {
        let len = self.len(at);
        if len == 0 { Ok(()) } else { self.hide(Span::new(at, len)) }
    }

    /// Hides whatever is shown in `span`: areas, or what is an area's end.
    ///
    /// # Errors
    ///
    /// What the kernel said, or EBUSY: a view is there, or an area goes on behind `span`.
    pub(crate) fn hide(&self, span: Span) -> Result<(), Errno> {
        let held = self.mapping.while_held(span, || self.hide_held(span));
        held.map_err(|_| Errno::BUSY)?
    }

    fn hide_held(&self, span: Span) -> Result<(), Errno> {
        let mut state = self.lock();
        let State { areas, vmas, .. } = &mut *state;
        let end = span.start + span.len;
        // The last one first: only the first may begin before `span`.
        while let Some((&start, runs)) = areas.range_mut(..end).next_back() {
            let area_end = start + bytes(runs);
            if area_end <= span.start {
                break;
            }
            if area_end > end {
                return Err(Errno::BUSY);
            }
            let from = start.max(span.start);
            self.map_nothing(Span::new(from, area_end - from))?;
            let mut keep = from - start;
            runs.retain_mut(|run| {
                let kept = keep.min(run.len);
                keep -= kept;
                self.unmark(Span::new(run.start + kept, run.len - kept));
                run.len = kept;
                vmas.shrink(usize::from(kept == 0));
                kept > 0
            });
            if runs.is_empty() {
                vmas.shrink(1);
                areas.remove(&start);
            }
        }
        Ok(())
    }

    /// Notes that the frames of a run are shown, all or none.
    fn mark(&self, run: Span) -> Result<(), ShowError> {
        let whole = run.within_aligned(self.mapping.words_bytes(), PAGE_BYTES);
        let first = (run.start / PAGE_BYTES).checked_sub(self.first_frame);
        let (Ok(_), Some(first)) = (whole, first) else { return Err(ShowError::Range) };
        let words = first..first + run.len / PAGE_BYTES;
        let words = self.here.get(words.start as usize..words.end as usize);
        let words = words.ok_or(ShowError::Range)?;
        // Relaxed, here and below: under the lock.
        if words.iter().any(|word| word.load(Ordering::Relaxed) != 0) {
            return Err(ShowError::Taken);
        }
        words.iter().for_each(|word| word.store(1, Ordering::Relaxed));
        Ok(())
    }

    fn unmark(&self, run: Span) {
        let first = (run.start / PAGE_BYTES - self.first_frame) as usize;
        let words = &self.here[first..first + (run.len / PAGE_BYTES) as usize];
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Maps a run of the file at byte `at`.
    fn map(&self, at: u64, run: Span) -> Result<(), Errno> {
        fail::point("mmap_frames")?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE;
        let (start, len) = (self.mapping.at(at).as_ptr().cast(), run.len as usize);
        // SAFETY:
        // 1. The range lies in the window of our mapping: `show` checked the place, and the runs
        //    add up to it. It is ours still: no place that was lost is shown again.
        // 2. No view is there, nor can come: `show` holds the claim. Words are never there. So
        //    MAP_FIXED replaces nothing that a reference points to.
        // 3. The file does not shrink (invariant 1 of `crate::os`), and `mark` checked the run.
        unsafe { rustix::mm::mmap(start, len, prot, flags, self.mapping.file(), run.start) }?;
        Ok(())
    }

    /// Has the bytes of `span`, all of which are shown or were to be, fault from here on.
    fn map_nothing(&self, span: Span) -> Result<(), Errno> {
        let (start, len) = (self.mapping.at(span.start).as_ptr().cast(), span.len as usize);
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        let replaced = fail::point("mmap_hide").and_then(|()| {
            // SAFETY:
            // 1. As in `map`: a place of ours in the window, where no view is, for the callers hold
            //    the claim, or have shown it a moment ago under one.
            unsafe { rustix::mm::mmap_anonymous(start, len, ProtFlags::empty(), flags) }
        });
        if replaced.is_ok() {
            return Ok(());
        }
        // Too many VMAs, others' among them: the call is refused before it does anything. To
        // protect whole VMAs takes none.
        fail::point("mprotect_hide")?;
        // SAFETY:
        // 1. As above. It changes rights alone: a stray touch ends the process, and is not
        //    undefined behaviour.
        let closed = unsafe { rustix::mm::mprotect(start, len, MprotectFlags::empty()) };
        closed.inspect_err(|_| self.mapping.lose())
    }

    /// Whether all of `place`, where a run could not be mapped, is ours beyond doubt: then nobody
    /// may touch it.
    fn is_intact(&self, place: Span) -> bool {
        let start = self.mapping.base() + place.start as usize;
        pagemap::is_closed(&(start..start + place.len as usize)).unwrap_or(false)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave it half changed: nothing under the lock panics but on a bug.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes(runs: &[Span]) -> u64 {
    runs.iter().fold(0, |sum: u64, run| sum.saturating_add(run.len))
}

fn touch(a: Span, b: Span) -> bool {
    a.start < b.start.saturating_add(b.len) && b.start < a.start.saturating_add(a.len)
}
