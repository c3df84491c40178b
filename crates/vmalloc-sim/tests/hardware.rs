//! What the simulated machine promises: TLBs that lie until flushed, tables that leak nothing,
//! faults that fire where they were told to. The MMU alone is tested in `mmu.rs`.

use proptest::prelude::*;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use vmalloc_core::platform::{Frames, MapError, Mapper, NoFrames, Prot, Ram, Tlb};
use vmalloc_core::{
    Cache, Extent, FramePolicy, Order, PAGE_SIZE, PageRange, Pages, Pfn, Rights, VirtAddr, Vpn,
};
use vmalloc_sim::{
    AddressSpace, Config, Fault, FaultPlan, FaultyFrames, Hardware, Step, TlbSize, mmu,
};

/// The first page of the upper half.
const UPPER: Vpn = Vpn(0xf_fff8_0000_0000);
/// Some pages of the lower half.
const LOWER: Vpn = Vpn(0x4_0000);
/// Pages under one entry of a root table.
const PER_ROOT_ENTRY: u64 = 1 << 27;

fn pages(start: Vpn, len: u64) -> PageRange {
    PageRange { start, len: Pages(len) }
}

fn frames(start: Pfn, len: u64) -> Extent {
    Extent { start, len: Pages(len) }
}

fn page(start: Vpn, index: u64) -> Vpn {
    Vpn(start.0 + index)
}

/// A machine and one space of it, with a window of 2,048 pages at `start`. The first word of
/// every data frame holds the frame's number, so that a load tells which frame it read.
fn machine(config: Config, start: Vpn) -> (Arc<Hardware>, AddressSpace) {
    let hardware = Hardware::new(config);
    let space = hardware.space().unwrap();
    space.prepare(pages(start, 2048)).unwrap();
    let data = hardware.ram().data_frames();
    for pfn in data.start.0..data.end().0 {
        space.words(Pfn(pfn))[0].store(pfn, Ordering::Release);
    }
    for cpu in 0..config.cpus {
        hardware.cpu(cpu).switch_to(&space);
    }
    (hardware, space)
}

fn not_present(at: Vpn) -> Result<u64, Fault> {
    Err(Fault::NotPresent { va: at.addr() })
}

/// The smallest allocator that obeys [`Frames`].
struct Naive {
    first: Pfn,
    is_taken: Mutex<Vec<bool>>,
}

impl Naive {
    fn new(all: Extent) -> Naive {
        Naive { first: all.start, is_taken: Mutex::new(vec![false; all.len.0 as usize]) }
    }
}

impl Frames for Naive {
    fn take(&self, order: Order) -> Result<Pfn, NoFrames> {
        let mut is_taken = self.is_taken.lock().unwrap();
        let len = order.pages().0 as usize;
        let fits = |i: &usize| {
            (self.first.0 + *i as u64).is_multiple_of(len as u64)
                && is_taken[*i..].len() >= len
                && !is_taken[*i..*i + len].contains(&true)
        };
        let Some(index) = (0..is_taken.len()).find(fits) else {
            let free = is_taken.iter().filter(|taken| !**taken).count() as u64;
            return Err(NoFrames { wanted: order.pages(), free: Pages(free) });
        };
        is_taken[index..index + len].fill(true);
        Ok(Pfn(self.first.0 + index as u64))
    }

    fn take_bulk(&self, want: Pages, out: &mut [Extent]) -> usize {
        let mut len = 0;
        while len < out.len() && (len as u64) < want.0 {
            let Ok(pfn) = self.take(Order(0)) else { break };
            out[len] = frames(pfn, 1);
            len += 1;
        }
        len
    }

    fn give(&self, run: Extent) {
        for pfn in run.start.0..run.end().0 {
            let was_taken = std::mem::replace(
                &mut self.is_taken.lock().unwrap()[(pfn - self.first.0) as usize],
                false,
            );
            assert!(was_taken, "{} was free", Pfn(pfn));
        }
    }

    fn free(&self) -> Pages {
        Pages(self.is_taken.lock().unwrap().iter().filter(|taken| !**taken).count() as u64)
    }

    fn total(&self) -> Pages {
        Pages(self.is_taken.lock().unwrap().len() as u64)
    }
}

// RAM.

/// Goal: memory handed out without zeroing shows. Method: no word of fresh RAM is zero; `zero`
/// clears its run and no neighbour.
#[test]
fn fresh_ram_is_junk_until_it_is_zeroed() {
    let hardware = Hardware::new(Config::default());
    let space = hardware.space().unwrap();
    let first = hardware.config().first;
    let is_never_zero = |pfn| space.words(pfn).iter().all(|w| w.load(Ordering::Acquire) != 0);
    assert!((first.0..first.0 + 4).all(|pfn| is_never_zero(Pfn(pfn))));

    space.zero(frames(Pfn(first.0 + 1), 2));
    for pfn in [1, 2] {
        let words = space.words(Pfn(first.0 + pfn));
        assert!(words.iter().all(|w| w.load(Ordering::Acquire) == 0));
    }
    assert!(hardware.ram().is_junk(frames(first, 1)));
    assert!(hardware.ram().is_junk(frames(Pfn(first.0 + 3), 1)));
}

