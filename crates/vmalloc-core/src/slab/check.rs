//! Looking at all of a cache's slabs: totals, and the check of the invariants.
//!
//! Nothing is counted while objects come and go, so nothing can be counted wrong: what there is to
//! know stands in the records, and is read from them when somebody asks. Linux:
//! `/proc/slabinfo`, `validate_slab_cache`.

use super::KmemCache;
use super::error::VerifyError;
use super::occupancy::Tag;
use super::table::FrameTag;
use crate::platform::{Frames, Ram};
use crate::units::{Extent, Order, Pages, Pfn};
use core::fmt;

/// Totals of a cache, recounted from the records. Linux: a line of `/proc/slabinfo`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CacheStats {
    /// Bytes from one object to the next.
    pub stride_bytes: usize,
    /// Objects in a slab.
    pub objects_a_slab: usize,
    /// The order of a slab's frames.
    pub order: Order,
    /// Slabs.
    pub slabs: usize,
    /// Objects that somebody owns.
    pub owned: usize,
    /// Frames of all slabs.
    pub frames: Pages,
    /// Objects that magazines and depot remember.
    pub rounds: usize,
    /// The most that they can.
    pub rounds_max: usize,
}

impl<F: Frames, R: Ram> KmemCache<'_, F, R> {
    /// Totals, recounted: looks at every record of the table.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let mut stats = CacheStats {
            stride_bytes: self.shape.stride as usize,
            objects_a_slab: self.shape.objects,
            order: self.shape.order,
            rounds: self.magazines.rounds(),
            rounds_max: self.magazines.rounds_max(),
            ..CacheStats::default()
        };
        for slab in 0..self.slabs.slabs_max() {
            if let Some((record, _)) = self.slab(slab) {
                stats.slabs += 1;
                stats.owned += record.owned(self.shape.objects);
                stats.frames.0 += self.shape.order.pages().0;
            }
        }
        stats
    }

    /// Checks the invariants of this cache; nobody may be at work. See also [`super::Slabs::verify`].
    ///
    /// # Errors
    ///
    /// [`VerifyError`]: which one, where.
    pub fn verify(&self) -> Result<CacheStats, VerifyError> {
        let stats = self.stats();
        for slab in 0..self.slabs.slabs_max() {
            let Some((record, Tag { base, .. })) = self.slab(slab) else { continue };
            let run = Extent { start: base, len: self.shape.order.pages() };
            let lost = |&pfn: &Pfn| self.slabs.tag_of(pfn) != FrameTag::Slab(slab);
            if !base.0.is_multiple_of(run.len.0) {
                return Err(VerifyError::Misplaced { slab, base });
            }
            if let Some(pfn) = (base.0..run.end().0).map(Pfn).find(lost) {
                return Err(VerifyError::Lost { slab, pfn });
            }
            if let Some((word, bits)) = record.damage(self.shape.objects) {
                return Err(VerifyError::Occupancy { slab, word, bits });
            }
            if record.has_room(self.shape.objects) && !self.room.contains(slab) {
                return Err(VerifyError::Hint { slab });
            }
        }
        let (rounds, max) = (stats.rounds, stats.rounds_max);
        if rounds > max { Err(VerifyError::Rounds { rounds, max }) } else { Ok(stats) }
    }
}

impl<F: Frames, R: Ram> fmt::Debug for KmemCache<'_, F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KmemCache({}, {:?})", self.number, self.stats())
    }
}
