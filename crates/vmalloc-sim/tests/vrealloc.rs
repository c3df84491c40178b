//! `vrealloc`: one test a rule.

use vmalloc_core::platform::Frames;
use vmalloc_core::{
    AllocError, Area, BackError, Extent, FreeError, NodeId, Order, Pages, Prot, Publish, Request,
    ResizeError, VirtAddr, Vpn, VreallocError, flags,
};
use vmalloc_sim::{KernelConfig, Random, SimEngine, SimKernel, Step};

const PAGE: u64 = 4096;

fn config() -> KernelConfig {
    KernelConfig { frames: Pages(4096), nodes: 2, ..KernelConfig::USUAL }
}

fn byte(at: u64) -> u8 {
    (at % 251) as u8 + 1
}

fn fill(kernel: &SimKernel<'_>, area: &Area) {
    let bytes: Vec<u8> = (0..area.bytes).map(byte).collect();
    kernel.cpu(0).write(area.addr(), &bytes).unwrap();
}

/// Checks that `kept` bytes are those of [`fill`], and those behind, if `zeroed`, zeros, up to
/// the end of the area.
fn check(kernel: &SimKernel<'_>, area: &Area, kept: u64, zeroed: bool) {
    let mut bytes = vec![0; area.bytes as usize];
    kernel.cpu(1).read(area.addr(), &mut bytes).unwrap();
    let want = |at: u64| if at < kept { byte(at) } else { 0 };
    let end = if zeroed { area.bytes } else { kept.min(area.bytes) };
    let wrong = (0..end).find(|&at| bytes[at as usize] != want(at));
    assert_eq!(wrong, None, "first wrong byte of {area}");
    assert_eq!((kernel.hardware().stale_hits(), kernel.verify()), (0, Ok(())));
}

fn again(engine: &SimEngine<'_>, area: &Area, bytes: u64) -> Area {
    engine.vrealloc(Some(area.addr()), &Request::bytes(bytes)).unwrap().unwrap()
}

/// Goal: of nothing it makes an area. Method: `None`, with and without zeros; `None` and 0 bytes.
#[test]
fn vrealloc_of_nothing_allocates() {
    SimKernel::run(config(), |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vrealloc(None, &Request::bytes(5000).zeroed()).unwrap().unwrap();
        assert_eq!((area.bytes, area.pages.len), (5000, Pages(2)));
        check(kernel, &area, 0, true);
        assert_eq!(engine.vrealloc(None, &Request::bytes(0)), Ok(None));
        let refused = engine.vrealloc(None, &Request::bytes(u64::MAX));
        assert!(matches!(refused, Err(VreallocError::New(AllocError::TooBig { .. }))));
    });
}

/// Goal: 0 bytes free. Method: free so, and then again.
#[test]
fn vrealloc_to_nothing_frees() {
    SimKernel::run(config(), |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vmalloc(&Request::bytes(PAGE)).unwrap();
        assert_eq!(engine.vrealloc(Some(area.addr()), &Request::bytes(0)), Ok(None));
        assert_eq!(engine.stats().areas, 0);
        let twice = engine.vrealloc(Some(area.addr()), &Request::bytes(0));
        assert_eq!(twice, Err(VreallocError::Old(FreeError::Twice { addr: area.addr() })));
    });
}

