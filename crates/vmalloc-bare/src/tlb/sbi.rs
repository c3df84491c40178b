//! riscv64: the firmware tells the other harts.
//!
//! A fence for one page says nothing about tables; [`What::Everything`] is a fence for all of it.

use super::{Cpus, Shootdown, What};
use crate::arch;
use vmalloc_core::{PageRange, Vpn};

/// Flushes by the SBI's RFENCE. Numbers of CPUs are hart numbers.
#[derive(Clone, Copy, Debug)]
pub struct SbiRfence<C> {
    cpus: C,
}

impl<C: Cpus> SbiRfence<C> {
    /// Flushes on all harts that are up.
    pub const fn new(cpus: C) -> Self {
        SbiRfence { cpus }
    }

    /// # Panics
    ///
    /// If the firmware refuses: then nobody can tell what the other harts hold, and to go on would
    /// give their frames away.
    fn remote(&self, range: Option<(Vpn, u64)>) {
        let others = self.cpus.online() & !(1 << self.cpus.current());
        if others != 0 {
            arch::remote_fence(others, range).expect("a remote fence");
        }
    }
}

impl<C: Cpus> Shootdown for SbiRfence<C> {
    fn publish(&self, at: PageRange) {
        match at.len.0 {
            0 => {}
            1 => arch::publish(at.start),
            _ => arch::flush_everything(),
        }
    }

    fn flush_all(&self, what: What<'_>) {
        match what {
            What::Pages(ranges) => {
                for range in ranges {
                    (range.start.0..range.end().0).for_each(|at| arch::flush_page(Vpn(at)));
                    self.remote(Some((range.start, range.len.0)));
                }
            }
            What::Everything => {
                arch::flush_everything();
                self.remote(None);
            }
        }
    }

    fn flush_local(&self, at: PageRange) {
        (at.start.0..at.end().0).for_each(|at| arch::flush_page(Vpn(at)));
    }

    fn may_wait(&self) -> bool {
        self.cpus.may_wait()
    }
}
