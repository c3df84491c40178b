//! aarch64: `tlbi`, for this CPU or (`is`, inner shareable) for all of them, between barriers.
//!
//! `dsb ishst` first: the walkers of all CPUs see the entry that was cleared. `dsb ish` last:
//! nothing goes on before the flush is done, and accesses that used the old translation are.

use core::arch::asm;
use vmalloc_core::{PageRange, Vpn};

/// What the operand of `tlbi va…` holds: the page's lower 44 bits; ASID 0, of no matter for `vaa`.
const fn operand(at: Vpn) -> u64 {
    at.0 & ((1 << 44) - 1)
}

/// Every CPU forgets the pages of all ranges.
pub fn flush_pages_on_all(ranges: &[PageRange]) {
    before();
    for range in ranges {
        for at in range.start.0..range.end().0 {
            // SAFETY:
            // 1. `tlbi` takes any operand, and touches no memory and no register.
            unsafe { asm!("tlbi vaae1is, {}", in(reg) operand(Vpn(at)), options(nostack)) };
        }
    }
    after();
}

/// Every CPU forgets everything of this translation regime.
pub fn flush_everything_on_all() {
    before();
    // SAFETY:
    // 1. `tlbi` touches no memory and no register.
    unsafe { asm!("tlbi vmalle1is", options(nostack)) };
    after();
}

/// The current CPU forgets the pages of `range`.
pub fn flush_local(range: PageRange) {
    before();
    for at in range.start.0..range.end().0 {
        // SAFETY:
        // 1. `tlbi` takes any operand, and touches no memory and no register.
        unsafe { asm!("tlbi vaae1, {}", in(reg) operand(Vpn(at)), options(nostack)) };
    }
    after();
}

/// After entries became valid: walkers see them, and what follows uses them.
pub fn publish() {
    before();
    // SAFETY:
    // 1. A barrier: touches no memory and no register.
    unsafe { asm!("isb", options(nostack)) };
}

fn before() {
    // SAFETY:
    // 1. A barrier: touches no memory and no register.
    unsafe { asm!("dsb ishst", options(nostack)) };
}

fn after() {
    // SAFETY:
    // 1. Barriers: they touch no memory and no register.
    unsafe { asm!("dsb ish", "isb", options(nostack)) };
}
