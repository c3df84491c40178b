//! The memory that all workers together may hold: who wants more than is left waits for the
//! others.
//!
//! `full_fit_alloc_test` alone holds 256 MiB on a machine of 8 CPUs, for each worker. The sizes
//! stay Linux's; how many workers are at it at a time does not.

use std::sync::{Condvar, Mutex, PoisonError};

/// What all workers together may hold, unless one case of one worker takes more.
pub const BUDGET_PAGES: u64 = (768 << 20) / 4096;

/// The budget.
pub struct Memory {
    pages: u64,
    held: Mutex<u64>,
    given_back: Condvar,
}

/// Pages that its holder may use.
pub struct Ticket<'a> {
    memory: &'a Memory,
    pages: u64,
}

impl Memory {
    pub fn new(pages: u64) -> Memory {
        Memory { pages, held: Mutex::new(0), given_back: Condvar::new() }
    }

    /// Waits until `pages` are left, or all, if that is less.
    pub fn ticket(&self, pages: u64) -> Ticket<'_> {
        let pages = pages.min(self.pages);
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let too_many = |held: &mut u64| *held + pages > self.pages;
        let mut held =
            self.given_back.wait_while(held, too_many).unwrap_or_else(PoisonError::into_inner);
        *held += pages;
        Ticket { memory: self, pages }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        *self.memory.held.lock().unwrap_or_else(PoisonError::into_inner) -= self.pages;
        self.memory.given_back.notify_all();
    }
}
