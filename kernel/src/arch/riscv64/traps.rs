//! Where every trap goes: faults, interrupts, system calls; and the ways to provoke them.

use super::{Fault, cpu, wake};
use crate::arch::UserExit;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What `boot.s` keeps.
#[repr(C)]
struct Frame {
    /// x0 to x31.
    regs: [u64; 32],
    pc: u64,
    status: u64,
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
    fn enter_user(pc: u64, a: u64, b: u64, value: u64, stack: *mut u64);
    static leave_user: u8;
}

/// The address of the last fault that was expected, of each hart.
static FAULT_ADDR: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// How user code came back: 0 a call, 1 a fault; and the kernel's stack meanwhile.
static USER_EXIT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static USER_STACK: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// An interrupt that a hart sent to itself.
static SELF: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];

/// scause of a software interrupt, a call from user mode, and the page faults.
const SOFTWARE: u64 = 1 << 63 | 1;
const CALL: u64 = 8;

fn cause_and_address() -> (u64, u64) {
    let (cause, addr);
    // SAFETY:
    // 1. Reads two registers.
    unsafe { asm!("csrr {}, scause", "csrr {}, stval", out(reg) cause, out(reg) addr) };
    (cause, addr)
}

#[unsafe(no_mangle)]
extern "C" fn trap(frame: &mut Frame) {
    let (cause, addr) = cause_and_address();
    let from_user = frame.status & 0x100 == 0;
    match cause {
        13 | 15 if is_probe(frame.pc) => {
            FAULT_ADDR[cpu()].store(addr, Ordering::Relaxed);
            frame.pc = &raw const probe_failed as u64;
        }
        12 | 13 | 15 if from_user => to_kernel(frame, 1, addr),
        CALL => to_kernel(frame, 0, frame.regs[10]),
        SOFTWARE => {
            // SAFETY:
            // 1. Clears the bit that made the interrupt.
            unsafe { asm!("csrci sip, 2", options(nostack)) };
            if SELF[cpu()].swap(false, Ordering::AcqRel) {
                crate::smp::in_interrupt(crate::cases::on_interrupt);
            }
        }
        cause => panic!("trap {cause:#x} at {:#x}, address {addr:#x}", frame.pc),
    }
}

fn is_probe(pc: u64) -> bool {
    pc == probe_load as *const () as u64 || pc == probe_store as *const () as u64
}

/// The hart goes on in the kernel, behind `enter_user`, with interrupts on.
fn to_kernel(frame: &mut Frame, how: u64, value: u64) {
    USER_EXIT[cpu()].store(how, Ordering::Relaxed);
    FAULT_ADDR[cpu()].store(value, Ordering::Relaxed);
    frame.regs[2] = USER_STACK[cpu()].load(Ordering::Relaxed);
    frame.pc = &raw const leave_user as u64;
    frame.status |= 0x120;
}

/// An interrupt to this hart: its handler runs [`crate::cases::on_interrupt`].
pub fn interrupt_self() {
    SELF[cpu()].store(true, Ordering::Release);
    wake(cpu());
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

/// Runs the user code at `pc` in the current address space: it loads the word at `from`, stores
/// `value` at `to`, and calls with what it has loaded.
pub fn run_user(pc: u64, from: u64, to: u64, value: u64) -> UserExit {
    let stack = USER_STACK[cpu()].as_ptr();
    // SAFETY:
    // 1. User mode can touch nothing of the kernel's: its pages are not for users.
    // 2. Whatever it does ends in `trap`, which comes back behind this call by `leave_user`.
    unsafe { enter_user(pc, from, to, value, stack) };
    let value = FAULT_ADDR[cpu()].load(Ordering::Relaxed);
    match USER_EXIT[cpu()].load(Ordering::Relaxed) {
        0 => UserExit::Call(value),
        _ => UserExit::Fault(value),
    }
}
