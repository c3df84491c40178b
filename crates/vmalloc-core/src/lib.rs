//! The engine of vmalloc: large, virtually contiguous memory out of scattered page frames.
//!
//! `no_std`, no dependencies, no heap, no `unsafe`. All state is in words that the caller
//! supplies ([`layout`]), so the same code serves a kernel's window and a pool that several
//! processes map. A machine ([`machine`]) says where frames come from and how pages show them.
//!
//! Read [`engine`] first: each verb there is its walk through the stages, and each stage is a
//! file. The order below is the order in which the files build on each other.

#![no_std]
#![forbid(unsafe_code)]

// The ground: units, words, what a machine is.
pub mod bits;
pub mod class;
pub mod error;
pub mod flush;
pub mod layout;
pub mod machine;
#[doc(hidden)]
pub mod planted;
pub mod platform;
pub mod policy;
mod prot;
mod record;
pub mod shrink;
pub mod sync;
mod tag;
mod units;

// Addresses: who owns a granule, a slot, an area.
mod granules;
mod index;
mod presence;
mod slots;

// Frames, where the machine has page tables.
pub mod backing;
pub mod frames;
pub mod paged;

// Windows beside the engine's, for machines with page tables.
pub mod kmap;
pub mod map_ram;

// Small objects, on frames alone.
pub mod slab;

// The stages of the walks, and what stands beside them.
mod back;
mod context;
mod give;
mod grow;
pub mod info;
mod lazy;
mod map;
pub mod peek;
mod publish;
mod purge;
mod recover;
mod refit;
mod registry;
mod request;
mod reserve;
mod resize;
mod share;
mod verify;
mod vread;

// The top.
pub mod engine;
pub mod kmalloc;

// What the checkers of the workspace `proof/` run.
#[cfg(test)]
mod proof;

pub use engine::{
    Config, Engine, Fill, FillError, Freed, ProtectError, Remap, RemapError, Vma, vma_flags,
};
pub use error::{
    AllocError, AttachError, EngineError, FreeError, PurgeError, ResizeError, ShareError,
    VreallocError,
};
pub use info::{Areas, Dump, Meminfo, Stats, VmallocInfo};
pub use layout::{Geometry, GeometryError, Tables};
pub use machine::{BackError, Backing, FlushError, Lane, Machine, NoMetadata, View};
pub use paged::Paged;
pub use platform::{Frames, MapError, Mapper, NoFrames, Ram, Tlb};
pub use policy::{FramePolicy, NodeChoice, NodeId, PolicyError};
pub use prot::{Cache, Prot, Rights};
pub use publish::{Area, AreaId};
pub use purge::Purged;
pub use record::{Kind, State, flags};
pub use recover::Recovered;
pub use request::{HUGE_PAGES, Request};
pub use share::{Publish, Token};
pub use shrink::Shrinker;
pub use tag::Owner;
pub use units::*;
pub use verify::{Verified, VerifyError};
