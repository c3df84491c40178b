//! The one mapping of a pool: address = base + offset.
//!
//! The whole sparse file is mapped once, shared and writable, so that the data begins at a
//! multiple of 4 MiB in every member: areas are aligned to as much in all of them, and the kernel
//! can map a huge page of the file as one. After that no area costs a call to `mmap`, nor a VMA.
//!
//! ```text
//!   reserve bytes + 4 MiB   ├────┬──────────────────────────────┬───┤  PROT_NONE
//!   file over the middle         │ words │  data: views by claim │       MAP_FIXED
//!   give the ends back           base    base + words_bytes
//! ```
//!
//! Of a framed pool the whole file is the first part, frames too, and the data lie behind it, in
//! addresses of their own where runs of frames are shown ([`crate::os::shown`]):
//!
//! ```text
//!   file over the front          │ words │ frames │  window: PROT_NONE but where runs are shown
//! ```
//!
//! Below `words_bytes` lies what the members keep about the pool: only [`Mapping::words`] reaches
//! it, as atomics. Above lies what programs keep: only views reach it ([`crate::os::view`]).
//!
//! Invariants: the mapping stays until the last view is dropped, for each view keeps it ([`crate::os::keep`]);
//! nothing in this crate maps anything over it, but runs of its own file over a framed pool's
//! window, and only where no view is.
//! Neighbours: [`crate::os::advice`] gives advice on ranges of it, [`crate::os::commit`] frames.
//! Linux: `mmap`, `thp_get_unmapped_area`.

#[cfg(miri)]
mod heap;

use crate::os::claims::Claims;
use crate::os::commit::HugeWay;
use crate::os::file::PoolFile;
use crate::os::{DATA_ALIGN_BYTES, HUGE_BYTES, PAGE_BYTES, RangeError, Span, fail};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Why a pool could not be mapped. Nothing is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub(crate) enum MapError {
    /// The kernel's pages do not have 4096 bytes, or of a framed pool those of the file.
    PageSize { page_bytes: usize },
    /// The file's size is not a multiple of the page size.
    FileSize { bytes: u64 },
    /// `words_bytes` is not a multiple of the page size, or larger than the file.
    WordsSize { words_bytes: u64, bytes: u64 },
    /// The kernel refused `call` for `bytes` bytes. ENOMEM: address space (`ulimit -v`), or
    /// the VMAs of this process (`vm.max_map_count`).
    Os { call: &'static str, bytes: u64, errno: Errno },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapError::PageSize { page_bytes } => {
                write!(
                    f,
                    "the kernel's pages, or the file's, have {page_bytes} bytes; expected 4096"
                )
            }
            MapError::FileSize { bytes } => {
                write!(f, "the pool file has {bytes} bytes, not a multiple of 4096")
            }
            MapError::WordsSize { words_bytes, bytes } => {
                write!(f, "{words_bytes} bytes of metadata in a pool of {bytes}")
            }
            MapError::Os { call, bytes, errno } => write!(f, "{call} of {bytes} bytes: {errno}"),
        }
    }
}

impl std::error::Error for MapError {}

/// The pool, mapped. Unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    // Constant after `new`.
    base: NonNull<u8>,
    bytes: u64,
    words_bytes: u64,
    file: Arc<PoolFile>,
    huge_way: HugeWay,
    // Written when the kernel may have taken a part of it away.
    is_lost: AtomicBool,
    // Written on every claim and release.
    pub(in crate::os) claims: Claims,
}

