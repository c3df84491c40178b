//! Zeroed words that cost nothing until they are touched, private to this process.
//!
//! The claim tables of a large window are mostly holes, so they live in an anonymous mapping:
//! untouched pages take no memory. (A zeroed `Vec` would do the same by luck of the allocator.)
//! The fork guard uses one page of it, since its advice works by whole pages.

use crate::os::{PAGE_BYTES, fail};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// `count` words, all zero at first. Derefs to a slice of atomics. Unmapped on drop.
#[derive(Debug)]
pub(crate) struct AnonWords {
    base: NonNull<AtomicU64>,
    count: usize,
    len_bytes: usize,
}

// SAFETY:
// 1. The mapping belongs to no thread: it is made in `new` and unmapped in `drop`, nowhere else.
// 2. All that this type gives out is `&[AtomicU64]`, which any thread may use.
unsafe impl Send for AnonWords {}
// SAFETY:
// 1. As for `Send`: `&AnonWords` gives out `&[AtomicU64]` and nothing else.
unsafe impl Sync for AnonWords {}

impl AnonWords {
    /// Maps `count` zeroed words, rounded up to whole pages.
    ///
    /// # Errors
    ///
    /// What `mmap` said: ENOMEM, for a lack of address space.
    pub(crate) fn new(count: usize) -> Result<AnonWords, Errno> {
        fail::point("mmap_anon")?;
        let pages = count.div_ceil(PAGE_BYTES as usize / 8).max(1);
        let len_bytes = pages.checked_mul(PAGE_BYTES as usize).ok_or(Errno::NOMEM)?;
        // SAFETY:
        // 1. The address is null and the flags lack MAP_FIXED, so the kernel picks a place where
        //    nothing is mapped: no memory in use is replaced.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        Ok(AnonWords { base, count, len_bytes })
    }

    /// Asks that a child of `fork` sees these words as zero, whatever they hold here.
    ///
    /// # Errors
    ///
    /// What `madvise` said: EINVAL before Linux 4.14.
    pub(crate) fn wipe_on_fork(&self) -> Result<(), Errno> {
        fail::point("wipe_on_fork")?;
        // SAFETY:
        // 1. The range is exactly the mapping of this value, which lives as long as `self`.
        // 2. MADV_WIPEONFORK changes nothing in this process, only what a later child sees; and a
        //    child's `&[AtomicU64]` reads zeros, which are valid words.
        unsafe {
            rustix::mm::madvise(self.base.as_ptr().cast(), self.len_bytes, Advice::LinuxWipeOnFork)
        }
    }
}

impl Deref for AnonWords {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY:
        // 1. `base .. base + 8 * count` is mapped, readable and writable, and aligned to a page:
        //    `new` mapped `len_bytes >= 8 * count`, and only `drop` unmaps.
        // 2. It was zero-filled by the kernel, and zero is a valid `AtomicU64`.
        // 3. Nothing but this function makes references into it, and it makes only shared ones
        //    to atomics.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.count) }
    }
}

impl Drop for AnonWords {
    fn drop(&mut self) {
        // SAFETY:
        // 1. The range is exactly what `new` mapped, and it is unmapped only here.
        // 2. References into it borrow `self`, so none is left.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len_bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}
