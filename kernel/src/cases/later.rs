//! Memory that is freed once the other CPU has let go of it. Linux: `kvfree_rcu`.
//!
//! ```text
//!   this CPU   publish b, give up a ─▶ batch ─full▶ a grace period begins ─over▶ checked, freed, purged
//!   the other  ──look at a────────q──look at b──q──    q: it holds nothing; it says which period it saw
//! ```
//!
//! The other CPU looks through the published address all the time. Were an area freed and purged
//! before its time, that look would fault, or find what somebody else wrote.

use super::BESIDE;
use crate::arch;
use crate::machine::KernelEngine;
use crate::smp::{self, Job};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vmalloc_core::{Request, VirtAddr};

/// Areas a batch. Linux: 508, a page of pointers.
const BATCH: usize = 32;
/// Areas in all.
const COUNT: usize = 640;
/// Where an area holds its own address: behind the head.
const MARK_AT: u64 = 16;

/// What the other CPU looks at: the address of an area, or 0.
static PUBLISHED: AtomicU64 = AtomicU64::new(0);
/// The grace periods that have begun, and the last one that the other CPU saw while it held nothing.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static SEEN: AtomicU64 = AtomicU64::new(0);
static LOOKS: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

/// What the other CPU does: look, let go, say so.
pub fn look_beside() {
    while !STOP.load(Ordering::Acquire) {
        let at = PUBLISHED.load(Ordering::SeqCst);
        if at != 0 {
            assert_eq!(arch::load(at + MARK_AT), Ok(at), "freed before its time");
            LOOKS.fetch_add(1, Ordering::Relaxed);
        }
        // SeqCst, as all of these: who sees the period begun sees what was published before it.
        SEEN.store(BEGUN.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

/// Linux's `kvfree_rcu_1_arg_vmalloc_test`, and with `heads` `kvfree_rcu_2_arg_vmalloc_test`: there
/// each area holds the address of the one given up before it.
pub fn free_later(engine: &KernelEngine<'_>, heads: bool) {
    STOP.store(false, Ordering::Release);
    LOOKS.store(0, Ordering::Relaxed);
    BESIDE.store(3, Ordering::Release);
    smp::begin(Job::Beside, 0, 0);
    let mut batch: Vec<u64> = Vec::with_capacity(BATCH);
    for _ in 0..COUNT {
        let at = engine.vmalloc(&Request::bytes(4096)).expect("room").addr().0;
        arch::store(at + MARK_AT, at).expect("mapped");
        give_up(PUBLISHED.swap(at, Ordering::SeqCst), &mut batch, heads);
        if batch.len() == BATCH {
            free(engine, &mut batch, heads);
        }
    }
    while LOOKS.load(Ordering::Relaxed) == 0 {
        arch::relax();
    }
    give_up(PUBLISHED.swap(0, Ordering::SeqCst), &mut batch, heads);
    free(engine, &mut batch, heads);
    STOP.store(true, Ordering::Release);
    smp::wait().expect("no fault");
}

fn give_up(at: u64, batch: &mut Vec<u64>, heads: bool) {
    if at == 0 {
        return;
    }
    if heads {
        arch::store(at, batch.last().copied().unwrap_or(0)).expect("mapped");
    }
    batch.push(at);
}

/// Waits for a grace period, and frees the batch so that a look at it would fault.
fn free(engine: &KernelEngine<'_>, batch: &mut Vec<u64>, heads: bool) {
    let period = BEGUN.fetch_add(1, Ordering::SeqCst) + 1;
    while SEEN.load(Ordering::SeqCst) < period {
        arch::relax();
    }
    while let Some(at) = batch.pop() {
        assert_eq!(arch::load(at + MARK_AT), Ok(at), "given to somebody else meanwhile");
        if heads {
            assert_eq!(arch::load(at), Ok(batch.last().copied().unwrap_or(0)), "the head");
        }
        let _ = engine.vfree(VirtAddr(at)).expect("live");
    }
    engine.purge().expect("may wait");
}
