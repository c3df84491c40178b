//! x86_64 on QEMU's q35: PVH entry, LAPIC, isa-debug-exit.
//!
//! The boot loader enters in 32-bit mode; `boot.s` builds the identity map and goes to long mode.
//! Segments and interrupt table of each CPU are in `segments.rs`, what they lead to in `traps.rs`.

mod segments;
mod traps;

pub use traps::{load, run_user, store};

use super::Fault;
use crate::smp::TwoCpus;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use vmalloc_bare::{DirectMap, Ipi, SpinLock, X86_64, tlb};
use vmalloc_core::{Extent, Pfn, VirtAddr, Vpn};

global_asm!(include_str!("x86_64/boot.s"), options(att_syntax));

/// Page tables: four levels.
pub type Format = X86_64;
/// The kernel's shootdown.
pub static SHOOTDOWN: Ipi<TwoCpus, SpinLock> = Ipi::new(TwoCpus, SpinLock::new(), tlb::flush_here);
/// Where windows begin: Linux's VMALLOC_START.
pub const WINDOWS_START: Vpn = Vpn(0xf_fffc_9000_0000);
/// A user address with a root entry of its own: 512 GiB.
pub const USER_BASE: Vpn = Vpn(1 << 27);

/// Where RAM begins.
pub const RAM_START: u64 = 0;

/// Vectors.
const FLUSH: u32 = 0xf0;
const SELF: u32 = 0xf1;
const WAKE: u32 = 0xf2;
const LAPIC: usize = 0xfee0_0000;

static START_INFO: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static pml4: u8;
    static __end: u8;
    static ap_start: u8;
    static ap_start_end: u8;
}

#[unsafe(no_mangle)]
extern "C" fn rust_start(start_info: u64) -> ! {
    START_INFO.store(start_info, Ordering::Relaxed);
    // The old interrupt controllers, whose vectors are those of faults: masked.
    out_byte(0x21, 0xff);
    out_byte(0xa1, 0xff);
    this_cpu();
    crate::main()
}

#[unsafe(no_mangle)]
extern "C" fn rust_start_other() -> ! {
    this_cpu();
    crate::smp::other_main()
}

/// Segments, interrupt table and LAPIC of this CPU.
fn this_cpu() {
    segments::load(cpu());
    write_lapic(0xf0, 0x1ff);
}

/// The physical memory as a word; for what the loader left, and device registers.
fn peek(addr: u64) -> u64 {
    // SAFETY:
    // 1. Called for words of the loader's tables, which are RAM below 4 GiB: identity-mapped.
    unsafe { (addr as *const u64).read_unaligned() }
}

fn read_lapic(register: usize) -> u32 {
    // SAFETY:
    // 1. The LAPIC's registers are at this address after a reset, and identity-mapped.
    unsafe { ((LAPIC + register) as *const u32).read_volatile() }
}

fn write_lapic(register: usize, value: u32) {
    // SAFETY:
    // 1. As `read_lapic`; what is written makes interrupts, and ends them.
    unsafe { ((LAPIC + register) as *mut u32).write_volatile(value) };
}

fn send(destination: u32, command: u32) {
    write_lapic(0x310, destination << 24);
    write_lapic(0x300, command);
    while read_lapic(0x300) & 1 << 12 != 0 {
        relax();
    }
}

fn out_byte(port: u16, value: u8) {
    // SAFETY:
    // 1. The ports written are the serial line's, the interrupt controllers' and the debug exit's:
    //    they touch no memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, nomem)) };
}

fn in_byte(port: u16) -> u8 {
    let value;
    // SAFETY:
    // 1. The port read is the serial line's: it touches no memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, nomem)) };
    value
}

/// Where the image ends, and where the RAM around it does.
pub fn ram() -> (u64, u64) {
    let end = &raw const __end as u64;
    let info = START_INFO.load(Ordering::Relaxed);
    let (table, entries) = (peek(info + 40), peek(info + 48) as u32);
    for i in 0..u64::from(entries) {
        let entry = table + i * 24;
        let (start, len, kind) = (peek(entry), peek(entry + 8), peek(entry + 16) as u32);
        if kind == 1 && (start..start + len).contains(&end) {
            return (end, start + len);
        }
    }
    panic!("no RAM around {end:#x} in the memory map");
}

