//! Who hands out address ranges.

use crate::raw::Tags;
use crate::tree::RangeTree;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use vmalloc_core::{Engine, Geometry, PAGE_SIZE, Pages, Request, VirtAddr};
use vmalloc_sim::scale::{Bare, Lanes, Words};

/// Hands out runs of pages.
pub trait Space: Send + Sync {
    /// Takes a run of so many pages; the first, or `None`.
    fn take(&self, pages: u64) -> Option<u64>;
    /// Gives a run back that `take` returned.
    fn give(&self, start: u64, pages: u64);
    /// The first page of the area around a page, for those that know.
    fn find(&self, page: u64) -> Option<u64>;
    /// The longest run that it could hand out, for those that can say.
    fn largest(&self) -> Option<u64> {
        None
    }
    /// Whether it knows.
    fn finds(&self) -> bool {
        true
    }
}

/// A contender with its name.
pub type Named = (&'static str, Box<dyn Space>);

/// Ours first, then the peers that can hold so many areas in sensible time.
pub fn all(window: u64, live: usize) -> Vec<Named> {
    let mut all = vec![ours(window), ours_eager(window), tree(window)];
    all.push(("BTreeMap, best fit", Box::new(Best::new(window))));
    all.push(("offset-allocator", Box::new(Offset::new(window, live))));
    if live <= 1_000 {
        // Scans: its cost grows with the areas.
        let space = range_alloc::RangeAllocator::new(0..window);
        all.push(("range-alloc", Box::new(Ranges(Mutex::new(space)))));
    }
    if live <= 15_000 {
        let arena = vmem::Arena::create("bench", 1, None, Tags).expect("a power of two");
        arena.add_span(1, window as usize).expect("an empty arena");
        all.push(("vmem", Box::new(Vmem(Mutex::new(arena)))));
    }
    all
}

/// The engine, as it is used: freed areas are parked, and purged when the limit is passed.
pub fn ours(window: u64) -> Named {
    ("ours", Box::new(Ours::new(window, false)))
}

/// The engine with every free unmapped, flushed and given back at once.
pub fn ours_eager(window: u64) -> Named {
    ("ours, nothing parked", Box::new(Ours::new(window, true)))
}

/// The augmented red-black tree.
pub fn tree(window: u64) -> Named {
    ("tree", Box::new(RangeTree::new(0, window)))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

/// The engine over a machine on which nothing costs anything, so that what is timed is its own work.
/// A thread counts in the lane of its CPU, which it says by [`vmalloc_sim::scale::be_cpu`].
struct Ours {
    engine: Engine<'static, Bare>,
    no_reuse: bool,
}

impl Ours {
    fn new(window: u64, no_reuse: bool) -> Ours {
        let geometry = Geometry::for_window(Pages(window.next_multiple_of(128)));
        // For the rest of the run: a benchmark's tables live as long as it does.
        let words: &'static Words = Box::leak(Box::new(Words::new(geometry.words())));
        let machine = Bare { lanes: Lanes::Own, shootdown: || () };
        // Linux: 32 MiB times log2 of the CPUs; here for two.
        Ours { engine: machine.engine(words, geometry, Pages(8192 * 2)), no_reuse }
    }
}

impl Space for Ours {
    fn largest(&self) -> Option<u64> {
        self.engine.purge().expect("a machine that flushes");
        Some(self.engine.stats().largest_request.0)
    }

    fn take(&self, pages: u64) -> Option<u64> {
        let request = Request::bytes(pages * PAGE_SIZE as u64);
        let request = if self.no_reuse { request.no_reuse() } else { request };
        self.engine.vmalloc(&request).ok().map(|area| area.pages.start.0)
    }

    fn give(&self, start: u64, _pages: u64) {
        let freed = self.engine.vfree(VirtAddr(start * PAGE_SIZE as u64)).expect("an area of ours");
        if freed.over_limit {
            self.engine.relieve().expect("a machine that flushes");
        }
    }

    fn find(&self, page: u64) -> Option<u64> {
        self.engine.find(VirtAddr(page * PAGE_SIZE as u64)).map(|area| area.pages.start.0)
    }
}

impl Space for RangeTree {
    fn largest(&self) -> Option<u64> {
        Some(RangeTree::longest(self))
    }

    fn take(&self, pages: u64) -> Option<u64> {
        // With its guard page, as ours and as Linux.
        RangeTree::take(self, pages + 1)
    }

    fn give(&self, start: u64, _pages: u64) {
        assert!(RangeTree::give(self, start));
    }

    fn find(&self, page: u64) -> Option<u64> {
        RangeTree::find(self, page)
    }
}

/// Holes by length and by address, areas by address: what one writes on a free afternoon.
struct Best(Mutex<BestFit>);

struct BestFit {
    by_len: BTreeSet<(u64, u64)>,
    holes: BTreeMap<u64, u64>,
    areas: BTreeMap<u64, u64>,
}

impl Best {
    fn new(window: u64) -> Best {
        let (by_len, holes) = (BTreeSet::from([(window, 0)]), BTreeMap::from([(0, window)]));
        Best(Mutex::new(BestFit { by_len, holes, areas: BTreeMap::new() }))
    }
}

impl Space for Best {
    fn largest(&self) -> Option<u64> {
        locked(&self.0).by_len.last().map(|&(len, _)| len)
    }

    fn take(&self, pages: u64) -> Option<u64> {
        let (mut best, pages) = (locked(&self.0), pages + 1);
        let &(len, start) = best.by_len.range((pages, 0)..).next()?;
        best.by_len.remove(&(len, start));
        best.holes.remove(&start);
        if len > pages {
            best.by_len.insert((len - pages, start + pages));
            best.holes.insert(start + pages, len - pages);
        }
        best.areas.insert(start, pages);
        Some(start)
    }

    fn give(&self, start: u64, _pages: u64) {
        let mut best = locked(&self.0);
        let (mut start, mut len) = best.areas.remove_entry(&start).expect("an area");
        if let Some((&below, &more)) = best.holes.range(..start).next_back()
            && below + more == start
        {
            best.holes.remove(&below);
            best.by_len.remove(&(more, below));
            (start, len) = (below, len + more);
        }
        if let Some(more) = best.holes.remove(&(start + len)) {
            best.by_len.remove(&(more, start + len));
            len += more;
        }
        best.holes.insert(start, len);
        best.by_len.insert((len, start));
    }

    fn find(&self, page: u64) -> Option<u64> {
        let best = locked(&self.0);
        let (&start, &len) = best.areas.range(..=page).next_back()?;
        (page < start + len).then_some(start)
    }
}

/// The crate offset-allocator, with what its caller must remember to free.
struct Offset(Mutex<Offsets>);

struct Offsets {
    allocator: offset_allocator::Allocator,
    // Its handle for each start: the caller's to keep, here by a hash of the start.
    handles: std::collections::HashMap<u64, offset_allocator::Allocation>,
}

impl Offset {
    fn new(window: u64, live: usize) -> Offset {
        let nodes = (live as u32 * 2 + 1024).min(1 << 22);
        let allocator = offset_allocator::Allocator::with_max_allocs(window as u32, nodes);
        Offset(Mutex::new(Offsets { allocator, handles: std::collections::HashMap::new() }))
    }
}

impl Space for Offset {
    fn largest(&self) -> Option<u64> {
        Some(u64::from(locked(&self.0).allocator.storage_report().largest_free_region))
    }

    fn take(&self, pages: u64) -> Option<u64> {
        let mut offsets = locked(&self.0);
        let handle = offsets.allocator.allocate(pages as u32 + 1)?;
        let start = u64::from(handle.offset);
        offsets.handles.insert(start, handle);
        Some(start)
    }

    fn give(&self, start: u64, _pages: u64) {
        let mut offsets = locked(&self.0);
        let handle = offsets.handles.remove(&start).expect("an area");
        offsets.allocator.free(handle);
    }

    fn find(&self, _page: u64) -> Option<u64> {
        None
    }

    fn finds(&self) -> bool {
        false
    }
}

struct Ranges(Mutex<range_alloc::RangeAllocator<u64>>);

impl Space for Ranges {
    fn take(&self, pages: u64) -> Option<u64> {
        locked(&self.0).allocate_range(pages + 1).ok().map(|range| range.start)
    }

    fn give(&self, start: u64, pages: u64) {
        locked(&self.0).free_range(start..start + pages + 1);
    }

    fn find(&self, _page: u64) -> Option<u64> {
        None
    }

    fn finds(&self) -> bool {
        false
    }
}

/// The crate vmem. It has a lock of its own, but is not `Sync`.
struct Vmem(Mutex<vmem::Arena<'static, 'static, Tags, Mutex<()>>>);

impl Space for Vmem {
    fn take(&self, pages: u64) -> Option<u64> {
        let policy = vmem::AllocPolicy::InstantFit;
        locked(&self.0).alloc(pages as usize + 1, policy).ok().map(|start| start as u64)
    }

    fn give(&self, start: u64, _pages: u64) {
        locked(&self.0).free(start as usize).expect("an area");
    }

    fn find(&self, _page: u64) -> Option<u64> {
        None
    }

    fn finds(&self) -> bool {
        false
    }
}
