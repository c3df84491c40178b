//! Words under loom: every order of steps, and every value that a load may yield.
//!
//! A window has thousands of words, and loom keeps a history of each; a scenario reaches a few
//! dozen. So a word is one of loom's only if an earlier round found that the scenario's threads
//! reach it:
//!
//! ```text
//!   round 1   prepare (plain) ─ begin ─ threads: a word nobody expected ─▶ note its number ─ end
//!   round 2   prepare (plain) ─ begin: the noted words become loom's ─ threads … ─ end
//!   …         until a whole round notes nothing new: only that one counts
//! ```
//!
//! Two things that loom does not do as the language says are made good here. A `SeqCst` *access* is
//! to it no more than `AcqRel`, which raises false alarms; under [`Sequential::Fenced`] each has a
//! `SeqCst` *fence* beside it, as compilers put it for a processor: before a load, on both sides of
//! what writes. A scenario that passes under [`Sequential::Plain`], too, does not need it. And
//! under [`Ordered::Not`] every access is `Relaxed` and no fence is one: the canary that a scenario
//! must not pass.

extern crate std;

use ::loom::sync::atomic::{AtomicU64 as Explored, fence as explored_fence};
use core::sync::atomic::{AtomicU64 as Plain, Ordering};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::OnceLock;
use std::vec::Vec;

/// What a `SeqCst` access is to loom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sequential {
    /// What loom makes of it: `AcqRel`.
    Plain,
    /// The same between two fences.
    Fenced,
}

/// Whether the orderings count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ordered {
    /// As written.
    AsWritten,
    /// `Relaxed`, all of them, and no fence: what the tests must notice.
    Not,
}

std::thread_local! {
    // Loom runs all its threads on one.
    static SEQUENTIAL: Cell<Sequential> = const { Cell::new(Sequential::Plain) };
    static ORDERED: Cell<Ordered> = const { Cell::new(Ordered::AsWritten) };
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    static EXPECTED: RefCell<BTreeSet<usize>> = const { RefCell::new(BTreeSet::new()) };
    static REACHED: RefCell<BTreeSet<usize>> = const { RefCell::new(BTreeSet::new()) };
}

/// How the words of this thread's next scenario behave.
pub fn behave(sequential: Sequential, ordered: Ordered) {
    SEQUENTIAL.set(sequential);
    ORDERED.set(ordered);
    RUNNING.set(false);
}

/// Which words are loom's in the next round.
pub fn expect(words: &BTreeSet<usize>) {
    EXPECTED.with_borrow_mut(|expected| expected.clone_from(words));
    REACHED.with_borrow_mut(BTreeSet::clear);
    RUNNING.set(false);
}

/// Which words threads reached that nobody expected.
pub fn reached() -> BTreeSet<usize> {
    REACHED.with_borrow(BTreeSet::clone)
}

/// Words that are all zero, numbered from `first` on.
#[must_use]
pub fn words(first: usize, len: usize) -> Vec<AtomicU64> {
    (first..first + len).map(|number| AtomicU64 { number, ..AtomicU64::new(0) }).collect()
}

/// The preparations are over: from now on what is reached is loom's.
pub fn begin(words: &[AtomicU64]) {
    EXPECTED.with_borrow(|expected| {
        for word in words.iter().filter(|word| expected.contains(&word.number)) {
            let value = word.plain.load(Ordering::Relaxed);
            word.explored.get_or_init(|| Explored::new(value));
        }
    });
    RUNNING.set(true);
}

/// The threads are joined: the words are plain again, and hold what was written last.
pub fn end(words: &[AtomicU64]) {
    for word in words {
        if let Some(explored) = word.explored.get() {
            word.plain.store(explored.load(Ordering::SeqCst), Ordering::Relaxed);
        }
    }
    RUNNING.set(false);
}

/// As `core`'s; another thread is asked to go on first.
pub fn spin_loop() {
    if RUNNING.get() {
        ::loom::thread::yield_now();
    }
}

/// As `core`'s.
pub fn fence(order: Ordering) {
    if RUNNING.get() && ORDERED.get() == Ordered::AsWritten {
        explored_fence(order);
    }
}

/// Numbers from 0 on are of the words that a scenario shares.
const UNNUMBERED: usize = usize::MAX;

/// As `core`'s.
pub struct AtomicU64 {
    number: usize,
    plain: Plain,
    explored: OnceLock<Explored>,
}

impl Default for AtomicU64 {
    fn default() -> AtomicU64 {
        AtomicU64::new(0)
    }
}

impl fmt::Debug for AtomicU64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "word {}", self.number)
    }
}

/// One access: the same method of either word.
macro_rules! access {
    ($self:ident, $fences:expr, $method:ident($($arg:expr),*)) => {
        match $self.now() {
            Some(word) => {
                let (before, after) = $fences;
                before.then(|| explored_fence(Ordering::SeqCst));
                let result = word.$method($($arg),*);
                after.then(|| explored_fence(Ordering::SeqCst));
                result
            }
            None => $self.plain.$method($($arg),*),
        }
    };
}

/// An access that changes the word.
macro_rules! change {
    ($self:ident, $method:ident, $value:ident, $order:ident) => {
        access!($self, fences($order, true), $method($value, weak($order)))
    };
}

/// Whether fences stand before and after an access of this order.
fn fences(order: Ordering, writes: bool) -> (bool, bool) {
    let is_fenced = order == Ordering::SeqCst
        && SEQUENTIAL.get() == Sequential::Fenced
        && ORDERED.get() == Ordered::AsWritten;
    (is_fenced, is_fenced && writes)
}

fn weak(order: Ordering) -> Ordering {
    if RUNNING.get() && ORDERED.get() == Ordered::Not { Ordering::Relaxed } else { order }
}

#[allow(missing_docs)]
impl AtomicU64 {
    pub const fn new(value: u64) -> AtomicU64 {
        AtomicU64 { number: UNNUMBERED, plain: Plain::new(value), explored: OnceLock::new() }
    }

    fn now(&self) -> Option<&Explored> {
        if !RUNNING.get() {
            return None;
        }
        let explored = self.explored.get();
        if explored.is_none() && self.number != UNNUMBERED {
            REACHED.with_borrow_mut(|reached| reached.insert(self.number));
        }
        explored
    }

    pub fn load(&self, order: Ordering) -> u64 {
        access!(self, fences(order, false), load(weak(order)))
    }

    pub fn store(&self, value: u64, order: Ordering) {
        access!(self, fences(order, true), store(value, weak(order)));
    }

    pub fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        let (won, lost) = (weak(success), weak(failure));
        access!(self, fences(success, true), compare_exchange(current, new, won, lost))
    }

    loops!();
    changes!(change);
}
