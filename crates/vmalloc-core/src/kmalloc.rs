//! Physically contiguous memory of any size from 8 bytes to 2 MiB. Linux: `kmalloc`.
//!
//! ```text
//!   1 … 8192 bytes    ─▶ one of 13 caches: 8 16 32 64 96 128 192 256 512 1K 2K 4K 8K
//!   … 2 MiB           ─▶ a block of frames, its order kept in the word of its first frame
//!   kfree(addr)       ─▶ the frame's word: a slab ─▶ its record ─▶ its cache;  a block ─▶ its order
//! ```
//!
//! Nobody says how large what he frees is: the table under the caches ([`Slabs`]) knows. An object
//! of a power of two is aligned to its size, one of 96 bytes to 32, one of 192 to 64; a block to
//! its size in frames.
//!
//! Invariants: those of [`crate::slab`]; a block's frame word says LARGE from before the caller
//! learns of the block until the CAS that frees it, so of two calls that free it one is refused.
//!
//! Neighbours: stands on [`crate::slab`]; [`Kv`] joins it with the engine. Linux:
//! `kmalloc_caches`, `__kmalloc_large_node`, `krealloc` of `mm/slub.c` and `mm/slab_common.c`.
//! Ours differs: no size is a special pointer (0 is an error), and a wrong `kfree` is an error
//! with values.

mod error;
mod kv;

pub use error::{KfreeError, KmallocError, KreallocError, KvfreeError, KvmallocError};
pub use kv::{Kv, KvAddr};

use crate::platform::{FRAME_WORDS, Frames, Ram};
use crate::shrink::Shrinker;
use crate::slab::{
    AllocError, CacheConfig, CacheError, CacheStats, DirectAddr, FrameTag, KmemCache, Object,
    Slabs, VerifyError,
};
use crate::sync::AtomicU64;
use crate::units::{Extent, Order, Pages, Pfn};
use core::array;

/// The sizes of the caches, in bytes. Linux: `kmalloc_info`.
pub const CLASSES: [usize; 13] = [8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192];

/// The most bytes that `kmalloc` gives. Linux: `KMALLOC_MAX_SIZE`, 4 MiB.
pub const KMALLOC_MAX_BYTES: u64 = 2 << 20;

const CLASS_MAX_BYTES: u64 = CLASSES[CLASSES.len() - 1] as u64;
const LARGE_MIN_BYTES: u64 = CLASS_MAX_BYTES + 1;
const LARGE_ORDER_MAX: u8 = 9;

/// The general allocator of small and of contiguous memory. Threads share it, or have copies.
///
/// ```
/// use vmalloc_core::kmalloc::{KfreeError, Kmalloc};
/// # use vmalloc_core::slab::Slabs;
/// # use vmalloc_core::frames::Buddy;
/// # use vmalloc_core::platform::{FRAME_WORDS, Frames, Ram};
/// # use vmalloc_core::sync::{AtomicU64, Ordering};
/// # use vmalloc_core::{Extent, Pages, Pfn};
/// # struct Vector(Vec<AtomicU64>);
/// # impl Ram for Vector {
/// #     fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
/// #         self.0[pfn.0 as usize * FRAME_WORDS..][..FRAME_WORDS].try_into().unwrap()
/// #     }
/// #     fn zero(&self, run: Extent) {
/// #         for pfn in run.start.0..run.end().0 {
/// #             self.words(Pfn(pfn)).iter().for_each(|word| word.store(0, Ordering::Relaxed));
/// #         }
/// #     }
/// # }
/// # let words = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
/// # let all = Extent { start: Pfn(0), len: Pages(64) };
/// # let (ram, bits) = (Vector(words(64 * FRAME_WORDS)), words(Buddy::words_needed(all.len)));
/// # let frames = Buddy::format(&bits, all.start, all.len).unwrap();
/// # type Table<'a> = Slabs<'a, Buddy<'a>, Vector>;
/// # type General<'a> = Kmalloc<'a, Buddy<'a>, Vector>;
/// # let table = words(Table::words_needed(all.len, 16));
/// # let slabs = Slabs::format(&table, all, 16, &frames, &ram).unwrap();
/// let state = words(General::words_needed(16, 1));
/// let kmalloc = Kmalloc::new(slabs, &state, 1).unwrap();
/// let small = kmalloc.kzalloc(100).unwrap();
/// let large = kmalloc.kmalloc(100_000).unwrap();
/// assert_eq!((kmalloc.ksize(small), kmalloc.ksize(large)), (Ok(128), Ok(131_072)));
/// let inside = kmalloc.kfree(vmalloc_core::slab::DirectAddr(large.0 + 4096)).unwrap_err();
/// assert!(matches!(inside, KfreeError::Interior { base, .. } if base == large));
/// kmalloc.kfree(large).unwrap();
/// kmalloc.kfree(small).unwrap();
/// assert_eq!(kmalloc.shrink(), Pages(1));
/// ```
pub struct Kmalloc<'a, F, R> {
    slabs: Slabs<'a, F, R>,
    caches: [KmemCache<'a, F, R>; CLASSES.len()],
}

