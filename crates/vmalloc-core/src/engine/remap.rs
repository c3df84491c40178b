//! Areas and devices shown to a user: in another address space, with a user's rights.
//!
//! ```text
//!   area ─pin▶ backing ─▶ the user's tables ─▶ Remap      (the exporter may go first)
//!   Remap ─detach, drop▶ unmapped ─▶ flushed there ─▶ pin given up ─▶ last one: frames home
//! ```
//!
//! All of the range or none of it. Each [`Remap`] counts as one user of the frames, so the area
//! may be freed, purged and its pages used again while a user still looks at what it was. Huge
//! leaves stand wherever both sides are aligned: the mapper sees runs, not pages.
//!
//! Linux: `remap_vmalloc_range`, which counts each page and leaves the earlier ones when it fails
//! in the middle, and `remap_pfn_range`, which counts nothing.

use super::Engine;
use crate::flush::{PendingFlush, unmap_run};
use crate::machine::{BackError, Backing, Machine};
use crate::paged::{Hardware, Paged};
use crate::platform::{Frames, MapError, Mapper, Tlb};
use crate::prot::{Cache, Prot, Rights};
use crate::publish::Area;
use crate::record::{Kind, flags};
use crate::registry;
use crate::sync::{AtomicU64, Ordering};
use crate::units::{Extent, PAGE_SHIFT, PageRange, Pages, Pfn, VirtAddr, Vpn};
use core::fmt;

/// A run of pages of a user's address space, reserved there for a mapping. Linux:
/// `vm_area_struct`.
pub struct Vma<U> {
    // Constant after construction.
    hardware: U,
    pages: PageRange,
    rights: Rights,
    private: bool,
    // Written by each remap.
    flags: AtomicU64,
}

/// Bits of [`Vma::flags`].
pub mod vma_flags {
    /// It shows a device. Linux: `VM_IO`.
    pub const IO: u64 = 1;
    /// Frames that nothing counts. Linux: `VM_PFNMAP`.
    pub const PFNMAP: u64 = 1 << 1;
    /// Frames that are counted. Linux: `VM_MIXEDMAP`.
    pub const MIXEDMAP: u64 = 1 << 2;
    /// Must not grow. Linux: `VM_DONTEXPAND`.
    pub const DONTEXPAND: u64 = 1 << 3;
    /// Not part of a core dump. Linux: `VM_DONTDUMP`.
    pub const DONTDUMP: u64 = 1 << 4;
}

impl<U: Mapper + Tlb> Vma<U> {
    /// `pages` of the address space behind `hardware`, in which a window around them has been
    /// prepared; the user may do there what `rights` say.
    pub const fn new(hardware: U, pages: PageRange, rights: Rights) -> Vma<U> {
        Vma { hardware, pages, rights, private: false, flags: AtomicU64::new(0) }
    }

    /// The same as a private mapping: one whose user gets copies of pages that it writes. Linux: not
    /// `VM_SHARED`.
    #[must_use]
    pub fn private(self) -> Vma<U> {
        Vma { private: true, ..self }
    }

    /// Its pages.
    pub const fn pages(&self) -> PageRange {
        self.pages
    }

    /// Bits of [`vma_flags`]: what has been shown here.
    pub fn flags(&self) -> u64 {
        self.flags.load(Ordering::Relaxed)
    }

    /// `len` pages from `at` on, if they are all its own.
    fn part(&self, at: Vpn, len: Pages) -> Result<PageRange, RemapError> {
        let part = PageRange { start: at, len };
        let inside = at >= self.pages.start
            && at.0.checked_add(len.0).is_some_and(|end| end <= self.pages.end().0);
        if inside { Ok(part) } else { Err(RemapError::OutOfVma { part, vma: self.pages }) }
    }
}

/// Why a remap failed. Nothing is shown, and nothing pinned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RemapError {
    /// An address is not a multiple of a page.
    Unaligned {
        /// The address.
        addr: VirtAddr,
    },
    /// The size is 0. Linux goes on until a page is in the way.
    ZeroSize,
    /// The offset in pages, as bytes, does not fit in 64 bits.
    OffsetOverflow {
        /// The offset.
        pgoff: u64,
    },
    /// No area in use lives at the address.
    NoArea {
        /// The address.
        addr: VirtAddr,
    },
    /// The area was not made for users ([`crate::Request::user`]).
    NotForUsers,
    /// The range goes beyond the area, its guard page not counted.
    OutOfArea {
        /// The end of the range, in pages from the area's base on.
        end: u64,
        /// The area's pages.
        has: Pages,
    },
    /// The range does not lie in the user's pages.
    OutOfVma {
        /// The range.
        part: PageRange,
        /// The user's.
        vma: PageRange,
    },
    /// The user would get rights that the area does not have.
    TooManyRights {
        /// What the user has.
        user: Rights,
    },
    /// A private mapping that may be written shows a device whole or not at all.
    PartOfPrivate,
    /// Frames that are RAM, which only a remap of their area counts; or none that a machine has.
    Frames(BackError),
    /// To undo it would be to wait for other CPUs, and this context may not.
    MayNotWait,
    /// The pages could not be mapped.
    Map(MapError),
}

