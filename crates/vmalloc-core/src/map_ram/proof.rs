//! `vm_map_ram` under loom: two CPUs, and a window of which one group has room.
//!
//! Only that group's words, the tables of its pages and the CPUs' hints are loom's. All pages of the
//! other fifteen are live from first to last, so that nobody writes to their words, and who looks at
//! them finds no room there.

extern crate std;

use super::group::GROUP_WORDS;
use super::{BLOCK_PAGES, HINT_WORDS, MapRam, MapRamError, UnmapRamError};
use crate::flush::PendingFlush;
use crate::platform::{Mapper as _, Prot};
use crate::proof::explore::{Canary, Scenario, Walk, race_each_first};
use crate::proof::hardware::{Hardware, START};
use crate::sync::explored::{self, Sequential};
use crate::sync::{AtomicU64, Ordering};
use crate::{Extent, PageRange, Pages, Pfn, Vpn};
use std::boxed::Box;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

const CPUS: usize = 2;
const GROUP: u64 = 64;
/// The words of a group, by number: `group.rs`.
const USED: usize = 0;
const LIVE: usize = 1;
const ENDS: usize = 2;
const DIRTY: usize = 3;

struct World {
    hardware: Hardware,
    /// How many unmapped what there was to unmap.
    unmapped: Mutex<usize>,
}

impl World {
    /// Group 0 has room for `room` pages, its last ones.
    fn new(room: u64) -> World {
        let (hints, group) = (CPUS * HINT_WORDS, GROUP_WORDS);
        let rest = |len: u64| (0..len).map(|_| AtomicU64::new(0));
        let mut words = explored::words(0, GROUP as usize);
        words.extend(rest(BLOCK_PAGES.0 - GROUP));
        words.extend(explored::words(GROUP as usize, 1 + hints + group));
        words.extend(rest(BLOCK_PAGES.0 / GROUP * group as u64 - group as u64));
        let hardware = Hardware::over(BLOCK_PAGES, words);
        let world = World { hardware, unmapped: Mutex::default() };
        // Frame 1 onwards, so that each page has a frame of its own.
        let runs = (0..BLOCK_PAGES.0 / GROUP).map(|n| (n * GROUP, GROUP));
        for (first, len) in runs {
            world.map(Pfn(1 + first), len).unwrap();
        }
        world.unmap(START, GROUP).unwrap();
        world.ram().vm_unmap_aliases().unwrap();
        world.map(Pfn(1), GROUP - room).unwrap();
        world
    }

    fn ram(&self) -> MapRam<'_, &Hardware> {
        MapRam::new(self.hardware.piece(), CPUS, self.hardware.window(), &self.hardware).unwrap()
    }

    /// The words of group 0.
    fn group(&self, word: usize) -> &AtomicU64 {
        &self.hardware.piece()[CPUS * HINT_WORDS + word]
    }

    fn map(&self, pfn: Pfn, pages: u64) -> Result<PageRange, MapRamError> {
        let frames = [Extent { start: pfn, len: Pages(pages) }];
        self.ram().vm_map_ram(0, &frames, Prot::READ_WRITE)
    }

    fn unmap(&self, page: Vpn, pages: u64) -> Result<(), UnmapRamError> {
        self.ram().vm_unmap_ram(page.addr(), Pages(pages))
    }

    /// What an owner does with its run: all CPUs may use it.
    fn read(&self, page: Vpn, pfn: Pfn) {
        for cpu in 0..CPUS {
            assert_eq!(self.hardware.read(cpu, page), Some(pfn), "what a live page shows");
        }
    }

    /// Maps a frame, if there is room, reads it and unmaps it.
    fn use_one(&self, pfn: Pfn) {
        match self.map(pfn, 1) {
            Ok(run) => {
                self.read(run.start, pfn);
                let unmapped = self.unmap(run.start, 1);
                assert_eq!(unmapped, Ok(()), "an owner unmaps its run");
            }
            Err(MapRamError::NoRoom { .. }) => {}
            Err(e) => panic!("what a live page shows: {e}"),
        }
    }

    /// Maps the last page but `back` of group 0 in preparation; it has room there alone.
    fn last(&self, pfn: Pfn, back: u64) -> Vpn {
        let run = self.map(pfn, 1).unwrap();
        assert_eq!(run.start, Vpn(START.0 + GROUP - 1 - back));
        self.read(run.start, pfn);
        run.start
    }

    /// When all is quiet: words and tables agree, and nobody holds a page but who was not raced for.
    fn settle(&self, room: u64) {
        assert!(self.ram().is_sound(), "words and tables do not agree");
        let live = self.ram().usage().live;
        assert_eq!(live, Pages(BLOCK_PAGES.0 - room), "live pages");
        self.ram().vm_unmap_aliases().unwrap();
        assert_eq!(self.ram().usage().free, Pages(room), "a page is lost");
    }
}

