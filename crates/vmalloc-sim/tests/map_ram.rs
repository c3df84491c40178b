//! `vm_map_ram` and its kin on the simulated machine. Every test ends with no stale hit, and with
//! words that agree with the page tables.

use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use vmalloc_core::map_ram::{
    AliasesError, BLOCK_PAGES, MapRam, MapRamError, PAGES_MAX, SetupError, UnmapRamError, Usage,
};
use vmalloc_core::platform::{MapError, Mapper, Prot, Ram, Tlb};
use vmalloc_core::{Extent, PageRange, Pages, Pfn, VirtAddr, Vpn};
use vmalloc_sim::{AddressSpace, Config, Fault, Hardware, Step};

/// A window in the kernel's half.
const START: Vpn = Vpn(0xf_fff8_0000_0000);
const CPUS: usize = 3;

/// A machine and a space of it. The first word of every data frame is the frame's number, so that
/// a load tells which frame it read.
fn machine() -> (Arc<Hardware>, AddressSpace) {
    let config = Config { cpus: CPUS, table_frames: Pages(320), ..Config::default() };
    let hardware = Hardware::new(config);
    let space = hardware.space().unwrap();
    let data = hardware.ram().data_frames();
    for pfn in data.start.0..data.end().0 {
        space.words(Pfn(pfn))[0].store(pfn, Ordering::Release);
    }
    (0..CPUS).for_each(|cpu| hardware.cpu(cpu).switch_to(&space));
    (hardware, space)
}

fn words(blocks: u64) -> Vec<AtomicU64> {
    let len = MapRam::<()>::words_needed(window(blocks).len, CPUS);
    (0..len).map(|_| AtomicU64::new(0)).collect()
}

fn window(blocks: u64) -> PageRange {
    PageRange { start: START, len: Pages(blocks * BLOCK_PAGES.0) }
}

