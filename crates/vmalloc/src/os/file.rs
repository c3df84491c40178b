//! The pool file: where the frames of a pool live, and the only name they need.
//!
//! Either a *memfd* (the default: no name that could leak, no `/dev/shm` limit, sealed so that
//! nobody can shrink it under a mapping) or a *named* file on tmpfs or hugetlbfs. The file is
//! sparse and far larger than the memory it may hold: an offset is only a name, and
//! [`crate::os::map::Mapping::punch`] gives the frames behind it back.
//!
//! Invariants: the size never changes after creation; a `PoolFile` always has an open file
//! description of its own (through [`crate::os::open`]), since that is what holds OFD locks.
//!
//! All seals are set at birth, F_SEAL_SEAL included. Seals belong to the file, not to a
//! descriptor: a member that added F_SEAL_FUTURE_WRITE later would stop every purge, because
//! PUNCH_HOLE counts as a write.
//!
//! Neighbours: [`crate::os::open`] checks files that others made; [`crate::os::map`] maps them.
//! Linux: `memfd_create`, `shmem_fallocate`, `F_ADD_SEALS`.

use crate::os::{Span, fail};
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::{Errno, retry_on_intr};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What the name of every memfd of ours begins with, so that others can find our pools.
pub(crate) const NAME_PREFIX: &str = "vmalloc:";
/// The longest pool name in bytes: the kernel takes 249 with the prefix.
pub(crate) const NAME_BYTES_MAX: usize = 200;
/// The seals that a pool on a memfd must carry. EXEC comes on top where the kernel knows it.
pub(crate) const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Which file, whatever its path: equal ids mean the same pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct FileId {
    /// The device, as in `stat`.
    pub dev: u64,
    /// The inode on that device.
    pub ino: u64,
}

/// What a pool file is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A memfd: nameless, sealed.
    Memfd,
    /// A file with a path, which cannot be sealed; its mode keeps other users out.
    Named,
}

/// An open pool file, checked. Closing it drops the locks that this description holds.
#[derive(Debug)]
pub(crate) struct PoolFile {
    pub(in crate::os) fd: OwnedFd,
    pub(in crate::os) id: FileId,
    pub(in crate::os) bytes: u64,
    pub(in crate::os) kind: Kind,
}

/// Why a pool file could not be created. Nothing is left behind: no descriptor, no file.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub(crate) enum CreateError {
    /// A pool name must have 1 to [`NAME_BYTES_MAX`] bytes, no `/` and no control characters.
    BadName { name: String },
    /// The size must be a multiple of the page size, and neither zero nor more than `i64::MAX`.
    BadSize { bytes: u64 },
    /// A path needs a last part to create.
    NoFileName { path: PathBuf },
    /// The folder of `path` is on a file system that does not keep files in memory.
    NotInMemory { path: PathBuf, fs_type: u64 },
    /// The kernel refused `call`. `path` is empty for a memfd.
    Os { call: &'static str, path: PathBuf, errno: Errno },
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CreateError::BadName { name } => write!(
                f,
                "{name:?} is no pool name: 1 to {NAME_BYTES_MAX} bytes, no '/', nothing unprintable"
            ),
            CreateError::BadSize { bytes } => {
                write!(f, "a pool of {bytes} bytes: want a positive multiple of 4096")
            }
            CreateError::NoFileName { path } => write!(f, "{path:?} names no file to create"),
            CreateError::NotInMemory { path, fs_type } => write!(
                f,
                "{path:?} is on a file system (type {fs_type:#x}) that is not in memory; \
                 choose a place on tmpfs such as /dev/shm, or mount one"
            ),
            CreateError::Os { call, path, errno } if path.as_os_str().is_empty() => {
                write!(f, "{call}: {errno}")
            }
            CreateError::Os { call, path, errno } => write!(f, "{call} {path:?}: {errno}"),
        }
    }
}

impl std::error::Error for CreateError {}

/// Why [`PoolFile::punch`] stopped. The runs before `at` are punched, those after it are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PunchError {
    /// The run that failed, neighbours merged.
    pub at: Span,
    /// What the kernel said.
    pub errno: Errno,
}

impl fmt::Display for PunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "giving back {}: {}", self.at, self.errno)
    }
}

impl std::error::Error for PunchError {}

