//! Waiting for others, with an end: for a change of the pool, or of a shared area.
//!
//! ```text
//!   let seen = signal.seen();                          notify: the others' count moves
//!   if nothing to do { signal.wait(seen, timeout) }    … and whoever waits looks again
//! ```
//!
//! [`Pool::signal`] moves when something is published, given, named or freed by its token;
//! [`Shared::signal`] when somebody calls [`Signal::notify`] on it. A signal says "look again", and
//! no more: several areas may share one, so what is waited for is looked at each time. Whoever was
//! to notify and dies leaves nobody hanging: every wait has a timeout.
//!
//! The words are bells of the header (`os/bell.rs`). For event loops a [`Event`] is a descriptor
//! that becomes readable.

use crate::buf::Shared;
use crate::member::Member;
use crate::os::bell::Bell;
use crate::pool::Pool;
use crate::spread::Spread;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Tells of changes between the members of a pool.
#[derive(Clone)]
pub struct Signal {
    member: Arc<Spread<Member>>,
    // Which bell of the header.
    bell: usize,
}

/// How far a signal had moved when somebody looked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen(u32);

/// Why there was no waiting.
#[derive(Debug)]
#[non_exhaustive]
pub enum WaitError {
    /// This process is a fork of the member: open the pool here.
    Forked,
    /// The operating system refused.
    Os(std::io::Error),
}

/// A descriptor that is readable when a signal has moved: for `poll`, `epoll` and event loops. A
/// thread of this process waits for it, until it is dropped. Keeps the member alive.
#[derive(Debug)]
pub struct Event {
    fd: Arc<OwnedFd>,
    signal: Signal,
    ends: Arc<AtomicBool>,
    waiter: Option<JoinHandle<()>>,
}

impl Pool {
    /// Moves when something of the pool is published, given, named or freed by its token.
    #[must_use]
    pub fn signal(&self) -> Signal {
        Signal { member: Arc::clone(self.member()), bell: 0 }
    }
}

impl Shared {
    /// Moves when a member says so, by [`Signal::notify`] on this area's signal. Areas far apart may
    /// share one.
    #[must_use]
    pub fn signal(&self) -> Signal {
        let bell = 1 + self.token().area.0 as usize % (crate::header::BELLS - 1);
        Signal { member: self.member().spread(), bell }
    }
}

impl Signal {
    /// How far it is. Look at this first, then at what you wait for, then [`Signal::wait`].
    #[must_use]
    pub fn seen(&self) -> Seen {
        Seen(self.bell().count())
    }

    /// Moves it, and wakes whoever waits. A few ns if nobody does. Nothing in a forked child.
    pub fn notify(&self) {
        if !self.member.is_forked() {
            self.bell().ring();
        }
    }

    /// Waits until it has moved from `seen`, `timeout` at most. Returns whether it has. It may have
    /// moved for another reason than yours.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub fn wait(&self, seen: Seen, timeout: Duration) -> Result<bool, WaitError> {
        if self.member.is_forked() {
            return Err(WaitError::Forked);
        }
        self.bell().wait(seen.0, timeout).map_err(os)
    }

    /// Looks, and looks again at each move, until `look` finds something; `None` if it has not
    /// within `timeout`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let pool = vmalloc::Pool::create(1 << 20)?;
    /// let none = pool.signal().wait_for(Duration::from_millis(1), || pool.named("frames"))?;
    /// assert_eq!(none, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub fn wait_for<T>(
        &self,
        timeout: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>, WaitError> {
        let start = Instant::now();
        loop {
            let seen = self.seen();
            if let Some(found) = look() {
                return Ok(Some(found));
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            self.wait(seen, left)?;
        }
    }

    /// A descriptor that becomes readable at each move from now on.
    ///
    /// # Errors
    ///
    /// [`WaitError`]: no descriptor, or no thread.
    pub fn event(&self) -> Result<Event, WaitError> {
        if self.member.is_forked() {
            return Err(WaitError::Forked);
        }
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(os)?;
        let (fd, ends) = (Arc::new(fd), Arc::new(AtomicBool::new(false)));
        let (signal, out, end) = (self.clone(), Arc::clone(&fd), Arc::clone(&ends));
        let mut seen = self.seen();
        let wait = move || {
            // Acquire: pairs with the Release in `drop`.
            while !end.load(Ordering::Acquire) {
                match signal.wait(seen, Duration::from_secs(60)) {
                    Ok(false) => {}
                    Ok(true) => {
                        seen = signal.seen();
                        // Full is readable, too.
                        let _ = rustix::io::write(&out, &1_u64.to_ne_bytes());
                    }
                    Err(_) => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("vmalloc-event".to_owned());
        let waiter = Some(thread.spawn(wait).map_err(WaitError::Os)?);
        Ok(Event { fd, signal: self.clone(), ends, waiter })
    }

    fn bell(&self) -> Bell<'_> {
        self.member.ground.bell(self.bell)
    }
}

impl Event {
    /// Takes note of all moves so far: the descriptor is not readable until the next. Returns
    /// whether there was one.
    #[must_use]
    pub fn take(&self) -> bool {
        rustix::io::read(&self.fd, &mut [0_u8; 8]).is_ok()
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.signal.member.is_forked() {
            return; // the thread is the parent's
        }
        self.ends.store(true, Ordering::Release);
        self.signal.notify();
        if let Some(waiter) = self.waiter.take() {
            let _ = waiter.join();
        }
    }
}

fn os(errno: Errno) -> WaitError {
    WaitError::Os(errno.into())
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signal({}, {})", self.bell, self.bell().count())
    }
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitError::Forked => f.write_str(crate::error::FORKED),
            WaitError::Os(e) => write!(f, "not waited: {e}"),
        }
    }
}

impl std::error::Error for WaitError {}
