//! The machine `linux`: a linear window over one sparse file.
//!
//! A file offset is only a name, and the kernel finds real frames for it wherever they are; so
//! the pool's offsets *are* the window, many times longer than the frames it may hold, and each
//! member maps the file once. The engine's stages come down to:
//!
//! ```text
//!   back     charge the budget, commit the range        fallocate or populate
//!   map      a guard marker, once a reservation         madvise; no mmap, no VMA
//!   flush    punch the merged ranges out                 the kernel takes frames and TLB entries
//!   unback   give the budget back
//! ```
//!
//! A framed pool has the same words and verbs; where frames are found and shown there, it is
//! [`crate::framed`] that is asked.
//!
//! A full pool and a full machine are errors of `back`: nothing is handed out that could fault
//! later. Neighbours: below [`crate::member`]; above `os`.

use crate::guards::Guards;
use crate::header::{HEADER_BYTES, Header, Shape};
use crate::lanes;
use crate::os::anon::AnonWords;
use crate::os::bell::Bell;
use crate::os::claims::PAGES_A_WORD;
use crate::os::commit::{CommitError, Grain, commit};
use crate::os::file::PoolFile;
use crate::os::map::Mapping;
use crate::os::memory::Headroom;
use crate::os::shown::Shown;
use crate::os::view::{PurgeError, ViewError};
use crate::os::{DATA_ALIGN_BYTES, PAGE_BYTES, Span};
use crate::quota::Used;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmalloc_core::class::GRANULE_SHIFT;
use vmalloc_core::layout::Layout;
use vmalloc_core::{
    Area, AreaId, BackError, Backing, Config, Engine, Extent, FlushError, FramePolicy, Lane,
    Machine, MapError, NoMetadata, Owner, PageRange, Pages, Pfn, Prot, View, Vpn,
};

/// Addresses for huge pages are plenty if they are so many times the frames: the smallest area takes
/// eight times its frames on the grid.
const GRID_RATIO: u64 = 32;

/// How often a recount is tried while others change what it counts.
const RECOUNTS_MAX: usize = 8;

/// A pool, mapped into this process: all that a member and a mere onlooker have in common.
#[derive(Debug)]
pub(crate) struct Ground {
    // Constant after `new`.
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) shape: Shape,
    layout: Layout,
    pub(crate) headroom: Headroom,
    pub(crate) guards: Guards,
    // Of a framed pool: which runs of frames this process shows.
    pub(crate) shown: Option<Shown>,
    data: u64,
    words: usize,
    // One thread at a time follows a shared area that grew, or makes it grow.
    growing: Mutex<()>,
    // What this process has asked for, where there is a quota.
    pub(crate) used: Used,
    // One thread at a time changes names.
    pub(crate) naming: Mutex<()>,
    // A bit a page of words that this process knows to be committed.
    committed: AnonWords,
}

/// Who can see that others have died, and recover them: a member. A mere onlooker cannot.
pub(crate) trait Recover: Sync {
    /// Recovers the dead; whether there were any.
    fn recover_the_dead(&self) -> bool;
}

/// The machine of one member: what the engine sees.
#[derive(Clone, Copy)]
pub(crate) struct Linear<'a>(&'a Ground, Option<&'a dyn Recover>);

/// Why a pool could not be mapped.
pub(crate) type GroundError = Box<dyn std::error::Error + Send + Sync>;

