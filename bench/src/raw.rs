//! The one file of this program with `unsafe`: what peers ask for in raw pointers.

#[cfg(feature = "iceoryx2")]
use iceoryx2::{prelude::ipc, sample_mut::SampleMut, sample_mut_uninit::SampleMutUninit};
use memmap2::{MmapMut, MmapOptions};
use std::alloc::{GlobalAlloc, Layout, alloc, dealloc};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use vmem::Bt;

/// Boundary tags for the crate vmem, from the global heap.
pub struct Tags;

// SAFETY:
// 1. `allocate` returns memory of a tag's size and alignment, or nothing.
// 2. `deallocate` gets only what `allocate` returned: the trait's promise.
unsafe impl vmem::Allocator for Tags {
    fn allocate(&self) -> Option<NonNull<Bt>> {
        // SAFETY:
        // 1. A tag is not zero-sized.
        let tag = unsafe { alloc(Layout::new::<Bt>()) };
        NonNull::new(tag.cast())
    }

    unsafe fn deallocate(&self, tag: NonNull<Bt>) {
        // SAFETY:
        // 1. `tag` came from `allocate` with this layout: the trait's promise to us.
        unsafe { dealloc(tag.as_ptr().cast(), Layout::new::<Bt>()) };
    }
}

/// An allocator that implements [`GlobalAlloc`].
#[derive(Clone, Copy)]
pub struct GlobalHeap(pub &'static (dyn GlobalAlloc + Sync));

/// A block of one.
pub struct GlobalBlock {
    heap: GlobalHeap,
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY:
// 1. A block is memory that it alone owns, and a global allocator frees from any thread.
unsafe impl Send for GlobalBlock {}

impl GlobalHeap {
    /// A block of so many bytes, aligned to 16.
    pub fn take(&self, bytes: usize) -> GlobalBlock {
        let layout = Layout::from_size_align(bytes.max(1), 16).expect("a size that fits");
        // SAFETY:
        // 1. The layout's size is not 0.
        let start = unsafe { self.0.alloc(layout) };
        let start = NonNull::new(start).expect("memory for a block");
        GlobalBlock { heap: *self, start, layout }
    }
}

impl GlobalBlock {
    /// Its bytes, of which none may have been written.
    pub fn bytes(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY:
        // 1. `start` is the first of `layout.size()` bytes that this block alone owns.
        // 2. `MaybeUninit` may be uninitialised; `&mut self` borrows the only way to them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.layout.size()) }
    }
}

impl Drop for GlobalBlock {
    fn drop(&mut self) {
        // SAFETY:
        // 1. `start` came from this heap with this layout, and nobody uses it after this.
        unsafe { self.heap.0.dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Maps the first `bytes` bytes of a file that this program made, for two processes of it.
pub fn map_shared(file: BorrowedFd<'_>, bytes: usize) -> MmapMut {
    // SAFETY:
    // 1. The file is as long as that, and nobody makes it shorter: it is this program's own.
    // 2. Its two processes take turns: one writes before it sends the message, the other reads
    //    before it answers.
    unsafe { MmapOptions::new().len(bytes).map_mut(&file) }.expect("a mapping")
}

/// A loan of which not every byte was written, as one that may be sent.
#[cfg(feature = "iceoryx2")]
pub fn written(
    loan: SampleMutUninit<ipc::Service, [MaybeUninit<u8>], ()>,
) -> SampleMut<ipc::Service, [u8], ()> {
    // SAFETY:
    // 1. A loan lies in a mapping of a file that the kernel filled with zeros: every byte has a value.
    // 2. Any value is a `u8`.
    unsafe { loan.assume_init() }
}
