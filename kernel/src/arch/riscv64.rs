//! riscv64 on QEMU's virt: OpenSBI below, Sv48, a 16550, sifive_test.

mod traps;

pub use traps::{interrupt_self, load, run_user, store};

use super::Fault;
use crate::fdt;
use crate::smp::TwoCpus;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use vmalloc_bare::{DirectMap, SbiRfence, Sv48};
use vmalloc_core::{Extent, Pfn, VirtAddr, Vpn};

global_asm!(include_str!("riscv64/boot.s"));

/// Page tables: four levels.
pub type Format = Sv48;
/// The kernel's shootdown.
pub static SHOOTDOWN: SbiRfence<TwoCpus> = SbiRfence::new(TwoCpus);
/// Where windows begin: the upper half.
pub const WINDOWS_START: Vpn = Vpn(0xf_fff8_0000_0000);
/// A user address with a root entry of its own: 512 GiB.
pub const USER_BASE: Vpn = Vpn(1 << 27);
/// Where RAM begins.
pub const RAM_START: u64 = 0x8000_0000;

const UART: usize = 0x1000_0000;
const TEST: usize = 0x10_0000;
/// Extensions of the SBI.
const HSM: usize = 0x48_534d;
const IPI: usize = 0x73_5049;

static TREE: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static root: u8;
    static __end: u8;
    fn _start_other();
}

#[unsafe(no_mangle)]
extern "C" fn rust_start(tree: u64) -> ! {
    TREE.store(tree, Ordering::Relaxed);
    crate::main()
}

#[unsafe(no_mangle)]
extern "C" fn rust_start_other() -> ! {
    crate::smp::other_main()
}

/// The device tree.
fn tree() -> &'static [u8] {
    let at = TREE.load(Ordering::Relaxed) as *const u8;
    // SAFETY:
    // 1. The firmware left a tree there, of 8 bytes at least; it lies in RAM, identity-mapped.
    let head = unsafe { core::slice::from_raw_parts(at, 8) };
    let len = fdt::len(head).expect("a device tree");
    // SAFETY:
    // 1. The tree says that it is so long. The pool ends below it (`ram`): nobody writes there.
    unsafe { core::slice::from_raw_parts(at, len) }
}

/// Where the image ends, and where the RAM around it does: at the device tree, which lies behind.
pub fn ram() -> (u64, u64) {
    let end = &raw const __end as u64;
    let (_, ram_end) = fdt::ram_around(tree(), end).expect("RAM around the image");
    let tree = TREE.load(Ordering::Relaxed);
    (end, if tree > end { ram_end.min(tree & !0xfff) } else { ram_end })
}

/// What stands after `-append`.
pub fn command_line() -> &'static str {
    fdt::command_line(tree())
}

/// The root of the windows' tables: the kernel's.
pub fn window_root() -> Pfn {
    kernel_root()
}

/// The root that the kernel runs with.
pub fn kernel_root() -> Pfn {
    Pfn(&raw const root as u64 >> 12)
}

/// The root that this hart uses. Address spaces have no numbers here: everything else goes.
pub fn switch_to(space: Pfn) {
    // SAFETY:
    // 1. `space` maps the kernel as the boot tables do: made by `UserSpace::new`, or is theirs.
    unsafe { asm!("csrw satp, {}", "sfence.vma", in(reg) 9_u64 << 60 | space.0, options(nostack)) };
}

/// The direct map over `frames`: the identity map of `boot.s`.
pub fn identity_map(frames: Extent) -> DirectMap {
    // SAFETY:
    // 1. `boot.s` has mapped the first 512 GiB, for good, and `frames` is RAM (`ram`).
    // 2. Frames that hold the firmware, the image or the heap are never touched through it: tables
    //    and pool begin behind the heap (`machine::start`).
    unsafe { DirectMap::new(VirtAddr(frames.start.0 << 12), frames) }.expect("whole frames")
}

/// One byte to the serial line.
pub fn write_byte(byte: u8) {
    // SAFETY:
    // 1. A register of the serial line's, identity-mapped.
    while unsafe { ((UART + 5) as *const u8).read_volatile() } & 0x20 == 0 {}
    // SAFETY:
    // 1. The same.
    unsafe { (UART as *mut u8).write_volatile(byte) };
}

/// Ends the emulator: status 0 if `ok`, else 1.
pub fn exit(ok: bool) -> ! {
    // SAFETY:
    // 1. The register of the test device, identity-mapped.
    unsafe { (TEST as *mut u32).write_volatile(if ok { 0x5555 } else { 1 << 16 | 0x3333 }) };
    loop {
        relax();
    }
}

/// The time.
pub fn counter() -> u64 {
    let time;
    // SAFETY:
    // 1. Reads a counter.
    unsafe { asm!("rdtime {}", out(reg) time, options(nostack, nomem)) };
    time
}

/// While waiting for another CPU.
pub fn relax() {
    core::hint::spin_loop();
}

/// This hart's number.
pub fn cpu() -> usize {
    let hart;
    // SAFETY:
    // 1. Reads a register, which `boot.s` has set.
    unsafe { asm!("mv {}, tp", out(reg) hart, options(nostack, nomem)) };
    hart
}

/// A call of the firmware, with three arguments. Its error number.
fn sbi(extension: usize, function: usize, arguments: [usize; 3]) -> isize {
    let error: isize;
    // SAFETY:
    // 1. The SBI's calling convention; every other register is kept.
    // 2. What is called starts or interrupts a hart, and touches none of our memory.
    unsafe {
        asm!(
            "ecall",
            inlateout("a0") arguments[0] => error,
            inlateout("a1") arguments[1] => _,
            in("a2") arguments[2],
            in("a6") function,
            in("a7") extension,
        );
    }
    error
}

/// Starts the other hart.
pub fn start_other() {
    let error = sbi(HSM, 0, [1 - cpu(), _start_other as *const () as usize, 0]);
    assert_eq!(error, 0, "the firmware starts no other hart");
}

/// Flushes go by the firmware: nothing to interrupt for.
pub fn interrupt(_mask: u64) {}

/// Wakes hart `cpu` from [`idle_unless`].
pub fn wake(cpu: usize) {
    sbi(IPI, 0, [1 << cpu, 0, 0]);
}

/// Sleeps until an interrupt, unless `ready`. Interrupts are on afterwards.
pub fn idle_unless(ready: impl Fn() -> bool) {
    interrupts_off();
    if !ready() {
        // SAFETY:
        // 1. Touches no memory; an interrupt that is pending ends it, though they are off.
        unsafe { asm!("wfi", options(nostack, nomem)) };
    }
    interrupts_on();
}

/// Interrupts on, for this hart.
pub fn interrupts_on() {
    // SAFETY:
    // 1. The trap vector is set: `boot.s`.
    unsafe { asm!("csrsi sstatus, 2", options(nostack)) };
}

/// Interrupts off. Whether they were on.
pub fn interrupts_off() -> bool {
    let status: usize;
    // SAFETY:
    // 1. Touches no memory.
    unsafe { asm!("csrrci {}, sstatus, 2", out(reg) status, options(nostack)) };
    status & 2 != 0
}

/// Whether interrupts are on.
pub fn interrupts_are_on() -> bool {
    let status: usize;
    // SAFETY:
    // 1. Reads a register.
    unsafe { asm!("csrr {}, sstatus", out(reg) status, options(nostack)) };
    status & 2 != 0
}

/// What was written as data at `at` is fetched as code from here on, by this hart.
pub fn sync_code(_at: u64) {
    // SAFETY:
    // 1. A barrier.
    unsafe { asm!("fence.i", options(nostack)) };
}
