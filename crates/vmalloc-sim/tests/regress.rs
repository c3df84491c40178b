//! Bugs of the engine that this suite has found, each as the shortest sequence that shows it.

use vmalloc_core::platform::{Frames, Prot};
use vmalloc_core::{
    AllocError, AttachError, BackError, Extent, Order, Pages, Pfn, Publish, Publish::Shared,
    Request, ShareError,
};
use vmalloc_sim::{KernelConfig, Op::*, Setup, SimHost, SimKernel, TlbSize, Want, replay};

const HOST: SimHost = SimHost { tlb: TlbSize::Unlimited };

/// Goal: a token is good for the tenant that was shared, not for whoever has its frames later.
/// Method: free without a purge, so that the backing lives on; then let another tenant revive
/// the area, and share it too.
#[test]
fn regress_token_of_a_freed_area_gave_its_next_tenant_away() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let engine = kernel.engine(0);
        let first = engine.vmalloc(&Request::bytes(4096)).unwrap();
        let old = engine.share(first.id, first.generation, Publish::Shared).unwrap();
        let _ = engine.vfree(first.addr()).unwrap();
        let stale = AttachError::Stale { generation: old.generation };
        assert_eq!(kernel.engine(1).attach(&old, Prot::READ_WRITE), Err(stale));

        let next = engine.vmalloc(&Request::bytes(4096)).unwrap();
        assert_eq!(next.addr(), first.addr(), "revived");
        assert_eq!(kernel.engine(1).attach(&old, Prot::READ_WRITE), Err(stale));

        let new = engine.share(next.id, next.generation, Publish::Shared).unwrap();
        assert_eq!(kernel.engine(1).attach(&old, Prot::READ_WRITE), Err(stale));
        assert!(kernel.engine(1).attach(&new, Prot::READ_WRITE).is_ok());
    });
}

/// Goal: what was never shared cannot be attached to. Method: a token made up from the numbers
/// of a private area.
#[test]
fn regress_token_made_up_for_a_private_area_was_good() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vmalloc(&Request::bytes(4096)).unwrap();
        let (generation, pages, backing) = (area.generation, area.pages.len, area.backing);
        let made_up = vmalloc_core::Token { area: area.id, generation, pages, backing };
        let stale = AttachError::Stale { generation };
        assert_eq!(kernel.engine(1).attach(&made_up, Prot::READ_WRITE), Err(stale));
    });
}

/// Goal: only the owner publishes. Method: share what was attached; the owner's token stays good.
#[test]
fn regress_attached_area_could_be_shared_on() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let area = kernel.engine(0).vmalloc(&Request::bytes(4096)).unwrap();
        let token = kernel.engine(0).share(area.id, area.generation, Publish::Shared).unwrap();
        let guest = kernel.engine(1).attach(&token, Prot::READ_WRITE).unwrap();
        let generation = guest.generation;
        let on = kernel.engine(1).share(guest.id, generation, Publish::Shared);
        assert_eq!(on, Err(ShareError::Stale { generation }));
        assert!(kernel.engine(1).attach(&token, Prot::READ_WRITE).is_ok());
    });
}

/// Goal: frames of parked areas can become records of frames. Method: a pool of single frames,
/// all parked, and a request that needs all but two of them, and one for its record.
#[test]
fn regress_no_frame_for_the_records_was_an_error_though_a_purge_would_have_helped() {
    let config = KernelConfig { frames: Pages(64), ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        // Every other frame is taken, so no two extents merge.
        let all: Vec<_> = (0..64).map(|_| kernel.frames().take(Order(0)).unwrap()).collect();
        for pfn in all.iter().filter(|pfn| pfn.0 % 2 == 0) {
            kernel.frames().give(Extent { start: *pfn, len: Pages(1) });
        }
        let engine = kernel.engine(0);
        let parked = engine.vmalloc(&Request::bytes(2 * 4096)).unwrap();
        let _ = engine.vfree(parked.addr()).unwrap();
        assert_eq!(kernel.frames().free(), Pages(30));
        // Thirty frames free, thirty wanted, and one more for the extents.
        let area = engine.vmalloc(&Request::bytes(30 * 4096)).unwrap();
        assert_eq!(area.pages.len, Pages(30));
        assert_eq!(kernel.verify_with(Pages(32)), Ok(()));
    });
}

/// The first divergence that the model found, as it was printed.
#[test]
fn regress_stale_token() {
    replay(
        &HOST,
        Setup::DEFAULT,
        &[
            Alloc { member: 0, want: Want::bytes(1) },
            Share { nth: 0, how: Shared },
            Free { nth: 0 },
            Attach { member: 0, nth: 0 },
        ],
    );
}

/// Goal: frame numbers that no record can hold are refused; they lost their upper bits, and the
/// area showed other frames. Method: frame 2^40 + 0x100, which became frame 0x100.
#[test]
fn regress_vmap_of_a_frame_past_2_to_40_showed_another() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let engine = kernel.engine(0);
        for start in [Pfn((1 << 40) + 0x100), Pfn(u64::MAX - 1), Pfn(u64::MAX)] {
            let run = Extent { start, len: Pages(1) };
            let refused = AllocError::Back(BackError::NoSuchFrames { run });
            assert_eq!(engine.vmap(&[run], Prot::READ), Err(refused));
        }
        assert_eq!(kernel.verify(), Ok(()));
        assert_eq!(engine.areas().next(), None);
    });
}
