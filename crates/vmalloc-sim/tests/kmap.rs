//! High memory on the simulated machine: permanent maps and temporary ones. Every test ends with
//! no stale hit but those that show what a missing flush does.

use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use vmalloc_core::kmap::{
    Kmap, KmapError, KmapLocal, KunmapError, MapLocalError, OutOfOrder, SetupError,
};
use vmalloc_core::platform::{MapError, Mapper, Prot, Ram, Tlb};
use vmalloc_core::{Extent, PageRange, Pages, Pfn, Vpn};
use vmalloc_sim::{AddressSpace, Config, Fault, Hardware, Step};

/// A window in the kernel's half.
const START: Vpn = Vpn(0xf_fff8_0000_0000);
const CPUS: usize = 3;

/// A machine and a space of it. The first word of every data frame is the frame's number, so that
/// a load tells which frame it read.
fn machine() -> (Arc<Hardware>, AddressSpace) {
    let hardware = Hardware::new(Config { cpus: CPUS, ..Config::default() });
    let space = hardware.space().unwrap();
    let data = hardware.ram().data_frames();
    for pfn in data.start.0..data.end().0 {
        space.words(Pfn(pfn))[0].store(pfn, Ordering::Release);
    }
    (0..CPUS).for_each(|cpu| hardware.cpu(cpu).switch_to(&space));
    (hardware, space)
}

fn words(len: usize) -> Vec<AtomicU64> {
    (0..len).map(|_| AtomicU64::new(0)).collect()
}

fn window(pages: u64) -> PageRange {
    PageRange { start: START, len: Pages(pages) }
}

