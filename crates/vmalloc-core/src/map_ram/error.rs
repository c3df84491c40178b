//! What can go wrong with `vm_map_ram` and its kin, with the values that were wrong.

use super::BLOCK_PAGES;
use crate::platform::MapError;
use crate::units::{PageRange, Pages, VirtAddr};
use core::fmt;

/// Why a [`super::MapRam`] could not be made. The words are untouched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SetupError {
    /// Too few words.
    Words {
        /// How many are needed.
        needed: usize,
        /// How many were given.
        given: usize,
    },
    /// The window is not one or more whole blocks.
    Window {
        /// The window given.
        window: PageRange,
    },
    /// There must be a CPU.
    NoCpu,
}

/// Why [`super::MapRam::vm_map_ram`] failed. Nothing is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MapRamError {
    /// There is no frame to map.
    ZeroSize,
    /// More pages than a run here can have: use [`crate::Engine::vmap`].
    TooLong {
        /// How many frames were given.
        pages: Pages,
        /// The most that a run can have.
        limit: Pages,
    },
    /// No hole holds `wanted` pages. If `flushing` is not zero, another try may find one: another
    /// CPU is shooting pages down.
    NoRoom {
        /// The pages wanted, side by side in a group of 64.
        wanted: Pages,
        /// Free pages, in holes that are too small.
        free: Pages,
        /// How many another CPU is shooting down, or has kept us from shooting down.
        flushing: Pages,
    },
    /// Only `dirty` pages are left, and this context may not wait for their shootdown.
    MayNotWait {
        /// Pages that are unmapped and not yet shot down.
        dirty: Pages,
    },
    /// The pages could not be mapped.
    Map(MapError),
}

/// Why [`super::MapRam::vm_unmap_ram`] failed. Nothing was unmapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum UnmapRamError {
    /// Not the address of a page of the window.
    Stranger {
        /// The address given.
        addr: VirtAddr,
    },
    /// No run lives at the address: never mapped, or unmapped already.
    NoRun {
        /// The address given.
        addr: VirtAddr,
    },
    /// The address lies inside a run whose base is another.
    Interior {
        /// The address given.
        addr: VirtAddr,
        /// The base of the run around it.
        base: VirtAddr,
    },
    /// The run was mapped with another count.
    WrongCount {
        /// The count given.
        given: Pages,
        /// The count it was mapped with.
        mapped: Pages,
    },
}

/// Why [`super::MapRam::vm_unmap_aliases`] failed. Nothing was flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AliasesError {
    /// This context may not wait for a shootdown.
    MayNotWait,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetupError::Words { needed, given } => {
                write!(f, "{needed} words are needed, {given} were given")
            }
            SetupError::Window { window } => {
                write!(f, "the window {window} is not one or more blocks of {BLOCK_PAGES}")
            }
            SetupError::NoCpu => write!(f, "there must be a CPU"),
        }
    }
}

impl fmt::Display for MapRamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapRamError::ZeroSize => write!(f, "no frames to map"),
            MapRamError::TooLong { pages, limit } => {
                write!(f, "{pages} are more than {limit}: use vmap")
            }
            MapRamError::NoRoom { wanted, free, flushing } => write!(
                f,
                "no hole of {wanted}; {} are free in smaller ones, {} are being shot down",
                free.0, flushing.0
            ),
            MapRamError::MayNotWait { dirty } => {
                write!(f, "{dirty} wait for a shootdown, for which this context may not wait")
            }
            MapRamError::Map(e) => write!(f, "{e}"),
        }
    }
}

impl fmt::Display for UnmapRamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnmapRamError::Stranger { addr } => {
                write!(f, "{addr} is not the address of a page of the window")
            }
            UnmapRamError::NoRun { addr } => write!(f, "no run is mapped at {addr}"),
            UnmapRamError::Interior { addr, base } => {
                write!(f, "{addr} lies inside the run at {base}")
            }
            UnmapRamError::WrongCount { given, mapped } => {
                write!(f, "{given} to unmap, but {mapped} were mapped")
            }
        }
    }
}

impl fmt::Display for AliasesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AliasesError::MayNotWait => {
                write!(f, "this context may not wait for a shootdown")
            }
        }
    }
}

impl core::error::Error for SetupError {}
impl core::error::Error for UnmapRamError {}
impl core::error::Error for AliasesError {}

impl core::error::Error for MapRamError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            MapRamError::Map(e) => Some(e),
            _ => None,
        }
    }
}
