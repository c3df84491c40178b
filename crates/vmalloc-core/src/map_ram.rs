//! Short-lived maps of a few frames: `vm_map_ram`, `vm_unmap_ram`, `vm_unmap_aliases`.
//!
//! For runs of up to 64 pages that come and go too fast for an area of the engine: no record, no
//! backing, no guard page (as in Linux: an overrun reaches the neighbour's frames), only bits. A
//! window is cut into *blocks* of 1,024 pages, a block into 16 *groups* of 64; a run lies in one
//! group and is as long as asked for, not a power of two. Each CPU has a block of its own to look
//! in first, by a hint and not by right.
//!
//! ```text
//!   vm_map_ram    free ─take▶ building ─map_run, publish▶ live
//!   vm_unmap_ram  live ─close▶ closing ─unmap_run▶ PendingFlush ─park▶ dirty     never waits
//!   no room       dirty ─claim▶ flushing ─one shootdown▶ Flushed ─settle▶ free
//! ```
//!
//! Dirty pages wait until no hole in the window is large enough. Then all of them, of 64 blocks
//! at most, are shot down **once** and free again, page by page: a live run holds its own pages
//! and nothing else.
//!
//! Invariants: a page is in one state of `group.rs`; it becomes free only under a `Flushed` that
//! covers it, or if it was never mapped. What a TLB may still show is never live, so
//! [`MapRam::vm_unmap_aliases`] finds it, also while other CPUs are between two states.
//! Neighbours: none; shares [`crate::flush`] with the engine. Frames are the caller's.
//! Linux: `vmap_block`, `vb_alloc`, `vb_free`, `purge_fragmented_block`. Ours differs: there a
//! block's space is given out once, and one live mapping keeps its 4 MiB until it goes.

mod error;
mod group;

#[cfg(loom)]
mod proof;

pub use error::{AliasesError, MapRamError, SetupError, UnmapRamError};

use crate::flush::{BATCH, PendingFlush, unmap_run};
use crate::platform::{MapError, Mapper, Prot, Tlb};
use crate::sync::{AtomicU64, Ordering, tries};
use crate::units::{Extent, PageRange, Pages, VirtAddr, Vpn};
use group::{GROUP_PAGES, GROUP_WORDS, Group, NotARun};

/// The pages of a block. Linux: `VMAP_BBMAP_BITS`, at most.
pub const BLOCK_PAGES: Pages = Pages(1024);
/// The most pages that a run can have. Linux: `VMAP_MAX_ALLOC`, 64 too; beyond it, an area.
pub const PAGES_MAX: Pages = Pages(GROUP_PAGES);

/// Groups a block.
const GROUPS: usize = (BLOCK_PAGES.0 / GROUP_PAGES) as usize;
/// Words a CPU's hint: one is used, the rest keep it alone on its cache line.
const HINT_WORDS: usize = 8;
/// How many turns a caller without room waits for a shootdown of others before it gives up.
const WAITS_MAX: usize = tries(1 << 16);

/// A window of short-lived maps. All methods take `&self`: CPUs share it.
///
/// # Examples
///
/// ```
/// # use vmalloc_core::{*, map_ram::MapRam, platform::*, sync::AtomicU64};
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
/// let window = PageRange { start: Vpn(0x8000), len: Pages(1024) };
/// let words: Vec<_> =
///     (0..MapRam::<()>::words_needed(window.len, 4)).map(|_| AtomicU64::new(0)).collect();
/// let ram = MapRam::new(&words, 4, window, hardware)?;
///
/// let frames = [
///     Extent { start: Pfn(900), len: Pages(2) },
///     Extent { start: Pfn(17), len: Pages(1) },
/// ];
/// let run = ram.vm_map_ram(0, &frames, Prot::READ_WRITE)?;
/// assert_eq!(run.len, Pages(3));
/// ram.vm_unmap_ram(run.start.addr(), Pages(3))?;
/// ram.vm_unmap_aliases()?; // no TLB shows the frames any more
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MapRam<'a, H> {
    // Each group is changed as `group.rs` says.
    groups: &'a [AtomicU64],
    // Hints: 1 + the group in which each CPU found room last, or 0.
    hints: &'a [AtomicU64],
    // Constant after `new`.
    window: PageRange,
    cpus: usize,
    hardware: H,
}