/// Runs `body` on a kmap of `pages` pages; no CPU may have used an old translation.
fn with_kmap<R>(pages: u64, body: impl FnOnce(&Hardware, &Kmap<'_, AddressSpace>) -> R) -> R {
    let (hardware, space) = machine();
    let words = words(Kmap::<()>::words_needed(Pages(pages)));
    let kmap = Kmap::new(&words, window(pages), space).unwrap();
    kmap.prepare().unwrap();
    let result = body(&hardware, &kmap);
    assert_eq!(hardware.first_stale_hit(), None);
    assert!(kmap.is_sound());
    result
}

fn frame(index: u64) -> Pfn {
    Pfn(Config::default().first.0 + index)
}

/// Whether every CPU sees `pfn` at `page`.
fn all_see(hardware: &Hardware, page: Vpn, pfn: Pfn) -> bool {
    (0..CPUS).all(|cpu| hardware.cpu(cpu).load(page.addr()) == Ok(pfn.0))
}

// Permanent maps.

/// Goal: a map is counted. Method: one frame twice, another once; unmap one time too often.
#[test]
fn a_frame_mapped_twice_has_one_page_and_two_users() {
    with_kmap(8, |hardware, kmap| {
        let page = kmap.kmap(frame(5)).unwrap();
        let other = kmap.kmap(frame(6)).unwrap();
        assert_ne!(page, other);
        assert_eq!(kmap.kmap(frame(5)), Ok(page));
        assert_eq!(kmap.lookup(frame(5)), Some((page, 2)));
        assert_eq!(kmap.in_use(), Pages(2));
        assert!(all_see(hardware, page, frame(5)) && all_see(hardware, other, frame(6)));

        assert_eq!((kmap.kunmap(frame(5)), kmap.kunmap(frame(5))), (Ok(()), Ok(())));
        let pfn = frame(5);
        assert_eq!(kmap.kunmap(pfn), Err(KunmapError::NotMapped { pfn }));
        assert_eq!(kmap.kunmap(frame(9)), Err(KunmapError::NotMapped { pfn: frame(9) }));
        assert_eq!(kmap.lookup(frame(5)), Some((page, 0)));
        assert_eq!(hardware.counters().flushes, 0);
    });
}

/// Goal: an unused page is still the frame's, for nothing. Method: map, unmap, map again; no map
/// call and no flush the second time.
#[test]
fn an_unused_page_is_found_again_without_map_or_flush() {
    with_kmap(4, |hardware, kmap| {
        let page = kmap.kmap(frame(1)).unwrap();
        kmap.kunmap(frame(1)).unwrap();
        hardware.faults().reset();
        assert_eq!(kmap.kmap(frame(1)), Ok(page));
        assert_eq!((hardware.faults().seen(Step::MapRun), hardware.counters().flushes), (0, 0));
    });
}

/// Goal: a full window costs one shootdown for all its unused pages, and nobody sees an old
/// frame. Method: a window of eight, half of it unused, seen by every CPU; four new frames.
#[test]
fn a_full_window_is_recycled_with_exactly_one_flush() {
    with_kmap(8, |hardware, kmap| {
        let pages: Vec<_> = (0..8).map(|i| kmap.kmap(frame(i)).unwrap()).collect();
        assert!((0..8).all(|i| all_see(hardware, pages[i as usize], frame(i))));
        (0..8).step_by(2).for_each(|i| kmap.kunmap(frame(i)).unwrap());
        for i in 20..24 {
            let page = kmap.kmap(frame(i)).unwrap();
            assert!(pages.contains(&page));
            assert!(all_see(hardware, page, frame(i)));
        }
        assert_eq!(hardware.counters().flushes, 1);
        assert!((1..8).step_by(2).all(|i| all_see(hardware, pages[i as usize], frame(i))));
        let gone = Extent { start: frame(0), len: Pages(1) };
        assert_eq!(hardware.tlb_entries_showing(gone), 0);
        assert_eq!(kmap.lookup(frame(0)), None);
    });
}

/// Goal: the test above can fail. Method: shootdowns that drop nothing.
#[test]
fn without_its_flush_a_recycled_page_shows_the_old_frame() {
    let (hardware, space) = machine();
    let words = words(2);
    let kmap = Kmap::new(&words, window(1), space).unwrap();
    kmap.prepare().unwrap();
    hardware.omit_shootdown(true);
    let page = kmap.kmap(frame(0)).unwrap();
    assert!(all_see(&hardware, page, frame(0)));
    kmap.kunmap(frame(0)).unwrap();
    assert_eq!(kmap.kmap(frame(1)), Ok(page));
    assert!(all_see(&hardware, page, frame(0)));
    assert_eq!(hardware.stale_hits(), CPUS as u64);
}

/// Goal: a window without an unused page is an error with the numbers, not a wait.
/// Method: full and in use; full and unused where waiting is forbidden; then allowed.
#[test]
fn a_full_window_is_a_typed_error_where_linux_sleeps() {
    with_kmap(2, |hardware, kmap| {
        kmap.kmap(frame(0)).unwrap();
        kmap.kmap(frame(1)).unwrap();
        let (pages, in_use, flushing) = (Pages(2), Pages(2), Pages(0));
        assert_eq!(kmap.kmap(frame(2)), Err(KmapError::Full { pages, in_use, flushing }));

        kmap.kunmap(frame(0)).unwrap();
        {
            let _interrupt = hardware.interrupts_off();
            let unused = Pages(1);
            assert_eq!(kmap.kmap(frame(2)), Err(KmapError::MayNotWait { unused }));
            assert_eq!(kmap.flush_unused(), Err(KmapError::MayNotWait { unused }));
            assert_eq!(kmap.kunmap(frame(1)), Ok(())); // needs no waiting
        }
        assert!(kmap.kmap(frame(2)).is_ok());
        assert_eq!(hardware.counters().flushes, 1);
    });
}

/// Goal: after `flush_unused` no TLB shows a frame that nobody maps, however scattered its pages.
/// Method: 200 pages, every other one unused: 100 runs, more than one flush can name.
#[test]
fn flush_unused_leaves_no_translation_of_an_unused_frame() {
    with_kmap(200, |hardware, kmap| {
        let pages: Vec<_> = (0..200).map(|i| kmap.kmap(frame(i)).unwrap()).collect();
        assert!((0..200).all(|i| all_see(hardware, pages[i as usize], frame(i))));
        let is_unused = |i: &u64| (pages[*i as usize].0 - START.0).is_multiple_of(2);
        (0..200).filter(is_unused).for_each(|i| kmap.kunmap(frame(i)).unwrap());
        assert_eq!(kmap.flush_unused(), Ok(Pages(100)));
        assert_eq!(hardware.counters().flushes, 2);
        for i in 0..200 {
            let entries = hardware.tlb_entries_showing(Extent { start: frame(i), len: Pages(1) });
            assert_eq!(entries, if is_unused(&i) { 0 } else { CPUS as u64 }, "frame {i}");
        }
        assert_eq!(kmap.flush_unused(), Ok(Pages(0)));
        assert_eq!(hardware.counters().flushes, 2);
    });
}

#[test]
fn a_frame_number_that_no_machine_has_is_refused() {
    with_kmap(1, |_, kmap| {
        let (pfn, limit) = (Pfn(1 << 40), Pfn(1 << 40));
        assert_eq!(kmap.kmap(pfn), Err(KmapError::BadFrame { pfn, limit }));
        assert_eq!(kmap.kunmap(pfn), Err(KunmapError::NotMapped { pfn }));
    });
}

#[test]
fn too_few_words_or_pages_are_refused() {
    let words = words(8);
    let err = Kmap::new(&words, window(8), ()).err();
    assert_eq!(err, Some(SetupError::Words { needed: 9, given: 8 }));
    let (empty, needed) = (window(0), Pages(1));
    let err = Kmap::new(&words, empty, ()).err();
    assert_eq!(err, Some(SetupError::Window { window: empty, needed }));
    let err = KmapLocal::new(&words, 2, window(8), ()).err();
    assert_eq!(err, Some(SetupError::Words { needed: 16, given: 8 }));
}

/// Goal: a map that fails leaves nothing. Method: a window of four and four frames; each map call
/// fails in turn, then the frame is mapped again, and the window is full.
#[test]
fn a_failed_map_leaves_the_window_as_it_was() {
    for n in 1..=4 {
        with_kmap(4, |hardware, kmap| {
            hardware.faults().fail_nth(Step::MapRun, n);
            for i in 1..=4 {
                let mapped = kmap.kmap(frame(i));
                assert_eq!(matches!(mapped, Err(KmapError::Map(MapError::NoTable { .. }))), i == n);
                assert_eq!(kmap.lookup(frame(i)).is_none(), i == n);
                assert!(kmap.is_sound());
            }
            let page = kmap.kmap(frame(n)).unwrap();
            assert!(all_see(hardware, page, frame(n)));
            assert_eq!((kmap.in_use(), hardware.counters().flushes), (Pages(4), 0));
        });
    }
}

/// A machine on which another CPU acts in the middle of a call.
struct Meanwhile<'a> {
    space: AddressSpace,
    in_map: &'a (dyn Fn() + Sync),
    in_flush: &'a (dyn Fn() + Sync),
}

