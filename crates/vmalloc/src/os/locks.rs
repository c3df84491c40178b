//! One byte of the pool file, locked, tells that a member lives.
//!
//! An *open file description* lock is held by the description and by nothing else: when the
//! last process that has it dies, however it dies, the kernel drops the lock within a fraction
//! of a millisecond, also across containers. And since a lock has one holder, whoever gets a
//! dead member's byte is the only one to recover it; if that one dies too, the next can.
//!
//! Two traps. A description does not conflict with its own locks: probing one's own byte says
//! "free". And `fork` shares the description: a child would keep the lock of its dead parent, so
//! a member's is closed there ([`crate::os::life`]).
//!
//! The bytes may lie anywhere, past the end of the file as well: only numbers are locked.
//!
//! Linux: `F_OFD_SETLK`, `F_OFD_GETLK` (fs/locks.c). rustix has neither, hence libc.

use crate::os::fail;
use crate::os::file::PoolFile;
use rustix::io::Errno;
use std::os::fd::AsRawFd;

/// Who holds a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holder {
    /// A description other than ours: a member. The kernel does not say whose.
    Description,
    /// A process that used the older kind of lock, which none of ours does.
    Process(i32),
}

impl PoolFile {
    /// Locks `len` bytes from `offset` on for this description, all or none, if nobody else holds
    /// one of them. Says whether it did; what this description holds already counts as locked
    /// again. Never waits.
    ///
    /// # Errors
    ///
    /// What `fcntl` said: ENOLCK, when the kernel has no memory for locks.
    pub(crate) fn try_lock(&self, offset: u64, len: u64) -> Result<bool, Errno> {
        match self.ofd("lock_byte", libc::F_OFD_SETLK, libc::F_WRLCK, offset, len) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Who, other than this description, holds the byte at `offset`. About 0.9 µs.
    ///
    /// # Errors
    ///
    /// What `fcntl` said.
    pub(crate) fn probe_byte(&self, offset: u64) -> Result<Option<Holder>, Errno> {
        let found = self.ofd("probe_byte", libc::F_OFD_GETLK, libc::F_WRLCK, offset, 1)?;
        if found.l_type == libc::F_UNLCK as i16 {
            return Ok(None);
        }
        Ok(Some(if found.l_pid > 0 { Holder::Process(found.l_pid) } else { Holder::Description }))
    }

    /// Unlocks `len` bytes from `offset` on. Fine if they were not locked.
    ///
    /// # Errors
    ///
    /// What `fcntl` said.
    pub(crate) fn unlock(&self, offset: u64, len: u64) -> Result<(), Errno> {
        self.ofd("unlock_byte", libc::F_OFD_SETLK, libc::F_UNLCK, offset, len).map(drop)
    }

    /// One OFD lock call; returns the record as the kernel left it.
    fn ofd(
        &self,
        point: &'static str,
        command: libc::c_int,
        kind: libc::c_int,
        offset: u64,
        len: u64,
    ) -> Result<libc::flock, Errno> {
        fail::point(point)?;
        let mut record = libc::flock {
            l_type: kind as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: i64::try_from(offset).map_err(|_| Errno::INVAL)?,
            l_len: i64::try_from(len).map_err(|_| Errno::INVAL)?,
            // Must be zero for OFD locks.
            l_pid: 0,
        };
        // SAFETY:
        // 1. The descriptor is open: `self` owns it.
        // 2. F_OFD_SETLK and F_OFD_GETLK, the only commands passed here, read and write one
        //    `struct flock`; `record` is one, initialised above, ours alone during the call.
        let code = unsafe { libc::fcntl(self.fd.as_raw_fd(), command, &raw mut record) };
        if code == -1 { Err(last_errno()) } else { Ok(record) }
    }
}

/// The error of the libc call that just failed on this thread.
pub(in crate::os) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
