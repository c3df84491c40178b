//! One backing in two address spaces: the same frames, at different addresses.

use vmalloc_core::platform::{Mapper, Prot};
use vmalloc_core::{FreeError, Pages, Publish, Request, VirtAddr, Vpn};
use vmalloc_sim::{CPUS_PER_SPACE, Fault, KernelConfig, SimKernel};

/// Goal: a write through one space is read through the other; the frames go home after the last
/// detach and a purge, and not before. Method: frames scattered on purpose, so that the area is
/// in pieces; a CPU in each space; the owner frees first.
#[test]
fn two_spaces_show_the_same_frames_at_different_addresses() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let (owner, guest) = (kernel.engine(0), kernel.engine(1));
        let (here, there) = (kernel.cpu(0), kernel.cpu(CPUS_PER_SPACE));
        let crumbs: Vec<_> =
            (0..16).map(|_| owner.vmalloc(&Request::bytes(4096)).unwrap()).collect();
        for crumb in crumbs.iter().step_by(2) {
            let _ = owner.vfree(crumb.addr()).unwrap();
        }
        kernel.purge();

        let area = owner.vzalloc(&Request::bytes(20 * 4096)).unwrap();
        let token = owner.share(area.id, area.generation, Publish::Shared).unwrap();
        let view = guest.attach(&token, Prot::READ_WRITE).unwrap();
        assert_ne!(view.addr(), area.addr());
        assert_eq!(view.pages.len, area.pages.len);
        for page in 0..20 {
            let ours = kernel.space(0).translate(Vpn(area.pages.start.0 + page)).unwrap();
            let theirs = kernel.space(1).translate(Vpn(view.pages.start.0 + page)).unwrap();
            assert_eq!(ours, theirs, "page {page}");
        }
        let at = |base: VirtAddr, page: u64| VirtAddr(base.0 + page * 4096 + 8 * page);
        for page in 0..20 {
            here.store(at(area.addr(), page), 100 + page).unwrap();
            assert_eq!(there.load(at(view.addr(), page)), Ok(100 + page));
            there.store(at(view.addr(), page), 200 + page).unwrap();
            assert_eq!(here.load(at(area.addr(), page)), Ok(200 + page));
        }

        // The owner goes; the guest still reads.
        let _ = owner.vfree(area.addr()).unwrap();
        kernel.purge();
        let gone = area.addr();
        assert_eq!(here.load(gone), Err(Fault::NotPresent { va: gone }));
        assert_eq!(there.load(at(view.addr(), 19)), Ok(219));
        assert_eq!(kernel.verify(), Ok(()));
        assert!(kernel.frames_in_use() >= Pages(28), "20 shown, and 8 crumbs");

        // The last one goes, and the frames with it.
        assert_eq!(guest.vfree(view.addr()), Err(FreeError::WrongVerb));
        let _ = guest.vunmap(view.addr()).unwrap();
        assert!(kernel.frames_in_use() >= Pages(28), "parked, not purged");
        kernel.purge();
        assert_eq!(kernel.frames_in_use(), Pages(8));
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: rights are a mapping's, not a backing's.
#[test]
fn one_space_may_write_what_another_may_only_read() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let area = kernel.engine(0).vzalloc(&Request::bytes(4096)).unwrap();
        let token = kernel.engine(0).share(area.id, area.generation, Publish::Frozen).unwrap();
        let view = kernel.engine(1).attach(&token, Prot::READ).unwrap();
        let guest = kernel.cpu(CPUS_PER_SPACE);
        kernel.cpu(0).store(area.addr(), 5).unwrap();
        assert_eq!(guest.load(view.addr()), Ok(5));
        assert_eq!(guest.store(view.addr(), 6), Err(Fault::ReadOnly { va: view.addr() }));
        assert_eq!(kernel.cpu(0).load(area.addr()), Ok(5));
    });
}

/// Goal: a space's own window is nobody else's. Method: a CPU of space 2 looks at space 1's page;
/// the kernel's half it sees.
#[test]
fn lower_half_is_a_spaces_own_and_the_kernels_half_everyones() {
    let config = KernelConfig { spaces: 3, ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let kernels = kernel.engine(0).vzalloc(&Request::bytes(4096)).unwrap();
        let own = kernel.engine(1).vzalloc(&Request::bytes(4096)).unwrap();
        let stranger = kernel.cpu(2 * CPUS_PER_SPACE);
        kernel.cpu(0).store(kernels.addr(), 1).unwrap();
        kernel.cpu(CPUS_PER_SPACE).store(own.addr(), 2).unwrap();
        assert_eq!(stranger.load(kernels.addr()), Ok(1));
        assert_eq!(stranger.load(own.addr()), Err(Fault::NotPresent { va: own.addr() }));
    });
}
