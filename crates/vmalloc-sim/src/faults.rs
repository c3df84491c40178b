//! Faults on demand: the n-th call of a kind, of those that a machine may fail, fails.
//!
//! A test first runs an operation with nothing armed and reads how many steps of each kind it
//! took; then it runs the operation once for each of them, with that step failing, and looks for
//! what was left behind.
//!
//! ```text
//!   reset ─ run ─ seen(step) = k      for n in 1..=k { fail_nth(step, n) ─ run ─ check }
//! ```
//!
//! A plan that [notes sites](FaultPlan::note_sites) also remembers from which lines of whose sources
//! its steps were asked for, so that a test can say which calls no operation ever comes by.
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
    /// [`vmalloc_core::platform::Mapper::split`]; likewise.
    Split,
    /// [`vmalloc_core::platform::Mapper::prepare`]; likewise.
    Prepare,
    /// [`Frames::reach`] of a [`FaultyFrames`], and [`Frames::take_where`] once more: an allocator
    /// that cannot choose, [`PolicyError::Unsupported`].
    Policy,
}

impl Step {
    /// Every kind.
    pub const ALL: [Step; 7] = [
        Step::Take,
        Step::TakeBulk,
        Step::AllocTable,
        Step::MapRun,
        Step::Split,
        Step::Prepare,
        Step::Policy,
    ];

    /// Those of an allocation that memory may be too short for: what random operations fail.
    pub const SHORT_OF_MEMORY: [Step; 4] =
        [Step::Take, Step::TakeBulk, Step::AllocTable, Step::MapRun];
}

/// A line of a source that asks for a step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Site {
    /// The source, as the compiler was told of it.
    pub file: &'static str,
    /// The line, from 1 on.
    pub line: u32,
}

/// Which steps fail. Starts with none armed, and counts.
#[derive(Default, Debug)]
pub struct FaultPlan {
    counters: [Counter; Step::ALL.len()],
    // Written by every step, once sites are noted.
    #[cfg(feature = "std")]
    sites: std::sync::Mutex<Option<std::collections::BTreeSet<Site>>>,
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

    /// From here on it is remembered who asks for steps, failed ones included.
    #[cfg(feature = "std")]
    pub fn note_sites(&self) {
        self.noted().get_or_insert_default();
    }

    /// Who did, since it is remembered. Not forgotten by [`FaultPlan::reset`].
    #[cfg(feature = "std")]
    #[must_use]
    pub fn sites(&self) -> std::collections::BTreeSet<Site> {
        self.noted().clone().unwrap_or_default()
    }

    #[cfg(feature = "std")]
    fn noted(&self) -> std::sync::MutexGuard<'_, Option<std::collections::BTreeSet<Site>>> {
        self.sites.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Counts a call of `step`; whether it must fail. Called once by whatever performs the step,
    /// which is a `#[track_caller]`: the site is whose call that is.
    #[must_use]
    #[track_caller]
    pub fn fails(&self, step: Step) -> bool {
        #[cfg(feature = "std")]
        if let Some(sites) = &mut *self.noted() {
            let asks = core::panic::Location::caller();
            sites.insert(Site { file: asks.file(), line: asks.line() });
        }
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
    #[track_caller]
    fn take(&self, order: Order) -> Result<Pfn, NoFrames> {
        if self.plan.fails(Step::Take) {
            return Err(NoFrames { wanted: order.pages(), free: self.inner.free() });
        }
        self.inner.take(order)
    }

    #[track_caller]
    fn take_bulk(&self, want: Pages, out: &mut [Extent]) -> usize {
        if self.plan.fails(Step::TakeBulk) { 0 } else { self.inner.take_bulk(want, out) }
    }

    /// A step of the kind [`Step::TakeBulk`], too, and one of the kind [`Step::Policy`].
    #[track_caller]
    fn take_where(
        &self,
        policy: FramePolicy,
        want: Pages,
        out: &mut [Extent],
    ) -> Result<usize, PolicyError> {
        if self.plan.fails(Step::TakeBulk) {
            return Ok(0);
        }
        if self.plan.fails(Step::Policy) {
            return Err(PolicyError::Unsupported { policy });
        }
        self.inner.take_where(policy, want, out)
    }

    #[track_caller]
    fn reach(&self, policy: FramePolicy) -> Result<Pages, PolicyError> {
        if self.plan.fails(Step::Policy) {
            return Err(PolicyError::Unsupported { policy });
        }
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