#[test]
#[should_panic(expected = "no data frame")]
fn the_direct_map_does_not_reach_page_tables() {
    let (_hardware, space) = machine(Config::default(), UPPER);
    space.words(space.cr3());
}

/// Goal: bytes land where they should over scattered frames, at any offset.
/// Method: two pages mapped to frames in reverse order; a text across their border.
#[test]
fn bytes_cross_from_page_to_page_over_scattered_frames() {
    let (hardware, space) = machine(Config::default(), UPPER);
    let first = hardware.config().first;
    space.map_run(UPPER, frames(Pfn(first.0 + 9), 1), Prot::READ_WRITE).unwrap();
    space.map_run(page(UPPER, 1), frames(Pfn(first.0 + 3), 1), Prot::READ_WRITE).unwrap();
    let (cpu, text) = (hardware.cpu(0), b"across the border");
    for offset in [PAGE_SIZE - 1, PAGE_SIZE - 16, PAGE_SIZE - 5, 3, PAGE_SIZE + 8] {
        let va = VirtAddr(UPPER.addr().0 + offset as u64);
        cpu.write(va, text).unwrap();
        let mut back = [0; 17];
        hardware.cpu(1).read(va, &mut back).unwrap();
        assert_eq!(&back, text, "at {offset}");
    }
    let mut tail = [0; 5];
    hardware.ram().read(Pfn(first.0 + 9), PAGE_SIZE - 5, &mut tail).unwrap();
    assert_eq!(&tail, b"acros");
}

/// Goal: a byte store is not a word store. Method: four threads, each with one byte of one word,
/// store and read back; a store of a whole word would bring a neighbour's old byte back.
#[test]
fn byte_stores_of_several_threads_to_one_word_do_not_disturb_each_other() {
    let hardware = Hardware::new(Config::default());
    let (ram, pfn) = (hardware.ram(), hardware.config().first);
    thread::scope(|scope| {
        for offset in 0..4 {
            scope.spawn(move || {
                for round in 0..20_000u32 {
                    let (byte, mut back) = ([round as u8], [0]);
                    ram.write(pfn, offset, &byte).unwrap();
                    ram.read(pfn, offset, &mut back).unwrap();
                    assert_eq!(back, byte);
                }
            });
        }
    });
}

// TLBs.

/// Goal: a missing shootdown is seen as it is on hardware. Method: load, unmap, load, flush, load.
#[test]
fn a_cpu_reads_the_old_frame_after_an_unmap_without_a_flush_and_faults_after_the_flush() {
    let (hardware, space) = machine(Config::default(), UPPER);
    let old = hardware.config().first;
    let cpu = hardware.cpu(1);
    space.map_run(UPPER, frames(old, 1), Prot::READ_WRITE).unwrap();
    assert_eq!(cpu.load(UPPER.addr()), Ok(old.0));
    assert_eq!(hardware.stale_hits(), 0);

    space.unmap_run(pages(UPPER, 1));
    assert_eq!(space.translate(UPPER), None);
    assert_eq!(cpu.load(UPPER.addr()), Ok(old.0));
    assert_eq!(hardware.stale_hits(), 1);
    let hit = hardware.first_stale_hit().unwrap();
    assert_eq!((hit.cpu, hit.used.unwrap().pfn, hit.tables), (1, old, None));
    // CPU 0 never looked at the page, so it holds nothing old.
    assert_eq!(hardware.cpu(0).load(UPPER.addr()), not_present(UPPER));

    assert_eq!(hardware.tlb_entries_showing(frames(old, 1)), 1);
    space.flush_all_cpus(&[pages(UPPER, 1)]);
    assert_eq!(hardware.tlb_entries_showing(frames(old, 1)), 0);
    assert_eq!(cpu.load(UPPER.addr()), not_present(UPPER));
    assert_eq!(hardware.stale_hits(), 1);
}

/// Goal: reuse before the flush corrupts the old frame's next owner, and is counted.
/// Method: map B where A was; a store through the stale entry lands in A.
#[test]
fn a_store_through_a_stale_entry_lands_in_the_old_frame() {
    let (hardware, space) = machine(Config::default(), UPPER);
    let (a, b) = (hardware.config().first, Pfn(hardware.config().first.0 + 1));
    let cpu = hardware.cpu(0);
    space.map_run(UPPER, frames(a, 1), Prot::READ_WRITE).unwrap();
    cpu.load(UPPER.addr()).unwrap();
    space.unmap_run(pages(UPPER, 1));
    space.map_run(UPPER, frames(b, 1), Prot::READ_WRITE).unwrap();

    cpu.store(UPPER.addr(), 0xbad).unwrap();
    assert_eq!(space.words(a)[0].load(Ordering::Acquire), 0xbad);
    assert_eq!(space.words(b)[0].load(Ordering::Acquire), b.0);
    assert_eq!(hardware.stale_hits(), 1);
    assert_eq!(hardware.cpu(1).load(UPPER.addr()), Ok(b.0));

    space.flush_all_cpus(&[pages(UPPER, 1)]);
    assert_eq!(cpu.load(UPPER.addr()), Ok(b.0));
}

