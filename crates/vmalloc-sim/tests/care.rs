//! Shrinkers, marks and bounded drains.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use vmalloc_core::frames::Buddy;
use vmalloc_core::kmalloc::Kmalloc;
use vmalloc_core::layout::Tables;
use vmalloc_core::platform::Frames;
use vmalloc_core::slab::Slabs;
use vmalloc_core::sync::AtomicU64 as Word;
use vmalloc_core::{
    AllocError, Area, Config, Engine, Extent, Geometry, Kind, Order, Owner, Paged, Pages, Request,
    Shrinker, VirtAddr, Vpn,
};
use vmalloc_sim::{AddressSpace, KernelConfig, SimEngine, SimKernel};

const PAGE: u64 = 4096;

fn words(len: usize) -> Vec<Word> {
    (0..len).map(|_| Word::new(0)).collect()
}

const GEOMETRY: Geometry = Geometry::for_window(Pages(8192));

type Third<'k> = Engine<'k, Paged<'k, &'k Buddy<'k>, AddressSpace>>;

/// One more window over a kernel's frames, to be set up as a test likes.
fn third<'k>(kernel: &'k SimKernel<'_>, table: &'k [Word]) -> Third<'k> {
    let machine = Paged::new(kernel.frames(), *kernel.backings(), kernel.space(1).clone());
    let config = Config {
        window_start: Vpn(0x10_0000),
        owner: Owner::FIRST,
        lazy_pages_max: Pages(1 << 20),
    };
    Engine::new(Tables::new(table, GEOMETRY).unwrap(), machine, config).unwrap()
}

fn park(engine: &SimEngine<'_>, count: u64, pages: u64) {
    let areas: Vec<Area> =
        (0..count).map(|_| engine.vmalloc(&Request::bytes(pages * PAGE)).unwrap()).collect();
    for area in areas {
        let _ = engine.vfree(area.addr()).unwrap();
    }
}

/// Frames that somebody keeps until he is asked for them.
struct Hoard<'k, 'a> {
    kernel: &'k SimKernel<'a>,
    runs: Mutex<Vec<Extent>>,
    asked: AtomicU64,
}

impl Shrinker for Hoard<'_, '_> {
    fn count(&self) -> Pages {
        Pages(self.runs.lock().unwrap().iter().map(|run| run.len.0).sum())
    }

    fn scan(&self, want: Pages) -> Pages {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut given = Pages(0);
        while let Some(run) = self.runs.lock().unwrap().pop_if(|_| given < want) {
            self.kernel.frames().give(run);
            given.0 += run.len.0;
        }
        given
    }
}

/// Goal: shrinkers are asked only when a purge did not help, in turn until one gives; what they
/// give is used, and when none gives anything the call fails. Method: two hoards behind a
/// window's engine over the kernel's frames.
#[test]
fn shrinkers_are_asked_only_when_a_purge_did_not_help() {
    let config = KernelConfig { frames: Pages(96), ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let hoard = |order: u8, count: usize| {
            let take = |_| Extent {
                start: kernel.frames().take(Order(order)).unwrap(),
                len: Order(order).pages(),
            };
            let runs = Mutex::new((0..count).map(take).collect());
            Hoard { kernel, runs, asked: AtomicU64::new(0) }
        };
        let (empty, full) = (hoard(0, 0), hoard(4, 2));
        let shrinkers: [&(dyn Shrinker + Sync); 2] = [&empty, &full];
        let asked = || (empty.asked.load(Ordering::Relaxed), full.asked.load(Ordering::Relaxed));
        // A third window, over the same frames.
        let table = words(GEOMETRY.words());
        let engine = third(kernel, &table).with_shrinkers(&shrinkers);
        engine.prepare().unwrap();
        let request = |pages: u64| Request::bytes(pages * PAGE);

        // 64 frames are free, 32 hoarded.
        let first = engine.vmalloc(&request(60)).unwrap();
        let _ = engine.vfree(first.addr()).unwrap();
        let held = engine.vmalloc(&request(50)).unwrap();
        assert_eq!(asked(), (0, 0), "the purge helped");
        assert!(engine.vmalloc(&request(20).no_wait()).is_err());
        assert_eq!(asked(), (0, 0), "who may not wait asks nobody");
        engine.vmalloc(&request(20)).unwrap();
        assert_eq!((asked(), full.count()), ((1, 1), Pages(0)), "20 are two runs of 16");
        let refused = engine.vmalloc(&request(60));
        assert!(matches!(refused, Err(AllocError::Back(_))), "{refused:?}");
        assert_eq!(asked(), (2, 2), "asked once each, and that was that");
        let _ = engine.vfree(held.addr()).unwrap();
        assert!(engine.purge().is_ok());
        for area in engine.areas() {
            let _ = engine.vfree(area.addr()).unwrap();
        }
        assert!(engine.purge().is_ok());
    });
}

