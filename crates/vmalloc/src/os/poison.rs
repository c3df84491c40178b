//! Bytes that nobody may touch any more, told to AddressSanitizer: under `--cfg asan` alone.
//!
//! To the sanitizer a pool is one mapping, in which nothing is ever out of bounds. So the whole pages
//! of an exclusive view are *poisoned* when it ends, and good again for the next view: a slice or a
//! pointer that outlives its view is a use of poisoned memory, and ends the process.
//!
//! Frozen and shared views poison nothing (others may hold the same pages), nor do the kernel and
//! other processes look. In other builds both functions are empty.

use crate::os::Span;
use crate::os::map::Mapping;

/// The pages of `span` are somebody's.
#[inline]
pub(in crate::os) fn wake(mapping: &Mapping, span: Span) {
    #[cfg(asan)]
    sanitizer::wake(mapping.at(span.start), span.len.next_multiple_of(crate::os::PAGE_BYTES));
    let _ = (mapping, span);
}

/// The pages of `span` are nobody's.
#[inline]
pub(in crate::os) fn poison(mapping: &Mapping, span: Span) {
    #[cfg(asan)]
    sanitizer::poison(mapping.at(span.start), span.len.next_multiple_of(crate::os::PAGE_BYTES));
    let _ = (mapping, span);
}

#[cfg(asan)]
mod sanitizer {
    use std::ffi::c_void;
    use std::ptr::NonNull;

    // SAFETY:
    // 1. The names and types are those of `sanitizer/asan_interface.h`, with which this is linked.
    unsafe extern "C" {
        safe fn __asan_poison_memory_region(at: *const c_void, len_bytes: usize);
        safe fn __asan_unpoison_memory_region(at: *const c_void, len_bytes: usize);
    }

    // They write to the sanitizer's own shadow of the addresses, whatever these are.
    pub(super) fn wake(at: NonNull<u8>, len_bytes: u64) {
        __asan_unpoison_memory_region(at.as_ptr().cast(), len_bytes as usize);
    }

    pub(super) fn poison(at: NonNull<u8>, len_bytes: u64) {
        __asan_poison_memory_region(at.as_ptr().cast(), len_bytes as usize);
    }
}
