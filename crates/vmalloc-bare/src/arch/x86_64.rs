//! x86_64: `invlpg` for a page, CR4.PGE off and on for everything, global entries too.

use core::arch::asm;
use vmalloc_core::Vpn;

/// The current CPU forgets page `at`, and where tables are (Intel SDM, 4.10.4.1).
pub fn flush_page(at: Vpn) {
    // SAFETY:
    // 1. `invlpg` takes an address that need not be mapped, and touches no memory and no register.
    unsafe { asm!("invlpg [{}]", in(reg) at.addr().0, options(nostack, preserves_flags)) };
}

/// The current CPU forgets everything.
pub fn flush_everything() {
    // SAFETY:
    // 1. A change of CR4.PGE flushes all translations; the second write restores the register.
    // 2. An interrupt in between, on this CPU, finds a CPU that works, without global pages.
    unsafe {
        asm!(
            "mov {was}, cr4",
            "mov {off}, {was}",
            "btr {off}, 7",
            "mov cr4, {off}",
            "mov cr4, {was}",
            was = out(reg) _,
            off = out(reg) _,
            options(nostack),
        );
    }
}

/// After entries became valid: nothing. x86_64 keeps no invalid ones.
pub fn publish() {}