/// Goal: a shrinker may free areas of the engine that asks it. Method: one that unmaps what it
/// keeps mapped, and a window that is full of it.
#[test]
fn a_shrinker_may_free_areas_of_the_engine_that_asks() {
    struct Cache<'e, 'a>(std::sync::OnceLock<&'e Third<'a>>, Mutex<Vec<VirtAddr>>);
    impl Shrinker for Cache<'_, '_> {
        fn count(&self) -> Pages {
            Pages(self.1.lock().unwrap().len() as u64)
        }
        fn scan(&self, _want: Pages) -> Pages {
            let Some(addr) = self.1.lock().unwrap().pop() else { return Pages(0) };
            let engine = self.0.get().expect("an engine");
            let area = engine.find(addr).expect("what is cached lives");
            let _ = engine.vfree(addr).expect("an area of its own");
            area.pages.len
        }
    }
    let config = KernelConfig { frames: Pages(64), ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let table = words(GEOMETRY.words());
        let cache = Cache(std::sync::OnceLock::new(), Mutex::default());
        let shrinkers: [&(dyn Shrinker + Sync); 1] = [&cache];
        let engine = third(kernel, &table).with_shrinkers(&shrinkers);
        engine.prepare().unwrap();
        assert!(cache.0.set(&engine).is_ok());
        for _ in 0..8 {
            let area = engine.vmalloc(&Request::bytes(8 * PAGE)).unwrap();
            cache.1.lock().unwrap().push(area.addr());
        }
        let area = engine.vmalloc(&Request::bytes(20 * PAGE)).unwrap();
        assert_eq!(cache.count(), Pages(5), "three were enough");
        let _ = engine.vfree(area.addr()).unwrap();
        while cache.scan(Pages(1)) > Pages(0) {}
        assert!(engine.purge().is_ok());
        assert_eq!(engine.stats().areas, 0);
    });
}

/// Goal: a kernel that is short of memory gets what the lazy list has, about as much as it asks
/// for. Method: park 40 areas of 4 pages; count; scan for 10 pages; scan for all.
#[test]
fn the_lazy_list_is_a_shrinker() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let engine = kernel.engine(0);
        park(engine, 40, 4);
        assert_eq!(engine.count(), Pages(160));
        let free = kernel.frames().free();
        assert_eq!(engine.scan(Pages(10)), Pages(12), "three areas");
        assert_eq!(kernel.frames().free().0 - free.0, 12);
        assert_eq!(engine.count(), Pages(148));
        while engine.scan(Pages(u64::MAX)) > Pages(0) {}
        assert_eq!((engine.count(), kernel.frames_in_use()), (Pages(0), Pages(0)));
        kernel.hardware().set_may_wait(false);
        park(engine, 1, 4);
        assert_eq!(engine.scan(Pages(1)), Pages(0), "not where waiting is forbidden");
        kernel.hardware().set_may_wait(true);
    });
}

