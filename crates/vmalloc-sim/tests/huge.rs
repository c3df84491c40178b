//! Huge leaves of the simulated page tables: made, shown, cut, and gone.

use proptest::prelude::*;
use std::sync::Arc;
use vmalloc_core::platform::{MapError, Mapper, Tlb};
use vmalloc_core::{Cache, Extent, PageRange, Pages, Pfn, Prot, Request, VirtAddr, Vpn};
use vmalloc_sim::{AddressSpace, Config, Fault, Hardware, KernelConfig, SimKernel, Step, mmu};

const AT: Vpn = Vpn(0xf_fff8_0000_0000);
const HUGE: u64 = 512;

/// A machine whose first data frame is a multiple of a huge page, and a space with a window of
/// eight huge pages.
fn machine(frames: u64) -> (Arc<Hardware>, AddressSpace) {
    let config = Config { first: Pfn(HUGE), frames: Pages(frames), ..Config::default() };
    let hardware = Hardware::new(config);
    let space = hardware.space().unwrap();
    space.prepare(pages(0, 8 * HUGE)).unwrap();
    (hardware, space)
}

fn pages(first: u64, len: u64) -> PageRange {
    PageRange { start: page(first), len: Pages(len) }
}

fn page(index: u64) -> Vpn {
    Vpn(AT.0 + index)
}

fn frames(start: u64, len: u64) -> Extent {
    Extent { start: Pfn(start), len: Pages(len) }
}

fn addr(index: u64) -> VirtAddr {
    page(index).addr()
}

/// Goal: where page, frame and length allow, 512 pages need no leaf table; elsewhere they do.
/// Method: count tables, for runs that are aligned on both sides, on one, and longer than that.
#[test]
fn a_huge_leaf_stands_where_both_sides_are_aligned() {
    let (hardware, space) = machine(4 * HUGE);
    let tables = || hardware.counters().tables_in_use.0;
    // The table of level 2 is made with the first.
    space.map_run(page(0), frames(HUGE, HUGE), Prot::READ_WRITE).unwrap();
    let before = tables();
    space.map_run(page(HUGE), frames(2 * HUGE, HUGE), Prot::READ_WRITE).unwrap();
    assert_eq!(tables(), before, "aligned: no table");
    space.map_run(page(2 * HUGE), frames(2 * HUGE + 1, HUGE), Prot::READ_WRITE).unwrap();
    assert_eq!(tables(), before + 1, "the frames are not aligned");
    space.map_run(page(4 * HUGE - 3), frames(3 * HUGE - 3, HUGE + 6), Prot::READ).unwrap();
    assert_eq!(tables(), before + 3, "head and tail of the run are small");
    for (at, pfn) in [(0, HUGE), (700, HUGE + 700), (4 * HUGE + 17, 3 * HUGE + 17)] {
        let found = mmu::walk(hardware.ram(), space.cr3(), addr(at)).unwrap();
        assert_eq!((found.pfn, space.translate(page(at)).unwrap().0), (Pfn(pfn), Pfn(pfn)));
    }
    assert_eq!(hardware.tables_reachable().0, tables());
}

/// Goal: a part of a huge leaf is protected or unmapped by itself, and the rest is as it was.
/// Method: split at both ends first, as the engine does; a CPU accesses each border.
#[test]
fn a_split_makes_a_part_of_a_huge_leaf_its_own() {
    let (hardware, space) = machine(2 * HUGE);
    let cpu = hardware.cpu(0);
    space.map_run(page(0), frames(HUGE, HUGE), Prot::READ_WRITE).unwrap();
    cpu.store(addr(100), 1).unwrap();
    for at in [100, 200] {
        space.split(page(at)).unwrap();
        // The same frames, the same rights: what a TLB holds stays true.
        assert_eq!(cpu.load(addr(100)), Ok(1));
    }
    assert_eq!(hardware.stale_hits(), 0);
    space.protect_run(pages(100, 100), Prot::READ);
    space.flush_all_cpus(&[pages(100, 100)]);
    for (at, is_writable) in [(99, true), (100, false), (199, false), (200, true)] {
        assert_eq!(cpu.store(addr(at), 2).is_ok(), is_writable, "page {at}");
    }
    space.unmap_run(pages(100, 100));
    space.flush_all_cpus(&[pages(100, 100)]);
    assert_eq!(cpu.load(addr(150)), Err(Fault::NotPresent { va: addr(150) }));
    assert_eq!(cpu.load(addr(200)), Ok(2));
}

/// Goal: without a frame for the table a split changes nothing.
#[test]
fn a_split_that_fails_leaves_the_leaf() {
    let (hardware, space) = machine(2 * HUGE);
    space.map_run(page(0), frames(HUGE, HUGE), Prot::READ).unwrap();
    hardware.faults().fail_nth(Step::AllocTable, 1);
    assert_eq!(space.split(page(5)), Err(MapError::NoTable { at: page(5) }));
    assert_eq!(space.translate(page(5)), Some((Pfn(HUGE + 5), Prot::READ)));
    let tables = hardware.counters().tables_in_use;
    assert_eq!(space.split(page(HUGE)), Ok(()), "no leaf lies across its end");
    assert_eq!(hardware.counters().tables_in_use, tables);
}

