//! What can go wrong, one enum a verb, with the values that were wrong.
//!
//! Every variant's first line says what was wrong; the enum's says what state the engine is in
//! afterwards. Linux answers most of these with NULL and a line in the log.

use crate::layout::GeometryError;
use crate::machine::{BackError, FlushError, NoMetadata};
use crate::platform::MapError;
use crate::tag::Owner;
use crate::units::{PageRange, Pages, VirtAddr};
use core::fmt;

/// Why `vmalloc`, `vzalloc` or `vmap` failed. Nothing was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AllocError {
    /// The size is 0.
    ZeroSize,
    /// `bytes` is more than the pool or the window can ever hold (an overflow shows here, too).
    TooBig {
        /// What was asked for.
        bytes: u64,
        /// The most that any request can have.
        limit: Pages,
    },
    /// The alignment is not a power of two, or more than this machine can keep.
    BadAlign {
        /// What was asked for, in bytes.
        align_bytes: u64,
        /// The most that is possible, in bytes.
        align_max_bytes: u64,
    },
    /// The range that was asked for is too short, or not in the window.
    BadRange {
        /// What was asked for.
        range: PageRange,
        /// Pages wanted, guard included.
        wanted: Pages,
        /// The window.
        window: PageRange,
    },
    /// A request that must not fail has to wait, and this one, or this context, may not.
    MustWait,
    /// No hole in the window holds `wanted` pages (guard included).
    NoHole {
        /// Pages wanted, guard included.
        wanted: Pages,
        /// The largest hole, in whole granules.
        largest: Pages,
    },
    /// No frames, or no machine memory behind them.
    Back(BackError),
    /// The pages could not be mapped.
    Map(MapError),
    /// The machine has no memory for the area's record.
    NoMetadata(NoMetadata),
}

/// Why `vfree`, `vunmap` or `free` failed. Nothing was freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FreeError {
    /// The address is 0.
    Null,
    /// The address lies outside the window: it never came from here.
    Stranger {
        /// The address given.
        addr: VirtAddr,
    },
    /// No area lives at the address: a hole, or a guard page.
    NoArea {
        /// The address given.
        addr: VirtAddr,
    },
    /// The address lies inside an area whose base is another.
    Interior {
        /// The address given.
        addr: VirtAddr,
        /// The base of the area around it.
        base: VirtAddr,
    },
    /// The area was freed before.
    Twice {
        /// The address given.
        addr: VirtAddr,
    },
    /// The area belongs to another member, alone.
    NotMine {
        /// Who owns it.
        owner: Option<Owner>,
    },
    /// `vfree` of what `vmap` made, or `vunmap` of what `vmalloc` made.
    WrongVerb,
    /// The area was marked by [`crate::Engine::reset_perms`], and this context may not wait.
    MayNotWait,
    /// The handle names an area that lives no more.
    Stale {
        /// The generation that the handle was for.
        generation: u64,
    },
}

/// Why `share` or `freeze` failed. The area is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ShareError {
    /// The handle names an area that lives no more, or that is not this member's alone.
    Stale {
        /// The generation that the handle was for.
        generation: u64,
    },
    /// The machine has no memory for the presence cells.
    NoMetadata(NoMetadata),
    /// Only areas that lie in place in a pool, with frames of their own, can be given away.
    Unsupported,
}

/// Why `attach` failed. Nothing is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AttachError {
    /// The token names an area that was freed, or was never published.
    Stale {
        /// The generation that the token was for.
        generation: u64,
    },
    /// The token's numbers are not of this window.
    Malformed,
    /// The area's pages could not be had here.
    Alloc(AllocError),
    /// The area was given to another member.
    NotYours {
        /// Whom it was given to.
        to: Owner,
    },
}