/// Goal: an address that is nobody's, or not whole this member's, is an error of its own kind,
/// and nothing changes. Method: each; what lives there keeps its bytes.
#[test]
fn vrealloc_of_an_address_that_is_no_area_changes_nothing() {
    SimKernel::run(config(), |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vmalloc(&Request::bytes(3 * PAGE)).unwrap();
        fill(kernel, &area);
        let start = kernel.frames().take(Order(1)).unwrap();
        let frames = [Extent { start, len: Pages(2) }];
        let mapped = engine.vmap(&frames, Prot::READ_WRITE).unwrap();
        let published = engine.vmalloc(&Request::bytes(PAGE)).unwrap();
        engine.share(published.id, published.generation, Publish::Shared).unwrap();
        let before: Vec<Area> = engine.areas().collect();
        let refused = |addr: VirtAddr| match engine.vrealloc(Some(addr), &Request::bytes(PAGE)) {
            Err(VreallocError::Old(e)) => e,
            other => panic!("{addr}: {other:?}"),
        };
        let stranger = VirtAddr(PAGE);
        assert_eq!(refused(VirtAddr(0)), FreeError::Null);
        assert_eq!(refused(stranger), FreeError::Stranger { addr: stranger });
        let (addr, base) = (VirtAddr(area.addr().0 + PAGE), area.addr());
        assert_eq!(refused(addr), FreeError::Interior { addr, base });
        let addr = area.pages.end().addr();
        assert_eq!(refused(addr), FreeError::NoArea { addr });
        assert_eq!(refused(mapped.addr()), FreeError::WrongVerb);
        assert!(matches!(refused(published.addr()), FreeError::NotMine { .. }));
        assert_eq!(engine.areas().collect::<Vec<_>>(), before);
        let _ = engine.vunmap(mapped.addr()).unwrap();
        kernel.purge();
        frames.into_iter().for_each(|run| kernel.frames().give(run));
        check(kernel, &area, 3 * PAGE, false);
    });
}

/// Goal: an area that is not aligned as the new request wants is refused, and kept. Method: an
/// area at an odd page, 16 KiB wanted.
#[test]
fn vrealloc_of_a_misaligned_area_is_refused_and_the_area_kept() {
    SimKernel::run(config(), |kernel| {
        let engine = kernel.engine(0);
        let areas: Vec<Area> =
            (0..4).map(|_| engine.vmalloc(&Request::bytes(PAGE)).unwrap()).collect();
        let odd = areas.iter().find(|area| area.addr().0 % (4 * PAGE) != 0).unwrap();
        fill(kernel, odd);
        let request = Request::bytes(9 * PAGE).align_bytes(4 * PAGE);
        let misaligned = VreallocError::Misaligned { addr: odd.addr(), align_bytes: 4 * PAGE };
        assert_eq!(engine.vrealloc(Some(odd.addr()), &request), Err(misaligned));
        let wrong = engine.vrealloc(Some(odd.addr()), &Request::bytes(PAGE).align_bytes(0));
        assert!(matches!(wrong, Err(VreallocError::New(AllocError::BadAlign { .. }))));
        assert_eq!(engine.find(odd.addr()), Some(*odd));
        check(kernel, odd, PAGE, false);
    });
}

/// Goal: a shorter area keeps its place and its first bytes, and its frames come back. Method:
/// 700 pages to 100 to half a page, frames counted; Linux keeps them all before 7.2.
#[test]
fn vrealloc_to_less_returns_frames_in_place() {
    SimKernel::run(config(), |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vmalloc(&Request::bytes(700 * PAGE)).unwrap();
        fill(kernel, &area);
        for (bytes, pages) in [(100 * PAGE, 100), (PAGE / 2, 1)] {
            let short = again(engine, &area, bytes);
            assert_eq!(
                (short.addr(), short.bytes, short.pages.len),
                (area.addr(), bytes, Pages(pages))
            );
            assert_eq!(kernel.frames_in_use(), Pages(pages));
            check(kernel, &short, bytes, false);
        }
    });
}

/// Goal: a longer area grows where it lies, into its slot and behind it, at no copy. Method: to
/// every page of its own slot; and a large one into the hole behind it.
#[test]
fn vrealloc_to_more_grows_in_place_first() {
    SimKernel::run(config(), |kernel| {
        let engine = kernel.engine(0);
        for (from, to) in [(PAGE / 2, PAGE), (9 * PAGE, 10 * PAGE), (500 * PAGE, 1300 * PAGE)] {
            let area = engine.vmalloc(&Request::bytes(from)).unwrap();
            fill(kernel, &area);
            let long = again(engine, &area, to);
            assert_eq!((long.addr(), long.generation), (area.addr(), area.generation));
            assert_eq!((long.bytes, long.pages.len), (to, Pages::for_bytes(to)));
            check(kernel, &long, from, false);
        }
    });
}

