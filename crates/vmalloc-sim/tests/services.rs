//! Services of `vmalloc` beyond the plain call, each as its rule.

use vmalloc_core::{AllocError, BackError, Pages, Request};
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
