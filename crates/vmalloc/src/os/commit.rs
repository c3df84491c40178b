//! Commit: frames behind a run of the pool, all or nothing, before anybody touches it.
//!
//! Touching a hole of a full pool or machine is SIGBUS or the OOM killer; a call that fails is
//! an error. So frames are put in place here, in steps of 32 MiB, each after a look at what the
//! machine has left ([`crate::os::memory`]).
//!
//! ```text
//!   small, < 2 MiB    fallocate               a third of the price; zeroing put off to the touch
//!   small, ≥ 2 MiB    MADV_POPULATE_WRITE     a tenth cheaper once all is touched
//!   huge, whole 2 MiB MADV_POPULATE_WRITE     where the kernel heeds the advice: 0.1 ms a block
//!                     COLLAPSE, fallocate     where it does not: one page of each block, asked for by
//!                                             hand to become a huge one; small pages if there is none
//!   huge, the ends    fallocate
//! ```
//!
//! Measured on the development machine (2 CPUs, Linux 6.18, `shmem_enabled=never`), µs a call,
//! memfd, 4 KiB pages, medians of 41; *touch* writes one byte a page afterwards, *punch* gives it
//! back. By `cargo test --release -p vmalloc measure -- --ignored --nocapture`:
//!
//! ```text
//!            fallocate                      populate_write
//!   size     commit  touch  punch    sum    commit  touch  punch    sum
//!   4 KiB       1.6    1.5    2.6    5.7       2.8    0.1    2.8    5.7
//!   64 KiB     11.0   21.4   13.7   46.1      26.5    0.2   15.4   42.0
//!   1 MiB       181    356    129    666       431    1.6    170    602
//!   2 MiB       367    753    256   1377       899    4.4    343   1246
//!   16 MiB     3004   7980   2345  13329      8879    117   3019  12015
//! ```
//!
//! So by the sum they are level up to 1 MiB, and the call itself is far cheaper by `fallocate`;
//! from 2 MiB on populating wins by a tenth where all is touched.
//!
//! Invariant: when [`commit`] fails, what it added is gone again, from the pool and from the
//! account of the [`Headroom`].

use crate::os::advice::AdviseError;
use crate::os::file::{Kind, PoolFile, PunchError};
use crate::os::map::Mapping;
use crate::os::memory::{Headroom, NoRoom};
use crate::os::view::ViewError;
use crate::os::{HUGE_BYTES, PAGE_BYTES, Span};
use rustix::io::Errno;
use std::fmt;

/// The most that is committed between two looks.
pub(crate) const STEP_BYTES: u64 = 32 << 20;
/// From this size on small pages are populated instead of allocated.
const POPULATE_BYTES_MIN: u64 = 2 << 20;

/// Which pages a run is meant to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Grain {
    /// 4 KiB pages.
    Small,
    /// 2 MiB pages where whole blocks fit; the range was advised huge.
    Huge,
}

/// How to get huge pages in a file, by the policy of its file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HugeWay {
    /// A fault in an advised range gives one.
    Fault,
    /// Faults give small pages; asking by hand collapses them.
    Collapse,
    /// There are none.
    Never,
}

/// Why nothing was committed. What was added is gone again, but for [`CommitError::NotUndone`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub(crate) enum CommitError {
    /// The run is not whole pages inside the pool, or this process has a view of some of it.
    /// Nothing was tried.
    View(ViewError),
    /// The machine, or the control group, has not enough left. Nothing was tried.
    NoRoom(NoRoom),
    /// The kernel had no frames: a limit of the mount (ENOSPC, EFAULT) or of memory (ENOMEM).
    NoMemory { span: Span, errno: Errno },
    /// The kernel refused for another reason.
    Os { call: &'static str, span: Span, errno: Errno },
    /// As `cause`; and giving back what had been added failed too, so the run still holds memory.
    NotUndone { cause: Box<CommitError>, punch: PunchError },
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommitError::View(error) => error.fmt(f),
            CommitError::NoRoom(error) => error.fmt(f),
            CommitError::NoMemory { span, errno } => write!(f, "no memory for {span}: {errno}"),
            CommitError::Os { call, span, errno } => write!(f, "{call} of {span}: {errno}"),
            CommitError::NotUndone { cause, punch } => write!(f, "{cause}; then {punch}"),
        }
    }
}