/// Runs `body` on a window of `blocks`; no CPU may have used an old translation.
fn with_ram<R>(blocks: u64, body: impl FnOnce(&Hardware, &MapRam<'_, AddressSpace>) -> R) -> R {
    let (hardware, space) = machine();
    let words = words(blocks);
    let ram = MapRam::new(&words, CPUS, window(blocks), space).unwrap();
    ram.prepare().unwrap();
    let result = body(&hardware, &ram);
    assert_eq!(hardware.first_stale_hit(), None);
    assert!(ram.is_sound());
    result
}

fn frame(index: u64) -> Pfn {
    Pfn(Config::default().first.0 + index)
}

fn run(first: u64, len: u64) -> Extent {
    Extent { start: frame(first), len: Pages(len) }
}

/// Whether `cpu` reads the frames of `frames`, in order, at the pages of `at`.
fn sees(hardware: &Hardware, cpu: usize, at: PageRange, frames: &[Extent]) -> bool {
    let pfns = frames.iter().flat_map(|run| run.start.0..run.end().0);
    let pages = at.start.0..at.end().0;
    pages.clone().count() == pfns.clone().count()
        && pages.zip(pfns).all(|(page, pfn)| hardware.cpu(cpu).load(Vpn(page).addr()) == Ok(pfn))
}

fn all_see(hardware: &Hardware, at: PageRange, frames: &[Extent]) -> bool {
    (0..CPUS).all(|cpu| sees(hardware, cpu, at, frames))
}

fn usage(free: u64, live: u64, dirty: u64) -> Usage {
    Usage { free: Pages(free), live: Pages(live), dirty: Pages(dirty), flushing: Pages(0) }
}

/// Goal: a run shows its frames in the order given, with the rights asked for, one map call an
/// extent. Method: three extents out of order, an empty one among them, read by every CPU.
#[test]
fn a_run_shows_its_frames_in_the_order_given() {
    with_ram(1, |hardware, ram| {
        let frames = [run(90, 3), run(7, 1), run(300, 0), run(40, 60)];
        let at = ram.vm_map_ram(0, &frames, Prot::READ).unwrap();
        assert_eq!(at.len, PAGES_MAX);
        assert!(all_see(hardware, at, &frames));
        assert_eq!(hardware.faults().seen(Step::MapRun), 3);
        let va = at.start.addr();
        assert_eq!(hardware.cpu(0).store(va, 1), Err(Fault::ReadOnly { va }));
        assert_eq!(ram.usage(), usage(960, 64, 0));
    });
}

/// Goal: runs are as long as asked for, and lie side by side without a guard, as in Linux.
#[test]
fn runs_are_not_rounded_up_and_have_no_guard() {
    with_ram(1, |_, ram| {
        let a = ram.vm_map_ram(0, &[run(0, 5)], Prot::READ).unwrap();
        let b = ram.vm_map_ram(0, &[run(9, 3)], Prot::READ).unwrap();
        assert_eq!((a.len, b.start), (Pages(5), a.end()));
        assert_eq!(ram.usage().live, Pages(8));
    });
}

#[test]
fn nothing_and_more_than_a_run_can_hold_are_refused() {
    with_ram(1, |_, ram| {
        let map = |frames: &[Extent]| ram.vm_map_ram(0, frames, Prot::READ);
        assert_eq!(map(&[]), Err(MapRamError::ZeroSize));
        assert_eq!(map(&[run(1, 0)]), Err(MapRamError::ZeroSize));
        let (pages, limit) = (Pages(65), Pages(64));
        assert_eq!(map(&[run(0, 64), run(99, 1)]), Err(MapRamError::TooLong { pages, limit }));
        let pages = Pages(u64::MAX);
        let err = map(&[run(0, u64::MAX), run(0, 2)]);
        assert_eq!(err, Err(MapRamError::TooLong { pages, limit }));
        assert_eq!(ram.usage(), usage(1024, 0, 0));
    });
}

/// Goal: only a run as it was mapped can be unmapped, once. Method: each wrong way, then the right
/// one; nothing changes before.
#[test]
fn unmap_wants_the_base_and_the_count_of_the_run() {
    with_ram(1, |hardware, ram| {
        let frames = [run(3, 4)];
        let at = ram.vm_map_ram(0, &frames, Prot::READ).unwrap();
        let _next = ram.vm_map_ram(0, &[run(20, 4)], Prot::READ).unwrap();
        let (base, page) = (at.start.addr(), |i| Vpn(at.start.0 + i).addr());
        let unmap = |addr, count| ram.vm_unmap_ram(addr, Pages(count));

        for given in [0, 3, 5, 8, 64, 65, u64::MAX] {
            let (given, mapped) = (Pages(given), Pages(4));
            assert_eq!(unmap(base, given.0), Err(UnmapRamError::WrongCount { given, mapped }));
        }
        let addr = page(2);
        assert_eq!(unmap(addr, 2), Err(UnmapRamError::Interior { addr, base }));
        let addr = page(8);
        assert_eq!(unmap(addr, 1), Err(UnmapRamError::NoRun { addr }));
        for addr in [VirtAddr(base.0 + 1), VirtAddr(0), window(1).end().addr()] {
            assert_eq!(unmap(addr, 4), Err(UnmapRamError::Stranger { addr }));
        }
        assert!(all_see(hardware, at, &frames));

        assert_eq!(unmap(base, 4), Ok(()));
        assert_eq!(unmap(base, 4), Err(UnmapRamError::NoRun { addr: base }));
        assert_eq!(ram.usage(), usage(1016, 4, 4));
    });
}

/// Goal: one live run does not pin its block, Linux's weakness 4.8. Method: a window of one block;
/// a run of one page stays, everything else comes and goes ten times over; the rest of the block
/// serves each round, for one shootdown a round.
#[test]
fn one_live_mapping_does_not_pin_its_block() {
    with_ram(1, |hardware, ram| {
        let pin = ram.vm_map_ram(0, &[run(500, 1)], Prot::READ).unwrap();
        assert!(all_see(hardware, pin, &[run(500, 1)]));
        for round in 0..10 {
            // 1,023 pages: 15 groups whole, and what the pin leaves of the sixteenth.
            let lens = [64; 15].into_iter().chain([63]);
            let runs: Vec<_> = lens
                .map(|len| {
                    let frames = [run(round * 7, len)];
                    let at = ram.vm_map_ram(0, &frames, Prot::READ).unwrap();
                    assert!(all_see(hardware, at, &frames));
                    at
                })
                .collect();
            assert_eq!((ram.usage(), hardware.counters().flushes), (usage(0, 1024, 0), round));
            for at in runs {
                ram.vm_unmap_ram(at.start.addr(), at.len).unwrap();
            }
            assert_eq!(ram.usage(), usage(0, 1, 1023));
        }
        assert!(all_see(hardware, pin, &[run(500, 1)]));
    });
}

/// Goal: the pages of a window are used up before anything is shot down, and then all of it at
/// once. Method: three blocks, maps and unmaps of one page, the window's worth and one more.
#[test]
fn a_window_of_short_maps_costs_one_shootdown() {
    with_ram(3, |hardware, ram| {
        for i in 0..3 * BLOCK_PAGES.0 {
            let frames = [run(i % 1000, 1)];
            let at = ram.vm_map_ram(1, &frames, Prot::READ).unwrap();
            assert!(sees(hardware, 1, at, &frames));
            ram.vm_unmap_ram(at.start.addr(), Pages(1)).unwrap();
        }
        assert_eq!((ram.usage(), hardware.counters().flushes), (usage(0, 0, 3072), 0));
        let at = ram.vm_map_ram(1, &[run(8, 2)], Prot::READ).unwrap();
        assert!(all_see(hardware, at, &[run(8, 2)]));
        assert_eq!((ram.usage(), hardware.counters().flushes), (usage(3070, 2, 0), 1));
    });
}

/// Goal: the tests above can fail. Method: shootdowns that drop nothing.
#[test]
fn without_its_flush_a_page_used_again_shows_the_old_frame() {
    let (hardware, space) = machine();
    let words = words(1);
    let ram = MapRam::new(&words, CPUS, window(1), space).unwrap();
    ram.prepare().unwrap();
    hardware.omit_shootdown(true);
    let old = [run(0, 1)];
    let at = ram.vm_map_ram(0, &old, Prot::READ).unwrap();
    assert!(all_see(&hardware, at, &old));
    ram.vm_unmap_ram(at.start.addr(), Pages(1)).unwrap();
    ram.vm_unmap_aliases().unwrap();
    assert_eq!(hardware.tlb_entries_showing(run(0, 1)), CPUS as u64);
    assert_eq!(ram.vm_map_ram(0, &[run(1, 1)], Prot::READ), Ok(at));
    assert!(all_see(&hardware, at, &old));
    assert_eq!(hardware.stale_hits(), CPUS as u64);
}

/// Goal: CPUs have blocks of their own. Method: a page from each, in a window of three blocks.
#[test]
fn each_cpu_maps_in_a_block_of_its_own() {
    with_ram(3, |_, ram| {
        for cpu in 0..CPUS {
            let at = ram.vm_map_ram(cpu, &[run(0, 1)], Prot::READ).unwrap();
            assert_eq!(at.start.0, START.0 + cpu as u64 * BLOCK_PAGES.0);
        }
    });
}

/// Goal: after `vm_unmap_aliases` no TLB shows a frame that was unmapped, and those that are mapped
/// are untouched. Method: 140 blocks, more than two shootdowns can name, a page in each; every
/// other one unmapped; every CPU had read them all.
#[test]
fn unmap_aliases_leaves_no_translation_of_an_unmapped_frame() {
    with_ram(140, |hardware, ram| {
        let mut runs = Vec::new();
        // 16 runs of 64 pages fill a block.
        for i in 0..140 * 16 {
            let frames = [run(if i % 16 == 0 { i / 16 } else { 200 }, 64)];
            runs.push((ram.vm_map_ram(0, &frames, Prot::READ).unwrap(), i));
        }
        let first_of = |at: PageRange| PageRange { start: at.start, len: Pages(1) };
        for &(at, i) in runs.iter().filter(|(_, i)| i % 16 == 0) {
            assert!(all_see(hardware, first_of(at), &[run(i / 16, 1)]));
        }
        let is_unmapped = |i: &u64| i.is_multiple_of(32);
        for &(at, _) in runs.iter().filter(|(_, i)| is_unmapped(i)) {
            ram.vm_unmap_ram(at.start.addr(), at.len).unwrap();
        }
        assert_eq!(ram.vm_unmap_aliases(), Ok(Pages(70 * 64)));
        assert_eq!(hardware.counters().flushes, 3);
        for &(at, i) in runs.iter().filter(|(_, i)| i % 16 == 0) {
            let entries = hardware.tlb_entries_showing(run(i / 16, 1));
            assert_eq!(entries, if is_unmapped(&i) { 0 } else { CPUS as u64 }, "{at}");
        }
        assert_eq!(ram.vm_unmap_aliases(), Ok(Pages(0)));
        assert_eq!(hardware.counters().flushes, 3, "nothing to flush, nothing flushed");
    });
}

/// Goal: where waiting is forbidden, unmapping works and flushing is refused, in types.
/// Method: a full window, one run unmapped, interrupts off; then on.
#[test]
fn a_context_that_may_not_wait_is_told_what_it_would_wait_for() {
    with_ram(1, |hardware, ram| {
        let runs: Vec<_> =
            (0..16).map(|_| ram.vm_map_ram(0, &[run(0, 64)], Prot::READ).unwrap()).collect();
        {
            let _interrupt = hardware.interrupts_off();
            assert_eq!(ram.vm_unmap_aliases(), Ok(Pages(0)));
            ram.vm_unmap_ram(runs[3].start.addr(), Pages(64)).unwrap();
            let dirty = Pages(64);
            let err = ram.vm_map_ram(0, &[run(1, 1)], Prot::READ);
            assert_eq!(err, Err(MapRamError::MayNotWait { dirty }));
            assert_eq!(ram.vm_unmap_aliases(), Err(AliasesError::MayNotWait));
        }
        assert_eq!(ram.vm_map_ram(0, &[run(1, 63)], Prot::READ).unwrap().start, runs[3].start);
        let (wanted, free, flushing) = (Pages(2), Pages(1), Pages(0));
        let err = ram.vm_map_ram(0, &[run(1, 2)], Prot::READ);
        assert_eq!(err, Err(MapRamError::NoRoom { wanted, free, flushing }));
    });
}

/// Goal: a map that fails at any extent shows nothing, and its pages come back. Method: each map
/// call fails in turn; before the failure is noticed another CPU could look, so what was mapped
/// is shot down before it is used again.
#[test]
fn a_map_that_fails_at_any_extent_leaves_nothing() {
    let frames = [run(1, 2), run(8, 1), run(30, 5), run(60, 1)];
    for n in 1..=frames.len() {
        with_ram(1, |hardware, ram| {
            hardware.faults().fail_nth(Step::MapRun, n as u64);
            let err = ram.vm_map_ram(0, &frames, Prot::READ);
            assert!(matches!(err, Err(MapRamError::Map(MapError::NoTable { .. }))));
            let shown = frames[..n - 1].iter().map(|run| run.len.0).sum();
            assert_eq!(ram.usage(), usage(1024 - shown, 0, shown));
            assert!(ram.is_sound());
            assert_eq!(ram.vm_unmap_aliases(), Ok(Pages(shown)));
            assert_eq!(hardware.counters().flushes, u64::from(shown > 0));
            let at = ram.vm_map_ram(0, &frames, Prot::READ).unwrap();
            assert_eq!(at.start, START);
            assert!(all_see(hardware, at, &frames));
        });
    }
}

#[test]
fn a_window_that_is_not_whole_blocks_is_refused() {
    let words = words(1);
    let odd = PageRange { start: START, len: Pages(1000) };
    let err = |window, cpus| MapRam::new(&words, cpus, window, ()).err();
    assert_eq!(err(odd, 1), Some(SetupError::Window { window: odd }));
    assert_eq!(err(window(1), 0), Some(SetupError::NoCpu));
    let (needed, given) = (MapRam::<()>::words_needed(Pages(2048), 3), words.len());
    assert_eq!(err(window(2), 3), Some(SetupError::Words { needed, given }));
}

/// A machine on which another CPU acts in the middle of a flush.
struct Meanwhile<'a> {
    space: AddressSpace,
    in_flush: &'a dyn Fn(),
}

