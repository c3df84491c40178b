//! All pools of this machine that I may see, found without a daemon or a registry.
//!
//! Every member keeps the pool file open, so `/proc/*/fd` lists them all: a memfd by its name
//! `vmalloc:<name>`, other files by a question to the caller. What I may not read (other users'
//! processes, unless I am root) is left out without a word; so is what dies meanwhile.
//!
//! A name is what somebody claims: whoever opens what is found here has it checked as any other
//! file ([`crate::os::open`]), and whoever prints it escapes it first.

use crate::os::file::{FileId, NAME_PREFIX, id_of};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A pool and who has it open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// Which file.
    pub id: FileId,
    /// The memfd's name without the prefix, or the path of a named file.
    pub name: String,
    /// The size of the window in bytes.
    pub bytes: u64,
    /// The memory it holds, in bytes.
    pub resident_bytes: u64,
    /// The user it belongs to.
    pub uid: u32,
    /// Descriptors that show it, in the order of process and number. Never empty.
    pub open: Vec<OpenAt>,
}

/// One descriptor of one process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct OpenAt {
    /// The process, as this pid namespace numbers it.
    pub pid: u32,
    /// Its descriptor.
    pub fd: i32,
}

impl OpenAt {
    /// Where it can be opened: `/proc/<pid>/fd/<fd>`.
    pub(crate) fn path(self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", self.pid, self.fd))
    }
}

impl Found {
    /// The processes that have it open, each once, ascending.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.open.iter().map(|at| at.pid).collect();
        pids.dedup();
        pids
    }
}

/// Every pool that is open in a process I may look into, by inode.
///
/// `is_pool(fd_path, name)` is asked about files that are not memfds of ours: `fd_path` is where
/// to open it, `name` what the kernel calls it. It should look at the file system first, since
/// opening can have effects. About 3 µs a descriptor.
pub(crate) fn pools(mut is_pool: impl FnMut(&Path, &Path) -> bool) -> Vec<Found> {
    let mut found: BTreeMap<FileId, Found> = BTreeMap::new();
    for pid in numbers(Path::new("/proc")) {
        for fd in numbers(&PathBuf::from(format!("/proc/{pid}/fd"))) {
            let at = OpenAt { pid, fd: fd.cast_signed() };
            let path = at.path();
            let Ok(target) = fs::read_link(&path) else { continue };
            let Some(name) = pool_name(&path, &target, &mut is_pool) else { continue };
            let Ok(stat) = rustix::fs::stat(&path) else { continue };
            let entry = found.entry(id_of(&stat)).or_insert_with(|| Found {
                id: id_of(&stat),
                name,
                bytes: u64::try_from(stat.st_size).unwrap_or(0),
                resident_bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
                uid: stat.st_uid,
                open: Vec::new(),
            });
            entry.open.push(at);
        }
    }
    found.into_values().collect()
}

/// The pool's name, if this is one. The kernel writes `/memfd:<name> (deleted)`.
fn pool_name(
    path: &Path,
    target: &Path,
    is_pool: &mut impl FnMut(&Path, &Path) -> bool,
) -> Option<String> {
    let text = target.as_os_str().as_bytes();
    if let Some(memfd) = text.strip_prefix(b"/memfd:") {
        let name = memfd.strip_prefix(NAME_PREFIX.as_bytes())?;
        let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
        return Some(OsStr::from_bytes(name).to_string_lossy().into_owned());
    }
    // Sockets, pipes and the like have no slash in front.
    (text.starts_with(b"/") && is_pool(path, target)).then(|| target.display().to_string())
}

/// The entries of a folder that are numbers, ascending; none if it cannot be read.
fn numbers(folder: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut numbers: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}
