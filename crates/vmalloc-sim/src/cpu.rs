//! A simulated CPU: loads and stores through its TLB, as a program on it would do them.
//!
//! ```text
//!   va ─▶ TLB ─hit──────────────▶ rights ─▶ frame         (compared with the tables: stale?)
//!          └─miss─▶ mmu::walk ─▶ rights ─▶ TLB, frame
//! ```
//!
//! A hit never consults the tables for the *access*, only for the *checker*: an entry that the
//! tables no longer contain is counted, and used all the same. A fault drops the entry it came
//! from, as the manual has it, so a page whose rights grew faults once at most.

use crate::machine::{Core, Hardware, StaleHit, lock};
use crate::mmu::{self, Access, Fault, Translation};
use crate::space::AddressSpace;
use crate::tables::Root;
use crate::tlb::{Cached, SpaceId, Tag};
use std::sync::atomic::Ordering;
use vmalloc_core::{Cache, PAGE_SIZE, PageRange, Pages, VirtAddr, Vpn};

/// One CPU of a [`Hardware`]. A handle: as many as you like lead to the same CPU.
#[derive(Clone, Copy)]
pub struct Cpu<'a> {
    hardware: &'a Hardware,
    index: usize,
    user: bool,
}

impl<'a> Cpu<'a> {
    pub(crate) fn new(hardware: &'a Hardware, index: usize) -> Cpu<'a> {
        Cpu { hardware, index, user: false }
    }

    /// The same CPU, its accesses in user mode: they fault on what is the kernel's alone.
    #[must_use]
    pub fn as_user(self) -> Cpu<'a> {
        Cpu { user: true, ..self }
    }

    /// This CPU's number.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Loads the word at `va`, of any alignment.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub fn load(&self, va: VirtAddr) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        self.read(va, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Stores `value` to the word at `va`, of any alignment.
    ///
    /// # Errors
    ///
    /// [`Fault`]. If the word crosses into another page, its first bytes may have been stored.
    pub fn store(&self, va: VirtAddr, value: u64) -> Result<(), Fault> {
        self.write(va, &value.to_le_bytes())
    }

    /// Copies `out.len()` bytes from `va` on. One look-up a page.
    ///
    /// # Errors
    ///
    /// [`Fault`], with the first address that cannot be read; the bytes before it were copied.
    pub fn read(&self, va: VirtAddr, out: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < out.len() {
            let at = VirtAddr(va.0.wrapping_add(done as u64));
            let offset = offset(at);
            let len = (PAGE_SIZE - offset).min(out.len() - done);
            let piece = &mut out[done..done + len];
            self.access(at, Access::Load, |found| {
                self.hardware.ram.read(found.pfn, offset, piece)
            })?;
            done += len;
        }
        Ok(())
    }

