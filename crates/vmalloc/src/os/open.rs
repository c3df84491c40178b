//! Opening a pool file that somebody else made: checked before it is mapped.
//!
//! By path, by `/proc/PID/fd/N`, or from a descriptor that came over a socket. Whatever the way,
//! the file is *pinned* first (an O_PATH descriptor, or the one received), looked at, and then
//! *reopened* through `/proc/self/fd`: opening by O_PATH has no side effect on a device or FIFO,
//! and the reopened description is our own, so that OFD locks are ours and not the sender's.
//!
//! ```text
//!   path ─O_PATH─┐                     ┌─▶ refuse: symlink, device, FIFO, not in memory, …
//!   /proc/P/fd/N ┼─▶ pin ─stat, statfs─┴─▶ reopen O_RDWR ─seals, size, owner─▶ PoolFile
//!   received fd ─┘
//! ```
//!
//! A file without a name (no links) must carry the seals SHRINK and GROW. A file on tmpfs cannot
//! be sealed; it must have a name, and a mode that lets no other user write (and so truncate) it.
//!
//! Needs `/proc`.

use crate::os::fail;
use crate::os::file::{FileId, Kind, PoolFile, fs_type, id_of, is_in_memory, stat};
use rustix::fs::{FileType, Mode, OFlags, SealFlags, Stat};
use rustix::io::Errno;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What a file must be like to be opened as a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Accept {
    /// The least size in bytes.
    pub bytes_min: u64,
    /// Whose file it may be.
    pub owner: Owner,
}

/// Whose file may be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// Only files of our own effective user: a pool is one trust domain.
    Me,
    /// Anybody's that the kernel lets us open; for tools that only look.
    Anyone,
}

impl Accept {
    /// Any pool file of ours with at least `bytes_min` bytes.
    #[cfg(test)]
    pub(crate) fn mine(bytes_min: u64) -> Accept {
        Accept { bytes_min, owner: Owner::Me }
    }
}

/// Why a file was not opened as a pool. Nothing stays open.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub(crate) enum OpenError {
    /// It is a folder, a device, a symbolic link …
    NotRegular { file_type: FileType },
    /// It is on a disk, a network, FUSE …: mapping it could stall, and it is not memory.
    NotInMemory { fs_type: u64 },
    /// It belongs to another user.
    WrongOwner { uid: u32, expected: u32 },
    /// Users other than the owner may write it, hence truncate it under our mapping.
    WritableByOthers { mode: u32 },
    /// It has no name, yet lacks some of the seals SHRINK and GROW, so it could shrink under us.
    Unsealed { seals: SealFlags },
    /// It is smaller than the pool it should hold.
    TooSmall { bytes: u64, bytes_min: u64 },
    /// The descriptor was handed over read-only.
    ReadOnly,
    /// Between looking and opening it became another file.
    Changed { expected: FileId, found: FileId },
    /// The kernel refused `call` on `path`.
    Os { call: &'static str, path: PathBuf, errno: Errno },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::NotRegular { file_type } => {
                write!(f, "not a regular file but a {file_type:?}")
            }
            OpenError::NotInMemory { fs_type } => {
                write!(
                    f,
                    "on a file system (type {fs_type:#x}) that is neither tmpfs nor hugetlbfs"
                )
            }
            OpenError::WrongOwner { uid, expected } => {
                write!(f, "belongs to user {uid}; expected {expected}")
            }
            OpenError::WritableByOthers { mode } => {
                write!(f, "its mode {mode:04o} lets other users write it; expected 0600")
            }
            OpenError::Unsealed { seals } => {
                write!(f, "carries the seals {seals:?}; expected at least SHRINK and GROW")
            }
            OpenError::TooSmall { bytes, bytes_min } => {
                write!(f, "has {bytes} bytes; expected at least {bytes_min}")
            }
            OpenError::ReadOnly => write!(f, "the descriptor is read-only"),
            OpenError::Changed { expected, found } => {
                write!(f, "became another file while it was opened: {expected:?}, then {found:?}")
            }
            OpenError::Os { call, path, errno } => write!(f, "{call} {path:?}: {errno}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl PoolFile {
    /// Opens the pool file at `path`, which must not be a symbolic link.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub(crate) fn open_path(path: &Path, accept: &Accept) -> Result<PoolFile, OpenError> {
        adopt(pin(path, OFlags::NOFOLLOW)?.as_fd(), accept)
    }

    /// Opens the file that process `pid` has open as descriptor `fd` (see
    /// [`PoolFile::share_path`]). The kernel allows it to the same user, and to root.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; ENOENT if the process or its descriptor is gone.
    pub(crate) fn open_proc(pid: u32, fd: i32, accept: &Accept) -> Result<PoolFile, OpenError> {
        let path = PathBuf::from(format!("/proc/{pid}/fd/{fd}"));
        adopt(pin(&path, OFlags::empty())?.as_fd(), accept)
    }

    /// Takes over a descriptor that was received or inherited. It is closed; the result has an
    /// open file description of its own.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; [`OpenError::ReadOnly`] if the sender opened it so.
    pub(crate) fn from_fd(fd: OwnedFd, accept: &Accept) -> Result<PoolFile, OpenError> {
        let flags = fail::point("getfl")
            .and_then(|()| rustix::fs::fcntl_getfl(&fd))
            .map_err(|errno| os("fcntl F_GETFL", fd.as_fd(), errno))?;
        if !flags.contains(OFlags::PATH) && flags & OFlags::ACCMODE != OFlags::RDWR {
            return Err(OpenError::ReadOnly);
        }
        adopt(fd.as_fd(), accept)
    }

    /// Takes over a descriptor that need not be writable, and is used as it is: for who only reads.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub(crate) fn to_read(fd: OwnedFd, accept: &Accept) -> Result<PoolFile, OpenError> {
        let stat = look(fd.as_fd(), accept)?;
        let kind = check_shrinkable(fd.as_fd(), &stat)?;
        Ok(PoolFile { id: id_of(&stat), bytes: stat.st_size as u64, kind, fd })
    }

    /// Opens the same file once more, with an open file description of its own.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    #[cfg(test)]
    pub(crate) fn reopen(&self) -> Result<PoolFile, OpenError> {
        adopt(self.as_fd(), &Accept { bytes_min: self.bytes, owner: Owner::Anyone })
    }
}

