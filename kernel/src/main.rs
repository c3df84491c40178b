//! A small kernel: boots two CPUs, puts the engine on real page tables, and tests it there.
//!
//! ```text
//!   arch/…  boot, traps, interrupts, the other CPU, user mode, exit      (one folder an architecture)
//!   machine frames from the memory map, page tables, engines
//!   subject the machine as the conformance suite sees it
//!   cases   what only real hardware can show: stale TLBs, faults, interrupts, user mode
//!   bench   instructions a call, where the emulator counts them
//! ```
//!
//! A case that fails panics; the kernel says which, prints `N passed, 1 failed` and exits with an
//! error. `cargo xtask kernel` builds it, boots it in QEMU and reads the status.

#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod bench;
mod cases;
mod console;
mod fdt;
mod heap;
mod machine;
mod smp;
mod subject;

use console::println;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Cases that have passed.
static PASSED: AtomicUsize = AtomicUsize::new(0);

/// Where the boot CPU comes from the assembler, on its stack, with its memory mapped.
fn main() -> ! {
    machine::start();
    if arch::command_line().contains("bench") {
        bench::run();
        PASSED.store(1, Ordering::Relaxed);
        close();
    }
    smp::start_other();
    for (name, case) in cases::all() {
        println!("case {name}");
        case();
        PASSED.fetch_add(1, Ordering::Relaxed);
    }
    close();
}

/// Says that all went well, in the closing line and in QEMU's status.
fn close() -> ! {
    println!("{} passed, 0 failed", PASSED.load(Ordering::Relaxed));
    arch::exit(true);
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    arch::interrupts_off();
    println!("CPU {}: {info}", arch::cpu());
    println!("{} passed, 1 failed", PASSED.load(Ordering::Relaxed));
    arch::exit(false);
}
