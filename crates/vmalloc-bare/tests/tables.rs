//! Tables that this crate builds, walked by the simulated MMUs, which are written from the manuals
//! and share no code with it: the two meet only in simulated RAM. `fuzz/fuzz_targets/tables.rs`
//! feeds `agree` with operations of its own.

use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use vmalloc_bare::{
    Aarch64, Cpus, Format, Hardware, PageTables, Shootdown, Sv39, Sv48, TableMem, What, X86_64,
    X86_64La57,
};
use vmalloc_core::platform::{FRAME_WORDS, MapError, Mapper, Tlb};
use vmalloc_core::sync::AtomicU64;
use vmalloc_core::{Cache, Extent, PageRange, Pages, Pfn, Prot, Rights, VirtAddr, Vpn};
use vmalloc_sim::{Fault, SimRam, Translation, mmu};

/// Frames for tables, that count.
struct Mem {
    ram: SimRam,
    free: RefCell<Vec<Pfn>>,
    given: Cell<usize>,
}

const TABLES: u64 = 64;

impl Mem {
    fn new() -> Mem {
        let ram = SimRam::new(Pfn(1), Pages(TABLES), Pages(0));
        Mem { ram, free: RefCell::new((1..=TABLES).rev().map(Pfn).collect()), given: Cell::new(0) }
    }

    fn in_use(&self) -> usize {
        TABLES as usize - self.free.borrow().len()
    }
}

impl TableMem for Mem {
    fn table(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        assert!(!self.free.borrow().contains(&pfn), "{pfn} is no table any more");
        self.ram.frame(pfn).expect("tables are RAM")
    }

    fn take(&self) -> Option<Pfn> {
        self.free.borrow_mut().pop()
    }

    fn give(&self, pfn: Pfn) {
        self.given.set(self.given.get() + 1);
        self.free.borrow_mut().push(pfn);
    }
}

/// A format and the MMU of its architecture.
pub(crate) trait Arch: Format {
    /// A page of the upper half, at a multiple of 1 GiB.
    const UPPER: Vpn;
    const LOWER: Vpn = Vpn(0x40_0000);
    /// What caches the format has.
    const CACHES: &'static [Cache] =
        &[Cache::WriteBack, Cache::WriteThrough, Cache::WriteCombining, Cache::Uncached];

    fn walk(ram: &SimRam, root: Pfn, va: VirtAddr) -> Result<Translation, Fault>;
}

impl Arch for X86_64 {
    const UPPER: Vpn = Vpn(0xf_fffc_9000_0000);
    fn walk(ram: &SimRam, root: Pfn, va: VirtAddr) -> Result<Translation, Fault> {
        mmu::walk(ram, root, va)
    }
}

impl Arch for X86_64La57 {
    const UPPER: Vpn = Vpn(0xf_f200_0000_0000);
    fn walk(ram: &SimRam, root: Pfn, va: VirtAddr) -> Result<Translation, Fault> {
        mmu::walk_la57(ram, root, va)
    }
}

impl Arch for Aarch64 {
    const UPPER: Vpn = Vpn(0xf_fff8_0000_0000);
    fn walk(ram: &SimRam, root: Pfn, va: VirtAddr) -> Result<Translation, Fault> {
        mmu::aarch64::walk(ram, root, va)
    }
}

impl Arch for Sv39 {
    const UPPER: Vpn = Vpn(0xf_ffff_fc80_0000);
    const CACHES: &'static [Cache] = &[Cache::WriteBack];
    fn walk(ram: &SimRam, root: Pfn, va: VirtAddr) -> Result<Translation, Fault> {
        mmu::riscv64::walk(ram, root, 3, va)
    }
}

impl Arch for Sv48 {
    const UPPER: Vpn = Vpn(0xf_fff8_0000_0000);
    const CACHES: &'static [Cache] = &[Cache::WriteBack];
    fn walk(ram: &SimRam, root: Pfn, va: VirtAddr) -> Result<Translation, Fault> {
        mmu::riscv64::walk(ram, root, 4, va)
    }
}

