//! The engine of vmalloc: large, virtually contiguous memory out of scattered page frames.

#![no_std]
#![forbid(unsafe_code)]

pub mod frames;
pub mod platform;
pub mod sync;
mod units;

pub use units::*;
