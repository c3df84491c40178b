//! riscv64: `sfence.vma` for this hart, and the SBI's extension RFENCE for the others.

use core::arch::asm;
use vmalloc_core::Vpn;

/// The SBI's number of the extension RFENCE, and of its function REMOTE_SFENCE_VMA.
const RFENCE: usize = 0x5246_4e43;
const REMOTE_SFENCE_VMA: usize = 1;

/// The firmware refused a remote fence: its error number, negative.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SbiError(pub isize);

/// This hart forgets the leaf that shows page `at`; what it knows of tables it may keep.
pub fn flush_page(at: Vpn) {
    // SAFETY:
    // 1. `sfence.vma` takes any address, and touches no memory and no register.
    unsafe { asm!("sfence.vma {}, zero", in(reg) at.addr().0, options(nostack)) };
}

/// This hart forgets everything.
pub fn flush_everything() {
    // SAFETY:
    // 1. `sfence.vma` touches no memory and no register.
    unsafe { asm!("sfence.vma", options(nostack)) };
}

/// After entries became valid: an older implementation may keep invalid ones, so this hart forgets
/// them; another one that does faults once, and its handler flushes and goes on.
pub fn publish(at: Vpn) {
    flush_page(at);
}

/// The harts of `mask` forget `pages` pages from `start` on, or with `None` everything; returns
/// when they have.
///
/// # Errors
///
/// [`SbiError`].
pub fn remote_fence(mask: u64, range: Option<(Vpn, u64)>) -> Result<(), SbiError> {
    let (start, len) = match range {
        Some((start, pages)) => (start.addr().0, pages << 12),
        None => (0, u64::MAX),
    };
    let error: isize;
    // SAFETY:
    // 1. The SBI's calling convention: arguments in a0 to a5, function and extension in a6 and a7,
    //    results in a0 and a1; every other register is kept.
    // 2. REMOTE_SFENCE_VMA reads and writes none of our memory.
    unsafe {
        asm!(
            "ecall",
            inlateout("a0") mask => error,
            inlateout("a1") 0_usize => _,
            in("a2") start,
            in("a3") len,
            in("a6") REMOTE_SFENCE_VMA,
            in("a7") RFENCE,
            options(nostack),
        );
    }
    if error == 0 { Ok(()) } else { Err(SbiError(error)) }
}