/// What stands after `-append`.
pub fn command_line() -> &'static str {
    let at = peek(START_INFO.load(Ordering::Relaxed) + 24);
    if at == 0 {
        return "";
    }
    // SAFETY:
    // 1. The loader left a text there that ends with a zero; nobody writes to it.
    let text = unsafe { core::ffi::CStr::from_ptr(at as *const i8) };
    text.to_str().unwrap_or("")
}

/// The root of the windows' tables: the kernel's.
pub fn window_root() -> Pfn {
    kernel_root()
}

/// The root that the kernel runs with.
pub fn kernel_root() -> Pfn {
    Pfn(&raw const pml4 as u64 >> 12)
}

/// The root that a CPU uses for the lower half.
pub fn switch_to(root: Pfn) {
    // SAFETY:
    // 1. `root` maps the kernel as the boot tables do: made by `UserSpace::new`, or is theirs.
    unsafe { asm!("mov cr3, {}", in(reg) root.0 << 12, options(nostack)) };
}

/// The direct map over `frames`: the identity map of `boot.s`.
pub fn identity_map(frames: Extent) -> DirectMap {
    // SAFETY:
    // 1. `boot.s` has mapped the first 4 GiB, for good, and RAM is below (`ram`).
    // 2. Frames that hold the image or the heap are in the run, and are never touched through it:
    //    tables and pool begin behind the heap (`machine::start`).
    unsafe { DirectMap::new(VirtAddr(frames.start.0 << 12), frames) }.expect("whole frames")
}

/// One byte to the serial line.
pub fn write_byte(byte: u8) {
    while in_byte(0x3fd) & 0x20 == 0 {}
    out_byte(0x3f8, byte);
}

/// Ends the emulator: status 33 if `ok`, else 35.
pub fn exit(ok: bool) -> ! {
    out_byte(0xf4, if ok { 0x10 } else { 0x11 });
    loop {
        relax();
    }
}

/// Instructions so far, where the emulator counts them.
pub fn counter() -> u64 {
    // SAFETY:
    // 1. `rdtsc` touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// While waiting for another CPU.
pub fn relax() {
    core::hint::spin_loop();
}

/// This CPU's number.
pub fn cpu() -> usize {
    (read_lapic(0x20) >> 24) as usize
}

/// Starts CPU 1: INIT, then start-up at page 8.
pub fn start_other() {
    let (from, to) = (&raw const ap_start, &raw const ap_start_end);
    // SAFETY:
    // 1. `ap_start..ap_start_end` is the trampoline; page 8 is RAM below 1 MiB that nobody uses.
    unsafe { core::ptr::copy_nonoverlapping(from, 0x8000 as *mut u8, to as usize - from as usize) };
    send(1, 0x4500);
    (0..100_000).for_each(|_| relax());
    send(1, 0x4608);
}

/// The flush interrupt, to the CPUs of `mask`.
pub fn interrupt(mask: u64) {
    (0..2).filter(|cpu| mask >> cpu & 1 == 1).for_each(|cpu| send(cpu, FLUSH | 1 << 14));
}

/// Wakes CPU `cpu` from [`idle_unless`].
pub fn wake(cpu: usize) {
    send(cpu as u32, WAKE | 1 << 14);
}

/// Sleeps until an interrupt, unless `ready`. Interrupts are on afterwards.
pub fn idle_unless(ready: impl Fn() -> bool) {
    interrupts_off();
    if ready() {
        return interrupts_on();
    }
    // SAFETY:
    // 1. As `interrupts_on`; an interrupt that came since they went off ends the `hlt`.
    unsafe { asm!("sti", "hlt", options(nostack, nomem)) };
}

/// An interrupt to this CPU: its handler runs [`crate::cases::on_interrupt`].
pub fn interrupt_self() {
    send(cpu() as u32, SELF | 1 << 14);
}

/// Interrupts on, for this CPU.
pub fn interrupts_on() {
    // SAFETY:
    // 1. The table of interrupts is loaded: `this_cpu` ran first.
    unsafe { asm!("sti", options(nostack, nomem)) };
}

/// Interrupts off. Whether they were on.
pub fn interrupts_off() -> bool {
    let were_on = interrupts_are_on();
    // SAFETY:
    // 1. Touches no memory.
    unsafe { asm!("cli", options(nostack, nomem)) };
    were_on
}

/// Whether interrupts are on.
pub fn interrupts_are_on() -> bool {
    let flags: u64;
    // SAFETY:
    // 1. Reads the flags by way of the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
    flags >> 9 & 1 == 1
}

/// What was written as data at `at` is fetched as code: x86_64 sees to it.
pub fn sync_code(_at: u64) {}
