//! What can go wrong with `kmalloc` and `kvmalloc`, one enum a verb.

use crate::error;
use crate::slab::{AllocError, DirectAddr, FreeError};
use core::fmt;

/// Why `kmalloc`, `kzalloc` or an array form of them failed. Nothing was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum KmallocError {
    /// The size is 0. (Linux gives `ZERO_SIZE_PTR`, which is no memory either.)
    ZeroSize,
    /// More than the largest block, 2 MiB.
    TooBig {
        /// What was asked for.
        bytes: u64,
        /// The most that is possible.
        limit_bytes: u64,
    },
    /// `count` times `size_bytes` passes 2^64.
    Overflow {
        /// How many elements.
        count: u64,
        /// Bytes of each.
        size_bytes: u64,
    },
    /// No object is free and no slab, or no block, could be had.
    Alloc(AllocError),
}

/// Why `kfree`, `ksize` or a look at an object failed. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum KfreeError {
    /// Nothing that `kmalloc` gave lies there.
    Stranger {
        /// The address given.
        addr: DirectAddr,
    },
    /// The address lies inside an object or a block that begins elsewhere.
    Interior {
        /// The address given.
        addr: DirectAddr,
        /// Where it begins.
        base: DirectAddr,
    },
    /// What lies there is nobody's: freed before, or never given out.
    Twice {
        /// The address given.
        addr: DirectAddr,
    },
    /// The object is one of a [`crate::slab::KmemCache`] that is none of `kmalloc`'s.
    NotKmalloc {
        /// The address given.
        addr: DirectAddr,
        /// The number of its cache.
        cache: u64,
    },
}

/// Why `krealloc` failed. The old object is as it was, and still its owner's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum KreallocError {
    /// What is wrong with the old address.
    Old(KfreeError),
    /// Why there is no new object.
    New(KmallocError),
}

/// Why `kvmalloc` or a form of it failed. Nothing was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum KvmallocError {
    /// Not more than a page, which never falls back; or an argument that no retry will help.
    Kmalloc(KmallocError),
    /// Neither contiguous in frames nor in pages.
    Both {
        /// Why not in frames.
        kmalloc: KmallocError,
        /// Why not in pages.
        vmalloc: error::AllocError,
    },
}

/// Why `kvfree` failed. Nothing was freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum KvfreeError {
    /// What is wrong with an address of the direct map.
    Kfree(KfreeError),
    /// What is wrong with an address of the window.
    Vfree(error::FreeError),
}

impl KmallocError {
    /// Whether frames or records that something else gives up may help, so that one retry after
    /// a shrink is worth while.
    #[must_use]
    pub const fn shrink_may_help(&self) -> bool {
        matches!(self, KmallocError::Alloc(AllocError::NoFrames(_) | AllocError::NoRecord { .. }))
    }
}

impl From<FreeError> for KfreeError {
    fn from(e: FreeError) -> KfreeError {
        match e {
            FreeError::Stranger { addr } => KfreeError::Stranger { addr },
            FreeError::Interior { addr, base } => KfreeError::Interior { addr, base },
            FreeError::Twice { addr } => KfreeError::Twice { addr },
            FreeError::WrongCache { addr, cache } => KfreeError::NotKmalloc { addr, cache },
        }
    }
}

impl fmt::Display for KmallocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KmallocError::ZeroSize => write!(f, "size 0: ask for at least one byte"),
            KmallocError::TooBig { bytes, limit_bytes } => {
                write!(f, "{bytes} bytes; the largest contiguous block has {limit_bytes}")
            }
            KmallocError::Overflow { count, size_bytes } => {
                write!(f, "{count} elements of {size_bytes} bytes pass 2^64 bytes")
            }
            KmallocError::Alloc(e) => write!(f, "{e}"),
        }
    }
}

impl fmt::Display for KfreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KfreeError::Stranger { addr } => write!(f, "kmalloc gave nothing at {addr}"),
            KfreeError::Interior { addr, base } => {
                write!(f, "{addr} lies inside what begins at {base}: free that")
            }
            KfreeError::Twice { addr } => write!(f, "what lies at {addr} is nobody's"),
            KfreeError::NotKmalloc { addr, cache } => {
                write!(f, "the object at {addr} is one of cache {cache}, not of kmalloc")
            }
        }
    }
}

impl fmt::Display for KreallocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KreallocError::Old(e) => write!(f, "the old object: {e}"),
            KreallocError::New(e) => write!(f, "the new object: {e}"),
        }
    }
}

impl fmt::Display for KvmallocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvmallocError::Kmalloc(e) => write!(f, "{e}"),
            KvmallocError::Both { kmalloc, vmalloc } => {
                write!(f, "not contiguous in frames: {kmalloc}; nor in pages: {vmalloc}")
            }
        }
    }
}

impl fmt::Display for KvfreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvfreeError::Kfree(e) => write!(f, "{e}"),
            KvfreeError::Vfree(e) => write!(f, "{e}"),
        }
    }
}

impl core::error::Error for KmallocError {}
impl core::error::Error for KfreeError {}
impl core::error::Error for KreallocError {}
impl core::error::Error for KvmallocError {}
impl core::error::Error for KvfreeError {}
