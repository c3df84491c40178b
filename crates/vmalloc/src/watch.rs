//! A watcher: recovers members that died while nobody here calls a verb, and gives back what nobody
//! uses.
//!
//! A thread that asks for each other member's lock every tenth of a second, and recovers those
//! whose it gets: one system call a member and look, 1 µs or so; so for 63 others less than a
//! thousandth of a CPU. The kernel would also wake a thread that waits for a lock to be free, but
//! only one a thread and lock: up to 63 threads a process, where this is one.
//!
//! Neighbours: [`crate::member`] does the recovery, for verbs, too.

use crate::member::Member;
use crate::pool::Pool;
use crate::spread::Spread;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a death may stay unseen.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Recovers members that die, for as long as it lives. Keeps the pool's membership meanwhile.
/// Begin with [`Pool::watch`].
#[derive(Debug)]
#[must_use = "the watch ends when this is dropped"]
pub struct Watcher {
    shared: Arc<Shared>,
    // Some until drop.
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    member: Arc<Spread<Member>>,
    decay_every: Option<Duration>,
    is_over: Mutex<bool>,
    over: Condvar,
}

impl Pool {
    /// Watches for deaths: from now on a thread of this process recovers members that die, within
    /// a tenth of a second or so, while all others work, and though nobody calls a verb. It costs
    /// about a microsecond a member and look, ten times a second. One a pool and machine is enough;
    /// more do no harm, since a lock says who recovers whom.
    ///
    /// # Errors
    ///
    /// What making the thread said; of kind `Unsupported` in a forked child, which is no member.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool = vmalloc::Pool::create(1 << 20)?;
    /// let watcher = pool.watch()?;
    /// // … whoever is killed here is recovered …
    /// drop(watcher); // the thread has ended
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn watch(&self) -> std::io::Result<Watcher> {
        self.begin(None)
    }

    /// The same, and gives back what nobody used for a while: what is parked for `every`, or at most
    /// twice as long, goes to the system, 64 areas a look: some 0.1 ms a MiB, in which nobody looks for
    /// the dead. One a pool and machine: with two, what one marked a moment ago is old to the other.
    /// For memory that is to stay warm, ten seconds say.
    ///
    /// # Errors
    ///
    /// As [`Pool::watch`].
    pub fn watch_and_decay(&self, every: Duration) -> std::io::Result<Watcher> {
        self.begin(Some(every))
    }

    fn begin(&self, decay_every: Option<Duration>) -> std::io::Result<Watcher> {
        let member = Arc::clone(self.member());
        if member.is_forked() {
            return Err(std::io::Error::new(std::io::ErrorKind::Unsupported, crate::error::FORKED));
        }
        let (is_over, over) = (Mutex::new(false), Condvar::new());
        let shared = Arc::new(Shared { member, decay_every, is_over, over });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("vmalloc-watch".into());
        let thread = Some(thread.spawn(move || of_thread.look_until_over())?);
        Ok(Watcher { shared, thread })
    }
}

impl Shared {
    fn look_until_over(&self) {
        let mut is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        let mut decayed = Instant::now();
        while !*is_over {
            // Not under the mutex: whoever ends the watch sets the flag at once.
            drop(is_over);
            self.member.recover_dead();
            if self.decay_every.is_some_and(|every| decayed.elapsed() >= every) {
                // A step a look, so that the dead are looked for between. What cannot go now is tried
                // again later.
                if !self.member.decay_step().is_ok_and(|purged| purged.areas > 0) {
                    decayed = Instant::now();
                }
            }
            is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.over.wait_timeout_while(is_over, LOOK_EVERY, |is_over| !*is_over);
            is_over = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if self.shared.member.is_forked() {
            // The thread is the parent's; here there is none to wait for, or to detach.
            std::mem::forget(thread);
            return;
        }
        *self.shared.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.over.notify_one();
        // It ends by itself; if it panicked, it has said so.
        let _ = thread.join();
    }
}