/// Runs a generic test for every format.
macro_rules! on_every_format {
    ($($(#[$attribute:meta])* $name:ident)*) => {
        $($(#[$attribute])* #[test] fn $name() {
            cases::$name::<X86_64>();
            cases::$name::<X86_64La57>();
            cases::$name::<Aarch64>();
            cases::$name::<Sv39>();
            cases::$name::<Sv48>();
        })*
    };
}

on_every_format! {
    /// Goal: every protection comes out of the MMU as it went in, at every leaf size, in both halves.
    every_protection_is_what_the_mmu_finds
    what_the_format_cannot_do_is_refused_and_maps_nothing
    /// Goal: aligned runs get leaves of 2 MiB and 1 GiB, others do not; the MMU finds each page.
    runs_that_fit_get_large_leaves
    map_over_a_live_page_is_refused_and_changes_nothing
    map_that_finds_no_frame_for_a_table_maps_nothing
    split_shows_the_same_frames_with_the_same_rights
    unmap_of_part_of_a_split_leaf_leaves_the_rest
    table_that_a_whole_unmap_empties_goes_home_with_the_next_flush_and_not_before
    prepare_fills_the_roots_entries_so_that_a_space_made_after_it_sees_every_area
    space_that_is_dropped_gives_back_all_its_tables_and_none_of_the_kernels
    addresses_that_no_cpu_accepts_translate_to_nothing
}

fn extent(start: u64, len: u64) -> Extent {
    Extent { start: Pfn(start), len: Pages(len) }
}

fn range(start: Vpn, at: u64, len: u64) -> PageRange {
    PageRange { start: Vpn(start.0 + at), len: Pages(len) }
}

fn see<A: Arch>(tables: &PageTables<A, &Mem>, at: Vpn) -> Option<Translation> {
    match A::walk(&tables.mem().ram, tables.root(), at.addr()) {
        Ok(found) => Some(found),
        Err(Fault::NotPresent { .. }) => None,
        Err(fault) => panic!("{fault}"),
    }
}

fn all_prots<A: Arch>() -> Vec<Prot> {
    let mut all = Vec::new();
    for rights in [Rights::Read, Rights::ReadWrite, Rights::ReadExecute] {
        for &cache in A::CACHES {
            for user in [false, true] {
                all.push(Prot { rights, cache, user });
            }
        }
    }
    all
}

fn expected<A: Arch>(pfn: u64, at: Vpn, prot: Prot) -> Translation {
    Translation {
        pfn: Pfn(pfn),
        writable: prot.rights.may_write(),
        executable: prot.rights.may_execute(),
        user: prot.user,
        cache: prot.cache,
        global: A::is_upper(at) && !prot.user,
    }
}

mod cases {
    use super::*;

    pub fn every_protection_is_what_the_mmu_finds<A: Arch>() {
        for half in [A::UPPER, A::LOWER] {
            for (len, pfn) in [(1, 77), (512, 5 << 9), (1 << 18, 3 << 18)] {
                for prot in all_prots::<A>() {
                    let mem = Mem::new();
                    let tables = PageTables::<A, _>::new(&mem).unwrap();
                    tables.map_run(half, extent(pfn, len), prot).unwrap();
                    for i in [0, len / 2, len - 1] {
                        let at = Vpn(half.0 + i);
                        assert_eq!(see(&tables, at), Some(expected::<A>(pfn + i, at, prot)));
                        assert_eq!(tables.translate(at), Some((Pfn(pfn + i), prot)));
                    }
                    tables.protect_run(range(half, 0, len), Prot::READ);
                    let read = expected::<A>(pfn + len - 1, half, Prot::READ);
                    assert_eq!(see(&tables, Vpn(half.0 + len - 1)), Some(read));
                }
            }
        }
    }

    pub fn what_the_format_cannot_do_is_refused_and_maps_nothing<A: Arch>() {
        let mem = Mem::new();
        let tables = PageTables::<A, _>::new(&mem).unwrap();
        let prot = Prot::READ_WRITE.cached(Cache::Uncached);
        let result = tables.map_run(A::UPPER, extent(9, 1), prot);
        if A::CACHES.contains(&Cache::Uncached) {
            assert_eq!(result, Ok(()));
        } else {
            assert_eq!(result, Err(MapError::Unsupported));
            assert_eq!(see(&tables, A::UPPER), None);
        }
    }

    pub fn runs_that_fit_get_large_leaves<A: Arch>() {
        let mem = Mem::new();
        let tables = PageTables::<A, _>::new(&mem).unwrap();
        let levels = A::LEVELS as usize;
        // Page 511 up to the gigabyte, the gigabyte, and one page more.
        let start = Vpn(A::UPPER.0 + (1 << 18) - 1);
        tables.map_run(start, extent((1 << 18) - 1, (1 << 18) + 2), Prot::READ_WRITE).unwrap();
        for i in [0, 1, 2, 511, 512, 513, 1 << 17, 1 << 18, (1 << 18) + 1] {
            let found = see(&tables, Vpn(start.0 + i)).unwrap();
            assert_eq!(found.pfn, Pfn((1 << 18) - 1 + i));
        }
        assert_eq!(see(&tables, Vpn(start.0 - 1)), None);
        assert_eq!(see(&tables, Vpn(start.0 + (1 << 18) + 2)), None);
        // Root to level 2, then two ways down of two tables each: the gigabyte needs none.
        assert_eq!(mem.in_use(), levels - 2 + 2 + 2);
        // Frames that are aligned otherwise: no large leaf.
        let (mem, len) = (Mem::new(), 512);
        let tables = PageTables::<A, _>::new(&mem).unwrap();
        tables.map_run(A::UPPER, extent(513, len), Prot::READ_WRITE).unwrap();
        assert_eq!(mem.in_use(), levels);
        assert_eq!(see(&tables, Vpn(A::UPPER.0 + 511)).unwrap().pfn, Pfn(1024));
    }

    pub fn map_over_a_live_page_is_refused_and_changes_nothing<A: Arch>() {
        for (live, len) in [(600, 1), (512, 512)] {
            let mem = Mem::new();
            let tables = PageTables::<A, _>::new(&mem).unwrap();
            let at = Vpn(A::UPPER.0 + live);
            tables.map_run(at, extent(7 << 9, len), Prot::READ).unwrap();
            for (first, run) in [(0, 1024), (live, 1), (500, 300), (0, 1 << 18)] {
                let result =
                    tables.map_run(Vpn(A::UPPER.0 + first), extent(9 << 18, run), Prot::READ);
                assert!(
                    matches!(result, Err(MapError::Occupied { .. })),
                    "{first}, {run}: {result:?}"
                );
                for page in [0, 1, 499, 500, 511, 1023] {
                    if !(live..live + len).contains(&page) {
                        assert_eq!(see(&tables, Vpn(A::UPPER.0 + page)), None, "{page}");
                    }
                }
                assert_eq!(see(&tables, at).unwrap().pfn, Pfn(7 << 9));
            }
        }
    }

    pub fn map_that_finds_no_frame_for_a_table_maps_nothing<A: Arch>() {
        let needed = A::LEVELS as usize + 1;
        for frames in 1..needed {
            let mem = Mem::new();
            mem.free.borrow_mut().truncate(frames);
            let tables = PageTables::<A, _>::new(&mem).unwrap();
            let run = extent(33, 600);
            let result = tables.map_run(A::LOWER, run, Prot::READ_WRITE);
            assert!(matches!(result, Err(MapError::NoTable { .. })), "{frames}: {result:?}");
            assert_eq!(see(&tables, A::LOWER), None);
            assert_eq!(see(&tables, Vpn(A::LOWER.0 + 599)), None);
            mem.free.borrow_mut().extend((40..50).map(Pfn));
            tables.map_run(A::LOWER, run, Prot::READ_WRITE).unwrap();
            assert_eq!(see(&tables, Vpn(A::LOWER.0 + 599)).unwrap().pfn, Pfn(632));
        }
    }

    pub fn split_shows_the_same_frames_with_the_same_rights<A: Arch>() {
        let mem = Mem::new();
        let tables = PageTables::<A, _>::new(&mem).unwrap();
        let (len, prot) = (1 << 18, Prot::new(Rights::ReadExecute));
        tables.map_run(A::UPPER, extent(len, len), prot).unwrap();
        let before = mem.in_use();
        let flushed = Cell::new(0);
        let split = |at: u64| {
            let at = Vpn(A::UPPER.0 + at);
            tables.split_with(at, &|pages| {
                assert!(pages.contains(at));
                assert_eq!(see(&tables, at), None, "invalid while it is flushed");
                flushed.set(flushed.get() + 1);
            })
        };
        for border in [0, len] {
            split(border).unwrap();
        }
        assert_eq!(mem.in_use(), before, "no leaf lies across these");
        split(512).unwrap();
        assert_eq!(mem.in_use(), before + 1, "into leaves of 2 MiB");
        split(1024 + 5).unwrap();
        assert_eq!(mem.in_use(), before + 2, "one of these into pages");
        assert_eq!(flushed.get(), if A::BREAKS_BEFORE_MAKE { 2 } else { 0 });
        for i in [0, 511, 512, 1023, 1024, 1029, 1535, 1536, len - 1] {
            let at = Vpn(A::UPPER.0 + i);
            assert_eq!(see(&tables, at), Some(expected::<A>(len + i, at, prot)), "{i}");
        }
        // No frame for a table: nothing changes.
        mem.free.borrow_mut().clear();
        let result = split(2048 + 1);
        assert!(matches!(result, Err(MapError::NoTable { .. })));
        assert_eq!(see(&tables, Vpn(A::UPPER.0 + 2049)).unwrap().pfn, Pfn(len + 2049));
    }

    pub fn unmap_of_part_of_a_split_leaf_leaves_the_rest<A: Arch>() {
        let mem = Mem::new();
        let tables = PageTables::<A, _>::new(&mem).unwrap();
        tables.map_run(A::UPPER, extent(512, 1024), Prot::READ_WRITE).unwrap();
        for border in [100, 700] {
            tables.split_with(Vpn(A::UPPER.0 + border), &|_| {}).unwrap();
        }
        tables.unmap_run(range(A::UPPER, 100, 600));
        for i in 0..1024 {
            let expected = (!(100..700).contains(&i)).then_some(Pfn(512 + i));
            assert_eq!(see(&tables, Vpn(A::UPPER.0 + i)).map(|found| found.pfn), expected, "{i}");
        }
    }

    pub fn table_that_a_whole_unmap_empties_goes_home_with_the_next_flush_and_not_before<
        A: Arch,
    >() {
        let mem = Mem::new();
        let tables = PageTables::<A, _>::new(&mem).unwrap();
        let hardware = Hardware::new(tables, Log::default());
        hardware.map_run(A::LOWER, extent(1, 512), Prot::READ_WRITE).unwrap();
        let with = mem.in_use();
        // Part of it: the table stays, and a flush is of the pages alone.
        hardware.unmap_run(range(A::LOWER, 0, 511));
        hardware.flush_all_cpus(&[range(A::LOWER, 0, 20)]);
        assert_eq!((mem.in_use(), hardware.shootdown().everything.get()), (with, 0));
        // All of it: out of the tree, and not home.
        hardware.unmap_run(range(A::LOWER, 0, 512));
        assert_eq!((mem.in_use(), mem.given.get()), (with, 0));
        // Meanwhile a large leaf takes its place.
        hardware.map_run(A::LOWER, extent(512, 512), Prot::READ).unwrap();
        assert_eq!(see(hardware.tables(), Vpn(A::LOWER.0 + 7)).unwrap().pfn, Pfn(519));
        hardware.flush_all_cpus(&[range(A::LOWER, 0, 1)]);
        assert_eq!((mem.in_use(), mem.given.get()), (with - 1, 1));
        assert_eq!(hardware.shootdown().everything.get(), 1, "tables want all of it flushed");
        // Tables of tables, too; never those of the root.
        hardware.unmap_run(range(A::LOWER, 0, 512));
        hardware.map_run(A::LOWER, extent(1, 1), Prot::READ).unwrap();
        hardware.unmap_run(range(A::LOWER, 0, 1 << 18));
        hardware.flush_all_cpus(&[]);
        let kept = if A::LEVELS == 3 { 2 } else { with - 2 };
        assert_eq!(mem.in_use(), kept);
    }

    pub fn prepare_fills_the_roots_entries_so_that_a_space_made_after_it_sees_every_area<
        A: Arch,
    >() {
        let mem = Mem::new();
        let kernel = PageTables::<A, _>::new(&mem).unwrap();
        let top = 9 * (A::LEVELS - 1);
        let window = PageRange { start: A::UPPER, len: Pages(2 << top) };
        kernel.prepare(window).unwrap();
        let space = kernel.new_space().unwrap();
        for i in [0, 1 << top, (2 << top) - 1] {
            let at = Vpn(A::UPPER.0 + i);
            kernel.map_run(at, extent(i % 1000 + 9, 1), Prot::READ_WRITE).unwrap();
            assert_eq!(see(&space, at), see(&kernel, at));
            assert!(see(&space, at).is_some());
        }
        space.map_run(A::LOWER, extent(4, 1), Prot::READ_WRITE.user()).unwrap();
        assert_eq!(see(&kernel, A::LOWER), None, "the lower half is the space's own");
    }

    pub fn space_that_is_dropped_gives_back_all_its_tables_and_none_of_the_kernels<A: Arch>() {
        let mem = Mem::new();
        let kernel = PageTables::<A, _>::new(&mem).unwrap();
        kernel.prepare(range(A::UPPER, 0, 1024)).unwrap();
        kernel.map_run(A::UPPER, extent(3, 3), Prot::READ).unwrap();
        let before = mem.in_use();
        let space = kernel.new_space().unwrap();
        space.map_run(A::LOWER, extent(1, 1 << 18), Prot::READ_WRITE.user()).unwrap_err();
        space.map_run(A::LOWER, extent(4, 2000), Prot::READ_WRITE.user()).unwrap();
        space.unmap_run(range(A::LOWER, 0, 512));
        space.drop_space();
        assert_eq!(mem.in_use(), before);
        assert_eq!(see(&kernel, A::UPPER).unwrap().pfn, Pfn(3));
    }

    pub fn addresses_that_no_cpu_accepts_translate_to_nothing<A: Arch>() {
        let mem = Mem::new();
        let tables = PageTables::<A, _>::new(&mem).unwrap();
        tables.map_run(A::LOWER, extent(4, 1), Prot::READ).unwrap();
        for bit in 9 * A::LEVELS - 1..52 {
            let at = Vpn(A::LOWER.0 ^ 1 << bit);
            let fault = A::walk(&mem.ram, tables.root(), at.addr());
            assert!(
                matches!(fault, Err(Fault::NonCanonical { .. } | Fault::NotPresent { .. })),
                "{at}: {fault:?}"
            );
            assert_eq!(tables.translate(at), None, "{at}");
        }
    }
}

/// A shootdown that says what it was asked.
#[derive(Default)]
struct Log {
    everything: Cell<usize>,
}

impl Shootdown for Log {
    fn publish(&self, _at: PageRange) {}

    fn flush_all(&self, what: What<'_>) {
        self.everything.set(self.everything.get() + usize::from(what == What::Everything));
    }

    fn flush_local(&self, _at: PageRange) {}

    fn may_wait(&self) -> bool {
        true
    }
}

/// What the random test does to [`SPAN`] pages around a border of 2 MiB.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Map { at: u64, len: u64, pfn: u64, prot: usize },
    Unmap { at: u64, len: u64 },
    Protect { at: u64, len: u64, prot: usize },
    Flush,
}

const SPAN: u64 = 3 * 512;

/// One such operation.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    // Whole leaves, pages near their borders, and anything.
    let border = prop_oneof![
        2 => (0u64..4).prop_map(|at| at * 512),
        2 => (0u64..3, 0u64..9).prop_map(|(at, by)| at * 512 + 508 + by),
        1 => 0..SPAN,
    ];
    let run = (border.clone(), border).prop_map(|(a, b)| {
        let (a, b) = (a.min(b).min(SPAN), a.max(b).min(SPAN));
        (a, b - a)
    });
    let pfn = prop_oneof![(0u64..4).prop_map(|at| at * 512), 0u64..3000];
    prop_oneof![
        4 => (run.clone(), pfn, 0usize..64)
            .prop_map(|((at, len), pfn, prot)| Op::Map { at, len, pfn, prot }),
        2 => run.clone().prop_map(|(at, len)| Op::Unmap { at, len }),
        2 => (run, 0usize..64).prop_map(|((at, len), prot)| Op::Protect { at, len, prot }),
        1 => Just(Op::Flush),
    ]
}

