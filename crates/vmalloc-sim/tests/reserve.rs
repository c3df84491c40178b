//! Reservations, filled and emptied in parts.

use vmalloc_core::platform::{Frames, MapError, Mapper};
use vmalloc_core::{
    AllocError, Area, BackError, Cache, Extent, Fill, FillError, FreeError, Order, PageRange,
    Pages, Pfn, Request, ResizeError, VirtAddr, Vpn,
};
use vmalloc_sim::{Fault, KernelConfig, SimKernel, Step};

const CONFIG: KernelConfig =
    KernelConfig { frames: Pages(700), device_frames: Pages(16), ..KernelConfig::USUAL };

fn reservation(kernel: &SimKernel<'_>, pages: u64, fill: Fill) -> Area {
    kernel.engine(0).get_vm_area(&Request::bytes(pages * 4096), fill).unwrap()
}

fn part(area: &Area, first: u64, len: u64) -> PageRange {
    PageRange { start: Vpn(area.pages.start.0 + first), len: Pages(len) }
}

fn addr(area: &Area, page: u64) -> VirtAddr {
    VirtAddr(area.addr().0 + page * 4096)
}

fn run(start: Pfn, len: u64) -> Extent {
    Extent { start, len: Pages(len) }
}

/// Goal: pages alone: no frame, nothing mapped, nobody else's, given back whole; more than there
/// is memory. Linux: `get_vm_area`, `free_vm_area`.
#[test]
fn get_vm_area_reserves_pages_and_no_frame() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let area = reservation(kernel, 5000, Fill::Commit);
        assert_eq!(kernel.frames_in_use(), Pages(0));
        let va = addr(&area, 17);
        assert_eq!(kernel.cpu(0).load(va), Err(Fault::NotPresent { va }));
        let other = engine.vmalloc(&Request::bytes(4096)).unwrap();
        assert!(!area.pages.contains(other.pages.start));
        assert_eq!(kernel.verify(), Ok(()));
        let (id, generation) = (area.id, area.generation);
        let resized = engine.resize(id, generation, 4096, false);
        assert_eq!(resized, Err(ResizeError::NotMine));
        let wrong = engine.free_vm_area(other.id, other.generation);
        assert_eq!(wrong, Err(FreeError::WrongVerb));
        let _ = engine.free_vm_area(id, generation).unwrap();
        assert_eq!(engine.free_vm_area(id, generation), Err(FreeError::Stale { generation }));
        kernel.purge();
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: a reservation lies exactly where it was asked for, and there is one there only.
#[test]
fn a_reservation_is_placed_at_an_exact_address() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let window = kernel.window(0);
        let range = PageRange { start: Vpn(window.start.0 + 11 * 128), len: Pages(301) };
        let request = Request::bytes(300 * 4096).within(range);
        let area = engine.get_vm_area(&request, Fill::Frames).unwrap();
        assert_eq!(area.pages.start, range.start);
        let again = engine.get_vm_area(&request, Fill::Frames);
        assert!(matches!(again, Err(AllocError::NoHole { .. })), "{again:?}");
        let _ = engine.free_vm_area(area.id, area.generation).unwrap();
        assert_eq!(engine.get_vm_area(&request, Fill::Commit).unwrap().pages, area.pages);
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: committed pages are zeros and the engine's own frames, the others fault; decommitted
/// frames are home after one flush, and their pages fault on every CPU.
#[test]
fn commit_and_decommit_parts_of_a_reservation() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let area = reservation(kernel, 1000, Fill::Commit);
        let (id, generation) = (area.id, area.generation);
        engine.commit(id, generation, part(&area, 100, 50)).unwrap();
        engine.commit(id, generation, part(&area, 999, 1)).unwrap();
        assert_eq!(kernel.frames_in_use(), Pages(51));
        assert_eq!(kernel.verify(), Ok(()));
        for cpu in [kernel.cpu(0), kernel.cpu(1)] {
            assert_eq!(cpu.load(addr(&area, 100)), Ok(0));
            cpu.store(addr(&area, 149), 5).unwrap();
            assert!(cpu.load(addr(&area, 150)).is_err());
        }
        let by = engine.vmalloc_to_pfn(addr(&area, 149)).unwrap();
        let at = addr(&area, 149).vpn();
        let error = FillError::Map(MapError::Occupied { at, by });
        assert_eq!(engine.commit(id, generation, part(&area, 149, 3)), Err(error));

        let flushes = kernel.hardware().counters().flushes;
        engine.decommit(id, generation, part(&area, 90, 40)).unwrap();
        assert_eq!(kernel.hardware().counters().flushes, flushes + 1);
        assert_eq!(kernel.frames_in_use(), Pages(21));
        for cpu in [kernel.cpu(0), kernel.cpu(1)] {
            let va = addr(&area, 100);
            assert_eq!(cpu.load(va), Err(Fault::NotPresent { va }));
            assert_eq!(cpu.load(addr(&area, 149)), Ok(5));
        }
        assert_eq!(kernel.verify(), Ok(()));
        engine.commit(id, generation, part(&area, 100, 10)).unwrap();

        let off = kernel.hardware().interrupts_off();
        let may_not = engine.decommit(id, generation, part(&area, 100, 1));
        assert_eq!(may_not, Err(FillError::MayNotWait));
        let _ = engine.free_vm_area(id, generation).unwrap();
        drop(off);
        assert_eq!(kernel.verify(), Ok(()), "parked, frames and all");
        kernel.purge();
        assert_eq!(kernel.frames_in_use(), Pages(0));
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: 2 MiB that were committed at once are decommitted in parts.
#[test]
fn a_part_of_a_committed_huge_page_is_decommitted() {
    SimKernel::run(KernelConfig { frames: Pages(2048), ..CONFIG }, |kernel| {
        let engine = kernel.engine(0);
        let request = Request::bytes(4 << 20).align_bytes(2 << 20);
        let area = engine.get_vm_area(&request, Fill::Commit).unwrap();
        engine.commit(area.id, area.generation, part(&area, 0, 512)).unwrap();
        engine.decommit(area.id, area.generation, part(&area, 7, 300)).unwrap();
        assert_eq!(kernel.frames_in_use(), Pages(212));
        assert_eq!(kernel.cpu(0).load(addr(&area, 6)), Ok(0));
        assert!(kernel.cpu(0).load(addr(&area, 7)).is_err());
        assert_eq!(kernel.cpu(0).load(addr(&area, 307)), Ok(0));
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: a commit that fails at any step commits nothing, and says why; what a purge can free it
/// gets. Method: frames in crumbs; each step fails once; then more than there are frames.
#[test]
fn every_step_of_commit_fails_cleanly() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let crumbs: Vec<Pfn> = std::iter::from_fn(|| kernel.frames().take(Order(0)).ok()).collect();
        let (kept, given): (Vec<Pfn>, Vec<Pfn>) = crumbs.iter().partition(|pfn| pfn.0 % 2 == 0);
        given.iter().for_each(|pfn| kernel.frames().give(run(*pfn, 1)));
        let borrowed = Pages(kept.len() as u64);
        let area = reservation(kernel, 1000, Fill::Commit);
        let (id, generation) = (area.id, area.generation);
        let range = part(&area, 100, 100);
        let mut failed = 0;
        for step in Step::ALL {
            for nth in 1.. {
                kernel.hardware().faults().fail_nth(step, nth);
                let done = engine.commit(id, generation, range);
                let fired = kernel.hardware().faults().fired(step) == 1;
                kernel.hardware().faults().reset();
                assert_eq!(done.is_err(), fired, "{step:?} number {nth}: {done:?}");
                if !fired {
                    engine.decommit(id, generation, range).unwrap();
                }
                assert_eq!(kernel.frames_in_use(), borrowed, "{step:?} number {nth}");
                assert_eq!(kernel.verify_with(borrowed), Ok(()), "{step:?} number {nth}");
                if !fired {
                    break;
                }
                failed += 1;
            }
        }
        assert!(failed >= 100, "a map call for each crumb: {failed}");
        let parked = engine.vmalloc(&Request::bytes(200 * 4096)).unwrap();
        let _ = engine.vfree(parked.addr()).unwrap();
        engine.commit(id, generation, part(&area, 0, 300)).unwrap();
        let error = engine.commit(id, generation, part(&area, 300, 300)).unwrap_err();
        assert!(matches!(error, FillError::Back(BackError::NoFrames { .. })), "{error}");
        assert_eq!(kernel.verify_with(borrowed), Ok(()));
    });
}