impl Ground {
    /// Maps a pool of this shape, and asks for huge pages in the part that is for them.
    pub(crate) fn new(
        file: Arc<PoolFile>,
        shape: Shape,
        headroom: Headroom,
    ) -> Result<Ground, GroundError> {
        let (data, words_bytes) = (shape.window_at(), shape.words_bytes());
        let layout = Layout::new(shape.geometry)?;
        let mut guards = Guards::new(shape.geometry.granules)?;
        let (mapping, shown) = if shape.is_framed {
            let mapping = Mapping::framed(file, data, shape.window_bytes())?;
            // What is not shown faults by itself.
            guards = guards.without_markers();
            let shown = Shown::new(Arc::clone(&mapping), words_bytes)?;
            (mapping, Some(shown))
        } else {
            (Mapping::new(file, data)?, None)
        };
        let pages = (words_bytes / PAGE_BYTES) as usize;
        let committed = AnonWords::new(pages.div_ceil(64))?;
        let words = (words_bytes / 8) as usize;
        let small = Pages((shape.geometry.small_granules as u64) << 7).bytes();
        let large = shape.window_bytes() - small;
        // Advice: without it there are small pages only, or huge ones that nobody asked for.
        if shape.is_framed {
            let _ = mapping.advise_huge(Span::new(words_bytes, data - words_bytes));
        } else {
            let _ = mapping.advise_nohuge(Span::new(data, small));
            let _ = mapping.advise_huge(Span::new(data + small, large));
        }
        let (growing, naming, used) = (Mutex::default(), Mutex::default(), Used::new());
        Ok(Ground {
            mapping,
            shape,
            layout,
            headroom,
            guards,
            shown,
            data,
            words,
            growing,
            naming,
            used,
            committed,
        })
    }

