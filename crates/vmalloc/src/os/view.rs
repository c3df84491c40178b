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
//! Invariant: a view keeps its mapping for as long as it lives, and its claim until it ends. Order
//! matters on the way out: end the view, then publish that the area is free.

mod resize;

use crate::os::claims::{Sharing, Taken};
use crate::os::file::PunchError;
use crate::os::keep::Keep;
use crate::os::map::Mapping;
use crate::os::{PAGE_BYTES, RangeError, Span, copy, poison};
use std::fmt;
use std::ops::{Deref, DerefMut};
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

/// A claim on the pages of `span`, until that is empty; `None` for exclusive.
#[derive(Debug)]
struct Claim<K: Keep> {
    keeper: K,
    span: Span,
    sharing: Option<Sharing>,
}

impl<K: Keep> Claim<K> {
    #[inline]
    fn new(keeper: K, span: Span, sharing: Option<Sharing>) -> Result<Claim<K>, ViewError> {
        let mapping = keeper.mapping();
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
        poison::wake(mapping, span);
        Ok(Claim { keeper, span, sharing })
    }

    /// Exclusive to counted, under a keeper of its own; what was exclusive has ended.
    fn start(&mut self, how: Sharing) -> Claim<K>
    where
        K: Clone,
    {
        debug_assert!(self.sharing.is_none());
        let (first, len) = pages(self.span);
        self.keeper.mapping().claims.start_counting(first, len, how);
        let span = std::mem::replace(&mut self.span, ENDED);
        Claim { keeper: self.keeper.clone(), span, sharing: Some(how) }
    }

    /// One more holder of a counted claim.
    fn again(&self) -> Claim<K>
    where
        K: Clone,
    {
        debug_assert!(self.sharing.is_some());
        // The entry exists with this extent and kind, for `self` is counted in it.
        Claim::new(self.keeper.clone(), self.span, self.sharing)
            .expect("a counted claim that is held")
    }

    /// Gives the pages back. From here on it claims none, and shows no byte.
    #[inline]
    fn end(&mut self) {
        let span = std::mem::replace(&mut self.span, ENDED);
        if span.len == 0 {
            return; // before
        }
        let (mapping, (first, len)) = (self.keeper.mapping(), pages(span));
        match self.sharing {
            None => {
                poison::poison(mapping, span);
                mapping.claims.put(first, len);
            }
            Some(_) => mapping.claims.put_counted(first),
        }
    }

    fn start_pointer(&self) -> *mut u8 {
        self.keeper.mapping().at(self.span.start).as_ptr()
    }

    fn len(&self) -> usize {
        self.span.len as usize
    }
}

/// What a claim that has ended claims.
const ENDED: Span = Span { start: 0, len: 0 };

impl<K: Keep> Drop for Claim<K> {
    #[inline]
    fn drop(&mut self) {
        self.end();
    }
}

/// The pages that a checked span touches: the first and how many.
fn pages(span: Span) -> (u64, u64) {
    (span.start / PAGE_BYTES, span.len.div_ceil(PAGE_BYTES))
}

/// Bytes that are mine alone: derefs to `&mut [u8]`. The claim is on whole pages.
#[derive(Debug)]
pub(crate) struct ExclusiveView<K: Keep>(Claim<K>);

/// Bytes that nobody writes any more: derefs to `&[u8]`. Cloning is one more holder.
#[derive(Debug)]
pub(crate) struct FrozenView<K: Keep>(Claim<K>);

/// Bytes that everybody may write: atomics and copies only. Cloning is one more holder.
#[derive(Debug)]
pub(crate) struct SharedView<K: Keep>(Claim<K>);

impl<K: Keep> ExclusiveView<K> {
    /// Views `span` of the keeper's mapping as mine alone. `span` begins at a page, behind the words;
    /// its length is free.
    ///
    /// The caller owns the area by the protocol between members. Memory must have been committed,
    /// or a touch may end in SIGBUS. Costs what its claim does ([`crate::os::claims`]).
    ///
    /// # Errors
    ///
    /// [`ViewError`].
    #[inline]
    pub(crate) fn new(keeper: K, span: Span) -> Result<ExclusiveView<K>, ViewError> {
        Claim::new(keeper, span, None).map(ExclusiveView)
    }

