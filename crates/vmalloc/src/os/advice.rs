//! Advice on ranges of the mapping: guard pages, huge pages, filling page tables ahead.
//!
//! None of it changes a byte of the pool. Guards and page tables are this process's own: another
//! member sees neither. None of it needs a VMA but [`Mapping::advise_huge`] and its opposite,
//! which split one at each end of the range.
//!
//! Linux: `madvise`: MADV_POPULATE_READ/WRITE (5.14), MADV_COLLAPSE (6.1), MADV_GUARD_INSTALL and
//! _REMOVE (6.13, on shared files 6.15).

use crate::os::file::PoolFile;
use crate::os::locks::last_errno;
use crate::os::map::Mapping;
use crate::os::{HUGE_BYTES, PAGE_BYTES, RangeError, Span, fail};
use rustix::io::Errno;
use std::fmt;
use std::sync::{Arc, OnceLock};

const MADV_COLLAPSE: libc::c_int = 25;
const MADV_GUARD_INSTALL: libc::c_int = 102;
const MADV_GUARD_REMOVE: libc::c_int = 103;

/// Why advice was not taken. What the range holds is unchanged; a populate may have filled a
/// part of it, so frames may have been added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub(crate) enum AdviseError {
    /// The range is not whole pages inside the mapping.
    Range(RangeError),
    /// No memory: the machine (ENOMEM), the control group, or the limit of the mount. The last
    /// two come as EFAULT from a populate, as does a guard page inside the range.
    NoMemory { span: Span, errno: Errno },
    /// A page of the range is broken hardware (EHWPOISON).
    Poisoned { span: Span },
    /// A signal came (EINTR); a part may be done, and asking again goes on.
    Interrupted { span: Span },
    /// This kernel does not know the advice, or not on shared files (EINVAL).
    Unsupported { span: Span },
    /// Anything else the kernel said.
    Os { span: Span, errno: Errno },
}

impl AdviseError {
    fn from_errno(span: Span, errno: Errno) -> AdviseError {
        match errno {
            Errno::NOMEM | Errno::FAULT | Errno::NOSPC => AdviseError::NoMemory { span, errno },
            Errno::HWPOISON => AdviseError::Poisoned { span },
            Errno::INTR => AdviseError::Interrupted { span },
            Errno::INVAL => AdviseError::Unsupported { span },
            errno => AdviseError::Os { span, errno },
        }
    }
}

impl fmt::Display for AdviseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdviseError::Range(error) => error.fmt(f),
            AdviseError::NoMemory { span, errno } => write!(f, "no memory for {span}: {errno}"),
            AdviseError::Poisoned { span } => write!(f, "broken memory within {span}"),
            AdviseError::Interrupted { span } => write!(f, "interrupted within {span}"),
            AdviseError::Unsupported { span } => {
                write!(f, "this kernel does not take the advice for {span}")
            }
            AdviseError::Os { span, errno } => write!(f, "madvise of {span}: {errno}"),
        }
    }
}

impl std::error::Error for AdviseError {}

impl Mapping {
    /// Asks for huge pages in `span` from now on. Takes a VMA of its own; an end inside a 2 MiB
    /// block keeps that block from being huge. Heeded for memfds only where
    /// `/sys/kernel/mm/transparent_hugepage/shmem_enabled` says `advise` or more.
    ///
    /// # Errors
    ///
    /// [`AdviseError`]; NoMemory means the VMAs of this process.
    pub(crate) fn advise_huge(&self, span: Span) -> Result<(), AdviseError> {
        self.checked_advise("advise_huge", span, libc::MADV_HUGEPAGE)
    }

    /// Asks for small pages in `span` from now on. Takes a VMA of its own.
    ///
    /// # Errors
    ///
    /// [`AdviseError`]; NoMemory means the VMAs of this process.
    pub(crate) fn advise_nohuge(&self, span: Span) -> Result<(), AdviseError> {
        self.checked_advise("advise_nohuge", span, libc::MADV_NOHUGEPAGE)
    }

    /// Backs `span` with frames and maps them writable, zeroed, in one call: 3 µs a page,
    /// 480 µs a MiB cold; a third of that if the frames are there. No look at what the machine
    /// has left: see [`crate::os::commit`].
    ///
    /// # Errors
    ///
    /// [`AdviseError`]. A part may have been backed.
    pub(crate) fn populate_write(&self, span: Span) -> Result<(), AdviseError> {
        self.checked_advise("populate_write", span, libc::MADV_POPULATE_WRITE)
    }

