//! Words that tell before they change, and a kill that unwinds.
//!
//! ```text
//!   until_death(|| with_hook(hook, walk))
//!      walk: load ─ hook, store ─ load ─ hook, swap ─ …         hook: look, let others act, or die()
//!                                          die() ─▶ unwinds; no write has an effect any more ─▶ None
//! ```
//!
//! For a model of caches each access can be watched, too, loads and fences included
//! ([`with_watch`]): which word, and what is done to it.
//!
//! A killed process runs no destructor. A killed walk here unwinds, so its destructors run, but as
//! long as it is dead every write is left out and says that it was made. Test-only: a thread
//! walks for one member at a time.

extern crate std;

use core::sync::atomic::Ordering;
use core::{hint, ptr};
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
    static WATCH: Cell<Option<Watch>> = const { Cell::new(None) };
}

/// What a CPU does that its caches, or those of others, may have to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    /// Reads a word.
    Load,
    /// Writes one, whatever it held.
    Store,
    /// Reads and writes one, in one step, even if it then leaves it as it was.
    Change,
    /// A fence: of no word, so its address is 0.
    Fence,
    /// A hint that it spins: of no word either.
    Spin,
}

/// One access, told before it has an effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// What is done.
    pub touch: Touch,
    /// How it is ordered: a `SeqCst` store costs as much as a change.
    pub order: Ordering,
    /// The address of the word.
    pub address: usize,
}

/// Who is told of each access. A function, since it is told often.
pub type Watch = fn(Access);

/// Whom to tell again, however the walk ends.
struct Unwatch(Option<Watch>);

impl Drop for Unwatch {
    fn drop(&mut self) {
        WATCH.set(self.0);
    }
}

/// Runs `walk`; before each access that this thread makes, `watch` is told. It may access words
/// itself, untold, and may let others run on this thread meanwhile, whose accesses are told.
pub fn with_watch<R>(watch: Watch, walk: impl FnOnce() -> R) -> R {
    let _unwatch = Unwatch(WATCH.replace(Some(watch)));
    walk()
}

fn tell(touch: Touch, order: Ordering, address: usize) {
    if let Some(watch) = WATCH.get() {
        watch(Access { touch, order, address });
    }
}

/// As `core`'s.
pub fn fence(order: Ordering) {
    tell(Touch::Fence, order, 0);
    core::sync::atomic::fence(order);
}