#[test]
fn an_omitted_shootdown_is_counted_and_leaves_every_tlb_as_it_was() {
    let (hardware, space) = machine(Config::default(), UPPER);
    let first = hardware.config().first;
    space.map_run(UPPER, frames(first, 1), Prot::READ).unwrap();
    hardware.cpu(0).load(UPPER.addr()).unwrap();
    space.unmap_run(pages(UPPER, 1));

    hardware.omit_shootdown(true);
    space.flush_all_cpus(&[pages(UPPER, 1)]);
    assert_eq!(hardware.counters().flushes, 1);
    assert_eq!(hardware.cpu(0).load(UPPER.addr()), Ok(first.0));
    assert_eq!(hardware.stale_hits(), 1);

    hardware.omit_shootdown(false);
    space.flush_all_cpus(&[pages(UPPER, 1)]);
    assert_eq!(hardware.cpu(0).load(UPPER.addr()), not_present(UPPER));
}

#[test]
fn a_flush_drops_its_ranges_alone_and_counts_their_pages() {
    for tlb in [TlbSize::Unlimited, TlbSize::DirectMapped(64)] {
        let (hardware, space) = machine(Config { tlb, ..Config::default() }, UPPER);
        space.map_run(UPPER, frames(hardware.config().first, 10), Prot::READ).unwrap();
        for index in 0..10 {
            hardware.cpu(0).load(page(UPPER, index).addr()).unwrap();
        }
        space.unmap_run(pages(UPPER, 10));
        space.flush_all_cpus(&[pages(UPPER, 3), pages(page(UPPER, 7), 2)]);
        let is_dropped = |index| {
            hardware.cpu(0).load(page(UPPER, index).addr()) == not_present(page(UPPER, index))
        };
        let dropped: Vec<u64> = (0..10).filter(|&index| is_dropped(index)).collect();
        assert_eq!(dropped, [0, 1, 2, 7, 8]);
        let counters = hardware.counters();
        assert_eq!(
            (counters.flushes, counters.flushed_ranges, counters.flushed_pages),
            (1, 2, Pages(5))
        );
    }
}

#[test]
fn a_full_tlb_evicts_and_an_unlimited_one_keeps_everything() {
    for (tlb, evictions, hits) in
        [(TlbSize::Unlimited, 0, 100), (TlbSize::DirectMapped(64), 36 + 36 + 36, 28)]
    {
        let (hardware, space) = machine(Config { tlb, ..Config::default() }, UPPER);
        space.map_run(UPPER, frames(hardware.config().first, 100), Prot::READ).unwrap();
        for index in (0..100).chain(0..100) {
            hardware.cpu(0).load(page(UPPER, index).addr()).unwrap();
        }
        let counters = hardware.counters();
        assert_eq!((counters.tlb_evictions, counters.tlb_hits), (evictions, hits), "{tlb:?}");
        assert_eq!(counters.tlb_hits + counters.tlb_misses, 200);
    }
}

/// Goal: one CPU's own flush is no shootdown. Method: both CPUs hold the page; CPU 0 flushes it.
#[test]
fn a_local_flush_leaves_the_other_cpus_stale() {
    let (hardware, space) = machine(Config::default(), UPPER);
    space.map_run(UPPER, frames(hardware.config().first, 2), Prot::READ).unwrap();
    for cpu in 0..2 {
        hardware.cpu(cpu).load(UPPER.addr()).unwrap();
        hardware.cpu(cpu).load(page(UPPER, 1).addr()).unwrap();
    }
    space.unmap_run(pages(UPPER, 2));
    hardware.cpu(0).flush_page(UPPER);
    assert_eq!(hardware.cpu(0).load(UPPER.addr()), not_present(UPPER));
    assert!(hardware.cpu(0).load(page(UPPER, 1).addr()).is_ok());
    hardware.cpu(0).flush_all();
    assert_eq!(hardware.cpu(0).load(page(UPPER, 1).addr()), not_present(page(UPPER, 1)));
    assert!(hardware.cpu(1).load(UPPER.addr()).is_ok());
}

/// Goal: a missing `publish` shows on a machine that remembers invalid pages.
/// Method: fault, map, fault again (stale), publish, load.
#[test]
fn a_cpu_that_remembers_invalid_pages_faults_until_they_are_published() {
    let config = Config { remembers_invalid: true, ..Config::default() };
    let (hardware, space) = machine(config, UPPER);
    let first = hardware.config().first;
    let cpu = hardware.cpu(0);
    assert_eq!(cpu.load(UPPER.addr()), not_present(UPPER));
    space.map_run(UPPER, frames(first, 1), Prot::READ).unwrap();
    assert_eq!(cpu.load(UPPER.addr()), not_present(UPPER));
    assert_eq!(hardware.stale_hits(), 1);
    space.publish(pages(UPPER, 1));
    assert_eq!(cpu.load(UPPER.addr()), Ok(first.0));
    assert_eq!((hardware.stale_hits(), hardware.counters().publishes), (1, 1));
}

// Rights.