impl<F, R> Clone for Kmalloc<'_, F, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F, R> Copy for Kmalloc<'_, F, R> {}

/// The empty slabs of all classes, the largest objects first.
impl<F: Frames, R: Ram> Shrinker for Kmalloc<'_, F, R> {
    fn count(&self) -> Pages {
        Pages(self.caches.iter().map(|cache| cache.count().0).sum())
    }

    fn scan(&self, want: Pages) -> Pages {
        self.caches.iter().rev().fold(Pages(0), |given, cache| {
            let more = if given < want { cache.scan(Pages(want.0 - given.0)) } else { Pages(0) };
            Pages(given.0 + more.0)
        })
    }
}

impl<'a, F: Frames, R: Ram> Kmalloc<'a, F, R> {
    /// The words that the caches need, over a table of `slabs` slabs, for `cpus` CPUs.
    #[must_use]
    pub const fn words_needed(slabs: usize, cpus: usize) -> usize {
        CLASSES.len() * KmemCache::<F, R>::words_needed(slabs, cpus)
    }

    /// Makes the caches; takes no frames. Other caches may be over the same table. Linux:
    /// `create_kmalloc_caches`.
    ///
    /// # Errors
    ///
    /// [`CacheError::TooFewWords`], [`CacheError::TooManyCaches`].
    pub fn new(
        slabs: Slabs<'a, F, R>,
        words: &'a [AtomicU64],
        cpus: usize,
    ) -> Result<Self, CacheError> {
        let each = KmemCache::<F, R>::words_needed(slabs.slabs_max(), cpus);
        let (given, needed) = (words.len(), each * CLASSES.len());
        if given < needed {
            return Err(CacheError::TooFewWords { needed, given });
        }
        let first = slabs.number_caches(CLASSES.len() as u64)?;
        let caches = array::from_fn(|class| {
            // A size that a power of two divides is aligned to it, since slabs are.
            let config = CacheConfig::object_bytes(CLASSES[class]);
            let number = || Ok(first + class as u64);
            let words = &words[class * each..][..each];
            KmemCache::numbered(slabs, words, config.cpus(cpus), number)
                .expect("a class is a size that a cache can have")
        });
        Ok(Kmalloc { slabs, caches })
    }