impl Mapper for &Meanwhile<'_> {
    fn prepare(&self, window: PageRange) -> Result<(), MapError> {
        self.space.prepare(window)
    }

    fn map_run(&self, at: Vpn, run: Extent, prot: Prot) -> Result<(), MapError> {
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
        true
    }
}

/// Goal: pages whose shootdown is on its way are given to nobody, and `vm_unmap_aliases` does not
/// take them for flushed. Method: both, by another CPU, just before the flush takes effect.
#[test]
fn aliases_that_another_cpu_is_still_flushing_are_flushed_too() {
    let (hardware, space) = machine();
    let words = words(1);
    let other = MapRam::new(&words, CPUS, window(1), space.clone()).unwrap();
    other.prepare().unwrap();
    let in_flush = || {
        let (wanted, free, flushing) = (Pages(1), Pages(0), Pages(64));
        let err = other.vm_map_ram(1, &[run(9, 1)], Prot::READ);
        assert_eq!(err, Err(MapRamError::NoRoom { wanted, free, flushing }));
        assert_eq!(hardware.tlb_entries_showing(run(0, 64)), 64 * CPUS as u64);
        assert_eq!(other.vm_unmap_aliases(), Ok(Pages(0)));
        assert_eq!(hardware.tlb_entries_showing(run(0, 64)), 0);
    };
    let machine = Meanwhile { space, in_flush: &in_flush };
    let ram = MapRam::new(&words, CPUS, window(1), &machine).unwrap();
    let first = ram.vm_map_ram(0, &[run(0, 64)], Prot::READ).unwrap();
    for _ in 1..16 {
        ram.vm_map_ram(0, &[run(100, 64)], Prot::READ).unwrap();
    }
    assert!(all_see(&hardware, first, &[run(0, 64)]));
    ram.vm_unmap_ram(first.start.addr(), Pages(64)).unwrap();
    let again = ram.vm_map_ram(0, &[run(200, 64)], Prot::READ).unwrap();
    assert!(all_see(&hardware, again, &[run(200, 64)]));
    assert_eq!((again, hardware.stale_hits(), ram.is_sound()), (first, 0, true));
}