/// As `core`'s.
pub fn spin_loop() {
    tell(Touch::Spin, Ordering::Relaxed, 0);
    hint::spin_loop();
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

    fn tell(&self, touch: Touch, order: Ordering) {
        tell(touch, order, ptr::from_ref(self).addr());
    }

    pub fn load(&self, order: Ordering) -> u64 {
        self.tell(Touch::Load, order);
        self.0.load(order)
    }

    pub fn store(&self, value: u64, order: Ordering) {
        self.tell(Touch::Store, order);
        if step() {
            self.0.store(value, order);
        }
    }

    fn write<R>(
        &self,
        order: Ordering,
        write: impl FnOnce(&core::sync::atomic::AtomicU64) -> R,
    ) -> Result<R, u64> {
        self.tell(Touch::Change, order);
        if step() { Ok(write(&self.0)) } else { Err(self.0.load(Ordering::SeqCst)) }
    }

    pub fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        let exchanged =
            self.write(success, |word| word.compare_exchange(current, new, success, failure));
        exchanged.unwrap_or_else(Ok)
    }

    pub fn fetch_update(
        &self,
        success: Ordering,
        failure: Ordering,
        update: impl FnMut(u64) -> Option<u64>,
    ) -> Result<u64, u64> {
        self.tell(Touch::Load, failure);
        let updated = self.write(success, |word| word.fetch_update(success, failure, update));
        updated.unwrap_or_else(Ok)
    }

    pub fn update(
        &self,
        success: Ordering,
        failure: Ordering,
        update: impl FnMut(u64) -> u64,
    ) -> u64 {
        self.tell(Touch::Load, failure);
        self.write(success, |word| word.update(success, failure, update)).unwrap_or_else(|was| was)
    }

    changes!(written);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    std::thread_local! {
        static TOLD: RefCell<Vec<Access>> = const { RefCell::new(Vec::new()) };
    }

    fn note(access: Access) {
        TOLD.with_borrow_mut(|told| told.push(access));
    }

    /// A call of a word's method, and what is to be told of it.
    type Case<'a> = (&'a dyn Fn(&AtomicU64), &'a [(Touch, Ordering)]);

    /// What `walk` told.
    fn told(walk: impl FnOnce()) -> Vec<Access> {
        with_watch(note, walk);
        TOLD.take()
    }

    /// Goal: a cache model misses nothing: each method of a word tells what it does, and where;
    /// fences and spins, too. Fails where a method forgets to tell.
    #[test]
    fn every_kind_of_access_is_told() {
        use Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
        use Touch::{Change, Fence, Load, Spin, Store};
        let words = [AtomicU64::new(7), AtomicU64::new(0)];
        let address = |i: usize| ptr::from_ref(&words[i]).addr();
        let cases: &[Case<'_>] = &[
            (&|word| _ = word.load(Acquire), &[(Load, Acquire)]),
            (&|word| word.store(1, Release), &[(Store, Release)]),
            (&|word| _ = word.swap(2, AcqRel), &[(Change, AcqRel)]),
            (&|word| _ = word.fetch_add(1, Relaxed), &[(Change, Relaxed)]),
            (&|word| _ = word.fetch_sub(1, Relaxed), &[(Change, Relaxed)]),
            (&|word| _ = word.fetch_or(1, SeqCst), &[(Change, SeqCst)]),
            (&|word| _ = word.fetch_and(1, SeqCst), &[(Change, SeqCst)]),
            (&|word| _ = word.fetch_xor(1, SeqCst), &[(Change, SeqCst)]),
            (&|word| _ = word.fetch_max(1, SeqCst), &[(Change, SeqCst)]),
            (&|word| _ = word.fetch_min(1, SeqCst), &[(Change, SeqCst)]),
            // One that changes nothing takes the line all the same.
            (&|word| _ = word.compare_exchange(9, 9, AcqRel, Acquire), &[(Change, AcqRel)]),
            (&|word| _ = word.compare_exchange_weak(9, 9, AcqRel, Acquire), &[(Change, AcqRel)]),
            (
                &|word| _ = word.fetch_update(SeqCst, Relaxed, Some),
                &[(Load, Relaxed), (Change, SeqCst)],
            ),
            (
                &|word| _ = word.update(SeqCst, Relaxed, |now| now),
                &[(Load, Relaxed), (Change, SeqCst)],
            ),
        ];
        for (i, (walk, expected)) in cases.iter().enumerate() {
            let at = i % 2;
            let found = told(|| walk(&words[at]));
            let expected: Vec<Access> = expected
                .iter()
                .map(|&(touch, order)| Access { touch, order, address: address(at) })
                .collect();
            assert_eq!(found, expected, "case {i}");
        }
        let none = |touch, order| Access { touch, order, address: 0 };
        assert_eq!(told(|| fence(SeqCst)), [none(Fence, SeqCst)]);
        assert_eq!(told(spin_loop), [none(Spin, Relaxed)]);
        words[0].store(0, Relaxed);
        assert_eq!(TOLD.take(), [], "told after the walk");
    }

    /// Goal: what the hook does to words is told as well: others may act there.
    #[test]
    fn a_watch_and_a_hook_go_together() {
        std::thread_local!(static WORD: AtomicU64 = const { AtomicU64::new(0) });
        let walk = || WORD.with(|word| word.store(1, Ordering::Relaxed));
        let hook = || _ = WORD.with(|word| word.load(Ordering::Relaxed));
        let accesses = told(|| with_hook(hook, walk));
        let touches: Vec<Touch> = accesses.iter().map(|access| access.touch).collect();
        assert_eq!(touches, [Touch::Store, Touch::Load]);
    }
}
