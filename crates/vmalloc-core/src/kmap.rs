//! High memory: frames that no direct map reaches, shown for a while in a bounded window.
//!
//! Two kinds. A *permanent* map ([`Kmap`]) is counted and may be used on any CPU for as long as
//! one likes: who maps a frame that is mapped gets the same page. A *temporary* map
//! ([`KmapLocal`]) belongs to one CPU and nests strictly; it costs no shootdown. For machines
//! without a direct map, or with one smaller than memory.
//!
//! ```text
//!           propose        decide           map_run, publish
//!   FREE ─────────▶ PROPOSED ─────▶ AGREED(n) ─────────▶ LIVE(n) ◀─▶ LIVE(n ± 1)
//!    ▲  ◀──withdraw────┘               │ map failed         │ n = 0: unused, still mapped
//!    ├─────────────────────────────────┘                    │ window full
//!    └──settle── Flushed ◀──one flush── PendingFlush ◀── PURGING
//! ```
//!
//! One word a page says all this (`slot.rs`); a frame is found again by a hash of its number and a
//! walk from there. Two CPUs that map a frame at the same time must come to the same page without
//! waiting for each other, so a page is *proposed* first, and becomes the frame's only if a walk
//! over the whole window afterwards sees no other page for it: of two proposals at least one
//! sees the other, and the later on the way gives way. From then on everyone who comes maps the
//! page himself, if nobody has yet; the second one's [`MapError::Occupied`] by the same frame is
//! success. So a [`Mapper`] under a `Kmap` may be asked twice at once to show one frame at one page.
//!
//! Unmapping only counts down. The translation stays, for whoever comes next, until the window is
//! full; then every unused page is unmapped and all of them are shot down **once**.
//!
//! Invariants: at most one page is AGREED or LIVE for a frame. A page leaves PURGING only under a
//! `Flushed` that covers it. A page whose count is not zero shows its frame.
//! Linux: `kmap_high`, `kunmap_high`, `flush_all_zero_pkmaps`, `page_address_htable`, all under
//! `kmap_lock`. Ours differs: no lock, a full window is an error and not a sleep.

mod agree;
mod error;
mod local;
mod slot;

#[cfg(loom)]
mod proof;

pub use error::{KmapError, KunmapError, MapLocalError, OutOfOrder, SetupError};
pub use local::{KmapLocal, LocalMap};

use crate::flush::{BATCH, Flushed, PendingFlush, unmap_run};
use crate::platform::{MapError, Mapper, Prot, Tlb};
use crate::sync::{AtomicU64, Ordering, tries};
use crate::units::{Extent, PageRange, Pages, Pfn, Vpn};
use agree::Seen;
use slot::{COUNT_MAX, PFN_LIMIT, Slot};

/// How many turns [`Kmap::flush_unused`] waits for the shootdowns of others before it gives up.
const WAITS_MAX: usize = tries(1 << 16);

/// A window of counted, permanent maps. All methods take `&self`: CPUs share it.
///
/// # Examples
///
/// ```
/// # use vmalloc_core::{*, kmap::{Kmap, KmapError}, platform::*, sync::AtomicU64};
/// # struct Toy;
/// # impl Mapper for Toy {
/// #     fn prepare(&self, _: PageRange) -> Result<(), MapError> { Ok(()) }
/// #     fn map_run(&self, _: Vpn, _: Extent, _: Prot) -> Result<(), MapError> { Ok(()) }
/// #     fn unmap_run(&self, _: PageRange) {}
/// #     fn protect_run(&self, _: PageRange, _: Prot) {}
/// #     fn translate(&self, _: Vpn) -> Option<(Pfn, Prot)> { None }
/// # }
/// # impl Tlb for Toy {
/// #     fn publish(&self, _: PageRange) {}
/// #     fn flush_all_cpus(&self, _: &[PageRange]) {}
/// #     fn may_wait(&self) -> bool { true }
/// # }
/// # let hardware = Toy;
/// let words: [AtomicU64; Kmap::<()>::words_needed(Pages(2))] = Default::default();
/// let window = PageRange { start: Vpn(0x8000), len: Pages(2) };
/// let kmap = Kmap::new(&words, window, hardware)?;
///
/// let page = kmap.kmap(Pfn(7))?;
/// assert_eq!(kmap.kmap(Pfn(7)), Ok(page)); // the same page, counted twice
/// let _other = kmap.kmap(Pfn(9))?;
/// let (pages, in_use, flushing) = (Pages(2), Pages(2), Pages(0));
/// assert_eq!(kmap.kmap(Pfn(11)), Err(KmapError::Full { pages, in_use, flushing }));
///
/// kmap.kunmap(Pfn(9))?;
/// assert!(kmap.kmap(Pfn(11)).is_ok()); // one shootdown, and the page is used again
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Kmap<'a, H> {
    // Each slot is changed by CAS alone.
    slots: &'a [AtomicU64],
    // Hint: the number of the next proposal.
    tickets: &'a AtomicU64,
    // Constant after `new`.
    window: PageRange,
    hardware: H,
}

