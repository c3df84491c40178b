//! What differs between the architectures, under the same names.
//!
//! `Format`, `SHOOTDOWN`, `WINDOWS_START`, `USER_BASE`: the page tables. `ram`, `command_line`: what the
//! loader said. `write_byte`, `exit`, `counter`, `relax`: the machine. `cpu`, `start_other`,
//! `interrupt`, `interrupts_on`, `interrupts_off`, `interrupts_are_on`: CPUs. `load`, `store`: accesses
//! that may fault. `run_user`: user mode. `identity_map`: the one promise about memory.

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

/// An access that faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Where, as the CPU says.
    pub addr: u64,
}

/// How user code came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UserExit {
    /// By a system call, with a value.
    Call(u64),
    /// By a fault at an address.
    Fault(u64),
}

unsafe extern "C" {
    static user_program: u8;
    static user_program_end: u8;
    static module_program: u8;
    static module_program_end: u8;
}

/// The instructions of the user program: it loads, stores, and calls.
pub fn user_code() -> &'static [u8] {
    let (start, end) = (&raw const user_program, &raw const user_program_end);
    // SAFETY:
    // 1. Both labels are the assembler's, the second behind the first, in the image, which nobody
    //    writes to.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// The instructions of the module: it takes a function and an argument, and calls it.
pub fn module_code() -> &'static [u8] {
    let (start, end) = (&raw const module_program, &raw const module_program_end);
    // SAFETY:
    // 1. As `user_code`.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// Calls the module's code at `at`, which may execute: it returns what `allocate(bytes)` returns.
pub fn call_module(at: u64, allocate: extern "C" fn(u64) -> u64, bytes: u64) -> u64 {
    type Module = extern "C" fn(extern "C" fn(u64) -> u64, u64) -> u64;
    // SAFETY:
    // 1. The case has copied `module_code` to `at`, which has that calling convention.
    let module: Module = unsafe { core::mem::transmute(at as usize) };
    module(allocate, bytes)
}

/// Copies from `at`, words of which the first and last of each page were loaded just now.
pub fn copy_from(at: u64, out: &mut [u8]) {
    for (i, byte) in out.iter_mut().enumerate() {
        // SAFETY:
        // 1. The page is mapped: it was probed, and its owner waits for this copy.
        *byte = unsafe { ((at + i as u64) as *const u8).read_volatile() };
    }
}

/// Copies to `at`, words of which were stored to just now.
pub fn copy_to(at: u64, bytes: &[u8]) {
    for (i, byte) in bytes.iter().enumerate() {
        // SAFETY:
        // 1. The page is mapped writable: it was probed, and its owner waits for this copy.
        unsafe { ((at + i as u64) as *mut u8).write_volatile(*byte) };
    }
}

/// The value that a case lends to handlers and to the other CPU, by way of a pointer.
pub fn lent<T>(pointer: &core::sync::atomic::AtomicPtr<T>) -> &'static T {
    let pointer = pointer.load(core::sync::atomic::Ordering::Acquire);
    assert!(!pointer.is_null(), "nothing is lent");
    // SAFETY:
    // 1. `interrupts::lend` stored the address of a value that lives until its `body` returns, and
    //    null afterwards; handlers and jobs run while it does: the case waits for them.
    unsafe { &*pointer }
}
