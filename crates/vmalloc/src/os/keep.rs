//! What keeps a mapping for as long as a view of it lives.
//!
//! A buffer keeps its member, and a member its mapping: so a view that keeps a seat of the member
//! needs no count of its own, and making one costs one atomic step instead of two.

use crate::os::map::Mapping;
use crate::spread::Seat;
use std::sync::Arc;

/// Keeps a mapping.
///
/// # Safety
///
/// [`Keep::mapping`] returns the same mapping each time, wherever the keeper has moved meanwhile, and
/// that mapping lives for as long as the keeper or any clone of it.
pub(crate) unsafe trait Keep {
    /// The mapping.
    fn mapping(&self) -> &Mapping;
}

// SAFETY:
// 1. It is the one that is borrowed, and lives as long as the borrow; so do copies of it.
unsafe impl Keep for &Mapping {
    fn mapping(&self) -> &Mapping {
        self
    }
}

// SAFETY:
// 1. An `Arc` keeps what it points to, and each clone points to the same.
// 2. A seat is given an `Arc` of a mapping when it is made, in a private field that nothing changes
//    (`crate::spread`).
unsafe impl<T> Keep for Arc<Seat<T>> {
    #[inline]
    fn mapping(&self) -> &Mapping {
        Seat::mapping(self)
    }
}
