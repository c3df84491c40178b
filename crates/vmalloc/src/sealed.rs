//! Bytes that cross a border of trust: sealed by the kernel, so that nobody can write them again.
//!
//! ```text
//!   &[u8] ─Sealed::copy_of (one copy)─▶ Sealed ─send┄┄ any process, any user ┄┄▶ Sealed::receive ─▶ &[u8]
//! ```
//!
//! A pool is one trust domain: what a member has frozen another member could still write, if it
//! does not keep to the protocol. A [`Sealed`] is a file of its own, outside every pool, that carries
//! F_SEAL_WRITE: the kernel refuses to write, cut, punch or map it writable, to its maker and to
//! every process of his. The receiver checks the seals before it maps. The price is one copy, and a
//! descriptor each.

use crate::error::Source;
use crate::os::file::PoolFile;
use crate::os::seal;
use crate::os::{passing, stitch::Stitch};
use std::fmt;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Bytes that nobody can write, ever.
pub struct Sealed {
    stitch: Stitch,
    file: PoolFile,
    len: usize,
}

/// Why nothing was sealed, or what came is not sealed. Nothing stays open.
#[derive(Debug)]
#[non_exhaustive]
pub enum SealError {
    /// No descriptor came over the socket.
    Socket(Source),
    /// The file is not one that nobody can write, or the system refused.
    File(Source),
}

impl Sealed {
    /// Copies `bytes` (a [`crate::Frozen`], say) into a file of their own and seals it. They are not
    /// of any pool's budget.
    ///
    /// # Errors
    ///
    /// [`SealError::File`]: no bytes, no memory, no descriptor.
    pub fn copy_of(bytes: &[u8]) -> Result<Sealed, SealError> {
        let fd = seal::seal(bytes).map_err(|e| SealError::File(Box::new(e)))?;
        Sealed::from_fd(fd)
    }

    /// Takes a descriptor from anywhere: checks what it is and that all seals are there, then maps
    /// it for reading.
    ///
    /// # Errors
    ///
    /// [`SealError::File`].
    pub fn from_fd(fd: OwnedFd) -> Result<Sealed, SealError> {
        let (file, stitch, len) = seal::open(fd).map_err(|e| SealError::File(Box::new(e)))?;
        Ok(Sealed { stitch, file, len })
    }

    /// Sends it over a Unix socket, to a process of any user.
    ///
    /// # Errors
    ///
    /// What the socket said.
    pub fn send(&self, socket: &UnixStream) -> std::io::Result<()> {
        Ok(passing::send_fd(socket, self.as_fd())?)
    }

    /// Takes what [`Sealed::send`] sent.
    ///
    /// # Errors
    ///
    /// [`SealError`].
    pub fn receive(socket: &UnixStream) -> Result<Sealed, SealError> {
        let fd = passing::recv_fd(socket).map_err(|e| SealError::Socket(Box::new(e)))?;
        Sealed::from_fd(fd)
    }
}

impl Deref for Sealed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.stitch.bytes(self.len)
    }
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.len)
    }
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SealError::Socket(e) => write!(f, "nothing came: {e}"),
            SealError::File(e) => write!(f, "not sealed: {e}"),
        }
    }
}

impl std::error::Error for SealError {}
