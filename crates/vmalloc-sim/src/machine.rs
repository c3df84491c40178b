//! The machine: RAM, CPUs, tables, the fault plan and the meters, in one [`Hardware`].
//!
//! ```text
//!   Hardware ─┬─ SimRam          data frames, table frames
//!             ├─ Tables          one kernel half, a lower half a space
//!             ├─ Core 0..cpus    current space + TLB, each under its own lock
//!             ├─ FaultPlan       shared with FaultyFrames
//!             └─ meters          hits, misses, stale hits, shootdowns
//! ```
//!
//! A CPU's lock is held for a whole access, from the TLB look-up to the word in RAM, as an
//! instruction completes before the interrupt that asks for a flush is taken. So when
//! `flush_all_cpus` returns, no access still runs on an old translation, and none can put one
//! back into a TLB.
//!
//! Lock order: a CPU, then the first stale hit. The lock of the tables is never held together
//! with a CPU's.

use crate::cpu::Cpu;
use crate::faults::FaultPlan;
use crate::mmu::Translation;
use crate::ram::SimRam;
use crate::space::AddressSpace;
use crate::tables::{Root, Tables};
use crate::tlb::{Cached, Entries, SpaceId, Tag, TlbSize};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use vmalloc_core::platform::MapError;
use vmalloc_core::{Extent, PageRange, Pages, Pfn, Prot, VirtAddr, Vpn};

/// What to build.
///
/// ```
/// # use vmalloc_sim::{Config, TlbSize};
/// let config = Config { cpus: 4, tlb: TlbSize::DirectMapped(64), ..Config::default() };
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The number of the first frame.
    pub first: Pfn,
    /// How many frames an engine can have.
    pub frames: Pages,
    /// How many frames there are for page tables, beside those.
    pub table_frames: Pages,
    /// How many CPUs.
    pub cpus: usize,
    /// The TLB of each.
    pub tlb: TlbSize,
    /// Whether a CPU keeps a space's entries while another space is current (process-context
    /// identifiers). Without, a switch drops all but the global ones.
    pub pcid: bool,
    /// Whether a CPU remembers that a page was not mapped until somebody publishes it, as RISC-V
    /// allows and x86_64 does not. Shows a missing `publish`.
    pub remembers_invalid: bool,
    /// Whether the kernel's half shows every data frame, as a kernel's direct map does, writable
    /// and in huge leaves where they fit. The engine can then protect frames there, too.
    pub direct_map: bool,
    /// How many frames of a device's registers lie behind the RAM.
    pub device_frames: Pages,
}

/// Where the direct map shows frame 0.
const DIRECT: Vpn = Vpn(0xf_fffc_0000_0000);

impl Default for Config {
    /// 1,024 frames from 0x100 on, 64 for tables, two CPUs with unlimited TLBs, x86_64 without
    /// PCID.
    fn default() -> Config {
        Config {
            first: Pfn(0x100),
            frames: Pages(1024),
            table_frames: Pages(64),
            cpus: 2,
            tlb: TlbSize::Unlimited,
            pcid: false,
            remembers_invalid: false,
            direct_map: false,
            device_frames: Pages(0),
        }
    }
}

/// One simulated machine. Serves any number of address spaces and threads.
pub struct Hardware {
    // Constant after construction.
    config: Config,
    pub(crate) ram: Arc<SimRam>,
    faults: Arc<FaultPlan>,
    pub(crate) tables: Tables,
    // Written by each CPU's accesses, switches and flushes.
    pub(crate) cores: Vec<Mutex<Core>>,
    // Written by whoever counts, read at any time.
    pub(crate) meters: Meters,
    first_stale_hit: Mutex<Option<StaleHit>>,
    next_space: AtomicU64,
    // Written by the test.
    omits_shootdown: AtomicBool,
    may_wait: AtomicBool,
    interrupts_off: Mutex<HashMap<ThreadId, u64>>,
    pinned: Mutex<HashMap<ThreadId, usize>>,
}

/// A CPU's own state.
pub(crate) struct Core {
    pub(crate) root: Root,
    pub(crate) tlb: Entries,
}