/// Where the pages of a window are. May lag behind concurrent calls; pages that are being mapped
/// or unmapped are in none of these.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    /// Free.
    pub free: Pages,
    /// In a run.
    pub live: Pages,
    /// Unmapped, not yet shot down.
    pub dirty: Pages,
    /// Being shot down.
    pub flushing: Pages,
}

impl<'a, H> MapRam<'a, H> {
    /// How many words a window of `pages` and `cpus` CPUs need: eight for each 64 pages, eight for
    /// each CPU.
    #[must_use]
    pub const fn words_needed(pages: Pages, cpus: usize) -> usize {
        (pages.0 / GROUP_PAGES) as usize * GROUP_WORDS + cpus * HINT_WORDS
    }

    /// Maps over `words`, which it takes as they are; all zero: nothing is mapped. Let `words`
    /// begin a cache line.
    ///
    /// # Errors
    ///
    /// [`SetupError`].
    pub fn new(
        words: &'a [AtomicU64],
        cpus: usize,
        window: PageRange,
        hardware: H,
    ) -> Result<Self, SetupError> {
        if window.len.0 == 0 || !window.len.0.is_multiple_of(BLOCK_PAGES.0) {
            return Err(SetupError::Window { window });
        }
        if cpus == 0 {
            return Err(SetupError::NoCpu);
        }
        let needed = Self::words_needed(window.len, cpus);
        match words.get(..needed) {
            Some(words) => {
                let (hints, groups) = words.split_at(cpus * HINT_WORDS);
                Ok(MapRam { groups, hints, window, cpus, hardware })
            }
            None => Err(SetupError::Words { needed, given: words.len() }),
        }
    }

    /// Where the pages are. O(groups).
    #[must_use]
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for index in 0..self.blocks() * GROUPS {
            let [free, live, dirty, flushing] = self.group(index).counts();
            usage.free.0 += free;
            usage.live.0 += live;
            usage.dirty.0 += dirty;
            usage.flushing.0 += flushing;
        }
        usage
    }

    fn blocks(&self) -> usize {
        (self.window.len.0 / BLOCK_PAGES.0) as usize
    }

    fn group(&self, index: usize) -> Group<'a> {
        let start = Vpn(self.window.start.0 + index as u64 * GROUP_PAGES);
        Group::new(&self.groups[index * GROUP_WORDS..], start)
    }

    /// Where `cpu` begins to look. At first the CPUs are spread over the blocks.
    fn home(&self, cpu: usize) -> usize {
        let hint = self.hint(cpu).load(Ordering::Relaxed) as usize;
        match hint.checked_sub(1) {
            Some(group) => group % (self.blocks() * GROUPS),
            None => cpu % self.cpus * self.blocks() / self.cpus * GROUPS,
        }
    }

    fn hint(&self, cpu: usize) -> &'a AtomicU64 {
        &self.hints[cpu % self.cpus * HINT_WORDS]
    }

    /// Takes `len` pages: from the CPU's block, else from the nearest behind it.
    fn take(&self, cpu: usize, len: u64) -> Option<(Group<'a>, u64)> {
        let home = self.home(cpu);
        let (block, from) = (home / GROUPS, home % GROUPS);
        let here = (from..GROUPS).chain(0..from).map(|group| block * GROUPS + group);
        let blocks = self.blocks();
        let there = (1..blocks).flat_map(|other| {
            let first = (block + other) % blocks * GROUPS;
            first..first + GROUPS
        });
        for index in here.chain(there) {
            if let Some(first) = self.group(index).take(len) {
                if index != home {
                    self.hint(cpu).store(index as u64 + 1, Ordering::Relaxed);
                }
                return Some((self.group(index), first));
            }
        }
        None
    }
}

