//! Random sizes: 32 live blocks of 64 KiB to 64 MiB, one replaced at a time, every page written.
//!
//! Each sample is a process of its own, which prints ns a step and the peak of its memory: so
//! contenders do not hold memory beside each other, and warm up the same way.

use super::contenders::{self, Block as _, Heap, Visitor};
use crate::machine::status_bytes;
use crate::rng::Rng;
use crate::runner::{Contender, Runner, ns_in_batches};
use std::cell::RefCell;
use std::process::Command;

const LIVE: usize = 32;
const LOW: u64 = 64 << 10;
const HIGH: u64 = 64 << 20;
/// In so many pieces a run is measured, a tenth of its steps each: the median counts.
const PIECES: usize = 5;

/// The heaps that take part: the kernel's calls and the cold pool are out of the running.
fn wanted(name: &str) -> bool {
    !matches!(name, "mmap" | "ours, cold")
}

struct Names(Vec<&'static str>);

impl Visitor for Names {
    fn visit<H: Heap + 'static>(&mut self, name: &'static str, _heap: H) {
        self.0.push(name);
    }
}

/// Runs the cases.
pub fn run(runner: &mut Runner) {
    for threads in [1, 2] {
        if threads == 2 && runner.quick {
            continue;
        }
        let name = format!("heaps/random/threads={threads}");
        if !runner.wants(&name) {
            continue;
        }
        let mut names = Names(Vec::new());
        contenders::all(&mut names, wanted);
        let steps = if runner.quick { 300 } else { 600 };
        let seed = runner.seed;
        let peaks: Vec<RefCell<Vec<f64>>> = names.0.iter().map(|_| RefCell::default()).collect();
        let contenders = names.0.iter().zip(&peaks).map(|(name, peaks)| {
            Contender::new(*name, move || {
                let [ns, peak] = ask(name, threads, steps, seed);
                peaks.borrow_mut().push(peak);
                ns
            })
        });
        let goals = [("mimalloc", 1.0 / 1.3)];
        runner.compare(&name, "ns a step", &goals, contenders.collect());
        // The peaks were noted beside: the same processes, another case.
        let taken = RefCell::new(vec![0; names.0.len()]);
        let contenders = names.0.iter().enumerate().map(|(i, name)| {
            let (peaks, taken) = (&peaks[i], &taken);
            Contender::new(*name, move || {
                let at = taken.borrow()[i];
                taken.borrow_mut()[i] += 1;
                peaks.borrow()[at]
            })
        });
        let name = format!("heaps/random-peak/threads={threads}");
        runner.compare(&name, "bytes at the peak", &[("mimalloc", 0.8)], contenders.collect());
    }
}

/// One sample, from a process of its own.
fn ask(heap: &str, threads: usize, steps: usize, seed: u64) -> [f64; 2] {
    let program = std::env::current_exe().expect("this program");
    let (threads, steps, seed) = (threads.to_string(), steps.to_string(), seed.to_string());
    let output = Command::new(program)
        .args(["--child-random", heap, &threads, &steps, &seed])
        .output()
        .expect("a child process");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(ns), Some(peak)) => [ns, peak],
        _ => panic!("{heap}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

struct Child {
    heap: String,
    threads: usize,
    steps: usize,
    seed: u64,
}

impl Visitor for Child {
    fn visit<H: Heap + 'static>(&mut self, name: &'static str, heap: H) {
        if name != self.heap {
            return;
        }
        let (steps, seed, live) = (self.steps, self.seed, LIVE / self.threads);
        let piece = steps / 10;
        let ns = ns_in_batches(self.threads, PIECES, piece, |thread| {
            let mut churn = Churn::new(&heap, live, seed + thread as u64);
            // The warm-up is in no piece.
            churn.run(steps / 2);
            move || churn.run(piece)
        });
        // The most memory that this process has had, shared memory included.
        println!("{ns} {}", status_bytes("VmHWM"));
    }
}

/// The child's side: `heap threads steps seed`.
pub fn child(args: &[String]) {
    let number = |i: usize| args[i].parse().expect("a number");
    let (threads, steps, seed) = (number(1) as usize, number(2) as usize, number(3));
    let mut child = Child { heap: args[0].clone(), threads, steps, seed };
    contenders::all(&mut child, wanted);
}

/// One thread's blocks.
struct Churn<'a, H: Heap> {
    heap: &'a H,
    rng: Rng,
    blocks: Vec<Option<H::Block>>,
}

impl<'a, H: Heap> Churn<'a, H> {
    fn new(heap: &'a H, live: usize, seed: u64) -> Churn<'a, H> {
        Churn { heap, rng: Rng(seed), blocks: (0..live).map(|_| None).collect() }
    }

    /// Replaces a block, so many times.
    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            let at = self.rng.below(self.blocks.len() as u64) as usize;
            let bytes = self.rng.log_uniform(LOW, HIGH);
            self.blocks[at] = None;
            let mut block = self.heap.take(bytes as usize);
            block.touch(4096);
            self.blocks[at] = Some(block);
        }
    }
}