    /// Maps the frames behind `span`, which are there already: 64 µs a MiB warm, and the first
    /// write afterwards costs no fault either. Holes become zeroed frames too: commit first.
    ///
    /// # Errors
    ///
    /// [`AdviseError`]. A part may have been mapped.
    #[cfg(test)]
    pub(crate) fn populate_read(&self, span: Span) -> Result<(), AdviseError> {
        self.checked_advise("populate_read", span, libc::MADV_POPULATE_READ)
    }

    /// Makes every touch of `span` by this process a SIGSEGV. What the file holds there is kept.
    /// 1 µs a page, no VMA. Never inside a 2 MiB block that shall stay huge: it would be split.
    ///
    /// # Errors
    ///
    /// [`AdviseError`]; Unsupported if [`guards_supported`] is false.
    pub(crate) fn guard_install(&self, span: Span) -> Result<(), AdviseError> {
        self.checked_advise("guard_install", span, MADV_GUARD_INSTALL)
    }

    /// Takes guards out of `span`; pages that have none stay as they are.
    ///
    /// # Errors
    ///
    /// [`AdviseError`].
    pub(crate) fn guard_remove(&self, span: Span) -> Result<(), AdviseError> {
        self.checked_advise("guard_remove", span, MADV_GUARD_REMOVE)
    }

    /// Gathers the frames of each 2 MiB block of `span` into one huge page, by copying, holes
    /// filled. Works even where `shmem_enabled` is `never`: it is asked for by hand.
    ///
    /// # Errors
    ///
    /// [`AdviseError`]. What the range holds is unchanged in any case.
    pub(crate) fn collapse(&self, span: Span) -> Result<(), AdviseError> {
        let within = span.within_aligned(self.bytes(), HUGE_BYTES).map_err(AdviseError::Range)?;
        fail::point("collapse")
            .and_then(|()| self.advise(within, MADV_COLLAPSE))
            .map_err(|errno| AdviseError::from_errno(within, errno))
    }

    fn checked_advise(
        &self,
        point: &'static str,
        span: Span,
        advice: libc::c_int,
    ) -> Result<(), AdviseError> {
        let span = span.within_aligned(self.bytes(), PAGE_BYTES).map_err(AdviseError::Range)?;
        fail::point(point)
            .and_then(|()| self.advise(span, advice))
            .map_err(|errno| AdviseError::from_errno(span, errno))
    }

    /// `madvise` on a checked span, with one of the codes of this folder.
    pub(in crate::os) fn advise(&self, span: Span, advice: libc::c_int) -> Result<(), Errno> {
        debug_assert!(matches!(
            advice,
            libc::MADV_HUGEPAGE
                | libc::MADV_NOHUGEPAGE
                | libc::MADV_POPULATE_READ
                | libc::MADV_POPULATE_WRITE
                | libc::MADV_DONTDUMP
                | MADV_COLLAPSE
                | MADV_GUARD_INSTALL
                | MADV_GUARD_REMOVE
        ));
        let start = self.at(span.start).as_ptr().cast();
        // SAFETY:
        // 1. The range lies in the mapping: the callers checked `span` against `bytes`.
        // 2. `advice` is one of the eight codes above: this method is for `crate::os` alone, and
        //    it passes constants. None of them unmaps, moves or changes what the file holds, so
        //    references into the range stay valid; a guard turns a touch into SIGSEGV, which
        //    ends the process and is not undefined behaviour.
        let code = unsafe { libc::madvise(start, span.len as usize, advice) };
        if code == -1 { Err(last_errno()) } else { Ok(()) }
    }
}

/// Whether this kernel has guard pages on shared files. Found out once, on a scratch memfd.
pub(crate) fn guards_supported() -> bool {
    static SUPPORTED: OnceLock<bool> = OnceLock::new();
    *SUPPORTED.get_or_init(|| probe_guards().unwrap_or(false))
}

fn probe_guards() -> Option<bool> {
    let file = Arc::new(PoolFile::create_memfd("probe", 2 * PAGE_BYTES).ok()?);
    let scratch = Mapping::new(file, 0).ok()?;
    Some(scratch.guard_install(Span::new(PAGE_BYTES, PAGE_BYTES)).is_ok())
}
