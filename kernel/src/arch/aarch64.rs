//! aarch64 on QEMU's virt: EL1, PSCI, GICv2, a PL011, semihosting for the exit status.
//!
//! The windows have a root of their own, TTBR1_EL1; the identity map and users share TTBR0_EL1.

mod traps;

pub use traps::{interrupt_self, load, run_user, store};

use super::Fault;
use crate::fdt;
use crate::smp::TwoCpus;
use core::arch::{asm, global_asm};
use vmalloc_bare::{Aarch64, Broadcast, DirectMap};
use vmalloc_core::{Extent, Pfn, VirtAddr, Vpn};

global_asm!(include_str!("aarch64/boot.s"));

/// Page tables: 4 KiB granule, 48 bits.
pub type Format = Aarch64;
/// The kernel's shootdown.
pub static SHOOTDOWN: Broadcast<TwoCpus> = Broadcast::new(TwoCpus);
/// Where windows begin: the upper half, less its lowest 512 GiB.
pub const WINDOWS_START: Vpn = Vpn(0xf_fff8_0000_0000);
/// A user address with a root entry of its own: 512 GiB.
pub const USER_BASE: Vpn = Vpn(1 << 27);
/// Where RAM begins.
pub const RAM_START: u64 = 0x4000_0000;

const UART: usize = 0x900_0000;
const GIC_DISTRIBUTOR: usize = 0x800_0000;
const GIC_CPU: usize = 0x801_0000;
/// PSCI's number of CPU_ON.
const CPU_ON: u64 = 0xc400_0003;
/// Software interrupts: one wakes, one runs the case's handler.
pub const WAKE: u32 = 1;
pub const SELF: u32 = 2;

unsafe extern "C" {
    static low_root: u8;
    static high_root: u8;
    static __end: u8;
    fn _start_other();
}

#[unsafe(no_mangle)]
extern "C" fn rust_start() -> ! {
    write_register(GIC_DISTRIBUTOR, 1);
    this_cpu();
    crate::main()
}

#[unsafe(no_mangle)]
extern "C" fn rust_start_other() -> ! {
    this_cpu();
    crate::smp::other_main()
}

/// This CPU takes interrupts of every priority.
fn this_cpu() {
    write_register(GIC_CPU + 4, 0xff);
    write_register(GIC_CPU, 1);
}

fn read_register(at: usize) -> u32 {
    // SAFETY:
    // 1. A device register of the first GiB, identity-mapped as a device.
    unsafe { (at as *const u32).read_volatile() }
}

fn write_register(at: usize, value: u32) {
    // SAFETY:
    // 1. The same; what is written is for interrupts and the serial line, and touches no memory.
    unsafe { (at as *mut u32).write_volatile(value) };
}

/// The interrupt that is to be handled, acknowledged and ended.
fn take_interrupt() -> u32 {
    let interrupt = read_register(GIC_CPU + 0xc);
    write_register(GIC_CPU + 0x10, interrupt);
    interrupt & 0x3ff
}

/// Sends software interrupt `id` to `cpu`.
fn send(cpu: usize, id: u32) {
    write_register(GIC_DISTRIBUTOR + 0xf00, 1 << (16 + cpu) | id);
}

/// The device tree, at the start of RAM.
fn tree() -> &'static [u8] {
    let at = RAM_START as *const u8;
    // SAFETY:
    // 1. QEMU left a tree there; it lies in RAM below the image, identity-mapped.
    let head = unsafe { core::slice::from_raw_parts(at, 8) };
    let len = fdt::len(head).expect("a device tree at the start of RAM");
    // SAFETY:
    // 1. The tree says that it is so long, and it ends below the image: nobody writes there.
    unsafe { core::slice::from_raw_parts(at, len.min(2 << 20)) }
}

/// Where the image ends, and where the RAM around it does.
pub fn ram() -> (u64, u64) {
    let end = &raw const __end as u64;
    let (_, ram_end) = fdt::ram_around(tree(), end).expect("RAM around the image");
    (end, ram_end)
}

/// What stands after `-append`.
pub fn command_line() -> &'static str {
    fdt::command_line(tree())
}

/// The root of the windows' tables: the upper half's own.
pub fn window_root() -> Pfn {
    Pfn(&raw const high_root as u64 >> 12)
}

/// The root of the lower half that the kernel runs with.
pub fn kernel_root() -> Pfn {
    Pfn(&raw const low_root as u64 >> 12)
}

