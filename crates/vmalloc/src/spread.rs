//! One value that many buffers keep, without a count that all threads write.
//!
//! Every buffer keeps its pool and its mapping. With one `Arc`, two threads that allocate and free
//! would write the same count twice a pair, and pass its cache line to and fro: that cost more than
//! all of the rest. So there is a *seat* a lane, each an `Arc` on cache lines of its own, and a
//! buffer keeps the seat of the thread that made it.
//!
//! ```text
//!   Pool ─▶ Spread ─┬▶ Seat ◀─ the buffers of lane 0     each seat ─▶ Arc of the value
//!                   ├▶ Seat ◀─ the buffers of lane 1               └▶ Arc of its mapping
//!                   └▶ …
//! ```
//!
//! The value goes with the last seat, and a seat with the spread and the last buffer that kept it.

use crate::lanes;
use crate::os::map::Mapping;
use std::ops::Deref;
use std::sync::{Arc, Weak};
use vmalloc_core::layout::LANES;

/// The seats of one value. Kept by whoever makes buffers.
#[derive(Debug)]
pub(crate) struct Spread<T> {
    value: Arc<T>,
    seats: [Arc<Seat<T>>; LANES],
}

/// What a buffer keeps. Aligned so that its `Arc`'s counts share no line, nor the pair of lines that
/// is fetched together, with another seat's.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Seat<T> {
    // Never changed: `crate::os::keep` relies on it.
    mapping: Arc<Mapping>,
    value: Arc<T>,
    spread: Weak<Spread<T>>,
}

impl<T> Spread<T> {
    /// A value and its mapping, which are kept as long as this or any of its seats.
    pub(crate) fn new(mapping: Arc<Mapping>, value: T) -> Arc<Spread<T>> {
        Spread::of(&mapping, Arc::new(value))
    }

    fn of(mapping: &Arc<Mapping>, value: Arc<T>) -> Arc<Spread<T>> {
        Arc::new_cyclic(|spread| {
            let seat = |_| {
                let (mapping, value) = (Arc::clone(mapping), Arc::clone(&value));
                Arc::new(Seat { mapping, value, spread: Weak::clone(spread) })
            };
            let seats = std::array::from_fn(seat);
            Spread { value, seats }
        })
    }

    /// The seat of this thread's lane.
    #[inline]
    pub(crate) fn here(&self) -> Arc<Seat<T>> {
        Arc::clone(&self.seats[lanes::mine().index % LANES])
    }
}

impl<T> Seat<T> {
    /// The mapping that it was made with.
    #[inline]
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// The spread it belongs to; another one of the same value if that is gone.
    pub(crate) fn spread(&self) -> Arc<Spread<T>> {
        self.spread.upgrade().unwrap_or_else(|| Spread::of(&self.mapping, Arc::clone(&self.value)))
    }
}

impl<T> Deref for Spread<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Deref for Seat<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::PAGE_BYTES;
    use crate::os::tests::pool;

    /// Goal: threads that live at once sit on different seats, whose counts are 128 bytes apart.
    /// Method: two threads, each with a lane of its own, ask for theirs.
    #[test]
    fn each_lane_has_a_seat_of_its_own() {
        let spread = Spread::new(pool("seats", PAGE_BYTES), 7_u32);
        let mine = spread.here();
        let theirs = std::thread::scope(|scope| {
            scope.spawn(|| (spread.here(), lanes::mine())).join().unwrap()
        });
        if theirs.1 == lanes::mine() {
            return; // More threads of this process run than there are lanes.
        }
        let apart = Arc::as_ptr(&mine).addr().abs_diff(Arc::as_ptr(&theirs.0).addr());
        assert!(apart >= 128, "{apart} bytes apart");
        assert_eq!((**mine, **theirs.0), (7, 7));
    }

    /// Goal: the value lives as long as anybody keeps it, and a seat that is left finds a spread.
    #[test]
    fn the_value_goes_with_the_last_seat() {
        let value = Arc::new(());
        let spread = Spread::new(pool("last-seat", PAGE_BYTES), Arc::clone(&value));
        let seat = spread.here();
        assert!(Arc::ptr_eq(&seat.spread(), &spread));
        drop(spread);
        assert_eq!(Arc::strong_count(&value), 2);
        let again = seat.spread();
        drop(seat);
        assert_eq!(Arc::strong_count(&value), 2);
        drop(again);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
