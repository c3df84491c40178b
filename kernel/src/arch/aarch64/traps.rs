//! Where every trap goes: faults, interrupts, system calls; and the ways to provoke them.

use super::{Fault, SELF, WAKE, cpu, send, take_interrupt};
use crate::arch::UserExit;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// What `boot.s` keeps.
#[repr(C)]
struct Frame {
    /// x0 to x30.
    regs: [u64; 31],
    pc: u64,
    spsr: u64,
    sp_el0: u64,
    kind: u64,
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
    fn enter_user(pc: u64, a: u64, b: u64, value: u64);
    static leave_user: u8;
}

/// The address of the last fault that was expected, of each CPU.
static FAULT_ADDR: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// How user code came back: 0 a call, 1 a fault.
static USER_EXIT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Kinds of vectors, as `boot.s` numbers them; classes of exceptions, from the manual.
const FAULT: u64 = 0;
const INTERRUPT: u64 = 1;
const USER: u64 = 2;
const USER_INTERRUPT: u64 = 3;
const CALL: u64 = 0x15;
const FETCH_ABORT: u64 = 0x20;
const DATA_ABORT: u64 = 0x24;
const DATA_ABORT_HERE: u64 = 0x25;

fn class_and_address() -> (u64, u64) {
    let (syndrome, addr): (u64, u64);
    // SAFETY:
    // 1. Reads two registers.
    unsafe { asm!("mrs {}, esr_el1", "mrs {}, far_el1", out(reg) syndrome, out(reg) addr) };
    (syndrome >> 26, addr)
}

#[unsafe(no_mangle)]
extern "C" fn trap(frame: &mut Frame) {
    let (class, addr) = class_and_address();
    match (frame.kind, class) {
        (INTERRUPT | USER_INTERRUPT, _) => match take_interrupt() {
            SELF => crate::smp::in_interrupt(crate::cases::on_interrupt),
            WAKE | 1020.. => {}
            other => panic!("interrupt {other}"),
        },
        (FAULT, DATA_ABORT_HERE) if is_probe(frame.pc) => {
            FAULT_ADDR[cpu()].store(addr, Ordering::Relaxed);
            frame.pc = &raw const probe_failed as u64;
        }
        (USER, CALL) => to_kernel(frame, 0, frame.regs[0]),
        (USER, FETCH_ABORT | DATA_ABORT) => to_kernel(frame, 1, addr),
        (kind, class) => {
            panic!("trap {kind}, class {class:#x}, at {:#x}, address {addr:#x}", frame.pc)
        }
    }
}

fn is_probe(pc: u64) -> bool {
    pc == probe_load as *const () as u64 || pc == probe_store as *const () as u64
}

/// The CPU goes on in the kernel, behind `enter_user`, with interrupts on.
fn to_kernel(frame: &mut Frame, how: u64, value: u64) {
    USER_EXIT[cpu()].store(how, Ordering::Relaxed);
    FAULT_ADDR[cpu()].store(value, Ordering::Relaxed);
    frame.pc = &raw const leave_user as u64;
    frame.spsr = 0b0101;
}

/// An interrupt to this CPU: its handler runs [`crate::cases::on_interrupt`].
pub fn interrupt_self() {
    send(cpu(), SELF);
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
    // SAFETY:
    // 1. User mode can touch nothing of the kernel's: its pages are not for users.
    // 2. Whatever it does ends in `trap`, which comes back behind this call by `leave_user`.
    unsafe { enter_user(pc, from, to, value) };
    let value = FAULT_ADDR[cpu()].load(Ordering::Relaxed);
    match USER_EXIT[cpu()].load(Ordering::Relaxed) {
        0 => UserExit::Call(value),
        _ => UserExit::Fault(value),
    }
}
