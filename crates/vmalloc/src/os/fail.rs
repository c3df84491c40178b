//! Failure on demand: makes the n-th call to the operating system fail.
//!
//! Every fallible call of this folder passes a [`point`] first. With no plan armed that is one
//! relaxed load, so the code that is tested is the code that ships: no feature and no `cfg`
//! stands between them. (A feature would have to be on for the integration tests of this crate
//! and of those above, and cargo would then unify it into the program under test anyway.)
//!
//! A plan belongs to one thread, so tests that run side by side do not disturb each other. The
//! way to use it: count the calls of a verb first, then fail each of them in turn.
//!
//! ```
//! use vmalloc::testing::Plan;
//!
//! let armed = Plan::count().arm();
//! // … the verb under test …
//! let calls = armed.calls();
//! drop(armed);
//! for n in 1..=calls {
//!     let _armed = Plan::nth(n, 12).arm(); // ENOMEM
//!     // … the verb fails, and nothing has changed …
//! }
//! ```
//!
//! Invariant: a thread has at most one plan, and dropping its [`Armed`] ends it.

use rustix::io::Errno;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many threads have a plan.
static ARMED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static PLAN: RefCell<Option<State>> = const { RefCell::new(None) };
}

/// What shall fail. Counts only, until [`Plan::nth`] says otherwise.
#[derive(Clone, Debug)]
pub struct Plan {
    only: Option<&'static str>,
    nth: u64,
    errno: i32,
    and_after: bool,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    seen: Vec<&'static str>,
    fired: Option<&'static str>,
}

impl Plan {
    /// Nothing fails; calls are counted.
    #[must_use]
    pub fn count() -> Plan {
        Plan { only: None, nth: 0, errno: 0, and_after: false }
    }

    /// The `n`-th call from now on (the first is 1) fails with the raw error number `errno`.
    #[must_use]
    pub fn nth(n: u64, errno: i32) -> Plan {
        Plan { only: None, nth: n, errno, and_after: false }
    }

    /// Counts only the calls named `point`, such as `"populate_write"`.
    #[must_use]
    pub fn only(self, point: &'static str) -> Plan {
        Plan { only: Some(point), ..self }
    }

    /// All calls after the n-th fail as well.
    #[must_use]
    pub fn and_after(self) -> Plan {
        Plan { and_after: true, ..self }
    }

    /// Puts the plan into force on this thread until the result is dropped.
    ///
    /// # Panics
    ///
    /// If this thread has a plan already.
    pub fn arm(self) -> Armed {
        PLAN.with_borrow_mut(|slot| {
            assert!(slot.is_none(), "a plan is already armed on this thread");
            *slot = Some(State { plan: self, seen: Vec::new(), fired: None });
        });
        ARMED.fetch_add(1, Ordering::Relaxed);
        Armed { _this_thread: PhantomData }
    }
}

/// A plan in force on the thread that made it. Dropping it ends the plan.
#[must_use = "the plan ends when this is dropped"]
#[derive(Debug)]
pub struct Armed {
    _this_thread: PhantomData<*const ()>,
}

impl Armed {
    /// How many calls have passed so far, those that failed included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.names().len() as u64
    }

    /// The names of those calls, in order.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        PLAN.with_borrow(|slot| slot.as_ref().map(|s| s.seen.clone()).unwrap_or_default())
    }

    /// The name of the first call that was made to fail, if one was.
    #[must_use]
    pub fn fired(&self) -> Option<&'static str> {
        PLAN.with_borrow(|slot| slot.as_ref().and_then(|s| s.fired))
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        ARMED.fetch_sub(1, Ordering::Relaxed);
        PLAN.with_borrow_mut(|slot| *slot = None);
    }
}

/// The call `name` is about to be made. Fails if this thread's plan says so; the caller then
/// returns that error as if the kernel had given it.
///
/// # Errors
///
/// The planned one.
#[inline]
pub(crate) fn point(name: &'static str) -> Result<(), Errno> {
    // Relaxed: only this thread's own plan matters to it, and it armed that plan itself.
    if ARMED.load(Ordering::Relaxed) == 0 { Ok(()) } else { planned(name) }
}

#[cold]
fn planned(name: &'static str) -> Result<(), Errno> {
    PLAN.with_borrow_mut(|slot| {
        let Some(state) = slot else { return Ok(()) };
        if state.plan.only.is_some_and(|only| only != name) {
            return Ok(());
        }
        state.seen.push(name);
        let call = state.seen.len() as u64;
        let hit = call == state.plan.nth || (state.plan.and_after && call > state.plan.nth);
        if state.plan.nth == 0 || !hit {
            return Ok(());
        }
        state.fired.get_or_insert(name);
        Err(Errno::from_raw_os_error(state.plan.errno))
    })
}
