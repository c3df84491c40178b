//! What a program may do with the bytes of an area: the three views.
//!
//! ```text
//!                                   ┌─freeze──▶ FrozenView: &[u8], any number in this process
//!   ExclusiveView: &mut [u8], one ──┤
//!                                   └─share───▶ SharedView: atomics and copies, any number
//! ```
//!
//! Making one needs no `unsafe` above this folder: each view takes a claim on its pages
//! ([`crate::os::claims`]), and gets an error where another view is in the way. The claim is the
//! whole proof for this process, whatever the pool's metadata says. For other processes there is
//! none and cannot be: that no other member writes under an exclusive or frozen view is the
//! protocol's promise, and a pool is one trust domain.
//!
//! What changes bytes behind everybody's back, giving frames back and committing (which undoes
//! itself by giving back), takes the same claims for as long as it runs.
//!
//! Views of areas that change their size are in `view/resize.rs`.
//!
//! Invariant: a view keeps its mapping, and its claim, for exactly as long as it lives. Order
//! matters on the way out: drop the view, then publish that the area is free.

mod resize;

use crate::os::claims::{Sharing, Taken};
use crate::os::file::PunchError;
use crate::os::map::Mapping;
use crate::os::{PAGE_BYTES, RangeError, Span, copy, poison};
use crate::spread::{Seat, Spread};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Why there is no view. Nothing was claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub(crate) enum ViewError {
    /// The run is empty, does not begin at a page, passes the end, or reaches into the words.
    Range(RangeError),
    /// Another view of this process is in the way. The pool's records contradict what this
    /// process holds: they are damaged, or this is a bug of ours.
    Taken { span: Span },
}

impl fmt::Display for ViewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ViewError::Range(error) => error.fmt(f),
            ViewError::Taken { span } => write!(f, "{span} are in use by this process already"),
        }
    }
}

impl std::error::Error for ViewError {}

/// Why [`Mapping::punch`] did not do all of its work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub(crate) enum PurgeError {
    /// A run is bad, or this process has a view of it. Nothing was punched.
    View(ViewError),
    /// The kernel refused. The runs before the one named are punched.
    Punch(PunchError),
}

