//! The file description whose lock says that a member lives, which no forked child keeps.
//!
//! A lock of an open file description lives as long as the last process that has the description.
//! After `fork` the child has all of its parent's, and would keep the lock of a parent that was
//! killed. So a member locks its byte through a description that serves nothing else, and a hook
//! of `pthread_atfork` closes it in the child, before `fork` returns there.
//!
//! ```text
//!   open ─▶ table of descriptors ─▶ lock …            fork: prepare ─┬─▶ parent: go on
//!   drop: out of the table, close                    (table held)    └─▶ child: close them all
//! ```
//!
//! Invariant: whoever holds [`HELD`] sees in the table exactly the descriptors that are open. A word
//! of the table bears a number that is never used twice in a process and its forks, so that what a
//! child inherited does not close what the child opened.
//!
//! A raw `clone` runs no hooks: its child keeps the description until it execs or exits.
//! Linux: fs/locks.c.

use crate::os::fail;
use crate::os::file::PoolFile;
use rustix::io::Errno;
use std::ops::Deref;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// How many memberships a process may have at a time.
const ENTRIES: usize = 4096;

/// A number and a descriptor each; 0: free.
static TABLE: [AtomicU64; ENTRIES] = [const { AtomicU64::new(0) }; ENTRIES];
/// Whether some thread changes the table, or forks.
static HELD: AtomicBool = AtomicBool::new(false);
/// Words that were ever made.
static BIRTHS: AtomicU32 = AtomicU32::new(0);
/// What installing the hooks said.
static HOOKS: OnceLock<i32> = OnceLock::new();

/// A pool file's description of a member's own, for locks. Closed in forked children.
#[derive(Debug)]
pub(crate) struct LifeFile {
    // Some until drop.
    file: Option<PoolFile>,
    entry: usize,
    word: u64,
}

/// The table, held; let go on drop.
struct Held;

impl LifeFile {
    /// Opens the file once more.
    ///
    /// # Errors
    ///
    /// What opening `/proc/self/fd/N` or installing the hooks said; EMFILE if the process has 4,096
    /// memberships.
    pub(crate) fn of(file: &PoolFile) -> Result<LifeFile, Errno> {
        fail::point("atfork")?;
        match *HOOKS.get_or_init(install) {
            0 => {}
            code => return Err(Errno::from_raw_os_error(code)),
        }
        let _held = Held::take();
        // Relaxed, here and below: the table is held.
        let is_free = |word: &AtomicU64| word.load(Ordering::Relaxed) == 0;
        let entry = TABLE.iter().position(is_free).ok_or(Errno::MFILE)?;
        let file = file.opened_again()?;
        let birth = BIRTHS.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        // + 1: descriptor 0 in the first word is no free entry either.
        let word = u64::from(birth) << 32 | (file.fd.as_raw_fd().cast_unsigned() + 1) as u64;
        TABLE[entry].store(word, Ordering::Relaxed);
        Ok(LifeFile { file: Some(file), entry, word })
    }
}

impl Deref for LifeFile {
    type Target = PoolFile;

    fn deref(&self) -> &PoolFile {
        self.file.as_ref().expect("there until drop")
    }
}

impl Drop for LifeFile {
    fn drop(&mut self) {
        let _held = Held::take();
        let still =
            TABLE[self.entry].compare_exchange(self.word, 0, Ordering::Relaxed, Ordering::Relaxed);
        match (still, self.file.take()) {
            // Closed here, while the table is held, and not with the field.
            (Ok(_), file) => drop(file),
            // A hook in a forked child has closed it, and the number may be another file's by now.
            (Err(_), file) => drop(file.map(|file| file.fd.into_raw_fd())),
        }
    }
}

impl Held {
    fn take() -> Held {
        // Acquire: pairs with the Release of whoever had it.
        while HELD.swap(true, Ordering::Acquire) {
            rustix::thread::sched_yield();
        }
        Held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.store(false, Ordering::Release);
    }
}

fn install() -> i32 {
    // SAFETY:
    // 1. The hooks are functions of this program, and there as long as it runs.
    // 2. `child` runs in a process with one thread, where only what is async-signal-safe may be
    //    called: it changes atomics and calls `close`. `prepare` and `parent` change an atomic.
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) }
}

extern "C" fn prepare() {
    // Let go of by the two below: one copy each in parent and child.
    std::mem::forget(Held::take());
}

extern "C" fn parent() {
    drop(Held);
}

extern "C" fn child() {
    for entry in &TABLE {
        let number = entry.swap(0, Ordering::Relaxed) as u32;
        if number != 0 {
            // SAFETY:
            // 1. The table was held over the fork, so this is the child's copy of a descriptor that
            //    a `LifeFile` has open: nobody else closes it.
            // 2. That `LifeFile` finds its word gone, and does not close the number again; nobody
            //    uses its file in a child, where every verb of a member is refused.
            unsafe { libc::close(number.cast_signed() - 1) };
        }
    }
    drop(Held);
}