impl<'a, H> Kmap<'a, H> {
    /// How many words a window of `pages` needs: one a page, and one.
    #[must_use]
    pub const fn words_needed(pages: Pages) -> usize {
        pages.0 as usize + 1
    }

    /// Maps over `words`, which it takes as they are; all zero: nothing is mapped.
    ///
    /// # Errors
    ///
    /// [`SetupError`].
    pub fn new(words: &'a [AtomicU64], window: PageRange, hardware: H) -> Result<Self, SetupError> {
        if window.len.0 == 0 {
            return Err(SetupError::Window { window, needed: Pages(1) });
        }
        let needed = Self::words_needed(window.len);
        match words.get(..needed) {
            Some([tickets, slots @ ..]) => Ok(Kmap { slots, tickets, window, hardware }),
            _ => Err(SetupError::Words { needed, given: words.len() }),
        }
    }

    /// The page that shows `pfn`, and how many use it: 0 if it is only still mapped. Linux:
    /// `page_address`.
    #[must_use]
    pub fn lookup(&self, pfn: Pfn) -> Option<(Vpn, u64)> {
        match self.look(pfn) {
            Seen::Joinable(index, Slot::Live { count, .. }) => Some((self.page(index), count)),
            _ => None,
        }
    }

    /// How many pages are in use. O(window); may lag.
    #[must_use]
    pub fn in_use(&self) -> Pages {
        self.count(|slot| !matches!(slot, Slot::Free | Slot::Purging | Slot::Live { count: 0, .. }))
    }

    fn unused(&self) -> Pages {
        self.count(|slot| matches!(slot, Slot::Live { count: 0, .. }))
    }

    fn flushing(&self) -> Pages {
        self.count(|slot| slot == Slot::Purging)
    }

    fn count(&self, is_counted: impl Fn(Slot) -> bool) -> Pages {
        let counted = (0..self.slots.len()).filter(|&index| is_counted(self.get(index)));
        Pages(counted.count() as u64)
    }

    fn page(&self, index: usize) -> Vpn {
        Vpn(self.window.start.0 + index as u64)
    }

    fn run(&self, first: usize, end: usize) -> PageRange {
        PageRange { start: self.page(first), len: Pages((end - first) as u64) }
    }

    fn get(&self, index: usize) -> Slot {
        // SeqCst: of two proposals for a frame, at least one walk sees the other's.
        Slot::decode(self.slots[index].load(Ordering::SeqCst))
    }

