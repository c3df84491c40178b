//! What a request may ask for beyond a size: nodes, limits, places, and never to fail.

use std::sync::atomic::{AtomicBool, Ordering};
use vmalloc_core::platform::{Frames, Mapper};
use vmalloc_core::{
    AllocError, Area, BackError, Extent, FramePolicy, NodeChoice, NodeId, Order, PageRange, Pages,
    Pfn, PolicyError, Request, VirtAddr, Vpn,
};
use vmalloc_sim::{KernelConfig, Random, SimKernel};

const PAGE: u64 = 4096;

fn two_nodes() -> KernelConfig {
    KernelConfig { frames: Pages(512), nodes: 2, ..KernelConfig::default() }
}

/// The frames behind an area, in the order of its pages.
fn frames(kernel: &SimKernel<'_>, area: &Area) -> Vec<Pfn> {
    let pages = area.pages.start.0..area.pages.end().0;
    pages.map(|page| kernel.space(0).translate(Vpn(page)).expect("mapped").0).collect()
}

fn node_of(kernel: &SimKernel<'_>, pfn: Pfn) -> NodeId {
    kernel.frames().node_of(pfn).expect("a node")
}

/// Goal: frames come from the node asked for while it has any, and then from others. Method: 512
/// frames of two nodes, in pieces; 200 and then 100 of node 1.
#[test]
fn a_preferred_node_serves_first_and_the_others_then() {
    SimKernel::run(two_nodes(), |kernel| {
        let engine = kernel.engine(0);
        let request = |pages: u64| Request::bytes(pages * PAGE).node(NodeId(1));
        let first = engine.vmalloc(&request(200)).unwrap();
        assert!(frames(kernel, &first).iter().all(|&pfn| node_of(kernel, pfn) == NodeId(1)));
        let second = engine.vzalloc(&request(100)).unwrap();
        let there = |area| {
            frames(kernel, area).iter().filter(|&&pfn| node_of(kernel, pfn) == NodeId(1)).count()
        };
        assert!((50..=56).contains(&there(&second)), "{} of 56, less records", there(&second));
        assert_eq!(kernel.cpu(0).load(second.addr()), Ok(0), "vzalloc_node is zeroed");
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: a node and huge pages go together. Method: 2 MiB of node 1, shown by leaves of 2 MiB: no
/// table of small pages is made. Linux: `vmalloc_huge_node`.
#[test]
fn huge_pages_come_from_the_node_asked_for() {
    SimKernel::run(KernelConfig { frames: Pages(4096), ..two_nodes() }, |kernel| {
        let engine = kernel.engine(0);
        let _small = engine.vmalloc(&Request::bytes(PAGE)).unwrap(); // makes the tables above
        for node in [NodeId(1), NodeId(0)] {
            let tables = kernel.hardware().counters().tables_in_use.0;
            let request = Request::bytes(2 << 20).align_bytes(2 << 20).huge().this_node(node);
            let area = engine.vmalloc(&request).unwrap();
            let frames = frames(kernel, &area);
            assert_eq!((frames.len(), area.addr().0 % (2 << 20), frames[0].0 % 512), (512, 0, 0));
            assert!(frames.iter().all(|&pfn| node_of(kernel, pfn) == node));
            assert!(frames.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0));
            let made = kernel.hardware().counters().tables_in_use.0 - tables;
            assert_eq!(made, 0, "a leaf of 2 MiB stands in a table that is there");
        }
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: a request for one node only is refused when that is full, and served when it is not,
/// whatever the other one has. Method: fill node 0 with areas of its own; then a purge.
#[test]
fn this_node_only_is_kept_to_even_when_others_are_free() {
    SimKernel::run(two_nodes(), |kernel| {
        let engine = kernel.engine(0);
        let request = |pages: u64| Request::bytes(pages * PAGE).this_node(NodeId(0));
        let areas: Vec<Area> = std::iter::from_fn(|| engine.vmalloc(&request(16)).ok()).collect();
        assert_eq!(areas.len(), 16, "256 frames, none of the other node's");
        for area in &areas {
            assert!(frames(kernel, area).iter().all(|&pfn| node_of(kernel, pfn) == NodeId(0)));
        }
        let policy = FramePolicy { node: NodeChoice::Only(NodeId(0)), ..FramePolicy::ANY };
        let refused = engine.vmalloc(&request(16));
        let none = BackError::NoneAllowed { wanted: Pages(16), policy };
        assert_eq!(refused, Err(AllocError::Back(none)));
        let _ = engine.vfree(areas[3].addr()).unwrap();
        assert!(engine.vmalloc(&request(9)).is_ok(), "after a purge");
        let most = Pages(256);
        let never = PolicyError::OutOfReach { wanted: Pages(257), most };
        let refused = engine.vmalloc(&request(257));
        assert_eq!(refused, Err(AllocError::Back(BackError::Policy(never))));
        let node = NodeId(2);
        let refused = engine.vmalloc(&Request::bytes(PAGE).node(node));
        assert_eq!(
            refused,
            Err(AllocError::Back(BackError::Policy(PolicyError::NoSuchNode { node })))
        );
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: a device that drives few address lines gets frames that it reaches, all of them if need
/// be and no others, also out of a pool in pieces. Method: a limit in the middle of the pool.
#[test]
fn frames_below_a_limit_are_below_it() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let engine = kernel.engine(0);
        let all = kernel.frames().extent();
        // The last power of two in the pool, in bytes.
        let log2 = (all.end().0 - 1).ilog2() as u8 + 12;
        let end = Pfn(1 << (log2 - 12));
        assert!(all.start < end && end < all.end(), "{all} has {end} inside");
        // Every third frame is taken: pieces of one and two.
        let taken: Vec<Pfn> =
            (0..all.len.0).map(|_| kernel.frames().take(Order(0)).unwrap()).collect();
        let (kept, given): (Vec<Pfn>, Vec<Pfn>) = taken.into_iter().partition(|pfn| pfn.0 % 3 == 0);
        given.iter().for_each(|&start| kernel.frames().give(Extent { start, len: Pages(1) }));
        let low = given.iter().filter(|&&pfn| pfn < end).count() as u64;
        let request = |pages: u64| Request::bytes(pages * PAGE).below_log2(log2);
        let refused = engine.vmalloc(&request(low + 1));
        assert!(
            matches!(refused, Err(AllocError::Back(BackError::NoneAllowed { .. }))),
            "{refused:?}"
        );
        // One frame holds the list of the pieces, and may be a low one.
        let area = engine.vmalloc(&request(low - 1).user()).unwrap();
        assert!(frames(kernel, &area).iter().all(|&pfn| pfn < end));
        kept.iter().for_each(|&start| kernel.frames().give(Extent { start, len: Pages(1) }));
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: a parked area is revived only for a request that would have taken its frames. Method:
/// park one of node 0; ask for the same shape of node 1, of any, and of node 0.
#[test]
fn an_area_of_another_policy_is_not_revived() {
    SimKernel::run(two_nodes(), |kernel| {
        let engine = kernel.engine(0);
        let of = |node| Request::bytes(3 * PAGE).this_node(NodeId(node));
        let parked = engine.vmalloc(&of(0)).unwrap();
        let _ = engine.vfree(parked.addr()).unwrap();
        let other = engine.vmalloc(&of(1)).unwrap();
        assert!(frames(kernel, &other).iter().all(|&pfn| node_of(kernel, pfn) == NodeId(1)));
        assert_ne!(engine.vmalloc(&of(1).no_wait()).unwrap().addr(), parked.addr());
        assert_eq!(engine.vmalloc(&of(0)).unwrap().addr(), parked.addr());
    });
}

/// Goal: an area that grows goes on under its policy. Method: node 1, from 20 to 200 pages.
#[test]
fn an_area_that_grows_keeps_its_node() {
    SimKernel::run(two_nodes(), |kernel| {
        let engine = kernel.engine(0);
        let request = Request::bytes(460 * PAGE).this_node(NodeId(1));
        assert!(engine.vmalloc(&request).is_err(), "256 frames a node");
        let area = engine.vmalloc(&Request::bytes(9 * PAGE).this_node(NodeId(1))).unwrap();
        let area = engine.resize(area.id, area.generation, 10 * PAGE, false).unwrap();
        assert!(frames(kernel, &area).iter().all(|&pfn| node_of(kernel, pfn) == NodeId(1)));
    });
}

/// Goal: an area bound to a range lies in it, guard included, or is refused. Method: ranges at
/// random, of any length; what is live must fit in, and a range that is full is found full.
#[test]
fn an_area_bound_to_a_range_lies_in_it_with_its_guard() {
    let config =
        KernelConfig { frames: Pages(4096), window: Pages(4096), ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let (engine, window) = (kernel.engine(0), kernel.window(0));
        let mut random = Random::new(11);
        // Chunks with room, in whose slots an area may find its place, too.
        for pages in (1..8).chain([20, 30, 40]) {
            engine.vmalloc(&Request::bytes(pages * PAGE)).unwrap();
        }
        let mut held: Vec<Area> = Vec::new();
        let mut served = 0;
        for _ in 0..600 {
            let start = window.start.0 + random.below(window.len.0 - 600);
            let range = PageRange { start: Vpn(start), len: Pages(1 + random.below(600)) };
            let pages = 1 + random.below(40);
            match engine.vmalloc(&Request::bytes(pages * PAGE).within(range)) {
                Ok(area) => {
                    served += 1;
                    assert!(area.pages.start >= range.start, "{area} in {range}");
                    assert!(area.pages.end() < range.end(), "{area} in {range}");
                    held.push(area);
                }
                Err(AllocError::BadRange { wanted, .. }) => assert!(wanted > range.len),
                Err(AllocError::NoHole { .. }) => {
                    // No whole granule begins in it where the area would fit.
                    let head = range.start.0.next_multiple_of(128);
                    let crowded = engine.areas().any(|area| area.pages.start < range.end());
                    assert!(head + pages + 1 > range.end().0 || crowded, "{range}");
                }
                Err(AllocError::Back(_)) => {}
                Err(e) => panic!("{e}"),
            }
            if held.len() > 12 {
                let area = held.swap_remove(random.index(held.len()));
                let _ = engine.vfree(area.addr()).unwrap();
            }
        }
        assert!(served > 50, "{served}");
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: an exact place can be asked for, is had once, and has it again after a purge. Method: a
/// range of exactly an area and its guard, in the window; and ranges that are not.
#[test]
fn an_exact_place_is_had_once() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let (engine, window) = (kernel.engine(0), kernel.window(0));
        let place = PageRange { start: Vpn(window.start.0 + 5 * 128), len: Pages(9) };
        let request = Request::bytes(8 * PAGE).within(place);
        let area = engine.vmalloc(&request).unwrap();
        assert_eq!(area.addr(), place.start.addr());
        let refused = engine.vmalloc(&request);
        assert!(matches!(refused, Err(AllocError::NoHole { .. })), "{refused:?}");
        let _ = engine.vfree(area.addr()).unwrap();
        assert_eq!(engine.vmalloc(&request).unwrap().addr(), place.start.addr(), "purged first");
        for range in [
            PageRange { len: Pages(8), ..place },
            PageRange { start: Vpn(window.start.0 - 1), len: Pages(20) },
            PageRange { start: Vpn(window.end().0 - 5), len: Pages(20) },
            PageRange { start: Vpn(u64::MAX - 3), len: Pages(20) },
            PageRange { start: place.start, len: Pages(u64::MAX) },
        ] {
            let refused = engine.vmalloc(&request.within(range));
            let (wanted, window) = (Pages(9), window);
            assert_eq!(refused, Err(AllocError::BadRange { range, wanted, window }));
        }
    });
}

/// Goal: a request that must not fail waits until others free something. Method: a full pool; a
/// second thread frees an area when the first has begun to wait.
#[test]
fn a_request_that_must_not_fail_waits_for_others() {
    let config = KernelConfig { frames: Pages(64), ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let engine = kernel.engine(0);
        let held: Vec<Area> =
            std::iter::from_fn(|| engine.vmalloc(&Request::bytes(8 * PAGE)).ok()).collect();
        let is_served = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let area = engine.vmalloc(&Request::bytes(9 * PAGE).no_fail());
                is_served.store(true, Ordering::SeqCst);
                area
            });
            while kernel.hardware().counters().waits == 0 && !waiter.is_finished() {
                std::thread::yield_now();
            }
            assert!(!is_served.load(Ordering::SeqCst), "nothing is free");
            for area in &held[..2] {
                let _ = engine.vfree(area.addr()).unwrap();
            }
            assert!(waiter.join().unwrap().is_ok());
        });
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: what never can be served is an error even for a request that must not fail, and so is one
/// that may not wait. Method: each kind; then a context that may not wait.
#[test]
fn a_request_that_must_not_fail_and_never_can_be_served_is_an_error() {
    let config = KernelConfig { frames: Pages(64), window: Pages(1024), ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let engine = kernel.engine(0);
        let refused = |request: Request| engine.vmalloc(&request.no_fail()).unwrap_err();
        assert_eq!(refused(Request::bytes(0)), AllocError::ZeroSize);
        assert!(matches!(refused(Request::bytes(65 * PAGE)), AllocError::TooBig { .. }));
        assert!(matches!(
            refused(Request::bytes(PAGE).align_bytes(3)),
            AllocError::BadAlign { .. }
        ));
        assert_eq!(refused(Request::bytes(PAGE).no_wait()), AllocError::MustWait);
        // The window begins 3 granules past a gigabyte and has 8: no multiple of a gigabyte.
        let aligned = refused(Request::bytes(PAGE).align_bytes(1 << 30));
        assert!(matches!(aligned, AllocError::NoHole { .. }), "{aligned:?}");
        let node = refused(Request::bytes(PAGE).this_node(NodeId(9)));
        assert!(matches!(node, AllocError::Back(BackError::Policy(_))), "{node:?}");

        let all = engine.vmalloc(&Request::bytes(64 * PAGE)).unwrap();
        kernel.hardware().set_may_wait(false);
        assert_eq!(refused(Request::bytes(PAGE)), AllocError::MustWait);
        kernel.hardware().set_may_wait(true);
        let _ = engine.vfree(all.addr()).unwrap();
        assert!(engine.vmalloc(&Request::bytes(PAGE).no_fail()).is_ok());
        assert_eq!(engine.find(VirtAddr(0)), None);
    });
}