#[derive(Default)]
pub(crate) struct Meters {
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) stale_hits: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) local_flushes: AtomicU64,
    pub(crate) flushed_ranges: AtomicU64,
    pub(crate) flushed_pages: AtomicU64,
    pub(crate) publishes: AtomicU64,
    pub(crate) waits: AtomicU64,
}

/// What the machine has counted since it was built. A snapshot; fields may lag behind each other
/// while threads run.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Accesses that found their page in the TLB.
    pub tlb_hits: u64,
    /// Accesses that had to walk the tables.
    pub tlb_misses: u64,
    /// Hits on an entry that the tables no longer contain: another frame, other rights, or
    /// nothing. On the real path each is a bug.
    pub stale_hits: u64,
    /// Entries that went because a TLB was full.
    pub tlb_evictions: u64,
    /// Calls of `flush_all_cpus`, the omitted ones included.
    pub flushes: u64,
    /// Calls of `flush_local` by a thread that runs on one CPU, the omitted ones included.
    pub local_flushes: u64,
    /// Ranges in those calls.
    pub flushed_ranges: u64,
    /// Pages in those ranges.
    pub flushed_pages: Pages,
    /// Calls of `publish`.
    pub publishes: u64,
    /// Calls of `wait_for_others`: turns that requests which must not fail have waited.
    pub waits: u64,
    /// Frames that hold page tables now, roots included.
    pub tables_in_use: Pages,
    /// Walks that map and unmap calls have made from a root to a leaf table.
    pub mapper_walks: u64,
}

/// An access that used a translation which the tables no longer contained.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StaleHit {
    /// The CPU.
    pub cpu: usize,
    /// The address of the access.
    pub va: VirtAddr,
    /// What the TLB said; `None`: that the page is not mapped.
    pub used: Option<Translation>,
    /// What the tables said at that moment.
    pub tables: Option<Translation>,
}

impl Hardware {
    /// Builds a machine. All CPUs run on the kernel's own tables, which are empty.
    ///
    /// # Panics
    ///
    /// If `config` has no CPU, no table frame, or a TLB without slots.
    #[must_use]
    pub fn new(config: Config) -> Arc<Hardware> {
        assert!(config.cpus > 0, "a machine needs a CPU");
        let Config { first, frames, table_frames, device_frames, .. } = config;
        let ram = Arc::new(SimRam::with_device(first, frames, table_frames, device_frames));
        let faults = Arc::new(FaultPlan::new());
        let tables = Tables::new(Arc::clone(&ram), Arc::clone(&faults));
        let root = tables.kernel_root();
        if config.direct_map {
            let (data, prot) = (ram.data_frames(), Prot::READ_WRITE);
            let all = PageRange { start: direct(data.start), len: data.len };
            tables.prepare(root, all).expect("frames for the direct map's tables");
            tables.map_run(root, all.start, data, prot).expect("and for those below");
        }
        let core = |_| Mutex::new(Core { root, tlb: Entries::new(config.tlb) });
        Arc::new(Hardware {
            config,
            ram,
            faults,
            tables,
            cores: (0..config.cpus).map(core).collect(),
            meters: Meters::default(),
            first_stale_hit: Mutex::new(None),
            next_space: AtomicU64::new(root.id.0 + 1),
            omits_shootdown: AtomicBool::new(false),
            may_wait: AtomicBool::new(true),
            interrupts_off: Mutex::new(HashMap::new()),
            pinned: Mutex::new(HashMap::new()),
        })
    }

