//! Bells: words of the pool on which processes sleep, and by which others wake them.
//!
//! ```text
//!   ring:  count += 1 ─▶ anybody waiting? ─▶ waiting = 0, wake all
//!   wait:  waiting = 1 ─▶ sleep while count == seen, for so long at most
//! ```
//!
//! Either the ringer sees that somebody waits, or the kernel sees that the count has moved and does
//! not let him sleep. `waiting` is a hint: one that is left behind by a dead process costs a call.
//! A ringer that dies between its two steps costs the sleeper [`SLICE`], for he looks that often.
//! No word has to be put right after a death.
//!
//! Linux: `futex(2)`, shared: the kernel knows the word by its page of the file, whatever its
//! address in each process.

use crate::os::map::Mapping;
use crate::os::{RangeError, fail};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::thread::futex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The longest sleep without a look.
const SLICE: Duration = Duration::from_secs(1);

/// One bell: a word of the pool, as its two halves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bell<'a> {
    count: &'a AtomicU32,
    waiting: &'a AtomicU32,
}

impl Mapping {
    /// The bell in the word at `offset` bytes, in the words part of the pool. Nobody reaches that
    /// word otherwise.
    ///
    /// # Errors
    ///
    /// [`RangeError`], as [`Mapping::words`].
    pub(crate) fn bell(&self, offset: u64) -> Result<Bell<'_>, RangeError> {
        let word = &self.words(offset, 1)?[0];
        // SAFETY:
        // 1. The eight bytes of `word` are two `AtomicU32`, aligned to four, for as long as `word`
        //    is borrowed; every bit pattern is valid.
        // 2. Atomics may be referred to as often as one likes. Accesses of another size to these
        //    bytes would race with ours, but there are none: the header gives bells words of their
        //    own, which it never loads or stores.
        let halves = unsafe { &*std::ptr::from_ref(word).cast::<[AtomicU32; 2]>() };
        Ok(Bell { count: &halves[0], waiting: &halves[1] })
    }
}

impl Bell<'_> {
    /// How often it has rung; wraps.
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }

    /// Rings: whoever waits looks again. A system call only if somebody waits. Returns how many
    /// woke.
    pub(crate) fn ring(&self) -> usize {
        // SeqCst, here and below: see the module's story.
        self.count.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) == 0 || self.waiting.swap(0, Ordering::SeqCst) == 0 {
            return 0;
        }
        // It fails for a bad address only.
        futex::wake(self.count, futex::Flags::empty(), i32::MAX as u32).unwrap_or(0)
    }

    /// Sleeps until the count is another than `seen`, `timeout` at most. Returns whether it is.
    ///
    /// # Errors
    ///
    /// What the kernel said, if not that it was time, or that a signal came.
    pub(crate) fn wait(&self, seen: u32, timeout: Duration) -> Result<bool, Errno> {
        let start = Instant::now();
        loop {
            if self.count() != seen {
                return Ok(true);
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            self.waiting.store(1, Ordering::SeqCst);
            let sleep = left.min(SLICE);
            let sleep =
                Timespec { tv_sec: sleep.as_secs() as i64, tv_nsec: sleep.subsec_nanos().into() };
            let slept = fail::point("futex_wait")
                .and_then(|()| futex::wait(self.count, futex::Flags::empty(), seen, Some(&sleep)));
            match slept {
                Ok(()) | Err(Errno::AGAIN | Errno::TIMEDOUT | Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}