    /// The header.
    pub(crate) fn header(&self) -> Header<'_> {
        Header::new(self.all_words())
    }

    /// A bell of the header.
    pub(crate) fn bell(&self, bell: usize) -> Bell<'_> {
        let bell = self.mapping.bell(Header::bell_offset(bell));
        bell.expect("the header is the mapping's first part")
    }

    /// An engine that works for `owner`, for one who only looks.
    pub(crate) fn engine(&self, owner: Owner, lazy_pages_max: Pages) -> Engine<'_, Linear<'_>> {
        self.engine_of(owner, lazy_pages_max, None)
    }

    /// An engine that works for `owner`, who is `member`. Cheap: views, no state of its own.
    #[inline]
    pub(crate) fn engine_of<'a>(
        &'a self,
        owner: Owner,
        lazy_pages_max: Pages,
        member: Option<&'a dyn Recover>,
    ) -> Engine<'a, Linear<'a>> {
        let config = Config { window_start: Vpn(0), owner, lazy_pages_max };
        Engine::new(self.header().tables(&self.layout), Linear(self, member), config)
            .expect("the window begins at page 0, and slots of the header have a member's number")
    }

    /// The bytes of a run of the window, in the mapping: of a linear pool, in the file too.
    pub(crate) fn span(&self, pages: PageRange) -> Span {
        Span::new(self.data + pages.start.0 * PAGE_BYTES, pages.len.0 * PAGE_BYTES)
    }

    /// The bytes that an area's maker asked for, in the mapping.
    pub(crate) fn bytes_of(&self, area: &Area) -> Span {
        let span = self.span(area.pages);
        Span::new(span.start, area.bytes.min(span.len))
    }

    /// Held while this process follows a shared area that grew, or makes it grow.
    pub(crate) fn growing(&self) -> MutexGuard<'_, ()> {
        self.growing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the guard page of this process follow a shared area that grew, which `view` shows as it
    /// is now. Nothing to do if nobody here has it, or somebody has done it.
    pub(crate) fn guards_follow(&self, view: &View) -> Result<(), MapError> {
        let had = self.mapping.shared_pages(self.span(view.pages).start);
        if let Some(frames) = self.framed() {
            return if had == 0 { Ok(()) } else { frames.show(view) };
        }
        if had == 0 || had >= view.pages.len.0 || self.guards.are_placed(view) {
            return Ok(());
        }
        let (start, len) = (Vpn(view.pages.start.0 + had), Pages(view.pages.len.0 - had));
        let more = PageRange { start, len };
        self.guards.place_more(&self.mapping, self.data, view, more).map_err(refused)
    }

    /// As it must be before this process gets a view of `view`: its guard there, and none in it. Where
    /// it has a view already, that one's pages are as they should be.
    pub(crate) fn guards_ready(&self, view: &View) -> Result<(), MapError> {
        if let Some(frames) = self.framed() {
            return frames.show(view);
        }
        if self.mapping.counted_pages(self.span(view.pages).start) == 0 {
            return self.guards.place(&self.mapping, self.data, view).map_err(refused);
        }
        self.guards_follow(view)
    }

    /// Takes out whatever guards stand in the first bytes of area `id`, which are this process's.
    pub(crate) fn unguard(&self, id: AreaId, span: Span) -> Result<(), ViewError> {
        let start = Vpn((span.start - self.data) / PAGE_BYTES);
        let pages = PageRange { start, len: Pages::for_bytes(span.len) };
        let clean = self.guards.ensure_clean(id.0 as usize, &self.mapping, self.data, pages);
        clean.map_err(|_| ViewError::Taken { span })
    }

    /// The address of the window's first page in this process.
    pub(crate) fn window_base(&self) -> usize {
        self.mapping.base() + self.data as usize
    }

    fn all_words(&self) -> &[AtomicU64] {
        debug_assert!(self.words as u64 * 8 >= HEADER_BYTES);
        self.mapping.words(0, self.words).expect("the words are the mapping's first part")
    }

    fn charged(&self) -> &AtomicU64 {
        self.header().charged()
    }

    /// Takes `pages` of the pool's budget.
    fn charge(&self, pages: Pages) -> Result<(), BackError> {
        let limit = self.limit().0;
        let more = |now: u64| now.checked_add(pages.0).filter(|sum| *sum <= limit);
        // Relaxed: a number that guards no other memory.
        self.charged().fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map(drop).map_err(
            |now| BackError::NoFrames { wanted: pages, free: Pages(limit.saturating_sub(now)) },
        )
    }

    fn uncharge(&self, pages: Pages) {
        let less = |now: u64| Some(now.saturating_sub(pages.0));
        let _ = self.charged().fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

impl Machine for Linear<'_> {
    const IN_PLACE: bool = true;
    const BORROWS: bool = false;
    const FRESH_IS_ZERO: bool = true;
    // The data begins at a multiple of so much in every member, and of no more.
    const ALIGN_MAX: Pages = Pages(DATA_ALIGN_BYTES / PAGE_BYTES);

    fn capacity(&self) -> Pages {
        self.0.shape.capacity
    }

    fn free(&self) -> Pages {
        let charged = self.0.charged().load(Ordering::Relaxed);
        Pages(self.0.limit().0.saturating_sub(charged))
    }

    fn held(&self) -> Pages {
        Pages(self.0.charged().load(Ordering::Relaxed))
    }

    /// Where frames are shown run by run, another end would show all of them anew.
    fn refits(&self) -> bool {
        !self.0.shape.is_framed
    }

    /// A word of claims each, so that two threads do not write the same one. Where the window is
    /// short of addresses, areas lie close instead.
    fn huge_grid(&self) -> Option<PageRange> {
        let (shape, before) = (&self.0.shape, self.0.data / PAGE_BYTES);
        let huge = (shape.geometry.granules - shape.geometry.small_granules) as u64;
        let has_room = (huge << GRANULE_SHIFT) / GRID_RATIO >= shape.capacity.0;
        // Claims count from where the mapping begins, the window's pages from where it does.
        let first = Vpn(before.next_multiple_of(PAGES_A_WORD) - before);
        let grid = PageRange { start: first, len: Pages(PAGES_A_WORD) };
        Some(grid).filter(|_| has_room && !shape.is_framed)
    }

    fn may_wait(&self) -> bool {
        true
    }

    #[inline]
    fn lane(&self) -> Lane {
        lanes::mine()
    }

    fn wait_for_others(&self) {
        // The dead free nothing by themselves.
        if !self.1.is_some_and(Recover::recover_the_dead) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    fn commit_words(&self, words: Range<usize>) -> Result<(), NoMetadata> {
        let start = Shape::words_offset(words.start) / PAGE_BYTES;
        let end = Shape::words_offset(words.end).div_ceil(PAGE_BYTES);
        for page in start..end {
            let word = &self.0.committed[(page / 64) as usize];
            let bit = 1 << (page % 64);
            if word.load(Ordering::Acquire) & bit != 0 {
                continue;
            }
            let span = Span::new(page * PAGE_BYTES, PAGE_BYTES);
            let no_memory = NoMetadata { bytes: PAGE_BYTES };
            self.0.headroom.take(PAGE_BYTES, PAGE_BYTES).map_err(|_| no_memory)?;
            allocate(self.0.mapping.file(), span).map_err(|_| {
                self.0.headroom.put(PAGE_BYTES);
                no_memory
            })?;
            word.fetch_or(bit, Ordering::AcqRel);
        }
        Ok(())
    }

    /// The kernel chooses the frames, of a node if need be: a limit of the caller's is refused.
    fn back(&self, pages: PageRange, policy: FramePolicy) -> Result<Backing, BackError> {
        self.0.choose_frames(pages, policy)?;
        if let Some(frames) = self.0.framed() {
            self.0.charge(pages.len)?;
            let taken = frames.take(pages, policy.huge);
            return taken.map(|()| Backing(pages.len.0)).inspect_err(|_| {
                self.0.uncharge(pages.len);
            });
        }
        let cleared = self.0.guards.clear(&self.0.mapping, self.0.data, pages);
        cleared.map_err(|errno| BackError::Refused { errno: errno.raw_os_error() })?;
        self.0.charge(pages.len)?;
        let grain = if policy.huge { Grain::Huge } else { Grain::Small };
        let committed = commit(&self.0.mapping, self.0.span(pages), grain, &self.0.headroom);
        committed.map_err(|e| {
            self.0.uncharge(pages.len);
            back_error(e, pages.len)
        })?;
        Ok(Backing(pages.len.0))
    }

    fn adopt(&self, _frames: &[Extent]) -> Result<Backing, BackError> {
        Err(BackError::Unsupported)
    }

    fn borrow(&self, _backing: Backing, _generation: u64) -> Result<Pages, BackError> {
        Err(BackError::Unsupported)
    }

    fn is_exclusive(&self, _backing: Backing) -> bool {
        true
    }

    #[inline]
    fn map(&self, view: &View) -> Result<(), MapError> {
        if self.0.shown.is_none() {
            return self.0.guards.place(&self.0.mapping, self.0.data, view).map_err(refused);
        }
        self.0.framed().map_or(Ok(()), |frames| frames.show(view))
    }

    fn extend(
        &self,
        view: &View,
        more: PageRange,
        policy: FramePolicy,
    ) -> Result<Backing, BackError> {
        // Others may have made it grow before.
        self.0.guards_follow(view).map_err(|e| match e {
            MapError::Refused { errno } => BackError::Refused { errno },
            // The VMAs are spent.
            _ => BackError::Refused { errno: libc::ENOMEM },
        })?;
        self.back(more, policy)?;
        Ok(Backing(view.pages.len.0 + more.len.0))
    }

    fn map_more(&self, view: &View, more: PageRange) -> Result<(), MapError> {
        if let Some(frames) = self.0.framed() {
            return frames.show(view);
        }
        self.0.guards.place_more(&self.0.mapping, self.0.data, view, more).map_err(refused)
    }

    fn zero_more(&self, _view: &View, _more: PageRange) {
        // Never asked: what `extend` commits is zero.
    }

    fn truncate(&self, view: &View, pages: Pages) -> Backing {
        if let Some(frames) = self.0.framed() {
            let start = Vpn(view.pages.start.0 + pages.0);
            let len = Pages(view.slot.end().0.saturating_sub(start.0));
            self.0.uncharge(frames.give(PageRange { start, len }));
            return Backing(pages.0);
        }
        self.0.uncharge(Pages(view.pages.len.0.saturating_sub(pages.0)));
        Backing(pages.0)
    }

    fn publish(&self, _pages: PageRange) {}

    fn zero(&self, view: &View) {
        // It fails only where this process has a view of these pages, and then the caller will
        // not get one: nobody sees what was not zeroed.
        let _ = self.0.mapping.zero(self.0.span(view.pages));
    }

    fn unmap(&self, _pages: PageRange) {}

    fn flush(&self, ranges: &[PageRange]) -> Result<(), FlushError> {
        if let Some(frames) = self.0.framed() {
            let hide = |range: &PageRange| frames.hide(*range);
            let hidden = ranges.iter().try_for_each(hide);
            return hidden.map_err(|errno| FlushError { errno: errno.raw_os_error() });
        }
        let mut spans = [Span::new(0, 0); vmalloc_core::flush::BATCH];
        for (span, range) in spans.iter_mut().zip(ranges) {
            *span = self.0.span(*range);
        }
        let spans = &spans[..ranges.len()];
        self.0.mapping.punch(spans).map_err(|e| FlushError { errno: purge_errno(&e) })?;
        self.0.headroom.put(spans.iter().map(|span| span.len).sum());
        Ok(())
    }

    fn unback(&self, pages: PageRange, backing: Backing) {
        match self.0.framed() {
            Some(frames) => self.0.uncharge(frames.give(pages)),
            None => self.0.uncharge(Pages(backing.0)),
        }
    }

    fn translate(&self, page: Vpn) -> Option<(Pfn, Prot)> {
        let frame = self.0.framed()?.frame_of(page.0)?;
        Some((Pfn(frame), Prot::READ_WRITE))
    }

    fn read(&self, page: Vpn, offset: usize, out: &mut [u8]) -> bool {
        // Through the kernel: no reference of ours to memory that others write.
        if let Some(frames) = self.0.framed() {
            return frames.read(page.0, offset, out);
        }
        let start = self.0.span(PageRange { start: page, len: Pages(1) }).start;
        self.0.mapping.file().read_at(start + offset as u64, out)
    }

    fn recovered(&self, held: &dyn Fn() -> Option<Pages>) {
        for _ in 0..RECOUNTS_MAX {
            let due = self.0.header().recount_due();
            let before = self.0.charged().load(Ordering::SeqCst);
            if let Some(Pages(counted)) = held() {
                let charged = self.0.charged();
                let (success, failure) = (Ordering::SeqCst, Ordering::Relaxed);
                if charged.compare_exchange(before, counted, success, failure).is_ok() {
                    due.into_iter().for_each(|due| self.0.header().recount_done(due));
                    return;
                }
            }
            std::thread::yield_now();
        }
        // Others are too busy to count: the recount stays due, and until it is done the account is
        // off by what one call of the dead member was about.
    }
}

fn refused(errno: Errno) -> MapError {
    MapError::Refused { errno: errno.raw_os_error() }
}

fn back_error(error: CommitError, wanted: Pages) -> BackError {
    match error {
        CommitError::NoRoom(room) => {
            let spare = room.available.saturating_sub(room.reserve) / PAGE_BYTES;
            BackError::MachineFull { wanted, spare: Pages(spare) }
        }
        CommitError::NoMemory { .. } => BackError::MachineFull { wanted, spare: Pages(0) },
        CommitError::Os { errno, .. } => BackError::Refused { errno: errno.raw_os_error() },
        CommitError::NotUndone { cause, .. } => back_error(*cause, wanted),
        CommitError::View(_) => BackError::Refused { errno: libc::EINVAL },
    }
}

fn purge_errno(error: &PurgeError) -> i32 {
    match error {
        PurgeError::Punch(e) => e.errno.raw_os_error(),
        PurgeError::View(_) => libc::EBUSY,
    }
}

/// Backs pages of words, which others may be using already: what is there stays.
pub(crate) fn allocate(file: &PoolFile, span: Span) -> Result<(), Errno> {
    for _ in 0..64 {
        match file.allocate(span) {
            Err(Errno::INTR) => {} // a signal: nothing was added, ask again
            done => return done,
        }
    }
    Err(Errno::INTR)
}