impl std::error::Error for CommitError {}

/// Puts frames behind `span`, which reads as zeros afterwards if it held nothing before.
///
/// The caller owns the run, has no view of it yet, and needs nothing that is in it: on failure
/// all of it is punched.
/// Whoever punches it later tells the headroom by [`Headroom::put`]. Cost: the module's table.
///
/// # Errors
///
/// [`CommitError`].
pub(crate) fn commit(
    mapping: &Mapping,
    span: Span,
    grain: Grain,
    headroom: &Headroom,
) -> Result<(), CommitError> {
    mapping
        .while_held(span, || commit_held(mapping, span, grain, headroom))
        .map_err(CommitError::View)?
}

/// [`commit`], while the run is claimed: so no view of this process sees it undone.
fn commit_held(
    mapping: &Mapping,
    span: Span,
    grain: Grain,
    headroom: &Headroom,
) -> Result<(), CommitError> {
    let mut taken = 0;
    let Err(cause) = commit_parts(mapping, span, grain, headroom, &mut taken) else {
        return Ok(());
    };
    if taken == 0 {
        return Err(cause); // Nothing was tried.
    }
    match mapping.file().punch(&[span]) {
        Ok(_) => {
            headroom.put(taken);
            Err(cause)
        }
        Err(punch) => Err(CommitError::NotUndone { cause: Box::new(cause), punch }),
    }
}

/// Head, whole blocks and tail of a huge run; a small run in one part.
fn commit_parts(
    mapping: &Mapping,
    span: Span,
    grain: Grain,
    headroom: &Headroom,
    taken: &mut u64,
) -> Result<(), CommitError> {
    let small = if span.len < POPULATE_BYTES_MIN { Means::Allocate } else { Means::Populate };
    let huge = match (grain, mapping.huge_way()) {
        (Grain::Small, _) | (_, HugeWay::Never) => {
            return commit_steps(mapping, span, span.len, small, headroom, taken);
        }
        (Grain::Huge, HugeWay::Fault) => Means::Populate,
        (Grain::Huge, HugeWay::Collapse) => Means::CollapseAndAllocate,
    };
    let end = span.start + span.len;
    let blocks_start = span.start.next_multiple_of(HUGE_BYTES).min(end);
    let blocks_end = (end & !(HUGE_BYTES - 1)).max(blocks_start);
    for (start, stop, means) in [
        (span.start, blocks_start, Means::Allocate),
        (blocks_start, blocks_end, huge),
        (blocks_end, end, Means::Allocate),
    ] {
        let part = Span::new(start, stop - start);
        commit_steps(mapping, part, end - start, means, headroom, taken)?;
    }
    Ok(())
}

/// Which calls put frames in place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Means {
    Allocate,
    Populate,
    CollapseAndAllocate,
}

/// Commits `part` step by step. `ahead` is what the whole commit still needs, this part included:
/// it is refused at once if the machine has less.
fn commit_steps(
    mapping: &Mapping,
    part: Span,
    ahead: u64,
    means: Means,
    headroom: &Headroom,
    taken: &mut u64,
) -> Result<(), CommitError> {
    let mut done = 0;
    while done < part.len {
        let step = Span::new(part.start + done, (part.len - done).min(STEP_BYTES));
        headroom.take(step.len, ahead - done).map_err(CommitError::NoRoom)?;
        *taken += step.len;
        commit_step(mapping, step, means)?;
        done += step.len;
    }
    Ok(())
}

