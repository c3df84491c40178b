//! Areas and devices in a user's address space. One test a rule of `remap_vmalloc_range`'s bounds.

use vmalloc_core::platform::{MapError, Mapper};
use vmalloc_core::{
    Area, BackError, Cache, PAGE_SIZE, PageRange, Pages, Pfn, Prot, ProtectError, Publish,
    RemapError, Request, ResizeError, Rights, VirtAddr, Vma, Vpn, vma_flags,
};
use vmalloc_sim::{AddressSpace, CPUS_PER_SPACE, Cpu, Fault, KernelConfig, SimKernel, Step};

const CONFIG: KernelConfig =
    KernelConfig { frames: Pages(2048), device_frames: Pages(16), ..KernelConfig::USUAL };
/// A gigabyte boundary of the lower half that no engine's window is near.
const USER: Vpn = Vpn(0x800_0000);

/// Where the users of the tests run: space 1, on a CPU in user mode.
fn user<'k>(kernel: &'k SimKernel<'_>) -> (AddressSpace, Cpu<'k>) {
    let space = kernel.space(1).clone();
    space.prepare(PageRange { start: USER, len: Pages(4096) }).unwrap();
    (space, kernel.cpu(CPUS_PER_SPACE).as_user())
}

fn pages(first: u64, len: u64) -> PageRange {
    PageRange { start: Vpn(USER.0 + first), len: Pages(len) }
}

fn addr(page: u64) -> VirtAddr {
    Vpn(USER.0 + page).addr()
}

fn area(kernel: &SimKernel<'_>, pages: u64) -> Area {
    kernel.engine(0).vmalloc(&Request::bytes(pages * PAGE_SIZE as u64).user()).unwrap()
}

