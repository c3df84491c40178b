//! What can go wrong with kmap and `kmap_local`, with the values that were wrong.

use crate::platform::MapError;
use crate::units::{PageRange, Pages, Pfn, Vpn};
use core::fmt;

/// Why a [`super::Kmap`] or [`super::KmapLocal`] could not be made. The words are untouched.
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
    /// The window has no page, or none for each CPU.
    Window {
        /// The window given.
        window: PageRange,
        /// How many pages it must have at least.
        needed: Pages,
    },
}

/// Why [`super::Kmap::kmap`] or [`super::Kmap::flush_unused`] failed. Nothing was mapped, and no
/// count changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum KmapError {
    /// No such frame can be: its number is `limit` or more.
    BadFrame {
        /// The frame asked for.
        pfn: Pfn,
        /// The first number that does not fit.
        limit: Pfn,
    },
    /// Every page is in use, or being shot down by another CPU. If `flushing` is not zero, another
    /// try may find room; if it is, only a [`super::Kmap::kunmap`] helps. Linux sleeps here.
    Full {
        /// How many pages the window has.
        pages: Pages,
        /// How many of them are in use.
        in_use: Pages,
        /// How many another CPU is shooting down.
        flushing: Pages,
    },
    /// Every page shows a frame, and the `unused` ones cannot be shot down in a context that may
    /// not wait. [`super::Kmap::flush_unused`], earlier and elsewhere, helps. From that call: they,
    /// or pages that another CPU is shooting down, cannot be waited for here.
    MayNotWait {
        /// How many pages nobody uses.
        unused: Pages,
    },
    /// Another CPU is shooting down pages and has not ended. Their frames must not go to anybody
    /// yet: call [`super::Kmap::flush_unused`] again.
    Flushing {
        /// How many pages.
        pages: Pages,
    },
    /// The frame has as many users as can be counted.
    TooManyUsers {
        /// The frame.
        pfn: Pfn,
        /// How many use it.
        count: u64,
    },
    /// The page could not be mapped.
    Map(MapError),
}

/// Why [`super::Kmap::kunmap`] failed. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum KunmapError {
    /// Nobody has mapped the frame, or everybody has unmapped it.
    NotMapped {
        /// The frame given.
        pfn: Pfn,
    },
}

/// Why [`super::KmapLocal::map`] failed. Nothing was mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MapLocalError {
    /// There is no such CPU.
    NoCpu {
        /// The CPU given.
        cpu: usize,
        /// How many there are.
        cpus: usize,
    },
    /// The CPU's pages are all in use: it is nested too deep.
    TooDeep {
        /// The CPU.
        cpu: usize,
        /// How many pages it has.
        depth: usize,
    },
    /// The page could not be mapped.
    Map(MapError),
}

/// [`super::LocalMap::unmap`] of a map that is not the CPU's innermost. It was unmapped all the
/// same; its page is used again once those above it have gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfOrder {
    /// The page that was unmapped.
    pub page: Vpn,
    /// How many of the CPU's maps are younger and still there.
    pub above: u32,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetupError::Words { needed, given } => {
                write!(f, "{needed} words are needed, {given} were given")
            }
            SetupError::Window { window, needed } => {
                write!(f, "the window {window} is shorter than {needed}")
            }
        }
    }
}

impl fmt::Display for KmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KmapError::BadFrame { pfn, limit } => write!(f, "{pfn} is not below {limit}"),
            KmapError::Full { pages, in_use, flushing } => write!(
                f,
                "no page is free: of {pages}, {} are in use and {} are being shot down",
                in_use.0, flushing.0
            ),
            KmapError::MayNotWait { unused } => {
                write!(f, "{unused} unused, but this context may not wait for a shootdown")
            }
            KmapError::Flushing { pages } => {
                write!(f, "{pages} that another CPU is shooting down are not free yet")
            }
            KmapError::TooManyUsers { pfn, count } => write!(f, "{pfn} has {count} users already"),
            KmapError::Map(e) => write!(f, "{e}"),
        }
    }
}

impl fmt::Display for KunmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KunmapError::NotMapped { pfn } => write!(f, "{pfn} is not mapped"),
        }
    }
}

impl fmt::Display for MapLocalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapLocalError::NoCpu { cpu, cpus } => write!(f, "no CPU {cpu}; there are {cpus}"),
            MapLocalError::TooDeep { cpu, depth } => {
                write!(f, "CPU {cpu} has {depth} local maps already")
            }
            MapLocalError::Map(e) => write!(f, "{e}"),
        }
    }
}

impl fmt::Display for OutOfOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was unmapped before {} younger local maps", self.page, self.above)
    }
}

impl core::error::Error for SetupError {}
impl core::error::Error for KunmapError {}
impl core::error::Error for OutOfOrder {}

impl core::error::Error for KmapError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            KmapError::Map(e) => Some(e),
            _ => None,
        }
    }
}

impl core::error::Error for MapLocalError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            MapLocalError::Map(e) => Some(e),
            _ => None,
        }
    }
}