impl fmt::Display for PurgeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PurgeError::View(error) => error.fmt(f),
            PurgeError::Punch(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PurgeError {}

/// A claim on the pages of `span`; `None` for exclusive.
#[derive(Debug)]
struct Claim {
    mapping: Arc<Seat<Mapping>>,
    span: Span,
    sharing: Option<Sharing>,
}

impl Claim {
    fn new(
        mapping: Arc<Seat<Mapping>>,
        span: Span,
        sharing: Option<Sharing>,
    ) -> Result<Claim, ViewError> {
        let limit = mapping.bytes();
        span.within(limit).map_err(ViewError::Range)?;
        if !span.start.is_multiple_of(PAGE_BYTES) {
            return Err(ViewError::Range(RangeError::Misaligned { span, align: PAGE_BYTES }));
        }
        if span.start < mapping.words_bytes() {
            return Err(ViewError::Range(RangeError::Outside { span, limit }));
        }
        let (first, len) = pages(span);
        match sharing {
            None => mapping.claims.take(first, len),
            Some(how) => mapping.claims.take_counted(first, len, how),
        }
        .map_err(|Taken| ViewError::Taken { span })?;
        poison::wake(&mapping, span);
        Ok(Claim { mapping, span, sharing })
    }

    /// Exclusive to counted.
    fn start(mut self, how: Sharing) -> Claim {
        debug_assert!(self.sharing.is_none());
        let (first, len) = pages(self.span);
        self.mapping.claims.start_counting(first, len, how);
        self.sharing = Some(how);
        self
    }

    /// One more holder of a counted claim.
    fn again(&self) -> Claim {
        debug_assert!(self.sharing.is_some());
        // The entry exists with this extent and kind, for `self` is counted in it.
        Claim::new(Arc::clone(&self.mapping), self.span, self.sharing)
            .expect("a counted claim that is held")
    }

    fn start_pointer(&self) -> *mut u8 {
        self.mapping.at(self.span.start).as_ptr()
    }

    fn len(&self) -> usize {
        self.span.len as usize
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let (first, len) = pages(self.span);
        match self.sharing {
            None => {
                poison::poison(&self.mapping, self.span);
                self.mapping.claims.put(first, len);
            }
            Some(_) => self.mapping.claims.put_counted(first),
        }
    }
}

/// The pages that a checked span touches: the first and how many.
fn pages(span: Span) -> (u64, u64) {
    (span.start / PAGE_BYTES, span.len.div_ceil(PAGE_BYTES))
}

/// Bytes that are mine alone: derefs to `&mut [u8]`. The claim is on whole pages.
#[derive(Debug)]
pub(crate) struct ExclusiveView(Claim);

/// Bytes that nobody writes any more: derefs to `&[u8]`. Cloning is one more holder.
#[derive(Debug)]
pub(crate) struct FrozenView(Claim);

/// Bytes that everybody may write: atomics and copies only. Cloning is one more holder.
#[derive(Debug)]
pub(crate) struct SharedView(Claim);

impl Spread<Mapping> {
    /// Views `span` as mine alone. `span` begins at a page, behind the words; its length is free.
    ///
    /// The caller owns the area by the protocol between members. Memory must have been committed,
    /// or a touch may end in SIGBUS. With its drop about 34 ns, 61 for a MiB, of which the claim is 15
    /// and 37.
    ///
    /// # Errors
    ///
    /// [`ViewError`].
    pub(crate) fn exclusive(&self, span: Span) -> Result<ExclusiveView, ViewError> {
        Claim::new(self.here(), span, None).map(ExclusiveView)
    }

    /// Views `span` as bytes that nobody writes; by the protocol, its owner froze it.
    ///
    /// # Errors
    ///
    /// [`ViewError`].
    pub(crate) fn frozen(&self, span: Span) -> Result<FrozenView, ViewError> {
        Claim::new(self.here(), span, Some(Sharing::Frozen)).map(FrozenView)
    }

    /// Views `span` as bytes that everybody may write.
    ///
    /// # Errors
    ///
    /// [`ViewError`].
    pub(crate) fn shared(&self, span: Span) -> Result<SharedView, ViewError> {
        Claim::new(self.here(), span, Some(Sharing::Shared)).map(SharedView)
    }

    /// Fills `span` with zeros, under a claim of its own: so it fails, and changes nothing, where
    /// this process has a view. 100 ns a page that is warm.
    ///
    /// # Errors
    ///
    /// [`ViewError`].
    pub(crate) fn zero(&self, span: Span) -> Result<(), ViewError> {
        self.exclusive(span)?.fill(0);
        Ok(())
    }
}

impl Mapping {
    /// Gives the memory behind `spans` (whole pages) back to the system, as
    /// [`crate::os::file::PoolFile::punch`] does, under claims of its own: so that no view of this
    /// process loses its bytes. Returns how many calls that were. Never allocates.
    ///
    /// # Errors
    ///
    /// [`PurgeError`]. Overlapping runs are in each other's way.
    pub(crate) fn punch(&self, spans: &[Span]) -> Result<u64, PurgeError> {
        let mut claimed = 0;
        let taken = spans.iter().try_for_each(|&span| {
            self.hold(span)?;
            claimed += 1;
            Ok(())
        });
        let result = match taken {
            Ok(()) => self.file().punch(spans).map_err(PurgeError::Punch),
            Err(error) => Err(PurgeError::View(error)),
        };
        for &span in &spans[..claimed] {
            self.release(span);
        }
        result
    }

    /// Does something to whole pages while no view of this process reaches them, nor can.
    ///
    /// # Errors
    ///
    /// [`ViewError`]; nothing was done.
    pub(crate) fn while_held<T>(
        &self,
        span: Span,
        act: impl FnOnce() -> T,
    ) -> Result<T, ViewError> {
        self.hold(span)?;
        let done = act();
        self.release(span);
        Ok(done)
    }

    /// Claims whole pages for this folder's own use, words included, until
    /// [`Mapping::release`].
    pub(in crate::os) fn hold(&self, span: Span) -> Result<(), ViewError> {
        span.within_aligned(self.bytes(), PAGE_BYTES).map_err(ViewError::Range)?;
        let (first, len) = pages(span);
        self.claims.take(first, len).map_err(|Taken| ViewError::Taken { span })?;
        poison::wake(self, span);
        Ok(())
    }

    /// Ends what [`Mapping::hold`] began.
    pub(in crate::os) fn release(&self, span: Span) {
        let (first, len) = pages(span);
        self.claims.put(first, len);
    }
}

impl ExclusiveView {
    /// No more writing, from now on: the same bytes for any number of readers.
    pub(crate) fn freeze(self) -> FrozenView {
        FrozenView(self.0.start(Sharing::Frozen))
    }

    /// The same bytes for any number of writers.
    pub(crate) fn share(self) -> SharedView {
        SharedView(self.0.start(Sharing::Shared))
    }
}

impl Deref for ExclusiveView {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY:
        // 1. The bytes are in the mapping: `Claim::new` checked the span, and the claim keeps the
        //    mapping alive. It does not shrink under us (invariant 1 of `crate::os`).
        // 2. Every byte is initialised: a page of the file is zeroed before it is first seen.
        // 3. No other view of this mapping reaches them: the claim is exclusive, and `words`
        //    stays below where claims begin. Writing through this view needs `&mut self`.
        // 4. No other process writes them: the protocol's promise (module docs).
        unsafe { std::slice::from_raw_parts(self.0.start_pointer(), self.0.len()) }
    }
}

