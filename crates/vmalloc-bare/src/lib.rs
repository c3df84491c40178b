//! What lies between the engine and bare hardware: page tables, a direct map, shootdowns.
//!
//! ```text
//!   Paged ─ Frames: the kernel's, or the engine's own Buddy
//!         └ Hardware ─┬ PageTables<Format, TableMem>   map, unmap, protect, split, translate: by run
//!                     └ Shootdown                      IPIs · broadcast TLBI · SBI RFENCE
//! ```
//!
//! A kernel brings three things: frames for tables and a way to reach them ([`TableMem`]; with a
//! direct map, [`DirectMap`] is all of it), a way to reach the other CPUs ([`Cpus`]), and the
//! window's address. `docs/adopting.md` puts them together, line by line.
//!
//! [`PageTables`] is safe code over words: it runs on a desk, too, where the simulated MMUs of
//! `vmalloc-sim` walk the tables that it has built. `unsafe` is in the direct map, in the few
//! instructions of `arch/` that flush a TLB, and at the lock of a shootdown.

#![no_std]
#![deny(unsafe_code)]

// In import order.
mod mem;

pub mod format;

mod retired;
mod walk;

mod tables;

#[allow(unsafe_code)]
mod direct;

#[allow(unsafe_code)]
pub mod arch;

pub mod tlb;

mod hardware;

pub use direct::{DirectMap, NotAligned};
pub use format::{Aarch64, Entry, Format, Sv39, Sv48, X86_64, X86_64La57};
pub use hardware::Hardware;
pub use mem::{TableMem, TablesFrom};
pub use tables::PageTables;
#[cfg(feature = "lock_api")]
pub use tlb::LockApi;
#[cfg(target_arch = "riscv64")]
pub use tlb::SbiRfence;
pub use tlb::{Broadcast, Cpus, Ipi, Shootdown, SpinLock, TryLock, What};
