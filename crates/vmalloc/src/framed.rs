//! Framed pools: memory whose offsets *are* its frames.
//!
//! Of a linear pool (`linear.rs`) the kernel finds the frames. Where there is a fixed piece of
//! memory and no more (a DAX or ivshmem file, a carve-out), the pool hands them out itself: the
//! engine's buddy system says where free ones may be, and areas are stitched of what there is, the
//! largest runs first, by mapping each run at its place in the window.
//!
//! ```text
//!   file    │ header, tables │ bits │ owners │ pages │ frames f0 f1 f2 …
//!   owners  a word a frame:  the page of the window that shows it, + 1; 0: free     the truth
//!   pages   a word a page:   the frame that it wants, + 1                           a wish
//!   bits    the buddy system                                                        a hint
//!
//!   take   bits ─▶ pages[v] = f ─CAS▶ owners[f]: 0 → v        lost the race? another frame
//!   give   zero ─CAS▶ owners[f]: v → 0 ─▶ bits, pages[v] = 0
//! ```
//!
//! **One CAS decides who owns a frame.** A page has a frame if `pages` leads there *and* the owner's
//! word leads back: so no frame has two, and whatever another member wrote into `pages` or the bits,
//! it gets a frame that is free, or none. The wish is written before the CAS: so who recovers the
//! slot of a dead member finds every frame that it owned. A bit that is wrong costs a look: whoever
//! finds no frame, and whoever recovers, sets the bits of all that are free.
//!
//! Frames that are free are zero: they are zeroed before they go home, through the mapping of the
//! whole file that each member has. And they go home only when no process shows them: a member
//! hides what it lets go of *before* it says so ([`crate::os::shown`]). So nothing is warm here:
//! each allocation maps, and each free unmaps; a parked area keeps its frames and no mapping.
//!
//! Invariants: 2 (a frame is free, or some page's), 3 and 8 of the design, as above. Neighbours:
//! [`crate::linear`] asks here where its pool is framed. Linux: a zone of its own, `vmap`.

use crate::header::{Header, Shape};
use crate::linear::Ground;
use crate::os::map::Mapping;
use crate::os::shown::{ShowError, Shown};
use crate::os::{PAGE_BYTES, Span};
use rustix::io::Errno;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use vmalloc_core::class::GRANULE_PAGES;
use vmalloc_core::frames::Buddy;
use vmalloc_core::platform::Frames;
use vmalloc_core::{
    Area, BackError, Extent, Geometry, MapError, ORDER_MAX, Order, PageRange, Pages, Pfn, View, Vpn,
};

/// The window is this many times as long as the frames: half of it for small areas, which waste the
/// most addresses.
const WINDOW_RATIO: u64 = 8;
/// The smallest window: 512 granules, 256 MiB.
const GRANULES_MIN: u64 = 512;
/// Words in a page.
const PAGE_WORDS: usize = 512;
/// Runs asked of the buddy system at a time.
const BULK: usize = 64;
/// The smallest block that a huge page needs.
const HUGE_ORDER: Order = Order(9);

/// What is wrong with a framed pool's frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FrameError {
    /// A page of an area has no frame, or one that is another page's.
    NoFrame {
        /// The page of the window.
        page: Vpn,
    },
    /// A frame is owned by a page of no area: it is lost.
    Lost {
        /// The frame.
        frame: Pfn,
        /// The page that owns it.
        page: Vpn,
    },
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FrameError::NoFrame { page } => write!(f, "page {page} of an area has no frame"),
            FrameError::Lost { frame, page } => {
                write!(f, "frame {frame} is owned by page {page}, which is no area's")
            }
        }
    }
}

impl std::error::Error for FrameError {}

impl Shape {
    /// The shape of a new framed pool of `capacity` pages.
    pub(crate) fn framed(id: u64, capacity: Pages, members: usize) -> Shape {
        let granules = capacity.0.saturating_mul(WINDOW_RATIO).div_ceil(GRANULE_PAGES);
        let granules = granules.max(GRANULES_MIN).next_multiple_of(16) as usize;
        let geometry = Geometry { granules, small_granules: granules / 2, members, in_place: true };
        Shape { id, capacity, geometry, is_framed: true }
    }

