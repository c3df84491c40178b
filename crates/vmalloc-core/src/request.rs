//! Stage 1, plan: what the caller asked for becomes what the engine will do.
//!
//! ```text
//!   Request { bytes, align, zeroed, … } ─plan▶ Plan { pages, guard, span, zone, … } ─▶ reserve
//! ```
//!
//! Everything that can be refused without looking at any state is refused here, with the value
//! that was wrong. Linux: the first checks of `__vmalloc_node_range`.

use crate::error::AllocError;
use crate::layout::Geometry;
use crate::planted::{Bug, is_planted};
use crate::policy::{FramePolicy, NodeChoice, NodeId};
use crate::record::flags;
use crate::slots::{HUGE_ZONE, PLACED_ZONE, Wanted};
use crate::units::{PAGE_SIZE, PageRange, Pages, Vpn};

/// The pages of a huge page: 512, 2 MiB.
pub const HUGE_PAGES: u64 = 512;

/// What a caller asks for. Begin with [`Request::bytes`].
///
/// ```
/// # use vmalloc_core::Request;
/// let request = Request::bytes(3 << 20).zeroed().align_bytes(1 << 16).caller(42);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    bytes: u64,
    align_bytes: u64,
    zeroed: bool,
    guard: bool,
    may_wait: bool,
    no_fail: bool,
    within: Option<PageRange>,
    // The policy is in it, too.
    flags: u64,
    caller: u64,
}