/// Goal: three CPUs on one block never see a wrong frame, and nothing is lost. Method: each maps
/// runs of all lengths, keeps a few, reads each page through its own TLB; one flushes aliases.
#[test]
fn three_threads_share_a_block_and_see_their_frames() {
    with_ram(1, |hardware, ram| {
        thread::scope(|scope| {
            for cpu in 0..CPUS {
                scope.spawn(move || {
                    let mut kept: Vec<(PageRange, [Extent; 2])> = Vec::new();
                    for round in 0..1_200_u64 {
                        let (a, b) = (1 + round * 7 % 24, 1 + round * 5 % 40);
                        let frames = [run(round % 300, a), run(300 + round % 300, b)];
                        match ram.vm_map_ram(cpu, &frames, Prot::READ) {
                            Ok(at) => kept.push((at, frames)),
                            Err(MapRamError::NoRoom { .. }) => thread::yield_now(),
                            Err(e) => panic!("{e}"),
                        }
                        let oldest = kept.len() > (round % 5) as usize;
                        if let Some((at, frames)) = oldest.then(|| kept.remove(0)) {
                            assert!(sees(hardware, cpu, at, &frames));
                            ram.vm_unmap_ram(at.start.addr(), at.len).unwrap();
                        }
                        if cpu == 0 && round % 64 == 0 {
                            ram.vm_unmap_aliases().unwrap();
                        }
                    }
                    for (at, frames) in kept {
                        assert!(sees(hardware, cpu, at, &frames));
                        ram.vm_unmap_ram(at.start.addr(), at.len).unwrap();
                    }
                });
            }
        });
        ram.vm_unmap_aliases().unwrap();
        assert_eq!(ram.usage(), usage(1024, 0, 0));
        assert_eq!(hardware.tlb_entries_showing(run(0, 1024)), 0);
    });
}

