//! Page frames: take and give, one at a time.
//!
//! ```text
//!   repeat   take a frame, give it back: what a page fault and its end cost
//!   random   take 512 frames, give them back in random order
//!   huge     take a huge page (order 9), give it back
//! ```
//!
//! In a pool of 4 GiB, in whose lower half every other frame is taken.

use crate::rng::Rng;
use crate::runner::{Contender, Runner, ns_each, ns_each_on};
use buddy_system_allocator::FrameAllocator;
use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use vmalloc_core::frames::Buddy;
use vmalloc_core::{Extent, Frames, Order, Pages, Pfn};

/// The cases of this group, for messages.
pub const NAMES: [&str; 3] = ["frames/repeat", "frames/random", "frames/huge"];

/// Frames of the pool.
const LEN: usize = 1 << 20;
/// Frames a batch of `random` holds at once.
const HELD: usize = 512;
const HUGE: u8 = 9;

/// Hands out blocks of 2^`order` frames to several threads.
trait Heap: Sync {
    fn take(&self, thread: usize, order: u8) -> u64;
    fn give(&self, thread: usize, first: u64, order: u8);
}

struct Ours(Buddy<'static>);

impl Heap for Ours {
    fn take(&self, thread: usize, order: u8) -> u64 {
        self.0.on_cpu(thread).take(Order(order)).expect("a free block").0
    }

    fn give(&self, thread: usize, first: u64, order: u8) {
        self.0.on_cpu(thread).give(Extent { start: Pfn(first), len: Pages(1 << order) });
    }
}

struct Peer(Mutex<FrameAllocator<33>>);

impl Heap for Peer {
    fn take(&self, _thread: usize, order: u8) -> u64 {
        let mut frames = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frames.alloc(1 << order).expect("a free block") as u64
    }

    fn give(&self, _thread: usize, first: u64, order: u8) {
        let mut frames = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frames.dealloc(first as usize, 1 << order);
    }
}

/// A bit a frame, set where it is free, and where the last one was found.
struct Bitmap(Mutex<(Vec<u64>, usize)>);

impl Heap for Bitmap {
    fn take(&self, _thread: usize, order: u8) -> u64 {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (words, next) = &mut *guard;
        let whole = (1_usize << order).div_ceil(64);
        for step in 0..words.len() {
            let at = (*next + step * whole) % words.len() / whole * whole;
            if order == 0 && words[at] != 0 {
                let bit = words[at].trailing_zeros();
                words[at] &= words[at] - 1;
                *next = at;
                return at as u64 * 64 + u64::from(bit);
            }
            if order > 0 && words[at..at + whole].iter().all(|word| *word == u64::MAX) {
                words[at..at + whole].fill(0);
                *next = at;
                return at as u64 * 64;
            }
        }
        panic!("no free block");
    }

    fn give(&self, _thread: usize, first: u64, order: u8) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, bit) = ((first / 64) as usize, first % 64);
        if order == 0 {
            guard.0[at] |= 1 << bit;
        } else {
            guard.0[at..at + (1_usize << order) / 64].fill(u64::MAX);
        }
    }
}

/// Ours and its peers, each with every other frame of its lower half taken.
fn heaps() -> [(&'static str, Box<dyn Heap>); 3] {
    let words = (0..Buddy::words_needed(Pages(LEN as u64))).map(|_| AtomicU64::new(0)).collect();
    let words = Box::leak(Vec::into_boxed_slice(words));
    let ours = Buddy::format(words, Pfn(0), Pages(LEN as u64)).expect("words for a pool");
    let mut peer = FrameAllocator::new();
    peer.add_frame(0, LEN);
    let bitmap = (vec![u64::MAX; LEN / 64], 0);
    let heaps: [(&str, Box<dyn Heap>); 3] = [
        ("ours", Box::new(Ours(ours))),
        ("buddy_system_allocator", Box::new(Peer(Mutex::new(peer)))),
        ("bitmap with a lock", Box::new(Bitmap(Mutex::new(bitmap)))),
    ];
    for (_, heap) in &heaps {
        let frames: Vec<u64> = (0..LEN / 2).map(|_| heap.take(0, 0)).collect();
        frames.iter().filter(|frame| *frame % 2 == 0).for_each(|&frame| heap.give(0, frame, 0));
    }
    heaps
}

/// Runs the group.
pub fn run(runner: &mut Runner) {
    for threads in [1, 2] {
        case(runner, "repeat", threads, |heap, thread| {
            for _ in 0..HELD {
                let frame = heap.take(thread, 0);
                heap.give(thread, black_box(frame), 0);
            }
        });
        let seed = runner.seed;
        case(runner, "random", threads, move |heap, thread| {
            let mut frames: [u64; HELD] = std::array::from_fn(|_| heap.take(thread, 0));
            Rng(seed).shuffle(&mut frames);
            frames.iter().for_each(|&frame| heap.give(thread, frame, 0));
        });
        case(runner, "huge", threads, |heap, thread| {
            for _ in 0..HELD {
                let first = heap.take(thread, HUGE);
                heap.give(thread, black_box(first), HUGE);
            }
        });
    }
}

fn case(runner: &mut Runner, what: &str, threads: usize, work: impl Fn(&dyn Heap, usize) + Sync) {
    let name = format!("frames/{what}/threads={threads}");
    if !runner.wants(&name) {
        return;
    }
    let work = &work;
    let contenders = heaps().map(|(name, heap)| {
        Contender::new(name, move || match threads {
            1 => ns_each(HELD, || work(&*heap, 0)),
            _ => ns_each_on(threads, HELD, |thread| work(&*heap, thread)),
        })
    });
    runner.compare(&name, "ns a pair", &[], contenders.into());
}