impl Mapper for &Meanwhile<'_> {
    fn prepare(&self, window: PageRange) -> Result<(), MapError> {
        self.space.prepare(window)
    }

    fn map_run(&self, at: Vpn, run: Extent, prot: Prot) -> Result<(), MapError> {
        (self.in_map)();
        self.space.map_run(at, run, prot)
    }

    fn unmap_run(&self, at: PageRange) {
        self.space.unmap_run(at);
    }

    fn protect_run(&self, at: PageRange, prot: Prot) {
        self.space.protect_run(at, prot);
    }

    fn translate(&self, at: Vpn) -> Option<(Pfn, Prot)> {
        self.space.translate(at)
    }
}

impl Tlb for &Meanwhile<'_> {
    fn publish(&self, at: PageRange) {
        self.space.publish(at);
    }

    fn flush_all_cpus(&self, ranges: &[PageRange]) {
        (self.in_flush)();
        self.space.flush_all_cpus(ranges);
    }

    fn may_wait(&self) -> bool {
        self.space.may_wait()
    }
}

/// Goal: nobody waits for a CPU that stopped while it mapped. Method: in the middle of a map call,
/// another CPU maps the same frame, uses it, and the window over the same words tells of both.
#[test]
fn a_frame_can_be_mapped_while_another_cpu_is_still_mapping_it() {
    let (hardware, space) = machine();
    let words = words(5);
    let other = Kmap::new(&words, window(4), space.clone()).unwrap();
    other.prepare().unwrap();
    let in_map = || {
        let page = other.kmap(frame(3)).unwrap();
        assert!(all_see(&hardware, page, frame(3)));
    };
    let machine = Meanwhile { space, in_map: &in_map, in_flush: &|| {} };
    let kmap = Kmap::new(&words, window(4), &machine).unwrap();
    let page = kmap.kmap(frame(3)).unwrap();
    assert_eq!(kmap.lookup(frame(3)), Some((page, 2)));
    assert!(kmap.is_sound());
    assert_eq!(hardware.stale_hits(), 0);
}

