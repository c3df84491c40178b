//! The one file of this program with `unsafe`: what peers ask for in raw pointers.

use std::alloc::{Layout, alloc, dealloc};
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
