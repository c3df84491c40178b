//! `vmap` of the same frames again, and what a caller must do before it gives them away.

use vmalloc_core::platform::Frames;
use vmalloc_core::{
    Area, Extent, FreeError, Kind, Order, Pages, Pfn, Prot, Publish, Request, VirtAddr,
};
use vmalloc_sim::{CPUS_PER_SPACE, KernelConfig, SimEngine, SimKernel};

const CONFIG: KernelConfig = KernelConfig::USUAL;

fn one(pfn: Pfn) -> Extent {
    Extent { start: pfn, len: Pages(1) }
}

/// `len` frames, no two of them neighbours in the order given.
fn scattered(kernel: &SimKernel<'_>, len: usize) -> Vec<Extent> {
    let mut all: Vec<Pfn> = (0..2 * len).map(|_| kernel.frames().take(Order(0)).unwrap()).collect();
    all.sort();
    let (kept, given): (Vec<_>, Vec<_>) = all.iter().enumerate().partition(|(i, _)| i % 2 == 0);
    given.into_iter().for_each(|(_, pfn)| kernel.frames().give(one(*pfn)));
    kept.into_iter().rev().map(|(_, pfn)| one(*pfn)).collect()
}

fn show(engine: &SimEngine<'_>, frames: &[Extent]) -> Area {
    engine.vmap(frames, Prot::READ_WRITE).unwrap()
}

fn hide(engine: &SimEngine<'_>, area: &Area) {
    let _ = engine.vunmap(area.addr()).unwrap();
}

/// Goal: the same frames in the same order with the same rights come back where they were, for no
/// shootdown, as another tenant; anything else does not. Method: few extents, and more than a
/// record holds.
#[test]
fn vmap_of_the_same_frames_is_revived_and_of_others_is_not() {
    for len in [1, 2, 3, 10] {
        SimKernel::run(CONFIG, |kernel| {
            let engine = kernel.engine(0);
            let frames = scattered(kernel, len);
            let first = show(engine, &frames);
            kernel.cpu(0).store(first.addr(), 77).unwrap();
            hide(engine, &first);
            let flushes = engine.stats().flushes;
            let again = show(engine, &frames);
            assert_eq!((again.id, again.pages), (first.id, first.pages), "{len} frames");
            assert_ne!(again.generation, first.generation);
            assert_eq!(kernel.cpu(1).load(again.addr()), Ok(77));
            assert_eq!((engine.stats().flushes, engine.stats().revives), (flushes, 1));
            assert_eq!(engine.find(again.addr()), Some(again));
            // In use it is nobody else's, though the frames are the same.
            let beside = show(engine, &frames);
            assert_ne!(beside.id, again.id);
            hide(engine, &beside);
            hide(engine, &again);
            let read_only = engine.vmap(&frames, Prot::READ).unwrap();
            assert!(![again.id, beside.id].contains(&read_only.id), "other rights");
            hide(engine, &read_only);
            let foreign = scattered(kernel, 1)[0];
            let longer = [&frames[..], &[foreign]].concat();
            let another_end = [&frames[..len - 1], &[foreign]].concat();
            let mut turned = frames.clone();
            turned[1.min(len - 1)..].reverse();
            let mut another_middle = frames.clone();
            another_middle[len / 2] = foreign;
            for other in
                [&another_middle, &longer, &another_end, &turned, &frames[..len - 1].to_vec()]
            {
                if other.is_empty() || *other == frames {
                    continue;
                }
                // Parked, and where the hint for its first frame leads.
                hide(engine, &show(engine, &frames));
                let shown = show(engine, other);
                let pfns = |area: &Area| -> Vec<Option<Pfn>> {
                    let page = |i| VirtAddr(area.addr().0 + i * 4096);
                    (0..area.pages.len.0).map(|i| engine.vmalloc_to_pfn(page(i))).collect()
                };
                let wanted: Vec<_> = other.iter().map(|run| Some(run.start)).collect();
                assert_eq!(pfns(&shown), wanted);
            }
        });
    }
}

/// Goal: what the caller brings as single frames or as one run is the same backing.
#[test]
fn vmap_of_neighbours_is_revived_however_they_are_written_down() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let start = kernel.frames().take(Order(2)).unwrap();
        let singly: Vec<Extent> = (0..4).map(|i| one(Pfn(start.0 + i))).collect();
        let first = show(engine, &singly);
        hide(engine, &first);
        let again = show(engine, &[Extent { start, len: Pages(4) }]);
        assert_eq!(again.id, first.id);
        hide(engine, &again);
        assert_ne!(show(engine, &singly[..3]).id, first.id, "fewer of them");
    });
}

