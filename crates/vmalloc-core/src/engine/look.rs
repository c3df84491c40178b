//! What only looks: at an address, at the list of areas, at the totals, at the invariants.
//!
//! None of it holds anything: allocation goes on meanwhile. Linux: `find_vm_area`,
//! `vmalloc_to_pfn`, `vread_iter`, `/proc/vmallocinfo`, `/proc/meminfo`.

use super::Engine;
use crate::info::{self, Areas, Dump, Stats, VmallocInfo};
use crate::machine::{Machine, View};
use crate::presence::Presence;
use crate::publish::{Area, AreaId};
use crate::record::{Kind, Shape};
use crate::registry;
use crate::share::record_of;
use crate::slots::{placed, slot_pages};
use crate::tag::Owner;
use crate::units::{Pages, Pfn, VirtAddr};
use crate::verify::{Verified, VerifyError, verify};
use crate::vread::vread;

impl<'a, M: Machine> Engine<'a, M> {
    /// The area around an address, in whatever state. Linux: `find_vm_area`.
    #[must_use]
    #[inline]
    pub fn find(&self, addr: VirtAddr) -> Option<Area> {
        registry::find(&self.context, addr)
    }

    /// The area that a record tells of, in whatever state.
    #[must_use]
    pub fn area(&self, id: AreaId) -> Option<Area> {
        let record = record_of(&self.context, id)?;
        let (state, shape, slot) = placed(self.context.tables, record)?;
        Some(Area::new(&self.context, record.id, slot, state, &shape))
    }

    /// Whether a member is attached to a published area, in the generation that was listed.
    #[must_use]
    pub fn is_attached(&self, area: &Area, who: Owner) -> bool {
        matches!(area.kind, Kind::Frozen | Kind::Shared | Kind::Dying)
            && record_of(&self.context, area.id).is_some_and(|record| {
                Presence::of(self.context.tables, record.id).holds(who, area.generation)
            })
    }

    /// How an area is shown where it lies: for a machine in place, whose members have guard pages
    /// of their own. `None`: its slot is there no more.
    #[must_use]
    pub fn view_of(&self, area: &Area) -> Option<View> {
        let id = area.id.0 as usize;
        let slot = slot_pages(self.context.tables, id)?;
        let (pages, guard, birth) = (area.pages.len, area.guard, area.birth);
        let (bytes, flags, caller, backing) = (area.bytes, area.flags, area.caller, area.backing);
        let shape = Shape { bytes, pages, guard, flags, backing, caller, birth };
        Some(self.context.view(id, slot, &shape))
    }

    /// Whether an address lies in the window. Linux: `is_vmalloc_addr`.
    #[must_use]
    pub fn is_vmalloc_addr(&self, addr: VirtAddr) -> bool {
        self.context.window().contains(addr.vpn())
    }

    /// The frame behind an address of an area in use, where the machine knows it. Linux:
    /// `vmalloc_to_pfn`, which looks at no area and answers for freed ones, too.
    #[must_use]
    pub fn vmalloc_to_pfn(&self, addr: VirtAddr) -> Option<Pfn> {
        self.find(addr).filter(|area| area.kind.is_in_use())?;
        self.context.machine.translate(addr.vpn()).map(|(pfn, _)| pfn)
    }

    /// Copies what lives at `addr .. addr + out.len()` into `out`, and zeros where nothing does:
    /// holes, guard pages, parked areas. Returns how many bytes came from areas. Never faults.
    /// Linux: `vread_iter`.
    pub fn vread(&self, addr: VirtAddr, out: &mut [u8]) -> usize {
        vread(&self.context, addr, out)
    }

    /// The areas in address order, parked ones too, taken while others work. Linux:
    /// `/proc/vmallocinfo`; `Display` of an area is a line of it.
    pub fn areas(&self) -> Areas<'_, 'a, M> {
        Areas::new(&self.context)
    }

    /// `/proc/vmallocinfo` as Linux prints it, to be written somewhere: a line for each of
    /// [`Engine::areas`], with `N0=` and so on where the machine has nodes. Sorted by address;
    /// nothing is held while it is written. O(pages) where there are nodes.
    #[must_use]
    pub fn vmallocinfo(&self) -> VmallocInfo<'_, 'a, M> {
        VmallocInfo(&self.context)
    }

    /// The pages of the area around an address, guard left out. Linux: `vmalloc_nr_pages`.
    #[must_use]
    pub fn vmalloc_nr_pages(&self, addr: VirtAddr) -> Option<Pages> {
        self.find(addr).map(|area| area.pages.len)
    }

    /// Says in one line what lies around an address, for a kernel's last words: takes no lock,
    /// waits for nobody, allocates nothing; `None` if nothing does, or if it changes just now.
    /// Linux: `vmalloc_dump_obj`, which gives up when a lock is taken.
    #[must_use]
    pub fn dump_obj(&self, addr: VirtAddr) -> Option<Dump> {
        self.find(addr).filter(|area| area.kind.is_in_use()).map(Dump)
    }

    /// Totals. Linux: `VmallocTotal`, `VmallocUsed`, `VmallocChunk`.
    pub fn stats(&self) -> Stats {
        info::stats(&self.context)
    }

    /// Checks the invariants; nobody else may be at work.
    ///
    /// # Errors
    ///
    /// [`VerifyError`]: which invariant, where.
    pub fn verify(&self) -> Result<Verified, VerifyError> {
        verify(&self.context)
    }
}
