//! Every call of the engine's, over the tables that a kernel has, fails once: the walk of
//! `vmalloc-sim`, with its services, on the page tables of this crate.
//!
//! ```text
//!   services ─▶ engine ─▶ [a fault?] Mapper ─▶ Hardware ─▶ PageTables ─▶ [a fault?] TableMem
//!                    └──▶ [a fault?] Frames
//! ```
//!
//! A format of each architecture: aarch64's splits break before they make, and flush in between. A
//! frame for a table that this crate's sources ask for is one of those met, by the line.

mod support;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use support::NoCpus;
use vmalloc_bare::{Aarch64, Entry, Format, Hardware, PageTables, Sv39, TableMem, X86_64};
use vmalloc_core::backing::Backings;
use vmalloc_core::frames::Buddy;
use vmalloc_core::platform::{FRAME_WORDS, Frames, MapError, Mapper, Ram, Tlb};
use vmalloc_core::sync::{AtomicU64, Ordering};
use vmalloc_core::{
    Config, Engine, Extent, Geometry, Order, Owner, PageRange, Paged, Pages, Pfn, Prot, Request,
    Tables, Vpn,
};
use vmalloc_sim::points::{PagedEngine, World, calls_in, missed, services};
use vmalloc_sim::{FaultPlan, FaultyFrames, SimRam, Site, Step};

/// Frames for areas, frames for tables behind them, and a device behind those.
const POOL: Extent = Extent { start: Pfn(0x100), len: Pages(256) };
const TABLES: Extent = Extent { start: Pfn(0x200), len: Pages(64) };
const DEVICE: Extent = Extent { start: Pfn(0x400), len: Pages(1300) };
const WINDOW: Pages = Pages(4096);
/// Pages of a gigabyte: windows lie so far apart.
const APART: u64 = 1 << 18;

/// A format, and where its kernel's half has room.
trait Arch: Format {
    const UPPER: Vpn;
}

impl Arch for X86_64 {
    const UPPER: Vpn = Vpn(0xf_fffc_9000_0000);
}

impl Arch for Aarch64 {
    const UPPER: Vpn = Vpn(0xf_fff8_0000_0000);
}

impl Arch for Sv39 {
    const UPPER: Vpn = Vpn(0xf_ffff_fc80_0000);
}

fn window<A: Arch>(nth: u64, len: Pages) -> PageRange {
    PageRange { start: Vpn(A::UPPER.0 + nth * APART), len }
}

/// RAM, and frames for tables out of it: one for all spaces.
#[derive(Clone)]
struct Mem(Rc<Board>);

struct Board {
    ram: SimRam,
    free: RefCell<Vec<Pfn>>,
    plan: Arc<FaultPlan>,
}

impl TableMem for Mem {
    fn table(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        assert!(!self.0.free.borrow().contains(&pfn), "{pfn} is no table any more");
        self.0.ram.frame(pfn).expect("tables are RAM")
    }

    #[track_caller]
    fn take(&self) -> Option<Pfn> {
        if self.0.plan.fails(Step::AllocTable) { None } else { self.0.free.borrow_mut().pop() }
    }

    fn give(&self, pfn: Pfn) {
        self.0.free.borrow_mut().push(pfn);
    }
}

/// What a kernel has, with a fault before each call that may fail.
struct Faulty<A>(Rc<Hardware<A, Mem, NoCpus>>);

impl<A> Clone for Faulty<A> {
    fn clone(&self) -> Self {
        Faulty(Rc::clone(&self.0))
    }
}

impl<A: Arch> Faulty<A> {
    fn board(&self) -> &Board {
        &self.0.tables().mem().0
    }

    #[track_caller]
    fn comes_to(&self, step: Step, at: Vpn) -> Result<(), MapError> {
        if self.board().plan.fails(step) { Err(MapError::NoTable { at }) } else { Ok(()) }
    }