/// Goal: who finds no room while another CPU shoots the whole window down waits for it. Method:
/// three CPUs, one page each, again and again in one block: there is room for all at any time.
#[test]
fn a_window_that_others_are_shooting_down_is_waited_for() {
    with_ram(1, |_, ram| {
        thread::scope(|scope| {
            for cpu in 0..CPUS {
                scope.spawn(move || {
                    for _ in 0..40_000 {
                        let at = ram.vm_map_ram(cpu, &[run(cpu as u64, 1)], Prot::READ).unwrap();
                        ram.vm_unmap_ram(at.start.addr(), at.len).unwrap();
                    }
                });
            }
        });
    });
}

#[derive(Clone, Debug)]
enum Op {
    Map { cpu: usize, frames: Vec<(u64, u64)> },
    Unmap { nth: usize },
    UnmapWrong { nth: usize, count: u64 },
    Aliases,
    FailMap { nth: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let frames = prop::collection::vec((0..900_u64, 0..60_u64), 0..4);
    prop_oneof![
        8 => (0..CPUS, frames).prop_map(|(cpu, frames)| Op::Map { cpu, frames }),
        5 => (0..64_usize).prop_map(|nth| Op::Unmap { nth }),
        1 => (0..64_usize, 0..70_u64).prop_map(|(nth, count)| Op::UnmapWrong { nth, count }),
        1 => Just(Op::Aliases),
        1 => (1..4_u64).prop_map(|nth| Op::FailMap { nth }),
    ]
}

/// Whether a group of the window has `len` pages side by side that no run of `live` has.
fn has_room(live: &[(PageRange, Vec<Extent>)], len: u64) -> bool {
    let is_live = |page: u64| live.iter().any(|(at, _)| at.contains(Vpn(page)));
    (0..BLOCK_PAGES.0 / 64).any(|group| {
        let pages = (0..64).map(|i| is_live(START.0 + group * 64 + i));
        let mut longest = (0, 0);
        for live in pages {
            longest.1 = if live { 0 } else { longest.1 + 1 };
            longest.0 = longest.0.max(longest.1);
        }
        longest.0 >= len
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..Default::default() })]