/// Why `resize` failed. The area is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ResizeError {
    /// The size is 0: free the area instead.
    ZeroSize,
    /// The handle names an area that lives no more, or that is not this member's alone.
    Stale {
        /// The generation that the handle was for.
        generation: u64,
    },
    /// The area's record says that it has other pages than its owner knows: somebody forged it.
    Forged {
        /// Pages it has.
        known: Pages,
        /// Pages the record says.
        recorded: Pages,
    },
    /// The area shows frames that are not its own.
    NotMine,
    /// There is no room behind the area: it would have to move.
    NoRoom {
        /// Pages wanted, guard included.
        wanted: Pages,
        /// Pages the area's slot has.
        slot: Pages,
    },
    /// No frames, or no machine memory behind them.
    Back(BackError),
    /// The pages could not be mapped.
    Map(MapError),
    /// Resizing may have to flush, and this context may not wait.
    MayNotWait,
    /// The area's frames are shown elsewhere, too.
    Shown,
    /// The machine could not take memory back.
    Flush(FlushError),
    /// Another member is growing the shared area at this moment; or it died over it, and has to be
    /// recovered.
    Busy {
        /// That member.
        owner: Option<Owner>,
    },
}

/// Why `vrealloc` failed. The old area is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum VreallocError {
    /// No area of this member's lies there, for `vfree`'s reasons.
    Old(FreeError),
    /// It is not aligned as the request wants it.
    Misaligned {
        /// The address given.
        addr: VirtAddr,
        /// The alignment asked for, in bytes.
        align_bytes: u64,
    },
    /// No other could be had to move to, or the request is wrong in itself.
    New(AllocError),
    /// It could not be resized where it lies.
    Resize(ResizeError),
}

/// Why `purge` stopped. What was not purged is still parked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PurgeError {
    /// This context may not wait for other CPUs.
    MayNotWait,
    /// The machine could not take memory back.
    Flush(FlushError),
}

/// Why an engine could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum EngineError {
    /// The tables do not fit the geometry.
    Geometry(GeometryError),
    /// The window does not begin at a multiple of a granule.
    WindowStart {
        /// Where it begins.
        start: crate::Vpn,
    },
    /// The machine's members share areas where they lie, and the geometry has no cells that say
    /// who is attached: [`Geometry::in_place`](crate::layout::Geometry::in_place) is `false`.
    NotInPlace,
    /// There is no such member.
    Member {
        /// Its number.
        owner: Owner,
        /// How many there can be.
        members: usize,
    },
    /// The mapper could not prepare the window.
    Map(MapError),
}

impl AllocError {
    /// Whether a purge may make room, so that one retry is worth while.
    #[must_use]
    pub const fn purge_may_help(&self) -> bool {
        matches!(
            self,
            AllocError::NoHole { .. }
                | AllocError::Back(
                    BackError::NoFrames { .. }
                        | BackError::NoneAllowed { .. }
                        | BackError::MachineFull { .. }
                        // Parked areas hold records of their frames, too.
                        | BackError::NoMetadata
                )
                | AllocError::Map(MapError::NoTable { .. })
                | AllocError::NoMetadata(_)
        )
    }
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllocError::ZeroSize => write!(f, "size 0: ask for at least one byte"),
            AllocError::TooBig { bytes, limit } => {
                write!(f, "{bytes} bytes are more than the pool can ever hold ({limit})")
            }
            AllocError::BadAlign { align_bytes, align_max_bytes } => write!(
                f,
                "alignment {align_bytes} is not a power of two from 1 to {align_max_bytes} bytes"
            ),
            AllocError::BadRange { range, wanted, window } => {
                write!(f, "{wanted} have no room in {range} of a window of {window}")
            }
            AllocError::MustWait => {
                write!(f, "what must not fail has to wait, and may not here")
            }
            AllocError::NoHole { wanted, largest } => {
                write!(f, "no hole of {wanted} in the window; the largest has {largest}")
            }
            AllocError::Back(e) => write!(f, "no frames: {e}"),
            AllocError::Map(e) => write!(f, "not mapped: {e}"),
            AllocError::NoMetadata(e) => write!(f, "{e}"),
        }
    }
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FreeError::Null => write!(f, "null is not an area"),
            FreeError::Stranger { addr } => write!(f, "{addr} lies outside the window"),
            FreeError::NoArea { addr } => write!(f, "no area lives at {addr}"),
            FreeError::Interior { addr, base } => {
                write!(f, "{addr} lies inside the area at {base}: free that")
            }
            FreeError::Twice { addr } => write!(f, "the area at {addr} was freed before"),
            FreeError::NotMine { owner: Some(owner) } => write!(f, "the area is {owner}'s alone"),
            FreeError::NotMine { owner: None } => write!(f, "the area is not this member's"),
            FreeError::MayNotWait => {
                write!(f, "the area's protection must be put back, and this context may not wait")
            }
            FreeError::WrongVerb => {
                write!(f, "vfree takes what vmalloc made, vunmap what vmap or attach made")
            }
            FreeError::Stale { generation } => {
                write!(f, "generation {generation} of the area lives no more")
            }
        }
    }
}

