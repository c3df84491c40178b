//! A forked child is not a member: it finds that out by one load.
//!
//! After `fork` the child has the parent's mapping, descriptors and objects, and no presence of
//! its own in the pool: if it freed a buffer, the parent's memory would be given away. The
//! kernel wipes a page that was advised MADV_WIPEONFORK in the child, so a marker in such a page
//! is there exactly in the process that wrote it. No hook that a plain `clone` would bypass, no
//! `getpid`.
//!
//! The description that holds the member's lock is not left to the child: [`crate::os::life`].

use crate::os::anon::AnonWords;
use rustix::io::Errno;
use std::sync::atomic::Ordering;

const MARK: u64 = u64::from_be_bytes(*b"vmalloc!");

/// Holds a marker that only the process which made it sees.
#[derive(Debug)]
pub(crate) struct ForkGuard {
    page: AnonWords,
}

impl ForkGuard {
    /// Marks this process.
    ///
    /// # Errors
    ///
    /// What `mmap` or `madvise` said: EINVAL before Linux 4.14.
    pub(crate) fn new() -> Result<ForkGuard, Errno> {
        let page = AnonWords::new(1)?;
        page.wipe_on_fork()?;
        page[0].store(MARK, Ordering::Relaxed);
        Ok(ForkGuard { page })
    }

    /// Whether this is a forked child of the process that made the guard. One load.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        // Relaxed: in the process that wrote the mark, whoever has `&self` came after `new`; in a
        // child the page was wiped before its first instruction.
        self.page[0].load(Ordering::Relaxed) != MARK
    }
}