    /// Goal: the window is a set of disjoint runs that show their frames, and refuses a run only
    /// if no group has room beside the live ones. Method: random steps, faults among them,
    /// against a list; after each, a CPU reads the first page of every run, and at times all.
    #[test]
    fn any_sequence_of_maps_and_unmaps_does_what_a_list_of_runs_does(
        ops in prop::collection::vec(op(), 1..120),
    ) {
        with_ram(1, |hardware, ram| {
            let mut live: Vec<(PageRange, Vec<Extent>)> = Vec::new();
            for (step, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Map { cpu, frames } => {
                        let frames: Vec<_> = frames.iter().map(|&(at, len)| run(at, len)).collect();
                        let len = frames.iter().map(|run| run.len.0).sum();
                        match ram.vm_map_ram(cpu, &frames, Prot::READ) {
                            Ok(at) => {
                                assert!((1..=64).contains(&len) && at.len == Pages(len));
                                assert_eq!(at.start.0 / 64, (at.end().0 - 1) / 64);
                                for (other, _) in &live {
                                    assert!(at.end() <= other.start || other.end() <= at.start);
                                }
                                live.push((at, frames));
                            }
                            Err(MapRamError::ZeroSize) => assert_eq!(len, 0),
                            Err(MapRamError::TooLong { .. }) => assert!(len > 64),
                            Err(MapRamError::NoRoom { .. }) => assert!(!has_room(&live, len)),
                            Err(e) => {
                                assert!(matches!(e, MapRamError::Map(_)), "{e}");
                                assert_eq!(hardware.faults().fired(Step::MapRun), 1);
                                hardware.faults().reset();
                            }
                        }
                    }
                    Op::Unmap { nth } if nth < live.len() => {
                        let (at, _) = live.swap_remove(nth);
                        ram.vm_unmap_ram(at.start.addr(), at.len).unwrap();
                    }
                    Op::UnmapWrong { nth, count } if nth < live.len() => {
                        let (at, _) = live[nth];
                        if count != at.len.0 {
                            let (given, mapped) = (Pages(count), at.len);
                            let err = ram.vm_unmap_ram(at.start.addr(), given);
                            assert_eq!(err, Err(UnmapRamError::WrongCount { given, mapped }));
                        }
                    }
                    Op::Aliases => {
                        ram.vm_unmap_aliases().unwrap();
                        assert_eq!(ram.usage().dirty, Pages(0));
                    }
                    Op::FailMap { nth } => hardware.faults().fail_nth(Step::MapRun, nth),
                    Op::Unmap { .. } | Op::UnmapWrong { .. } => {}
                }
                let whole = step % 8 == 0;
                for (at, frames) in &live {
                    let first = frames.iter().find(|run| run.len.0 > 0).unwrap().start;
                    let cpu = hardware.cpu(step % CPUS);
                    assert_eq!(cpu.load(at.start.addr()), Ok(first.0));
                    assert!(!whole || sees(hardware, cpu.index(), *at, frames));
                }
                let pages = live.iter().map(|(at, _)| at.len.0).sum();
                assert_eq!(ram.usage().live, Pages(pages));
                assert!(!whole || ram.is_sound());
            }
        });
    }
}