impl fmt::Display for ShareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShareError::Stale { generation } => {
                write!(f, "generation {generation} of the area is not this member's alone")
            }
            ShareError::NoMetadata(e) => write!(f, "{e}"),
            ShareError::Unsupported => write!(f, "areas are not given away here"),
        }
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachError::Stale { generation } => {
                write!(f, "generation {generation} of the area was freed, or never published")
            }
            AttachError::Malformed => write!(f, "the token is not of this pool"),
            AttachError::Alloc(e) => write!(f, "{e}"),
            AttachError::NotYours { to } => write!(f, "the area was given to {to}"),
        }
    }
}

impl fmt::Display for ResizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResizeError::ZeroSize => write!(f, "size 0: free the area instead"),
            ResizeError::Stale { generation } => {
                write!(f, "generation {generation} of the area is not this member's alone")
            }
            ResizeError::Forged { known, recorded } => {
                write!(f, "the record says {recorded} of an area of {known}: somebody forged it")
            }
            ResizeError::NotMine => write!(f, "the area shows frames that are not its own"),
            ResizeError::NoRoom { wanted, slot } => {
                write!(f, "{wanted} wanted in a slot of {slot}: the area would have to move")
            }
            ResizeError::Back(e) => write!(f, "no frames: {e}"),
            ResizeError::Map(e) => write!(f, "not mapped: {e}"),
            ResizeError::Shown => write!(f, "the area's frames are shown elsewhere, too"),
            ResizeError::MayNotWait => write!(f, "resizing may have to wait for other CPUs"),
            ResizeError::Flush(e) => write!(f, "{e}"),
            ResizeError::Busy { owner: Some(owner) } => {
                write!(f, "{owner} is growing the area at this moment")
            }
            ResizeError::Busy { owner: None } => write!(f, "another member is growing the area"),
        }
    }
}

impl fmt::Display for VreallocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VreallocError::Old(e) => write!(f, "{e}"),
            VreallocError::Misaligned { addr, align_bytes } => {
                write!(f, "{addr} is no multiple of {align_bytes} bytes")
            }
            VreallocError::New(e) => write!(f, "{e}"),
            VreallocError::Resize(e) => write!(f, "{e}"),
        }
    }
}

impl fmt::Display for PurgeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PurgeError::MayNotWait => write!(f, "a purge waits for other CPUs, and may not here"),
            PurgeError::Flush(e) => write!(f, "{e}"),
        }
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineError::Geometry(e) => write!(f, "{e}"),
            EngineError::WindowStart { start } => {
                write!(f, "the window begins at {start}, not at a multiple of 128 pages")
            }
            EngineError::NotInPlace => {
                write!(f, "areas are shared in place, and the geometry has no presence cells")
            }
            EngineError::Member { owner, members } => write!(f, "{owner} of {members} members"),
            EngineError::Map(e) => write!(f, "{e}"),
        }
    }
}

impl core::error::Error for AllocError {}
impl core::error::Error for FreeError {}
impl core::error::Error for ShareError {}
impl core::error::Error for AttachError {}
impl core::error::Error for PurgeError {}
impl core::error::Error for ResizeError {}
impl core::error::Error for VreallocError {}
impl core::error::Error for EngineError {}
