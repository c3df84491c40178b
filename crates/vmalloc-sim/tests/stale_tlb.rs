//! What a shootdown is for: without it a CPU reads a frame that belongs to somebody else; with
//! it, never.

use vmalloc_core::platform::Mapper;
use vmalloc_core::{Area, Request, VirtAddr};
use vmalloc_sim::{CPUS_PER_SPACE, KernelConfig, Random, SimKernel, Unsound};

/// Goal: the simulated machine shows the bug that the types are there to prevent. Method: the
/// hardware forgets its shootdowns; an area is freed and purged; its frame goes to the next area;
/// a CPU that had used the old page reads the next owner's secret through it.
#[test]
fn without_the_shootdown_a_cpu_reads_the_next_owners_frame() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let engine = kernel.engine(0);
        let cpu = kernel.cpu(0);
        let old = engine.vmalloc(&Request::bytes(4096).no_guard()).unwrap();
        cpu.store(old.addr(), 1).unwrap();
        let frame = kernel.space(0).translate(old.pages.start).unwrap().0;

        kernel.hardware().omit_shootdown(true);
        let _ = engine.vfree(old.addr()).unwrap();
        kernel.purge();
        assert!(matches!(kernel.verify(), Err(Unsound::FreeFramesShown { .. })));

        // The allocator hands the same frame out again, to another space.
        let first_frame = |area: &Area| kernel.space(1).translate(area.pages.start).unwrap().0;
        let next = (0..512)
            .map(|_| kernel.engine(1).vmalloc(&Request::bytes(4096)).unwrap())
            .find(|area| first_frame(area) == frame)
            .expect("the frame comes round");
        kernel.cpu(CPUS_PER_SPACE).store(next.addr(), 0x5ec2e7).unwrap();
        assert_eq!(cpu.load(old.addr()), Ok(0x5ec2e7), "through its TLB, at the old page");
        assert_eq!(kernel.hardware().stale_hits(), 1);
        assert!(matches!(
            kernel.verify(),
            Err(Unsound::FreeFramesShown { .. } | Unsound::Stale(_))
        ));
    });
}

/// Goal: the real purge never lets it come to that. Method: 20,000 random steps by four CPUs in
/// two spaces; every load of an area that was freed and purged must fault, and no CPU ever uses
/// what the tables no longer say.
#[test]
fn with_the_shootdown_no_cpu_ever_uses_an_old_translation() {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let mut random = Random::new(7);
        let mut live = Vec::new();
        let mut purged: Vec<(usize, VirtAddr)> = Vec::new();
        let mut parked: Vec<(usize, VirtAddr)> = Vec::new();
        for step in 0..20_000_u64 {
            let space = random.index(kernel.spaces());
            let engine = kernel.engine(space);
            let cpu = kernel.cpu(space * CPUS_PER_SPACE + random.index(CPUS_PER_SPACE));
            match random.below(12) {
                0..=3 => {
                    let request = Request::bytes((1 + random.below(12)) * 4096);
                    if let Ok(area) = engine.vmalloc(&request) {
                        let here = area.pages;
                        purged.retain(|(of, at)| *of != space || !here.contains(at.vpn()));
                        parked.retain(|(of, at)| *of != space || !here.contains(at.vpn()));
                        cpu.store(area.addr(), step).unwrap();
                        live.push((space, area.addr(), step));
                    }
                }
                4..=6 if !live.is_empty() => {
                    let (space, addr, value) = live.swap_remove(random.index(live.len()));
                    let cpu = kernel.cpu(space * CPUS_PER_SPACE);
                    assert_eq!(cpu.load(addr), Ok(value));
                    let _ = kernel.engine(space).vfree(addr).unwrap();
                    parked.push((space, addr));
                }
                7 if step % 50 == 0 => {
                    kernel.purge();
                    purged.append(&mut parked);
                }
                8 if !purged.is_empty() => {
                    let (space, addr) = purged[random.index(purged.len())];
                    let cpu = kernel.cpu(space * CPUS_PER_SPACE + random.index(CPUS_PER_SPACE));
                    assert!(cpu.load(addr).is_err(), "{addr} was purged and can be read");
                }
                _ if !live.is_empty() => {
                    let (space, addr, value) = live[random.index(live.len())];
                    let cpu = kernel.cpu(space * CPUS_PER_SPACE + random.index(CPUS_PER_SPACE));
                    assert_eq!(cpu.load(addr), Ok(value), "step {step}");
                }
                _ => {}
            }
            if step % 1000 == 0 {
                assert_eq!(kernel.verify(), Ok(()), "step {step}");
            }
        }
        assert_eq!(kernel.hardware().stale_hits(), 0, "{:?}", kernel.hardware().first_stale_hit());
        assert_eq!(kernel.verify(), Ok(()));
        let counters = kernel.hardware().counters();
        assert!(counters.tlb_hits > 5_000, "{counters:?}: the TLBs were hardly used");
    });
}