    fn step(&self, index: usize, from: Slot, to: Slot) -> bool {
        let (from, to) = (from.encode(), to.encode());
        self.slots[index].compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

impl<H: Mapper + Tlb> Kmap<'_, H> {
    /// Makes every address space see what is later mapped in the window. Called once.
    ///
    /// # Errors
    ///
    /// [`MapError::NoTable`].
    pub fn prepare(&self) -> Result<(), MapError> {
        self.hardware.prepare(self.window)
    }

    /// Maps `pfn`, which the caller owns until as many [`Kmap::kunmap`] and a flush, and returns
    /// its page; all CPUs may use it. Linux: `kmap`, `kmap_high`.
    ///
    /// Mapped already: a few loads and one atomic step. Else two walks over the window (eight
    /// pages a cache line), three steps and one map. In a full window every unused page, of 64
    /// runs at most, is unmapped and shot down at once, if this context may wait.
    ///
    /// # Errors
    ///
    /// [`KmapError`]; nothing was mapped.
    pub fn kmap(&self, pfn: Pfn) -> Result<Vpn, KmapError> {
        if pfn >= PFN_LIMIT {
            return Err(KmapError::BadFrame { pfn, limit: PFN_LIMIT });
        }
        loop {
            match self.look(pfn) {
                Seen::Joinable(index, slot) => {
                    if self.join(index, slot, pfn)? {
                        return self.show(index, pfn);
                    }
                }
                Seen::Proposal(index, slot) => {
                    if self.decide(index, slot, pfn) {
                        return self.show(index, pfn);
                    }
                }
                Seen::Nothing(Some(free)) => {
                    let ticket = self.tickets.fetch_add(1, Ordering::Relaxed) & COUNT_MAX;
                    let slot = Slot::Proposed { pfn, ticket };
                    if self.step(free, Slot::Free, slot) && self.decide(free, slot, pfn) {
                        return self.show(free, pfn);
                    }
                }
                Seen::Nothing(None) => self.make_room()?,
            }
        }
    }

    /// Gives up one use of `pfn`. Its page stays mapped until the window is full or
    /// [`Kmap::flush_unused`] is called; before that the frame must not go back to an allocator.
    /// A few loads and one atomic step; never waits, legal in interrupt handlers. Linux:
    /// `kunmap`, `kunmap_high`.
    ///
    /// # Errors
    ///
    /// [`KunmapError::NotMapped`]; nothing changed.
    pub fn kunmap(&self, pfn: Pfn) -> Result<(), KunmapError> {
        loop {
            match self.look(pfn) {
                Seen::Joinable(index, slot @ Slot::Live { count: 1.., .. }) => {
                    if self.take_one(index, slot) {
                        return Ok(());
                    }
                }
                _ => return Err(KunmapError::NotMapped { pfn }),
            }
        }
    }

    /// Unmaps every page that nobody uses, and shoots them down: once, or once each 64 runs. Returns
    /// how many. Then no TLB shows a frame that was given up before the call, also where another CPU
    /// has begun its shootdown, which is waited for. Linux: `kmap_flush_unused`.
    ///
    /// # Errors
    ///
    /// [`KmapError::MayNotWait`]; nothing was unmapped. [`KmapError::Flushing`]: what nobody else
    /// was shooting down is done.
    pub fn flush_unused(&self) -> Result<Pages, KmapError> {
        let (mut freed, mut waits) = (Pages(0), 0);
        loop {
            // In this order: what another CPU withdraws in between is counted as being shot down.
            let unused = self.unused();
            let flushing = self.flushing();
            if unused.0 == 0 && flushing.0 == 0 {
                return Ok(freed);
            }
            if !self.hardware.may_wait() {
                return Err(KmapError::MayNotWait { unused });
            }
            if unused.0 > 0 {
                freed.0 += self.recycle().0;
            } else if waits == WAITS_MAX {
                return Err(KmapError::Flushing { pages: flushing });
            } else {
                waits += 1;
                self.hardware.wait_for_others();
            }
        }
    }

    /// Whether page tables and words agree, each frame has one page, and nothing is between two
    /// states. Nobody else may be at work. O(window²).
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let is_sound = |index: usize| {
            let shown = self.hardware.translate(self.page(index)).map(|(pfn, _)| pfn);
            match self.get(index) {
                Slot::Free => shown.is_none(),
                Slot::Live { pfn, .. } => {
                    let others = self.slots[index + 1..].iter();
                    let mut others = others.map(|w| Slot::decode(w.load(Ordering::Acquire)));
                    shown == Some(pfn) && others.all(|other| other.pfn() != Some(pfn))
                }
                _ => false,
            }
        };
        (0..self.slots.len()).all(is_sound)
    }

