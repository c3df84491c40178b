//! Blocks of memory: allocate, touch, free.
//!
//! ```text
//!   warm     allocate, write the first byte, free             what the call costs
//!   touch    allocate, write a byte in every page, free       what the memory costs, too
//!   random   32 live blocks of 64 KiB to 64 MiB, one replaced at a time, every page written
//! ```
//!
//! `random` runs in a process of its own each time, since what counts is the peak of its memory.

mod contenders;
mod random;

use crate::runner::{Contender, Runner, ns_each, ns_each_on};
use contenders::{Block, Heap, Visitor};
pub use random::child;
use std::hint::black_box;

/// The cases of this group, for messages.
pub const NAMES: [&str; 3] = ["heaps/warm", "heaps/touch", "heaps/random"];

/// Sizes in bytes, with their names.
const SIZES: [(usize, &str); 8] = [
    (4 << 10, "4K"),
    (64 << 10, "64K"),
    (256 << 10, "256K"),
    (1 << 20, "1M"),
    (2 << 20, "2M"),
    (16 << 20, "16M"),
    (64 << 20, "64M"),
    (256 << 20, "256M"),
];

/// What a warm allocation and its free may cost, as a contender that always costs as much.
const BUDGET: &str = "budget: 100 ns";
const BUDGET_NS: f64 = 100.0;

/// Runs the group.
pub fn run(runner: &mut Runner) {
    for threads in [1, 2] {
        for (bytes, size) in SIZES {
            let is_large = bytes > 16 << 20;
            if is_large && (runner.quick || threads > 1) {
                continue;
            }
            warm(runner, threads, bytes, size);
            touch(runner, threads, bytes, size);
        }
    }
    random::run(runner);
}

/// What a batch does, for every contender.
struct Cycle {
    threads: usize,
    bytes: usize,
    count: usize,
    /// Every so many bytes one is written.
    stride: usize,
}

impl Cycle {
    fn once<H: Heap>(&self, heap: &H) -> f64 {
        let work = |_| {
            for _ in 0..self.count {
                let mut block = heap.take(self.bytes);
                block.touch(self.stride);
                drop(black_box(block));
            }
        };
        if self.threads == 1 {
            ns_each(self.count, || work(0))
        } else {
            ns_each_on(self.threads, self.count, work)
        }
    }
}

struct Cycles {
    cycle: std::rc::Rc<Cycle>,
    out: Vec<Contender<'static>>,
}

impl Visitor for Cycles {
    fn visit<H: Heap + 'static>(&mut self, name: &'static str, heap: H) {
        let cycle = self.cycle.clone();
        self.out.push(Contender::new(name, move || cycle.once(&heap)));
    }
}

fn contenders(cycle: Cycle, wants: fn(&str) -> bool) -> Vec<Contender<'static>> {
    let mut cycles = Cycles { cycle: std::rc::Rc::new(cycle), out: Vec::new() };
    contenders::all(&mut cycles, wants);
    cycles.out
}

fn warm(runner: &mut Runner, threads: usize, bytes: usize, size: &str) {
    let name = format!("heaps/warm/threads={threads}/size={size}");
    if !runner.wants(&name) {
        return;
    }
    let both: &[_] = &[(BUDGET, 1.0), ("mimalloc", 10.0)];
    let goals = if bytes >= 1 << 20 { both } else { &both[..1] };
    let cycle = Cycle { threads, bytes, count: 300, stride: usize::MAX };
    // The kernel's own calls are in `touch`.
    let mut contenders = contenders(cycle, |name| !matches!(name, "mmap" | "ours, cold"));
    // The budget is of a call; the figure, of wall time for each call of all threads.
    let budget = BUDGET_NS / threads as f64;
    contenders.push(Contender::new(BUDGET, move || budget));
    runner.compare(&name, "ns an alloc and free", goals, contenders);
}

fn touch(runner: &mut Runner, threads: usize, bytes: usize, size: &str) {
    let name = format!("heaps/touch/threads={threads}/size={size}");
    if !runner.wants(&name) {
        return;
    }
    // A batch of a millisecond or so for the warm ones.
    let count = ((4 << 20) / bytes).clamp(1, 100);
    let cycle = Cycle { threads, bytes, count, stride: 4096 };
    let both: &[_] = &[("mmap", 300.0), ("mimalloc", 1.0 / 1.05)];
    let goals = if bytes == 1 << 20 { both } else { &both[1..] };
    runner.compare(&name, "ns an alloc, touch and free", goals, contenders(cycle, |_| true));
}
