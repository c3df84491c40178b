//! The atomics that the whole engine uses, in one place so that a model checker can replace them.

pub use core::sync::atomic::{AtomicU64, Ordering, fence};
