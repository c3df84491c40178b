//! The memory limits of the control groups that this process is in: its own and all above.
//!
//! Version 2 (`memory.max`) and version 1 (`memory.limit_in_bytes`), wherever they are mounted
//! and whatever part of the tree the mount shows: a container sees its own group as the root.
//!
//! What a group has left is its limit less its usage, plus the page cache in it that the kernel
//! would drop first (`inactive_file`): a container that reads files is otherwise always full.
//!
//! Linux: `mm/memcontrol.c`.

use std::fs;
use std::path::{Path, PathBuf};

/// Limits from here on mean "none": version 1 has no word for it but the largest number.
const NO_LIMIT_BYTES: u64 = 1 << 62;

/// One group's folder and the names of its files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::os) struct Group {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    One,
    Two,
}

/// What one group had left at a look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::os) struct Left {
    /// The group's limit in bytes.
    pub limit: u64,
    /// Its limit less its usage that cannot be dropped.
    pub left: u64,
    /// The group's folder.
    pub folder: PathBuf,
}

/// The groups of this process that count memory, innermost first. Empty where there are none, or
/// `/proc` is not mounted.
pub(in crate::os) fn own() -> Vec<Group> {
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    find(&membership, &mounts)
}

/// As [`own`], from the text of the two files.
pub(in crate::os) fn find(membership: &str, mounts: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let version = match controllers {
            "" => Version::Two,
            some if some.split(',').any(|name| name == "memory") => Version::One,
            _ => continue,
        };
        let Some((root, mount)) = mounts.lines().find_map(|line| mount_of(line, version)) else {
            continue;
        };
        // The mount shows the tree from `root` on. A group outside of it is not visible.
        let Ok(below) = Path::new(path).strip_prefix(root) else { continue };
        let inside = Path::new(mount).join(below);
        groups.extend(
            inside
                .ancestors()
                .take_while(|folder| folder.starts_with(mount))
                .map(|folder| Group { folder: folder.to_owned(), version }),
        );
    }
    groups
}

/// The root and the mount point, if this line of mountinfo is the one for `version`.
fn mount_of(line: &str, version: Version) -> Option<(&str, &str)> {
    // 35 23 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let mut kind = kind.split(' ');
    let fits = match (kind.next()?, version) {
        ("cgroup2", Version::Two) => true,
        ("cgroup", Version::One) => kind.nth(1)?.split(',').any(|option| option == "memory"),
        _ => false,
    };
    fits.then_some((place.next()?, place.next()?))
}

impl Group {
    /// What is left in this group; `None` if it has no limit, or cannot be read.
    pub(in crate::os) fn left(&self) -> Option<Left> {
        let (limit, usage, cache) = match self.version {
            Version::One => {
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
            }
            Version::Two => ("memory.max", "memory.current", "inactive_file "),
        };
        // "max" is not a number, and no limit.
        let limit = self.number(limit).filter(|&limit| limit < NO_LIMIT_BYTES)?;
        let usage = self.number(usage)?;
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let cache = stat.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse().ok());
        let used = usage.saturating_sub(cache.unwrap_or(0));
        Some(Left { limit, left: limit.saturating_sub(used), folder: self.folder.clone() })
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
    }
}
