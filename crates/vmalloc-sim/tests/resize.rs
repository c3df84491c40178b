//! An area made longer and shorter where it lies.

use vmalloc_core::{Area, Pages, Publish, Request, ResizeError, VirtAddr};
use vmalloc_sim::{KernelConfig, Random, SimKernel, Step};

const PAGE: u64 = 4096;

fn config() -> KernelConfig {
    KernelConfig { frames: Pages(8192), ..KernelConfig::default() }
}

/// Writes each page's number into it, from page `from` on.
fn mark(kernel: &SimKernel<'_>, area: &Area, from: u64) {
    for page in from..area.pages.len.0 {
        kernel.cpu(0).store(VirtAddr(area.addr().0 + page * PAGE), page + 1).unwrap();
    }
}

/// Checks those marks on both CPUs, and that the page behind faults on both.
fn check(kernel: &SimKernel<'_>, area: &Area) {
    for cpu in [kernel.cpu(0), kernel.cpu(1)] {
        for page in 0..area.pages.len.0 {
            let addr = VirtAddr(area.addr().0 + page * PAGE);
            assert_eq!(cpu.load(addr), Ok(page + 1), "page {page}");
        }
        assert!(cpu.load(area.pages.end().addr()).is_err(), "the guard");
    }
    assert_eq!(kernel.hardware().stale_hits(), 0);
    assert_eq!(kernel.verify(), Ok(()));
}

/// Goal: an area grows into its slot, and a solo area into the granules behind it, and keeps
/// address and contents. Method: 9 to 10 pages; then 500 to 511 to 1,300.
#[test]
fn an_area_grows_where_it_lies() {
    SimKernel::run(config(), |kernel| {
        let engine = kernel.engine(0);
        for sizes in [&[9, 10][..], &[500, 511, 1300]] {
            let mut area = engine.vmalloc(&Request::bytes(sizes[0] * PAGE)).unwrap();
            mark(kernel, &area, 0);
            for &pages in &sizes[1..] {
                let grown = engine.resize(area.id, area.generation, pages * PAGE, true).unwrap();
                assert_eq!((grown.addr(), grown.pages.len), (area.addr(), Pages(pages)));
                let first_new = VirtAddr(area.pages.end().0 * PAGE);
                assert_eq!(kernel.cpu(1).load(first_new), Ok(0), "zeroed as asked");
                mark(kernel, &grown, area.pages.len.0);
                area = grown;
                check(kernel, &area);
            }
        }
    });
}

/// Goal: what cannot be had in place is refused, and the area is as it was. Method: a slot that
/// is full; a solo area with a neighbour; size 0; a handle that is old; an area that is shared.
#[test]
fn a_resize_that_cannot_be_had_changes_nothing() {
    SimKernel::run(config(), |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vmalloc(&Request::bytes(8 * PAGE)).unwrap();
        mark(kernel, &area, 0);
        let resize = |area: &Area, bytes| engine.resize(area.id, area.generation, bytes, false);
        let (wanted, slot) = (Pages(10), Pages(9));
        assert_eq!(resize(&area, 9 * PAGE), Err(ResizeError::NoRoom { wanted, slot }));
        assert_eq!(resize(&area, 0), Err(ResizeError::ZeroSize));
        check(kernel, &area);

        let solo = engine.vmalloc(&Request::bytes(600 * PAGE)).unwrap();
        let _neighbour = engine.vmalloc(&Request::bytes(600 * PAGE)).unwrap();
        let refused = resize(&solo, 1000 * PAGE);
        assert!(matches!(refused, Err(ResizeError::NoRoom { .. })), "{refused:?}");

        let generation = area.generation;
        engine.share(area.id, generation, Publish::Shared).unwrap();
        assert_eq!(resize(&area, PAGE), Err(ResizeError::Stale { generation }));
        let _ = engine.vfree(area.addr()).unwrap();
        assert_eq!(resize(&area, PAGE), Err(ResizeError::Stale { generation }));
    });
}