/// Goal: a page whose shootdown is on its way is given to nobody. Method: in the middle of the
/// flush another CPU finds the window full, and is told how much will come free.
#[test]
fn a_page_is_not_given_out_before_its_shootdown() {
    let (hardware, space) = machine();
    let words = words(3);
    let other = Kmap::new(&words, window(2), space.clone()).unwrap();
    other.prepare().unwrap();
    let in_flush = || {
        let (pages, in_use, flushing) = (Pages(2), Pages(0), Pages(2));
        assert_eq!(other.kmap(frame(8)), Err(KmapError::Full { pages, in_use, flushing }));
        assert_eq!(other.lookup(frame(0)), None);
    };
    let machine = Meanwhile { space, in_map: &|| {}, in_flush: &in_flush };
    let kmap = Kmap::new(&words, window(2), &machine).unwrap();
    for i in 0..2 {
        let page = kmap.kmap(frame(i)).unwrap();
        assert!(all_see(&hardware, page, frame(i)));
        kmap.kunmap(frame(i)).unwrap();
    }
    let page = kmap.kmap(frame(2)).unwrap();
    assert!(all_see(&hardware, page, frame(2)));
    assert_eq!((hardware.stale_hits(), hardware.counters().flushes), (0, 1));
}

/// Goal: three CPUs on one window never see a wrong frame. Method: more frames than pages, most of
/// them wanted by all; each load says which frame it reached.
#[test]
fn three_threads_share_a_window_and_see_their_frames() {
    with_kmap(6, |hardware, kmap| {
        thread::scope(|scope| {
            for cpu in 0..CPUS {
                scope.spawn(move || {
                    let cpu_of = hardware.cpu(cpu);
                    for round in 0..3_000 {
                        let pfn = frame((round * (cpu as u64 + 1)) % 10);
                        match kmap.kmap(pfn) {
                            Ok(page) => {
                                assert_eq!(cpu_of.load(page.addr()), Ok(pfn.0));
                                kmap.kunmap(pfn).unwrap();
                            }
                            Err(KmapError::Full { .. }) => thread::yield_now(),
                            Err(e) => panic!("{e}"),
                        }
                    }
                });
            }
        });
        assert_eq!(kmap.in_use(), Pages(0));
    });
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Map(u64),
    Unmap(u64),
    FlushUnused,
    FailNextMap,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0..12_u64).prop_map(Op::Map),
        4 => (0..12_u64).prop_map(Op::Unmap),
        1 => Just(Op::FlushUnused),
        1 => Just(Op::FailNextMap),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..Default::default() })]

    /// Goal: a kmap is a counted map of at most as many frames as it has pages.
    /// Method: random steps against a hash map; after each, every CPU reads every mapped frame.
    #[test]
    fn any_sequence_of_kmap_and_kunmap_does_what_a_map_of_counts_does(
        ops in prop::collection::vec(op(), 1..80),
    ) {
        with_kmap(5, |hardware, kmap| {
            let mut model: HashMap<u64, (Vpn, u64)> = HashMap::new();
            for op in ops {
                match op {
                    Op::Map(i) => match kmap.kmap(frame(i)) {
                        Ok(page) => {
                            let entry = model.entry(i).or_insert((page, 0));
                            entry.1 += 1;
                            assert_eq!(entry.0, page);
                        }
                        Err(KmapError::Full { in_use, .. }) => {
                            assert_eq!((in_use, model.len()), (Pages(5), 5));
                            assert!(!model.contains_key(&i));
                        }
                        Err(e) => {
                            assert!(matches!(e, KmapError::Map(_)), "{e}");
                            assert_eq!(hardware.faults().fired(Step::MapRun), 1);
                            assert!(!model.contains_key(&i));
                        }
                    },
                    Op::Unmap(i) => {
                        let is_mapped = model.contains_key(&i);
                        assert_eq!(kmap.kunmap(frame(i)).is_ok(), is_mapped);
                        if is_mapped {
                            model.entry(i).and_modify(|(_, count)| *count -= 1);
                            model.retain(|_, (_, count)| *count > 0);
                        }
                    }
                    Op::FlushUnused => {
                        kmap.flush_unused().unwrap();
                        for i in (0..12).filter(|i| !model.contains_key(i)) {
                            let run = Extent { start: frame(i), len: Pages(1) };
                            assert_eq!(hardware.tlb_entries_showing(run), 0);
                        }
                    }
                    Op::FailNextMap => hardware.faults().fail_nth(Step::MapRun, 1),
                }
                for (i, &(page, count)) in &model {
                    assert_eq!(kmap.lookup(frame(*i)), Some((page, count)));
                    assert!(all_see(hardware, page, frame(*i)));
                }
                assert_eq!(kmap.in_use().0, model.len() as u64);
                assert!(kmap.is_sound());
            }
        });
    }
}

