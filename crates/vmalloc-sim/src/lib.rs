//! A simulated machine: RAM, page tables in it, an MMU that reads them, one TLB a CPU, and faults
//! on demand. Our tests run the engine on it; learners watch what a shootdown is for.
//!
//! Two pieces of code meet only in simulated RAM, so that a mistake in one shows in the other:
//!
//! ```text
//!   engine ─▶ AddressSpace (Mapper, Tlb, Ram)          a test ─▶ Cpu::load, store, read, write
//!                │ tables.rs writes entries                        │ its own TLB, until flushed
//!                ▼                                                 ▼ on a miss
//!             [ SimRam: data frames | table frames ] ◀─────── mmu.rs walks, from the manual
//! ```
//!
//! A CPU that holds an old translation *uses* it: the access goes to the old frame, as on the
//! real thing, and is counted as a [`Counters::stale_hits`]. Memory starts as junk, freed tables
//! turn into junk, and the engine's panics are ours: a table frame touched, a page outside every
//! window mapped, a shootdown where waiting is forbidden.
//!
//! On the machine stand a kernel ([`SimKernel`]), and the suite that every machine passes, this
//! one and others: rules ([`conformance`]), random operations ([`ops`]) and a model that predicts
//! the answers ([`model`]). A machine comes in by implementing [`Subject`] and [`Host`].
//!
//! What it does not do: speculation, paging-structure caches, accessed and dirty bits, user
//! mode, timing (but for the feature `model`). A run that passes here says nothing about those.
//!
//! Without the feature `std` the suite alone is left, for kernels that have a heap.
//!
//! # Examples
//!
//! ```
//! use vmalloc_core::platform::{Mapper, Prot, Tlb};
//! use vmalloc_core::{Extent, PageRange, Pages, Pfn, Vpn};
//! use vmalloc_sim::{Config, Fault, Hardware};
//!
//! let hardware = Hardware::new(Config::default());
//! let space = hardware.space()?;
//! let window = PageRange { start: Vpn(0xf_fff8_0000_0000), len: Pages(64) };
//! space.prepare(window)?;
//!
//! let frame = hardware.config().first;
//! let page = PageRange { start: window.start, len: Pages(1) };
//! space.map_run(page.start, Extent { start: frame, len: Pages(1) }, Prot::READ_WRITE)?;
//!
//! let cpu = hardware.cpu(0);
//! let va = page.start.addr();
//! cpu.store(va, 7).unwrap();
//!
//! space.unmap_run(page);
//! assert_eq!(cpu.load(va), Ok(7)); // no shootdown yet: the TLB still shows the frame
//! assert_eq!(hardware.stale_hits(), 1);
//!
//! space.flush_all_cpus(&[page]);
//! assert_eq!(cpu.load(va), Err(Fault::NotPresent { va }));
//! # Ok::<(), vmalloc_core::platform::MapError>(())
//! ```

#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

// In import order.
#[cfg(feature = "std")]
mod ram;

#[cfg(feature = "std")]
pub mod mmu;

mod faults;
#[cfg(feature = "std")]
mod tables;
#[cfg(feature = "std")]
mod tlb;

#[cfg(feature = "std")]
mod machine;

#[cfg(feature = "std")]
mod cpu;
#[cfg(feature = "std")]
mod space;

// A kernel on it.
#[cfg(feature = "std")]
mod kernel;

// What comes by every call of a machine with page tables.
#[cfg(feature = "std")]
pub mod points;

// The suite: for this machine and any other.
mod random;
mod subject;

#[cfg(feature = "std")]
pub mod ops;

#[cfg(feature = "std")]
pub mod model;

pub mod conformance;

#[cfg(feature = "std")]
mod subject_sim;

// The other machine: members that share one window, and die.
#[cfg(feature = "std")]
pub mod in_place;

#[cfg(feature = "simulate")]
pub mod simulate;

// A third one: nothing but CPUs and their cache lines.
#[cfg(any(feature = "model", feature = "measure"))]
pub mod scale;

pub use conformance::{RULES, Rule};
#[cfg(feature = "std")]
pub use cpu::Cpu;
pub use faults::{FaultPlan, FaultyFrames, Site, Step};
#[cfg(feature = "std")]
pub use kernel::{CPUS_PER_SPACE, KernelConfig, SimEngine, SimKernel, SimMachine, Unsound};
#[cfg(feature = "std")]
pub use machine::{Config, Counters, Hardware, InterruptsOff, RunsOn, StaleHit};
#[cfg(feature = "std")]
pub use mmu::{Access, Fault, Translation};
#[cfg(feature = "std")]
pub use model::{Divergence, Tally, replay, run};
#[cfg(feature = "std")]
pub use ops::Op;
#[cfg(feature = "std")]
pub use ram::SimRam;
pub use random::Random;
#[cfg(feature = "std")]
pub use space::AddressSpace;
pub use subject::{Abilities, Handle, Host, Refused, Setup, Subject, TokenKey, Want};
#[cfg(feature = "std")]
pub use subject_sim::{SimHost, SimSubject};
#[cfg(feature = "std")]
pub use tlb::{SpaceId, TlbSize};