/// Goal: kernel and user see the same frames at different addresses; the exporter may go first, and
/// the frames go home after the last of two users. Method: two remaps, of all and of a part.
#[test]
fn a_user_sees_an_area_until_it_detaches_whoever_goes_first() {
    SimKernel::run(CONFIG, |kernel| {
        let (space, cpu) = user(kernel);
        let engine = kernel.engine(0);
        let area = area(kernel, 6);
        let at_start = kernel.frames_in_use();
        let whole = Vma::new(space.clone(), pages(10, 6), Rights::ReadWrite);
        let part = Vma::new(space, pages(30, 2), Rights::Read);
        let first = engine.remap_vmalloc_range(&whole, area.addr(), 0).unwrap();
        let second = engine.remap_vmalloc_range(&part, area.addr(), 3).unwrap();
        assert_eq!(whole.flags() & vma_flags::IO, 0);
        assert_ne!(whole.flags() & vma_flags::DONTEXPAND & !vma_flags::IO, 0);
        for page in 0..6 {
            kernel.cpu(0).store(VirtAddr(area.addr().0 + page * 4096), 100 + page).unwrap();
            assert_eq!(cpu.load(addr(10 + page)), Ok(100 + page));
        }
        cpu.store(addr(13), 7).unwrap();
        assert_eq!(cpu.load(addr(30)), Ok(7), "page 3 of the area");
        let va = addr(30);
        assert_eq!(cpu.store(va, 8), Err(Fault::ReadOnly { va }));
        let kernels = area.addr();
        assert_eq!(cpu.load(kernels), Err(Fault::Supervisor { va: kernels }));

        // Freed and purged: not revived while a user sees it, and its frames stay.
        let _ = engine.vfree(area.addr()).unwrap();
        assert_ne!(engine.vmalloc(&Request::bytes(6 * 4096)).unwrap().addr(), area.addr());
        engine.purge().unwrap();
        assert_eq!(cpu.load(addr(13)), Ok(7));
        assert!(first.detach().is_ok());
        let va = addr(13);
        assert_eq!(cpu.load(va), Err(Fault::NotPresent { va }));
        assert_eq!(cpu.load(addr(30)), Ok(7), "the other one stays");
        assert_eq!(kernel.frames_in_use(), Pages(at_start.0 + 6), "ours, and the one after");
        drop(second);
        assert_eq!(kernel.frames_in_use(), Pages(6));
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: where area and user are aligned alike, a user's 2 MiB need no leaf table. Method: count
/// tables; the same range one page off needs one.
#[test]
fn a_remap_is_huge_where_both_sides_are_aligned() {
    SimKernel::run(CONFIG, |kernel| {
        let (space, cpu) = user(kernel);
        let area = area(kernel, 512);
        let tables = || kernel.hardware().counters().tables_in_use.0;
        let aligned = Vma::new(space.clone(), pages(1024, 512), Rights::ReadWrite);
        let skewed = Vma::new(space, pages(2049, 511), Rights::ReadWrite);
        let pfn = kernel.engine(0).vmalloc_to_pfn(area.addr()).unwrap();
        assert_eq!(pfn.0 % 512, 0, "one run of the buddy system");
        let before = tables();
        let first = kernel.engine(0).remap_vmalloc_range(&aligned, area.addr(), 0).unwrap();
        let made = tables() - before;
        assert!(made <= 2, "levels 3 and 2 alone: {made}");
        let second = kernel.engine(0).remap_vmalloc_range(&skewed, area.addr(), 0).unwrap();
        assert_eq!(tables() - before, made + 1);
        cpu.store(addr(1024 + 511), 3).unwrap();
        assert_eq!(kernel.cpu(0).load(VirtAddr(area.addr().0 + 511 * 4096)), Ok(3));
        drop(first);
        drop(second);
        assert_eq!(kernel.verify(), Ok(()));
    });
}

fn refused(at: u64, offset_bytes: u64, pgoff: u64, len_bytes: u64) -> Result<(), RemapError> {
    SimKernel::run(CONFIG, |kernel| {
        let (space, _) = user(kernel);
        let area = area(kernel, 6);
        let vma = Vma::new(space, pages(0, 8), Rights::ReadWrite);
        let kaddr = VirtAddr(area.addr().0 + offset_bytes);
        let at = VirtAddr(USER.addr().0.wrapping_add(at));
        let engine = kernel.engine(0);
        let result = engine.remap_vmalloc_range_partial(&vma, at, kaddr, pgoff, len_bytes);
        let result = result.map(drop);
        assert_eq!(kernel.space(1).first_mapped(pages(0, 4096)), None);
        assert_eq!(kernel.verify(), Ok(()));
        result
    })
}

#[test]
fn remap_refuses_addresses_that_are_not_of_a_page() {
    assert!(matches!(refused(1, 0, 0, 4096), Err(RemapError::Unaligned { .. })));
    assert!(matches!(refused(0, 8, 0, 4096), Err(RemapError::Unaligned { .. })));
}

/// Linux goes on until a page is in the way.
#[test]
fn remap_of_nothing_is_refused() {
    assert_eq!(refused(0, 0, 0, 0), Err(RemapError::ZeroSize));
}

#[test]
fn remap_refuses_an_offset_that_overflows() {
    let pgoff = u64::MAX >> 12;
    assert_eq!(
        refused(0, 0, pgoff + 1, 4096),
        Err(RemapError::OffsetOverflow { pgoff: pgoff + 1 })
    );
    assert!(matches!(refused(0, 0, pgoff, 4096), Err(RemapError::OutOfArea { .. })));
}

/// Goal: the range ends inside the area, its guard not counted; sizes round up to pages.
#[test]
fn remap_ends_with_the_area_and_not_with_its_guard() {
    assert_eq!(refused(0, 0, 0, 6 * 4096), Ok(()));
    assert_eq!(refused(0, 0, 2, 4 * 4096 - 7), Ok(()));
    let error = RemapError::OutOfArea { end: 7, has: Pages(6) };
    assert_eq!(refused(0, 0, 0, 6 * 4096 + 1), Err(error));
    assert_eq!(refused(0, 0, 2, 5 * 4096), Err(error));
}

/// Goal: an interior address counts from where it is. Linux takes it for the base and shows what
/// lies behind the area.
#[test]
fn remap_of_an_interior_address_ends_with_the_area_too() {
    assert_eq!(refused(0, 2 * 4096, 1, 3 * 4096), Ok(()));
    let error = RemapError::OutOfArea { end: 7, has: Pages(6) };
    assert_eq!(refused(0, 2 * 4096, 1, 4 * 4096), Err(error));
}

#[test]
fn remap_refuses_pages_that_are_not_the_users() {
    assert!(matches!(refused(7 * 4096, 0, 0, 8192), Err(RemapError::OutOfVma { .. })));
    assert!(matches!(
        refused(4096_u64.wrapping_neg(), 0, 0, 8192),
        Err(RemapError::OutOfVma { .. })
    ));
}

/// Goal: holes, freed areas, areas not made for users, and more rights than the area's are refused.
#[test]
fn remap_refuses_what_is_not_for_users() {
    SimKernel::run(CONFIG, |kernel| {
        let (space, _) = user(kernel);
        let engine = kernel.engine(0);
        let vma = Vma::new(space.clone(), pages(0, 1), Rights::ReadWrite);
        let remap = |addr| engine.remap_vmalloc_range(&vma, addr, 0).map(drop);
        let plain = engine.vzalloc(&Request::bytes(4096)).unwrap();
        assert_eq!(remap(plain.addr()), Err(RemapError::NotForUsers));
        let area = area(kernel, 1);
        let guard = area.pages.end().addr();
        assert_eq!(remap(guard), Err(RemapError::NoArea { addr: guard }));
        let executes = Vma::new(space, pages(1, 1), Rights::ReadExecute);
        let refused = engine.remap_vmalloc_range(&executes, area.addr(), 0).map(drop);
        assert_eq!(refused, Err(RemapError::TooManyRights { user: Rights::ReadExecute }));
        engine.share(area.id, area.generation, Publish::Frozen).unwrap();
        let writes = RemapError::TooManyRights { user: Rights::ReadWrite };
        assert_eq!(remap(area.addr()), Err(writes), "nobody writes it any more");
        let _ = engine.vfree(area.addr()).unwrap();
        let freed = area.addr();
        assert!(matches!(
            remap(freed),
            Err(RemapError::NoArea { .. } | RemapError::TooManyRights { .. })
        ));
    });
}

/// Goal: a page in the way, or a step that fails, leaves nothing behind. Linux leaves the pages
/// before it. Method: the last page is taken; then each step fails once.
#[test]
fn every_step_of_remap_fails_cleanly() {
    SimKernel::run(CONFIG, |kernel| {
        let (space, cpu) = user(kernel);
        let area = area(kernel, 600);
        let vma = Vma::new(space.clone(), pages(300, 600), Rights::ReadWrite);
        let last = Vma::new(space, pages(899, 1), Rights::Read);
        let engine = kernel.engine(0);
        let in_the_way = engine.remap_vmalloc_range(&last, area.addr(), 0).unwrap();
        let error = engine.remap_vmalloc_range(&vma, area.addr(), 0).map(drop);
        assert!(matches!(error, Err(RemapError::Map(MapError::Occupied { .. }))), "{error:?}");
        assert_eq!(kernel.space(1).first_mapped(pages(0, 899)), None);
        drop(in_the_way);
        let mut failed = 0;
        for step in Step::ALL {
            for nth in 1.. {
                kernel.hardware().faults().fail_nth(step, nth);
                let made = engine.remap_vmalloc_range(&vma, area.addr(), 0);
                let fired = kernel.hardware().faults().fired(step) == 1;
                kernel.hardware().faults().reset();
                assert_eq!(made.is_err(), fired, "{step:?} number {nth}");
                drop(made);
                assert_eq!(kernel.space(1).first_mapped(pages(0, 4096)), None);
                assert_eq!(kernel.verify(), Ok(()), "{step:?} number {nth}");
                if !fired {
                    break;
                }
                failed += 1;
            }
        }
        assert!(failed >= 2, "{failed}");
        let va = addr(300);
        assert_eq!(cpu.load(va), Err(Fault::NotPresent { va }));
        let _ = engine.vfree(area.addr()).unwrap();
        kernel.purge();
        assert_eq!(kernel.frames_in_use(), Pages(0), "nothing pins it");
    });
}

/// Goal: where waiting is forbidden a remap is refused, and `detach` gives itself back.
#[test]
fn remap_and_detach_wait_or_are_refused() {
    SimKernel::run(CONFIG, |kernel| {
        let (space, cpu) = user(kernel);
        let area = area(kernel, 2);
        let vma = Vma::new(space, pages(0, 2), Rights::Read);
        let remap = kernel.engine(0).remap_vmalloc_range(&vma, area.addr(), 0).unwrap();
        let off = kernel.hardware().interrupts_off();
        let again = kernel.engine(0).remap_vmalloc_range(&vma, area.addr(), 0).map(drop);
        assert_eq!(again, Err(RemapError::MayNotWait));
        let Err(remap) = remap.detach() else { panic!("waited") };
        assert_eq!(cpu.load(addr(0)), Ok(0), "as it was");
        drop(off);
        assert!(remap.detach().is_ok());
    });
}

/// Goal: `remap_pfn_range` shows a device, with its caching; RAM, parts of a private mapping that
/// may be written, and frames that no machine has are refused.
#[test]
fn remap_pfn_range_shows_a_device_and_no_ram() {
    SimKernel::run(CONFIG, |kernel| {
        let (space, cpu) = user(kernel);
        let engine = kernel.engine(0);
        let device = kernel.hardware().ram().device_frames();
        let vma = Vma::new(space.clone(), pages(0, 4), Rights::ReadWrite);
        let show = |vma: &Vma<AddressSpace>, page, pfn, len: u64| {
            engine.remap_pfn_range(vma, addr(page), pfn, len, Cache::Uncached).map(drop)
        };
        let registers =
            engine.remap_pfn_range(&vma, addr(1), device.start, 5000, Cache::Uncached).unwrap();
        assert_eq!(registers.pages(), pages(1, 2));
        cpu.store(addr(2), 77).unwrap();
        let prot = Prot::READ_WRITE.user().cached(Cache::Uncached);
        let second = (Pfn(device.start.0 + 1), prot);
        assert_eq!(kernel.space(1).translate(pages(2, 1).start), Some(second));
        assert_ne!(vma.flags() & vma_flags::PFNMAP, 0);
        assert_ne!(vma.flags() & vma_flags::IO, 0);
        drop(registers);

        let ram = kernel.frames().extent().start;
        assert!(matches!(
            show(&vma, 0, ram, 4096),
            Err(RemapError::Frames(BackError::IsRam { ram: Pages(1), .. }))
        ));
        assert!(matches!(
            show(&vma, 0, Pfn(1 << 40), 4096),
            Err(RemapError::Frames(BackError::NoSuchFrames { .. }))
        ));
        assert!(matches!(show(&vma, 3, device.start, 8192), Err(RemapError::OutOfVma { .. })));
        assert_eq!(show(&vma, 0, device.start, 0), Err(RemapError::ZeroSize));
        let private = Vma::new(space, pages(4, 4), Rights::ReadWrite).private();
        assert_eq!(show(&private, 4, device.start, 4096), Err(RemapError::PartOfPrivate));
        assert_eq!(show(&private, 4, device.start, 4 * 4096), Ok(()));
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: what a user sees does not change under it: its area keeps its length and gets no code; its rights may become
/// fewer. When the user is gone all of that may be. Method: each with a remap, and after it.
#[test]
fn an_area_that_a_user_sees_keeps_its_pages() {
    SimKernel::run(CONFIG, |kernel| {
        let (space, _) = user(kernel);
        let engine = kernel.engine(0);
        let area = area(kernel, 6);
        let (id, generation) = (area.id, area.generation);
        let vma = Vma::new(space, pages(10, 6), Rights::Read);
        let shown = engine.remap_vmalloc_range(&vma, area.addr(), 0).unwrap();
        let resize = |bytes| engine.resize(id, generation, bytes, false).map(|area| area.bytes);
        assert_eq!(resize(5 * 4096), Err(ResizeError::Shown));
        assert_eq!(resize(7 * 4096), Err(ResizeError::Shown));
        assert_eq!(resize(6 * 4096 - 5), Ok(6 * 4096 - 5), "the same pages");
        let protect = |rights| engine.protect(id, generation, rights);
        assert_eq!(protect(Rights::ReadExecute), Err(ProtectError::NotMine));
        assert_eq!([protect(Rights::Read), protect(Rights::ReadWrite)], [Ok(()); 2]);
        drop(shown);
        assert_eq!(resize(5 * 4096), Ok(5 * 4096));
        assert_eq!(protect(Rights::ReadExecute), Ok(()));
        assert_eq!(kernel.verify(), Ok(()));
    });
}
