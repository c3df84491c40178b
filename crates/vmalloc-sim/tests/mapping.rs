//! Showing what is there: frames taken over, a device's registers, other rights.

use vmalloc_core::platform::{Frames, Mapper, Ram};
use vmalloc_core::{
    AllocError, Area, BackError, Cache, Extent, FreeError, Order, PAGE_SIZE, Pages, Pfn, Prot,
    ProtectError, Publish, Request, Rights, VirtAddr,
};
use vmalloc_sim::{Fault, KernelConfig, SimKernel, Step};

const CONFIG: KernelConfig =
    KernelConfig { device_frames: Pages(600), direct_map: true, ..KernelConfig::USUAL };

fn run(start: u64, len: u64) -> Extent {
    Extent { start: Pfn(start), len: Pages(len) }
}

fn device(kernel: &SimKernel<'_>) -> Extent {
    kernel.hardware().ram().device_frames()
}

/// An area whose frames the direct map shows in a huge leaf.
fn in_a_huge_leaf(kernel: &SimKernel<'_>) -> Area {
    let all = kernel.frames().extent();
    let huge = all.start.0.next_multiple_of(512)..all.end().0 / 512 * 512;
    let make = || kernel.engine(0).vzalloc(&Request::bytes(4096)).unwrap();
    let pfn = |area: &Area| kernel.engine(0).vmalloc_to_pfn(area.addr()).unwrap().0;
    std::iter::repeat_with(make).find(|area| huge.contains(&pfn(area))).unwrap()
}

/// Goal: frames that `vmap` took over stay away from others until their pages are flushed, and go
/// home with `vfree`; `vunmap` is the wrong verb. Method: frames in two pieces, in wrong order.
#[test]
fn vmap_put_pages_sends_the_frames_home_after_the_flush() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let a = kernel.frames().take(Order(1)).unwrap();
        let b = kernel.frames().take(Order(0)).unwrap();
        let runs = [run(b.0, 1), run(a.0, 2)];
        let area = engine.vmap_put_pages(&runs, Prot::READ_WRITE).unwrap();
        assert_eq!(engine.vmalloc_to_pfn(area.addr()), Some(b));
        kernel.cpu(0).store(area.addr(), 1).unwrap();
        assert_eq!(engine.vunmap(area.addr()), Err(FreeError::WrongVerb));
        let _ = engine.vfree(area.addr()).unwrap();
        assert!(!kernel.frames().is_free(a) && !kernel.frames().is_free(b), "parked");
        kernel.purge();
        assert!(kernel.frames().is_free(a) && kernel.frames().is_free(b));
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: a call that fails leaves the frames to the caller. Method: every step fails once.
#[test]
fn vmap_put_pages_that_fails_takes_nothing_over() {
    for step in Step::ALL {
        for nth in 1.. {
            let fired = SimKernel::run(CONFIG, |kernel| {
                // Every other frame, so that the runs need a record, too.
                let mut all: Vec<Pfn> =
                    (0..20).map_while(|_| kernel.frames().take(Order(0)).ok()).collect();
                all.sort();
                let runs: Vec<Extent> = all.iter().step_by(2).map(|pfn| run(pfn.0, 1)).collect();
                kernel.hardware().faults().fail_nth(step, nth);
                let made = kernel.engine(0).vmap_put_pages(&runs, Prot::READ_WRITE);
                let fired = kernel.hardware().faults().fired(step);
                kernel.hardware().faults().reset();
                assert_eq!(made.is_err(), fired == 1, "{step:?} number {nth}");
                if made.is_err() {
                    assert_eq!(kernel.verify_with(Pages(20)), Ok(()), "{step:?} number {nth}");
                    all.iter().for_each(|pfn| kernel.frames().give(run(pfn.0, 1)));
                }
                fired
            });
            if fired == 0 {
                break;
            }
        }
    }
}

