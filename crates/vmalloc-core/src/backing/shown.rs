//! Which frames a backing shows, for `vmap` of the same frames again.

use super::{Backings, EXTENTS, HEAD, HINTS, INLINE, INLINE_MAX, LEN_MAX, PER_FRAME};
use super::{PFN_MAX, USERS, USERS_MAX, pack};
use crate::platform::Ram;
use crate::sync::{AtomicU64, Ordering};
use crate::units::{Extent, Pages, Pfn};

/// 2^64 over the golden ratio: neighbouring frames are far apart.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl<'a> Backings<'a> {
    /// The word for areas that show frames that begin with `first`.
    #[inline]
    pub(crate) fn hint(&self, first: Pfn) -> &'a AtomicU64 {
        let hash = first.0.wrapping_mul(SPREAD) >> (u64::BITS - HINTS.ilog2());
        &self.hints[hash as usize]
    }

    /// The pages of a backing with one user, if its extents are those of `frames`, neighbours merged.
    /// One whose chain is longer than a frame is not compared. Others may be dissolving it meanwhile:
    /// then the answer means nothing, and the caller finds the record's state changed.
    #[inline]
    pub(crate) fn shows<R: Ram>(&self, name: u64, frames: &[Extent], ram: &R) -> Option<Pages> {
        let index = self.index_of(name)?;
        let word = |i: usize| self.word(index, i).load(Ordering::Acquire);
        let extents = word(EXTENTS) as usize;
        if word(USERS) & USERS_MAX != 1 || extents > INLINE_MAX + PER_FRAME {
            return None;
        }
        let inline = [word(INLINE), word(INLINE + 1)];
        // Its own words only: a chain's frame may be somebody's by now.
        let chained = match word(HEAD).checked_sub(1) {
            Some(pfn) if extents > INLINE_MAX => &ram.words(Pfn(pfn))[2..][..extents - INLINE_MAX],
            _ => &[],
        };
        let inline = inline.iter().copied().take(extents);
        let mut shown = inline.chain(chained.iter().map(|word| word.load(Ordering::Relaxed)));
        let (first, rest) = frames.split_first()?;
        let (mut run, mut pages) = (*first, first.len.0);
        for next in rest {
            pages = pages.checked_add(next.len.0)?;
            if run.start.0.checked_add(run.len.0)? == next.start.0 {
                run.len.0 += next.len.0;
                continue;
            }
            if shown.next()? != packed(run)? {
                return None;
            }
            run = *next;
        }
        (shown.next()? == packed(run)? && shown.next().is_none()).then_some(Pages(pages))
    }
}

/// The word of an extent, if it has one.
#[inline]
fn packed(run: Extent) -> Option<u64> {
    (run.start.0 < PFN_MAX && run.len.0 <= LEN_MAX).then(|| pack(run))
}
