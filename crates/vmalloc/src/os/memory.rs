//! What the machine has left, and the question "may I commit so much more?".
//!
//! On a memfd the kernel lets `fallocate` succeed beyond the memory there is, until its OOM
//! killer picks some program that has nothing to do with it. So we look first, and refuse while
//! a reserve is still there. Members of many pools look at the same machine, hence none takes
//! all it sees: a look grants an eighth of the spare at most, soon forgotten, before the next.
//!
//! ```text
//!   look: min(MemAvailable, each control group's limit − use) − reserve = spare
//!   take: credit (an eighth of spare, for 100 ms) ──used up──▶ look again ──▶ NoRoom
//! ```
//!
//! A refusal is no proof that the memory is gone a moment later; nor is a grant one that nobody
//! else takes it first. It is what keeps many well-meaning programs from meeting the OOM killer.
//!
//! Linux: `si_mem_available`.

use crate::os::cgroup::{self, Group};
use crate::os::fail;
use rustix::io::Errno;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A look hands out one part in this many of what it sees.
const SHARE: u64 = 8;
/// How long what is left of it may be used.
const CREDIT_LASTS: Duration = Duration::from_millis(100);

/// Who set the limit that was reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Bound {
    /// The memory of the machine.
    Machine,
    /// The control group with this folder.
    Group(PathBuf),
    /// A fixed limit ([`Headroom::with_limit`]).
    Fixed,
}

/// What a look saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    /// What can still be had, in bytes, the reserve included.
    pub available: u64,
    /// Who sets that limit.
    pub bound: Bound,
}

/// Committing `wanted` bytes would leave less than the reserve. Nothing was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NoRoom {
    /// The bytes still to be committed by the call.
    pub wanted: u64,
    /// What there is, in bytes, the reserve included.
    pub available: u64,
    /// What must stay free, in bytes.
    pub reserve: u64,
    /// Who sets the limit.
    pub bound: Bound,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoRoom { wanted, available, reserve, .. } = self;
        match &self.bound {
            Bound::Machine => write!(f, "this machine has {available} bytes left")?,
            Bound::Group(folder) => write!(f, "control group {folder:?} has {available} left")?,
            Bound::Fixed => write!(f, "the fixed limit leaves {available} bytes")?,
        }
        write!(f, ", of which {reserve} are kept free; wanted {wanted}")
    }
}

impl std::error::Error for NoRoom {}

/// An account of the memory that may still be committed. One for a process; `&self` from all
/// threads.
#[derive(Debug)]
pub(crate) struct Headroom {
    source: Source,
    reserve: u64,
    start: Instant,
    // Taken from by every commit; filled by a look.
    credit: AtomicU64,
    // When the credit is void, in ns after `start`.
    void_at_ns: AtomicU64,
    // One look at a time.
    looking: Mutex<()>,
}

#[derive(Debug)]
enum Source {
    Machine(Vec<Group>),
    Fixed { left: AtomicU64 },
}

impl Headroom {
    /// The memory of this machine and of our control groups, keeping `reserve` bytes free;
    /// `None` for a 32nd of what there is in all, from 16 MiB to 1 GiB.
    ///
    /// Which groups we are in is found out here, once.
    pub(crate) fn machine(reserve: Option<u64>) -> Headroom {
        Headroom::of_groups(cgroup::own(), reserve)
    }

    /// As [`Headroom::machine`], in these control groups.
    pub(in crate::os) fn of_groups(groups: Vec<Group>, reserve: Option<u64>) -> Headroom {
        let reserve = reserve.unwrap_or_else(|| {
            let limits = groups.iter().filter_map(Group::left).map(|left| left.limit);
            let total = limits.chain([machine_total()]).min().unwrap_or(0);
            (total / 32).clamp(16 << 20, 1 << 30)
        });
        Headroom::new(Source::Machine(groups), reserve)
    }

    /// A budget of exactly `bytes`, with no reserve and no look at the machine: for tests.
    pub(crate) fn with_limit(bytes: u64) -> Headroom {
        Headroom::new(Source::Fixed { left: AtomicU64::new(bytes) }, 0)
    }