/// Goal: `vmap_pfn` shows what is no RAM, and refuses RAM. Linux: `-EINVAL` and a warning.
#[test]
fn vmap_pfn_refuses_ram() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let device = device(kernel);
        let uncached = Prot::READ_WRITE.cached(Cache::Uncached);
        let runs = [run(device.start.0 + 7, 1), run(device.start.0 + 3, 2)];
        let area = engine.vmap_pfn(&runs, uncached).unwrap();
        kernel.cpu(0).store(area.addr(), 99).unwrap();
        let mut byte = [0];
        kernel.hardware().ram().read(runs[0].start, 0, &mut byte).unwrap();
        assert_eq!(byte, [99]);
        for run in [run(kernel.frames().extent().start.0, 1), run(device.start.0 - 1, 2)] {
            let refused = BackError::IsRam { run, ram: Pages(1) };
            assert_eq!(engine.vmap_pfn(&[run], uncached), Err(AllocError::Back(refused)));
        }
        let refused = BackError::NotRam { run: runs[1] };
        let put = engine.vmap_put_pages(&runs[1..], Prot::READ);
        assert_eq!(put, Err(AllocError::Back(refused)));
        let _ = engine.vunmap(area.addr()).unwrap();
        kernel.purge();
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: `ioremap` keeps the offset in the page, aligns by size up to 2 MiB, and carries the kind
/// of caching to the tables; `vread` does not touch registers. Method: odd addresses; the CPU
/// faults on a device through a mapping that caches.
#[test]
fn ioremap_shows_registers_uncached_and_aligned_by_size() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let device = device(kernel);
        let phys = device.start.0 * PAGE_SIZE as u64 + 0x123;
        for (len_bytes, align) in [(8, 1), (0x2000, 4), (300 << 12, 512), (512 << 12, 512)] {
            let addr = engine.ioremap(phys, len_bytes, Cache::Uncached).unwrap();
            assert_eq!(addr.0 % 4096, 0x123);
            assert_eq!(addr.vpn().0 % align, 0, "{len_bytes} bytes");
            let (pfn, prot) = kernel.space(0).translate(addr.vpn()).unwrap();
            assert_eq!((pfn, prot), (device.start, Prot::READ_WRITE.cached(Cache::Uncached)));
            kernel.cpu(0).store(addr, len_bytes).unwrap();
            assert_eq!(kernel.cpu(0).load(addr), Ok(len_bytes));
            let mut out = [1; 8];
            assert_eq!(engine.vread(addr, &mut out), 0, "a device is not looked at");
            assert_eq!(out, [0; 8]);
            let _ = engine.iounmap(addr).unwrap();
        }
        let cached = engine.ioremap(phys, 8, Cache::WriteThrough).unwrap();
        assert!(matches!(kernel.cpu(0).load(cached), Err(Fault::CachedDevice { .. })));
        let _ = engine.iounmap(cached).unwrap();
        let area = engine.vmalloc(&Request::bytes(1)).unwrap();
        assert_eq!(engine.iounmap(area.addr()), Err(FreeError::WrongVerb));
        kernel.purge();
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: a physical range that is empty, that wraps, that no machine has, or that is RAM is refused.
#[test]
fn ioremap_refuses_nothing_a_range_that_wraps_and_ram() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let refused = |phys, len| engine.ioremap(phys, len, Cache::Uncached).unwrap_err();
        assert_eq!(refused(0, 0), AllocError::ZeroSize);
        for (phys, len) in [(u64::MAX - 5, 10), (1 << 60, 4096)] {
            let error = refused(phys, len);
            assert!(matches!(error, AllocError::Back(BackError::NoSuchFrames { .. })), "{error}");
        }
        assert!(matches!(
            refused(device(kernel).start.0 * 4096, 1 << 50),
            AllocError::TooBig { .. }
        ));
        let ram = kernel.frames().extent();
        let error = refused(ram.start.0 * 4096 - 1, 2);
        let run = run(ram.start.0 - 1, 2);
        assert_eq!(error, AllocError::Back(BackError::IsRam { run, ram: Pages(1) }));
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: `memremap` of RAM is the direct map, of a device an area; a mixed range is refused.
#[test]
fn memremap_of_ram_is_the_direct_map_and_of_half_ram_an_error() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let pfn = kernel.frames().take(Order(0)).unwrap();
        let phys = pfn.0 * 4096 + 16;
        let addr = engine.memremap(phys, 8, Cache::WriteBack).unwrap();
        let direct = kernel.space(0).direct(run(pfn.0, 1)).unwrap();
        assert_eq!(addr, VirtAddr(direct.start.addr().0 + 16));
        kernel.cpu(0).store(addr, 5).unwrap();
        assert_eq!(engine.memunmap(addr), Ok(None));
        let error = engine.memremap(phys, 8, Cache::WriteCombining).unwrap_err();
        assert!(matches!(error, AllocError::Back(BackError::IsRam { ram: Pages(1), .. })));
        let device = device(kernel);
        let error = engine.memremap(device.start.0 * 4096 - 1, 2, Cache::WriteBack).unwrap_err();
        assert!(matches!(error, AllocError::Back(BackError::IsRam { ram: Pages(1), .. })));
        let registers = engine.memremap(device.start.0 * 4096, 64, Cache::WriteCombining).unwrap();
        kernel.cpu(0).store(registers, 6).unwrap();
        assert!(engine.memunmap(registers).unwrap().is_some());
        kernel.frames().give(run(pfn.0, 1));
        kernel.purge();
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: rights that are taken away are gone on every CPU when the call returns. Method: two CPUs
/// whose TLBs hold the page, one step of rights after another.
#[test]
fn set_memory_is_seen_by_every_cpu() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vzalloc(&Request::bytes(3 * 4096)).unwrap();
        let at = VirtAddr(area.addr().0 + 4096);
        let cpus = [kernel.cpu(0), kernel.cpu(1)];
        for rights in [Rights::Read, Rights::ReadExecute, Rights::ReadWrite, Rights::Read] {
            engine.protect(area.id, area.generation, rights).unwrap();
            for cpu in cpus {
                assert_eq!(cpu.store(at, 7).is_ok(), rights.may_write(), "{rights:?}");
                assert_eq!(cpu.fetch(at).is_ok(), rights.may_execute(), "{rights:?}");
                assert!(cpu.load(at).is_ok());
            }
            assert_eq!(kernel.verify(), Ok(()), "no stale hit");
        }
        // Parked with the rights it had, so it is not what a plain request gets.
        let _ = engine.vfree(area.addr()).unwrap();
        let next = engine.vmalloc(&Request::bytes(3 * 4096)).unwrap();
        kernel.cpu(0).store(next.addr(), 1).unwrap();
    });
}