/// Goal: the rules of `vm_area_map_pages`, and all or nothing. Linux leaves the pages before one
/// that is in the way mapped, and says `ENOMEM`.
#[test]
fn map_pages_is_all_or_nothing_and_for_sparse_areas_only() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let frames = run(kernel.frames().take(Order(3)).unwrap(), 8);
        let half = run(frames.start, 4);
        let sparse = reservation(kernel, 1000, Fill::Frames);
        let map = |area: &Area, range, runs: &[Extent]| {
            engine.map_pages(area.id, area.generation, range, runs)
        };
        map(&sparse, part(&sparse, 6, 4), &[half]).unwrap();
        kernel.cpu(0).store(addr(&sparse, 6), 1).unwrap();
        let at = sparse.pages.start.0 + 6;
        let occupied = MapError::Occupied { at: Vpn(at), by: frames.start };
        let runs = [run(Pfn(frames.start.0 + 4), 4), half];
        let in_the_way = map(&sparse, part(&sparse, 2, 8), &runs);
        assert_eq!(in_the_way, Err(FillError::Map(occupied)));
        assert_eq!(kernel.space(0).translate(addr(&sparse, 2).vpn()), None, "nothing of it");

        for outside in [part(&sparse, 997, 4), part(&sparse, 1000, 4), part(&sparse, 3, 0)] {
            let area = sparse.pages;
            let error = FillError::OutOfArea { part: outside, area };
            assert_eq!(map(&sparse, outside, &[half]), Err(error));
        }
        let error = FillError::Length { pages: Pages(5), frames: Pages(4) };
        assert_eq!(map(&sparse, part(&sparse, 20, 5), &[half]), Err(error));
        let plain = engine.vmalloc(&Request::bytes(4 * 4096)).unwrap();
        assert_eq!(map(&plain, plain.pages, &[half]), Err(FillError::WrongKind));
        let commit = engine.commit(sparse.id, sparse.generation, part(&sparse, 30, 1));
        assert_eq!(commit, Err(FillError::WrongKind));

        engine.unmap_pages(sparse.id, sparse.generation, part(&sparse, 7, 900)).unwrap();
        let va = addr(&sparse, 7);
        assert_eq!(kernel.cpu(0).load(va), Err(Fault::NotPresent { va }));
        assert_eq!(kernel.cpu(0).load(addr(&sparse, 6)), Ok(1));
        let _ = engine.free_vm_area(sparse.id, sparse.generation).unwrap();
        kernel.purge();
        assert!(!kernel.frames().is_free(frames.start), "they stay their owner's");
        kernel.frames().give(frames);
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: frames are shown all, or none of them. Method: single frames at a border of tables; each
/// step fails once.
#[test]
fn every_step_of_map_pages_fails_cleanly() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let mut mine: Vec<Pfn> = (0..40).map(|_| kernel.frames().take(Order(0)).unwrap()).collect();
        mine.sort_by_key(|pfn| (pfn.0 % 2, pfn.0));
        let runs: Vec<Extent> = mine.iter().map(|&pfn| run(pfn, 1)).collect();
        let area = reservation(kernel, 3000, Fill::Frames);
        let border = 512 - area.pages.start.0 % 512;
        let range = part(&area, 512 + border - 20, 40);
        let mut failed = 0;
        for step in Step::ALL {
            for nth in 1.. {
                kernel.hardware().faults().fail_nth(step, nth);
                let done = engine.map_pages(area.id, area.generation, range, &runs);
                let fired = kernel.hardware().faults().fired(step) == 1;
                kernel.hardware().faults().reset();
                assert_eq!(done.is_err(), fired, "{step:?} number {nth}: {done:?}");
                if !fired {
                    kernel.cpu(0).store(range.start.addr(), nth).unwrap();
                    engine.unmap_pages(area.id, area.generation, range).unwrap();
                }
                let shown = kernel.space(0).first_mapped(area.pages);
                assert_eq!(shown, None, "{step:?} number {nth}");
                assert_eq!(kernel.verify_with(Pages(40)), Ok(()), "{step:?} number {nth}");
                if !fired {
                    break;
                }
                failed += 1;
            }
        }
        assert!(failed >= 40, "a map call for each frame, and tables: {failed}");
        let _ = engine.free_vm_area(area.id, area.generation).unwrap();
        kernel.purge();
        runs.iter().for_each(|&run| kernel.frames().give(run));
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: `ioremap_page_range` fills exactly the area that was reserved for it.
#[test]
fn ioremap_page_range_must_match_its_area_exactly() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let device = kernel.hardware().ram().device_frames();
        let area = reservation(kernel, 3, Fill::Device);
        let show = |area: &Area, range, pfn| {
            engine.ioremap_page_range(area.id, area.generation, range, pfn, Cache::Uncached)
        };
        for wrong in [part(&area, 0, 2), part(&area, 1, 2), part(&area, 0, 4)] {
            let error = FillError::OutOfArea { part: wrong, area: area.pages };
            assert_eq!(show(&area, wrong, device.start), Err(error));
        }
        let sparse = reservation(kernel, 3, Fill::Frames);
        assert_eq!(show(&sparse, sparse.pages, device.start), Err(FillError::WrongKind));
        let ram = kernel.frames().extent().start;
        let error = show(&area, area.pages, ram).unwrap_err();
        assert!(matches!(error, FillError::Back(BackError::IsRam { .. })), "{error}");
        show(&area, area.pages, device.start).unwrap();
        kernel.cpu(0).store(addr(&area, 2), 9).unwrap();
        let again = show(&area, area.pages, device.start);
        assert!(matches!(again, Err(FillError::Map(MapError::Occupied { .. }))));
        let _ = engine.free_vm_area(area.id, area.generation).unwrap();
        kernel.purge();
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: two threads may fill one reservation. Method: each commits and decommits a part of its own.
#[test]
fn threads_fill_parts_of_one_reservation() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let area = &reservation(kernel, 1000, Fill::Commit);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                scope.spawn(move || {
                    for round in 0..200 {
                        let range = part(area, thread * 500 + round, 20);
                        while engine.commit(area.id, area.generation, range) == Err(FillError::Busy)
                        {
                        }
                        while engine.decommit(area.id, area.generation, range)
                            == Err(FillError::Busy)
                        {}
                    }
                });
            }
        });
        assert_eq!(kernel.frames_in_use(), Pages(0));
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: nothing is filled of an area that is freed, or that is another tenant's by now.
#[test]
fn a_reservation_that_is_gone_is_not_filled() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let area = reservation(kernel, 10, Fill::Commit);
        let generation = area.generation + 1;
        let stale = Err(FillError::Stale { generation });
        assert_eq!(engine.commit(area.id, generation, part(&area, 0, 1)), stale);
        let _ = engine.free_vm_area(area.id, area.generation).unwrap();
        let stale = Err(FillError::Stale { generation: area.generation });
        assert_eq!(engine.commit(area.id, area.generation, part(&area, 0, 1)), stale);
        assert_eq!(engine.decommit(area.id, area.generation, part(&area, 0, 1)), stale);
        kernel.purge();
        assert_eq!((kernel.frames_in_use(), kernel.verify()), (Pages(0), Ok(())));
    });
}

/// Goal: a frame behind the last that there can be is refused, be it a device's or the caller's.
#[test]
fn no_frame_is_shown_that_there_cannot_be() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let device = reservation(kernel, 1, Fill::Device);
        let sparse = reservation(kernel, 4, Fill::Frames);
        for (pfn, len) in [((1 << 40) - 1, 2), (1 << 40, 1), (1 << 40, 3), (u64::MAX, 1)] {
            let frames = run(Pfn(pfn), len);
            let refused = Err(FillError::Back(BackError::NoSuchFrames { run: frames }));
            let (id, generation) = (sparse.id, sparse.generation);
            let part = part(&sparse, 0, len);
            assert_eq!(engine.map_pages(id, generation, part, &[frames]), refused);
            if len == 1 {
                let (id, generation, whole) = (device.id, device.generation, device.pages);
                let pfn = frames.start;
                let shown = engine.ioremap_page_range(id, generation, whole, pfn, Cache::Uncached);
                assert_eq!(shown, refused);
            }
        }
        assert_eq!(kernel.verify(), Ok(()));
    });
}