#[test]
fn a_store_to_a_read_only_page_faults_and_changes_nothing() {
    let (hardware, space) = machine(Config::default(), UPPER);
    let first = hardware.config().first;
    space.map_run(UPPER, frames(first, 1), Prot::READ).unwrap();
    let (cpu, va) = (hardware.cpu(0), UPPER.addr());
    // Once on a TLB miss, and once on a hit.
    assert_eq!(cpu.store(va, 1), Err(Fault::ReadOnly { va }));
    assert_eq!(cpu.load(va), Ok(first.0));
    assert_eq!(cpu.store(va, 1), Err(Fault::ReadOnly { va }));
    assert_eq!(space.words(first)[0].load(Ordering::Acquire), first.0);
    assert_eq!(space.translate(UPPER), Some((first, Prot::READ)));
}

#[test]
fn nothing_that_is_mapped_can_be_executed() {
    let (hardware, space) = machine(Config::default(), UPPER);
    space.map_run(UPPER, frames(hardware.config().first, 1), Prot::READ_WRITE).unwrap();
    let va = UPPER.addr();
    assert_eq!(hardware.cpu(0).fetch(va), Err(Fault::NoExecute { va }));
}

#[test]
fn an_address_that_is_not_canonical_faults_whatever_is_mapped() {
    let (hardware, _space) = machine(Config::default(), UPPER);
    for va in [0x0000_8000_0000_0000, 0xffff_7fff_ffff_fff8, 0x1_0000_0000_0000].map(VirtAddr) {
        assert_eq!(hardware.cpu(0).load(va), Err(Fault::NonCanonical { va }));
        assert_eq!(hardware.cpu(0).store(va, 0), Err(Fault::NonCanonical { va }));
    }
}

// Tables.

/// Goal: `Occupied` is all or nothing. Method: 600 pages over a leaf table's border, the last but
/// one of which is taken.
#[test]
fn a_run_over_a_live_mapping_is_refused_whole() {
    let (hardware, space) = machine(Config::default(), UPPER);
    let first = hardware.config().first;
    let taken = page(UPPER, 598);
    space.map_run(taken, frames(first, 1), Prot::READ).unwrap();
    let run = frames(Pfn(first.0 + 1), 600);
    let error = space.map_run(UPPER, run, Prot::READ_WRITE).unwrap_err();
    assert_eq!(error, MapError::Occupied { at: taken, by: first });
    for index in 0..600 {
        let expected = (index == 598).then_some((first, Prot::READ));
        assert_eq!(space.translate(page(UPPER, index)), expected);
    }
    space.unmap_run(pages(taken, 1));
    space.map_run(UPPER, run, Prot::READ_WRITE).unwrap();
    assert_eq!(space.translate(taken), Some((Pfn(first.0 + 599), Prot::READ_WRITE)));
}

/// Goal: a map call that runs out of tables halfway leaves nothing mapped and leaks no table.
/// Method: a run over three leaf tables, which needs four new tables; each of the allocations
/// fails in turn; then the pool itself is one frame short.
#[test]
fn a_map_that_runs_out_of_tables_halfway_leaves_nothing_mapped_and_leaks_no_table() {
    let run = |hardware: &Hardware| frames(hardware.config().first, 900);
    let start = page(UPPER, 500); // 12 + 512 + 376 pages, in three leaf tables
    let (counted, space) = machine(Config::default(), UPPER);
    counted.faults().reset();
    space.map_run(start, run(&counted), Prot::READ).unwrap();
    let allocations = counted.faults().seen(Step::AllocTable);
    assert_eq!(allocations, 4, "a directory and three leaf tables");

    for n in 1..=allocations {
        let (hardware, space) = machine(Config::default(), UPPER);
        hardware.faults().fail_nth(Step::AllocTable, n);
        let error = space.map_run(start, run(&hardware), Prot::READ).unwrap_err();
        assert!(matches!(error, MapError::NoTable { .. }), "{error}");
        assert_eq!(hardware.faults().fired(Step::AllocTable), 1);
        assert!((0..900).all(|index| space.translate(page(start, index)).is_none()));
        assert_eq!(hardware.tables_reachable(), hardware.counters().tables_in_use);
        // What was kept serves the next call: no table is made twice.
        space.map_run(start, run(&hardware), Prot::READ).unwrap();
        assert_eq!(hardware.counters().tables_in_use, counted.counters().tables_in_use);
    }

    // Kernel root, space root, directory pointers, directory, two leaf tables: one too few.
    let (hardware, space) = machine(Config { table_frames: Pages(6), ..Config::default() }, UPPER);
    let error = space.map_run(start, run(&hardware), Prot::READ).unwrap_err();
    assert_eq!(error, MapError::NoTable { at: page(UPPER, 1024) });
    assert_eq!(hardware.counters().tables_in_use, Pages(6));
    assert!((0..900).all(|index| space.translate(page(start, index)).is_none()));
}

#[test]
fn map_and_unmap_walk_once_a_leaf_table() {
    let (hardware, space) = machine(Config::default(), UPPER);
    let start = page(UPPER, 500);
    space.map_run(start, frames(hardware.config().first, 900), Prot::READ).unwrap();
    assert_eq!(hardware.counters().mapper_walks, 3);
    space.unmap_run(pages(start, 900));
    assert_eq!(hardware.counters().mapper_walks, 6);
}