impl PoolFile {
    /// Makes a memfd of `bytes` bytes, all holes, called `vmalloc:<name>` in `/proc/*/fd`.
    ///
    /// Mode 0600 at once (a memfd is born 0777, and anybody could reopen it), not executable
    /// where the kernel knows how, sealed against every change of size. The name is public.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; nothing is left behind.
    pub(crate) fn create_memfd(name: &str, bytes: u64) -> Result<PoolFile, CreateError> {
        let plain = |c: char| c != '/' && !c.is_control();
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(plain) {
            return Err(CreateError::BadName { name: name.to_owned() });
        }
        check_size(bytes)?;
        let os = |call| move |errno| CreateError::Os { call, path: PathBuf::new(), errno };

        let full = format!("{NAME_PREFIX}{name}");
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = fail::point("memfd_create")
            .and_then(|()| {
                rustix::fs::memfd_create(&*full, flags | MemfdFlags::NOEXEC_SEAL)
                    // Before Linux 6.3 the flag is unknown: EINVAL.
                    .or_else(|_| rustix::fs::memfd_create(&*full, flags))
            })
            .map_err(os("memfd_create"))?;
        fail::point("fchmod")
            .and_then(|()| rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR))
            .map_err(os("fchmod"))?;
        fail::point("ftruncate")
            .and_then(|()| rustix::fs::ftruncate(&fd, bytes))
            .map_err(os("ftruncate"))?;
        fail::point("seal")
            .and_then(|()| rustix::fs::fcntl_add_seals(&fd, SEALS))
            .map_err(os("fcntl F_ADD_SEALS"))?;
        let stat = stat(fd.as_fd()).map_err(os("fstat"))?;
        Ok(PoolFile { fd, id: id_of(&stat), bytes, kind: Kind::Memfd })
    }

    /// Makes a new file of `bytes` bytes, all holes, mode 0600, at `path`, which must be on tmpfs
    /// or hugetlbfs. Never opens what exists, follows no link in the last part.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; no file is left behind. [`CreateError::NotInMemory`] is found out before
    /// anything is created.
    pub(crate) fn create_at(path: &Path, bytes: u64) -> Result<PoolFile, CreateError> {
        check_size(bytes)?;
        let os = |call| move |errno| CreateError::Os { call, path: path.to_owned(), errno };
        let name =
            path.file_name().ok_or_else(|| CreateError::NoFileName { path: path.to_owned() })?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };

        let folder = fail::point("open_folder")
            .and_then(|()| {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::open(folder, flags, Mode::empty())
            })
            .map_err(os("open the folder of"))?;
        let fs_type = fs_type(folder.as_fd()).map_err(os("statfs"))?;
        if !is_in_memory(fs_type) {
            return Err(CreateError::NotInMemory { path: path.to_owned(), fs_type });
        }

        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fail::point("create")
            .and_then(|()| rustix::fs::openat(&folder, name, flags, Mode::RUSR | Mode::WUSR))
            .map_err(os("create"))?;
        let finish = || {
            fail::point("ftruncate")?;
            rustix::fs::ftruncate(&fd, bytes)?;
            stat(fd.as_fd())
        };
        match finish() {
            Ok(stat) => Ok(PoolFile { id: id_of(&stat), fd, bytes, kind: Kind::Named }),
            Err(errno) => {
                // Ours: O_EXCL made it a moment ago. A failure to remove it changes no answer.
                let _ = rustix::fs::unlinkat(&folder, name, rustix::fs::AtFlags::empty());
                Err(os("set the size of")(errno))
            }
        }
    }

    /// The size in bytes: the window, not the memory it takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Which file this is.
    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// Whether it is a memfd or a file with a path.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The path at which other processes of this pid namespace can open the same file, for as
    /// long as this value lives: `/proc/<pid>/fd/<n>`. Hand it to a child instead of clearing
    /// close-on-exec. Readable by our own user (and root) only.
    pub(crate) fn share_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()))
    }

    /// One more descriptor of the file, which can only read. Another user can get no better one
    /// from it; this one can.
    ///
    /// # Errors
    ///
    /// What opening `/proc/self/fd/N` said.
    pub(crate) fn read_only(&self) -> Result<OwnedFd, Errno> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        fail::point("open_read_only")?;
        rustix::fs::open(&*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    /// The file with one more open file description, for locks of its own.
    ///
    /// # Errors
    ///
    /// What opening `/proc/self/fd/N` said.
    pub(in crate::os) fn opened_again(&self) -> Result<PoolFile, Errno> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        fail::point("open_again")?;
        let fd = rustix::fs::open(&*path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        Ok(PoolFile { fd, id: self.id, bytes: self.bytes, kind: self.kind })
    }

    /// How much memory the file holds now, in bytes, counted by the kernel.
    ///
    /// # Errors
    ///
    /// What `fstat` said.
    pub(crate) fn resident_bytes(&self) -> Result<u64, Errno> {
        Ok(u64::try_from(stat(self.fd.as_fd())?.st_blocks).unwrap_or(0) * 512)
    }

    /// The size of the pages by which the file can be mapped: a huge page's on hugetlbfs.
    ///
    /// # Errors
    ///
    /// What `fstatfs` said.
    pub(crate) fn page_bytes(&self) -> Result<usize, Errno> {
        fail::point("fstatfs")?;
        let stat = rustix::fs::fstatfs(&self.fd)?;
        let is_huge = u64::from(stat.f_type as u32) == libc::HUGETLBFS_MAGIC as u64;
        Ok(if is_huge { stat.f_bsize as usize } else { crate::os::PAGE_BYTES as usize })
    }

    /// Copies bytes of the file from `offset` on, past the mapping. `false`: they were not to be
    /// had, all of them.
    pub(crate) fn read_at(&self, offset: u64, out: &mut [u8]) -> bool {
        let len = out.len();
        fail::point("pread").and_then(|()| rustix::io::pread(&self.fd, out, offset)) == Ok(len)
    }

    /// Backs `span` with memory, all of it or none, leaving what is there already as it is. The
    /// zeroing is put off to the first touch. About 1.2 µs for a page, 170 µs for a MiB.
    ///
    /// A signal can interrupt it, and the kernel then takes everything back: EINTR is the
    /// caller's to handle, with a smaller span.
    ///
    /// # Errors
    ///
    /// - [`Errno::NOSPC`]: a limit of the mount; [`Errno::NOMEM`]: of the control group;
    ///   [`Errno::INTR`]: a signal. Nothing was added.
    /// - [`Errno::INVAL`]: `span` is empty; [`Errno::PERM`]: it passes the sealed size.
    pub(crate) fn allocate(&self, span: Span) -> Result<(), Errno> {
        fail::point("fallocate")?;
        rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), span.start, span.len)
    }

    /// Gives the memory behind `spans` back to the system, neighbours in one call: they read as
    /// zeros afterwards, in every process. Ascending order merges best. Never allocates.
    ///
    /// Looks at no claim: [`crate::os::map::Mapping::punch`] does.
    ///
    /// The kernel takes them out of every member's page tables and flushes the TLBs. Returns how
    /// many calls that were. About 2 µs a page, 130 µs a MiB.
    ///
    /// # Errors
    ///
    /// [`PunchError`], which says where it stopped.
    pub(in crate::os) fn punch(&self, spans: &[Span]) -> Result<u64, PunchError> {
        let mut calls = 0;
        let mut rest = spans.iter().copied().filter(|span| span.len > 0).peekable();
        while let Some(mut run) = rest.next() {
            while let Some(next) = rest.next_if(|next| Some(next.start) == run.end()) {
                run.len = run.len.saturating_add(next.len);
            }
            self.punch_one(run).map_err(|errno| PunchError { at: run, errno })?;
            calls += 1;
        }
        Ok(calls)
    }

    fn punch_one(&self, run: Span) -> Result<(), Errno> {
        fail::point("punch")?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        retry_on_intr(|| rustix::fs::fallocate(&self.fd, flags, run.start, run.len))
    }
}