/// Goal: what is shown elsewhere is not made executable: the other mapping may write.
#[test]
fn shared_frames_are_not_made_executable() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vzalloc(&Request::bytes(4096)).unwrap();
        let protect = |rights| engine.protect(area.id, area.generation, rights);
        engine.share(area.id, area.generation, Publish::Shared).unwrap();
        let stale = ProtectError::Stale { generation: area.generation };
        assert_eq!(protect(Rights::ReadExecute), Err(stale));
        kernel.hardware().set_may_wait(false);
        assert_eq!(protect(Rights::Read), Err(ProtectError::MayNotWait));
        kernel.hardware().set_may_wait(true);
    });
}

/// Goal: an area whose permissions are reset protects its frames in the direct map, too; freeing it
/// flushes at once and makes them writable again before anyone gets them; where waiting is
/// forbidden it is refused. Method: the simulated machine panics when the engine zeroes a frame
/// that the direct map forbids to write; huge leaves of the direct map are cut.
#[test]
fn reset_perms_restores_the_direct_map_before_the_frames_go_home() {
    SimKernel::run(KernelConfig { frames: Pages(2048), ..CONFIG }, |kernel| {
        let engine = kernel.engine(0);
        let area = in_a_huge_leaf(kernel);
        let pfn = engine.vmalloc_to_pfn(area.addr()).unwrap();
        let direct = kernel.space(0).direct(run(pfn.0, 1)).unwrap().start.addr();
        kernel.cpu(0).store(direct, 0xc3).unwrap();
        engine.reset_perms(area.id, area.generation).unwrap();
        engine.protect(area.id, area.generation, Rights::ReadExecute).unwrap();
        assert_eq!(kernel.cpu(0).fetch(area.addr()), Ok(0xc3));
        let read_only = Err(Fault::ReadOnly { va: direct });
        assert_eq!(kernel.cpu(0).store(direct, 1), read_only, "no second way to write");
        assert_eq!(kernel.cpu(1).store(direct, 1), read_only);

        let off = kernel.hardware().interrupts_off();
        assert_eq!(engine.vfree(area.addr()), Err(FreeError::MayNotWait));
        drop(off);
        let flushes = kernel.hardware().counters().flushes;
        let _ = engine.vfree(area.addr()).unwrap();
        assert_eq!(kernel.hardware().counters().flushes, flushes + 2, "pages, then direct map");
        assert!(kernel.frames().is_free(pfn), "at once");
        kernel.cpu(0).store(direct, 1).unwrap();
        let again = engine.vzalloc(&Request::bytes(4096)).unwrap();
        assert_eq!(kernel.cpu(0).load(again.addr()), Ok(0));
        assert_eq!(kernel.verify(), Ok(()));
    });
}