// SAFETY:
// 1. The mapping belongs to no thread: it is made in `new` and unmapped in `drop`.
// 2. `base` is given out as a number or a raw pointer only; references come from `words`
//    (atomics) and from the views, whose claims are made by atomic steps.
unsafe impl Send for Mapping {}
// SAFETY:
// 1. As for `Send`: every method takes `&self` and hands out atomics, raw pointers or claims.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the whole of `file`. The first `words_bytes` bytes are for [`Mapping::words`], the
    /// rest for views. Keeps the file open, and thus its locks, for as long as any view lives.
    ///
    /// The base is a multiple of 2 MiB, and the data behind words of whole huge pages begins at one
    /// of 4 MiB. Core dumps leave the mapping out. 3 to 4 system calls;
    /// takes no memory but page tables on use.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub(crate) fn new(file: Arc<PoolFile>, words_bytes: u64) -> Result<Arc<Mapping>, MapError> {
        let bytes = file.bytes();
        if bytes == 0 || !bytes.is_multiple_of(PAGE_BYTES) {
            return Err(MapError::FileSize { bytes });
        }
        if !words_bytes.is_multiple_of(PAGE_BYTES) || words_bytes > bytes {
            return Err(MapError::WordsSize { words_bytes, bytes });
        }
        Mapping::of_file(file, bytes, words_bytes, bytes)
    }

    /// Maps the first `words_bytes` of a framed pool's `file`, frames and all, for
    /// [`Mapping::words`], and reserves `window_bytes` of addresses behind it for views, which show
    /// nothing yet. Else as [`Mapping::new`].
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub(crate) fn framed(
        file: Arc<PoolFile>,
        words_bytes: u64,
        window_bytes: u64,
    ) -> Result<Arc<Mapping>, MapError> {
        if !words_bytes.is_multiple_of(HUGE_BYTES) || words_bytes > file.bytes() {
            return Err(MapError::WordsSize { words_bytes, bytes: file.bytes() });
        }
        check_pages(&file)?;
        let bytes = words_bytes.saturating_add(window_bytes);
        Mapping::of_file(file, words_bytes, words_bytes, bytes)
    }

    /// Maps the first `file_bytes` of the file, which has them, in a place of `bytes`, no fewer.
    fn of_file(
        file: Arc<PoolFile>,
        file_bytes: u64,
        words_bytes: u64,
        bytes: u64,
    ) -> Result<Arc<Mapping>, MapError> {
        let page_bytes = rustix::param::page_size();
        if page_bytes as u64 != PAGE_BYTES {
            return Err(MapError::PageSize { page_bytes });
        }
        let os = |call| move |errno| MapError::Os { call, bytes, errno };

        let claims = Claims::new(bytes / PAGE_BYTES).map_err(os("mmap of the claims"))?;
        // Whole huge pages, so that address ≡ offset modulo 2 MiB whatever the words take.
        let aligned_at = words_bytes & !(HUGE_BYTES - 1);
        let reserved = Reservation::new(bytes, aligned_at).map_err(os("mmap to reserve"))?;
        let base = reserved.map_file(&file, file_bytes).map_err(os("mmap of the file"))?;
        let huge_way = HugeWay::of(&file);
        let is_lost = AtomicBool::new(false);
        let mapping = Mapping { base, bytes, words_bytes, file, huge_way, is_lost, claims };
        mapping.skip_in_dumps().map_err(os("madvise MADV_DONTDUMP"))?;
        Ok(Arc::new(mapping))
    }

    /// The address of offset 0: a multiple of 2 MiB.
    pub(crate) fn base(&self) -> usize {
        self.base.as_ptr().addr()
    }

    /// The size of the mapping in bytes: the file's, or of a framed pool its window's besides.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the words end and the data begin, in bytes.
    pub(crate) fn words_bytes(&self) -> u64 {
        self.words_bytes
    }

    /// The file behind it.
    pub(crate) fn file(&self) -> &Arc<PoolFile> {
        &self.file
    }

    /// How to get huge pages in this pool, as it was when it was mapped.
    pub(crate) fn huge_way(&self) -> HugeWay {
        self.huge_way
    }

    /// `count` words from `offset` bytes on, in the words part of the pool.
    ///
    /// Other processes write them: load each once, into a local, and check what you loaded.
    ///
    /// # Errors
    ///
    /// [`RangeError`]: past `words_bytes`, empty, or not aligned to 8 bytes.
    pub(crate) fn words(&self, offset: u64, count: usize) -> Result<&[AtomicU64], RangeError> {
        let span = Span::new(offset, (count as u64).saturating_mul(8));
        let span = span.within_aligned(self.words_bytes, 8)?;
        // SAFETY:
        // 1. The words lie in the mapping, at a multiple of 8 bytes: `span` is inside
        //    `0 .. words_bytes`, `words_bytes <= bytes`, and the base is aligned to 2 MiB.
        // 2. It is readable and writable until `drop`, and cannot fault for good: a `PoolFile`
        //    does not shrink (invariant 1 of `crate::os`).
        // 3. Every bit pattern is a valid `AtomicU64`.
        // 4. In this process only this function makes references below `words_bytes`: views
        //    refuse to go there. So all references to these bytes are to atomics.
        Ok(unsafe { std::slice::from_raw_parts(self.at(span.start).cast().as_ptr(), count) })
    }

    /// The address of a checked offset.
    pub(in crate::os) fn at(&self, offset: u64) -> NonNull<u8> {
        debug_assert!(offset <= self.bytes);
        // SAFETY:
        // 1. `offset <= bytes`: every caller has checked its span against `bytes`, or against
        //    `words_bytes`, which is no more.
        // 2. So the result is inside the mapping or one past its end, and `bytes` fits in an
        //    `isize`: the kernel mapped it.
        unsafe { self.base.add(offset as usize) }
    }

    /// Says that a part of the mapping may be somebody else's by now: none of it is ever unmapped.
    pub(in crate::os) fn lose(&self) {
        // Relaxed: it is asked in `drop`, which has the last `Arc`.
        self.is_lost.store(true, Ordering::Relaxed);
    }

    fn skip_in_dumps(&self) -> Result<(), Errno> {
        fail::point("dontdump")?;
        // A window that shows nothing is dumped by nobody; what is shown there is left out by itself.
        self.advise(Span::new(0, self.bytes.min(self.file.bytes())), libc::MADV_DONTDUMP)
    }
}

