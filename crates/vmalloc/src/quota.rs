//! Quotas: how much of the pool one member may hold, and how much all may hold together.
//!
//! ```text
//!   limit   a word of the header: what the pool may hold now, at most its capacity
//!   quota   a word a member, and one for those that have none of their own
//!   used    here: what this member has asked for since it last counted ─over the quota?▶ count
//! ```
//!
//! No count of what a member holds is kept where a kill could make it wrong. Each process keeps an
//! upper bound for itself, and when that reaches the quota it adds up what the records say: areas
//! in use whose owner it is, published ones too, until they are freed or given away; parked ones
//! are nobody's. So a quota survives any death. Without a quota it costs two loads.
//!
//! Neighbours: [`crate::linear`] charges the budget of the whole pool, to the page.

use crate::linear::Ground;
use crate::member::Member;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use vmalloc_core::{Area, Kind, Owner, PAGE_SIZE, Pages};

/// Nobody has counted since there is a quota.
const UNKNOWN: u64 = u64::MAX;

/// A member asked for more than it may hold. Nothing was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OverQuota {
    /// Bytes it asked for, in whole pages.
    pub wanted_bytes: u64,
    /// Bytes of the areas it holds.
    pub used_bytes: u64,
    /// Bytes it may hold.
    pub quota_bytes: u64,
}

/// What this process knows of what it holds, in pages.
#[derive(Debug)]
pub(crate) struct Used {
    // At least what the records say, but for what is under way; or UNKNOWN.
    pages: AtomicU64,
    // Asked for, and not in the records yet.
    under_way: AtomicU64,
}

/// Pages that a call is about to take. They are under way until this is dropped, and held from
/// then on if the call says so.
pub(crate) struct Claimed<'a> {
    used: &'a Used,
    pages: u64,
    is_held: bool,
}

impl Used {
    pub(crate) const fn new() -> Used {
        Used { pages: AtomicU64::new(UNKNOWN), under_way: AtomicU64::new(0) }
    }
}

impl Member {
    /// Asks whether this member may hold `pages` more.
    #[inline]
    pub(crate) fn claim(&self, pages: Pages) -> Result<Claimed<'_>, OverQuota> {
        let used = &self.ground.used;
        let quota = self.ground.header().quota_of(self.me);
        let Some(quota) = quota else {
            // Relaxed, here and below: numbers that guard no other memory.
            if used.pages.load(Ordering::Relaxed) != UNKNOWN {
                used.pages.store(UNKNOWN, Ordering::Relaxed);
            }
            return Ok(Claimed { used, pages: 0, is_held: true });
        };
        self.claim_within(quota, pages)
    }

    /// The same, where there is a quota.
    #[cold]
    fn claim_within(&self, quota: Pages, pages: Pages) -> Result<Claimed<'_>, OverQuota> {
        let used = &self.ground.used;
        used.under_way.fetch_add(pages.0, Ordering::Relaxed);
        let claimed = Claimed { used, pages: pages.0, is_held: false };
        let known = used.pages.load(Ordering::Relaxed);
        let sum = known.saturating_add(pages.0);
        if known != UNKNOWN && sum <= quota.0 {
            used.pages.fetch_add(pages.0, Ordering::Relaxed);
            return Ok(claimed);
        }
        let engine = self.engine();
        let held = held_by(engine.areas(), self.me).0;
        let sum = held.saturating_add(used.under_way.load(Ordering::Relaxed));
        if sum > quota.0 {
            used.pages.store(sum.saturating_sub(pages.0), Ordering::Relaxed);
            claimed.held(); // it counts no more as under way, and was never counted as held
            let bytes = |pages: u64| pages.saturating_mul(PAGE_SIZE as u64);
            let used_bytes = bytes(sum.saturating_sub(pages.0));
            let (wanted_bytes, quota_bytes) = (bytes(pages.0), bytes(quota.0));
            return Err(OverQuota { wanted_bytes, used_bytes, quota_bytes });
        }
        used.pages.store(sum, Ordering::Relaxed);
        Ok(claimed)
    }

    /// Says that this member holds `pages` less. A load where there is no quota.
    #[inline]
    pub(crate) fn unclaim(&self, pages: Pages) {
        let used = &self.ground.used.pages;
        if used.load(Ordering::Relaxed) != UNKNOWN {
            less(used, pages.0);
        }
    }
}

impl Claimed<'_> {
    /// The call has succeeded.
    pub(crate) fn held(mut self) {
        self.is_held = true;
    }
}

impl Drop for Claimed<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.pages == 0 {
            return; // no quota
        }
        self.used.under_way.fetch_sub(self.pages, Ordering::Relaxed);
        if !self.is_held && self.used.pages.load(Ordering::Relaxed) != UNKNOWN {
            less(&self.used.pages, self.pages);
        }
    }
}

fn less(count: &AtomicU64, pages: u64) {
    let less = |now: u64| (now != UNKNOWN).then(|| now.saturating_sub(pages));
    let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
}

/// Pages of the areas that are `owner`'s: what counts against its quota.
pub(crate) fn held_by(areas: impl Iterator<Item = Area>, owner: Owner) -> Pages {
    let is_held = |area: &Area| {
        area.owner == Some(owner) && area.kind.is_in_use() && area.kind != Kind::Given
    };
    Pages(areas.filter(is_held).fold(0, |sum, area| sum.saturating_add(area.pages.len.0)))
}

impl Ground {
    /// Pages that the pool may hold now.
    pub(crate) fn limit(&self) -> Pages {
        self.header().limit().map_or(self.shape.capacity, |limit| limit.min(self.shape.capacity))
    }
}

impl fmt::Display for OverQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OverQuota { wanted_bytes, used_bytes, quota_bytes } = self;
        write!(
            f,
            "{wanted_bytes} bytes wanted; this member holds {used_bytes} of the {quota_bytes} it may"
        )
    }
}

impl std::error::Error for OverQuota {}
