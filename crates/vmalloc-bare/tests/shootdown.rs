//! Shootdowns by interrupts, with threads for CPUs: each has a TLB, and looks for interrupts.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use vmalloc_bare::{Cpus, Ipi, Shootdown, SpinLock, What};
use vmalloc_core::{PageRange, Pages, Vpn};

const CPUS: usize = 3;
/// Pages that everybody keeps translations of.
const SPAN: u64 = 200;

thread_local! {
    static ME: Cell<usize> = const { Cell::new(0) };
    static TLB: RefCell<HashSet<u64>> = RefCell::new(HashSet::new());
}

/// What the TLB of each CPU holds, for the one who wants to see that it does not: a bit a page.
static HELD: [[AtomicU64; 4]; CPUS] = [const { [const { AtomicU64::new(0) }; 4] }; CPUS];
static RAISED: AtomicU64 = AtomicU64::new(0);
static FLUSHED_ALL: AtomicUsize = AtomicUsize::new(0);

struct Threads;

impl Cpus for Threads {
    fn current(&self) -> usize {
        ME.get()
    }

    fn online(&self) -> u64 {
        (1 << CPUS) - 1
    }

    fn interrupt(&self, mask: u64) {
        RAISED.fetch_or(mask, Ordering::AcqRel);
    }

    fn may_wait(&self) -> bool {
        true
    }
}

static IPI: Ipi<Threads, SpinLock> = Ipi::new(Threads, SpinLock::new(), forget);

/// This CPU's TLB loses `what`.
fn forget(what: What<'_>) {
    TLB.with_borrow_mut(|tlb| match what {
        What::Pages(ranges) => tlb.retain(|&page| !ranges.iter().any(|r| r.contains(Vpn(page)))),
        What::Everything => {
            FLUSHED_ALL.fetch_add(1, Ordering::AcqRel);
            tlb.clear();
        }
    });
    show();
}

fn show() {
    TLB.with_borrow(|tlb| {
        for (i, word) in HELD[ME.get()].iter().enumerate() {
            let bits = (0..64).filter(|bit| tlb.contains(&(i as u64 * 64 + bit)));
            word.store(bits.fold(0, |word, bit| word | 1 << bit), Ordering::Release);
        }
    });
}

fn is_held(cpu: usize, page: u64) -> bool {
    HELD[cpu][page as usize / 64].load(Ordering::Acquire) >> (page % 64) & 1 == 1
}

fn look_for_interrupts() {
    let me = 1 << ME.get();
    if RAISED.fetch_and(!me, Ordering::AcqRel) & me != 0 {
        IPI.answer();
    }
}

/// Which pages the tables map: a bit a page.
static MAPPED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// This CPU walks for every page that is mapped. It answers interrupts before or after, not within.
fn fill() {
    let bits = MAPPED.each_ref().map(|word| word.load(Ordering::Acquire));
    let is_mapped = |page: &u64| bits[*page as usize / 64] >> (page % 64) & 1 == 1;
    TLB.with_borrow_mut(|tlb| tlb.extend((0..SPAN).filter(is_mapped)));
    show();
}

fn each_bit(pages: std::ops::Range<u64>, change: impl Fn(&AtomicU64, u64)) {
    pages.for_each(|page| change(&MAPPED[page as usize / 64], 1 << (page % 64)));
}

/// Two under Miri: one of everything, one of a list.
const ROUNDS: u64 = if cfg!(miri) { 2 } else { 40 };

/// Goal: when a shootdown returns, no CPU holds a page of it, whoever else began one at the same
/// time, and nobody waits for ever. Method: every thread is a CPU that holds translations of all
/// pages; each unmaps pages of its own, shoots them down (few: a list; many: everything), and
/// then looks into the TLBs of all.
#[test]
fn shootdown_returns_when_no_cpu_holds_the_pages_and_two_at_once_do_not_deadlock() {
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for me in 0..CPUS {
            let done = &done;
            scope.spawn(move || {
                ME.set(me);
                let first = me as u64 * 60;
                for round in 0..ROUNDS {
                    each_bit(first..first + 60, |word, bit| {
                        word.fetch_or(bit, Ordering::AcqRel);
                    });
                    fill();
                    std::thread::yield_now();
                    look_for_interrupts();
                    let len = if round % 3 == 0 { 60 } else { 1 + round % 20 };
                    each_bit(first..first + len, |word, bit| {
                        word.fetch_and(!bit, Ordering::AcqRel);
                    });
                    IPI.flush_all(What::of(&[PageRange { start: Vpn(first), len: Pages(len) }]));
                    for cpu in 0..CPUS {
                        let held = (first..first + len).find(|&page| is_held(cpu, page));
                        assert_eq!(held, None, "held by CPU {cpu}");
                    }
                }
                done.fetch_add(1, Ordering::AcqRel);
                while done.load(Ordering::Acquire) < CPUS {
                    look_for_interrupts();
                    std::thread::yield_now();
                }
            });
        }
    });
    assert_eq!(IPI.count(), ROUNDS * CPUS as u64);
    assert!(FLUSHED_ALL.load(Ordering::Acquire) > 0);
}