    /// Copies `bytes` to `va` and on. One look-up a page.
    ///
    /// # Errors
    ///
    /// [`Fault`], with the first address that cannot be written; the bytes before it were copied.
    pub fn write(&self, va: VirtAddr, bytes: &[u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < bytes.len() {
            let at = VirtAddr(va.0.wrapping_add(done as u64));
            let offset = offset(at);
            let len = (PAGE_SIZE - offset).min(bytes.len() - done);
            let piece = &bytes[done..done + len];
            self.access(at, Access::Store, |found| {
                self.hardware.ram.write(found.pfn, offset, piece)
            })?;
            done += len;
        }
        Ok(())
    }

    /// Fetches the byte at `va` as an instruction.
    ///
    /// # Errors
    ///
    /// [`Fault`]; [`Fault::NoExecute`] for whatever a `Mapper` maps.
    pub fn fetch(&self, va: VirtAddr) -> Result<u8, Fault> {
        let mut byte = [0];
        self.access(va, Access::Fetch, |found| {
            self.hardware.ram.read(found.pfn, offset(va), &mut byte)
        })?;
        Ok(byte[0])
    }

    /// Makes `space` current. The TLB drops what is not global, unless the machine has PCIDs.
    ///
    /// # Panics
    ///
    /// If `space` belongs to another machine.
    pub fn switch_to(&self, space: &AddressSpace) {
        assert!(
            std::ptr::eq(space.hardware().as_ref(), self.hardware),
            "the space belongs to another machine"
        );
        self.set_root(space.root());
    }

    /// Makes the kernel's own tables current: an empty lower half. Linux: `init_mm`.
    pub fn switch_to_kernel(&self) {
        self.set_root(self.hardware.tables.kernel_root());
    }

    /// The space that is current.
    #[must_use]
    pub fn space_id(&self) -> SpaceId {
        lock(&self.hardware.cores[self.index]).root.id
    }

    /// Drops the entries of `page` from this TLB alone, of the current space and global ones.
    /// x86_64: `invlpg`.
    pub fn flush_page(&self, page: Vpn) {
        let core = &mut *lock(&self.hardware.cores[self.index]);
        drop_page(core, page);
    }

    /// Drops every entry from this TLB alone.
    pub fn flush_all(&self) {
        lock(&self.hardware.cores[self.index]).tlb.drop_where(None, |_, _, _| true);
    }

    fn set_root(&self, root: Root) {
        let core = &mut *lock(&self.hardware.cores[self.index]);
        core.root = root;
        if !self.hardware.config().pcid {
            core.tlb.drop_where(None, |_, tag, _| tag != Tag::Global);
        }
    }

    /// Translates `va` and gives `use_frame` the result, all under the CPU's lock: a flush waits
    /// for the access to end.
    fn access(
        &self,
        va: VirtAddr,
        access: Access,
        use_frame: impl FnOnce(Translation) -> Option<()>,
    ) -> Result<(), Fault> {
        let core = &mut *lock(&self.hardware.cores[self.index]);
        let found = self.translate(core, va, access)?;
        let device = self.hardware.ram.device_frames();
        let is_cached = matches!(found.cache, Cache::WriteBack | Cache::WriteThrough);
        if is_cached && found.pfn >= device.start && found.pfn < device.end() {
            return Err(Fault::CachedDevice { va, pfn: found.pfn });
        }
        use_frame(found).ok_or(Fault::NoRam { va, pfn: found.pfn })
    }

    fn translate(
        &self,
        core: &mut Core,
        va: VirtAddr,
        access: Access,
    ) -> Result<Translation, Fault> {
        match core.tlb.get(va.vpn(), core.root.id) {
            Some(cached) => self.hit(core, va, access, cached),
            None => self.miss(core, va, access),
        }
    }

    fn hit(
        &self,
        core: &mut Core,
        va: VirtAddr,
        access: Access,
        cached: Cached,
    ) -> Result<Translation, Fault> {
        self.hardware.meters.hits.fetch_add(1, Ordering::AcqRel);
        self.check_stale(core, va, cached);
        let found = match cached {
            Cached::Valid(found) => found,
            // Kept, unlike after other faults: only a publish or a flush drops it.
            Cached::Invalid => return Err(Fault::NotPresent { va }),
        };
        self.check(found, va, access).inspect_err(|_| drop_page(core, va.vpn()))?;
        Ok(found)
    }

    fn miss(&self, core: &mut Core, va: VirtAddr, access: Access) -> Result<Translation, Fault> {
        self.hardware.meters.misses.fetch_add(1, Ordering::AcqRel);
        let walked = mmu::walk(&self.hardware.ram, core.root.pfn, va);
        let ours = Tag::Space(core.root.id);
        if let Err(Fault::NotPresent { .. }) = walked
            && self.hardware.config().remembers_invalid
        {
            self.put(core, va.vpn(), ours, Cached::Invalid);
        }
        let found = walked?;
        self.check(found, va, access)?;
        let tag = if found.global { Tag::Global } else { ours };
        self.put(core, va.vpn(), tag, Cached::Valid(found));
        Ok(found)
    }

    fn check(&self, found: Translation, va: VirtAddr, access: Access) -> Result<(), Fault> {
        if self.user && !found.user {
            return Err(Fault::Supervisor { va });
        }
        found.check(va, access)
    }

    fn put(&self, core: &mut Core, page: Vpn, tag: Tag, cached: Cached) {
        if core.tlb.put(page, tag, cached) {
            self.hardware.meters.evictions.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Reports `cached` if a walk now would find something else.
    fn check_stale(&self, core: &Core, va: VirtAddr, cached: Cached) {
        let used = match cached {
            Cached::Valid(found) => Some(found),
            Cached::Invalid => None,
        };
        let tables = mmu::walk(&self.hardware.ram, core.root.pfn, va).ok();
        if used != tables {
            self.hardware.report_stale(StaleHit { cpu: self.index, va, used, tables });
        }
    }
}

/// Drops what `core` keeps of `page` for its current space, and as global.
fn drop_page(core: &mut Core, page: Vpn) {
    let current = Tag::Space(core.root.id);
    let at = PageRange { start: page, len: Pages(1) };
    core.tlb.drop_where(Some(at), |_, tag, _| tag == Tag::Global || tag == current);
}

fn offset(va: VirtAddr) -> usize {
    va.0 as usize % PAGE_SIZE
}