/// Goal: empty slabs are counted, and given back no more than asked for. Method: objects of three
/// classes, all freed; scan for one frame, then for all.
#[test]
fn empty_slabs_are_counted_and_given_back_as_asked() {
    let config = KernelConfig { frames: Pages(256), ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        type Table<'t> = Slabs<'t, Buddy<'t>, AddressSpace>;
        type General<'t> = Kmalloc<'t, Buddy<'t>, AddressSpace>;
        let all = kernel.frames().extent();
        let (table, state) =
            (words(Table::words_needed(all.len, 64)), words(General::words_needed(64, 1)));
        let slabs = Slabs::format(&table, all, 64, kernel.frames(), kernel.space(0)).unwrap();
        let kmalloc = Kmalloc::new(slabs, &state, 1).unwrap();
        let objects: Vec<_> = [64, 512, 4096]
            .into_iter()
            .flat_map(|bytes| (0..40).map(move |_| bytes))
            .map(|bytes| kmalloc.kmalloc(bytes).unwrap())
            .collect();
        assert_eq!(kmalloc.count(), Pages(0), "none is empty");
        objects.into_iter().for_each(|addr| kmalloc.kfree(addr).unwrap());
        let held = kernel.frames_in_use();
        assert_eq!(kmalloc.count(), held, "all are empty");
        let given = kmalloc.scan(Pages(1));
        assert!(given >= Pages(1) && given <= Pages(16), "{given}: one slab");
        assert_eq!(kernel.frames_in_use().0, held.0 - given.0);
        assert_eq!(given.0 + kmalloc.scan(Pages(u64::MAX)).0, held.0);
        assert_eq!((kmalloc.count(), kernel.frames_in_use()), (Pages(0), Pages(0)));
    });
}

/// Goal: a drain goes from the high mark to the low one, in steps of 64 areas at most, and stops.
/// Method: park up to the mark and over it; step; list what is left.
#[test]
fn a_drain_goes_down_to_the_low_mark_in_bounded_steps() {
    let config = KernelConfig { frames: Pages(1024), ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let table = words(GEOMETRY.words());
        let engine = third(kernel, &table).with_marks(Pages(100), Pages(300));
        engine.prepare().unwrap();
        let areas: Vec<Area> =
            (0..310).map(|_| engine.vmalloc(&Request::bytes(PAGE)).unwrap()).collect();
        let mut over = 0;
        for (i, area) in areas.iter().enumerate() {
            let freed = engine.vfree(area.addr()).unwrap();
            assert_eq!(freed.over_limit, i >= 300, "after {} pages", i + 1);
            over += usize::from(freed.over_limit);
        }
        assert_eq!(over, 10);
        let unpurged = || engine.areas().filter(|area| area.kind == Kind::Parked).count();
        let mut steps = Vec::new();
        loop {
            let step = engine.drain_step().unwrap();
            if step.areas == 0 {
                break;
            }
            steps.push(step.areas);
            assert_eq!(unpurged(), 310 - steps.iter().sum::<usize>(), "listed, and no other");
        }
        assert_eq!(steps, [64, 64, 64, 18]);
        assert_eq!((unpurged(), engine.relieve().unwrap().areas), (100, 0));
        assert!(engine.purge().is_ok());
    });
}