    /// The same allocator, as CPU number `cpu` should use it. A hint: any number is right. Copies
    /// some kilobytes, so a CPU keeps its own.
    #[must_use]
    pub fn on_cpu(mut self, cpu: usize) -> Kmalloc<'a, F, R> {
        self.caches = self.caches.map(|cache| cache.on_cpu(cpu));
        self
    }

    /// `bytes` contiguous bytes, contents undefined.
    ///
    /// Up to 8 KiB the cost of [`KmemCache::alloc`], above that of [`Frames::take`]. Before it
    /// fails for want of frames or records it gives back the empty slabs of all classes and tries
    /// once more. Waits for nobody. Linux: `kmalloc`.
    ///
    /// # Errors
    ///
    /// [`KmallocError`]; nothing was taken.
    pub fn kmalloc(&self, bytes: u64) -> Result<DirectAddr, KmallocError> {
        self.kmalloc_or_fail(bytes).or_else(|e| {
            match e.shrink_may_help() && self.shrink() > Pages(0) {
                true => self.kmalloc_or_fail(bytes),
                false => Err(e),
            }
        })
    }

    /// The same, filled with zeros: all of it, what is beyond `bytes` too. Linux: `kzalloc`.
    ///
    /// # Errors
    ///
    /// As [`Kmalloc::kmalloc`].
    pub fn kzalloc(&self, bytes: u64) -> Result<DirectAddr, KmallocError> {
        self.kmalloc(bytes).inspect(|&addr| self.zero(addr))
    }

    /// `count` elements of `size_bytes` bytes. Linux: `kmalloc_array`.
    ///
    /// # Errors
    ///
    /// As [`Kmalloc::kmalloc`], and [`KmallocError::Overflow`].
    pub fn kmalloc_array(&self, count: u64, size_bytes: u64) -> Result<DirectAddr, KmallocError> {
        self.kmalloc(array_bytes(count, size_bytes)?)
    }

    /// The same, filled with zeros. Linux: `kcalloc`.
    ///
    /// # Errors
    ///
    /// As [`Kmalloc::kmalloc_array`].
    pub fn kcalloc(&self, count: u64, size_bytes: u64) -> Result<DirectAddr, KmallocError> {
        self.kzalloc(array_bytes(count, size_bytes)?)
    }

    /// Frees what any verb of this type gave. Never waits, never allocates, legal with interrupts
    /// off. A block costs one CAS and [`Frames::give`]. Linux: `kfree`.
    ///
    /// # Errors
    ///
    /// [`KfreeError`]: what is wrong with the address; nothing was changed.
    pub fn kfree(&self, addr: DirectAddr) -> Result<(), KfreeError> {
        match self.find(addr)? {
            Place::Small(cache) => Ok(cache.free(addr)?),
            Place::Large(order) if self.slabs.take_back_large(addr.pfn(), order) => Ok(()),
            Place::Large(_) => Err(KfreeError::Twice { addr }),
        }
    }

    /// How many bytes lie at `addr` for its owner to use: those asked for or more. Linux:
    /// `ksize`.
    ///
    /// # Errors
    ///
    /// [`KfreeError`]: why `kfree` would refuse the address.
    pub fn ksize(&self, addr: DirectAddr) -> Result<u64, KfreeError> {
        Ok(self.object(addr)?.words() as u64 * 8)
    }

    /// The words at `addr`, which somebody owns.
    ///
    /// # Errors
    ///
    /// [`KfreeError`]: why `kfree` would refuse the address.
    pub fn object(&self, addr: DirectAddr) -> Result<Object<'a>, KfreeError> {
        match self.find(addr)? {
            Place::Small(cache) => Ok(cache.object(addr)?),
            Place::Large(order) => {
                let words = FRAME_WORDS << order.0;
                Ok(Object::new(self.slabs.ram(), addr, words))
            }
        }
    }

    /// Makes what lies at `old` at least `bytes` bytes long, and says where it lies then. The
    /// first min(old size, `bytes`) bytes stay; those behind are undefined.
    ///
    /// Nothing (`None`) becomes an object; 0 bytes free it, and leave nothing. It stays where it
    /// is, and as long as it is, if `bytes` fit in its `ksize`: shrinking gives nothing back.
    /// Else it is copied and the old one freed. The owner must not use or free it meanwhile.
    /// Linux: `krealloc`, whose rules these are.
    ///
    /// # Errors
    ///
    /// [`KreallocError`]; the old object is as it was.
    pub fn krealloc(
        &self,
        old: Option<DirectAddr>,
        bytes: u64,
    ) -> Result<Option<DirectAddr>, KreallocError> {
        let Some(old) = old else {
            return match bytes {
                0 => Ok(None),
                _ => self.kmalloc(bytes).map(Some).map_err(KreallocError::New),
            };
        };
        if bytes == 0 {
            return self.kfree(old).map(|()| None).map_err(KreallocError::Old);
        }
        let from = self.object(old).map_err(KreallocError::Old)?;
        if bytes <= from.words() as u64 * 8 {
            return Ok(Some(old));
        }
        let new = self.kmalloc(bytes).map_err(KreallocError::New)?;
        let copied = self.object(new).map(|to| to.copy_from(&from));
        if let Err(e) = copied.and_then(|()| self.kfree(old)) {
            // Somebody freed the old object meanwhile: then the new one must not be left behind.
            let _ = self.kfree(new);
            return Err(KreallocError::Old(e));
        }
        Ok(Some(new))
    }

    /// Gives back the frames of all empty slabs of all classes; how many those were.
    pub fn shrink(&self) -> Pages {
        Pages(self.caches.iter().map(|cache| cache.shrink().0).sum())
    }

    /// Totals of each class, in the order of [`CLASSES`], recounted: looks at every record of the
    /// table for each class.
    #[must_use]
    pub fn stats(&self) -> [CacheStats; CLASSES.len()] {
        array::from_fn(|class| self.caches[class].stats())
    }

    /// Checks the invariants of the table and of all classes; nobody may be at work.
    ///
    /// # Errors
    ///
    /// [`VerifyError`]: which one, where.
    pub fn verify(&self) -> Result<(), VerifyError> {
        self.slabs.verify()?;
        self.caches.iter().try_for_each(|cache| cache.verify().map(|_| ()))
    }

    /// `kmalloc` without giving up empty slabs.
    pub(crate) fn kmalloc_or_fail(&self, bytes: u64) -> Result<DirectAddr, KmallocError> {
        let cannot = KmallocError::Alloc;
        match bytes {
            0 => Err(KmallocError::ZeroSize),
            1..=CLASS_MAX_BYTES => self.caches[class_of(bytes)].alloc().map_err(cannot),
            LARGE_MIN_BYTES..=KMALLOC_MAX_BYTES => {
                self.take_large(order_for(bytes)).map_err(cannot)
            }
            _ => Err(KmallocError::TooBig { bytes, limit_bytes: KMALLOC_MAX_BYTES }),
        }
    }

    /// Fills with zeros what this caller owns.
    pub(crate) fn zero(&self, addr: DirectAddr) {
        match self.slabs.tag_of(addr.pfn()) {
            FrameTag::Large(order) => {
                self.slabs.ram().zero(Extent { start: addr.pfn(), len: order.pages() });
            }
            _ => {
                if let Ok(object) = self.object(addr) {
                    object.zero();
                }
            }
        }
    }

    fn take_large(&self, order: Order) -> Result<DirectAddr, AllocError> {
        let start = self.slabs.lend(order, FrameTag::Large(order), false)?;
        Ok(DirectAddr::new(start, 0))
    }

    /// What lies at `addr`, or why nothing can be freed there.
    fn find(&self, addr: DirectAddr) -> Result<Place<'_, 'a, F, R>, KfreeError> {
        let pfn = addr.pfn();
        match self.slabs.tag_of(pfn) {
            FrameTag::Slab(_) => {
                let number = self.slabs.cache_of(pfn).ok_or(KfreeError::Stranger { addr })?;
                let class = number.checked_sub(self.caches[0].number());
                class
                    .and_then(|class| self.caches.get(class as usize))
                    .map(Place::Small)
                    .ok_or(KfreeError::NotKmalloc { addr, cache: number })
            }
            FrameTag::Large(order) if addr.offset_bytes() == 0 => Ok(Place::Large(order)),
            FrameTag::Freed if addr.offset_bytes() == 0 => Err(KfreeError::Twice { addr }),
            _ => Err(self.interior(addr)),
        }
    }

    /// A block is aligned to its size: it can begin at ten places around an address.
    fn interior(&self, addr: DirectAddr) -> KfreeError {
        (0..=LARGE_ORDER_MAX)
            .map(|order| Pfn(addr.pfn().0 >> order << order))
            .find(|&base| {
                let inside = Pages(addr.pfn().0 - base.0);
                matches!(self.slabs.tag_of(base), FrameTag::Large(o) if inside < o.pages())
            })
            .map_or(KfreeError::Stranger { addr }, |base| {
                let base = DirectAddr::new(base, 0);
                KfreeError::Interior { addr, base }
            })
    }
}

/// What lies at an address.
enum Place<'k, 'a, F, R> {
    /// An object of this cache, or nothing.
    Small(&'k KmemCache<'a, F, R>),
    /// A block of this order.
    Large(Order),
}

/// The class of so many bytes, 1 to 8192. Linux: `kmalloc_index`.
fn class_of(bytes: u64) -> usize {
    match bytes {
        0..=8 => 0,
        9..=16 => 1,
        17..=32 => 2,
        33..=64 => 3,
        65..=96 => 4,
        97..=128 => 5,
        129..=192 => 6,
        // 256 is class 7, and then one a power of two.
        _ => (bytes - 1).ilog2() as usize,
    }
}

/// The order of a block of so many bytes. Linux: `get_order`.
fn order_for(bytes: u64) -> Order {
    Order(Pages::for_bytes(bytes).0.next_power_of_two().trailing_zeros() as u8)
}

/// The bytes of an array. Linux: `check_mul_overflow`.
fn array_bytes(count: u64, size_bytes: u64) -> Result<u64, KmallocError> {
    count.checked_mul(size_bytes).ok_or(KmallocError::Overflow { count, size_bytes })
}
