//! What was parked and not used goes back, over page tables.

use vmalloc_core::{Area, Extent, Frames as _, Kind, Order, Pages, Prot, Request};
use vmalloc_sim::{KernelConfig, SimKernel};

const PAGE: u64 = 4096;

/// Goal: what nobody used between two calls is purged with one shootdown, frames and all; what was
/// used stays mapped, `vmap` of the same frames included, which is taken back though it is marked.
/// Method: areas of many chunks and a mapping of frames of ours; a CPU that read them before must not
/// see them after.
#[test]
fn what_nobody_used_goes_for_one_shootdown() {
    let config = KernelConfig { frames: Pages(2048), ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let engine = kernel.engine(0);
        let in_use = kernel.frames_in_use();
        let request = |pages: u64| Request::bytes(pages * PAGE);
        let frames = [Extent { start: kernel.frames().take(Order(1)).unwrap(), len: Pages(2) }];
        let shown = engine.vmap(&frames, Prot::READ_WRITE).unwrap();
        engine.vunmap(shown.addr()).map(drop).unwrap();
        let areas: Vec<Area> =
            (1..=40).map(|pages| engine.vmalloc(&request(pages)).unwrap()).collect();
        for area in &areas {
            let _ = engine.vfree(area.addr()).unwrap();
        }
        assert_eq!(engine.decay().unwrap().areas, 0);
        let again = engine.vmalloc(&request(7)).unwrap();
        assert_eq!(again.addr(), areas[6].addr());
        let again = engine.vfree(again.addr()).map(|_| again).unwrap();
        let shown_again = engine.vmap(&frames, Prot::READ_WRITE).unwrap();
        assert_eq!(shown_again.addr(), shown.addr(), "taken back");
        let purged = engine.decay().unwrap();
        assert_eq!((purged.areas, purged.flushes), (39, 1));
        let is_parked =
            |area: &Area| engine.find(area.addr()).is_some_and(|a| a.kind == Kind::Parked);
        assert!(is_parked(&again) && !is_parked(&areas[0]));
        engine.vunmap(shown_again.addr()).map(drop).unwrap();
        // The mark that it had while it was in use is gone.
        assert_eq!(engine.decay().unwrap().areas, 1);
        assert_eq!(engine.decay().unwrap().areas, 1);
        kernel.frames().give(frames[0]);
        engine.verify().unwrap();
        assert_eq!(kernel.frames_in_use(), in_use);
    });
}