/// Goal: shrinking gives the frames back at once, after one flush that covers them. Method: fill,
/// load through both CPUs' TLBs, shrink, count.
#[test]
fn a_shrink_flushes_before_the_frames_go_home() {
    SimKernel::run(config(), |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vmalloc(&Request::bytes(700 * PAGE)).unwrap();
        mark(kernel, &area, 0);
        check(kernel, &area);
        let (in_use, flushes) = (kernel.frames_in_use(), kernel.hardware().counters().flushes);
        let short = engine.resize(area.id, area.generation, 100 * PAGE - 5, false).unwrap();
        assert_eq!((short.pages.len, short.bytes), (Pages(100), 100 * PAGE - 5));
        assert_eq!(in_use.0 - kernel.frames_in_use().0, 600);
        assert_eq!(kernel.hardware().counters().flushes, flushes + 1);
        check(kernel, &short);
        let again = engine.resize(short.id, short.generation, 700 * PAGE, true).unwrap();
        mark(kernel, &again, 100);
        check(kernel, &again);
    });
}

/// Goal: whichever step of a grow fails, the area is as it was and nothing leaks. Method: count
/// the steps, then fail each in turn, over frames that are scattered.
#[test]
fn each_step_of_a_grow_fails_clean() {
    let config = KernelConfig { backings: 9000, ..config() };
    SimKernel::run(config, |kernel| {
        let engine = kernel.engine(0);
        // Take every frame singly and give back every other: each page is an extent then.
        let small: Vec<_> =
            std::iter::from_fn(|| engine.vmalloc(&Request::bytes(PAGE)).ok()).collect();
        for area in small.iter().step_by(2) {
            let _ = engine.vfree(area.addr()).unwrap();
        }
        kernel.purge();
        let area = engine.vmalloc(&Request::bytes(460 * PAGE)).unwrap();
        mark(kernel, &area, 0);
        let before = kernel.frames_in_use();
        let faults = kernel.hardware().faults();
        for step in Step::ALL {
            faults.reset();
            let grow = || engine.resize(area.id, area.generation, 2100 * PAGE, false);
            let grown = grow().unwrap();
            let steps = faults.seen(step);
            engine.resize(grown.id, grown.generation, 460 * PAGE, false).unwrap();
            for n in 1..=steps.min(40) {
                faults.reset();
                faults.fail_nth(step, n);
                if grow().is_ok() {
                    // A purge made it good: as it was.
                    engine.resize(area.id, area.generation, 460 * PAGE, false).unwrap();
                }
                faults.reset();
                let now = engine.find(area.addr()).unwrap();
                assert_eq!(now.pages.len, Pages(460), "{step:?} {n}");
                assert_eq!(kernel.frames_in_use(), before, "{step:?} {n}");
            }
            check(kernel, &area);
        }
    });
}

/// Goal: contents, frames and translations stay right over any sequence. Method: 3,000 random
/// resizes of a few areas among other traffic, each checked page by page.
#[test]
fn random_resizes_keep_contents_and_frames() {
    SimKernel::run(config(), |kernel| {
        let (engine, mut random) = (kernel.engine(0), Random::new(5));
        let mut areas: Vec<Area> = Vec::new();
        for step in 0..3_000 {
            if areas.len() < 4 {
                let request = Request::bytes((1 + random.below(600)) * PAGE);
                let area = engine.vmalloc(&request).unwrap();
                mark(kernel, &area, 0);
                areas.push(area);
            }
            let i = random.index(areas.len());
            let old = areas[i];
            if random.below(8) == 0 {
                let _ = engine.vfree(old.addr()).unwrap();
                areas.swap_remove(i);
                continue;
            }
            let bytes = (1 + random.below(900)) * PAGE;
            if let Ok(new) = engine.resize(old.id, old.generation, bytes, false) {
                assert_eq!(new.addr(), old.addr());
                mark(kernel, &new, old.pages.len.0.min(new.pages.len.0));
                areas[i] = new;
            }
            if step % 50 == 0 {
                areas.iter().for_each(|area| check(kernel, area));
            }
        }
        for area in areas {
            let _ = engine.vfree(area.addr()).unwrap();
        }
        kernel.purge();
        assert_eq!((kernel.frames_in_use(), kernel.verify()), (Pages(0), Ok(())));
    });
}
