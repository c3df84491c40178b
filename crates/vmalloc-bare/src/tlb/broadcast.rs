//! aarch64: the hardware tells the other CPUs.
//!
//! No list, no lock, no wait but for the barrier. Allowed in any context, in fact; whether to purge
//! there is still for the kernel to say.

use super::{Cpus, Shootdown, What};
use vmalloc_core::PageRange;

/// Flushes by `tlbi …is`.
#[derive(Clone, Copy, Debug)]
pub struct Broadcast<C> {
    cpus: C,
}

impl<C: Cpus> Broadcast<C> {
    /// Flushes on all CPUs of the inner shareable domain.
    pub const fn new(cpus: C) -> Self {
        Broadcast { cpus }
    }
}

#[cfg(target_arch = "aarch64")]
impl<C: Cpus> Shootdown for Broadcast<C> {
    fn publish(&self, _at: PageRange) {
        crate::arch::publish();
    }

    fn flush_all(&self, what: What<'_>) {
        match what {
            What::Pages(ranges) => crate::arch::flush_pages_on_all(ranges),
            What::Everything => crate::arch::flush_everything_on_all(),
        }
    }

    fn flush_local(&self, at: PageRange) {
        crate::arch::flush_local(at);
    }

    fn may_wait(&self) -> bool {
        self.cpus.may_wait()
    }
}

#[cfg(not(target_arch = "aarch64"))]
impl<C: Cpus> Shootdown for Broadcast<C> {
    fn publish(&self, _at: PageRange) {}

    fn flush_all(&self, _what: What<'_>) {
        unreachable!("only aarch64 broadcasts flushes");
    }

    fn flush_local(&self, _at: PageRange) {
        unreachable!("only aarch64 broadcasts flushes");
    }

    fn may_wait(&self) -> bool {
        self.cpus.may_wait()
    }
}
