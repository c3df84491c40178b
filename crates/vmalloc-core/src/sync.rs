//! The atomics that the whole engine uses, in one place so that they can be replaced.
//!
//! This crate's own unit tests replace them by `stepped`, which calls a hook before each write:
//! so a test can stop the world, or take a photo of it, at any step of a walk.

pub use core::sync::atomic::{Ordering, fence};

#[cfg(not(test))]
pub use core::sync::atomic::AtomicU64;

#[cfg(test)]
pub use stepped::AtomicU64;

#[cfg(test)]
pub(crate) mod stepped {
    //! Words that tell before they change.

    extern crate std;

    use core::sync::atomic::Ordering;
    use std::boxed::Box;
    use std::cell::RefCell;

    std::thread_local! {
        static HOOK: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
    }

    /// Runs `walk`; before each write that it makes to a word, `hook` runs.
    pub(crate) fn with_hook(hook: impl FnMut() + 'static, walk: impl FnOnce()) {
        HOOK.with(|cell| *cell.borrow_mut() = Some(Box::new(hook)));
        walk();
        HOOK.with(|cell| *cell.borrow_mut() = None);
    }

    fn step() {
        // Taken out while it runs: it looks at words itself, and may write to others.
        if let Some(mut hook) = HOOK.with(|cell| cell.borrow_mut().take()) {
            hook();
            HOOK.with(|cell| *cell.borrow_mut() = Some(hook));
        }
    }

    /// As `core`'s, with a step before each write.
    #[derive(Default, Debug)]
    pub struct AtomicU64(core::sync::atomic::AtomicU64);

    #[allow(missing_docs)]
    impl AtomicU64 {
        pub const fn new(value: u64) -> AtomicU64 {
            AtomicU64(core::sync::atomic::AtomicU64::new(value))
        }

        pub fn load(&self, order: Ordering) -> u64 {
            self.0.load(order)
        }

        pub fn store(&self, value: u64, order: Ordering) {
            step();
            self.0.store(value, order);
        }

        pub fn swap(&self, value: u64, order: Ordering) -> u64 {
            step();
            self.0.swap(value, order)
        }

        pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
            step();
            self.0.fetch_add(value, order)
        }

        pub fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
            step();
            self.0.fetch_sub(value, order)
        }

        pub fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
            step();
            self.0.fetch_or(value, order)
        }

        pub fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
            step();
            self.0.fetch_and(value, order)
        }

        pub fn compare_exchange(
            &self,
            current: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            step();
            self.0.compare_exchange(current, new, success, failure)
        }

        pub fn compare_exchange_weak(
            &self,
            current: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            step();
            self.0.compare_exchange_weak(current, new, success, failure)
        }

        pub fn fetch_xor(&self, value: u64, order: Ordering) -> u64 {
            step();
            self.0.fetch_xor(value, order)
        }

        pub fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
            step();
            self.0.fetch_max(value, order)
        }

        pub fn fetch_min(&self, value: u64, order: Ordering) -> u64 {
            step();
            self.0.fetch_min(value, order)
        }

        pub fn fetch_update(
            &self,
            success: Ordering,
            failure: Ordering,
            update: impl FnMut(u64) -> Option<u64>,
        ) -> Result<u64, u64> {
            step();
            self.0.fetch_update(success, failure, update)
        }
    }
}
