//! Words under shuttle: at each access another thread may be switched to, and a thread may be
//! killed before a write.
//!
//! ```text
//!   until_killed(Some(n), walk):  load ─ store 0 ─ swap 1 ─ … ─ write n: unwinds ─▶ None
//!                                                   the others go on at any of these
//! ```
//!
//! As in `stepped`, a killed walk unwinds, since nothing else ends it, and no write of its
//! destructors has an effect. Shuttle knows sequential consistency only: orderings are loom's to try.

extern crate std;

use ::shuttle::sync::atomic::AtomicBool as Gate;
use core::sync::atomic::{AtomicU64 as Plain, Ordering};
use std::boxed::Box;
use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::vec::Vec;

/// How many writes a dead walk may leave out before it is said to hang.
const DEAD_WRITES_MAX: u64 = 1 << 20;

type ThreadId = ::shuttle::thread::ThreadId;

/// A thread that is to die.
struct Victim {
    thread: ThreadId,
    writes_left: u64,
    /// Writes left out since it died.
    left_out: Option<u64>,
}

std::thread_local! {
    // Shuttle runs all its threads on one.
    static VICTIMS: RefCell<Vec<Victim>> = const { RefCell::new(Vec::new()) };
}

/// What a killed walk unwinds with.
struct Killed;

/// Runs `walk`, which dies before write number `write`, if it comes so far: then `None`.
pub fn until_killed<R>(write: Option<u64>, walk: impl FnOnce() -> R) -> Option<R> {
    let Some(writes_left) = write else { return Some(walk()) };
    let thread = ::shuttle::thread::current().id();
    let victim = Victim { thread, writes_left, left_out: None };
    VICTIMS.with_borrow_mut(|victims| victims.push(victim));
    let walked = catch_unwind(AssertUnwindSafe(walk));
    VICTIMS.with_borrow_mut(|victims| victims.retain(|victim| victim.thread != thread));
    match walked {
        Ok(done) => Some(done),
        Err(cause) if cause.is::<Killed>() => None,
        Err(cause) => resume_unwind(cause),
    }
}

/// Whether this thread may make a step that changes something; one that is to die here dies.
#[must_use]
pub fn step() -> bool {
    let dies = VICTIMS.with_borrow_mut(|victims| {
        if victims.is_empty() {
            return Ok(true);
        }
        let me = ::shuttle::thread::current().id();
        let Some(victim) = victims.iter_mut().find(|victim| victim.thread == me) else {
            return Ok(true);
        };
        match &mut victim.left_out {
            Some(left_out) => {
                *left_out += 1;
                assert!(*left_out < DEAD_WRITES_MAX, "a walk that died does not end");
                Ok(false)
            }
            None if victim.writes_left == 0 => {
                victim.left_out = Some(0);
                Err(())
            }
            None => {
                victim.writes_left -= 1;
                Ok(true)
            }
        }
    });
    dies.unwrap_or_else(|()| resume_unwind(Box::new(Killed)))
}

/// Whether this thread died, and its destructors run.
fn is_dead() -> bool {
    VICTIMS.with_borrow(|victims| {
        victims.iter().any(|victim| {
            victim.left_out.is_some() && victim.thread == ::shuttle::thread::current().id()
        })
    })
}

/// Words that are all zero.
#[must_use]
pub fn words(len: usize) -> Vec<AtomicU64> {
    (0..len).map(|_| AtomicU64::new(0)).collect()
}

/// As `core`'s; another thread is asked to go on first.
pub fn spin_loop() {
    if !is_dead() {
        ::shuttle::thread::yield_now();
    }
}

/// As `core`'s: nothing, where all is sequentially consistent.
pub fn fence(_order: Ordering) {}

/// As `core`'s.
pub struct AtomicU64 {
    value: Plain,
    /// Where shuttle switches.
    gate: Gate,
}

impl Default for AtomicU64 {
    fn default() -> AtomicU64 {
        AtomicU64::new(0)
    }
}

impl fmt::Debug for AtomicU64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value.load(Ordering::SeqCst))
    }
}

const ORDER: Ordering = Ordering::SeqCst;

#[allow(missing_docs)]
impl AtomicU64 {
    pub const fn new(value: u64) -> AtomicU64 {
        AtomicU64 { value: Plain::new(value), gate: Gate::new(false) }
    }

    fn switch(&self) {
        if !is_dead() {
            self.gate.load(ORDER);
        }
    }

    /// One write, after others had their chance; the dead's has no effect and says it had.
    fn write<R>(&self, _: Ordering, write: impl FnOnce(&Plain) -> R) -> Result<R, u64> {
        self.switch();
        if step() { Ok(write(&self.value)) } else { Err(self.value.load(ORDER)) }
    }

    pub fn load(&self, _order: Ordering) -> u64 {
        self.switch();
        self.value.load(ORDER)
    }

    pub fn store(&self, value: u64, _order: Ordering) {
        let _ = self.write(ORDER, |word| word.store(value, ORDER));
    }

    pub fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        _success: Ordering,
        _failure: Ordering,
    ) -> Result<u64, u64> {
        self.write(ORDER, |word| word.compare_exchange(current, new, ORDER, ORDER))
            .unwrap_or_else(Ok)
    }

    loops!();
    changes!(written);
}