/// Goal: what cannot grow in place moves, with its bytes, and the old place is free. Method: a
/// slot of 8 pages, to 20; odd lengths.
#[test]
fn vrealloc_moves_what_cannot_grow_in_place() {
    SimKernel::run(config(), |kernel| {
        let engine = kernel.engine(0);
        for odd in [0, 1, 7, 4095] {
            let area = engine.vmalloc(&Request::bytes(8 * PAGE - odd)).unwrap();
            fill(kernel, &area);
            let moved = again(engine, &area, 20 * PAGE);
            assert_ne!(moved.addr(), area.addr());
            check(kernel, &moved, area.bytes, false);
            let gone = engine.vfree(area.addr());
            assert_eq!(gone, Err(FreeError::Twice { addr: area.addr() }));
            let _ = engine.vfree(moved.addr()).unwrap();
        }
        assert_eq!(engine.stats().areas, 0);
    });
}

/// Goal: with zeros asked for at each call, all bytes behind the kept ones are zero: in a page
/// that stays, in pages that are new, in pages that come back after a shrink, and after a move.
/// Method: a random walk over lengths, every byte checked, with dirty frames all round.
#[test]
fn vrealloc_zeroes_every_byte_behind_those_it_keeps() {
    SimKernel::run(config(), |kernel| {
        let (engine, mut random) = (kernel.engine(0), Random::new(8));
        let dirt = engine.vmalloc(&Request::bytes(2000 * PAGE)).unwrap();
        fill(kernel, &dirt);
        let _ = engine.vfree(dirt.addr()).unwrap();
        kernel.purge();
        let request = |bytes: u64| Request::bytes(bytes).zeroed();
        let mut area = engine.vzalloc(&request(100)).unwrap();
        let (mut in_place, mut moved) = (0, 0);
        for round in 0..300 {
            if round % 6 == 5 {
                let _ = engine.vfree(area.addr()).unwrap();
                area = engine.vrealloc(None, &request(1 + random.below(PAGE))).unwrap().unwrap();
                check(kernel, &area, 0, true);
            }
            fill(kernel, &area);
            let bytes = match random.below(3) {
                0 => 1 + random.below(3 * PAGE),
                1 => area.bytes + random.below(600),
                _ => 1 + random.below(40 * PAGE),
            };
            let next = engine.vrealloc(Some(area.addr()), &request(bytes)).unwrap().unwrap();
            if next.addr() == area.addr() {
                in_place += 1
            } else {
                moved += 1
            }
            check(kernel, &next, area.bytes.min(bytes), true);
            // Nothing of the longer tenant shows when a shorter one grows again.
            if bytes < area.bytes {
                let grown = engine.vrealloc(Some(next.addr()), &request(next.pages.len.bytes()));
                check(kernel, &grown.unwrap().unwrap(), bytes, true);
            }
            area = engine.find(next.addr()).unwrap();
        }
        assert!(in_place > 20 && moved > 20, "{in_place} {moved}");
    });
}

/// Goal: a request for a node's frames only moves an area that was not made of them. Method: any
/// node to node 1 and on to node 0; then the same again stays.
#[test]
fn vrealloc_to_another_node_moves() {
    SimKernel::run(config(), |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vmalloc(&Request::bytes(4 * PAGE)).unwrap();
        fill(kernel, &area);
        let mut at = area.addr();
        for node in [1, 0] {
            let request = Request::bytes(4 * PAGE).this_node(NodeId(node));
            let moved = engine.vrealloc(Some(at), &request).unwrap().unwrap();
            assert_ne!(moved.addr(), at);
            for page in moved.pages.start.0..moved.pages.end().0 {
                let pfn = engine.vmalloc_to_pfn(Vpn(page).addr()).unwrap();
                assert_eq!(kernel.frames().node_of(pfn), Some(NodeId(node)));
            }
            check(kernel, &moved, 4 * PAGE, false);
            let stays = engine.vrealloc(Some(moved.addr()), &request).unwrap().unwrap();
            assert_eq!(stays.addr(), moved.addr());
            at = moved.addr();
        }
    });
}

