//! An address space: a root, and what an engine needs of the machine to work in it.
//!
//! One [`AddressSpace`] implements [`Mapper`], [`Tlb`] and [`Ram`], so an engine can be built on
//! each space of one machine, over the same RAM. Where its window lies decides who sees it:
//!
//! | half | seen by | translations | flushed |
//! |---|---|---|---|
//! | upper (bit 47 set): the kernel's | every space, those made later too | global | for all spaces |
//! | lower | this space alone | tagged with the space | for this space |
//!
//! Two engines can so have the same pages of the lower half, each in its own space, and share
//! frames between them; or an engine can serve the whole machine from the upper half.

use crate::faults::Step;
use crate::machine::{Hardware, lock};
use crate::tables::{Root, is_upper};
use crate::tlb::{Cached, SpaceId, Tag};
use std::sync::Arc;
use vmalloc_core::platform::{FRAME_WORDS, MapError, Mapper, Ram, Tlb};
use vmalloc_core::sync::{AtomicU64, Ordering};
use vmalloc_core::{Extent, PageRange, Pages, Pfn, Prot, Rights, Vpn};

/// An address space of a [`Hardware`]. Clones lead to the same space; when the last one goes, so
/// do the tables of its lower half, and CPUs that run in it fall back to the kernel's tables.
#[derive(Clone)]
pub struct AddressSpace {
    inner: Arc<Inner>,
}

struct Inner {
    hardware: Arc<Hardware>,
    root: Root,
}

impl AddressSpace {
    pub(crate) fn new(hardware: Arc<Hardware>, root: Root) -> AddressSpace {
        AddressSpace { inner: Arc::new(Inner { hardware, root }) }
    }

    /// The machine it belongs to.
    #[must_use]
    pub fn hardware(&self) -> &Arc<Hardware> {
        &self.inner.hardware
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> SpaceId {
        self.inner.root.id
    }

    /// The frame of its root table: what CR3 holds while it is current, and what
    /// [`crate::mmu::walk`] takes.
    #[must_use]
    pub fn cr3(&self) -> Pfn {
        self.inner.root.pfn
    }

    /// The first page of `at` that is mapped, and its frame; passes over what has no table at one
    /// step. For checks that nothing is mapped where nothing should be.
    #[must_use]
    pub fn first_mapped(&self, at: PageRange) -> Option<(Vpn, Pfn)> {
        self.inner.hardware.tables.first_mapped(self.inner.root, at)
    }

    pub(crate) fn root(&self) -> Root {
        self.inner.root
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let kernel = self.hardware.tables.kernel_root();
        for core in &self.hardware.cores {
            let core = &mut *lock(core);
            if core.root.id == self.root.id {
                core.root = kernel;
            }
            core.tlb.drop_where(None, |_, tag, _| tag == Tag::Space(self.root.id));
        }
        self.hardware.tables.drop_root(self.root);
    }
}

impl Mapper for AddressSpace {
    /// Also for several windows. A window in the lower half is seen by this space alone. On an
    /// error, no table is kept.
    ///
    /// # Panics
    ///
    /// If `window` does not lie in one half of the canonical addresses.
    #[track_caller]
    fn prepare(&self, window: PageRange) -> Result<(), MapError> {
        if self.hardware().faults().fails(Step::Prepare) {
            return Err(MapError::NoTable { at: window.start });
        }
        self.inner.hardware.tables.prepare(self.inner.root, window)
    }

    /// On an error nothing is mapped, but tables that were made on the way stay, empty, for the
    /// next call.
    ///
    /// # Panics
    ///
    /// If the pages do not lie in one prepared window, or if `run` holds page tables or leaves
    /// physical memory (2^34 frames).
    #[track_caller]
    fn map_run(&self, at: Vpn, run: Extent, prot: Prot) -> Result<(), MapError> {
        if self.hardware().faults().fails(Step::MapRun) {
            return Err(MapError::NoTable { at });
        }
        self.inner.hardware.tables.map_run(self.inner.root, at, run, prot)
    }

    /// # Panics
    ///
    /// If the pages do not lie in one prepared window.
    fn unmap_run(&self, at: PageRange) {
        self.inner.hardware.tables.unmap_run(self.inner.root, at);
    }

    /// # Panics
    ///
    /// If the pages do not lie in one prepared window.
    fn protect_run(&self, at: PageRange, prot: Prot) {
        self.inner.hardware.tables.protect_run(self.inner.root, at, prot);
    }

    #[track_caller]
    fn split(&self, at: Vpn) -> Result<(), MapError> {
        if self.hardware().faults().fails(Step::Split) {
            return Err(MapError::NoTable { at });
        }
        self.inner.hardware.tables.split(self.inner.root, at)
    }

    fn translate(&self, at: Vpn) -> Option<(Pfn, Prot)> {
        self.inner.hardware.tables.translate(self.inner.root, at)
    }

    /// Four pages, as on ARM cores whose data cache is indexed by virtual addresses: so that an
    /// engine that forgets it is found out.
    fn user_align(&self) -> Pages {
        Pages(4)
    }
}

impl Tlb for AddressSpace {
    /// Drops what CPUs remember of `at` having been invalid. Nothing to do on x86_64, and
    /// nothing done unless the machine remembers such things.
    fn publish(&self, at: PageRange) {
        let hardware = &self.inner.hardware;
        hardware.meters.publishes.fetch_add(1, Ordering::AcqRel);
        if !hardware.config().remembers_invalid {
            return;
        }
        for core in &hardware.cores {
            let is_invalid = |_, _, cached| cached == Cached::Invalid;
            lock(core).tlb.drop_where(Some(at), is_invalid);
        }
    }

    /// Exactly the pages of `ranges`, on every CPU: in the upper half for all spaces, in the lower
    /// for this one.
    ///
    /// # Panics
    ///
    /// If this context may not wait.
    fn flush_all_cpus(&self, ranges: &[PageRange]) {
        let ours = Tag::Space(self.id());
        self.inner.hardware.flush(ranges, |page, tag| is_upper(page) || tag == ours);
    }

    /// Exactly the pages of `at`, on the CPU that this thread runs on; see [`Hardware::run_on`].
    /// Never waits then. On all CPUs, if the thread runs on none.
    fn flush_local(&self, at: PageRange) {
        let ours = Tag::Space(self.id());
        self.inner.hardware.flush_local(at, |page, tag| is_upper(page) || tag == ours);
    }

    fn may_wait(&self) -> bool {
        self.inner.hardware.may_wait()
    }

    fn wait_for_others(&self) {
        self.inner.hardware.meters.waits.fetch_add(1, Ordering::AcqRel);
        std::thread::yield_now();
    }
}

impl Ram for AddressSpace {
    fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        self.inner.hardware.ram.words(pfn)
    }

    /// # Panics
    ///
    /// If a frame of `run` is not a data frame, or one that the direct map forbids to write.
    fn zero(&self, run: Extent) {
        let hardware = &self.inner.hardware;
        for page in self.direct(run).into_iter().flat_map(|at| at.start.0..at.end().0) {
            let shown = self.translate(Vpn(page)).map(|(_, prot)| prot.rights);
            assert!(shown == Some(Rights::ReadWrite), "direct map of {run}: {shown:?}");
        }
        hardware.ram.zero(run);
    }

    fn ram_in(&self, run: Extent) -> Pages {
        self.inner.hardware.ram.ram_in(run)
    }

    /// All data frames, if the machine was built with [`crate::Config::direct_map`].
    fn direct(&self, run: Extent) -> Option<PageRange> {
        self.inner.hardware.direct(run)
    }
}