#[test]
fn unmap_passes_over_pages_that_are_not_mapped() {
    let (hardware, space) = machine(Config::default(), UPPER);
    let first = hardware.config().first;
    space.map_run(page(UPPER, 700), frames(first, 1), Prot::READ).unwrap();
    space.map_run(page(UPPER, 702), frames(first, 1), Prot::READ).unwrap();
    space.unmap_run(pages(UPPER, 702));
    assert_eq!(space.translate(page(UPPER, 700)), None);
    assert_eq!(space.translate(page(UPPER, 702)), Some((first, Prot::READ)));
    assert_eq!(hardware.counters().flushes, 0, "unmap never flushes");
}

#[test]
fn pages_outside_every_window_and_frames_that_hold_tables_are_refused_by_a_panic() {
    let (hardware, space) = machine(Config::default(), UPPER);
    let first = frames(hardware.config().first, 1);
    let panics = |call: &dyn Fn()| catch_unwind(AssertUnwindSafe(call)).is_err();
    assert!(panics(&|| space.map_run(page(UPPER, 2048), first, Prot::READ).unwrap()));
    assert!(panics(&|| space.map_run(LOWER, first, Prot::READ).unwrap()));
    assert!(panics(&|| space.unmap_run(pages(page(UPPER, 2047), 2))));
    assert!(panics(&|| space.map_run(UPPER, frames(space.cr3(), 1), Prot::READ).unwrap()));
    // The machine goes on.
    space.map_run(UPPER, first, Prot::READ).unwrap();
}

// Spaces.

/// Goal: `prepare` once, see everywhere. Method: spaces made before and after; the window covers
/// two root entries; mapped through one space, read through the others and the kernel's tables.
#[test]
fn a_window_prepared_once_is_seen_by_every_space_made_before_and_after() {
    let hardware = Hardware::new(Config::default());
    let before = hardware.space().unwrap();
    let owner = hardware.space().unwrap();
    let border = page(UPPER, PER_ROOT_ENTRY);
    owner.prepare(pages(Vpn(border.0 - 8), 16)).unwrap();
    let after = hardware.space().unwrap();

    let run = frames(hardware.config().first, 16);
    owner.map_run(Vpn(border.0 - 8), run, Prot::READ_WRITE).unwrap();
    let cpu = hardware.cpu(0);
    for space in [&before, &owner, &after] {
        cpu.switch_to(space);
        cpu.flush_all();
        for index in 0..16 {
            let at = Vpn(border.0 - 8 + index);
            assert!(cpu.load(at.addr()).is_ok(), "{at} in {:?}", space.id());
            assert_eq!(space.translate(at), owner.translate(at));
        }
    }
    cpu.switch_to_kernel();
    cpu.flush_all();
    assert!(cpu.load(border.addr()).is_ok());
    assert_eq!(hardware.tables_reachable(), hardware.counters().tables_in_use);
}

/// Goal: engines in two spaces can use the same pages. Method: both windows at the same place of
/// the lower half, on a machine with PCIDs; unmap and flush in one.
#[test]
fn the_same_lower_pages_of_two_spaces_are_mapped_and_flushed_apart() {
    let (hardware, a) = machine(Config { pcid: true, ..Config::default() }, LOWER);
    let b = hardware.space().unwrap();
    b.prepare(pages(LOWER, 2048)).unwrap();
    let (pfn_a, pfn_b) = (hardware.config().first, Pfn(hardware.config().first.0 + 7));
    a.map_run(LOWER, frames(pfn_a, 1), Prot::READ_WRITE).unwrap();
    b.map_run(LOWER, frames(pfn_b, 1), Prot::READ_WRITE).unwrap();
    let cpu = hardware.cpu(0);
    let load_in = |space: &AddressSpace| {
        cpu.switch_to(space);
        cpu.load(LOWER.addr())
    };
    assert_eq!((load_in(&a), load_in(&b)), (Ok(pfn_a.0), Ok(pfn_b.0)));

    a.unmap_run(pages(LOWER, 1));
    b.unmap_run(pages(LOWER, 1));
    a.flush_all_cpus(&[pages(LOWER, 1)]);
    assert_eq!((load_in(&a), load_in(&b)), (not_present(LOWER), Ok(pfn_b.0)));
    assert_eq!(hardware.stale_hits(), 1, "b has not flushed");
}

/// Goal: a switch drops what is not global; with PCIDs it drops nothing.
/// Method: one page in each half, unmapped while another space is current.
#[test]
fn a_switch_keeps_global_entries_and_with_pcids_all_of_them() {
    for pcid in [false, true] {
        let (hardware, space) = machine(Config { pcid, ..Config::default() }, UPPER);
        space.prepare(pages(LOWER, 1)).unwrap();
        let first = hardware.config().first;
        space.map_run(UPPER, frames(first, 1), Prot::READ).unwrap();
        space.map_run(LOWER, frames(first, 1), Prot::READ).unwrap();
        let cpu = hardware.cpu(0);
        cpu.load(UPPER.addr()).unwrap();
        cpu.load(LOWER.addr()).unwrap();
        cpu.switch_to(&hardware.space().unwrap());
        assert_eq!(cpu.load(LOWER.addr()), not_present(LOWER), "another space's page");
        space.unmap_run(pages(UPPER, 1));
        space.unmap_run(pages(LOWER, 1));
        cpu.switch_to(&space);
        assert_eq!(cpu.load(UPPER.addr()), Ok(first.0), "a stale global entry");
        let lower = if pcid { Ok(first.0) } else { not_present(LOWER) };
        assert_eq!(cpu.load(LOWER.addr()), lower);
    }
}

