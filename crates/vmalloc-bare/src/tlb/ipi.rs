//! x86_64: a list of ranges, an interrupt to the other CPUs, and their answers.
//!
//! ```text
//!   begin: lock ─▶ ranges, count ─▶ pending = others ─▶ interrupt(others) ─▶ flush here ─▶ pending == 0
//!   other CPU, in its handler (or while it waits for the lock): answer: flush the list, clear my bit
//! ```
//!
//! One shootdown at a time. The list holds [`PAGES_MAX`] ranges at most, since more pages than that
//! are flushed as everything. Linux: `smp_call_function_many` with `do_kernel_range_flush`.

use super::lock::TryLock;
use super::{Cpus, PAGES_MAX, Shootdown, What, locked};
use vmalloc_core::sync::{AtomicU64, Ordering};
use vmalloc_core::{PageRange, Pages, Vpn};

/// The list's length when everything is to be flushed.
const EVERYTHING: u64 = u64::MAX;

/// A shootdown by interrupts. One for the whole kernel, in a `static`.
#[derive(Debug)]
pub struct Ipi<C, L> {
    cpus: C,
    lock: L,
    // Written under `lock`, before `pending`.
    list: [[AtomicU64; 2]; PAGES_MAX as usize],
    len: AtomicU64,
    // Set under `lock`; each other CPU clears its own bit.
    pending: AtomicU64,
    // How many there were.
    count: AtomicU64,
    /// How one CPU forgets: the instructions, or a test's.
    flush: fn(What<'_>),
}

impl<C: Cpus, L: TryLock> Ipi<C, L> {
    /// Shootdowns to `cpus`, one at a time under `lock`. `flush` makes the current CPU forget: on
    /// x86_64 that is [`flush_here`].
    pub const fn new(cpus: C, lock: L, flush: fn(What<'_>)) -> Self {
        let list = [const { [const { AtomicU64::new(0) }; 2] }; PAGES_MAX as usize];
        let (len, pending, count) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Ipi { cpus, lock, list, len, pending, count, flush }
    }

    /// What the interrupt's handler does: if somebody waits for this CPU, flush, and say so.
    /// Idempotent: an interrupt may come late, when it was answered already.
    pub fn answer(&self) {
        let me = 1_u64 << self.cpus.current();
        // Acquire: pairs with the Release in `flush_all`: the list is the one to flush.
        if self.pending.load(Ordering::Acquire) & me == 0 {
            return;
        }
        let len = self.len.load(Ordering::Relaxed);
        if len == EVERYTHING {
            (self.flush)(What::Everything);
        } else {
            for range in &self.list[..len.min(PAGES_MAX) as usize] {
                let [start, len] = range.each_ref().map(|word| word.load(Ordering::Relaxed));
                (self.flush)(What::Pages(&[PageRange { start: Vpn(start), len: Pages(len) }]));
            }
        }
        // Release: the flush is done before the one who waits goes on.
        self.pending.fetch_and(!me, Ordering::Release);
    }

    /// Shootdowns so far that had another CPU to tell.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn write_list(&self, what: What<'_>) {
        let What::Pages(ranges) = what else {
            self.len.store(EVERYTHING, Ordering::Relaxed);
            return;
        };
        if ranges.len() > self.list.len() {
            self.len.store(EVERYTHING, Ordering::Relaxed);
            return;
        }
        for (words, range) in self.list.iter().zip(ranges) {
            words[0].store(range.start.0, Ordering::Relaxed);
            words[1].store(range.len.0, Ordering::Relaxed);
        }
        self.len.store(ranges.len() as u64, Ordering::Relaxed);
    }
}

/// Makes the current CPU forget, by the instructions of x86_64.
#[cfg(target_arch = "x86_64")]
pub fn flush_here(what: What<'_>) {
    match what {
        What::Pages(ranges) => {
            for range in ranges {
                (range.start.0..range.end().0).for_each(|at| crate::arch::flush_page(Vpn(at)));
            }
        }
        What::Everything => crate::arch::flush_everything(),
    }
}

impl<C: Cpus, L: TryLock> Shootdown for Ipi<C, L> {
    /// Nothing: x86_64 keeps no invalid entries.
    fn publish(&self, _at: PageRange) {}

    /// # Panics
    ///
    /// If this context may not wait: another CPU may be waiting for this one, for ever.
    fn flush_all(&self, what: What<'_>) {
        assert!(self.cpus.may_wait(), "a shootdown where waiting is forbidden");
        let others = || self.cpus.online() & !(1 << self.cpus.current());
        if others() == 0 {
            return (self.flush)(what);
        }
        let idle = || self.answer();
        locked(&self.lock, idle, || {
            let others = others();
            self.write_list(what);
            // Release: pairs with the Acquire in `answer`.
            self.pending.store(others, Ordering::Release);
            self.cpus.interrupt(others);
            (self.flush)(what);
            // Acquire: what the others did before they answered is done.
            while self.pending.load(Ordering::Acquire) != 0 {
                core::hint::spin_loop();
            }
            self.count.fetch_add(1, Ordering::Relaxed);
        });
    }

    fn flush_local(&self, at: PageRange) {
        (self.flush)(What::Pages(&[at]));
    }

    fn may_wait(&self) -> bool {
        self.cpus.may_wait()
    }
}