impl Request {
    /// `bytes` bytes, page-aligned, writable, contents undefined, with a guard page behind.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Request {
        Request {
            bytes,
            align_bytes: PAGE_SIZE as u64,
            zeroed: false,
            guard: true,
            may_wait: true,
            no_fail: false,
            within: None,
            flags: 0,
            caller: 0,
        }
    }

    /// `count` elements of `size_bytes` bytes. A product that overflows is refused like any other
    /// size that is too big. Linux: `vmalloc_array`, `vcalloc`.
    #[must_use]
    pub const fn array(count: u64, size_bytes: u64) -> Request {
        Request::bytes(count.saturating_mul(size_bytes))
    }

    /// Never waits for a purge: if there is no room, a parked area of the same size or larger
    /// will do, or else the call fails. Linux: `GFP_NOWAIT`, `GFP_ATOMIC`, which fail while the
    /// lazy list is full.
    #[must_use]
    pub const fn no_wait(self) -> Request {
        Request { may_wait: false, ..self }
    }

    /// Must not fail for want of memory: purges, asks the engine's shrinkers, waits for others to
    /// free something, and tries again, for as long as it takes. What can never be served is an
    /// error at once; so is a request that may not wait, which Linux lets fail in silence. Linux:
    /// `__GFP_NOFAIL`.
    #[must_use]
    pub const fn no_fail(self) -> Request {
        Request { no_fail: true, ..self }
    }

    /// Out of frames of `node`, if it has them, else of others. Linux: `vmalloc_node`,
    /// `vzalloc_node`.
    #[must_use]
    pub const fn node(self, node: NodeId) -> Request {
        self.policy(FramePolicy { node: NodeChoice::Prefer(node), ..FramePolicy::of(self.flags) })
    }

    /// Out of frames of `node` and of no other. Linux: `__GFP_THISNODE`.
    #[must_use]
    pub const fn this_node(self, node: NodeId) -> Request {
        self.policy(FramePolicy { node: NodeChoice::Only(node), ..FramePolicy::of(self.flags) })
    }

    /// Out of frames below physical address 2^`log2`, for a device that drives so many address
    /// lines. Linux: `vmalloc_32` (`GFP_DMA32`), which is `below_log2(32)`, and `GFP_DMA`; its
    /// `vmalloc_32_user` is this with [`Request::user`].
    #[must_use]
    pub const fn below_log2(self, log2: u8) -> Request {
        self.policy(FramePolicy { below_log2: Some(log2), ..FramePolicy::of(self.flags) })
    }

    const fn policy(self, policy: FramePolicy) -> Request {
        Request { flags: self.flags & !FramePolicy::BITS | policy.bits(), ..self }
    }

    /// At pages of `range` only, guard page included. Such an area begins at a multiple of 128
    /// pages or in a slot that was there, and is never used again by reviving it. Linux: the
    /// `start` and `end` of `__vmalloc_node_range`.
    #[must_use]
    pub const fn within(self, range: PageRange) -> Request {
        Request { within: Some(range), flags: self.flags | flags::PLACED, ..self }
    }

    /// The bytes asked for.
    #[must_use]
    pub const fn len_bytes(&self) -> u64 {
        self.bytes
    }

    /// The alignment asked for; see [`Request::align_bytes`].
    #[must_use]
    pub const fn alignment_bytes(&self) -> u64 {
        self.align_bytes
    }

    /// Whether zeros are asked for: after [`Request::zeroed`].
    #[must_use]
    pub const fn is_zeroed(&self) -> bool {
        self.zeroed
    }

    /// Whether waiting is allowed: not after [`Request::no_wait`].
    #[must_use]
    pub const fn may_wait(&self) -> bool {
        self.may_wait
    }

    /// Filled with zeros. Linux: `vzalloc`, `__GFP_ZERO`.
    #[must_use]
    pub const fn zeroed(self) -> Request {
        Request { zeroed: true, ..self }
    }

    /// At a multiple of `align_bytes`, a power of two; below a page means a page.
    #[must_use]
    pub const fn align_bytes(self, align_bytes: u64) -> Request {
        Request { align_bytes, ..self }
    }

    /// Without a guard page. Linux: `VM_NO_GUARD`.
    #[must_use]
    pub const fn no_guard(self) -> Request {
        Request { guard: false, ..self }
    }

    /// With huge pages where they fit: 2 MiB and more. Linux: `vmalloc_huge`.
    #[must_use]
    pub const fn huge(self) -> Request {
        Request { flags: self.flags | flags::HUGE, ..self }
    }

    /// Memory that a user may come to see: zeroed, marked [`flags::USERMAP`], and at an address
    /// that the machine's caches tell apart from no user's ([`Machine::user_align`]). Linux:
    /// `vmalloc_user`.
    ///
    /// [`Machine::user_align`]: crate::Machine::user_align
    #[must_use]
    pub const fn user(self) -> Request {
        Request { zeroed: true, flags: self.flags | flags::USERMAP, ..self }
    }

    /// Loads only.
    #[must_use]
    pub const fn read_only(self) -> Request {
        Request { flags: self.flags | flags::READ_ONLY, ..self }
    }

    /// Never parked for reuse: unmapped as soon as it is freed and waiting is allowed, which
    /// catches a use after free.
    #[must_use]
    pub const fn no_reuse(self) -> Request {
        Request { flags: self.flags | flags::NO_REUSE, ..self }
    }

    /// A number that says who asked; shown in `vmallocinfo`. Linux: `vm_struct::caller`.
    #[must_use]
    pub const fn caller(self, caller: u64) -> Request {
        Request { caller, ..self }
    }

    /// Marks the area with bits of [`flags`].
    pub(crate) const fn with_flags(self, bits: u64) -> Request {
        Request { flags: self.flags | bits, ..self }
    }

    /// Checks the request and works out pages, guard and place.
    ///
    /// # Errors
    ///
    /// `ZeroSize`, `TooBig`, `BadAlign`, `BadRange`, `MustWait`: the caller's arguments; no retry
    /// will help.
    #[inline]
    pub(crate) fn plan(&self, geometry: &Geometry, limits: &Limits) -> Result<Plan, AllocError> {
        let pages = Pages::for_bytes(self.bytes);
        let guard = Pages(u64::from(self.guard && !is_planted(Bug::GuardForgotten)));
        let limit = limits.capacity.min(Pages(geometry.pages().0.saturating_sub(guard.0)));
        let mut align = Pages::for_bytes(self.align_bytes);
        let is_sound = self.bytes != 0
            && pages <= limit
            && self.align_bytes.is_power_of_two()
            && align <= limits.align_max
            && (self.may_wait || !self.no_fail);
        if !is_sound {
            return Err(self.refusal(limit, limits.align_max));
        }
        if self.flags & flags::USERMAP != 0 {
            align = align.max(limits.user_align);
        }
        let within = PageRange { start: Vpn(0), len: geometry.pages() };
        let mut want = Wanted { span: Pages(pages.0 + guard.0), align, zone: 0, within };
        let mut flags = self.flags;
        if flags & flags::HUGE != 0 && pages.0 < HUGE_PAGES {
            flags &= !flags::HUGE;
        }
        if flags & (flags::HUGE | flags::PLACED) != 0 {
            want = self.placed(want, flags, geometry, limits)?;
        }
        let Request { bytes, zeroed, may_wait, no_fail, caller, .. } = *self;
        Ok(Plan { bytes, pages, guard, want, zeroed, may_wait, no_fail, flags, caller })
    }

    /// What is wrong with a request that cannot be served; the first reason of several.
    #[cold]
    fn refusal(&self, limit: Pages, align_max: Pages) -> AllocError {
        let Request { bytes, align_bytes, .. } = *self;
        if bytes == 0 {
            AllocError::ZeroSize
        } else if Pages::for_bytes(bytes) > limit {
            AllocError::TooBig { bytes, limit }
        } else if !align_bytes.is_power_of_two() || Pages::for_bytes(align_bytes) > align_max {
            AllocError::BadAlign { align_bytes, align_max_bytes: align_max.bytes() }
        } else {
            AllocError::MustWait
        }
    }

    /// The place of an area in huge pages, or in a range that the caller chose.
    fn placed(
        &self,
        want: Wanted,
        flags: u64,
        geometry: &Geometry,
        limits: &Limits,
    ) -> Result<Wanted, AllocError> {
        let mut want = want;
        if flags & flags::HUGE != 0 && geometry.small_granules < geometry.granules {
            want.zone = HUGE_ZONE;
            // Whole huge pages each, so that the next one begins at a multiple again.
            want.span = Pages(want.span.0.next_multiple_of(HUGE_PAGES));
            want.align = want.align.max(Pages(HUGE_PAGES));
        }
        if let Some(range) = self.within {
            want.within = offsets_in(range, want.span, geometry, limits)?;
            want.zone = PLACED_ZONE;
        }
        Ok(want)
    }
}

/// `range` as offsets in the window, if an area of `span` pages has room in it at all.
fn offsets_in(
    range: PageRange,
    span: Pages,
    geometry: &Geometry,
    limits: &Limits,
) -> Result<PageRange, AllocError> {
    let window = PageRange { start: limits.start, len: geometry.pages() };
    let inside = range.start >= window.start
        && range.start.0.checked_add(range.len.0).is_some_and(|end| end <= window.end().0);
    if !inside || range.len < span {
        return Err(AllocError::BadRange { range, wanted: span, window });
    }
    Ok(PageRange { start: Vpn(range.start.0 - window.start.0), len: range.len })
}

/// What a machine can serve at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    pub(crate) capacity: Pages,
    pub(crate) align_max: Pages,
    pub(crate) user_align: Pages,
    pub(crate) start: Vpn,
}

/// A request that has been checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    pub(crate) bytes: u64,
    pub(crate) pages: Pages,
    pub(crate) guard: Pages,
    pub(crate) want: Wanted,
    pub(crate) zeroed: bool,
    pub(crate) may_wait: bool,
    pub(crate) no_fail: bool,
    pub(crate) flags: u64,
    pub(crate) caller: u64,
}

#[cfg(test)]
mod tests;
