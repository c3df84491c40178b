//! Tables and shootdowns put together: the hardware that the engine asks for.
//!
//! Every flush first takes the retired tables: if there are any, it becomes a flush of everything,
//! after which they go home.

use crate::format::Format;
use crate::mem::TableMem;
use crate::tables::PageTables;
use crate::tlb::{Shootdown, What};
use vmalloc_core::platform::{FRAME_WORDS, MapError, Mapper, Ram, Tlb};
use vmalloc_core::sync::AtomicU64;
use vmalloc_core::{Extent, PageRange, Pages, Pfn, Prot, Vpn};

/// The hardware of one address space, or of the kernel's half of all of them.
#[derive(Debug)]
pub struct Hardware<F, M, S> {
    tables: PageTables<F, M>,
    shootdown: S,
}

impl<F: Format, M: TableMem, S: Shootdown> Hardware<F, M, S> {
    /// These tables, flushed by that.
    pub const fn new(tables: PageTables<F, M>, shootdown: S) -> Self {
        Hardware { tables, shootdown }
    }

    /// The page tables.
    pub const fn tables(&self) -> &PageTables<F, M> {
        &self.tables
    }

    /// The page tables, for [`PageTables::drop_space`].
    pub fn into_tables(self) -> PageTables<F, M> {
        self.tables
    }

    /// The shootdown.
    pub const fn shootdown(&self) -> &S {
        &self.shootdown
    }
}

impl<F: Format, M: TableMem, S: Shootdown> Mapper for Hardware<F, M, S> {
    fn prepare(&self, window: PageRange) -> Result<(), MapError> {
        self.tables.prepare(window)
    }

    fn map_run(&self, at: Vpn, run: Extent, prot: Prot) -> Result<(), MapError> {
        self.tables.map_run(at, run, prot)
    }

    fn unmap_run(&self, at: PageRange) {
        self.tables.unmap_run(at);
    }

    fn protect_run(&self, at: PageRange, prot: Prot) {
        self.tables.protect_run(at, prot);
    }

    fn split(&self, at: Vpn) -> Result<(), MapError> {
        self.tables.split_with(at, &|pages| self.flush_all_cpus(&[pages]))
    }

    fn translate(&self, at: Vpn) -> Option<(Pfn, Prot)> {
        self.tables.translate(at)
    }
}

impl<F: Format, M: TableMem, S: Shootdown> Tlb for Hardware<F, M, S> {
    fn publish(&self, at: PageRange) {
        self.shootdown.publish(at);
    }

    fn flush_all_cpus(&self, ranges: &[PageRange]) {
        let retired = self.tables.take_retired();
        let what = if retired.is_empty() { What::of(ranges) } else { What::Everything };
        self.shootdown.flush_all(what);
        retired.give_back(self.tables.mem());
    }

    fn flush_local(&self, at: PageRange) {
        self.shootdown.flush_local(at);
    }

    fn may_wait(&self) -> bool {
        self.shootdown.may_wait()
    }
}

impl<F: Format, M: TableMem + Ram, S: Shootdown> Ram for Hardware<F, M, S> {
    fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        self.tables.mem().words(pfn)
    }

    fn zero(&self, run: Extent) {
        self.tables.mem().zero(run);
    }

    fn ram_in(&self, run: Extent) -> Pages {
        self.tables.mem().ram_in(run)
    }
}