/// Applies `ops` to tables and to a map model, and compares after each.
pub(crate) fn agree<A: Arch>(ops: &[Op], half: Vpn) {
    let (mem, prots) = (Mem::new(), all_prots::<A>());
    let hardware = Hardware::new(PageTables::<A, _>::new(&mem).unwrap(), Log::default());
    let mut model: BTreeMap<u64, (u64, Prot)> = BTreeMap::new();
    let cut = |at, len| {
        for border in [at, at + len] {
            hardware.split(Vpn(half.0 + border)).unwrap();
        }
    };
    for op in ops {
        match *op {
            Op::Map { at, len, pfn, prot } => {
                let prot = prots[prot % prots.len()];
                let result = hardware.map_run(Vpn(half.0 + at), extent(pfn, len), prot);
                if model.range(at..at + len).next().is_some() {
                    assert!(matches!(result, Err(MapError::Occupied { .. })), "{result:?}");
                } else {
                    result.unwrap();
                    model.extend((0..len).map(|i| (at + i, (pfn + i, prot))));
                }
            }
            Op::Unmap { at, len } => {
                cut(at, len);
                hardware.unmap_run(range(half, at, len));
                model.retain(|page, _| !(at..at + len).contains(page));
            }
            Op::Protect { at, len, prot } => {
                let prot = prots[prot % prots.len()];
                cut(at, len);
                hardware.protect_run(range(half, at, len), prot);
                model.range_mut(at..at + len).for_each(|(_, page)| page.1 = prot);
            }
            Op::Flush => hardware.flush_all_cpus(&[]),
        }
        for page in 0..SPAN {
            let at = Vpn(half.0 + page);
            let wanted = model.get(&page);
            let found = see(hardware.tables(), at);
            assert_eq!(found, wanted.map(|&(pfn, prot)| expected::<A>(pfn, at, prot)), "{page}");
            assert_eq!(hardware.translate(at), wanted.map(|&(pfn, prot)| (Pfn(pfn), prot)));
        }
    }
    // Root and the two on the way, three leaf tables; what else is in use has not been flushed.
    hardware.flush_all_cpus(&[]);
    assert!(mem.in_use() <= A::LEVELS as usize - 1 + 3, "{} tables", mem.in_use());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    /// Goal: tables, MMU and `translate` agree with a map model, whatever leaves there are.
    #[test]
    fn tables_and_mmus_agree_with_the_model(ops in prop::collection::vec(op(), 1..24), is_upper: bool) {
        fn half<A: Arch>(is_upper: bool) -> Vpn { if is_upper { A::UPPER } else { A::LOWER } }
        agree::<X86_64>(&ops, half::<X86_64>(is_upper));
        agree::<X86_64La57>(&ops, half::<X86_64La57>(is_upper));
        agree::<Aarch64>(&ops, half::<Aarch64>(is_upper));
        agree::<Sv39>(&ops, half::<Sv39>(is_upper));
        agree::<Sv48>(&ops, half::<Sv48>(is_upper));
    }
}

/// Nobody: for the formats' tests alone.
#[derive(Clone, Copy)]
struct Alone;

impl Cpus for Alone {
    fn current(&self) -> usize {
        0
    }

    fn online(&self) -> u64 {
        1
    }

    fn may_wait(&self) -> bool {
        true
    }
}

/// Goal: a CPU alone interrupts nobody, and flushes itself.
#[test]
fn shootdown_of_one_cpu_is_a_flush() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static FLUSHED: AtomicUsize = AtomicUsize::new(0);
    fn flush(_: What<'_>) {
        FLUSHED.fetch_add(1, Ordering::Relaxed);
    }
    let ipi = vmalloc_bare::Ipi::new(Alone, vmalloc_bare::SpinLock::new(), flush);
    ipi.flush_all(What::Everything);
    assert_eq!((FLUSHED.load(Ordering::Relaxed), ipi.count()), (1, 0));
}