impl DerefMut for ExclusiveView {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY:
        // 1. As in `deref`: mapped writable, initialised, reached by no other view, and by no
        //    other process.
        // 2. `&mut self` borrows the one view there is, so this is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.0.start_pointer(), self.0.len()) }
    }
}

impl Clone for FrozenView {
    fn clone(&self) -> FrozenView {
        FrozenView(self.0.again())
    }
}

impl Deref for FrozenView {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY:
        // 1. Mapped and initialised, as in `ExclusiveView::deref`.
        // 2. All views that reach these pages are frozen: a claim counts holders of one kind.
        //    None of them writes.
        // 3. No other process writes: the protocol's promise (module docs).
        unsafe { std::slice::from_raw_parts(self.0.start_pointer(), self.0.len()) }
    }
}

impl ExclusiveView {
    /// Where it lies in the pool.
    pub(crate) fn span(&self) -> Span {
        self.0.span
    }
}

impl FrozenView {
    /// Where it lies in the pool.
    pub(crate) fn span(&self) -> Span {
        self.0.span
    }
}

impl SharedView {
    /// Where it lies in the pool.
    pub(crate) fn span(&self) -> Span {
        self.0.span
    }

    /// All of it as words, for atomics. The last word may pass the length of the view: it is
    /// still inside the page, and nobody else's.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        let count = self.0.len().div_ceil(8);
        // SAFETY:
        // 1. The words are in the mapping and under the claim: it begins at a page and covers
        //    whole pages, and 8 divides a page.
        // 2. Every bit pattern is a valid `AtomicU64`.
        // 3. All views that reach these pages are shared ones: a claim counts holders of one
        //    kind, and they give out atomics only. So do other members, by the protocol.
        unsafe { std::slice::from_raw_parts(self.0.start_pointer().cast(), count) }
    }

    /// Copies `bytes` to byte `at` of the view. Others may read or write meanwhile: words arrive
    /// whole, in no order.
    ///
    /// # Errors
    ///
    /// [`RangeError`]: past the end. Nothing was copied. An empty copy is fine anywhere inside.
    pub(crate) fn copy_in(&self, at: u64, bytes: &[u8]) -> Result<(), RangeError> {
        let at = self.check(at, bytes.len())?;
        copy::copy_in(self.words(), at, bytes);
        Ok(())
    }

    /// Copies from byte `at` of the view to `out`. Others may write meanwhile: `out` may mix old
    /// and new words.
    ///
    /// # Errors
    ///
    /// [`RangeError`]: past the end. Nothing was copied. An empty copy is fine anywhere inside.
    pub(crate) fn copy_out(&self, at: u64, out: &mut [u8]) -> Result<(), RangeError> {
        let at = self.check(at, out.len())?;
        copy::copy_out(self.words(), at, out);
        Ok(())
    }

    fn check(&self, at: u64, len: usize) -> Result<usize, RangeError> {
        let span = Span::new(at, len as u64);
        match span.end() {
            Some(end) if end <= self.0.span.len => Ok(at as usize),
            _ => Err(RangeError::Outside { span, limit: self.0.span.len }),
        }
    }
}

impl Clone for SharedView {
    fn clone(&self) -> SharedView {
        SharedView(self.0.again())
    }
}