#[test]
fn a_space_that_goes_gives_its_tables_back_and_leaves_no_cpu_in_it() {
    let (hardware, kept) = machine(Config::default(), UPPER);
    let first = hardware.config().first;
    kept.map_run(UPPER, frames(first, 1), Prot::READ).unwrap();
    let tables = hardware.counters().tables_in_use;
    let gone = hardware.space().unwrap();
    let cr3 = gone.cr3();
    gone.prepare(pages(LOWER, 2048)).unwrap();
    gone.map_run(LOWER, frames(first, 600), Prot::READ).unwrap();
    let cpu = hardware.cpu(0);
    cpu.switch_to(&gone);
    cpu.load(LOWER.addr()).unwrap();
    let clone = gone.clone();
    drop(gone);
    assert!(cpu.load(LOWER.addr()).is_ok(), "a clone is left");

    drop(clone);
    assert_eq!(hardware.tlb_entries_showing(frames(first, 1)), 0);
    assert_eq!(hardware.counters().tables_in_use, tables);
    assert_eq!(hardware.tables_reachable(), tables);
    assert!(hardware.ram().is_junk(frames(cr3, 1)), "freed tables are spoilt");
    assert_eq!(cpu.load(LOWER.addr()), not_present(LOWER));
    assert_eq!(cpu.load(UPPER.addr()), Ok(first.0), "the kernel's half stays");
}

#[test]
fn a_prepare_that_fails_keeps_no_table() {
    for start in [UPPER, LOWER] {
        let hardware = Hardware::new(Config::default());
        let space = hardware.space().unwrap();
        let tables = hardware.counters().tables_in_use;
        hardware.faults().fail_nth(Step::AllocTable, 3);
        let window = pages(start, 3 * PER_ROOT_ENTRY);
        assert_eq!(space.prepare(window), Err(MapError::NoTable { at: start }));
        assert_eq!(hardware.counters().tables_in_use, tables);
        assert_eq!(hardware.tables_reachable(), tables);
        space.prepare(window).unwrap();
        assert_eq!(hardware.tables_reachable(), hardware.counters().tables_in_use);
    }
}

// Waiting.

#[test]
fn interrupts_are_off_for_one_thread_and_until_the_last_guard_goes() {
    let (hardware, space) = machine(Config::default(), UPPER);
    assert!(space.may_wait());
    let outer = hardware.interrupts_off();
    let inner = hardware.interrupts_off();
    assert!(!space.may_wait());
    thread::scope(|scope| assert!(scope.spawn(|| space.may_wait()).join().unwrap()));
    drop(inner);
    assert!(!space.may_wait());
    drop(outer);
    assert!(space.may_wait());
    hardware.set_may_wait(false);
    assert!(!space.may_wait());
}

#[test]
#[should_panic(expected = "waiting for other CPUs is forbidden")]
fn a_shootdown_with_interrupts_off_panics() {
    let (hardware, space) = machine(Config::default(), UPPER);
    let _off = hardware.interrupts_off();
    space.flush_all_cpus(&[pages(UPPER, 1)]);
}

// Faults.

/// Goal: every kind of fault fires in exactly the call it was armed for, or from it on.
/// Method: for each kind and each n, eight calls; the outcomes are compared with n.
#[test]
fn each_kind_of_fault_fires_at_exactly_the_nth_call() {
    let hardware = Hardware::new(Config::default());
    let owner = hardware.space().unwrap();
    owner.prepare(pages(UPPER, 2048)).unwrap();
    let naive = Naive::new(hardware.ram().data_frames());
    let faulty = FaultyFrames::new(naive, Arc::clone(hardware.faults()));
    let first = frames(hardware.config().first, 1);
    let succeeds = |step| match step {
        Step::Take => faulty.take(Order(1)).is_ok_and(|pfn| {
            faulty.give(frames(pfn, 2));
            true
        }),
        Step::TakeBulk => {
            let mut out = [Extent::default(); 3];
            let len = faulty.take_bulk(Pages(3), &mut out);
            out[..len].iter().for_each(|&run| faulty.give(run));
            len == 3
        }
        Step::AllocTable => hardware.space().is_ok(),
        Step::MapRun => {
            let is_mapped = owner.map_run(UPPER, first, Prot::READ).is_ok();
            assert_eq!(owner.translate(UPPER).is_some(), is_mapped);
            owner.unmap_run(pages(UPPER, 1));
            is_mapped
        }
        Step::Split => owner.split(UPPER).is_ok(),
        Step::Prepare => owner.prepare(pages(UPPER, 2048)).is_ok(),
        Step::Policy => faulty.reach(FramePolicy::ANY).is_ok(),
    };
    let plan = hardware.faults();
    for step in Step::ALL {
        for n in 1..=8 {
            plan.fail_nth(step, n);
            let failed: Vec<u64> = (1..=8).filter(|_| !succeeds(step)).collect();
            assert_eq!(failed, [n], "{step:?}");
            assert_eq!((plan.seen(step), plan.fired(step)), (8, 1));

            plan.fail_from(step, n);
            let failed: Vec<u64> = (1..=8).filter(|_| !succeeds(step)).collect();
            assert_eq!(failed, Vec::from_iter(n..=8), "{step:?}");
        }
        plan.reset();
        assert!((0..8).all(|_| succeeds(step)), "count-only");
        assert_eq!((plan.seen(step), plan.fired(step)), (8, 0));
    }
    assert_eq!(faulty.free(), faulty.total());
}