    /// The words about frames, behind the engine's.
    pub(crate) fn frame_words(&self) -> Range<usize> {
        self.bit_words().start..self.page_words().end.next_multiple_of(PAGE_WORDS)
    }

    fn bit_words(&self) -> Range<usize> {
        let start = self.geometry.words().next_multiple_of(PAGE_WORDS);
        start..start + Buddy::words_needed(self.capacity)
    }

    fn owner_words(&self) -> Range<usize> {
        let start = self.bit_words().end.next_multiple_of(PAGE_WORDS);
        start..start + self.capacity.0 as usize
    }

    fn page_words(&self) -> Range<usize> {
        let start = self.owner_words().end.next_multiple_of(PAGE_WORDS);
        start..start + self.geometry.pages().0 as usize
    }

    /// The frames, by their pages in the file.
    pub(crate) fn frames(&self) -> Extent {
        Extent { start: Pfn(self.words_bytes() / PAGE_BYTES), len: self.capacity }
    }
}

/// Makes all frames of a new pool free.
pub(crate) fn format(header: Header<'_>, shape: &Shape) {
    let (words, frames) = (header.words_at(shape.bit_words()), shape.frames());
    let formatted = Buddy::format(words, frames.start, frames.len);
    debug_assert!(formatted.is_ok(), "{formatted:?}");
}

/// The frames of a framed pool, as this process reaches them. Cheap: views of the pool's words.
#[derive(Clone, Copy)]
pub(crate) struct FrameTable<'a> {
    shown: &'a Shown,
    mapping: &'a Mapping,
    /// Where in the mapping the window begins.
    window_at: u64,
    frames: Extent,
    bits: &'a [AtomicU64],
    owners: &'a [AtomicU64],
    pages: &'a [AtomicU64],
}

impl Ground {
    /// The frames, where the pool is framed.
    #[inline]
    pub(crate) fn framed(&self) -> Option<FrameTable<'_>> {
        let shown = self.shown.as_ref()?;
        let (header, shape) = (self.header(), &self.shape);
        Some(FrameTable {
            shown,
            mapping: &self.mapping,
            window_at: shape.window_at(),
            frames: shape.frames(),
            bits: header.words_at(shape.bit_words()),
            owners: header.words_at(shape.owner_words()),
            pages: header.words_at(shape.page_words()),
        })
    }

    /// Hides what this process shows of the area whose first byte in the mapping is `at`: before
    /// anybody is told that it does not use it any more. Nothing to do in a linear pool.
    ///
    /// # Errors
    ///
    /// What the kernel said: then the area must stay this process's.
    #[inline]
    pub(crate) fn hide(&self, at: u64) -> Result<(), Errno> {
        self.shown.as_ref().map_or(Ok(()), |shown| shown.hide_area(at))
    }

    /// Where in the file the bytes of `span` of the window are, which this process shows.
    pub(crate) fn runs_in_file(&self, span: Span) -> Option<Vec<Span>> {
        match &self.shown {
            Some(shown) => shown.runs_of(span),
            None => Some(vec![span]),
        }
    }
}