impl Drop for Mapping {
    #[cfg(miri)]
    fn drop(&mut self) {
        self.free_heap();
    }

    #[cfg(not(miri))]
    fn drop(&mut self) {
        // Others may be mapped there next.
        crate::os::poison::wake(self, Span::new(0, self.bytes));
        if *self.is_lost.get_mut() {
            return;
        }
        // SAFETY:
        // 1. `base .. base + bytes` is exactly what `Reservation::map_file` left to us, all of it is
        //    ours still (it is not lost), and it is unmapped only here.
        // 2. No reference into it is left: those from `words` borrow `self`, and each view
        //    keeps it, by a borrow or an `Arc`.
        let unmapped =
            unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes as usize) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}

/// Checks that single frames of `file` can be shown: in a hugetlbfs file a run is whole huge pages, and
/// longer than was asked for.
///
/// # Errors
///
/// [`MapError::PageSize`].
fn check_pages(file: &PoolFile) -> Result<(), MapError> {
    let os = |errno| MapError::Os { call: "fstatfs", bytes: file.bytes(), errno };
    let page_bytes = file.page_bytes().map_err(os)?;
    if page_bytes as u64 == PAGE_BYTES { Ok(()) } else { Err(MapError::PageSize { page_bytes }) }
}

/// A run of address space that is ours and shows nothing yet. Given back on drop.
struct Reservation {
    start: NonNull<u8>,
    len_bytes: usize,
    /// How much of it is kept: what the file will cover, and a window behind it.
    bytes: usize,
    /// The byte of the file that will lie at a multiple of [`DATA_ALIGN_BYTES`].
    aligned_at: usize,
}

impl Reservation {
    /// Reserves enough for `bytes` bytes of which byte `aligned_at` lies at a multiple of 4 MiB.
    fn new(bytes: u64, aligned_at: u64) -> Result<Reservation, Errno> {
        fail::point("mmap_reserve")?;
        let bytes = usize::try_from(bytes).map_err(|_| Errno::NOMEM)?;
        let aligned_at = usize::try_from(aligned_at).map_err(|_| Errno::NOMEM)?;
        let len_bytes = bytes.checked_add(DATA_ALIGN_BYTES as usize).ok_or(Errno::NOMEM)?;
        // SAFETY:
        // 1. The address is null and the flags lack MAP_FIXED: the kernel picks a place where
        //    nothing is mapped, so no memory in use is replaced.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len_bytes,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Reservation { start, len_bytes, bytes, aligned_at })
    }

    /// Maps the first bytes of `file` over the aligned middle and gives the ends back. On failure all goes back.
    fn map_file(self, file: &PoolFile, file_bytes: u64) -> Result<NonNull<u8>, Errno> {
        let aligned = self.start.as_ptr().wrapping_add(self.aligned_at);
        let lead = aligned.align_offset(DATA_ALIGN_BYTES as usize);
        debug_assert!(lead + self.bytes <= self.len_bytes);
        // SAFETY:
        // 1. `lead < 4 MiB`, and the reservation has `bytes + 4 MiB`: the result is inside it.
        let base = unsafe { self.start.add(lead) };
        fail::point("mmap_file")?;
        // SAFETY:
        // 1. `base .. base + bytes` lies in the reservation (above), which is ours alone: `new`
        //    made it, nobody was told its address. `file_bytes` is no more than `bytes` (`of_file`).
        // 2. It is PROT_NONE and holds no Rust object, so MAP_FIXED replaces nothing but it.
        unsafe {
            rustix::mm::mmap(
                base.as_ptr().cast(),
                file_bytes as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE,
                file,
                0,
            )
        }?;

        // From here on the middle belongs to the caller; only the ends go back.
        let ends = std::mem::ManuallyDrop::new(self);
        let tail = ends.len_bytes - lead - ends.bytes;
        // SAFETY:
        // 1. `lead + bytes <= len_bytes`: the result is inside the reservation or at its end.
        let behind = unsafe { ends.start.add(lead + ends.bytes) };
        unmap_end(ends.start, lead);
        unmap_end(behind, tail);
        Ok(base)
    }
}

/// Gives one end of a reservation back. If the kernel refuses (it may at the VMA limit), the end
/// stays reserved: address space only.
fn unmap_end(start: NonNull<u8>, len_bytes: usize) {
    if len_bytes == 0 {
        return;
    }
    // SAFETY:
    // 1. Only `Reservation::map_file` calls this, with the parts of its reservation that lie
    //    before and behind the file: still PROT_NONE, ours, and known to nobody else.
    let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast(), len_bytes) };
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY:
        // 1. The range is exactly what `new` mapped; `map_file` defuses this drop before it gives
        //    any part away.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len_bytes) };
    }
}