    /// No more writing, from now on: the same bytes for any number of readers. This view ends.
    pub(crate) fn freeze(&mut self) -> FrozenView<K>
    where
        K: Clone,
    {
        FrozenView(self.0.start(Sharing::Frozen))
    }

    /// The same bytes for any number of writers. This view ends.
    pub(crate) fn share(&mut self) -> SharedView<K>
    where
        K: Clone,
    {
        SharedView(self.0.start(Sharing::Shared))
    }

    /// Lets go of its pages: it has no bytes from here on, and keeps its keeper.
    #[inline]
    pub(crate) fn end(&mut self) {
        self.0.end();
    }

    /// What keeps it.
    #[inline]
    pub(crate) fn keeper(&self) -> &K {
        &self.0.keeper
    }

    /// Whether it has let go of its pages.
    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        self.0.span.len == 0
    }
}

impl<K: Keep> FrozenView<K> {
    /// Views `span` as bytes that nobody writes; by the protocol, its owner froze it.
    ///
    /// # Errors
    ///
    /// [`ViewError`].
    pub(crate) fn new(keeper: K, span: Span) -> Result<FrozenView<K>, ViewError> {
        Claim::new(keeper, span, Some(Sharing::Frozen)).map(FrozenView)
    }
}

impl<K: Keep> SharedView<K> {
    /// Views `span` as bytes that everybody may write.
    ///
    /// # Errors
    ///
    /// [`ViewError`].
    pub(crate) fn new(keeper: K, span: Span) -> Result<SharedView<K>, ViewError> {
        Claim::new(keeper, span, Some(Sharing::Shared)).map(SharedView)
    }
}

/// A view of what is published, of either kind.
pub(crate) trait Published<K> {
    /// What keeps it.
    fn keeper(&self) -> &K;

    /// Lets go of its pages: it has no bytes from here on, and keeps its keeper.
    fn end(&mut self);
}

impl<K: Keep> Published<K> for FrozenView<K> {
    fn keeper(&self) -> &K {
        &self.0.keeper
    }

    fn end(&mut self) {
        self.0.end();
    }
}

impl<K: Keep> Published<K> for SharedView<K> {
    fn keeper(&self) -> &K {
        &self.0.keeper
    }

    fn end(&mut self) {
        self.0.end();
    }
}

impl Mapping {
    /// Fills `span` with zeros, under a claim of its own: so it fails, and changes nothing, where
    /// this process has a view. 100 ns a page that is warm.
    ///
    /// # Errors
    ///
    /// [`ViewError`].
    pub(crate) fn zero(&self, span: Span) -> Result<(), ViewError> {
        ExclusiveView::new(self, span)?.fill(0);
        Ok(())
    }

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

impl<K: Keep> Deref for ExclusiveView<K> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY:
        // 1. The bytes are in the mapping: `Claim::new` checked the span (an ended claim's is empty,
        //    at byte 0), and the keeper keeps the mapping alive. It does not shrink under us
        //    (invariant 1 of `crate::os`).
        // 2. Every byte is initialised: a page of the file is zeroed before it is first seen.
        // 3. No other view of this mapping reaches them: the claim is exclusive, and `words`
        //    stays below where claims begin. Writing through this view needs `&mut self`.
        // 4. No other process writes them: the protocol's promise (module docs).
        unsafe { std::slice::from_raw_parts(self.0.start_pointer(), self.0.len()) }
    }
}

impl<K: Keep> DerefMut for ExclusiveView<K> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY:
        // 1. As in `deref`: mapped writable, initialised, reached by no other view, and by no
        //    other process.
        // 2. `&mut self` borrows the one view there is, so this is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.0.start_pointer(), self.0.len()) }
    }
}

impl<K: Keep + Clone> Clone for FrozenView<K> {
    fn clone(&self) -> FrozenView<K> {
        FrozenView(self.0.again())
    }
}

impl<K: Keep> Deref for FrozenView<K> {
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

impl<K: Keep> ExclusiveView<K> {
    /// Where it lies in the pool.
    pub(crate) fn span(&self) -> Span {
        self.0.span
    }
}

impl<K: Keep> FrozenView<K> {
    /// Where it lies in the pool.
    pub(crate) fn span(&self) -> Span {
        self.0.span
    }
}

impl<K: Keep> SharedView<K> {
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

impl<K: Keep + Clone> Clone for SharedView<K> {
    fn clone(&self) -> SharedView<K> {
        SharedView(self.0.again())
    }
}