fn run(name: &'static str, preemptions: usize, canary: Canary, body: fn()) {
    let (preemptions, needs) = (Some(preemptions), Sequential::Plain);
    Scenario { name, preemptions, needs, canary, body }.run();
}

fn check(world: World, room: u64, walks: Vec<Walk<World>>) {
    let world = Arc::new(world);
    race_each_first(&world, |world| &world.hardware.words, walks);
    world.settle(room);
}

/// Goal: a group's last page has one owner at a time, and shows the frame of that one to every CPU.
/// Method: two use it; who finds it dirty shoots it down first. A claim that does not look a second
/// time, whether what was dirty is so still, frees a page that is in use.
#[test]
fn last_page_has_one_owner_and_shows_its_frame() {
    fn race_for(first: fn(&World)) {
        let world = World::new(1);
        // It is dirty, and both CPUs have seen another frame there.
        let page = world.last(Pfn(5000), 0);
        world.unmap(page, 1).unwrap();
        let other = move |w: &World| {
            first(w);
            w.use_one(Pfn(5002));
        };
        check(world, 1, vec![Box::new(|w| w.use_one(Pfn(5001))), Box::new(other)]);
    }
    fn body() {
        race_for(|_| {});
    }
    fn wrong() {
        race_for(|w| {
            let dirty = w.group(DIRTY).load(Ordering::Acquire);
            let (ram, flushing) = (w.ram(), w.group(4));
            let is_free =
                flushing.compare_exchange(0, dirty, Ordering::AcqRel, Ordering::Acquire).is_ok();
            if dirty != 0 && is_free {
                w.group(DIRTY).fetch_and(!dirty, Ordering::AcqRel);
                let all = PendingFlush::parked(PageRange { start: START, len: Pages(GROUP) });
                ram.group(0).settle(&all.shoot_down(&ram.hardware));
            }
        });
    }
    let canary = Canary::Assert("what a live page shows", wrong);
    run("map_ram: two use the last page", 2, canary, body);
}

/// Goal: two who take from one group have different pages. Method: two map one of two pages each, and
/// keep it; a take that looks and then stores gives both the same.
#[test]
fn two_who_take_have_different_pages() {
    fn race_for(map: fn(&World, Pfn) -> Option<Vpn>) {
        let walk = move |pfn| {
            Box::new(move |w: &World| {
                let page = map(w, pfn).expect("there is room for two");
                w.read(page, pfn);
            }) as Walk<World>
        };
        check(World::new(2), 0, vec![walk(Pfn(5001)), walk(Pfn(5002))]);
    }
    fn body() {
        race_for(|w, pfn| w.map(pfn, 1).ok().map(|run| run.start));
    }
    fn wrong() {
        race_for(|w, pfn| {
            let used = w.group(USED).load(Ordering::SeqCst);
            let first = u64::from(used.trailing_ones());
            w.group(USED).store(used | 1 << first, Ordering::SeqCst);
            let (page, frame) = (Vpn(START.0 + first), Extent { start: pfn, len: Pages(1) });
            let _ = (&w.hardware).map_run(page, frame, Prot::READ_WRITE);
            w.ram().group(0).open(first, 1);
            Some(page)
        });
    }
    let canary = Canary::Assert("what a live page shows", wrong);
    run("map_ram: two take from one group", 3, canary, body);
}

/// Goal: a run is unmapped once. Method: two unmap it; a close that looks and then stores lets both.
#[test]
fn run_is_unmapped_once() {
    fn race_for(close: fn(&World, Vpn) -> bool) {
        let world = World::new(1);
        let page = world.last(Pfn(5000), 0);
        let close = || {
            Box::new(move |w: &World| *w.unmapped.lock().unwrap() += usize::from(close(w, page)))
                as Walk<World>
        };
        let world = Arc::new(world);
        race_each_first(&world, |world| &world.hardware.words, vec![close(), close()]);
        assert_eq!(*world.unmapped.lock().unwrap(), 1, "who unmapped one run");
        world.settle(1);
    }
    fn body() {
        race_for(|w, page| match w.unmap(page, 1) {
            Ok(()) => true,
            Err(e) => {
                assert_eq!(e, UnmapRamError::NoRun { addr: page.addr() });
                false
            }
        });
    }
    fn wrong() {
        race_for(|w, page| {
            let bit = 1 << (page.0 - START.0);
            let live = w.group(LIVE).load(Ordering::SeqCst);
            w.group(LIVE).store(live & !bit, Ordering::SeqCst);
            live & bit != 0
        });
    }
    let canary = Canary::Assert("who unmapped one run", wrong);
    run("map_ram: two unmap one run", 3, canary, body);
}

