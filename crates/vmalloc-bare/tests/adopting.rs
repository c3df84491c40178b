//! The whole glue of a kernel: what `docs/adopting.md` walks through. Simulated RAM stands for the
//! direct map, which on a real machine is `DirectMap`, and no CPU is there to interrupt.

use vmalloc_bare::{Cpus, Hardware, Ipi, PageTables, SpinLock, TableMem, What, X86_64};
use vmalloc_core::backing::Backings;
use vmalloc_core::frames::Buddy;
use vmalloc_core::platform::{FRAME_WORDS, Frames, Ram};
use vmalloc_core::sync::AtomicU64;
use vmalloc_core::{
    Config, Engine, Extent, Geometry, Order, Owner, Paged, Pages, Pfn, Request, Tables, Vpn,
};
use vmalloc_sim::SimRam;

/// Frames 16 to 1039 are RAM: the first 64 for page tables, the others for areas.
const TABLES: Extent = Extent { start: Pfn(16), len: Pages(64) };
const POOL: Extent = Extent { start: Pfn(80), len: Pages(960) };
/// 128 MiB of addresses.
const WINDOW: Vpn = Vpn(0xf_fffc_9000_0000);
const WINDOW_LEN: Pages = Pages(32 << 10);

// 1. RAM: how a frame is reached, and where frames for page tables come from.
struct ToyRam<'k> {
    ram: &'k SimRam,
    tables: &'k Buddy<'k>,
}

impl Ram for ToyRam<'_> {
    fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        self.ram.frame(pfn).expect("RAM")
    }

    fn zero(&self, run: Extent) {
        self.ram.zero(run);
    }
}

impl TableMem for ToyRam<'_> {
    fn table(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        self.words(pfn)
    }

    fn take(&self) -> Option<Pfn> {
        self.tables.take(Order(0)).ok()
    }

    fn give(&self, pfn: Pfn) {
        self.tables.give(Extent { start: pfn, len: Pages(1) });
    }
}

// 2. CPUs: who they are, how to interrupt them, and where waiting is allowed.
struct ToyCpus;

impl Cpus for ToyCpus {
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

/// On x86_64 this is `vmalloc_bare::tlb::flush_here`.
fn forget(_: What<'_>) {}

static SHOOTDOWN: Ipi<ToyCpus, SpinLock> = Ipi::new(ToyCpus, SpinLock::new(), forget);

/// Goal: what the guide shows is all that a kernel needs.
#[test]
fn toy_kernel_allocates_frees_and_purges() {
    // 3. Words for the engine's tables: from the boot allocator, zeroed. No heap is needed.
    let words = |len: usize| (0..len).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let geometry = Geometry::for_window(WINDOW_LEN);
    let (tables_bits, pool_bits) =
        (words(Buddy::words_needed(TABLES.len)), words(Buddy::words_needed(POOL.len)));
    let (backing_words, window_words) =
        (words(Backings::words_needed(1024)), words(geometry.words()));

    let ram = SimRam::new(TABLES.start, Pages(TABLES.len.0 + POOL.len.0), Pages(0));
    let tables = Buddy::format(&tables_bits, TABLES.start, TABLES.len).unwrap();
    let pool = Buddy::format(&pool_bits, POOL.start, POOL.len).unwrap();

    // 4. Put together: page tables, shootdown, frames, window.
    let page_tables = PageTables::<X86_64, _>::new(ToyRam { ram: &ram, tables: &tables }).unwrap();
    let hardware = Hardware::new(page_tables, &SHOOTDOWN);
    let machine = Paged::new(&pool, Backings::format(&backing_words, 1024), hardware);
    let config = Config { window_start: WINDOW, owner: Owner::FIRST, lazy_pages_max: Pages(8192) };
    let engine =
        Engine::new(Tables::new(&window_words, geometry).unwrap(), machine, config).unwrap();
    engine.prepare().unwrap();

    // 5. Use.
    let area = engine.vzalloc(&Request::bytes(100_000)).unwrap();
    assert_eq!(area.pages.len, Pages(25));
    assert!(engine.vmalloc_to_pfn(area.addr()).is_some());
    let freed = engine.vfree(area.addr()).unwrap();
    if freed.over_limit {
        engine.relieve().unwrap();
    }
    engine.purge().unwrap();
    assert_eq!(pool.free(), POOL.len);
    engine.verify().unwrap();
}
