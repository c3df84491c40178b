//! Services of `vmalloc` beyond the plain call, each as its rule.

use vmalloc_core::platform::{Frames, Mapper};
use vmalloc_core::{
    AllocError, BackError, Extent, Order, PageRange, Pages, Prot, Request, ShareError, VerifyError,
    VirtAddr, Vpn,
};
use vmalloc_sim::{KernelConfig, SimKernel};

/// Goal: a caller that may not wait is served although all frames are on the lazy list, where
/// Linux fails. Method: park everything in areas of 8 pages; ask for 3 without waiting.
#[test]
fn a_caller_that_may_not_wait_is_served_from_the_lazy_list() {
    let config = KernelConfig { frames: Pages(64), ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let engine = kernel.engine(0);
        let areas: Vec<_> =
            (0..8).map(|_| engine.vmalloc(&Request::bytes(8 * 4096)).unwrap()).collect();
        for area in &areas {
            let _ = engine.vfree(area.addr()).unwrap();
        }
        let flushes = kernel.hardware().counters().flushes;
        let small = engine.vmalloc(&Request::bytes(3 * 4096).no_wait().zeroed()).unwrap();
        assert_eq!(kernel.hardware().counters().flushes, flushes, "nothing was flushed");
        assert!(areas.iter().any(|area| area.addr() == small.addr()));
        assert_eq!((small.pages.len, small.bytes), (Pages(8), 3 * 4096));
        assert_eq!(kernel.cpu(0).load(small.addr()), Ok(0), "zeroed as asked");
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: what nothing parked is large enough for is an error at once, and nothing is purged.
/// Method: park single pages, ask for two.
#[test]
fn a_caller_that_may_not_wait_is_refused_when_nothing_parked_is_large_enough() {
    let config = KernelConfig { frames: Pages(16), ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let engine = kernel.engine(0);
        let areas: Vec<_> =
            (0..16).map(|_| engine.vmalloc(&Request::bytes(4096)).unwrap()).collect();
        for area in &areas {
            let _ = engine.vfree(area.addr()).unwrap();
        }
        let refused = engine.vmalloc(&Request::bytes(8192).no_wait());
        let (wanted, free) = (Pages(2), Pages(0));
        assert_eq!(refused, Err(AllocError::Back(BackError::NoFrames { wanted, free })));
        assert_eq!(engine.stats().parked, Pages(16));
        assert!(engine.vmalloc(&Request::bytes(8192)).is_ok(), "who may wait is served");
    });
}

/// Goal: an array whose size overflows is refused, not wrapped. Method: a product of 2^65.
#[test]
fn an_array_whose_size_overflows_is_too_big() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let engine = kernel.engine(0);
        let refused = engine.vmalloc(&Request::array(1 << 33, 1 << 32));
        assert!(matches!(refused, Err(AllocError::TooBig { bytes: u64::MAX, .. })), "{refused:?}");
        assert_eq!(engine.vmalloc(&Request::array(10, 1000)).map(|area| area.bytes), Ok(10_000));
    });
}

/// Goal: a dump of the window shows areas in use and nothing else. Method: a live, a parked, a
/// hole and guard pages in one read that begins and ends inside pages.
#[test]
fn vread_copies_live_areas_and_zeros_the_rest() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let (engine, cpu) = (kernel.engine(0), kernel.cpu(0));
        let areas: Vec<_> =
            (0..3).map(|_| engine.vmalloc(&Request::bytes(4096)).unwrap()).collect();
        for area in &areas {
            cpu.write(area.addr(), &[0xab; 4096]).unwrap();
        }
        let _ = engine.vfree(areas[1].addr()).unwrap();
        // Single pages lie two pages apart: page, guard, page, guard …
        let start = areas[0].addr().0 + 100;
        let mut out = vec![0x77; 5 * 4096];
        let live = engine.vread(VirtAddr(start), &mut out);
        assert_eq!(live, (4096 - 100) + 4096);
        for (i, byte) in out.iter().enumerate() {
            let page = (100 + i) / 4096;
            let want = if page == 0 || page == 4 { 0xab } else { 0 };
            assert_eq!(*byte, want, "byte {i}, of page {page}");
        }
        assert_eq!(engine.vread(VirtAddr(u64::MAX - 5), &mut out), 0, "a range that wraps");
        assert!(out.iter().all(|byte| *byte == 0));
    });
}

/// Goal: `vmalloc_to_pfn` says which frame shows, for areas in use only. Method: against the
/// tables, interior addresses included; then free.
#[test]
fn vmalloc_to_pfn_answers_for_areas_in_use_only() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vmalloc(&Request::bytes(3 * 4096)).unwrap();
        for page in 0..3 {
            let addr = VirtAddr(area.addr().0 + page * 4096 + 17);
            let shown = kernel.space(0).translate(addr.vpn()).map(|(pfn, _)| pfn);
            assert!(shown.is_some() && engine.vmalloc_to_pfn(addr) == shown);
        }
        assert_eq!(engine.vmalloc_to_pfn(VirtAddr(area.addr().0 + 3 * 4096)), None, "the guard");
        let _ = engine.vfree(area.addr()).unwrap();
        assert_eq!(engine.vmalloc_to_pfn(area.addr()), None, "parked, though still mapped");
    });
}