/// Goal: whoever sees a run live sees where it begins and ends. Method: a stranger unmaps the page
/// that another is mapping: there is no run, or it is that one. Without orderings it is a part of none.
#[test]
fn live_run_has_its_marks() {
    fn body() {
        let world = World::new(1);
        let map = |w: &World| _ = w.map(Pfn(5000), 1).unwrap();
        let unmap = |w: &World| {
            let page = Vpn(START.0 + GROUP - 1);
            match w.unmap(page, 1) {
                Ok(()) => *w.unmapped.lock().unwrap() += 1,
                Err(e) => assert_eq!(e, UnmapRamError::NoRun { addr: page.addr() }),
            }
        };
        let world = Arc::new(world);
        let walks: Vec<Walk<World>> = vec![Box::new(map), Box::new(unmap)];
        race_each_first(&world, |world| &world.hardware.words, walks);
        let unmapped = *world.unmapped.lock().unwrap() as u64;
        world.settle(unmapped);
    }
    run("map_ram: map against unmap", 3, Canary::Unordered, body);
}

/// Goal: a run is unmapped though the run before it goes at the same time. Method: two runs side by
/// side. If the run's beginning were told by its neighbour's bits, which are not read at once, it would
/// be taken for a part of that.
#[test]
fn run_is_unmapped_whatever_its_neighbour_does() {
    fn race_for(unmap: fn(&World, Vpn) -> Result<(), UnmapRamError>) {
        let world = World::new(2);
        let before = world.last(Pfn(5000), 1);
        let page = world.last(Pfn(5001), 0);
        let neighbour = move |w: &World| assert_eq!(w.unmap(before, 1), Ok(()));
        let own = move |w: &World| assert_eq!(unmap(w, page), Ok(()), "an owner unmaps its run");
        check(world, 2, vec![Box::new(neighbour), Box::new(own)]);
    }
    fn body() {
        race_for(|w, page| w.unmap(page, 1));
    }
    fn wrong() {
        race_for(|w, page| {
            let bit = page.0 - START.0;
            let live = w.group(LIVE).load(Ordering::Acquire);
            let ends = w.group(ENDS).load(Ordering::Acquire);
            if (live & !ends) >> (bit - 1) & 1 == 1 {
                let base = Vpn(page.0 - 1).addr();
                return Err(UnmapRamError::Interior { addr: page.addr(), base });
            }
            w.unmap(page, 1)
        });
    }
    let canary = Canary::Assert("an owner unmaps its run", wrong);
    run("map_ram: two neighbours unmap", 3, canary, body);
}

/// Goal: after `vm_unmap_aliases` no CPU reaches a frame that was unmapped before. Method: one unmaps
/// and calls it, while another, who needs room, shoots down the same page. If what another has claimed
/// were taken for gone, the frame would go home while a TLB shows it.
#[test]
fn frame_without_aliases_is_out_of_reach() {
    const FRAME: Pfn = Pfn(5000);
    fn race_for(flush: fn(&World)) {
        let world = World::new(1);
        let page = world.last(FRAME, 0);
        let leave = move |w: &World| {
            w.unmap(page, 1).unwrap();
            flush(w);
            assert!(!w.hardware.is_reached(FRAME), "a frame goes home that is shown");
        };
        check(world, 1, vec![Box::new(leave), Box::new(|w| w.use_one(Pfn(5001)))]);
    }
    fn body() {
        race_for(|w| _ = w.ram().vm_unmap_aliases().unwrap());
    }
    fn wrong() {
        race_for(|w| {
            let ram = w.ram();
            ram.batches(0).for_each(|batch| _ = ram.shoot_down(batch, false));
        });
    }
    let canary = Canary::Assert("a frame goes home that is shown", wrong);
    run("map_ram: aliases against a flush", 2, canary, body);
}