/// Goal: after `vunmap` the pages still show the caller's frames, and after `vm_unmap_aliases` no
/// CPU reaches them, while what `vfree` parked stays warm. Method: a TLB entry on each CPU.
#[test]
fn unmap_aliases_takes_the_callers_frames_away_and_nothing_else() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let warm = engine.vmalloc(&Request::bytes(3 * 4096)).unwrap();
        let _ = engine.vfree(warm.addr()).unwrap();
        let areas: Vec<Area> = (0..70).map(|_| show(engine, &scattered(kernel, 2))).collect();
        for area in &areas {
            kernel.cpu(0).store(area.addr(), 1).unwrap();
            kernel.cpu(1).load(area.addr()).unwrap();
            hide(engine, area);
        }
        assert!(areas.iter().all(|area| kernel.cpu(1).load(area.addr()) == Ok(1)), "parked");
        let purged = engine.vm_unmap_aliases().unwrap();
        assert_eq!((purged.areas, purged.pages, purged.flushes), (70, Pages(140), 1));
        for cpu in [0, 1] {
            let faults = |area: &Area| kernel.cpu(cpu).load(area.addr()).is_err();
            assert!(areas.iter().all(faults), "a stale translation on CPU {cpu}");
        }
        assert_eq!(engine.find(warm.addr()).map(|area| area.kind), Some(Kind::Parked));
        assert_eq!(engine.vmalloc(&Request::bytes(3 * 4096)).unwrap().id, warm.id);
        assert_eq!(engine.vm_unmap_aliases().unwrap().areas, 0);
    });
}

/// Goal: the same of frames that another window's area shows, and this one attached to.
#[test]
fn unmap_aliases_takes_away_what_was_attached() {
    SimKernel::run(CONFIG, |kernel| {
        let (owner, guest) = (kernel.engine(0), kernel.engine(1));
        let there = kernel.cpu(CPUS_PER_SPACE);
        let area = show(owner, &scattered(kernel, 3));
        let token = owner.share(area.id, area.generation, Publish::Shared).unwrap();
        let seen = guest.attach(&token, Prot::READ_WRITE).unwrap();
        there.store(seen.addr(), 9).unwrap();
        hide(guest, &seen);
        assert_eq!(there.load(seen.addr()), Ok(9), "parked");
        assert_eq!(guest.vm_unmap_aliases().unwrap().areas, 1);
        assert!(there.load(seen.addr()).is_err(), "a stale translation");
        assert_eq!(kernel.cpu(0).load(area.addr()), Ok(9), "the owner's own");
    });
}

/// Goal: `vunmap_at_once` leaves no translation, and what it took away is not shown again from the
/// list; of what `vmalloc` made it is the wrong verb.
#[test]
fn vunmap_at_once_leaves_no_translation() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let frames = scattered(kernel, 3);
        let area = show(engine, &frames);
        kernel.cpu(1).store(area.addr(), 5).unwrap();
        let _ = engine.vunmap_at_once(area.addr()).unwrap();
        assert!(kernel.cpu(1).load(area.addr()).is_err(), "a stale translation");
        assert_eq!(engine.stats().parked_areas, 0);
        let again = show(engine, &frames);
        assert_eq!((kernel.cpu(0).load(again.addr()), engine.stats().revives), (Ok(5), 0));
        let owned = engine.vmalloc(&Request::bytes(4096)).unwrap();
        assert_eq!(engine.vunmap_at_once(owned.addr()), Err(FreeError::WrongVerb));
        assert!(engine.vfree(owned.addr()).is_ok(), "it was left as it was");
        assert!(engine.vmalloc(&Request::bytes(4096)).is_ok_and(|area| area.id == owned.id));
    });
}

/// Goal: the short way of a free refuses what the long one refuses, and says so as it does.
#[test]
fn short_free_refuses_what_the_long_one_refuses() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        for pages in [1, 3, 100, 448, 500] {
            let area = engine.vmalloc(&Request::bytes(pages * 4096)).unwrap();
            let (addr, inside) = (area.addr(), VirtAddr(area.addr().0 + 8));
            let interior = Err(FreeError::Interior { addr: inside, base: addr });
            assert_eq!(engine.vfree(inside), interior);
            assert_eq!(engine.vunmap(addr), Err(FreeError::WrongVerb));
            assert!(engine.vfree(addr).is_ok());
            assert_eq!(engine.vfree(addr), Err(FreeError::Twice { addr }));
        }
        assert_eq!(engine.vfree(VirtAddr(0)), Err(FreeError::Null));
        let stranger = VirtAddr(!4095);
        assert_eq!(engine.vfree(stranger), Err(FreeError::Stranger { addr: stranger }));
        kernel.purge();
        assert_eq!(kernel.verify(), Ok(()));
    });
}