impl<H: Mapper + Tlb> MapRam<'_, H> {
    /// Makes every address space see what is later mapped in the window. Called once.
    ///
    /// # Errors
    ///
    /// [`MapError::NoTable`].
    pub fn prepare(&self) -> Result<(), MapError> {
        self.hardware.prepare(self.window)
    }

    /// Shows `frames`, 1 to 64 in all, side by side and in the order given; no guard page follows.
    /// The frames stay the caller's, and must stay so until [`MapRam::vm_unmap_aliases`] after
    /// their unmapping. `cpu` says in whose block to look first; any number will do.
    ///
    /// One atomic step to take the pages, one map an extent, two steps to make them live. Without
    /// room, up to 64 blocks are shot down at once, if this context may wait; what others are
    /// shooting down just then is waited for.
    ///
    /// # Errors
    ///
    /// [`MapRamError`]; nothing is mapped.
    pub fn vm_map_ram(
        &self,
        cpu: usize,
        frames: &[Extent],
        prot: Prot,
    ) -> Result<PageRange, MapRamError> {
        let len = frames.iter().fold(0_u64, |sum, run| sum.saturating_add(run.len.0));
        match len {
            0 => return Err(MapRamError::ZeroSize),
            1..=GROUP_PAGES => {}
            _ => return Err(MapRamError::TooLong { pages: Pages(len), limit: PAGES_MAX }),
        }
        let (group, first) = self.take_or_flush(cpu, len)?;
        let mut mapped = 0;
        for &run in frames.iter().filter(|run| run.len.0 > 0) {
            let at = group.pages(first + mapped, run.len.0).start;
            if let Err(e) = self.hardware.map_run(at, run, prot) {
                // CPUs may have looked at what was mapped: that needs a flush, the rest does not.
                if mapped > 0 {
                    let unmapped = unmap_run(&self.hardware, group.pages(first, mapped));
                    group.park(first, mapped, unmapped);
                }
                group.give_unmapped(first + mapped, len - mapped);
                return Err(MapRamError::Map(e));
            }
            mapped += run.len.0;
        }
        self.hardware.publish(group.pages(first, len));
        group.open(first, len);
        Ok(group.pages(first, len))
    }

    /// Unmaps the run of `count` pages whose first byte is `addr`. It is only unmapped: TLBs may
    /// show its frames until [`MapRam::vm_unmap_aliases`], or until its pages are given out again.
    /// Never waits; legal in interrupt handlers. One unmap, three atomic steps.
    ///
    /// # Errors
    ///
    /// [`UnmapRamError`]; nothing was unmapped. Linux: `BUG` for a bad address, and silence for
    /// another count.
    pub fn vm_unmap_ram(&self, addr: VirtAddr, count: Pages) -> Result<(), UnmapRamError> {
        let page = addr.vpn();
        if !addr.is_page_aligned() || !self.window.contains(page) {
            return Err(UnmapRamError::Stranger { addr });
        }
        let offset = page.0 - self.window.start.0;
        let (group, first) = (self.group((offset / GROUP_PAGES) as usize), offset % GROUP_PAGES);
        group.close(first, count.0).map_err(|e| match e {
            NotARun::Dead => UnmapRamError::NoRun { addr },
            NotARun::Interior { before } => {
                UnmapRamError::Interior { addr, base: Vpn(page.0 - before).addr() }
            }
            NotARun::Length { pages } => {
                UnmapRamError::WrongCount { given: count, mapped: Pages(pages) }
            }
        })?;
        let unmapped = unmap_run(&self.hardware, group.pages(first, count.0));
        group.park(first, count.0, unmapped);
        Ok(())
    }

    /// When it returns, no TLB shows a frame through a run that was unmapped before the call; nor
    /// through one whose shootdown another CPU has begun. Returns how many pages that made free.
    ///
    /// One shootdown each 64 blocks that need it, and none if nothing does. O(groups). What
    /// [`crate::Engine::vmap`] showed is [`crate::Engine::vm_unmap_aliases`]'s.
    ///
    /// # Errors
    ///
    /// [`AliasesError`]; nothing was flushed.
    pub fn vm_unmap_aliases(&self) -> Result<Pages, AliasesError> {
        let mut is_stale = (0..self.blocks() * GROUPS).map(|index| self.group(index).stale());
        if is_stale.all(|hull| hull.is_none()) {
            return Ok(Pages(0));
        }
        if !self.hardware.may_wait() {
            return Err(AliasesError::MayNotWait);
        }
        Ok(Pages(self.batches(0).map(|batch| self.shoot_down(batch, true).0).sum()))
    }

    /// Whether the words agree with each other and with the page tables, and nothing is between
    /// two states. Nobody else may be at work.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let is_mapped = |page| self.hardware.translate(page).is_some();
        (0..self.blocks() * GROUPS).all(|index| self.group(index).is_sound(is_mapped))
    }

    fn take_or_flush(&self, cpu: usize, len: u64) -> Result<(Group<'_>, u64), MapRamError> {
        let mut waits = 0;
        loop {
            if let Some(taken) = self.take(cpu, len) {
                return Ok(taken);
            }
            let usage = self.usage();
            if usage.dirty.0 > 0 && !self.hardware.may_wait() {
                return Err(MapRamError::MayNotWait { dirty: usage.dirty });
            }
            let from = self.home(cpu) / GROUPS;
            let mut freed = self.batches(from).map(|batch| self.shoot_down(batch, false));
            if usage.dirty.0 > 0 && freed.any(|pages| pages.0 > 0) {
                continue;
            }
            // Nothing was ours to flush. Asked now, not before: what was dirty when we counted may
            // be another CPU's by now, which frees it when all CPUs have answered.
            let mut groups = (0..self.blocks() * GROUPS).map(|index| self.group(index));
            let is_coming = groups.any(|group| group.may_hold(len));
            if !is_coming || waits == WAITS_MAX || !self.hardware.may_wait() {
                let Usage { free, dirty, flushing, .. } = self.usage();
                let flushing = Pages(flushing.0 + dirty.0);
                let no_room = MapRamError::NoRoom { wanted: Pages(len), free, flushing };
                return self.take(cpu, len).ok_or(no_room);
            }
            waits += 1;
            self.hardware.wait_for_others();
        }
    }

    /// All blocks, from one on, in batches that one shootdown can cover.
    fn batches(&self, from: usize) -> impl Iterator<Item = impl Iterator<Item = usize> + Clone> {
        let blocks = self.blocks();
        (0..blocks).step_by(BATCH).map(move |first| {
            (first..blocks.min(first + BATCH)).map(move |block| (from + block) % blocks)
        })
    }

    /// Makes what is dirty in `blocks` free, for one shootdown; with `aliases`, covers what other
    /// CPUs are flushing there, too. Does nothing if there is nothing to do.
    fn shoot_down(&self, blocks: impl Iterator<Item = usize> + Clone, aliases: bool) -> Pages {
        let mut pending = PendingFlush::empty();
        // Which groups of each block are ours to settle: a bit each.
        let mut claimed = [0_u16; BATCH];
        for (block, claimed) in blocks.clone().zip(&mut claimed) {
            let mut hull: Option<PageRange> = None;
            for group in 0..GROUPS {
                let group_of = self.group(block * GROUPS + group);
                *claimed |= u16::from(group_of.claim()) << group;
                // After the claim: what is ours is in it.
                hull = match (hull, group_of.stale()) {
                    (Some(hull), Some(stale)) => Some(hull.hull(stale)),
                    (hull, stale) => hull.or(stale),
                };
            }
            if let Some(hull) = hull.filter(|_| aliases || *claimed != 0) {
                pending = pending.join(&PendingFlush::parked(hull));
            }
        }
        if pending.is_empty() {
            return Pages(0);
        }
        let flushed = pending.shoot_down(&self.hardware);
        let mut freed = Pages(0);
        for (block, claimed) in blocks.zip(claimed) {
            for group in (0..GROUPS).filter(|group| claimed >> group & 1 == 1) {
                freed.0 += self.group(block * GROUPS + group).settle(&flushed).0;
            }
        }
        freed
    }
}
