//! The instructions that flush a TLB: one file an architecture, one function an instruction.
//!
//! All of them are for the kernel's mode alone: elsewhere the CPU raises an exception. They make
//! the CPU forget translations, which it does by itself all the time: so no flush, however wrong,
//! can break memory that was safe before, and the functions are safe.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "riscv64")]
mod riscv64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "riscv64")]
pub use riscv64::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
