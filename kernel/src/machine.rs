//! What the kernel has: RAM, split up once; page tables; engines over windows.
//!
//! ```text
//!   RAM: kernel image │ heap 64 MiB │ page tables 8 MiB │ pool: the frames of areas │ carve-out 64 KiB
//!   upper half: window 0 │ window 1 │ …   512 GiB apart, so each has a root entry of its own
//! ```
//!
//! The carve-out is no RAM to anybody: it stands for a device's memory. Linux: `memmap=64K$…`.

use crate::arch::{self, Format};
use crate::heap;
use core::sync::atomic::{AtomicU64 as Word, AtomicUsize, Ordering};
use vmalloc_bare::{DirectMap, Hardware, PageTables, Shootdown, TableMem, What};
use vmalloc_core::backing::Backings;
use vmalloc_core::frames::Buddy;
use vmalloc_core::platform::{FRAME_WORDS, Mapper, Ram};
use vmalloc_core::sync::AtomicU64;
use vmalloc_core::{
    Config, Engine, Extent, Geometry, Owner, PageRange, Paged, Pages, Pfn, Tables, Vpn,
};

const HEAP_BYTES: u64 = 64 << 20;
const TABLES: Pages = Pages(2048);
const CARVE_OUT: Pages = Pages(16);
/// Windows that can be there at once; each begins at a root entry of its own.
pub const WINDOWS: usize = 4;

static POOL_START: Word = Word::new(0);
static POOL_LEN: Word = Word::new(0);
static RAM_END: Word = Word::new(0);
static TABLES_START: Word = Word::new(0);
static TABLES_TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Frames of page tables that are taken: a bit each.
static TABLE_BITS: [Word; TABLES.0 as usize / 64] =
    [const { Word::new(0) }; TABLES.0 as usize / 64];

/// RAM and page tables, as `vmalloc-bare` wants them.
#[derive(Clone, Copy)]
pub struct Mem {
    direct: DirectMap,
}

impl Mem {
    /// All RAM, identity-mapped.
    pub fn new() -> Mem {
        let (start, end) = (arch::RAM_START >> 12, RAM_END.load(Ordering::Relaxed) >> 12);
        let frames = Extent { start: Pfn(start), len: Pages(end - start) };
        Mem { direct: arch::identity_map(frames) }
    }
}

impl TableMem for Mem {
    fn table(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        self.direct.words(pfn)
    }

    fn take(&self) -> Option<Pfn> {
        for (i, word) in TABLE_BITS.iter().enumerate() {
            let mut now = word.load(Ordering::Relaxed);
            while now != u64::MAX {
                let bit = now.trailing_ones();
                match word.compare_exchange(
                    now,
                    now | 1 << bit,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        TABLES_TAKEN.fetch_add(1, Ordering::Relaxed);
                        let index = i as u64 * 64 + u64::from(bit);
                        return Some(Pfn(TABLES_START.load(Ordering::Relaxed) + index));
                    }
                    Err(other) => now = other,
                }
            }
        }
        None
    }

    fn give(&self, pfn: Pfn) {
        let index = pfn.0 - TABLES_START.load(Ordering::Relaxed);
        let was = TABLE_BITS[index as usize / 64].fetch_and(!(1 << (index % 64)), Ordering::AcqRel);
        assert!(was >> (index % 64) & 1 == 1, "{pfn} was no table");
        TABLES_TAKEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ram for Mem {
    fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        self.direct.words(pfn)
    }

    fn zero(&self, run: Extent) {
        self.direct.zero(run);
    }

    fn ram_in(&self, run: Extent) -> Pages {
        self.direct.ram_in(run)
    }
}

/// The kernel's shootdown, counted.
#[derive(Clone, Copy)]
pub struct Flusher;

impl Shootdown for Flusher {
    fn publish(&self, at: PageRange) {
        arch::SHOOTDOWN.publish(at);
    }

    fn flush_all(&self, what: What<'_>) {
        SHOOTDOWNS.fetch_add(1, Ordering::Relaxed);
        arch::SHOOTDOWN.flush_all(what);
    }

    fn flush_local(&self, at: PageRange) {
        arch::SHOOTDOWN.flush_local(at);
    }

    fn may_wait(&self) -> bool {
        arch::SHOOTDOWN.may_wait()
    }
}

/// Shootdowns so far.
pub static SHOOTDOWNS: Word = Word::new(0);

/// The hardware under an engine.
pub type Mmu = Hardware<Format, Mem, Flusher>;
/// An engine of this kernel.
pub type KernelEngine<'a> = Engine<'a, Paged<'a, &'a Buddy<'a>, Mmu>>;

