//! Shootdowns: how all CPUs come to forget translations.
//!
//! | | reaches other CPUs by | here |
//! |---|---|---|
//! | x86_64 | an interrupt that each answers | [`Ipi`] |
//! | aarch64 | one instruction, broadcast by the hardware | [`Broadcast`] |
//! | riscv64 | a call of the firmware (SBI RFENCE) | `SbiRfence`, there alone |
//!
//! More than [`PAGES_MAX`] pages are flushed as everything: that many single flushes cost a CPU more
//! than it has to find again. Linux: `flush_tlb_kernel_range`, `tlb_single_page_flush_ceiling`.

mod broadcast;
mod ipi;
#[allow(unsafe_code)]
mod lock;
#[cfg(target_arch = "riscv64")]
mod sbi;

pub use broadcast::Broadcast;
pub use ipi::Ipi;
#[cfg(target_arch = "x86_64")]
pub use ipi::flush_here;
#[cfg(feature = "lock_api")]
pub use lock::LockApi;
pub use lock::{SpinLock, TryLock};
#[cfg(target_arch = "riscv64")]
pub use sbi::SbiRfence;

pub(crate) use lock::locked;

use vmalloc_core::PageRange;

/// More pages than this are flushed as everything. Linux's value.
pub const PAGES_MAX: u64 = 33;

/// What to forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What<'a> {
    /// The pages of these ranges.
    Pages(&'a [PageRange]),
    /// Everything, and where tables are, too.
    Everything,
}

impl<'a> What<'a> {
    /// The pages of `ranges`, or everything if they are too many.
    #[must_use]
    pub fn of(ranges: &'a [PageRange]) -> What<'a> {
        let pages: u64 = ranges.iter().map(|range| range.len.0).sum();
        if pages > PAGES_MAX { What::Everything } else { What::Pages(ranges) }
    }
}

/// A way to reach all CPUs.
pub trait Shootdown {
    /// Called after pages of `at` became valid.
    fn publish(&self, at: PageRange);

    /// Returns when every CPU has forgotten `what`. May wait.
    fn flush_all(&self, what: What<'_>);

    /// Returns when this CPU has forgotten the pages of `at`. Never waits.
    fn flush_local(&self, at: PageRange);

    /// Whether this context may wait for other CPUs.
    fn may_wait(&self) -> bool;
}

/// The CPUs, as a kernel knows them.
pub trait Cpus {
    /// The number of the CPU that this runs on, below 64. The caller does not move meanwhile:
    /// preemption is off where this matters.
    fn current(&self) -> usize;

    /// The CPUs that are up, a bit each. A CPU that comes up later has an empty TLB.
    fn online(&self) -> u64;

    /// Interrupts the CPUs of `mask`; the handler calls [`Ipi::answer`]. Where the hardware or the
    /// firmware does the flush, this is never called.
    fn interrupt(&self, mask: u64) {
        let _ = mask;
    }

    /// Whether this context may wait for other CPUs: interrupts are on, no spinlock is held that a
    /// handler takes.
    fn may_wait(&self) -> bool;
}

impl<C: Cpus + ?Sized> Cpus for &C {
    fn current(&self) -> usize {
        (**self).current()
    }

    fn online(&self) -> u64 {
        (**self).online()
    }

    fn interrupt(&self, mask: u64) {
        (**self).interrupt(mask);
    }

    fn may_wait(&self) -> bool {
        (**self).may_wait()
    }
}

impl<S: Shootdown + ?Sized> Shootdown for &S {
    fn publish(&self, at: PageRange) {
        (**self).publish(at);
    }

    fn flush_all(&self, what: What<'_>) {
        (**self).flush_all(what);
    }

    fn flush_local(&self, at: PageRange) {
        (**self).flush_local(at);
    }

    fn may_wait(&self) -> bool {
        (**self).may_wait()
    }
}