/// Goal: what a caller does after a free over the limit empties the lazy list for one shootdown,
/// and touches nothing that lives between the areas it takes; no CPU sees a page of those again.
/// Method: every other area of 1 page stays in use; each page of the rest is in the TLB of a CPU.
#[test]
fn relieve_takes_all_that_is_parked_in_one_shootdown_and_nothing_in_use() {
    let config = KernelConfig { frames: Pages(4096), ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let table = words(GEOMETRY.words());
        let engine = third(kernel, &table).with_marks(Pages(0), Pages(600));
        engine.prepare().unwrap();
        let cpu = kernel.cpu(1);
        cpu.switch_to(kernel.space(1));
        let take = |pages| engine.vmalloc(&Request::bytes(pages * PAGE)).unwrap();
        let kept: Vec<Area> = (0..500).map(|i| [take(1), take(1 + i % 7)][0]).collect();
        let parked: Vec<Area> = engine
            .areas()
            .filter(|area| area.kind == Kind::Live && !kept.iter().any(|k| k.id == area.id))
            .collect();
        for area in kept.iter().chain(&parked) {
            cpu.store(area.addr(), area.addr().0).unwrap();
        }
        let held = kernel.frames_in_use();
        let pages: u64 = parked.iter().map(|area| area.pages.len.0).sum();
        for area in &parked {
            let _ = engine.vfree(area.addr()).unwrap();
        }
        let relieved = engine.relieve().unwrap();
        let all = vmalloc_core::Purged { areas: 500, pages: Pages(pages), flushes: 1 };
        assert_eq!(relieved, all);
        assert_eq!(kernel.frames_in_use(), Pages(held.0 - pages));
        assert!(parked.iter().all(|area| cpu.load(area.addr()).is_err()), "a stale translation");
        for area in &kept {
            assert_eq!(cpu.load(area.addr()), Ok(area.addr().0));
            let _ = engine.vfree(area.addr()).unwrap();
        }
        engine.purge().unwrap();
        assert_eq!(engine.verify().map(|seen| seen.areas + seen.parked), Ok(0));
    });
}

/// Goal: `relieve` goes down to the low mark and no further, and takes neighbours without what lives
/// beside them. Method: of areas of one page, side by side, each fourth but one stays in use.
#[test]
fn relieve_stops_at_the_low_mark_and_leaves_what_lives_between() {
    let config = KernelConfig { frames: Pages(4096), ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let table = words(GEOMETRY.words());
        let engine = third(kernel, &table).with_marks(Pages(100), Pages(200));
        engine.prepare().unwrap();
        let cpu = kernel.cpu(1);
        cpu.switch_to(kernel.space(1));
        let areas: Vec<Area> =
            (0..400).map(|_| engine.vmalloc(&Request::bytes(PAGE)).unwrap()).collect();
        areas.iter().for_each(|area| cpu.store(area.addr(), area.addr().0).unwrap());
        let lives = |i: usize| i % 4 == 1;
        for (_, area) in areas.iter().enumerate().filter(|(i, _)| !lives(*i)) {
            let _ = engine.vfree(area.addr()).unwrap();
        }
        let relieved = engine.relieve().unwrap();
        assert_eq!(relieved, vmalloc_core::Purged { areas: 200, pages: Pages(200), flushes: 1 });
        for (_, area) in areas.iter().enumerate().filter(|(i, _)| lives(*i)) {
            assert_eq!(cpu.load(area.addr()), Ok(area.addr().0));
        }
        let gone = areas.iter().filter(|area| cpu.load(area.addr()).is_err()).count();
        assert!(gone >= 200, "{gone} of those that were taken");
        assert_eq!(engine.verify().map(|seen| (seen.areas, seen.parked)), Ok((100, 100)));
    });
}

/// Goal: `relieve` takes chunks that lie further apart than a flush has ranges for. Method: 100 areas with
/// granules of their own and 20 in use between them.
#[test]
fn relieve_takes_more_chunks_than_a_flush_has_ranges() {
    let config = KernelConfig { lazy_pages_max: Pages(64), ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let engine = kernel.engine(0);
        let request = Request::bytes(PAGE).align_bytes(1 << 20);
        let areas: Vec<Area> = (0..120).map(|_| engine.vmalloc(&request).unwrap()).collect();
        let (kept, parked): (Vec<Area>, Vec<Area>) =
            areas.iter().partition(|area| (area.pages.start.0 >> 8) % 6 == 0);
        assert_eq!((kept.len(), parked.len()), (20, 100));
        kept.iter()
            .for_each(|area: &Area| kernel.cpu(0).store(area.addr(), area.addr().0).unwrap());
        for area in &parked {
            let _ = engine.vfree(area.addr()).unwrap();
        }
        let relieved = engine.relieve().unwrap();
        assert_eq!((relieved.areas, relieved.flushes), (parked.len(), 1));
        for area in kept {
            assert_eq!(kernel.cpu(0).load(area.addr()), Ok(area.addr().0));
        }
        assert_eq!(kernel.verify(), Ok(()));
    });
}