/// Goal: a page under a huge leaf is occupied.
#[test]
fn a_map_under_a_huge_leaf_names_the_frame_that_it_shows() {
    let (_hardware, space) = machine(2 * HUGE);
    space.map_run(page(HUGE), frames(HUGE, HUGE), Prot::READ).unwrap();
    let error = space.map_run(page(HUGE + 9), frames(HUGE, 1), Prot::READ);
    assert_eq!(error, Err(MapError::Occupied { at: page(HUGE + 9), by: Pfn(HUGE + 9) }));
    let error = space.map_run(page(HUGE - 2), frames(HUGE, 4), Prot::READ);
    assert_eq!(error, Err(MapError::Occupied { at: page(HUGE), by: Pfn(HUGE) }));
    assert_eq!(space.translate(page(HUGE - 1)), None, "nothing of it");
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Map { at: u64, len: u64, pfn: u64, prot: Prot },
    Unmap { at: u64, len: u64 },
    Protect { at: u64, len: u64, prot: Prot },
}

/// Runs whose ends are multiples of a quarter of a huge page, so that huge leaves are made and cut.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    let run = (0..24u64, 1..10u64).prop_map(|(at, len)| (at * 128, len.min(24 - at) * 128));
    let prot = prop::sample::select(vec![
        Prot::READ,
        Prot::READ_WRITE,
        Prot::READ_EXECUTE.user(),
        // Its attribute bit lies among a huge leaf's frame bits.
        Prot::READ_WRITE.cached(Cache::WriteThrough),
    ]);
    let op = prop_oneof![
        3 => (run.clone(), 0..4u64, prot.clone()).prop_map(|((at, len), pfn, prot)| Op::Map {
            at,
            len,
            pfn: HUGE + at % HUGE + pfn / 3 * 128,
            prot,
        }),
        1 => run.clone().prop_map(|(at, len)| Op::Unmap { at, len }),
        1 => (run, prot).prop_map(|((at, len), prot)| Op::Protect { at, len, prot }),
    ];
    prop::collection::vec(op, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    /// Goal: tables with huge leaves agree with a model without any. Method: random operations,
    /// each range split at its ends first; afterwards every page, by the mapper and by the MMU.
    #[test]
    fn huge_leaves_show_what_small_ones_would(ops in ops()) {
        let (hardware, space) = machine(6 * HUGE);
        let mut model: Vec<Option<(Pfn, Prot)>> = vec![None; 24 * 128];
        for op in ops {
            let (at, len) = match op {
                Op::Map { at, len, .. } | Op::Unmap { at, len } | Op::Protect { at, len, .. } => {
                    (at, len)
                }
            };
            let part = at as usize..(at + len) as usize;
            if !matches!(op, Op::Map { .. }) {
                space.split(page(at)).unwrap();
                space.split(page(at + len)).unwrap();
            }
            match op {
                Op::Map { pfn, prot, .. } => {
                    let result = space.map_run(page(at), frames(pfn, len), prot);
                    let is_free = model[part.clone()].iter().all(Option::is_none);
                    prop_assert_eq!(result.is_ok(), is_free);
                    if is_free {
                        for (i, shown) in (0..).zip(&mut model[part]) {
                            *shown = Some((Pfn(pfn + i), prot));
                        }
                    }
                }
                Op::Unmap { .. } => {
                    space.unmap_run(pages(at, len));
                    model[part].fill(None);
                }
                Op::Protect { prot, .. } => {
                    space.protect_run(pages(at, len), prot);
                    model[part].iter_mut().flatten().for_each(|shown| shown.1 = prot);
                }
            }
        }
        for (index, expected) in (0..).zip(&model) {
            prop_assert_eq!(space.translate(page(index)), *expected);
            let walked = mmu::walk(hardware.ram(), space.cr3(), addr(index)).ok();
            let walked = walked.map(|f| (f.pfn, f.writable, f.executable, f.user, f.cache));
            let rights = |(pfn, prot): (Pfn, Prot)| {
                (pfn, prot.rights.may_write(), prot.rights.may_execute(), prot.user, prot.cache)
            };
            prop_assert_eq!(walked, expected.map(rights));
        }
        prop_assert_eq!(hardware.tables_reachable(), hardware.counters().tables_in_use);
    }
}

/// Goal: an area in a huge leaf can be cut short. Method: 2 MiB of aligned frames, halved.
#[test]
fn an_area_under_a_huge_leaf_shrinks() {
    let config = KernelConfig { frames: Pages(4 * HUGE), ..KernelConfig::USUAL };
    SimKernel::run(config, |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vzalloc(&Request::bytes(2 << 20).align_bytes(2 << 20)).unwrap();
        let before = kernel.hardware().counters().mapper_walks;
        engine.resize(area.id, area.generation, 1 << 20, false).unwrap();
        assert!(kernel.hardware().counters().mapper_walks > before);
        assert_eq!(kernel.verify(), Ok(()));
        let _ = engine.free(area.id, area.generation).unwrap();
        kernel.purge();
        assert_eq!(kernel.frames_in_use(), Pages(0));
    });
}