/// Goal: a failed move leaves the old area whole and nothing else behind. Method: no room behind
/// it and too few frames for both; then each step of the move fails in turn.
#[test]
fn vrealloc_that_fails_keeps_the_old_area() {
    let config = KernelConfig { frames: Pages(64), ..KernelConfig::USUAL };
    SimKernel::run(config, |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vmalloc(&Request::bytes(8 * PAGE)).unwrap();
        fill(kernel, &area);
        let refused = engine.vrealloc(Some(area.addr()), &Request::bytes(60 * PAGE));
        let short = VreallocError::New(AllocError::Back(BackError::NoFrames {
            wanted: Pages(60),
            free: Pages(56),
        }));
        assert_eq!(refused, Err(short));
        let faults = kernel.hardware().faults();
        for step in [Step::TakeBulk, Step::MapRun] {
            faults.fail_from(step, 1);
            let result = engine.vrealloc(Some(area.addr()), &Request::bytes(20 * PAGE));
            assert!(faults.fired(step) > 0, "{step:?}");
            faults.reset();
            assert!(matches!(result, Err(VreallocError::New(_))), "{step:?}: {result:?}");
            assert_eq!((engine.find(area.addr()), engine.stats().areas), (Some(area), 1));
            check(kernel, &area, 8 * PAGE, false);
        }
    });
}

/// Goal: who may not wait is served without a flush: a shorter length is noted and the frames
/// kept; a longer one within them is noted, beyond them it moves. Method: by request and by
/// context.
#[test]
fn vrealloc_that_may_not_wait_keeps_frames_and_never_flushes() {
    SimKernel::run(config(), |kernel| {
        let engine = kernel.engine(0);
        let flushes = || kernel.hardware().counters().flushes;
        for by_context in [false, true] {
            let area = engine.vmalloc(&Request::bytes(8 * PAGE)).unwrap();
            fill(kernel, &area);
            let before = flushes();
            kernel.hardware().set_may_wait(!by_context);
            let request = |bytes: u64| match by_context {
                true => Request::bytes(bytes),
                false => Request::bytes(bytes).no_wait(),
            };
            let to = |at, bytes| engine.vrealloc(Some(at), &request(bytes)).unwrap().unwrap();
            let short = to(area.addr(), PAGE);
            assert_eq!((short.bytes, short.pages.len), (PAGE, Pages(8)));
            assert_eq!(to(area.addr(), 3 * PAGE).addr(), area.addr());
            let moved = to(area.addr(), 11 * PAGE);
            assert_ne!(moved.addr(), area.addr());
            assert_eq!(flushes(), before);
            kernel.hardware().set_may_wait(true);
            check(kernel, &moved, 3 * PAGE, false);
        }
    });
}

/// Goal: an area that a user may see keeps its frames when it gets shorter. Method: 8 pages for a
/// user, to one.
#[test]
fn vrealloc_keeps_the_frames_of_what_a_user_may_see() {
    SimKernel::run(config(), |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vmalloc(&Request::bytes(8 * PAGE).user()).unwrap();
        let short = again(engine, &area, 10);
        assert_eq!((short.bytes, short.pages.len), (10, Pages(8)));
        assert_ne!(short.flags & flags::USERMAP, 0);
        let stale = ResizeError::Stale { generation: area.generation + 1 };
        let refused = engine.resize(area.id, area.generation + 1, PAGE, false);
        assert_eq!(refused, Err(stale));
    });
}