/// Goal: `vmap`'s frames are the caller's, so their permissions are, too. Linux: `vmap` refuses
/// `VM_FLUSH_RESET_PERMS`.
#[test]
fn reset_perms_is_refused_for_vmap() {
    SimKernel::run(CONFIG, |kernel| {
        let engine = kernel.engine(0);
        let pfn = kernel.frames().take(Order(0)).unwrap();
        let area = engine.vmap(&[run(pfn.0, 1)], Prot::READ_WRITE).unwrap();
        let refused = engine.reset_perms(area.id, area.generation);
        assert_eq!(refused, Err(ProtectError::NotMine));
        assert_eq!(area.guard, Pages(1), "there is no vmap without a guard page");
        assert_eq!(kernel.space(0).translate(area.pages.end()), None);
    });
}

/// Whether `step` was reached `nth` times when an area of single frames in two huge leaves of the
/// direct map became read-only: then that failed, and all was as before.
fn protect_with_a_failure(step: Step, nth: u64) -> bool {
    SimKernel::run(KernelConfig { frames: Pages(4096), ..CONFIG }, |kernel| {
        let engine = kernel.engine(0);
        let huge = kernel.frames().extent().start.0.next_multiple_of(512);
        let wanted = [huge + 7, huge + 512 + 9];
        let mut others: Vec<Pfn> =
            std::iter::from_fn(|| kernel.frames().take(Order(0)).ok()).collect();
        others.retain(|pfn| !wanted.contains(&pfn.0));
        others.iter().for_each(|pfn| kernel.frames().give(run(pfn.0, 1)));
        let runs = wanted.map(|pfn| run(pfn, 1));
        let area = engine.vmap_put_pages(&runs, Prot::READ_WRITE).unwrap();
        engine.reset_perms(area.id, area.generation).unwrap();
        let direct = runs.map(|run| kernel.space(0).direct(run).unwrap().start.addr());
        let shown = direct.into_iter().chain([area.addr(), VirtAddr(area.addr().0 + 4096)]);
        let protect = || engine.protect(area.id, area.generation, Rights::Read);

        kernel.hardware().faults().fail_nth(step, nth);
        let done = protect();
        let fired = kernel.hardware().faults().fired(step) == 1;
        kernel.hardware().faults().reset();
        assert_eq!(matches!(done, Err(ProtectError::Map(_))), fired, "{step:?} {nth}: {done:?}");
        if fired {
            for va in shown.clone() {
                assert_eq!(kernel.cpu(0).store(va, 1), Ok(()), "{step:?} number {nth}");
            }
            protect().unwrap();
        }
        for va in shown {
            assert_eq!(kernel.cpu(0).store(va, 1), Err(Fault::ReadOnly { va }));
        }
        let _ = engine.vfree(area.addr()).unwrap();
        assert_eq!(kernel.verify(), Ok(()), "{step:?} number {nth}");
        fired
    })
}

/// Goal: without a frame for a smaller leaf the direct map, and the area, are as they were. Method:
/// each step fails once, on a machine of its own.
#[test]
fn protect_that_finds_no_table_changes_nothing() {
    let failed = |step| (1..).take_while(|&nth| protect_with_a_failure(step, nth)).count();
    assert_eq!(
        Step::ALL.map(failed),
        [0, 0, 2, 0, 4, 0, 0],
        "a table for each huge leaf, two ends a run"
    );
}