    fn tables_in_use(&self) -> u64 {
        TABLES.len.0 - self.board().free.borrow().len() as u64
    }

    /// Tables below, and with, this one; and leaves in them.
    fn reachable(&self, table: Pfn, level: u32) -> [u64; 2] {
        let mut found = [1, 0];
        for word in self.0.tables().mem().table(table) {
            match A::decode(word.load(Ordering::Acquire), level) {
                Entry::Table(pfn) if level > 0 => {
                    let below = self.reachable(pfn, level - 1);
                    found = [found[0] + below[0], found[1] + below[1]];
                }
                Entry::Empty => {}
                _ => found[1] += 1,
            }
        }
        found
    }
}

impl<A: Arch> Mapper for Faulty<A> {
    #[track_caller]
    fn prepare(&self, window: PageRange) -> Result<(), MapError> {
        self.comes_to(Step::Prepare, window.start)?;
        self.0.prepare(window)
    }

    #[track_caller]
    fn map_run(&self, at: Vpn, run: Extent, prot: Prot) -> Result<(), MapError> {
        self.comes_to(Step::MapRun, at)?;
        self.0.map_run(at, run, prot)
    }

    fn unmap_run(&self, at: PageRange) {
        self.0.unmap_run(at);
    }

    fn protect_run(&self, at: PageRange, prot: Prot) {
        self.0.protect_run(at, prot);
    }

    #[track_caller]
    fn split(&self, at: Vpn) -> Result<(), MapError> {
        self.comes_to(Step::Split, at)?;
        self.0.split(at)
    }

    fn translate(&self, at: Vpn) -> Option<(Pfn, Prot)> {
        self.0.translate(at)
    }
}

impl<A: Arch> Tlb for Faulty<A> {
    fn publish(&self, at: PageRange) {
        self.0.publish(at);
    }

    fn flush_all_cpus(&self, ranges: &[PageRange]) {
        self.0.flush_all_cpus(ranges);
    }

    fn may_wait(&self) -> bool {
        self.0.may_wait()
    }
}

impl<A: Arch> Ram for Faulty<A> {
    fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        self.board().ram.words(pfn)
    }

    fn zero(&self, run: Extent) {
        self.board().ram.zero(run);
    }

    fn ram_in(&self, run: Extent) -> Pages {
        self.board().ram.ram_in(run)
    }
}

type Pool<'a> = FaultyFrames<&'a Buddy<'a>>;

/// A kernel with two windows.
struct Kernel<'a, A: Arch> {
    pool: &'a Buddy<'a>,
    backings: Backings<'a>,
    hardware: Faulty<A>,
    engines: [PagedEngine<'a, Pool<'a>, Faulty<A>>; 2],
    /// Every other frame but those of one block: the caller's.
    kept: Vec<Pfn>,
}