/// The kernel's half of the page tables.
pub fn mmu() -> Mmu {
    Hardware::new(PageTables::over(arch::window_root(), Mem::new()), Flusher)
}

/// Tables in use.
pub fn tables_in_use() -> usize {
    TABLES_TAKEN.load(Ordering::Relaxed)
}

/// The frames that areas may be made of.
pub fn pool() -> Extent {
    Extent {
        start: Pfn(POOL_START.load(Ordering::Relaxed)),
        len: Pages(POOL_LEN.load(Ordering::Relaxed)),
    }
}

/// Frames that the direct map does not show.
pub fn carve_out() -> Extent {
    Extent { start: Pfn(RAM_END.load(Ordering::Relaxed) >> 12), len: CARVE_OUT }
}

/// Splits RAM, and prepares the windows' root entries.
pub fn start() {
    let (image_end, all_end) = arch::ram();
    let ram_end = (all_end & !0xfff) - CARVE_OUT.bytes();
    RAM_END.store(ram_end, Ordering::Relaxed);
    let heap_start = image_end.next_multiple_of(2 << 20);
    heap::start(heap_start as usize, HEAP_BYTES as usize);
    let tables = (heap_start + HEAP_BYTES) >> 12;
    TABLES_START.store(tables, Ordering::Relaxed);
    POOL_START.store(tables + TABLES.0, Ordering::Relaxed);
    POOL_LEN.store((ram_end >> 12) - tables - TABLES.0, Ordering::Relaxed);
    crate::smp::this_cpu_is_up();
    arch::interrupts_on();
    for window in 0..WINDOWS {
        mmu().prepare(window_of(window)).expect("frames for the windows' upper tables");
    }
    crate::console::println!("pool: {}; windows from {}", pool(), window_of(0).start.addr());
}

/// All the pages that window `index` may have: 512 GiB, but for a skew that tells alignment of
/// addresses and alignment of offsets apart.
pub fn window_of(index: usize) -> PageRange {
    let start = arch::WINDOWS_START.0 + ((index as u64) << 27) + 3 * 128;
    PageRange { start: Vpn(start), len: Pages(1 << 26) }
}

/// What an engine is made over.
pub struct Parts<'a> {
    /// The frames.
    pub buddy: &'a Buddy<'a>,
    /// The backings of all engines over them.
    pub backings: Backings<'a>,
}

/// An engine over window `index`.
pub fn engine<'a>(
    parts: &Parts<'a>,
    words: &'a [AtomicU64],
    index: usize,
    window: Pages,
    lazy_pages_max: Pages,
) -> KernelEngine<'a> {
    let geometry = Geometry::for_window(window);
    let tables = Tables::new(words, geometry).expect("words as many as asked for");
    let machine = Paged::new(parts.buddy, parts.backings, mmu());
    let config =
        Config { window_start: window_of(index).start, owner: Owner::FIRST, lazy_pages_max };
    Engine::new(tables, machine, config).expect("a window of whole granules")
}

/// A user's address space: the kernel's upper half, its identity map, and a lower half of its own.
pub struct UserSpace {
    /// Its tables.
    pub mmu: Mmu,
}

impl UserSpace {
    /// An empty one.
    pub fn new() -> UserSpace {
        let kernel = PageTables::<Format, Mem>::over(arch::kernel_root(), Mem::new());
        let tables = kernel.new_space().expect("a frame for the root");
        let (ours, theirs) =
            (Mem::new().words(kernel.root())[0].load(Ordering::Acquire), Mem::new());
        theirs.words(tables.root())[0].store(ours, Ordering::Release);
        UserSpace { mmu: Hardware::new(tables, Flusher) }
    }

    /// Its tables once more, for a mapping that is shown there.
    pub fn hardware(&self) -> Mmu {
        Hardware::new(PageTables::over(self.mmu.tables().root(), Mem::new()), Flusher)
    }

    /// Runs user code there; see [`arch::run_user`].
    pub fn run(&self, code: u64, from: u64, to: u64, value: u64) -> arch::UserExit {
        arch::switch_to(self.mmu.tables().root());
        let exit = arch::run_user(code, from, to, value);
        arch::switch_to(arch::kernel_root());
        exit
    }

    /// Sends its tables home, but not those of the identity map.
    pub fn drop(self) {
        let tables = self.mmu.into_tables();
        Mem::new().words(tables.root())[0].store(0, Ordering::Release);
        arch::SHOOTDOWN.flush_all(What::Everything);
        tables.drop_space();
    }
}
