//! Tables that no entry leads to any more, and that a CPU may still be walking.
//!
//! A CPU keeps not only translations but also where tables are. So a table that was taken out of
//! the tree goes here, and home only after a flush of *everything* that began later: an `sfence.vma`
//! or a `tlbi` for one page drops what a CPU knows of that page's leaf, not what it knows of tables.
//!
//! ```text
//!   unmap ─▶ unlink ─push▶ [retired] ─take_all▶ flush everything ─▶ TableMem::give
//! ```
//!
//! The list goes through the first words of the tables themselves. A link has its lowest bit clear,
//! so that whoever still walks the table finds an entry that is invalid in every format.
//! Linux: `pmd_free_pte_page`; `tlb_remove_table` for user tables.

use crate::mem::TableMem;
use vmalloc_core::Pfn;
use vmalloc_core::sync::{AtomicU64, Ordering};

/// The list. Pushed to by many, taken whole: so a stack, without the riddles of one.
#[derive(Default, Debug)]
pub(crate) struct Retired {
    /// The first table's frame number, shifted, or 0.
    head: AtomicU64,
}

/// What was taken off: flush, then [`Unreachable::give_back`].
#[must_use = "flush everything, then give the tables back"]
#[derive(Debug)]
pub(crate) struct Unreachable(u64);

const SHIFT: u32 = 12;

impl Retired {
    /// An empty list.
    pub(crate) const fn new() -> Retired {
        Retired { head: AtomicU64::new(0) }
    }

    /// Adds a table whose entries are all empty, and to which no entry leads.
    pub(crate) fn push(&self, mem: &impl TableMem, pfn: Pfn) {
        let first = &mem.table(pfn)[0];
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            first.store(head, Ordering::Relaxed);
            // Release: whoever takes the list sees the link, and that the table was unlinked.
            match self.head.compare_exchange_weak(
                head,
                pfn.0 << SHIFT,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes all of it. A flush that begins after this makes them free.
    pub(crate) fn take_all(&self) -> Unreachable {
        if self.head.load(Ordering::Relaxed) == 0 {
            return Unreachable(0);
        }
        Unreachable(self.head.swap(0, Ordering::Acquire))
    }
}

impl Unreachable {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// Sends the tables home. Everything was flushed, on all CPUs.
    pub(crate) fn give_back(self, mem: &impl TableMem) {
        let mut at = self.0;
        while at != 0 {
            let pfn = Pfn(at >> SHIFT);
            at = mem.table(pfn)[0].load(Ordering::Relaxed);
            mem.give(pfn);
        }
    }
}
