//! Collections in a pool: [`InPool`] is an allocator as `allocator-api2` has it, so a `Vec`, or
//! hashbrown's maps, may lie in memory that is shared later.
//!
//! ```text
//!   Vec<T, InPool> ─allocate, grow, shrink▶ InPool ─address▶ the Buf that is there
//!   Vec<u8, InPool> ─into_buf▶ that Buf ─freeze, share, give▶ other processes
//! ```
//!
//! A block is a [`Buf`], kept beside the collection in a map by its address: pages, with a guard
//! page behind. So this is for a few large collections, not for many small ones.
//!
//! Invariant: while a block is allocated its `Buf` is in the map, untouched but by the methods of
//! the block's own. It leaves the map when the block is deallocated, or the collection is taken
//! apart.
//!
//! Neighbours: unlike the rest of this folder it stands above [`crate::buf`]; it is here since
//! promising what an allocator promises is `unsafe`. Linux: `kvmalloc_array`, `vrealloc`.

use crate::buf::Buf;
use crate::error::ResizeError;
use crate::pool::Pool;
use allocator_api2::alloc::{AllocError, Allocator, Layout};
use allocator_api2::vec::Vec;
use std::collections::BTreeMap;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmalloc_core::Request;

/// An allocator whose memory is a pool's. Clones are the same allocator. Feature `allocator-api2`.
///
/// A block grows where it lies if it can, as [`Buf::resize`] does. What a collection holds is this
/// process's alone; only bytes leave it, by [`InPool::into_buf`].
///
/// # Examples
///
/// ```
/// use allocator_api2::vec::Vec;
/// use vmalloc::{InPool, Pool};
///
/// let pool = Pool::create(16 << 20)?;
/// let mut text = Vec::new_in(InPool::new(&pool));
/// text.extend_from_slice(b"hello");
/// let frozen = InPool::into_buf(text)?.freeze()?; // no copy
/// assert_eq!(&frozen[..], b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct InPool {
    pool: Pool,
    // By the address of the first byte.
    blocks: Arc<Mutex<BTreeMap<usize, Buf>>>,
}

impl InPool {
    /// Allocates in this pool.
    #[must_use]
    pub fn new(pool: &Pool) -> InPool {
        InPool { pool: pool.clone(), blocks: Arc::default() }
    }

    /// The buffer that holds the bytes of `vec`, as long as they are: the same memory.
    ///
    /// # Errors
    ///
    /// [`ResizeError`]; the bytes are gone. `Engine(ZeroSize)`: there were none.
    pub fn into_buf(vec: Vec<u8, InPool>) -> Result<Buf, ResizeError> {
        let (first, len, _, alloc) = vec.into_raw_parts_with_alloc();
        let Some(mut buf) = alloc.blocks().remove(&first.addr()) else {
            return Err(ResizeError::Engine(vmalloc_core::ResizeError::ZeroSize));
        };
        // What lies behind `len` may never have been written: nobody is to see it.
        if buf.len() != len {
            buf.resize(len)?;
        }
        Ok(buf)
    }

    fn blocks(&self) -> MutexGuard<'_, BTreeMap<usize, Buf>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, layout: Layout, zeroed: bool) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            let nowhere = NonNull::new(ptr::without_provenance_mut(layout.align()));
            return Ok(NonNull::slice_from_raw_parts(nowhere.ok_or(AllocError)?, 0));
        }
        let request = Request::bytes(layout.size() as u64).align_bytes(layout.align() as u64);
        let request = if zeroed { request.huge().zeroed() } else { request.huge() };
        let mut buf = self.pool.alloc(&request).map_err(|_| AllocError)?;
        let block = NonNull::from(&mut buf[..]);
        self.blocks().insert(block.addr().get(), buf);
        Ok(block)
    }

    /// Gives the block at `ptr` the size of `new` where it lies, if that is possible. If not, it is
    /// as it was, and its bytes were not looked at.
    fn resize(&self, ptr: NonNull<u8>, new: Layout) -> Option<NonNull<[u8]>> {
        let address = ptr.addr().get();
        if new.size() == 0 || !address.is_multiple_of(new.align()) {
            return None;
        }
        let mut blocks = self.blocks();
        let buf = blocks.get_mut(&address)?;
        buf.resize(new.size()).ok()?;
        Some(NonNull::from(&mut buf[..]))
    }

    /// Makes a block of layout `new` with the first bytes of the one at `ptr`, which goes.
    ///
    /// # Safety
    ///
    /// `ptr` is a block of this allocator's with layout `old`, and nobody else uses it.
    unsafe fn shift(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
        zeroed: bool,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let block = self.take(new, zeroed)?;
        let kept = old.size().min(new.size());
        // SAFETY:
        // 1. `ptr` is good for `old.size()` bytes: the caller's promise. The new block is good for
        //    `new.size()`: `take` has just made it.
        // 2. They do not overlap: two `Buf`s that live never do, and an empty block is not read.
        // 3. Bytes that were never written are copied as they are: the copy is untyped.
        unsafe { ptr::copy_nonoverlapping(ptr.as_ptr(), block.cast().as_ptr(), kept) };
        let gone = self.blocks().remove(&ptr.addr().get());
        drop(gone); // with the map free again
        Ok(block)
    }
}

// SAFETY:
// 1. A block stays where it is, and nobody else's, until it is deallocated or the last clone goes:
//    its `Buf` is in the map so long, which the clones share, and a `Buf` that is moved leaves its
//    bytes where they are (they are the mapping's). Nobody writes through the map but `resize`, on
//    behalf of the block's owner, and then the owner uses the pointer that it returns.
// 2. A block has the layout that was asked for: `Request` aligns it, or the call fails.
// 3. When `grow` or `shrink` fails the old block is as it was: `Buf::resize` promises it, and
//    `shift` fails before it touches it.
unsafe impl Allocator for InPool {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.take(layout, false)
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.take(layout, true)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // An empty block may have any address, a block's too.
        if layout.size() > 0 {
            let buf = self.blocks().remove(&ptr.addr().get());
            drop(buf); // with the map free again: dropping may purge
        }
    }

    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY:
        // 1. The same promise: a block of ours with layout `old`.
        unsafe { self.change(ptr, old, new, false) }
    }

    unsafe fn grow_zeroed(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY:
        // 1. The same promise: a block of ours with layout `old`. `Buf::resize` zeros what is new.
        unsafe { self.change(ptr, old, new, true) }
    }

    unsafe fn shrink(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY:
        // 1. The same promise: a block of ours with layout `old`.
        unsafe { self.change(ptr, old, new, false) }
    }
}

impl InPool {
    /// Gives a block another layout, in place if it can.
    ///
    /// # Safety
    ///
    /// `ptr` is a block of this allocator's with layout `old`, and nobody else uses it.
    unsafe fn change(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
        zeroed: bool,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() == 0 {
            return self.take(new, zeroed);
        }
        if let Some(block) = self.resize(ptr, new) {
            return Ok(block);
        }
        // SAFETY:
        // 1. The caller's promise, passed on; `resize` left the block as it was.
        unsafe { self.shift(ptr, old, new, zeroed) }
    }
}

impl fmt::Debug for InPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InPool").field("blocks", &self.blocks().len()).finish_non_exhaustive()
    }
}