impl fmt::Display for RemapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned { addr } => write!(f, "{addr} is not a multiple of a page"),
            Self::ZeroSize => write!(f, "size 0: show at least one byte"),
            Self::OffsetOverflow { pgoff } => write!(f, "an offset of {pgoff} pages overflows"),
            Self::NoArea { addr } => write!(f, "no area in use lives at {addr}"),
            Self::NotForUsers => write!(f, "the area was not made for users: Request::user"),
            Self::OutOfArea { end, has } => {
                write!(f, "the range ends {end} pages into an area of {has}")
            }
            Self::OutOfVma { part, vma } => write!(f, "{part} does not lie in the user's {vma}"),
            Self::TooManyRights { user } => {
                write!(f, "the user's rights, {user:?}, are more than the area has")
            }
            Self::PartOfPrivate => {
                write!(f, "a private, writable mapping shows a device whole or not at all")
            }
            Self::Frames(e) => write!(f, "{e}"),
            Self::MayNotWait => write!(f, "this context may not wait for other CPUs"),
            Self::Map(e) => write!(f, "{e}"),
        }
    }
}

impl core::error::Error for RemapError {}

/// What a user sees, and one use of its frames. Goes with [`Remap::detach`], or when dropped.
#[must_use = "dropping it takes the mapping away again"]
pub struct Remap<'e, 'a, 'v, F: Frames, H: Hardware, U: Mapper + Tlb> {
    machine: &'e Paged<'a, F, H>,
    vma: &'v Vma<U>,
    pages: PageRange,
    /// What is pinned; a device's frames are not.
    backing: Option<Backing>,
}

impl<'a, F: Frames, H: Hardware> Engine<'a, Paged<'a, F, H>> {
    /// Shows the area at `addr`, from its page `pgoff` on, in all of `vma`. Linux:
    /// `remap_vmalloc_range`.
    ///
    /// # Errors
    ///
    /// [`RemapError`]; nothing is shown.
    pub fn remap_vmalloc_range<'e, 'v, U: Mapper + Tlb>(
        &'e self,
        vma: &'v Vma<U>,
        addr: VirtAddr,
        pgoff: u64,
    ) -> Result<Remap<'e, 'a, 'v, F, H, U>, RemapError> {
        let (at, len_bytes) = (vma.pages.start.addr(), vma.pages.len.bytes());
        self.remap_vmalloc_range_partial(vma, at, addr, pgoff, len_bytes)
    }

    /// Shows `len_bytes` bytes, rounded up to pages, of the area around `addr`, from `pgoff` pages
    /// behind `addr` on, at the user's address `at`. Linux: `remap_vmalloc_range_partial`, which
    /// takes any `addr` for the base when it looks whether the range ends inside the area.
    ///
    /// # Errors
    ///
    /// [`RemapError`]; nothing is shown.
    pub fn remap_vmalloc_range_partial<'e, 'v, U: Mapper + Tlb>(
        &'e self,
        vma: &'v Vma<U>,
        at: VirtAddr,
        addr: VirtAddr,
        pgoff: u64,
        len_bytes: u64,
    ) -> Result<Remap<'e, 'a, 'v, F, H, U>, RemapError> {
        let len = range(at, len_bytes)?;
        if !addr.is_page_aligned() {
            return Err(RemapError::Unaligned { addr });
        }
        if pgoff > u64::MAX >> PAGE_SHIFT {
            return Err(RemapError::OffsetOverflow { pgoff });
        }
        let area = registry::find(&self.context, addr).filter(|area| area.kind.is_in_use());
        let area = area.ok_or(RemapError::NoArea { addr })?;
        if area.flags & flags::USERMAP == 0 {
            return Err(RemapError::NotForUsers);
        }
        let skip = (addr.vpn().0 - area.pages.start.0).saturating_add(pgoff);
        let end = skip.saturating_add(len.0);
        if end > area.pages.len.0 {
            return Err(RemapError::OutOfArea { end, has: area.pages.len });
        }
        let part = vma.part(at.vpn(), len)?;
        check_rights(&area, vma.rights)?;
        let machine = &self.context.machine;
        let backing = Backing(area.backing);
        let lives = || {
            let now = registry::find(&self.context, addr);
            now.is_some_and(|now| {
                now.generation == area.generation && now.birth == area.birth && now.kind.is_in_use()
            })
        };
        if !vma.hardware.may_wait() {
            return Err(RemapError::MayNotWait);
        }
        // The second look, after the pin: what is freed later keeps its frames.
        if !machine.pin(backing) {
            return Err(RemapError::NoArea { addr });
        }
        let mut remap = Remap {
            machine,
            vma,
            pages: PageRange { start: part.start, len: Pages(0) },
            backing: Some(backing),
        };
        if !lives() {
            return Err(RemapError::NoArea { addr });
        }
        let prot = Prot::new(vma.rights).user();
        let shown = machine.show_part(&vma.hardware, backing, skip, part, prot);
        shown.map_err(|e| undo(vma, part, e))?;
        vma.flags.fetch_or(SHOWN | vma_flags::MIXEDMAP, Ordering::Relaxed);
        vma.hardware.publish(part);
        remap.pages = part;
        Ok(remap)
    }

    /// Shows `len_bytes` bytes of a device, rounded up to pages, from frame `pfn` on, at the user's
    /// address `at`. Linux: `remap_pfn_range`, for any frames, so that whoever exports RAM with it
    /// must outlive every user; ours are counted, by [`Engine::remap_vmalloc_range`].
    ///
    /// # Errors
    ///
    /// [`RemapError`]; nothing is shown.
    pub fn remap_pfn_range<'e, 'v, U: Mapper + Tlb>(
        &'e self,
        vma: &'v Vma<U>,
        at: VirtAddr,
        pfn: Pfn,
        len_bytes: u64,
        cache: Cache,
    ) -> Result<Remap<'e, 'a, 'v, F, H, U>, RemapError> {
        let len = range(at, len_bytes)?;
        let part = vma.part(at.vpn(), len)?;
        if vma.private && vma.rights.may_write() && part != vma.pages {
            return Err(RemapError::PartOfPrivate);
        }
        if vma.rights.may_execute() {
            return Err(RemapError::TooManyRights { user: vma.rights });
        }
        let run = Extent { start: pfn, len };
        if pfn.0.checked_add(len.0).is_none_or(|end| end > 1 << 40) {
            return Err(RemapError::Frames(BackError::NoSuchFrames { run }));
        }
        let machine = &self.context.machine;
        let ram = machine.hardware().ram_in(run);
        if ram != Pages(0) {
            return Err(RemapError::Frames(BackError::IsRam { run, ram }));
        }
        if !vma.hardware.may_wait() {
            return Err(RemapError::MayNotWait);
        }
        let prot = Prot::new(vma.rights).user().cached(cache);
        vma.hardware.map_run(part.start, run, prot).map_err(RemapError::Map)?;
        vma.flags.fetch_or(SHOWN | vma_flags::IO | vma_flags::PFNMAP, Ordering::Relaxed);
        vma.hardware.publish(part);
        Ok(Remap { machine, vma, pages: part, backing: None })
    }
}

