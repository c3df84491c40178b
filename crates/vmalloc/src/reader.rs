//! A reader: another user's process, which gets a descriptor that cannot write.
//!
//! ```text
//!   member: Pool::send_read_only ─O_RDONLY descriptor▶ reader: Reader::receive
//!   token ─▶ look at the record ─▶ copy ─▶ look again: the same? ─▶ the bytes
//! ```
//!
//! A pool has mode 0600, so another user who is handed a read-only descriptor can get no better
//! one: the kernel refuses to open it for writing, and to map it writable. A reader is no member:
//! it writes nothing, so it holds no area, takes no slot, and needs no recovery. What it reads it
//! copies, through the kernel, and then looks whether the area is still the same. It maps nothing:
//! nothing that a member does can end it.
//!
//! This does not hold against a process of the *same* user, which may open
//! `/proc/PID/fd` of the pool's members: for that there is [`crate::Sealed`]. And a reader can read
//! all of the pool, whatever tokens it has.

use crate::error::OpenError;
use crate::framed;
use crate::header::{HEADER_BYTES, Shape};
use crate::options;
use crate::os::PAGE_BYTES;
use crate::os::file::PoolFile;
use crate::os::open::{Accept, Owner};
use crate::os::passing;
use crate::pool::Pool;
use crate::token::Token;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use vmalloc_core::{Kind, PageRange, peek};

/// How often a copy is made again whose area changed under it.
const TRIES: usize = 8;

/// A pool that this process may read, and nothing else.
#[derive(Debug)]
pub struct Reader {
    file: PoolFile,
    shape: Shape,
}

/// Why there was nothing to read.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// The token is another pool's.
    OtherPool {
        /// The pool of the token.
        token: u32,
        /// This one.
        pool: u32,
    },
    /// The area was freed, or is not frozen: only what nobody writes can be read without a share.
    NotFrozen,
    /// The bytes lie outside the area.
    OutOfBounds(crate::OutOfBounds),
    /// The operating system refused, or the file is shorter than its pool.
    Os,
}

impl Pool {
    /// Sends a descriptor of the pool that can only read: for another user's [`Reader`].
    ///
    /// # Errors
    ///
    /// What opening it once more said, or the socket.
    pub fn send_read_only(&self, socket: &UnixStream) -> std::io::Result<()> {
        let file = self.member().ground.mapping.file();
        let fd = file.read_only()?;
        Ok(passing::send_fd(socket, fd.as_fd())?)
    }
}

impl Reader {
    /// Takes the pool whose descriptor a member sends with [`Pool::send_read_only`].
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn receive(socket: &UnixStream) -> Result<Reader, OpenError> {
        let fd = passing::recv_fd(socket).map_err(|e| OpenError::Os(Box::new(e)))?;
        Reader::from_fd(fd)
    }

    /// Takes the pool behind a descriptor, which need not be writable. What it is, where it lies,
    /// its seals, size and header are checked.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn from_fd(fd: OwnedFd) -> Result<Reader, OpenError> {
        let accept = Accept { bytes_min: HEADER_BYTES, owner: Owner::Anyone };
        let file = PoolFile::to_read(fd, &accept).map_err(|e| OpenError::File(Box::new(e)))?;
        let shape = options::read_shape(&file)?;
        Ok(Reader { file, shape })
    }

    /// Copies all of a frozen area.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn read(&self, token: &Token) -> Result<Vec<u8>, ReadError> {
        let bytes = self.frozen(token)?.bytes;
        let mut copy = vec![0; usize::try_from(bytes).map_err(|_| ReadError::Os)?];
        self.read_at(token, 0, &mut copy).map(|()| copy)
    }

    /// Copies from byte `at` of a frozen area on. What arrives is what its maker froze.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; `out` may hold anything then.
    pub fn read_at(&self, token: &Token, at: usize, out: &mut [u8]) -> Result<(), ReadError> {
        for _ in 0..TRIES {
            let before = self.frozen(token)?;
            let (count, len) = (out.len(), before.bytes as usize);
            if at.checked_add(count).is_none_or(|end| end > len) {
                return Err(ReadError::OutOfBounds(crate::OutOfBounds { at, count, len }));
            }
            if count > 0 && !self.copy(before.pages, at as u64, out) {
                return Err(ReadError::Os);
            }
            if self.frozen(token)?.pages == before.pages {
                return Ok(());
            }
        }
        Err(ReadError::NotFrozen)
    }

    /// Copies from byte `at` of an area on; of a framed pool page by page, each from its frame.
    fn copy(&self, pages: PageRange, mut at: u64, out: &mut [u8]) -> bool {
        let start = self.shape.window_offset(pages);
        if !self.shape.is_framed {
            return self.file.read_at(start + at, out);
        }
        let mut left = out;
        while !left.is_empty() {
            let (page, offset) = (pages.start.0 + at / PAGE_BYTES, at % PAGE_BYTES);
            let len = left.len().min((PAGE_BYTES - offset) as usize);
            let (part, rest) = left.split_at_mut(len);
            let frame = framed::peek(&self.shape, page, |at| self.word(at));
            if !frame.is_some_and(|pfn| self.file.read_at(pfn * PAGE_BYTES + offset, part)) {
                return false;
            }
            (left, at) = (rest, at + len as u64);
        }
        true
    }

    /// A word behind the header.
    fn word(&self, at: usize) -> Option<u64> {
        let mut bytes = [0; 8];
        let read = self.file.read_at(Shape::words_offset(at), &mut bytes);
        read.then_some(u64::from_ne_bytes(bytes))
    }

    fn frozen(&self, token: &Token) -> Result<peek::Peeked, ReadError> {
        let (pool, ours) = (token.pool, self.shape.pool_number());
        if pool != ours {
            return Err(ReadError::OtherPool { token: pool, pool: ours });
        }
        let peeked = peek::peek(&self.shape.geometry, &token.core(), |at| self.word(at));
        let is_same = |p: &peek::Peeked| p.state.kind == Kind::Frozen && p.pages.len == token.pages;
        peeked.filter(is_same).ok_or(ReadError::NotFrozen)
    }
}

impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::OtherPool { token, pool } => crate::error::other_pool(f, *token, *pool),
            ReadError::NotFrozen => write!(f, "the area was freed, or is not frozen"),
            ReadError::OutOfBounds(e) => write!(f, "{e}"),
            ReadError::Os => write!(f, "the pool's file could not be read"),
        }
    }
}

impl std::error::Error for ReadError {}