impl<A: Arch> Kernel<'_, A> {
    /// Makes one, with something parked or not, and nothing armed.
    fn run<R>(parked: bool, body: impl FnOnce(&Kernel<'_, A>) -> R) -> R {
        let words = |len: usize| Vec::from_iter((0..len).map(|_| AtomicU64::new(0)));
        let geometry = Geometry::for_window(WINDOW);
        let (bits, records) =
            (words(Buddy::words_needed(POOL.len)), words(Backings::words_needed(16)));
        let tables = [words(geometry.words()), words(geometry.words())];

        let plan = Arc::new(FaultPlan::new());
        let ram = SimRam::new(POOL.start, POOL.len, TABLES.len);
        let free = RefCell::new((TABLES.start.0..TABLES.end().0).rev().map(Pfn).collect());
        let mem = Mem(Rc::new(Board { ram, free, plan: Arc::clone(&plan) }));
        let page_tables = PageTables::<A, _>::new(mem).unwrap();
        let hardware = Faulty(Rc::new(Hardware::new(page_tables, NoCpus)));
        let buddy = Buddy::format(&bits, POOL.start, POOL.len).unwrap();
        let backings = Backings::format(&records, 16);
        let engine = |nth: usize| {
            let frames = FaultyFrames::new(&buddy, Arc::clone(&plan));
            let machine = Paged::new(frames, backings, hardware.clone());
            let window_start = window::<A>(nth as u64, WINDOW).start;
            let config = Config { window_start, owner: Owner::FIRST, lazy_pages_max: Pages(64) };
            let engine = Engine::new(Tables::new(&tables[nth], geometry).unwrap(), machine, config);
            let engine = engine.unwrap();
            engine.prepare().unwrap();
            engine
        };
        let engines = [engine(0), engine(1)];
        hardware.prepare(user::<A>()).unwrap();

        let mut all: Vec<Pfn> = std::iter::from_fn(|| buddy.take(Order(0)).ok()).collect();
        all.sort();
        let is_kept = |pfn: &Pfn| pfn.0 % 2 == 1 && !(0x140..0x150).contains(&pfn.0);
        let (kept, given): (Vec<Pfn>, Vec<Pfn>) = all.iter().partition(|pfn| is_kept(pfn));
        given.iter().for_each(|&start| buddy.give(Extent { start, len: Pages(1) }));
        if parked {
            let area = engines[0].vmalloc(&Request::bytes(5 * 4096)).unwrap();
            let _ = engines[0].vfree(area.addr()).unwrap();
        }
        plan.reset();
        body(&Kernel { pool: &buddy, backings, hardware, engines, kept })
    }
}

fn user<A: Arch>() -> PageRange {
    window::<A>(2, Pages(2048))
}

fn beside<A: Arch>() -> PageRange {
    window::<A>(3, Pages(2048))
}

impl<'a, A: Arch> Kernel<'a, A> {
    fn plan(&self) -> &FaultPlan {
        &self.hardware.board().plan
    }

    /// Runs service `nth`.
    fn serve(&self, nth: usize) -> Result<(), String> {
        services::<Pool<'a>, Faulty<A>>()[nth].1(&World {
            engine: &self.engines[0],
            guest: &self.engines[1],
            hardware: self.hardware.clone(),
            frames: &self.kept,
            pool: POOL,
            device: DEVICE,
            user: user::<A>(),
            beside: beside::<A>(),
        })
    }

    /// Nothing is left but what was kept; tables stay, and are all reachable.
    fn settle(&self, context: &dyn Fn() -> String) {
        for engine in &self.engines {
            engine.verify().unwrap_or_else(|e| panic!("{}: {e}", context()));
            engine.purge().unwrap_or_else(|e| panic!("{}: {e}", context()));
            engine.verify().unwrap_or_else(|e| panic!("{}, purged: {e}", context()));
            let stats = engine.stats();
            assert_eq!(engine.areas().count(), 0, "{}: areas", context());
            assert_eq!(stats.holes, stats.window, "{}: pages that are no hole", context());
        }
        self.pool.verify().unwrap_or_else(|e| panic!("{}: {e}", context()));
        let in_use = POOL.len.0 - self.pool.free().0;
        assert_eq!(in_use, self.kept.len() as u64, "{}: frames", context());
        assert_eq!(self.backings.in_use(), 0, "{}: backings", context());
        // Tables that were taken out of the tree go home with a flush.
        self.hardware.flush_all_cpus(&[]);
        let [reachable, leaves] =
            self.hardware.reachable(self.hardware.0.tables().root(), A::LEVELS - 1);
        assert_eq!(self.hardware.tables_in_use(), reachable, "{}: tables", context());
        assert_eq!(leaves, 0, "{}: pages that are mapped", context());
    }
}

