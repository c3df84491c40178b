//! Memory for page tables: where a table's frame comes from, and how its words are reached.
//!
//! Not the direct map's affair alone: a hypervisor may keep tables in a pool of their own, and a
//! test keeps them in simulated RAM. Linux: `pte_alloc_one_kernel`, `__va`.

use vmalloc_core::platform::{FRAME_WORDS, Frames, Ram};
use vmalloc_core::sync::AtomicU64;
use vmalloc_core::{Extent, Order, Pages, Pfn};

/// Frames for page tables.
pub trait TableMem {
    /// The entries of the table in frame `pfn`, which [`TableMem::take`] gave or which is a root.
    fn table(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS];

    /// A frame for a table, whatever it contains. `None`: there is none.
    fn take(&self) -> Option<Pfn>;

    /// Gives back a frame that `take` gave: no CPU can reach it any more.
    fn give(&self, pfn: Pfn);
}

/// Tables in frames of the pool that areas are made of, too, reached as the engine reaches them.
#[derive(Clone, Copy, Debug)]
pub struct TablesFrom<F, R> {
    /// Where the frames come from.
    pub frames: F,
    /// How they are reached.
    pub ram: R,
}

impl<F: Frames, R: Ram> TableMem for TablesFrom<F, R> {
    fn table(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        self.ram.words(pfn)
    }

    fn take(&self) -> Option<Pfn> {
        self.frames.take(Order(0)).ok()
    }

    fn give(&self, pfn: Pfn) {
        self.frames.give(Extent { start: pfn, len: Pages(1) });
    }
}

impl<F, R: Ram> Ram for TablesFrom<F, R> {
    fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        self.ram.words(pfn)
    }

    fn zero(&self, run: Extent) {
        self.ram.zero(run);
    }
}

impl<M: TableMem + ?Sized> TableMem for &M {
    fn table(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        (**self).table(pfn)
    }

    fn take(&self) -> Option<Pfn> {
        (**self).take()
    }

    fn give(&self, pfn: Pfn) {
        (**self).give(pfn);
    }
}
