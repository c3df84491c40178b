//! A heap for the test kernel alone: the suite and its lists need one, the engine does not.
//!
//! Blocks of powers of two, a list of free ones for each; what no list has is cut from the rest.

use crate::arch;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Blocks of up to 2^26 bytes.
const ORDERS: usize = 27;

struct Heap {
    busy: AtomicBool,
    // Written under `busy`. Links of free blocks are in their first words.
    free: [AtomicUsize; ORDERS],
    next: AtomicUsize,
    end: AtomicUsize,
}

#[global_allocator]
static HEAP: Heap = Heap {
    busy: AtomicBool::new(false),
    free: [const { AtomicUsize::new(0) }; ORDERS],
    next: AtomicUsize::new(0),
    end: AtomicUsize::new(0),
};

/// Gives the heap its memory: `len` bytes at `start`, nobody else's, identity-mapped.
pub fn start(start: usize, len: usize) {
    HEAP.next.store(start, Ordering::Relaxed);
    HEAP.end.store(start + len, Ordering::Release);
}

impl Heap {
    fn locked<R>(&self, body: impl FnOnce() -> R) -> R {
        let were_on = arch::interrupts_off();
        while self.busy.swap(true, Ordering::Acquire) {
            arch::relax();
        }
        let result = body();
        self.busy.store(false, Ordering::Release);
        if were_on {
            arch::interrupts_on();
        }
        result
    }
}

/// log2 of the block for `layout`. Blocks are cut at multiples of 16.
fn order(layout: Layout) -> usize {
    layout.size().next_power_of_two().max(16).ilog2() as usize
}

// SAFETY:
// 1. A block is cut from the memory that `start` was given, once, and afterwards is either in its
//    order's list or live: no two live blocks overlap. All of it under one lock, interrupts off.
// 2. Larger alignment than 16 is refused in `alloc`: nothing here asks for it.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let order = order(layout);
        if order >= ORDERS || layout.align() > 16 {
            return null_mut();
        }
        self.locked(|| {
            let head = self.free[order].load(Ordering::Relaxed);
            if head != 0 {
                // SAFETY:
                // 1. `head` is a free block of ours; its first word is the link that `dealloc` wrote.
                let link = unsafe { (head as *const usize).read() };
                self.free[order].store(link, Ordering::Relaxed);
                return head as *mut u8;
            }
            let at = self.next.load(Ordering::Relaxed);
            if at + (1 << order) > self.end.load(Ordering::Relaxed) {
                return null_mut();
            }
            self.next.store(at + (1 << order), Ordering::Relaxed);
            at as *mut u8
        })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let order = order(layout);
        self.locked(|| {
            let head = self.free[order].load(Ordering::Relaxed);
            // SAFETY:
            // 1. The block is no longer live, has at least 16 bytes, and begins at a multiple of 16.
            unsafe { block.cast::<usize>().write(head) };
            self.free[order].store(block as usize, Ordering::Relaxed);
        });
    }
}