/// Commits one step. A signal that comes faster than the kernel is done would make it start over
/// for ever, so an interrupted call is asked again for half as much, down to one page.
fn commit_step(mapping: &Mapping, step: Span, means: Means) -> Result<(), CommitError> {
    let mut done = 0;
    let mut most = step.len;
    while done < step.len {
        let now = Span::new(step.start + done, (step.len - done).min(most));
        let result = match means {
            Means::Populate => match mapping.populate_write(now) {
                // Before Linux 5.14.
                Err(AdviseError::Unsupported { .. }) => allocate(mapping, now),
                Err(AdviseError::Interrupted { .. }) => Err(("madvise", Errno::INTR)),
                Err(AdviseError::NoMemory { errno, .. }) => Err(("madvise", errno)),
                Err(AdviseError::Os { errno, .. }) => Err(("madvise", errno)),
                Err(AdviseError::Poisoned { .. }) => Err(("madvise", Errno::HWPOISON)),
                Err(AdviseError::Range(error)) => {
                    return Err(CommitError::View(ViewError::Range(error)));
                }
                Ok(()) => Ok(()),
            },
            Means::Allocate => allocate(mapping, now),
            Means::CollapseAndAllocate => {
                collapse_holes(mapping, now).and_then(|()| allocate(mapping, now))
            }
        };
        match result {
            Ok(()) => done += now.len,
            Err((_, Errno::INTR)) => {
                most = (now.len / 2).next_multiple_of(PAGE_BYTES).max(PAGE_BYTES);
            }
            Err((_, errno @ (Errno::NOMEM | Errno::NOSPC | Errno::FAULT))) => {
                return Err(CommitError::NoMemory { span: now, errno });
            }
            Err((call, errno)) => return Err(CommitError::Os { call, span: now, errno }),
        }
    }
    Ok(())
}

/// Asks for a huge page for each whole block of `span`. The kernel fills the holes of a block that it
/// collapses, all at once, but takes one that is nothing but a hole for one just punched: so each
/// gets a page first. A wish: where it is not heeded, small pages serve as well.
fn collapse_holes(mapping: &Mapping, span: Span) -> Result<(), (&'static str, Errno)> {
    if !span.is_aligned(HUGE_BYTES) {
        return Ok(());
    }
    for block in (span.start..span.start + span.len).step_by(HUGE_BYTES as usize) {
        allocate(mapping, Span::new(block, PAGE_BYTES))?;
    }
    let _ = mapping.collapse(span);
    Ok(())
}

fn allocate(mapping: &Mapping, span: Span) -> Result<(), (&'static str, Errno)> {
    mapping.file().allocate(span).map_err(|errno| ("fallocate", errno))
}

impl HugeWay {
    /// What the policy of `file`'s file system allows now: for a memfd the machine's
    /// `shmem_enabled`, for a file on tmpfs the `huge=` option of its mount. Two small reads.
    pub(in crate::os) fn of(file: &PoolFile) -> HugeWay {
        let machine = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
        let Ok(machine) = machine else { return HugeWay::Never };
        let machine = machine.split(['[', ']']).nth(1).unwrap_or("never");
        let policy = match (machine, file.kind()) {
            ("deny" | "force", _) | (_, Kind::Memfd) => machine.to_owned(),
            (_, Kind::Named) => mount_option(file).unwrap_or_else(|| "never".to_owned()),
        };
        HugeWay::from_policy(&policy)
    }

    /// What one word of policy means.
    pub(in crate::os) fn from_policy(policy: &str) -> HugeWay {
        match policy {
            "always" | "within_size" | "advise" | "force" => HugeWay::Fault,
            "deny" => HugeWay::Never,
            _ => HugeWay::Collapse,
        }
    }
}

/// The value of `huge=` in the options of the mount that `file` is on.
fn mount_option(file: &PoolFile) -> Option<String> {
    let dev = file.id().dev;
    let device = format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&*device))?;
    let options = line.rsplit(' ').next()?;
    options.split(',').find_map(|option| option.strip_prefix("huge=")).map(str::to_owned)
}