    /// What this machine was built from.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config
    }

    /// The RAM, as the bus sees it.
    #[must_use]
    pub fn ram(&self) -> &SimRam {
        &self.ram
    }

    /// The plan that decides which steps fail; also for [`crate::FaultyFrames::new`].
    #[must_use]
    pub fn faults(&self) -> &Arc<FaultPlan> {
        &self.faults
    }

    /// A new address space: the kernel's half as it is and will be, and an empty lower half.
    ///
    /// # Errors
    ///
    /// [`MapError::NoTable`]: no frame for the root.
    pub fn space(self: &Arc<Hardware>) -> Result<AddressSpace, MapError> {
        let pfn = self.tables.new_root()?;
        let id = SpaceId(self.next_space.fetch_add(1, Ordering::AcqRel));
        Ok(AddressSpace::new(Arc::clone(self), Root { id, pfn }))
    }

    /// CPU `index`, for loads and stores. Several threads may drive one CPU; they take turns.
    ///
    /// # Panics
    ///
    /// If there is no such CPU.
    #[must_use]
    pub fn cpu(&self, index: usize) -> Cpu<'_> {
        assert!(index < self.cores.len(), "no CPU {index}; there are {}", self.cores.len());
        Cpu::new(self, index)
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let get = |meter: &AtomicU64| meter.load(Ordering::Acquire);
        let meters = &self.meters;
        Counters {
            tlb_hits: get(&meters.hits),
            tlb_misses: get(&meters.misses),
            stale_hits: get(&meters.stale_hits),
            tlb_evictions: get(&meters.evictions),
            flushes: get(&meters.flushes),
            local_flushes: get(&meters.local_flushes),
            flushed_ranges: get(&meters.flushed_ranges),
            flushed_pages: Pages(get(&meters.flushed_pages)),
            publishes: get(&meters.publishes),
            waits: get(&meters.waits),
            tables_in_use: self.tables.in_use(),
            mapper_walks: self.tables.walks(),
        }
    }

    /// [`Counters::stale_hits`]: zero after any run of a correct engine.
    #[must_use]
    pub fn stale_hits(&self) -> u64 {
        self.meters.stale_hits.load(Ordering::Acquire)
    }

    /// The first stale hit of this machine's life, for the message of a failing test.
    #[must_use]
    pub fn first_stale_hit(&self) -> Option<StaleHit> {
        *lock(&self.first_stale_hit)
    }

    /// How many entries, in all TLBs, still show a frame of `run`, the direct map's not among them. A frame that reaches a new
    /// owner while this is not zero was handed out before its shootdown, whether or not any
    /// access ever shows it. O(TLB entries).
    #[must_use]
    pub fn tlb_entries_showing(&self, run: Extent) -> u64 {
        // The direct map shows a frame whoever owns it.
        let shows = |page, cached| match cached {
            Cached::Valid(found) => {
                (run.start..run.end()).contains(&found.pfn) && page != direct(found.pfn)
            }
            Cached::Invalid => false,
        };
        self.cores.iter().map(|core| lock(core).tlb.count(shows)).sum()
    }

    /// How many tables the roots lead to, roots included. Differs from
    /// [`Counters::tables_in_use`] only if a table was leaked. O(tables).
    #[must_use]
    pub fn tables_reachable(&self) -> Pages {
        self.tables.reachable()
    }

    /// Makes every later flush, of all CPUs or of one, count but drop nothing: the bug that a simulated machine
    /// is there to show.
    pub fn omit_shootdown(&self, omits: bool) {
        self.omits_shootdown.store(omits, Ordering::Release);
    }

    /// Whether code on this machine may wait for other CPUs, where no [`InterruptsOff`] says
    /// otherwise. True at first.
    pub fn set_may_wait(&self, may_wait: bool) {
        self.may_wait.store(may_wait, Ordering::Release);
    }

    /// This thread may not wait for other CPUs until the guard goes. Nests. Linux:
    /// `local_irq_save`.
    pub fn interrupts_off(&self) -> InterruptsOff<'_> {
        *lock(&self.interrupts_off).entry(thread::current().id()).or_default() += 1;
        InterruptsOff { hardware: self, not_send: PhantomData }
    }

    /// This thread is what runs on CPU `index` until the guard goes: that CPU is the current one of
    /// its local flushes. Linux: `migrate_disable`.
    ///
    /// # Panics
    ///
    /// If there is no such CPU, or the thread runs on one already.
    pub fn run_on(&self, index: usize) -> RunsOn<'_> {
        assert!(index < self.cores.len(), "no CPU {index}; there are {}", self.cores.len());
        let (mut pinned, thread) = (lock(&self.pinned), thread::current().id());
        assert!(!pinned.contains_key(&thread), "the thread runs on a CPU already");
        pinned.insert(thread, index);
        RunsOn { hardware: self, not_send: PhantomData }
    }

    pub(crate) fn may_wait(&self) -> bool {
        self.may_wait.load(Ordering::Acquire)
            && !lock(&self.interrupts_off).contains_key(&thread::current().id())
    }

    /// Drops, from every TLB, what `is_doomed` names among the entries of `ranges`.
    pub(crate) fn flush(&self, ranges: &[PageRange], is_doomed: impl Fn(Vpn, Tag) -> bool) {
        assert!(self.may_wait(), "a shootdown where waiting for other CPUs is forbidden");
        let pages = ranges.iter().map(|range| range.len.0).sum();
        self.meters.flushes.fetch_add(1, Ordering::AcqRel);
        self.meters.flushed_ranges.fetch_add(ranges.len() as u64, Ordering::AcqRel);
        self.meters.flushed_pages.fetch_add(pages, Ordering::AcqRel);
        if self.omits_shootdown.load(Ordering::Acquire) {
            return;
        }
        for core in &self.cores {
            let tlb = &mut lock(core).tlb;
            for &range in ranges {
                tlb.drop_where(Some(range), |page, tag, _| is_doomed(page, tag));
            }
        }
    }

    /// The same for one range, from the TLB of the CPU that this thread runs on; from all, if it
    /// runs on none.
    pub(crate) fn flush_local(&self, at: PageRange, is_doomed: impl Fn(Vpn, Tag) -> bool) {
        let Some(cpu) = lock(&self.pinned).get(&thread::current().id()).copied() else {
            return self.flush(&[at], is_doomed);
        };
        self.meters.local_flushes.fetch_add(1, Ordering::AcqRel);
        if !self.omits_shootdown.load(Ordering::Acquire) {
            lock(&self.cores[cpu]).tlb.drop_where(Some(at), |page, tag, _| is_doomed(page, tag));
        }
    }

    /// Where the direct map shows `run`.
    pub(crate) fn direct(&self, run: Extent) -> Option<PageRange> {
        let data = self.ram.data_frames();
        let is_shown = self.config.direct_map && run.start >= data.start && run.end() <= data.end();
        is_shown.then_some(PageRange { start: direct(run.start), len: run.len })
    }

    pub(crate) fn report_stale(&self, hit: StaleHit) {
        self.meters.stale_hits.fetch_add(1, Ordering::AcqRel);
        lock(&self.first_stale_hit).get_or_insert(hit);
    }
}