#[test]
fn a_failed_take_says_what_was_wanted_and_takes_nothing() {
    let plan = Arc::new(FaultPlan::new());
    let faulty = FaultyFrames::new(Naive::new(frames(Pfn(8), 64)), Arc::clone(&plan));
    plan.fail_nth(Step::Take, 1);
    assert_eq!(faulty.take(Order(2)), Err(NoFrames { wanted: Pages(4), free: Pages(64) }));
    assert_eq!(faulty.free(), Pages(64));
    assert_eq!(faulty.take(Order(2)), Ok(Pfn(8)));
    assert_eq!(faulty.inner().free(), Pages(60));
}

#[test]
fn a_one_shot_fault_fires_once_however_many_threads_run_into_it() {
    let plan = FaultPlan::new();
    plan.fail_nth(Step::Take, 500);
    let count = || (0..250).filter(|_| plan.fails(Step::Take)).count();
    let fired: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!((fired, plan.seen(Step::Take), plan.fired(Step::Take)), (1, 1000, 1));
}

// All together.

/// Goal: once `flush_all_cpus` has returned, no CPU reaches the frame any more, not even one that
/// was in the middle of a walk or a store when the page went.
/// Method: two threads map, store, unmap and flush, each in its own page; meanwhile a third CPU
/// stores to both pages, and accepts a fault. After each flush, a frame keeps its contents.
#[test]
fn no_access_reaches_a_frame_after_its_shootdown_whatever_other_cpus_do() {
    let (hardware, space) = machine(Config { cpus: 3, ..Config::default() }, UPPER);
    let (is_done, strange_stores) = (AtomicBool::new(false), AtomicU64::new(0));
    let owner = |thread: u64| {
        let at = page(UPPER, thread * 600);
        let pfn = Pfn(hardware.config().first.0 + thread);
        let (cpu, word) = (hardware.cpu(thread as usize), &space.words(pfn)[1]);
        // Until the third CPU has met enough mapped pages, however slow this machine is.
        for cycle in 0..100_000 {
            if cycle >= 200 && strange_stores.load(Ordering::Acquire) >= 200 {
                break;
            }
            space.map_run(at, frames(pfn, 1), Prot::READ_WRITE).unwrap();
            space.publish(pages(at, 1));
            assert_eq!(cpu.load(at.addr()), Ok(pfn.0));
            thread::yield_now();
            space.unmap_run(pages(at, 1));
            space.flush_all_cpus(&[pages(at, 1)]);
            word.store(0, Ordering::Release);
            assert_eq!(hardware.tlb_entries_showing(frames(pfn, 1)), 0);
            assert_eq!(cpu.load(at.addr()), not_present(at));
            thread::yield_now();
            assert_eq!(word.load(Ordering::Acquire), 0, "a store came after the shootdown");
        }
    };
    thread::scope(|scope| {
        let owner = &owner;
        let owners = [0, 1].map(|thread| scope.spawn(move || owner(thread)));
        scope.spawn(|| {
            while !is_done.load(Ordering::Acquire) {
                for index in [0, 600] {
                    let va = VirtAddr(page(UPPER, index).addr().0 + 8);
                    if hardware.cpu(2).store(va, 0xbad).is_ok() {
                        strange_stores.fetch_add(1, Ordering::AcqRel);
                    }
                }
            }
        });
        let outcomes = owners.map(|owner| owner.join());
        is_done.store(true, Ordering::Release);
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    });
    assert!(strange_stores.into_inner() >= 200, "the third CPU hardly met a mapped page");
    // Between unmap and flush the third CPU may hit an old entry; the owners never do.
    assert!(hardware.first_stale_hit().is_none_or(|hit| hit.cpu == 2));
}

/// What the random tests do to a window of [`SPAN`] pages around a leaf table's border.
#[derive(Clone, Debug)]
enum Op {
    Map { at: u64, len: u64, pfn: u64, prot: Prot },
    Unmap { at: u64, len: u64 },
    Protect { at: u64, len: u64, prot: Prot },
    Flush { at: u64, len: u64 },
    Load { cpu: usize, at: u64 },
    Store { cpu: usize, at: u64 },
}

