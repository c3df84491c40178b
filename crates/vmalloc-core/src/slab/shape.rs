//! What a cache is asked to hold, and what its slabs look like for it.
//!
//! ```text
//!   CacheConfig { object, align, … } ─▶ Shape { stride, order, objects }
//!   slab of 2^order frames:  │ object │ object │ … │ object │ rest, at most 1/16 if possible │
//! ```
//!
//! Linux: `calculate_order` and `calculate_sizes` of `mm/slub.c`, with the same fractions.

use super::error::CacheError;
use super::object::Object;
use super::occupancy::OBJECTS_MAX;
use crate::units::{ORDER_MAX, Order, PAGE_SIZE};

/// The highest order that is chosen to waste less. Linux: `PAGE_ALLOC_COSTLY_ORDER`.
const ORDER_WANTED_MAX: u8 = 3;
/// How many objects a slab should have at least, if the orders above allow it.
const OBJECTS_WANTED: usize = 8;
/// The largest object: as large as a block of frames can be.
const OBJECT_BYTES_MAX: usize = PAGE_SIZE << ORDER_MAX.0;

/// Prepares an object when its slab is made. Must return: a slab whose constructor panics stays
/// between two states, its frames and its record with it.
pub type Ctor = fn(&Object<'_>);

/// What a cache holds. Begin with [`CacheConfig::object_bytes`]. Linux: the arguments of
/// `kmem_cache_create`.
///
/// ```
/// # use vmalloc_core::slab::CacheConfig;
/// let config = CacheConfig::object_bytes(200).align_bytes(64).cpus(4);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CacheConfig {
    pub(super) object_bytes: usize,
    pub(super) align_bytes: usize,
    pub(super) cpus: usize,
    pub(super) ctor: Option<Ctor>,
}

impl CacheConfig {
    /// Objects of so many bytes, aligned to 8, for one CPU, without a constructor.
    #[must_use]
    pub const fn object_bytes(object_bytes: usize) -> CacheConfig {
        CacheConfig { object_bytes, align_bytes: 8, cpus: 1, ctor: None }
    }

    /// Objects at multiples of `align_bytes`, a power of two up to a page; less than 8 means 8.
    #[must_use]
    pub const fn align_bytes(self, align_bytes: usize) -> CacheConfig {
        CacheConfig { align_bytes, ..self }
    }

    /// Magazines for so many CPUs, at least one.
    #[must_use]
    pub const fn cpus(self, cpus: usize) -> CacheConfig {
        CacheConfig { cpus: if cpus == 0 { 1 } else { cpus }, ..self }
    }

    /// Calls `ctor` with each object when its slab is made: once for many tenants, each of whom
    /// gives the object back in the state in which it was constructed.
    #[must_use]
    pub const fn ctor(self, ctor: Ctor) -> CacheConfig {
        CacheConfig { ctor: Some(ctor), ..self }
    }
}

/// How the slabs of a cache are cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    /// Words of an object that its owner may use.
    pub(super) object_words: usize,
    /// Bytes from one object to the next.
    pub(super) stride: u32,
    /// Objects in a slab.
    pub(super) objects: usize,
    /// Frames of a slab.
    pub(super) order: Order,
}

impl Shape {
    /// The slabs for these objects: the lowest order up to 3 that holds 8 objects (else 4, 2, 1)
    /// and wastes a sixteenth (else an eighth, a quarter, whatever). Objects too large for that
    /// have slabs of their own.
    pub(super) fn new(config: &CacheConfig) -> Result<Shape, CacheError> {
        let (object_bytes, align_bytes) = (config.object_bytes, config.align_bytes.max(8));
        if object_bytes == 0 || object_bytes > OBJECT_BYTES_MAX {
            return Err(CacheError::BadSize { object_bytes, limit_bytes: OBJECT_BYTES_MAX });
        }
        if !align_bytes.is_power_of_two() || align_bytes > PAGE_SIZE {
            return Err(CacheError::BadAlign { align_bytes: config.align_bytes });
        }
        let stride = object_bytes.next_multiple_of(align_bytes);
        let cut = |order: u8| {
            let bytes = PAGE_SIZE << order;
            let objects = (bytes / stride).min(OBJECTS_MAX);
            (objects, bytes - objects * stride, bytes)
        };
        let fits = |order: u8, min: usize, fraction: usize| {
            let (objects, waste, bytes) = cut(order);
            objects >= min && waste * fraction <= bytes
        };
        let lowest = |min: usize, fraction: usize| {
            (0..=ORDER_WANTED_MAX).find(|&order| fits(order, min, fraction))
        };
        let mins = [OBJECTS_WANTED, 4, 2, 1];
        let order = mins
            .iter()
            .find_map(|&min| [16, 8, 4].iter().find_map(|&fraction| lowest(min, fraction)))
            .or_else(|| (0..=ORDER_MAX.0).find(|&order| cut(order).0 > 0))
            .expect("the largest object fits the largest block");
        let objects = cut(order).0;
        let object_words = object_bytes.div_ceil(8);
        Ok(Shape { object_words, stride: stride as u32, objects, order: Order(order) })
    }
}