/// Fails each call of each service; the sites that were met, and how many failures were errors.
fn walk<A: Arch>(sites: &mut BTreeSet<Site>) -> [u32; 2] {
    let names = services::<FaultyFrames<&Buddy<'static>>, Faulty<A>>();
    let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    let (mut failures, mut steps) = ([0, 0], BTreeSet::new());
    for (nth, what) in names.into_iter().enumerate() {
        for parked in [false, true] {
            let counts = Kernel::<A>::run(parked, |kernel| {
                kernel.plan().note_sites();
                kernel.serve(nth).unwrap_or_else(|e| panic!("{what}: {e}"));
                sites.extend(kernel.plan().sites());
                let counts = Step::ALL.map(|step| (step, kernel.plan().seen(step)));
                kernel.settle(&|| what.to_owned());
                counts
            });
            for (step, n) in
                counts.into_iter().flat_map(|(step, n)| (1..=n).map(move |n| (step, n)))
            {
                let failed = fail_one::<A>(what, nth, parked, step, n);
                failures[usize::from(failed)] += 1;
                steps.insert(format!("{step:?}"));
            }
        }
    }
    assert_eq!(steps.len(), Step::ALL.len(), "a kind of which no service has one: {steps:?}");
    failures
}

fn fail_one<A: Arch>(what: &str, nth: usize, parked: bool, step: Step, n: u64) -> bool {
    Kernel::<A>::run(parked, |kernel| {
        kernel.plan().fail_nth(step, n);
        let done = kernel.serve(nth);
        let context = || format!("{what}, parked: {parked}: {step:?} number {n} fails: {done:?}");
        assert_eq!(kernel.plan().fired(step), 1, "{}: not the same calls", context());
        kernel.plan().reset();
        kernel.settle(&context);
        kernel.serve(nth).unwrap_or_else(|e| panic!("{}, and then {e}", context()));
        kernel.settle(&context);
        done.is_err()
    })
}

/// Goal: on a kernel's own page tables, too, what fails leaves nothing: frames, pages, backings, tables.
/// Method: each call of each service fails in turn, with and without something to purge; each place
/// in this crate that asks for a table is met.
#[test]
fn every_point_of_the_bare_machine_is_walked_and_leaves_nothing() {
    let mut sites = BTreeSet::new();
    for (name, [coped, failed]) in [
        ("x86_64", walk::<X86_64>(&mut sites)),
        ("aarch64", walk::<Aarch64>(&mut sites)),
        ("riscv64", walk::<Sv39>(&mut sites)),
    ] {
        println!("{name}: {failed} failures that were errors, {coped} coped with");
    }
    sites.extend(spaces::<X86_64>());
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let calls = calls_in(&here, "vmalloc-bare/src", |line| {
        line.contains(".new_table(") || line.contains("mem.take()") || line.contains(".take(Order(")
    });
    // Where a table is made it is for somebody, whose line it is; `TablesFrom` hands its on.
    let hands_on = |call: &String| ["walk.rs", "mem.rs"].iter().any(|file| call.contains(file));
    let missed = missed(&calls, &sites);
    assert!(missed.len() == 2 && missed.iter().all(hands_on), "nobody comes by {missed:?}");
    println!("{} places that ask for a table", calls.len() - missed.len());
}

/// Spaces, which no engine makes: without a frame for the root there is none, and nothing is lost.
fn spaces<A: Arch>() -> BTreeSet<Site> {
    Kernel::<A>::run(false, |kernel| {
        let (plan, tables) = (kernel.plan(), kernel.hardware.0.tables());
        plan.note_sites();
        let in_use = kernel.hardware.tables_in_use();
        plan.fail_nth(Step::AllocTable, 1);
        let refused = tables.new_space();
        assert_eq!(refused.map(drop).unwrap_err(), MapError::NoTable { at: Vpn(0) });
        assert_eq!(kernel.hardware.tables_in_use(), in_use);
        tables.new_space().unwrap().drop_space();
        assert_eq!(kernel.hardware.tables_in_use(), in_use);
        plan.sites()
    })
}
