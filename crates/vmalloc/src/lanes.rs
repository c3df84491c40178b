//! Which lane a thread counts in: one of its own, as long as there are enough.
//!
//! The engine counts allocations, frees and parked pages in *lanes* of a member, so that threads
//! do not write each other's cache lines. A thread that has a lane to itself counts without an
//! atomic step. The first threads of a process get one each, until they end; those that come
//! later share the last lane, and count in it atomically.
//!
//! A lane is a thread's in every pool that this process has open.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use vmalloc_core::Lane;
use vmalloc_core::layout::LANES;

/// The lane of those who have none of their own.
const SHARED: Lane = Lane { index: LANES - 1, is_mine: false };
const NOT_ASKED: usize = usize::MAX;

/// A bit a lane: some thread's own.
static TAKEN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    // Its own lane's number, or the shared one's, or that nobody asked yet. Without a destructor,
    // so that reading it is a load.
    static MINE: Cell<usize> = const { Cell::new(NOT_ASKED) };
    static RETURN: Return = const { Return };
}

/// Gives the lane back when the thread ends.
struct Return;

impl Drop for Return {
    fn drop(&mut self) {
        let index = MINE.replace(SHARED.index);
        if index < SHARED.index {
            // Release: pairs with the Acquire of the thread that takes it next, which goes on from
            // what this one counted.
            TAKEN.fetch_and(!(1 << index), Ordering::Release);
        }
    }
}

/// This thread's lane. A load, but for the first time.
#[inline]
pub(crate) fn mine() -> Lane {
    match MINE.get() {
        NOT_ASKED => take(),
        index => Lane { index, is_mine: index < SHARED.index },
    }
}

#[cold]
fn take() -> Lane {
    let free = |taken: u64| {
        let index = taken.trailing_ones() as usize;
        (index < SHARED.index).then_some(taken | 1 << index)
    };
    // Without a way to give it back (the thread is ending), it shares.
    let can_return = RETURN.try_with(|_| ()).is_ok();
    let lane = match can_return {
        true => match TAKEN.fetch_update(Ordering::Acquire, Ordering::Relaxed, free) {
            Ok(taken) => Lane { index: taken.trailing_ones() as usize, is_mine: true },
            Err(_) => SHARED,
        },
        false => SHARED,
    };
    MINE.set(lane.index);
    lane
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    /// Goal: no two threads that live at once have the same lane to themselves, and a lane comes
    /// back when its thread ends. Method: more threads than lanes, twice.
    #[test]
    fn a_lane_of_ones_own_is_nobody_elses() {
        for _ in 0..2 {
            let barrier = Barrier::new(2 * LANES);
            let lanes: Vec<Lane> = std::thread::scope(|scope| {
                let ask = |_| {
                    scope.spawn(|| {
                        let lane = mine();
                        barrier.wait();
                        assert_eq!(mine(), lane);
                        lane
                    })
                };
                let threads: Vec<_> = (0..2 * LANES).map(ask).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let mut own: Vec<usize> =
                lanes.iter().filter(|lane| lane.is_mine).map(|lane| lane.index).collect();
            own.sort_unstable();
            let count = own.len();
            own.dedup();
            assert_eq!(own.len(), count, "{lanes:?}");
            assert!(lanes.iter().all(|lane| lane.is_mine || *lane == SHARED));
        }
    }
}
