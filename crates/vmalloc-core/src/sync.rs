//! The atomics that the whole engine uses, in one place so that they can be replaced.
//!
//! This crate's own unit tests, and the simulation with the feature `stepped`, replace them by
//! `stepped`, which calls a hook before each write: so a test can stop the world, take a photo
//! of it, let another member act or end the walk for good, at any step.

pub use core::sync::atomic::{Ordering, fence};

#[cfg(not(any(test, feature = "stepped")))]
pub use core::sync::atomic::AtomicU64;

#[cfg(any(test, feature = "stepped"))]
pub use stepped::AtomicU64;

#[cfg(any(test, feature = "stepped"))]
pub mod stepped;
