//! A file that nobody can write any more, its maker included.
//!
//! ```text
//!   make:  memfd ─write the bytes─▶ seals WRITE, SHRINK, GROW, SEAL ─▶ send
//!   take:  regular? in memory? all four seals? not empty? ─▶ map for reading
//! ```
//!
//! A descriptor opened for reading protects nothing within one user: it is opened again for
//! writing through `/proc/self/fd`. A seal holds for the file, whoever opens it. It cannot be put on
//! the pool's own file: F_SEAL_FUTURE_WRITE there would refuse every later PUNCH_HOLE, too, and so
//! stop all purges. Hence a second file, and one copy.
//!
//! Linux: `memfd_create`, `F_ADD_SEALS`, `F_GET_SEALS`.

use crate::os::file::{Kind, PoolFile, fs_type, id_of, is_in_memory, stat};
use crate::os::stitch::{Access, Stitch, StitchError};
use crate::os::{PAGE_BYTES, Span, fail};
use rustix::fs::{FileType, MemfdFlags, SealFlags};
use rustix::io::Errno;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

/// What a sealed file carries.
const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// Why there is no sealed file. Nothing stays open.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub(crate) enum SealError {
    /// It is a folder, a device …
    NotRegular { file_type: FileType },
    /// It is not in memory: reading it could stall.
    NotInMemory { fs_type: u64 },
    /// Seals are missing: somebody could still write or cut it.
    Unsealed { seals: SealFlags },
    /// It has no bytes.
    Empty,
    /// It could not be mapped.
    Map(StitchError),
    /// The kernel refused `call`.
    Os { call: &'static str, errno: Errno },
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SealError::NotRegular { file_type } => {
                write!(f, "not a regular file but a {file_type:?}")
            }
            SealError::NotInMemory { fs_type } => {
                write!(f, "on a file system (type {fs_type:#x}) that is not in memory")
            }
            SealError::Unsealed { seals } => {
                write!(f, "carries the seals {seals:?}; expected {SEALS:?}")
            }
            SealError::Empty => write!(f, "no bytes to seal"),
            SealError::Map(e) => write!(f, "{e}"),
            SealError::Os { call, errno } => write!(f, "{call}: {errno}"),
        }
    }
}

impl std::error::Error for SealError {}

/// Writes `bytes` into a new memfd and seals it.
///
/// # Errors
///
/// [`SealError`].
pub(crate) fn seal(bytes: &[u8]) -> Result<OwnedFd, SealError> {
    if bytes.is_empty() {
        return Err(SealError::Empty);
    }
    let os = |call| move |errno| SealError::Os { call, errno };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = fail::point("memfd_create")
        .and_then(|()| {
            rustix::fs::memfd_create("vmalloc-sealed", flags | MemfdFlags::NOEXEC_SEAL)
                // Before Linux 6.3 the flag is unknown: EINVAL.
                .or_else(|_| rustix::fs::memfd_create("vmalloc-sealed", flags))
        })
        .map_err(os("memfd_create"))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let wrote = fail::point("write").and_then(|()| rustix::io::write(&fd, rest));
        match wrote {
            Ok(0) => return Err(os("write")(Errno::NOSPC)),
            Ok(count) => rest = &rest[count.min(rest.len())..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(os("write")(errno)),
        }
    }
    fail::point("seal")
        .and_then(|()| rustix::fs::fcntl_add_seals(&fd, SEALS))
        .map_err(os("fcntl F_ADD_SEALS"))?;
    Ok(fd)
}

/// Checks a descriptor from anywhere, and maps what it shows: its bytes, and how many.
///
/// # Errors
///
/// [`SealError`].
pub(crate) fn open(fd: OwnedFd) -> Result<(PoolFile, Stitch, usize), SealError> {
    let os = |call| move |errno| SealError::Os { call, errno };
    let stat = stat(fd.as_fd()).map_err(os("fstat"))?;
    let file_type = FileType::from_raw_mode(stat.st_mode);
    if file_type != FileType::RegularFile {
        return Err(SealError::NotRegular { file_type });
    }
    let fs_type = fs_type(fd.as_fd()).map_err(os("fstatfs"))?;
    if !is_in_memory(fs_type) {
        return Err(SealError::NotInMemory { fs_type });
    }
    let seals = fail::point("get_seals")
        .and_then(|()| rustix::fs::fcntl_get_seals(&fd))
        .map_err(os("fcntl F_GET_SEALS"))?;
    if !seals.contains(SEALS) {
        return Err(SealError::Unsealed { seals });
    }
    // Sealed, so this size is final.
    let len = usize::try_from(stat.st_size).ok().filter(|len| *len > 0).ok_or(SealError::Empty)?;
    let pages = (len as u64).next_multiple_of(PAGE_BYTES);
    let file = PoolFile { id: id_of(&stat), fd, bytes: pages, kind: Kind::Memfd };
    let stitch =
        Stitch::new(&file, &[Span::new(0, pages)], Access::Read).map_err(SealError::Map)?;
    Ok((file, stitch, len))
}