    /// One more user of an agreed page; `false` if the word has changed.
    fn join(&self, index: usize, slot: Slot, pfn: Pfn) -> Result<bool, KmapError> {
        match slot {
            Slot::Agreed { count, .. } | Slot::Live { count, .. } if count == COUNT_MAX => {
                Err(KmapError::TooManyUsers { pfn, count })
            }
            Slot::Agreed { count, .. } | Slot::Live { count, .. } => {
                Ok(self.step(index, slot, slot.with_count(count + 1)))
            }
            _ => Ok(false),
        }
    }

    /// Maps the page, of which the caller is a counted user, unless someone has.
    fn show(&self, index: usize, pfn: Pfn) -> Result<Vpn, KmapError> {
        let page = self.page(index);
        if let Slot::Live { .. } = self.get(index) {
            return Ok(page);
        }
        let frame = Extent { start: pfn, len: Pages(1) };
        match self.hardware.map_run(page, frame, Prot::READ_WRITE) {
            // Another user was here first: our count keeps it from being recycled.
            Err(MapError::Occupied { by, .. }) if by == pfn => {}
            Err(e) => return self.give_up(index).map_err(|()| KmapError::Map(e)),
            Ok(()) => {}
        }
        self.hardware.publish(self.run(index, index + 1));
        loop {
            match self.get(index) {
                slot @ Slot::Agreed { count, .. } => {
                    if self.step(index, slot, Slot::Live { pfn, count }) {
                        return Ok(page);
                    }
                }
                _ => return Ok(page),
            }
        }
    }

    /// The map failed. Takes our use back, unless another user has mapped the page by now: then
    /// it shows the frame after all.
    fn give_up(&self, index: usize) -> Result<Vpn, ()> {
        loop {
            match self.get(index) {
                slot @ Slot::Agreed { .. } => {
                    if self.take_one(index, slot) {
                        return Err(());
                    }
                }
                _ => return Ok(self.page(index)),
            }
        }
    }

    /// One user less. A page that was never mapped goes with its last user, and needs no flush.
    fn take_one(&self, index: usize, slot: Slot) -> bool {
        let to = match slot {
            Slot::Agreed { count: 1, .. } => Slot::Free,
            Slot::Agreed { count, .. } | Slot::Live { count, .. } => slot.with_count(count - 1),
            _ => return false,
        };
        self.step(index, slot, to)
    }

    fn make_room(&self) -> Result<(), KmapError> {
        let unused = self.unused();
        if unused.0 > 0 && !self.hardware.may_wait() {
            return Err(KmapError::MayNotWait { unused });
        }
        if unused.0 > 0 && self.recycle().0 > 0 {
            return Ok(());
        }
        // In this order: what another CPU is shooting down now is free when we look again.
        let flushing = self.flushing();
        if self.count(|slot| slot == Slot::Free).0 > 0 {
            return Ok(());
        }
        Err(KmapError::Full { pages: self.window.len, in_use: self.in_use(), flushing })
    }

    /// Unused pages become free, for one flush: up to [`BATCH`] runs of them.
    fn recycle(&self) -> Pages {
        let (mut pending, mut runs, mut index) = (PendingFlush::empty(), 0, 0);
        while index < self.slots.len() && runs < BATCH {
            let first = index;
            while index < self.slots.len() && self.withdraw(index) {
                index += 1;
            }
            if index > first {
                let unmapped = unmap_run(&self.hardware, self.run(first, index));
                pending = pending.join(&unmapped);
                runs += 1;
            }
            index += 1;
        }
        if pending.is_empty() {
            return Pages(0);
        }
        let flushed = pending.shoot_down(&self.hardware);
        // Those that are purging and covered are ours: nobody else could take them.
        let settled = (0..self.slots.len()).filter(|&index| self.settle(index, &flushed));
        Pages(settled.count() as u64)
    }

    /// LIVE(0) → PURGING.
    fn withdraw(&self, index: usize) -> bool {
        let slot = self.get(index);
        matches!(slot, Slot::Live { count: 0, .. }) && self.step(index, slot, Slot::Purging)
    }

    /// PURGING → FREE: only with proof that no CPU can reach the page.
    fn settle<const N: usize>(&self, index: usize, flushed: &Flushed<N>) -> bool {
        flushed.covers(self.run(index, index + 1)) && self.step(index, Slot::Purging, Slot::Free)
    }
}

#[cfg(test)]
mod tests;
