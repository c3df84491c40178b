//! What `anon.rs` is under Miri, which knows no mapping of ours: zeroed words on the heap.
//!
//! So that Miri can run what stands on it, the claims and the views. Costs memory at once.

use crate::os::fail;
use rustix::io::Errno;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;

/// `count` words, all zero at first.
#[derive(Debug)]
pub(crate) struct AnonWords(Box<[AtomicU64]>);

impl AnonWords {
    pub(crate) fn new(count: usize) -> Result<AnonWords, Errno> {
        fail::point("mmap_anon")?;
        Ok(AnonWords((0..count).map(|_| AtomicU64::new(0)).collect()))
    }

    /// Nothing: Miri does not fork.
    pub(crate) fn wipe_on_fork(&self) -> Result<(), Errno> {
        fail::point("wipe_on_fork")
    }
}

impl Deref for AnonWords {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        &self.0
    }
}