/// The root that this CPU uses for the lower half. Address spaces have no numbers here, so what is
/// not global goes.
pub fn switch_to(root: Pfn) {
    // SAFETY:
    // 1. `root` maps the kernel as the boot tables do: made by `UserSpace::new`, or is theirs.
    unsafe {
        asm!(
            "dsb ishst",
            "msr ttbr0_el1, {}",
            "isb",
            "tlbi vmalle1",
            "dsb nsh",
            "isb",
            in(reg) root.0 << 12,
            options(nostack)
        );
    }
}

/// The direct map over `frames`: the identity map of `boot.s`.
pub fn identity_map(frames: Extent) -> DirectMap {
    // SAFETY:
    // 1. `boot.s` has mapped the second GiB, for good, and `frames` is RAM there (`ram`).
    // 2. Frames that hold the tree, the image or the heap are never touched through it: tables and
    //    pool begin behind the heap (`machine::start`).
    unsafe { DirectMap::new(VirtAddr(frames.start.0 << 12), frames) }.expect("whole frames")
}

/// One byte to the serial line.
pub fn write_byte(byte: u8) {
    write_register(UART, u32::from(byte));
}

/// Ends the emulator: status 0 if `ok`, else 1.
pub fn exit(ok: bool) -> ! {
    let block = [0x2_0026_u64, u64::from(!ok)];
    // SAFETY:
    // 1. Semihosting's SYS_EXIT reads the block and does not return.
    unsafe { asm!("hlt #0xf000", in("x0") 0x18, in("x1") block.as_ptr()) };
    loop {
        relax();
    }
}

/// The time.
pub fn counter() -> u64 {
    let time;
    // SAFETY:
    // 1. Reads a counter.
    unsafe { asm!("mrs {}, cntvct_el0", out(reg) time, options(nostack, nomem)) };
    time
}

/// While waiting for another CPU.
pub fn relax() {
    core::hint::spin_loop();
}

/// This CPU's number.
pub fn cpu() -> usize {
    let mpidr: usize;
    // SAFETY:
    // 1. Reads a register.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) mpidr, options(nostack, nomem)) };
    mpidr & 0xff
}

/// Starts CPU 1.
pub fn start_other() {
    let error: i64;
    // SAFETY:
    // 1. PSCI's calling convention: CPU, entry, context; registers x4 to x17 may be lost.
    // 2. The entry sets up a CPU with a stack of its own.
    unsafe {
        asm!(
            "hvc #0",
            inlateout("x0") CPU_ON => error,
            inlateout("x1") 1_u64 => _,
            inlateout("x2") _start_other as *const () => _,
            inlateout("x3") 0_u64 => _,
            clobber_abi("C"),
        );
    }
    assert_eq!(error, 0, "PSCI starts no other CPU");
}

/// Flushes go by broadcast: nothing to interrupt for.
pub fn interrupt(_mask: u64) {}

/// Wakes CPU `cpu` from [`idle_unless`].
pub fn wake(cpu: usize) {
    // SAFETY:
    // 1. A barrier: what was stored before is seen by whom the interrupt wakes.
    unsafe { asm!("dsb ishst", options(nostack)) };
    send(cpu, WAKE);
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

/// Interrupts on, for this CPU.
pub fn interrupts_on() {
    // SAFETY:
    // 1. The vectors are set: `boot.s`.
    unsafe { asm!("msr daifclr, #2", options(nostack)) };
}

/// Interrupts off. Whether they were on.
pub fn interrupts_off() -> bool {
    let were_on = interrupts_are_on();
    // SAFETY:
    // 1. Touches no memory.
    unsafe { asm!("msr daifset, #2", options(nostack)) };
    were_on
}

/// Whether interrupts are on.
pub fn interrupts_are_on() -> bool {
    let masks: usize;
    // SAFETY:
    // 1. Reads a register.
    unsafe { asm!("mrs {}, daif", out(reg) masks, options(nostack)) };
    masks & 1 << 7 == 0
}

/// What was written as data to the page at `at` is fetched as code from here on.
pub fn sync_code(at: u64) {
    for line in (at..at + 4096).step_by(64) {
        // SAFETY:
        // 1. Cleans a line of a page that the caller has just written.
        unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack)) };
    }
    // SAFETY:
    // 1. Drops the instruction caches of all CPUs; barriers.
    unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack)) };
}