const SPAN: u64 = 32;

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let run = (0..SPAN).prop_flat_map(|at| (Just(at), 0..=SPAN - at));
    let rights = prop::sample::select(vec![Rights::Read, Rights::ReadWrite, Rights::ReadExecute]);
    let cache = prop::sample::select(vec![
        Cache::WriteBack,
        Cache::WriteThrough,
        Cache::WriteCombining,
        Cache::Uncached,
    ]);
    let prot = (rights, cache, any::<bool>()).prop_map(|(rights, cache, user)| Prot {
        rights,
        cache,
        user,
    });
    let op = prop_oneof![
        1 => (run.clone(), prot.clone())
            .prop_map(|((at, len), prot)| Op::Protect { at, len, prot }),
        3 => (run.clone(), 0u64..64, prot)
            .prop_map(|((at, len), pfn, prot)| Op::Map { at, len: len / 3, pfn, prot }),
        2 => run.clone().prop_map(|(at, len)| Op::Unmap { at, len }),
        1 => run.prop_map(|(at, len)| Op::Flush { at, len }),
        6 => (0usize..2, 0..SPAN).prop_map(|(cpu, at)| Op::Load { cpu, at }),
        2 => (0usize..2, 0..SPAN).prop_map(|(cpu, at)| Op::Store { cpu, at }),
    ];
    prop::collection::vec(op, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    /// Goal: tables, MMU, `translate` and TLBs agree with a model of maps in a few lines.
    /// Method: random operations, in both halves; after each, every page is walked by the MMU and
    /// translated by the mapper; every access must hit what its CPU's TLB holds by the model.
    #[test]
    fn tables_mmu_and_tlbs_agree_with_the_model(ops in ops(), is_upper: bool) {
        let half = if is_upper { UPPER } else { LOWER };
        let (hardware, space) = machine(Config::default(), half);
        let (first, base) = (hardware.config().first.0, page(half, 512 - SPAN / 2));
        let mut mapped: HashMap<u64, (Pfn, Prot)> = HashMap::new();
        let mut tlbs = [HashMap::new(), HashMap::new()];
        let mut stale_hits = 0;
        for op in ops {
            match op {
                Op::Map { at, len, pfn, prot } => {
                    let run = frames(Pfn(first + pfn), len);
                    let result = space.map_run(page(base, at), run, prot);
                    match (at..at + len).find(|at| mapped.contains_key(at)) {
                        Some(busy) => prop_assert_eq!(
                            result,
                            Err(MapError::Occupied { at: page(base, busy), by: mapped[&busy].0 })
                        ),
                        None => {
                            prop_assert_eq!(result, Ok(()));
                            mapped.extend(
                                (0..len).map(|i| (at + i, (Pfn(first + pfn + i), prot)))
                            );
                        }
                    }
                }
                Op::Unmap { at, len } => {
                    space.unmap_run(pages(page(base, at), len));
                    mapped.retain(|page, _| !(at..at + len).contains(page));
                }
                Op::Protect { at, len, prot } => {
                    space.protect_run(pages(page(base, at), len), prot);
                    mapped
                        .iter_mut()
                        .filter(|(page, _)| (at..at + len).contains(page))
                        .for_each(|(_, shown)| shown.1 = prot);
                }
                Op::Flush { at, len } => {
                    space.flush_all_cpus(&[pages(page(base, at), len)]);
                    for tlb in &mut tlbs {
                        tlb.retain(|page, _| !(at..at + len).contains(page));
                    }
                }
                Op::Load { cpu, at } => {
                    let va = page(base, at).addr();
                    let held = tlbs[cpu].get(&at).copied();
                    stale_hits += u64::from(held.is_some() && held != mapped.get(&at).copied());
                    let shown = held.or(mapped.get(&at).copied());
                    let expected = shown.map(|(pfn, _)| pfn.0).ok_or(Fault::NotPresent { va });
                    prop_assert_eq!(hardware.cpu(cpu).load(va), expected);
                    shown.map(|shown| tlbs[cpu].insert(at, shown));
                }
                Op::Store { cpu, at } => {
                    // The frame's own number, so that loads go on telling frames apart.
                    let va = page(base, at).addr();
                    let held = tlbs[cpu].get(&at).copied();
                    stale_hits += u64::from(held.is_some() && held != mapped.get(&at).copied());
                    let shown = held.or(mapped.get(&at).copied());
                    let value = shown.map_or(0, |(pfn, _)| pfn.0);
                    let expected = match shown {
                        None => Err(Fault::NotPresent { va }),
                        Some((_, prot)) if prot.rights.may_write() => Ok(()),
                        Some(_) => Err(Fault::ReadOnly { va }),
                    };
                    prop_assert_eq!(hardware.cpu(cpu).store(va, value), expected);
                    match shown {
                        Some(shown) if expected.is_ok() => { tlbs[cpu].insert(at, shown); }
                        _ => { tlbs[cpu].remove(&at); }
                    }
                }
            }
            prop_assert_eq!(hardware.stale_hits(), stale_hits);
            for at in 0..SPAN {
                let page = page(base, at);
                let walked = mmu::walk(hardware.ram(), space.cr3(), page.addr()).ok();
                let walked = walked.map(|found| {
                    assert_eq!(found.global, is_upper);
                    let rights = match (found.writable, found.executable) {
                        (false, false) => Rights::Read,
                        (true, false) => Rights::ReadWrite,
                        (false, true) => Rights::ReadExecute,
                        (true, true) => panic!("{page} is writable and executable"),
                    };
                    (found.pfn, Prot { rights, cache: found.cache, user: found.user })
                });
                prop_assert_eq!(walked, mapped.get(&at).copied());
                prop_assert_eq!(space.translate(page), walked);
            }
        }
        prop_assert_eq!(hardware.tables_reachable(), hardware.counters().tables_in_use);
    }
}