/// While it lives, `may_wait` is false for the thread that made it. See
/// [`Hardware::interrupts_off`].
#[must_use = "interrupts are on again once this is dropped"]
pub struct InterruptsOff<'a> {
    hardware: &'a Hardware,
    // It speaks of one thread, so it stays there.
    not_send: PhantomData<*const ()>,
}

impl Drop for InterruptsOff<'_> {
    fn drop(&mut self) {
        let mut depths = lock(&self.hardware.interrupts_off);
        let thread = thread::current().id();
        let depth = depths.get_mut(&thread).expect("made on this thread");
        *depth -= 1;
        if *depth == 0 {
            depths.remove(&thread);
        }
    }
}

/// While it lives, the thread that made it runs on one CPU. See [`Hardware::run_on`].
#[must_use = "the thread runs on no CPU in particular once this is dropped"]
pub struct RunsOn<'a> {
    hardware: &'a Hardware,
    not_send: PhantomData<*const ()>,
}

impl Drop for RunsOn<'_> {
    fn drop(&mut self) {
        lock(&self.hardware.pinned).remove(&thread::current().id());
    }
}

fn direct(pfn: Pfn) -> Vpn {
    Vpn(DIRECT.0 + pfn.0)
}

/// Takes `mutex`, poisoned or not: nothing here is left half changed by a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Display for StaleHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |t: Option<Translation>| t.map_or("nothing".into(), |t| t.pfn.to_string());
        let (used, tables) = (name(self.used), name(self.tables));
        write!(f, "CPU {} at {}: its TLB shows {used}, the tables {tables}", self.cpu, self.va)
    }
}
