//! What lives in the window, listed while it works. Linux: `/proc/vmallocinfo`, `/proc/meminfo`.
//!
//! The listing walks the tags in address order and takes a snapshot of each record; it holds
//! nothing, so allocation goes on meanwhile. An area that changes under the look is looked at
//! again, and left out if it will not hold still.

mod chunk;

use crate::class::GRANULE_SHIFT;
use crate::context::Context;
use crate::layout::Stat;
use crate::machine::Machine;
use crate::publish::Area;
use crate::record::{Kind, Record, flags};
use crate::slots::placed;
use crate::sync::Ordering;
use crate::tag::Tag;
use crate::units::{PAGE_SHIFT, Pages, Vpn};
use core::fmt;

/// How often a record that changes under the look is looked at again.
const LOOKS: usize = 4;

/// The areas of a window in address order, parked ones included.
pub struct Areas<'e, 'a, M> {
    context: &'e Context<'a, M>,
    granule: usize,
    slot: usize,
}

impl<'e, 'a, M: Machine> Areas<'e, 'a, M> {
    pub(crate) fn new(context: &'e Context<'a, M>) -> Self {
        Areas { context, granule: 0, slot: 0 }
    }

    fn look(&self, head: usize, slot: usize) -> Option<Area> {
        let record = Record::of(self.context.tables, head, slot);
        let look = || placed(self.context.tables, record);
        let (state, shape, pages) = (0..LOOKS).find_map(|_| look())?;
        let area = Area::new(self.context, record.id, pages, state, &shape);
        (state.kind != Kind::Free).then_some(area)
    }
}

impl<M: Machine> Iterator for Areas<'_, '_, M> {
    type Item = Area;

    fn next(&mut self) -> Option<Area> {
        let tables = self.context.tables;
        while self.granule < tables.geometry().granules {
            let head = self.granule;
            let tag = Tag::decode(tables.tag(head).load(Ordering::Acquire)).map(Tag::settled);
            let (granules, slots) = match tag {
                Some(Tag::Chunk(class)) => (class.chunk_granules(), class.slots()),
                Some(Tag::Solo { granules }) => (granules.max(1), 1),
                _ => (1, 0),
            };
            while self.slot < slots {
                self.slot += 1;
                if let Some(area) = self.look(head, self.slot - 1) {
                    return Some(area);
                }
            }
            self.granule = head.saturating_add(granules);
            self.slot = 0;
        }
        None
    }
}

/// One line of `vmallocinfo`, in Linux's format and order: the range and size with the guard page,
/// who asked, if anybody said, `pages=`, what it is. What Linux has no word for stands behind. A
/// parked area is an "unpurged vm_area".
impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.line(None, f)
    }
}

impl Area {
    /// What it is, in `vmallocinfo`'s word: `vmalloc`, `vmap`, `ioremap` or `sparse`.
    #[must_use]
    pub const fn what(&self) -> &'static str {
        if self.flags & flags::IOREMAP != 0 {
            "ioremap"
        } else if self.flags & (flags::SPARSE | flags::COMMIT) != 0 {
            "sparse"
        } else if self.flags & (flags::VMAP | flags::BORROWED | flags::PUT_PAGES) != 0 {
            "vmap"
        } else {
            "vmalloc"
        }
    }

    /// The line; with the physical address that a device's area shows, where that is known.
    fn line(&self, phys: Option<u64>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = Pages(self.pages.len.0 + self.guard.0);
        let start = self.addr().0;
        write!(f, "{start:#018x}-{:#018x} {:>7}", start + size.bytes(), size.bytes())?;
        if matches!(self.kind, Kind::Parked | Kind::Purging) {
            return write!(f, " unpurged vm_area");
        }
        if self.caller != 0 {
            write!(f, " {:#x}", self.caller)?;
        }
        write!(f, " pages={}", self.pages.len.0)?;
        if let Some(phys) = phys {
            write!(f, " phys={phys:#018x}")?;
        }
        write!(f, " {}", self.what())?;
        for (bit, name) in
            [(flags::USERMAP, "user"), (flags::HUGE, "huge"), (flags::READ_ONLY, "read-only")]
        {
            if self.flags & bit != 0 {
                write!(f, " {name}")?;
            }
        }
        match self.kind {
            Kind::Building => write!(f, " building"),
            Kind::Frozen => write!(f, " frozen"),
            Kind::Shared => write!(f, " shared"),
            Kind::Dying => write!(f, " dying"),
            Kind::Given => write!(f, " given"),
            _ => Ok(()),
        }?;
        match self.owner {
            Some(owner) => write!(f, " owner={}", owner.number()),
            None => Ok(()),
        }
    }
}

