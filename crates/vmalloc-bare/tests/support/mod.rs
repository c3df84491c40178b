//! What several of these tests have.

use vmalloc_bare::{Shootdown, What};
use vmalloc_core::PageRange;

/// Where no CPU holds a translation.
pub struct NoCpus;

impl Shootdown for NoCpus {
    fn publish(&self, _: PageRange) {}

    fn flush_all(&self, _: What<'_>) {}

    fn flush_local(&self, _: PageRange) {}

    fn may_wait(&self) -> bool {
        true
    }
}