/// An O_PATH descriptor of what is at `path`: no side effects, no access yet.
fn pin(path: &Path, extra: OFlags) -> Result<OwnedFd, OpenError> {
    fail::point("open")
        .and_then(|()| {
            rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC | extra, Mode::empty())
        })
        .map_err(|errno| OpenError::Os { call: "open", path: path.to_owned(), errno })
}

/// Looks at the pinned file, opens it writable, and checks what can only be checked then.
fn adopt(pin: BorrowedFd<'_>, accept: &Accept) -> Result<PoolFile, OpenError> {
    let pinned = look(pin, accept)?;

    let path = self_path(pin);
    let fd = fail::point("reopen")
        .and_then(|()| rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()))
        .map_err(|errno| OpenError::Os { call: "reopen", path, errno })?;
    let stat = look(fd.as_fd(), accept)?;
    if id_of(&stat) != id_of(&pinned) {
        return Err(OpenError::Changed { expected: id_of(&pinned), found: id_of(&stat) });
    }
    let kind = check_shrinkable(fd.as_fd(), &stat)?;
    // Sealed, or only ours to truncate: this size is final.
    Ok(PoolFile { id: id_of(&stat), bytes: stat.st_size as u64, kind, fd })
}

/// The checks that need no access: what it is, where, whose, how large.
fn look(fd: BorrowedFd<'_>, accept: &Accept) -> Result<Stat, OpenError> {
    let stat = stat(fd).map_err(|errno| os("fstat", fd, errno))?;
    let file_type = FileType::from_raw_mode(stat.st_mode);
    if file_type != FileType::RegularFile {
        return Err(OpenError::NotRegular { file_type });
    }
    let fs_type = fs_type(fd).map_err(|errno| os("fstatfs", fd, errno))?;
    if !is_in_memory(fs_type) {
        return Err(OpenError::NotInMemory { fs_type });
    }
    let me = rustix::process::geteuid().as_raw();
    if accept.owner == Owner::Me && stat.st_uid != me {
        return Err(OpenError::WrongOwner { uid: stat.st_uid, expected: me });
    }
    let bytes = u64::try_from(stat.st_size).unwrap_or(0);
    if bytes < accept.bytes_min {
        return Err(OpenError::TooSmall { bytes, bytes_min: accept.bytes_min });
    }
    Ok(stat)
}

/// Whether the file could shrink under a mapping: by its seals, or by its name and mode.
fn check_shrinkable(fd: BorrowedFd<'_>, stat: &Stat) -> Result<Kind, OpenError> {
    let seals = fail::point("get_seals")
        .and_then(|()| rustix::fs::fcntl_get_seals(fd))
        .map_err(|errno| os("fcntl F_GET_SEALS", fd, errno))?;
    if seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
        return Ok(Kind::Memfd);
    }
    // A memfd has no link, and neither has a file on tmpfs that was deleted.
    if stat.st_nlink == 0 {
        return Err(OpenError::Unsealed { seals });
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o022 != 0 {
        return Err(OpenError::WritableByOthers { mode });
    }
    Ok(Kind::Named)
}

fn self_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn os(call: &'static str, fd: BorrowedFd<'_>, errno: Errno) -> OpenError {
    OpenError::Os { call, path: self_path(fd), errno }
}
