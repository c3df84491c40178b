//! Interrupt handlers, and two CPUs at once.

use super::BESIDE;
use crate::arch;
use crate::machine::KernelEngine;
use crate::smp::{self, Job};
use crate::subject::with_engines;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use vmalloc_bare::Cpus;
use vmalloc_core::{AllocError, Kind, Pages, PurgeError, Request, VirtAddr};
use vmalloc_sim::{Random, Setup};

/// The engine that a handler or the other CPU uses while a case runs.
static ENGINE: AtomicPtr<KernelEngine<'static>> = AtomicPtr::new(core::ptr::null_mut());
/// What the handler frees, and what it found: 1 freed, 2 a purge was refused, 4 may not wait.
static TO_FREE: AtomicU64 = AtomicU64::new(0);
static FOUND: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

/// Lends `engine` to handlers and to the other CPU while `body` runs.
pub fn lend<R>(engine: &KernelEngine<'_>, body: impl FnOnce() -> R) -> R {
    ENGINE.store(core::ptr::from_ref(engine).cast_mut().cast(), Ordering::Release);
    let result = body();
    ENGINE.store(core::ptr::null_mut(), Ordering::Release);
    result
}

/// The engine that was lent.
pub fn lent() -> &'static KernelEngine<'static> {
    arch::lent(&ENGINE)
}

pub fn on_interrupt() {
    let engine = lent();
    let freed = engine.vfree(VirtAddr(TO_FREE.load(Ordering::Acquire)));
    let purged = engine.purge_step();
    let mut found = u64::from(freed.is_ok());
    found |= u64::from(matches!(purged, Err(PurgeError::MayNotWait))) << 1;
    found |= u64::from(!smp::TwoCpus.may_wait()) << 2;
    FOUND.store(found, Ordering::Release);
}

/// Goal: freeing never waits. Method: a real interrupt's handler frees; a purge there is refused, and
/// works behind it.
pub fn vfree_in_a_handler() {
    with_engines(Setup::DEFAULT, |_, engines| {
        let engine = &engines[0];
        for _ in 0..50 {
            let area = engine.vmalloc(&Request::bytes(3 * 4096).no_reuse()).expect("room");
            arch::store(area.addr().0, 1).expect("mapped");
            TO_FREE.store(area.addr().0, Ordering::Release);
            FOUND.store(0, Ordering::Release);
            lend(engine, || {
                arch::interrupt_self();
                while FOUND.load(Ordering::Acquire) == 0 {
                    arch::relax();
                }
            });
            assert_eq!(FOUND.load(Ordering::Acquire), 7, "freed, no purge, no waiting");
            let parked = engine.find(area.addr()).expect("parked");
            assert_eq!(parked.kind, Kind::Parked);
            assert_eq!(engine.purge().expect("may wait").areas, 1);
            assert!(arch::load(area.addr().0).is_err());
        }
    });
}

/// What the other CPU does in the next case: allocate, write, look, free.
pub fn allocate_beside() {
    let (engine, mut random) = (lent(), Random::new(7));
    while !STOP.load(Ordering::Acquire) {
        churn(engine, &mut random, 1);
    }
}

/// One area: taken, written on each page, looked at, freed. Whether there was room.
pub fn churn(engine: &KernelEngine<'_>, random: &mut Random, mark: u64) -> bool {
    let pages = 1 + random.below(30);
    let area = match engine.vmalloc(&Request::bytes(pages * 4096)) {
        Ok(area) => area,
        Err(AllocError::Back(_) | AllocError::NoHole { .. }) => return false,
        Err(e) => panic!("{pages} pages: {e}"),
    };
    let words = (0..pages).map(|page| area.addr().0 + page * 4096 + 8 * random.below(512));
    let words: alloc::vec::Vec<u64> = words.collect();
    for &word in &words {
        arch::store(word, word ^ mark).expect("mapped");
    }
    for &word in &words {
        assert_eq!(arch::load(word), Ok(word ^ mark), "somebody else wrote to {word:#x}");
    }
    let _ = engine.vfree(area.addr()).expect("live");
    true
}

/// Goal: a purge takes nothing that the other CPU uses. Method: the other one allocates, writes and
/// looks, all the time; this one purges, a shootdown each.
pub fn purge_beside_allocations() {
    let setup = Setup { lazy_pages_max: Pages(64), ..Setup::DEFAULT };
    with_engines(setup, |parts, engines| {
        let engine = &engines[0];
        STOP.store(false, Ordering::Release);
        BESIDE.store(1, Ordering::Release);
        let mut purged = 0;
        lend(engine, || {
            smp::begin(Job::Beside, 0, 0);
            let mut random = Random::new(8);
            for _ in 0..400 {
                purged += engine.purge().expect("may wait").areas;
                churn(engine, &mut random, 2);
            }
            STOP.store(true, Ordering::Release);
            smp::wait().expect("no fault");
        });
        engine.purge().expect("may wait");
        engine.verify().expect("sound");
        assert!(purged > 0);
        assert_eq!(vmalloc_core::platform::Frames::free(parts.buddy), setup.frames);
    });
}