/// Totals of a window at about one moment. Pages, unless the name says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// The window. Linux: `VmallocTotal`.
    pub window: Pages,
    /// Areas in use, guards left out. Linux: `VmallocUsed`.
    pub used: Pages,
    /// Areas in use, in number.
    pub areas: usize,
    /// Parked areas, in number.
    pub parked_areas: usize,
    /// Parked pages, whose frames wait for reuse or a purge.
    pub parked: Pages,
    /// Granules that nobody owns, as pages.
    pub holes: Pages,
    /// The largest hole, as it is: without what a purge would make.
    pub largest_hole: Pages,
    /// The most pages that one request can have, in huge pages if need be: a hole or a free slot
    /// that is long enough, after a purge if need be, and frames for them. Where frames lie in
    /// more than two pieces, one in 510 of them lists the pieces. Linux: `VmallocChunk`, which
    /// says 0 whatever is true.
    pub largest_request: Pages,
    /// Frames in all.
    pub frames: Pages,
    /// Frames free.
    pub frames_free: Pages,
    /// Allocations made, in number, by members living and dead; likewise below.
    pub allocs: u64,
    /// Frees.
    pub frees: u64,
    /// Allocations served from the lazy list.
    pub revives: u64,
    /// Areas purged.
    pub purged: u64,
    /// Shootdowns.
    pub flushes: u64,
    /// Attachments.
    pub attaches: u64,
    /// Allocations refused.
    pub failures: u64,
    /// Areas that recovery took from the dead.
    pub recovered: u64,
}

impl Stats {
    /// The three lines about vmalloc in `/proc/meminfo`, in Linux's format.
    #[must_use]
    pub const fn meminfo(&self) -> Meminfo {
        Meminfo(*self)
    }
}

/// See [`Stats::meminfo`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meminfo(Stats);

impl fmt::Display for Meminfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kb = |pages: Pages| pages.bytes() / 1024;
        writeln!(f, "VmallocTotal:   {:>8} kB", kb(self.0.window))?;
        writeln!(f, "VmallocUsed:    {:>8} kB", kb(self.0.used))?;
        writeln!(f, "VmallocChunk:   {:>8} kB", kb(self.0.largest_request))
    }
}

/// The whole of `vmallocinfo`: a line an area, with the pages on each node where there are nodes.
/// See [`crate::Engine::vmallocinfo`].
pub struct VmallocInfo<'e, 'a, M>(pub(crate) &'e Context<'a, M>);

impl<M: Machine> fmt::Display for VmallocInfo<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for area in Areas::new(self.0) {
            area.line(self.phys(&area), f)?;
            if area.kind.is_in_use() {
                self.nodes(&area, f)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl<M: Machine> VmallocInfo<'_, '_, M> {
    /// Where a device lies that `area` shows in one piece.
    fn phys(&self, area: &Area) -> Option<u64> {
        if area.flags & flags::IOREMAP == 0 || !area.kind.is_in_use() {
            return None;
        }
        let pfn = |page| self.0.machine.translate(Vpn(page)).map(|(pfn, _)| pfn.0);
        let start = area.pages.start.0;
        let first = pfn(start)?;
        let mut pages = start..area.pages.end().0;
        pages.all(|page| pfn(page) == Some(first + (page - start))).then_some(first << PAGE_SHIFT)
    }

    /// ` N0=3 N1=9`.
    fn nodes(&self, area: &Area, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pages = [0_u32; 256];
        for page in area.pages.start.0..area.pages.end().0 {
            match self.0.machine.node_of(Vpn(page)) {
                Some(node) => pages[usize::from(node.0)] += 1,
                None if page == area.pages.start.0 => return Ok(()), // a machine without nodes
                None => {}
            }
        }
        let mut some = pages.iter().enumerate().filter(|&(_, &pages)| pages > 0);
        some.try_for_each(|(node, pages)| write!(f, " N{node}={pages}"))
    }
}

/// What [`crate::Engine::dump_obj`] says of an address, in Linux's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dump(pub(crate) Area);

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Area { pages, caller, .. } = self.0;
        let start = self.0.addr();
        write!(f, "{}-page vmalloc region starting at {start}", pages.len.0)?;
        write!(f, " allocated at {caller:#x}")
    }
}

/// Adds it all up. O(granules + areas).
pub(crate) fn stats<M: Machine>(context: &Context<'_, M>) -> Stats {
    let tables = context.tables;
    let geometry = tables.geometry();
    let sum = |which: Stat| -> u64 {
        let lanes = tables.stats(which).map(|lane| lane.load(Ordering::Relaxed));
        // Words that any member may write.
        lanes.fold(0, u64::saturating_add)
    };
    let granules = context.slots().granules;
    // Chunks that are kept for whoever comes next are holes for whoever needs one.
    let free = |g| if granules.is_free(g) { 1 } else { granules.idle_at(g) as u64 };
    let free = (0..geometry.granules).map(free).fold(0, u64::saturating_add);
    let largest = granules.largest(0).max(granules.largest(1)) as u64;
    let mut stats = Stats {
        window: geometry.pages(),
        holes: Pages(free << GRANULE_SHIFT),
        largest_hole: Pages(largest << GRANULE_SHIFT),
        largest_request: chunk::largest_request(context),
        frames: context.machine.capacity(),
        frames_free: context.machine.free(),
        allocs: sum(Stat::Fresh).saturating_add(sum(Stat::Revives)),
        frees: sum(Stat::Frees),
        revives: sum(Stat::Revives),
        purged: sum(Stat::Purged),
        flushes: sum(Stat::Flushes),
        attaches: sum(Stat::Attaches),
        failures: sum(Stat::Failures),
        recovered: sum(Stat::Recovered),
        ..Stats::default()
    };
    for area in Areas::new(context) {
        match area.kind {
            Kind::Parked | Kind::Purging => {
                stats.parked_areas += 1;
                stats.parked.0 += area.pages.len.0;
            }
            _ => {
                stats.areas += 1;
                stats.used.0 += area.pages.len.0;
            }
        }
    }
    stats
}

#[cfg(test)]
mod tests;