// Temporary maps.

fn with_local<R>(depth: u64, body: impl FnOnce(&Hardware, &KmapLocal<'_, AddressSpace>) -> R) -> R {
    let (hardware, space) = machine();
    let words = words(KmapLocal::<()>::words_needed(CPUS));
    let local = KmapLocal::new(&words, CPUS, window(depth * CPUS as u64), space).unwrap();
    local.prepare().unwrap();
    let result = body(&hardware, &local);
    assert_eq!(hardware.first_stale_hit(), None);
    assert_eq!(hardware.counters().flushes, 0, "a local map costs no shootdown");
    result
}

/// Goal: maps nest, their pages come again at once, and only their CPU is flushed.
/// Method: three deep, twice, with other frames the second time.
#[test]
fn local_maps_nest_and_cost_no_shootdown() {
    with_local(4, |hardware, local| {
        let (_on, cpu) = (hardware.run_on(1), hardware.cpu(1));
        for base in [0, 10] {
            let maps: Vec<_> =
                (0..3).map(|i| local.map(1, frame(base + i), Prot::READ_WRITE).unwrap()).collect();
            for (i, map) in maps.iter().enumerate() {
                assert_eq!(cpu.load(map.page().addr()), Ok(frame(base + i as u64).0));
                assert_eq!(map.page().0, START.0 + 4 + i as u64);
            }
            assert_eq!((local.in_use(0), local.in_use(1)), (0, 3));
            for map in maps.into_iter().rev() {
                let va = map.page().addr();
                assert_eq!(map.unmap(), Ok(()));
                assert_eq!(cpu.load(va), Err(Fault::NotPresent { va }));
            }
        }
        assert_eq!((local.in_use(1), hardware.counters().local_flushes), (0, 6));
    });
}

/// Goal: a map that goes before a younger one is an error, and loses nothing.
/// Method: outer before inner; the inner's frame stays, the outer's page is not used under it.
#[test]
fn a_local_map_that_goes_out_of_order_is_a_typed_error() {
    with_local(3, |hardware, local| {
        let (_on, cpu) = (hardware.run_on(0), hardware.cpu(0));
        let outer = local.map(0, frame(1), Prot::READ).unwrap();
        let inner = local.map(0, frame(2), Prot::READ).unwrap();
        let (page, va) = (outer.page(), outer.page().addr());
        assert_eq!(cpu.load(va), Ok(frame(1).0));
        assert_eq!(outer.unmap(), Err(OutOfOrder { page, above: 1 }));
        assert_eq!(cpu.load(va), Err(Fault::NotPresent { va }));
        assert_eq!(cpu.load(inner.page().addr()), Ok(frame(2).0));

        let youngest = local.map(0, frame(3), Prot::READ).unwrap();
        assert!(youngest.page() > inner.page(), "not below one that is still there");
        let (cpu, depth) = (0, 3);
        let err = local.map(0, frame(4), Prot::READ).unwrap_err();
        assert_eq!(err, MapLocalError::TooDeep { cpu, depth });
        drop(youngest);
        assert_eq!(inner.unmap(), Ok(()));
        assert_eq!(local.map(0, frame(4), Prot::READ).unwrap().page(), page);
    });
}

/// Goal: rights are kept, and an interrupt handler may map above what it interrupts.
#[test]
fn a_handler_maps_above_what_it_interrupts_even_where_waiting_is_forbidden() {
    with_local(2, |hardware, local| {
        let (_on, cpu) = (hardware.run_on(2), hardware.cpu(2));
        let outer = local.map(2, frame(1), Prot::READ_WRITE).unwrap();
        {
            let _interrupt = hardware.interrupts_off();
            let inner = local.map(2, frame(2), Prot::READ).unwrap();
            let va = inner.page().addr();
            assert_eq!(cpu.store(va, 0), Err(Fault::ReadOnly { va }));
            assert_eq!(cpu.load(va), Ok(frame(2).0));
        }
        assert_eq!(cpu.store(outer.page().addr(), frame(1).0), Ok(()));
    });
}

/// Goal: the tests here can fail. Method: local flushes that drop nothing.
#[test]
fn without_its_flush_a_local_page_shows_the_old_frame() {
    let (hardware, space) = machine();
    let words = words(KmapLocal::<()>::words_needed(1));
    let local = KmapLocal::new(&words, 1, window(1), space).unwrap();
    local.prepare().unwrap();
    hardware.omit_shootdown(true);
    let (_on, cpu) = (hardware.run_on(0), hardware.cpu(0));
    for pfn in [frame(1), frame(2)] {
        let map = local.map(0, pfn, Prot::READ).unwrap();
        assert_eq!(cpu.load(map.page().addr()), Ok(frame(1).0));
    }
    assert_eq!(hardware.stale_hits(), 1);
}

/// Goal: a failed map gives its page back. Method: the next map call fails; also no such CPU.
#[test]
fn a_failed_local_map_takes_no_page() {
    with_local(1, |hardware, local| {
        hardware.faults().fail_nth(Step::MapRun, 1);
        let err = local.map(0, frame(0), Prot::READ).unwrap_err();
        assert!(matches!(err, MapLocalError::Map(MapError::NoTable { .. })));
        assert_eq!(local.in_use(0), 0);
        let (_on, map) = (hardware.run_on(0), local.map(0, frame(0), Prot::READ).unwrap());
        assert_eq!(map.cpu(), 0);
        let err = local.map(CPUS, frame(0), Prot::READ).unwrap_err();
        assert_eq!(err, MapLocalError::NoCpu { cpu: CPUS, cpus: CPUS });
    });
}

/// Goal: CPUs do not meet in their pages. Method: three threads, each on its CPU, map frames two
/// deep and read both through their own TLB.
#[test]
fn three_cpus_map_locally_and_see_their_frames() {
    with_local(2, |hardware, local| {
        thread::scope(|scope| {
            for index in 0..CPUS {
                scope.spawn(move || {
                    let (_on, cpu) = (hardware.run_on(index), hardware.cpu(index));
                    for round in 0..1_500 {
                        let [a, b] = [frame(round % 7), frame(7 + (round + index as u64) % 7)];
                        let outer = local.map(index, a, Prot::READ).unwrap();
                        let inner = local.map(index, b, Prot::READ).unwrap();
                        assert_eq!(cpu.load(outer.page().addr()), Ok(a.0));
                        assert_eq!(cpu.load(inner.page().addr()), Ok(b.0));
                        assert_eq!((inner.unmap(), outer.unmap()), (Ok(()), Ok(())));
                    }
                });
            }
        });
        assert!((0..CPUS).all(|cpu| local.in_use(cpu) == 0));
    });
}
