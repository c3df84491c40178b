//! Segments, task state and interrupt table of each CPU.
//!
//! Ring 3 and its way back need a task state: where the stack of ring 0 is. The interrupt table is
//! the same for both CPUs, and written twice with the same contents.

use core::arch::asm;
use core::cell::UnsafeCell;

/// A CPU's own.
#[repr(C, align(16))]
struct Cpu {
    /// null, code, data, (32-bit code), user data, user code, task state (two).
    gdt: [u64; 8],
    /// The task state: `rsp0` is at bytes 4 to 11.
    tss: [u32; 26],
}

#[repr(C, align(16))]
struct Shared<T>(UnsafeCell<T>);

// SAFETY:
// 1. Each CPU writes its own part, before interrupts are on; afterwards the CPU itself reads it,
//    and `enter_user` writes `rsp0` of the CPU that it runs on.
unsafe impl<T> Sync for Shared<T> {}

static CPUS: Shared<[Cpu; 2]> =
    Shared(UnsafeCell::new([const { Cpu { gdt: [0; 8], tss: [0; 26] } }; 2]));
static IDT: Shared<[[u64; 2]; 256]> = Shared(UnsafeCell::new([[0; 2]; 256]));

unsafe extern "C" {
    static trap_stubs: [[u8; 16]; 37];
}

/// What `lgdt` and `lidt` take.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// The word that holds the stack for ring 0 of CPU `cpu`.
pub fn rsp0(cpu: usize) -> *mut u64 {
    let cpus = CPUS.0.get().cast::<Cpu>();
    cpus.wrapping_add(cpu).cast::<u8>().wrapping_add(size_of::<[u64; 8]>() + 4).cast()
}

/// Loads them all.
pub fn load(cpu: usize) {
    let this = CPUS.0.get().cast::<Cpu>().wrapping_add(cpu);
    let tss = this as u64 + size_of::<[u64; 8]>() as u64;
    let limit = size_of::<[u32; 26]>() as u64 - 1;
    let low = limit | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56;
    let gdt = [
        0,
        0x00af_9a00_0000_ffff,
        0x00cf_9200_0000_ffff,
        0x00cf_9a00_0000_ffff,
        0x00cf_f200_0000_ffff,
        0x00af_fa00_0000_ffff,
        low,
        tss >> 32,
    ];
    let mut state = [0; 26];
    state[25] = 104 << 16; // no permissions for ports
    // SAFETY:
    // 1. `this` is this CPU's own part of `CPUS`, and nobody reads it yet.
    unsafe { this.write(Cpu { gdt, tss: state }) };
    for vector in 0..256 {
        write_gate(vector);
    }
    let idt = Pointer { limit: 4095, base: IDT.0.get() as u64 };
    let gdt = Pointer { limit: 63, base: this as u64 };
    // SAFETY:
    // 1. Both tables live for ever, and have the form that the CPU wants; selectors 8 and 16 mean
    //    the same in the new table as in the one of `boot.s`.
    unsafe {
        asm!(
            "lgdt [{gdt}]",
            "lidt [{idt}]",
            "ltr {task:x}",
            gdt = in(reg) &raw const gdt,
            idt = in(reg) &raw const idt,
            task = in(reg) 0x30,
            options(nostack),
        );
    }
}

/// The gate of `vector` leads to its stub, interrupts off; user code may call 0x80.
fn write_gate(vector: usize) {
    let stub = match vector {
        0..32 => vector,
        0x80 => 32,
        0xf0 => 33,
        0xf1 => 34,
        0xf2 => 35,
        _ => 36,
    };
    let at = (&raw const trap_stubs as u64) + stub as u64 * 16;
    let rights = if vector == 0x80 { 0xee_u64 } else { 0x8e };
    let gate = [at & 0xffff | 8 << 16 | rights << 40 | (at >> 16 & 0xffff) << 48, at >> 32];
    let gates = IDT.0.get().cast::<[u64; 2]>();
    // SAFETY:
    // 1. `vector` is below 256: a gate of the table. Whoever writes it, writes the same.
    unsafe { gates.wrapping_add(vector).write_volatile(gate) };
}