impl FrameTable<'_> {
    /// Finds a free frame for each of `pages`, the largest runs first, those of whole huge pages
    /// before all if `huge`.
    pub(crate) fn take(&self, pages: PageRange, huge: bool) -> Result<(), BackError> {
        let (mut at, end) = (pages.start.0, pages.end().0);
        if end > self.pages.len() as u64 {
            return Err(BackError::Refused { errno: libc::EINVAL });
        }
        let mut is_mended = false;
        let mut runs = [Extent::default(); BULK];
        while at < end {
            let found = self.find(Pages(end - at), huge, &mut runs)?;
            if found == 0 && !is_mended {
                // The bits may be wrong: look at the truth, once.
                self.mend();
                is_mended = true;
            } else if found == 0 {
                self.give(PageRange { start: pages.start, len: Pages(at - pages.start.0) });
                let free = Pages(self.owners.iter().filter(|o| is_free(o)).count() as u64);
                return Err(BackError::NoFrames { wanted: pages.len, free });
            }
            for pfn in runs[..found].iter().flat_map(|run| run.start.0..run.end().0) {
                // One that was lost to somebody else stays taken in the bits, as it is.
                at += u64::from(at < end && self.own(pfn, at));
            }
        }
        Ok(())
    }

    /// Frames that may be free, by the bits.
    fn find(&self, want: Pages, huge: bool, out: &mut [Extent]) -> Result<usize, BackError> {
        let buddy = Buddy::open(self.bits, self.frames);
        let buddy = buddy.map_err(|_| BackError::Refused { errno: libc::EIO })?;
        if huge {
            let most = Order::at_most(want).map_or(0, |order| order.0.min(ORDER_MAX.0));
            for order in (HUGE_ORDER.0..=most).rev().map(Order) {
                if let Ok(start) = buddy.take(order) {
                    out[0] = Extent { start, len: order.pages() };
                    return Ok(1);
                }
            }
        }
        Ok(buddy.take_bulk(want, out))
    }

    /// Makes a free frame page `page`'s.
    fn own(&self, pfn: u64, page: u64) -> bool {
        let Some(owner) = self.owner(pfn) else { return false };
        // The wish first: if we die in between, the frame is found by way of it.
        self.pages[page as usize].store(pfn + 1, Ordering::SeqCst);
        // SeqCst: as all steps that change hands; whoever takes a frame sees it zeroed.
        owner.compare_exchange(0, page + 1, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// Zeroes the frames of `pages` and sends them home; how many they were. What a page only
    /// wished for stays whose it is. Idempotent; never allocates.
    pub(crate) fn give(&self, pages: PageRange) -> Pages {
        let end = pages.end().0.min(self.pages.len() as u64);
        let mut given = Pages(0);
        let mut run = Extent { start: Pfn(0), len: Pages(0) };
        for page in pages.start.0..end {
            // A frame that is shown here is not ours to clear, whatever the words say.
            let Some(pfn) = self.frame_of(page).filter(|&pfn| !self.shown.shows(pfn)) else {
                continue;
            };
            self.zero(pfn);
            let owner = &self.owners[(pfn - self.frames.start.0) as usize];
            let freed =
                owner.compare_exchange(page + 1, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok();
            self.pages[page as usize].store(0, Ordering::SeqCst);
            if !freed {
                continue;
            }
            given.0 += 1;
            if run.len.0 > 0 && run.end().0 == pfn {
                run.len.0 += 1;
            } else {
                self.restore(run);
                run = Extent { start: Pfn(pfn), len: Pages(1) };
            }
        }
        self.restore(run);
        given
    }

    /// Says in the bits of every frame that is free that it is: after somebody died, or when no frame
    /// is to be found. O(frames).
    pub(crate) fn mend(&self) {
        let mut run = Extent { start: self.frames.start, len: Pages(0) };
        for (at, owner) in self.owners.iter().enumerate() {
            if is_free(owner) {
                run.len.0 += 1;
                continue;
            }
            self.restore(run);
            run = Extent { start: Pfn(self.frames.start.0 + at as u64 + 1), len: Pages(0) };
        }
        self.restore(run);
    }

    fn restore(&self, run: Extent) {
        if let Ok(buddy) = Buddy::open(self.bits, self.frames) {
            buddy.restore(run);
        }
    }

    /// The frame of a page of the window, if it has one.
    pub(crate) fn frame_of(&self, page: u64) -> Option<u64> {
        let wish = self.pages.get(usize::try_from(page).ok()?)?.load(Ordering::SeqCst);
        let pfn = wish.checked_sub(1)?;
        let owner = self.owner(pfn)?;
        (owner.load(Ordering::SeqCst) == page + 1).then_some(pfn)
    }

    /// The pages of a run of the window that have frames, cut where these are not neighbours.
    pub(crate) fn runs_of(&self, pages: PageRange) -> Vec<PageRange> {
        let mut runs: Vec<PageRange> = Vec::new();
        let mut next = None;
        for page in pages.start.0..pages.end().0 {
            let Some(pfn) = self.frame_of(page) else { continue };
            match runs.last_mut().filter(|run| run.end().0 == page && next == Some(pfn)) {
                Some(run) => run.len.0 += 1,
                None => runs.push(PageRange { start: Vpn(page), len: Pages(1) }),
            }
            next = Some(pfn + 1);
        }
        runs
    }

    /// Shows what this process does not show yet of `view`, which it may use. Idempotent.
    pub(crate) fn show(&self, view: &View) -> Result<(), MapError> {
        let end = view.pages.end().0;
        if view.pages.len.0 == 0 || end > view.slot.end().0 || end > self.pages.len() as u64 {
            return Err(MapError::Refused { errno: libc::EINVAL });
        }
        let at = self.window_at + view.pages.start.0 * PAGE_BYTES;
        let had = self.shown.len(at);
        let first = view.pages.start.0 + had / PAGE_BYTES;
        if first >= end {
            return Ok(());
        }
        let mut runs: Vec<Span> = Vec::new();
        for page in first..end {
            let pfn = self.frame_of(page).ok_or(MapError::Refused { errno: libc::EIO })?;
            let frame = Span::new(pfn * PAGE_BYTES, PAGE_BYTES);
            match runs.last_mut().filter(|last| last.end() == Some(frame.start)) {
                Some(last) => last.len += PAGE_BYTES,
                None => runs.push(frame),
            }
        }
        self.shown.show(at, had, &runs).map_err(|e| match e {
            ShowError::Vmas { wanted, taken, most } => MapError::NoVmas { wanted, taken, most },
            ShowError::Os(errno) => MapError::Refused { errno: errno.raw_os_error() },
            ShowError::Range => MapError::Refused { errno: libc::EFAULT },
            ShowError::Taken => MapError::Refused { errno: libc::EBUSY },
        })
    }

    /// Hides what this process shows of `pages`.
    pub(crate) fn hide(&self, pages: PageRange) -> Result<(), Errno> {
        let at = self.window_at + pages.start.0 * PAGE_BYTES;
        self.shown.hide(Span::new(at, pages.len.bytes()))
    }

    /// Copies bytes of a page of the window, by way of the file.
    pub(crate) fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> bool {
        let Some(pfn) = self.frame_of(page) else { return false };
        self.mapping.file().read_at(pfn * PAGE_BYTES + offset as u64, out)
    }

    /// Checks that each page of `areas` has a frame of its own, and that no other frame is owned.
    /// For when nobody is at work. O(frames + pages).
    pub(crate) fn verify(&self, areas: &[Area]) -> Result<(), FrameError> {
        for page in areas.iter().flat_map(|area| area.pages.start.0..area.pages.end().0) {
            self.frame_of(page).ok_or(FrameError::NoFrame { page: Vpn(page) })?;
        }
        for (at, owner) in self.owners.iter().enumerate() {
            let Some(page) = owner.load(Ordering::SeqCst).checked_sub(1) else { continue };
            // In address order: the last one that begins no later.
            let before = areas.partition_point(|area| area.pages.start.0 <= page);
            let area = before.checked_sub(1).map(|i| areas[i]);
            let pfn = self.frames.start.0 + at as u64;
            let is_an_areas = area.is_some_and(|area| page < area.pages.end().0);
            if !is_an_areas || self.frame_of(page) != Some(pfn) {
                return Err(FrameError::Lost { frame: Pfn(pfn), page: Vpn(page) });
            }
        }
        Ok(())
    }

    /// The word of a frame.
    fn owner(&self, pfn: u64) -> Option<&AtomicU64> {
        let at = pfn.checked_sub(self.frames.start.0)?;
        self.owners.get(usize::try_from(at).ok()?)
    }

    /// Fills a frame of the pool with zeros, through the mapping of the whole file.
    fn zero(&self, pfn: u64) {
        let words = self.mapping.words(pfn * PAGE_BYTES, PAGE_WORDS);
        let words = words.expect("a frame of the pool lies in its file");
        // Relaxed: the CAS that gives the frame away publishes it.
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

/// The frame of a page of the window, for one who fetches the words that he looks at.
pub(crate) fn peek(shape: &Shape, page: u64, word: impl Fn(usize) -> Option<u64>) -> Option<u64> {
    let (pages, frames) = (shape.page_words(), shape.frames());
    let at = pages.start.checked_add(usize::try_from(page).ok()?)?;
    let pfn = word(Some(at).filter(|at| pages.contains(at))?)?.checked_sub(1)?;
    let owner = pfn.checked_sub(frames.start.0).filter(|at| *at < frames.len.0)?;
    let owner = word(shape.owner_words().start + owner as usize)?;
    (owner == page + 1).then_some(pfn)
}

fn is_free(owner: &AtomicU64) -> bool {
    owner.load(Ordering::SeqCst) == 0
}
