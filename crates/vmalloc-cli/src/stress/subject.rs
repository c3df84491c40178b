//! What a case needs of a machine: memory, and a few services that only some machines have.
//!
//! A [`Stage`] is a machine set up for a run; each worker gets a [`Subject`] of its own, which
//! knows its CPU. Memory is freed when its handle is dropped, so a case that stops halfway leaves
//! nothing behind.

use std::error::Error;
use vmalloc_core::Request;

/// Why a case did not pass.
#[derive(Debug)]
pub enum Stop {
    /// Something was refused or wrong.
    Failed(Box<dyn Error + Send + Sync>),
    /// This machine cannot run it; why.
    Unsupported(&'static str),
}

/// How a case ended.
pub type Verdict<T = ()> = Result<T, Stop>;

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Failed(error.into())
    }
}

/// Memory that a case holds; freed by dropping it.
pub trait Mem {
    /// Where its first byte is.
    fn addr(&self) -> u64;

    /// Writes `bytes` from byte `at` on.
    fn write(&mut self, at: usize, bytes: &[u8]) -> Verdict;

    /// Reads into `out` from byte `at` on.
    fn read(&self, at: usize, out: &mut [u8]) -> Verdict;
}

/// A machine, as one worker sees it.
pub trait Subject: Copy {
    /// What `alloc` yields.
    type Mem: Mem;
    /// Single frames, taken in bulk; given back by dropping them.
    type Frames;
    /// Frames mapped for a moment; unmapped by dropping it.
    type Run: Mem;

    /// How many CPUs the machine has.
    fn cpus(&self) -> u32;

    /// Linux: `__vmalloc_node_range`.
    fn alloc(&self, request: &Request) -> Verdict<Self::Mem>;

    /// Gives memory another size, in place or elsewhere; its first bytes stay. Linux: `vrealloc`.
    fn resize(&self, mem: Self::Mem, bytes: u64) -> Verdict<Self::Mem>;

    /// Runs `body` where waiting is forbidden. Linux: `preempt_disable`.
    fn without_waiting<R>(&self, body: impl FnOnce() -> R) -> R;

    /// Linux: `alloc_pages_bulk`.
    fn take_frames(&self, pages: u64) -> Verdict<Self::Frames>;

    /// Linux: `vm_map_ram`.
    fn map_ram(&self, frames: &Self::Frames) -> Verdict<Self::Run>;
}

/// A machine, set up for a run. Workers share it.
pub trait Stage: Sync {
    /// What a worker gets.
    type Subject<'a>: Subject
    where
        Self: 'a;

    /// The subject of worker `index`; called on the worker's own thread.
    fn subject(&self, index: usize) -> Self::Subject<'_>;

    /// Purges everything, and checks that nothing leaked and that the invariants hold. Everything
    /// was freed, and nobody is at work.
    fn settle(&self) -> Verdict<Settled>;
}

/// What the check at the end found.
#[derive(Clone, Copy, Default, Debug, serde::Serialize)]
pub struct Settled {
    /// Areas still in use: 0, or the check fails.
    pub areas: usize,
    /// Frames still in use: 0, or the check fails.
    pub frames: u64,
    /// Allocations that the machine served.
    pub allocs: u64,
    /// Those of them that came out of the lazy list, warm.
    pub revives: u64,
    /// Areas that were purged.
    pub purged: u64,
    /// Shootdowns that took.
    pub flushes: u64,
}
