//! Words that tell before they change, and a kill that unwinds.
//!
//! ```text
//!   until_death(|| with_hook(hook, walk))
//!      walk: load ─ hook, store ─ load ─ hook, swap ─ …         hook: look, let others act, or die()
//!                                          die() ─▶ unwinds; no write has an effect any more ─▶ None
//! ```
//!
//! A killed process runs no destructor. A killed walk here unwinds, so its destructors run, but as
//! long as it is dead every write is left out and says that it was made. Test-only: a thread
//! walks for one member at a time.

extern crate std;

use core::sync::atomic::Ordering;
use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

type Hook = Box<dyn FnMut()>;

/// How many writes a dead walk may leave out before it is said to hang.
const DEAD_WRITES_MAX: u64 = 1 << 20;

std::thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    /// Writes left out since this thread's walk died, plus 1; 0 while it lives.
    static DEAD: Cell<u64> = const { Cell::new(0) };
}

/// What a killed walk unwinds with.
struct Killed;

/// Takes the hook away, however the walk ends.
struct Unhook;

impl Drop for Unhook {
    fn drop(&mut self) {
        HOOK.with(|cell| *cell.borrow_mut() = None);
    }
}

/// Runs `walk`; before each write that it makes to a word, `hook` runs. The hook may write to
/// words itself, and may hook and end walks of its own.
pub fn with_hook<R>(hook: impl FnMut() + 'static, walk: impl FnOnce() -> R) -> R {
    HOOK.with(|cell| *cell.borrow_mut() = Some(Box::new(hook)));
    let _unhook = Unhook;
    walk()
}

/// Ends the walk that the caller, its hook, interrupts: as SIGKILL would, before the next write.
pub fn die() -> ! {
    DEAD.set(1);
    resume_unwind(Box::new(Killed))
}

/// Runs `walk` to its end, or to its death: then `None`. Other panics pass.
pub fn until_death<R>(walk: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(walk)) {
        Ok(done) => Some(done),
        Err(cause) => {
            DEAD.set(0);
            if cause.is::<Killed>() { None } else { resume_unwind(cause) }
        }
    }
}

/// A step that is about to change something: the hook runs. Whether the step has an effect; the
/// dead have none. A simulated machine calls it before each of its own steps.
#[must_use]
pub fn step() -> bool {
    let dead = DEAD.get();
    if dead > 0 {
        assert!(dead < DEAD_WRITES_MAX, "a walk that died does not end");
        DEAD.set(dead + 1);
        return false;
    }
    // Taken out while it runs: it looks at words itself, and may write to others.
    if let Some(mut hook) = HOOK.with(|cell| cell.borrow_mut().take()) {
        hook();
        HOOK.with(|cell| *cell.borrow_mut() = Some(hook));
    }
    true
}

/// As `core`'s, with a step before each write.
#[derive(Default, Debug)]
pub struct AtomicU64(core::sync::atomic::AtomicU64);

#[allow(missing_docs)]
impl AtomicU64 {
    pub const fn new(value: u64) -> AtomicU64 {
        AtomicU64(core::sync::atomic::AtomicU64::new(value))
    }

    pub fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    pub fn store(&self, value: u64, order: Ordering) {
        if step() {
            self.0.store(value, order);
        }
    }

    fn write<R>(&self, write: impl FnOnce(&core::sync::atomic::AtomicU64) -> R) -> Result<R, u64> {
        if step() { Ok(write(&self.0)) } else { Err(self.0.load(Ordering::SeqCst)) }
    }

    pub fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.write(|word| word.compare_exchange(current, new, success, failure)).unwrap_or_else(Ok)
    }

    pub fn fetch_update(
        &self,
        success: Ordering,
        failure: Ordering,
        update: impl FnMut(u64) -> Option<u64>,
    ) -> Result<u64, u64> {
        self.write(|word| word.fetch_update(success, failure, update)).unwrap_or_else(Ok)
    }

    pub fn update(
        &self,
        success: Ordering,
        failure: Ordering,
        update: impl FnMut(u64) -> u64,
    ) -> u64 {
        self.write(|word| word.update(success, failure, update)).unwrap_or_else(|was| was)
    }

    changes!(written);
}
