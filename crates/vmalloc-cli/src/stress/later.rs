//! The two cases of memory that is freed later, after a grace period: `kvfree_rcu`.
//!
//! ```text
//!   give up ─▶ open batch ─full▶ sealed: a grace period begins ─over▶ checked, freed
//!                                └ too many sealed: the worker waits
//! ```
//!
//! Without a head, the objects are listed in an array, as Linux does it; with a head, each object
//! holds the address of the one before. Both are checked before they are freed: had anybody been
//! given the memory before its time, what it holds would be gone.

use super::grace::Period;
use super::linux_cases::expect;
use super::subject::{Mem, Subject, Verdict};
use super::work::Work;
use std::collections::VecDeque;
use vmalloc_core::{PAGE_SIZE, Request};

/// Objects a batch. Linux: `KVFREE_BULK_MAX_ENTR`, a page of pointers.
const BATCH: usize = 508;
/// Batches whose grace period is not over, before a worker waits.
const SEALED_MAX: usize = 4;
/// The most pages that wait.
pub const PAGES_MAX: u64 = (BATCH * (SEALED_MAX + 1)) as u64;

/// Where the object's own byte is: behind the head, as in Linux's `struct test_kvfree_rcu`.
const ARRAY_AT: usize = 16;

/// Linux: `kvfree_rcu_1_arg_vmalloc_test`.
pub fn without_head<S: Subject>(work: &mut Work<'_, S>) -> Verdict {
    free_later(work, false)
}

/// Linux: `kvfree_rcu_2_arg_vmalloc_test`.
pub fn with_head<S: Subject>(work: &mut Work<'_, S>) -> Verdict {
    free_later(work, true)
}

fn free_later<S: Subject>(work: &mut Work<'_, S>, heads: bool) -> Verdict {
    let mut later = Later { heads, open: Vec::with_capacity(BATCH), sealed: VecDeque::new() };
    for _ in 0..work.loops {
        work.round();
        let mut mem = work.subject.alloc(&Request::bytes(PAGE_SIZE as u64))?;
        mem.write(ARRAY_AT, b"a")?;
        later.give_up(work, mem)?;
    }
    later.seal(work);
    while later.free_oldest(work)? {}
    Ok(())
}

struct Later<M> {
    heads: bool,
    open: Vec<M>,
    sealed: VecDeque<(Period, Vec<M>)>,
}

impl<M: Mem> Later<M> {
    fn give_up<S: Subject>(&mut self, work: &Work<'_, S>, mut mem: M) -> Verdict {
        if self.heads {
            mem.write(0, &self.open.last().map_or(0, Mem::addr).to_le_bytes())?;
        }
        self.open.push(mem);
        if self.open.len() < BATCH {
            return Ok(());
        }
        self.seal(work);
        while self.sealed.front().is_some_and(|(period, _)| work.online.is_over(*period)) {
            self.free_oldest(work)?;
        }
        if self.sealed.len() > SEALED_MAX - 1 {
            self.free_oldest(work)?;
        }
        Ok(())
    }

    fn seal<S: Subject>(&mut self, work: &Work<'_, S>) {
        let batch = std::mem::replace(&mut self.open, Vec::with_capacity(BATCH));
        self.sealed.push_back((work.online.begin(), batch));
    }

    /// Waits for the oldest batch and frees it; `false`: there is none.
    fn free_oldest<S: Subject>(&mut self, work: &Work<'_, S>) -> Verdict<bool> {
        let Some((period, batch)) = self.sealed.pop_front() else { return Ok(false) };
        work.online.wait(period);
        let mut before = 0_u64;
        for mem in &batch {
            expect(mem, ARRAY_AT, b"a")?;
            if self.heads {
                expect(mem, 0, &before.to_le_bytes())?;
            }
            before = mem.addr();
        }
        Ok(true)
    }
}
