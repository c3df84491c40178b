//! Faults on demand: the n-th frame take, bulk take, table allocation or map call fails.
//!
//! A test first runs an operation with nothing armed and reads how many steps of each kind it
//! took; then it runs the operation once for each of them, with that step failing, and looks for
//! what was left behind.
//!
//! ```text
//!   reset ─ run ─ seen(step) = k      for n in 1..=k { fail_nth(step, n) ─ run ─ check }
//! ```
//!
//! Invariant: a one-shot fires in exactly one call, whatever the number of threads.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use vmalloc_core::platform::{Frames, NoFrames};
use vmalloc_core::{Extent, FramePolicy, NodeId, Order, Pages, Pfn, PolicyError};

/// A kind of step that can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// [`Frames::take`] of a [`FaultyFrames`]; fails with [`NoFrames`].
    Take,
    /// [`Frames::take_bulk`] of a [`FaultyFrames`]; fails by returning 0.
    TakeBulk,
    /// The allocation of a frame for a page table, roots included; fails as if the pool of table
    /// frames were empty.
    AllocTable,
    /// [`vmalloc_core::platform::Mapper::map_run`]; fails with `NoTable` before it looks at
    /// anything.
    MapRun,
}

impl Step {
    /// Every kind.
    pub const ALL: [Step; 4] = [Step::Take, Step::TakeBulk, Step::AllocTable, Step::MapRun];
}

/// Which steps fail. Starts with none armed, and counts.
#[derive(Default, Debug)]
pub struct FaultPlan {
    counters: [Counter; Step::ALL.len()],
}

/// Calls number `from..until` fail; the first is number 1. Empty when nothing is armed.
#[derive(Default, Debug)]
struct Counter {
    // Written by every step.
    seen: AtomicU64,
    fired: AtomicU64,
    // Written by the test, between operations.
    from: AtomicU64,
    until: AtomicU64,
}

impl FaultPlan {
    /// A plan that fails nothing and counts.
    #[must_use]
    pub fn new() -> FaultPlan {
        FaultPlan::default()
    }

    /// Makes the `n`-th call of `step` from now on fail, once. `n` = 1 is the next call. Counting
    /// of this step starts over; what was armed for it before is forgotten.
    ///
    /// # Panics
    ///
    /// If `n` is zero.
    pub fn fail_nth(&self, step: Step, n: u64) {
        self.arm(step, n, n + 1);
    }

    /// Makes the `n`-th call of `step` from now on fail, and every later one. Otherwise as
    /// [`FaultPlan::fail_nth`].
    ///
    /// # Panics
    ///
    /// If `n` is zero.
    pub fn fail_from(&self, step: Step, n: u64) {
        self.arm(step, n, u64::MAX);
    }

    /// Disarms every step and sets all counts to zero: count-only.
    pub fn reset(&self) {
        for counter in &self.counters {
            counter.set(0, 0);
        }
    }

    /// How many calls of `step` there were since it was armed or reset, failed ones included.
    #[must_use]
    pub fn seen(&self, step: Step) -> u64 {
        self.counters[step as usize].seen.load(Ordering::Acquire)
    }

    /// How many calls of `step` this plan made fail since it was armed or reset.
    #[must_use]
    pub fn fired(&self, step: Step) -> u64 {
        self.counters[step as usize].fired.load(Ordering::Acquire)
    }

    /// Counts a call of `step`; whether it must fail. Called once by whatever performs the step.
    #[must_use]
    pub fn fails(&self, step: Step) -> bool {
        let counter = &self.counters[step as usize];
        // One atomic step gives each call its own number, so a one-shot fires in one call only.
        let number = counter.seen.fetch_add(1, Ordering::AcqRel) + 1;
        let from = counter.from.load(Ordering::Acquire);
        let fails = from != 0 && (from..counter.until.load(Ordering::Acquire)).contains(&number);
        if fails {
            counter.fired.fetch_add(1, Ordering::AcqRel);
        }
        fails
    }

    fn arm(&self, step: Step, from: u64, until: u64) {
        assert!(from != 0, "calls are numbered from 1");
        self.counters[step as usize].set(from, until);
    }
}

impl Counter {
    fn set(&self, from: u64, until: u64) {
        self.from.store(0, Ordering::Release); // disarmed while the rest changes
        self.seen.store(0, Ordering::Release);
        self.fired.store(0, Ordering::Release);
        self.until.store(until, Ordering::Release);
        self.from.store(from, Ordering::Release);
    }
}

/// Any frame allocator, with the failures of a [`FaultPlan`]. A failed call does not reach the
/// allocator.
pub struct FaultyFrames<F> {
    inner: F,
    plan: Arc<FaultPlan>,
    /// Looks at every run that goes home, before it does.
    watch: Option<Arc<Watch>>,
}

/// Somebody who looks at a run of frames.
type Watch = dyn Fn(Extent) + Send + Sync;

impl<F: Frames> FaultyFrames<F> {
    /// Wraps `inner`. Pass [`crate::Hardware::faults`] to have one plan for the whole machine.
    #[must_use]
    pub fn new(inner: F, plan: Arc<FaultPlan>) -> FaultyFrames<F> {
        FaultyFrames { inner, plan, watch: None }
    }

    /// The same, where `watch` looks at every run that goes home, before it does.
    #[must_use]
    pub fn watched(self, watch: Arc<Watch>) -> FaultyFrames<F> {
        FaultyFrames { watch: Some(watch), ..self }
    }

    /// The allocator inside.
    #[must_use]
    pub fn inner(&self) -> &F {
        &self.inner
    }
}

impl<F: Frames> Frames for FaultyFrames<F> {
    fn take(&self, order: Order) -> Result<Pfn, NoFrames> {
        if self.plan.fails(Step::Take) {
            return Err(NoFrames { wanted: order.pages(), free: self.inner.free() });
        }
        self.inner.take(order)
    }

    fn take_bulk(&self, want: Pages, out: &mut [Extent]) -> usize {
        if self.plan.fails(Step::TakeBulk) { 0 } else { self.inner.take_bulk(want, out) }
    }

    /// A step of the kind [`Step::TakeBulk`], too.
    fn take_where(
        &self,
        policy: FramePolicy,
        want: Pages,
        out: &mut [Extent],
    ) -> Result<usize, PolicyError> {
        if self.plan.fails(Step::TakeBulk) {
            return Ok(0);
        }
        self.inner.take_where(policy, want, out)
    }

    fn reach(&self, policy: FramePolicy) -> Result<Pages, PolicyError> {
        self.inner.reach(policy)
    }

    fn node_of(&self, pfn: Pfn) -> Option<NodeId> {
        self.inner.node_of(pfn)
    }

    fn give(&self, run: Extent) {
        if let Some(watch) = &self.watch {
            watch(run);
        }
        self.inner.give(run);
    }

    fn free(&self) -> Pages {
        self.inner.free()
    }

    fn total(&self) -> Pages {
        self.inner.total()
    }
}
