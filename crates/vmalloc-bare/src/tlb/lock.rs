//! The lock of a shootdown: the kernel's own, or a word.
//!
//! It is only ever tried: a CPU that waits for it answers other CPUs' shootdowns meanwhile, or two
//! that begin one at the same time would wait for each other for ever.

use core::sync::atomic::{AtomicBool, Ordering};

/// A lock that can be tried.
///
/// # Safety
///
/// Between a `try_lock` that returned `true` and the `unlock` after it, no other `try_lock` returns
/// `true`, and what was written before the `unlock` is seen after the next.
pub unsafe trait TryLock {
    /// Takes the lock if it is free. Whether it did.
    fn try_lock(&self) -> bool;

    /// Releases the lock.
    ///
    /// # Safety
    ///
    /// The caller holds it.
    unsafe fn unlock(&self);
}

/// Runs `body` under `lock`; while another has it, runs `idle`.
pub(crate) fn locked<R>(lock: &impl TryLock, idle: impl Fn(), body: impl FnOnce() -> R) -> R {
    while !lock.try_lock() {
        idle();
        core::hint::spin_loop();
    }
    let result = body();
    // SAFETY:
    // 1. `try_lock` returned `true` above, and nothing released the lock since: `body` cannot
    //    reach it.
    unsafe { lock.unlock() };
    result
}

/// A word.
#[derive(Default, Debug)]
pub struct SpinLock(AtomicBool);

impl SpinLock {
    /// A lock that is free.
    #[must_use]
    pub const fn new() -> SpinLock {
        SpinLock(AtomicBool::new(false))
    }
}

// SAFETY:
// 1. Only the swap that finds `false` returns `true`; only `unlock` makes it `false` again.
// 2. Acquire and Release order what is written between.
unsafe impl TryLock for SpinLock {
    fn try_lock(&self) -> bool {
        !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Acquire)
    }

    unsafe fn unlock(&self) {
        // Planted under `canary`, for Miri to find: what was written may come later.
        let order = if cfg!(canary) { Ordering::Relaxed } else { Ordering::Release };
        self.0.store(false, order);
    }
}

/// Any lock of the `lock_api` kind: spin's, Hermit's, a kernel's own.
#[cfg(feature = "lock_api")]
#[derive(Debug)]
pub struct LockApi<L>(pub L);

// SAFETY:
// 1. `lock_api::RawMutex` promises the same in its own words.
#[cfg(feature = "lock_api")]
unsafe impl<L: lock_api::RawMutex> TryLock for LockApi<L> {
    fn try_lock(&self) -> bool {
        self.0.try_lock()
    }

    unsafe fn unlock(&self) {
        // SAFETY:
        // 1. The caller holds it: promised by the caller of this function.
        unsafe { self.0.unlock() };
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::cell::UnsafeCell;

    /// What the lock guards.
    struct Guarded(UnsafeCell<u64>);

    // SAFETY:
    // 1. Only `count` below reaches the cell, under the lock.
    unsafe impl Sync for Guarded {}

    fn count<L: TryLock + Sync>(lock: &L) -> u64 {
        let (guarded, turns) = (Guarded(UnsafeCell::new(0)), if cfg!(miri) { 40 } else { 20_000 });
        let add = || {
            for _ in 0..turns {
                locked(lock, std::thread::yield_now, || {
                    let guarded: &Guarded = &guarded;
                    // SAFETY:
                    // 1. The lock is held: no other thread reaches the cell.
                    unsafe { *guarded.0.get() += 1 };
                });
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(add);
            scope.spawn(add);
        });
        guarded.0.into_inner() / turns
    }

    /// Goal: what one holder writes is there, whole, for the next: a plain word loses no count, and
    /// Miri sees no race. Method: two threads.
    #[test]
    fn who_holds_the_lock_has_what_it_guards_to_himself() {
        assert_eq!(count(&SpinLock::new()), 2);
    }

    /// Goal: the adapter is the lock that it wraps: taken once, by one thread at a time.
    #[cfg(feature = "lock_api")]
    #[test]
    fn lock_of_the_lock_api_kind_is_tried_taken_and_released() {
        use lock_api::RawMutex as _;

        let lock = LockApi(parking_lot::RawMutex::INIT);
        assert!(lock.try_lock() && lock.0.is_locked());
        assert!(!lock.try_lock(), "taken twice");
        // SAFETY:
        // 1. Taken two lines above, and by nobody else.
        unsafe { lock.unlock() };
        assert!(!lock.0.is_locked());
        assert_eq!(count(&lock), 2);
    }
}