    fn new(source: Source, reserve: u64) -> Headroom {
        Headroom {
            source,
            reserve,
            start: Instant::now(),
            credit: AtomicU64::new(0),
            void_at_ns: AtomicU64::new(0),
            looking: Mutex::new(()),
        }
    }

    /// May I commit `bytes` more now, of `ahead` that I need in all? A few ns from the credit; a
    /// look, where that is used up or `ahead` is more, costs 30 to 40 µs.
    ///
    /// # Errors
    ///
    /// [`NoRoom`]: `ahead` is more than there is. Nothing was taken.
    ///
    /// # Panics
    ///
    /// If `ahead` is less than `bytes`.
    pub(crate) fn take(&self, bytes: u64, ahead: u64) -> Result<(), NoRoom> {
        assert!(bytes <= ahead, "wanted {bytes} bytes now, of {ahead} in all");
        if let Source::Fixed { left } = &self.source {
            // Relaxed: a number that guards no other memory.
            let fits = |left: u64| (ahead <= left).then(|| left - bytes);
            return left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
                .map(drop)
                .map_err(|left| self.no_room(ahead, left, Bound::Fixed));
        }
        if self.take_credit(bytes, ahead) {
            return Ok(());
        }
        let _one_at_a_time = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        if self.take_credit(bytes, ahead) {
            return Ok(()); // Another thread has just looked.
        }
        let seen = self.look();
        let spare = self.spare_of(seen.available);
        if ahead > spare {
            return Err(self.no_room(ahead, seen.available, seen.bound));
        }
        let void_at = self.start.elapsed() + CREDIT_LASTS;
        // Relaxed, all: the credit is an estimate; only its sum must not be spent twice, and that
        // is one atomic step in `take_credit`.
        self.void_at_ns.store(void_at.as_nanos() as u64, Ordering::Relaxed);
        self.credit.store((spare - bytes) / SHARE, Ordering::Relaxed);
        Ok(())
    }

    /// `bytes` that were taken went back to the system.
    pub(crate) fn put(&self, bytes: u64) {
        // The machine's own account is the machine.
        if let Source::Fixed { left } = &self.source {
            left.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// What may be committed where only so many bytes are available, by the same reserve.
    pub(crate) fn spare_of(&self, available: u64) -> u64 {
        available.saturating_sub(self.reserve)
    }

    /// Looks now: what there is, and who limits it.
    pub(crate) fn look(&self) -> Seen {
        let groups = match &self.source {
            Source::Fixed { left } => {
                return Seen { available: left.load(Ordering::Relaxed), bound: Bound::Fixed };
            }
            Source::Machine(groups) => groups,
        };
        let mut seen = Seen { available: machine_available(), bound: Bound::Machine };
        for left in groups.iter().filter_map(Group::left) {
            if left.left < seen.available {
                seen = Seen { available: left.left, bound: Bound::Group(left.folder) };
            }
        }
        seen
    }

    fn take_credit(&self, bytes: u64, ahead: u64) -> bool {
        let now = self.start.elapsed().as_nanos() as u64;
        if now >= self.void_at_ns.load(Ordering::Relaxed) {
            return false;
        }
        let fits = |credit: u64| (ahead <= credit).then(|| credit - bytes);
        self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    fn no_room(&self, wanted: u64, available: u64, bound: Bound) -> NoRoom {
        NoRoom { wanted, available, reserve: self.reserve, bound }
    }
}

/// `MemAvailable`, in bytes; without `/proc`, what is free and in buffers.
fn machine_available() -> u64 {
    meminfo("MemAvailable:").unwrap_or_else(|_| {
        let info = rustix::system::sysinfo();
        (info.freeram + info.bufferram).saturating_mul(u64::from(info.mem_unit))
    })
}

/// All memory of the machine, in bytes.
fn machine_total() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

/// One field of `/proc/meminfo`, in bytes.
fn meminfo(field: &str) -> Result<u64, Errno> {
    fail::point("meminfo")?;
    let text = std::fs::read_to_string("/proc/meminfo")
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse().ok())
        .map(|kib: u64| kib * 1024)
        .ok_or(Errno::NODATA)
}