impl AsFd for PoolFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn check_size(bytes: u64) -> Result<(), CreateError> {
    let whole_pages = bytes.is_multiple_of(crate::os::PAGE_BYTES);
    if bytes == 0 || !whole_pages || i64::try_from(bytes).is_err() {
        return Err(CreateError::BadSize { bytes });
    }
    Ok(())
}

/// `fstat`, with its failure point.
pub(in crate::os) fn stat(fd: BorrowedFd<'_>) -> Result<rustix::fs::Stat, Errno> {
    fail::point("fstat")?;
    rustix::fs::fstat(fd)
}

/// The file's identity from its `stat`.
pub(in crate::os) fn id_of(stat: &rustix::fs::Stat) -> FileId {
    FileId { dev: stat.st_dev, ino: stat.st_ino }
}

/// The magic number of the file system that `fd` is on.
pub(in crate::os) fn fs_type(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    fail::point("fstatfs")?;
    // The kernel's numbers have 32 bits; the field is wider and signed on some machines.
    Ok(u64::from(rustix::fs::fstatfs(fd)?.f_type as u32))
}

/// Whether `fs_type` is one that keeps its files in memory: tmpfs (memfds too) or hugetlbfs.
pub(in crate::os) fn is_in_memory(fs_type: u64) -> bool {
    fs_type == libc::TMPFS_MAGIC as u64 || fs_type == libc::HUGETLBFS_MAGIC as u64
}