const SHOWN: u64 = vma_flags::DONTEXPAND | vma_flags::DONTDUMP;

impl<F: Frames, H: Hardware, U: Mapper + Tlb> Remap<'_, '_, '_, F, H, U> {
    /// The user's pages.
    pub fn pages(&self) -> PageRange {
        self.pages
    }

    /// Takes the mapping away on all CPUs, and gives its use of the frames up.
    ///
    /// # Errors
    ///
    /// Itself, as it was, where this context may not wait for other CPUs.
    pub fn detach(self) -> Result<(), Self> {
        if !self.vma.hardware.may_wait() {
            return Err(self);
        }
        drop(self);
        Ok(())
    }
}

/// Where waiting is forbidden the pages become invalid and the frames stay pinned for good: other
/// CPUs may still hold translations. [`Remap::detach`] avoids that.
impl<F: Frames, H: Hardware, U: Mapper + Tlb> Drop for Remap<'_, '_, '_, F, H, U> {
    fn drop(&mut self) {
        let pages = self.pages;
        if pages.len > Pages(0) {
            let pending = unmap_run(&self.vma.hardware, pages);
            if !self.vma.hardware.may_wait() {
                return;
            }
            let flushed = pending.shoot_down(&self.vma.hardware);
            assert!(flushed.covers(pages), "{pages} was not flushed");
        }
        if let Some(backing) = self.backing {
            self.machine.unback(pages, backing);
        }
    }
}

/// What went wrong halfway is unmapped already; a CPU may have looked.
fn undo<U: Mapper + Tlb>(vma: &Vma<U>, part: PageRange, e: MapError) -> RemapError {
    let _ = PendingFlush::after_failed_map(part).shoot_down(&vma.hardware);
    RemapError::Map(e)
}

fn range(at: VirtAddr, len_bytes: u64) -> Result<Pages, RemapError> {
    if !at.is_page_aligned() {
        return Err(RemapError::Unaligned { addr: at });
    }
    if len_bytes == 0 {
        return Err(RemapError::ZeroSize);
    }
    Ok(Pages::for_bytes(len_bytes))
}

/// A user gets no right that the area's own pages do not give, and no way to execute what the
/// kernel may write.
fn check_rights(area: &Area, user: Rights) -> Result<(), RemapError> {
    let read_only = area.kind == Kind::Frozen || area.flags & flags::READ_ONLY != 0;
    let too_many = if read_only { user.may_write() } else { user.may_execute() };
    if too_many { Err(RemapError::TooManyRights { user }) } else { Ok(()) }
}
