//! Views of areas that change their size where they lie.
//!
//! ```text
//!   longer:  the pool commits what is behind the view, then the view claims it
//!   shorter: the view lets go of its tail, then the pool punches it
//! ```
//!
//! The claim is never given up in between, so that nobody in this process can get a view of what
//! this one still shows. Shared views only grow: a slice that somebody has of one stays good.

use super::{Claim, ExclusiveView, SharedView, ViewError, pages};
use crate::os::claims::Taken;
use crate::os::keep::Keep;
use crate::os::map::Mapping;
use crate::os::{Span, poison};

impl<K: Keep> ExclusiveView<K> {
    /// Shows `len` bytes from its first on. What is shorter lets go of whole pages at once; what is
    /// longer claims them.
    ///
    /// # Errors
    ///
    /// [`ViewError`]; the view is as it was. Never for a view that becomes shorter.
    pub(crate) fn resize(&mut self, len: u64) -> Result<(), ViewError> {
        let span = self.0.resized(len)?;
        let claim = &mut self.0;
        let mapping = claim.keeper.mapping();
        let ((first, old), (_, new)) = (pages(claim.span), pages(span));
        if new > old {
            let taken = mapping.claims.take(first + old, new - old);
            taken.map_err(|Taken| ViewError::Taken { span })?;
            poison::wake(mapping, span);
        } else if new < old {
            mapping.claims.shorten(first, old, new);
        }
        claim.span = span;
        Ok(())
    }
}

impl<K: Keep> SharedView<K> {
    /// Shows `len` bytes from its first on, which are no fewer than now.
    ///
    /// # Errors
    ///
    /// [`ViewError`]; the view is as it was.
    pub(crate) fn grow(&mut self, len: u64) -> Result<(), ViewError> {
        let span = self.0.resized(len.max(self.0.span.len))?;
        self.0.keeper.mapping().grow_shared(span)?;
        self.0.span = span;
        Ok(())
    }
}

impl<K: Keep> Claim<K> {
    /// Where it would be with `len` bytes: within the mapping, and not where it has ended, for then it
    /// has no place.
    fn resized(&self, len: u64) -> Result<Span, ViewError> {
        let limit = if self.span.len == 0 { 0 } else { self.keeper.mapping().bytes() };
        Span::new(self.span.start, len).within(limit).map_err(ViewError::Range)
    }
}

impl Mapping {
    /// Makes the claim of the shared views that begin where `span` does, if there are any, as long
    /// as `span`.
    ///
    /// # Errors
    ///
    /// [`ViewError`]; the claim is as it was.
    pub(crate) fn grow_shared(&self, span: Span) -> Result<(), ViewError> {
        span.within(self.bytes()).map_err(ViewError::Range)?;
        let (first, len) = pages(span);
        let grown = self.claims.lengthen_counted(first, len);
        let is_grown = grown.map_err(|Taken| ViewError::Taken { span })?;
        if is_grown {
            poison::wake(self, span);
        }
        Ok(())
    }

    /// How many pages the published views have that begin at byte `start`; 0 if there are none.
    pub(crate) fn counted_pages(&self, start: u64) -> u64 {
        self.claims.counted_len(start / crate::os::PAGE_BYTES).unwrap_or(0)
    }

    /// How many pages the shared views have that begin at byte `start`; 0 if there are none.
    pub(crate) fn shared_pages(&self, start: u64) -> u64 {
        self.claims.shared_len(start / crate::os::PAGE_BYTES).unwrap_or(0)
    }
}