/// Goal: the same size again and again is revived, whatever lies parked before it that cannot be.
/// Method: park more mappings of a page than `revive` looks at; then allocate and free a page.
#[test]
fn what_was_parked_last_is_revived_behind_a_hundred_that_cannot_be() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let engine = kernel.engine(0);
        let frame = Extent { start: kernel.frames().take(Order(0)).unwrap(), len: Pages(1) };
        let shown: Vec<_> =
            (0..100).map(|_| engine.vmap(&[frame], Prot::READ_WRITE).unwrap()).collect();
        for area in &shown {
            let _ = engine.vunmap(area.addr()).unwrap();
        }
        for _ in 0..10 {
            let area = engine.vmalloc(&Request::bytes(4096)).unwrap();
            let _ = engine.vfree(area.addr()).unwrap();
        }
        let stats = engine.stats();
        assert_eq!((stats.revives, stats.parked_areas), (9, 101));
        engine.purge().unwrap();
        kernel.frames().give(frame);
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: what records an area's frames costs nothing where they are contiguous, and little where
/// they are not: 510 pieces a frame, where Linux has 8 bytes a page. Method: 300 pages of one
/// piece and 100 of single frames; count frames.
#[test]
fn extents_are_few_where_frames_are_contiguous() {
    SimKernel::run(KernelConfig { frames: Pages(1024), ..KernelConfig::default() }, |kernel| {
        let engine = kernel.engine(0);
        let whole = engine.vmalloc(&Request::bytes(256 * 4096)).unwrap();
        assert_eq!(kernel.frames_in_use(), Pages(256), "no frame for the record");
        let _ = engine.vfree(whole.addr()).unwrap();
        kernel.purge();
        let singles: Vec<_> = std::iter::from_fn(|| kernel.frames().take(Order(0)).ok()).collect();
        let (kept, given): (Vec<_>, Vec<_>) = singles.iter().partition(|pfn| pfn.0 % 2 == 0);
        let give = |&pfn: &_| kernel.frames().give(Extent { start: pfn, len: Pages(1) });
        given.iter().for_each(give);
        let scattered = engine.vmalloc(&Request::bytes(100 * 4096)).unwrap();
        assert_eq!(kernel.frames_in_use(), Pages(kept.len() as u64 + 100 + 1));
        let _ = engine.vfree(scattered.addr()).unwrap();
        kernel.purge();
        kept.iter().for_each(give);
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: where an area is not at one place for all, nobody gives one away, and it stays as it was.
#[test]
fn a_kernel_gives_no_area_away() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vmalloc(&Request::bytes(4096)).unwrap();
        let given = engine.give(area.id, area.generation, None);
        assert_eq!(given, Err(ShareError::Unsupported));
        assert_eq!(engine.find(area.addr()), Some(area));
    });
}

/// Goal: `verify` looks at the tables: a page of an area that shows nothing is told, and a guard page
/// that shows something. Method: a page unmapped by hand, and one mapped behind the area; of an area that is to be
/// reused, of one that is not, and of one that is parked.
#[test]
fn verify_tells_what_the_tables_should_not_show() {
    const PLAIN: Request = Request::bytes(3 * 4096);
    SimKernel::run(KernelConfig { frames: Pages(64), ..KernelConfig::default() }, |kernel| {
        let (engine, space) = (kernel.engine(0), kernel.space(0));
        for (request, parked) in [(PLAIN, false), (PLAIN.no_reuse(), false), (PLAIN, true)] {
            let area = engine.vmalloc(&request).unwrap();
            if parked {
                let _ = engine.vfree(area.addr()).unwrap();
            }
            let pages = |first: u64, len| PageRange {
                start: Vpn(area.pages.start.0 + first),
                len: Pages(len),
            };
            assert_eq!(engine.verify().map(|seen| seen.pages), Ok(Pages(3)));
            let frame = kernel.frames().take(Order(0)).unwrap();
            let run = Extent { start: frame, len: Pages(1) };
            space.map_run(pages(3, 1).start, run, Prot::READ).unwrap();
            let guard = pages(3, 1).start;
            assert_eq!(engine.verify(), Err(VerifyError::GuardMapped { page: guard }));
            space.unmap_run(pages(3, 1));
            assert!(engine.verify().is_ok());
            for page in [0, 2] {
                let shown = Extent {
                    start: space.translate(pages(page, 1).start).unwrap().0,
                    len: Pages(1),
                };
                space.unmap_run(pages(page, 1));
                let page = pages(page, 1).start;
                assert_eq!(engine.verify(), Err(VerifyError::Unmapped { page }));
                space.map_run(page, shown, Prot::READ_WRITE).unwrap();
            }
            kernel.frames().give(run);
            let _ = engine.vfree(area.addr());
            engine.purge().unwrap();
        }
        assert_eq!(kernel.verify(), Ok(()));
    });
}
