//! Where every trap goes: faults, interrupts, system calls; and the ways to provoke them.

use super::{Fault, SHOOTDOWN, cpu, segments, write_lapic};
use crate::arch::UserExit;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// What `boot.s` pushes.
#[repr(C)]
struct Frame {
    /// r15 to rax.
    regs: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
    ss: u64,
}

/// What a probe says: the value, and whether it failed.
#[repr(C)]
struct Probe {
    value: u64,
    failed: u64,
}

unsafe extern "C" {
    fn probe_load(addr: u64) -> Probe;
    fn probe_store(addr: u64, value: u64) -> Probe;
    static probe_failed: u8;
    fn enter_user(rip: u64, a: u64, b: u64, value: u64, rsp0: *mut u64);
    static leave_user: u8;
}

/// The address of the last fault that was expected, of each CPU.
static FAULT_ADDR: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// How user code came back: 0 a call, 1 a fault; and the value.
static USER_EXIT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn fault_address() -> u64 {
    let addr;
    // SAFETY:
    // 1. Reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) addr, options(nostack, nomem)) };
    addr
}

#[unsafe(no_mangle)]
extern "C" fn trap(frame: &mut Frame) {
    let (from_user, addr) = (frame.cs & 3 == 3, fault_address());
    match frame.vector {
        14 if is_probe(frame.rip) => {
            FAULT_ADDR[cpu()].store(addr, Ordering::Relaxed);
            frame.rip = &raw const probe_failed as u64;
        }
        14 if from_user => to_kernel(frame, 1, addr),
        0x80 => to_kernel(frame, 0, frame.regs[14]),
        0xf0 => {
            write_lapic(0xb0, 0);
            crate::smp::in_interrupt(|| SHOOTDOWN.answer());
        }
        0xf1 => {
            write_lapic(0xb0, 0);
            crate::smp::in_interrupt(crate::cases::on_interrupt);
        }
        0xf2 => write_lapic(0xb0, 0),
        0xff => {}
        vector => panic!(
            "trap {vector}, error {:#x}, at {:#x}, address {addr:#x}",
            frame.error, frame.rip
        ),
    }
}

fn is_probe(rip: u64) -> bool {
    rip == probe_load as *const () as u64 || rip == probe_store as *const () as u64
}

/// The CPU goes on in the kernel, behind `enter_user`.
fn to_kernel(frame: &mut Frame, how: u64, value: u64) {
    USER_EXIT[cpu()].store(how, Ordering::Relaxed);
    FAULT_ADDR[cpu()].store(value, Ordering::Relaxed);
    // SAFETY:
    // 1. `enter_user` wrote the word on this CPU, and its caller waits.
    frame.rsp = unsafe { segments::rsp0(cpu()).read() };
    frame.rip = &raw const leave_user as u64;
    (frame.cs, frame.ss) = (8, 16);
}

fn result(probe: Probe) -> Result<u64, Fault> {
    if probe.failed == 0 {
        return Ok(probe.value);
    }
    Err(Fault { addr: FAULT_ADDR[cpu()].load(Ordering::Relaxed) })
}

/// A load that may fault. `addr` is a multiple of 8.
pub fn load(addr: u64) -> Result<u64, Fault> {
    // SAFETY:
    // 1. If the address is not mapped, the load faults and `trap` goes on at `probe_failed`.
    // 2. If it is, it is a word of an area: the cases load nothing else.
    result(unsafe { probe_load(addr) })
}

/// A store that may fault.
pub fn store(addr: u64, value: u64) -> Result<(), Fault> {
    // SAFETY:
    // 1. As `load`; a word of an area that the case owns.
    result(unsafe { probe_store(addr, value) }).map(|_| ())
}

/// Runs the user code at `rip` in the current address space: it loads the word at `from`, stores
/// `value` at `to`, and calls with what it has loaded.
pub fn run_user(rip: u64, from: u64, to: u64, value: u64) -> UserExit {
    // SAFETY:
    // 1. User mode can touch nothing of the kernel's: its pages are not for users.
    // 2. Whatever it does ends in `trap`, which comes back behind this call by `leave_user`.
    unsafe { enter_user(rip, from, to, value, segments::rsp0(cpu())) };
    let value = FAULT_ADDR[cpu()].load(Ordering::Relaxed);
    match USER_EXIT[cpu()].load(Ordering::Relaxed) {
        0 => UserExit::Call(value),
        _ => UserExit::Fault(value),
    }
}
