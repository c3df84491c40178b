//! A kernel on the simulated machine, ready made: one frame allocator, and an engine for each of
//! several address spaces.
//!
//! ```text
//!             ┌ engine 0 ─ window in the kernel's half ─┐
//!   SimKernel ┼ engine 1 ─ window in space 1            ┼─ Backings ─ FaultyFrames ─ Buddy ─ RAM
//!             └ engine 2 ─ window in space 2            ┘
//! ```
//!
//! Frames and backings are one set for all, so an area of one engine can be attached to in the
//! window of another: the same frames at other pages. Two CPUs run in each space, so that a
//! translation that one of them kept after a purge shows.
//!
//! All words the engines need are made by [`SimKernel::run`] and live as long as the closure it
//! calls; nothing is leaked and nothing refers to itself. Windows begin three granules past a
//! gigabyte, so that alignment of addresses and alignment of offsets differ.

use crate::cpu::Cpu;
use crate::faults::FaultyFrames;
use crate::machine::{Config, Hardware, StaleHit};
use crate::space::AddressSpace;
use crate::tlb::TlbSize;
use std::fmt;
use std::sync::Arc;
use vmalloc_core::backing::Backings;
use vmalloc_core::class::GRANULE_PAGES;
use vmalloc_core::frames::{self, Buddy};
use vmalloc_core::platform::{Frames, Mapper};
use vmalloc_core::sync::AtomicU64;
use vmalloc_core::{
    Engine, Extent, Geometry, Kind, Owner, PageRange, Paged, Pages, Pfn, Tables, VerifyError, Vpn,
    engine, flags,
};

/// What the kernel's engines run on.
pub type SimMachine<'a> = Paged<'a, FaultyFrames<&'a Buddy<'a>>, AddressSpace>;

/// An engine of the kernel's.
pub type SimEngine<'a> = Engine<'a, SimMachine<'a>>;

/// CPUs that run in each space, where a configuration says nothing else.
pub const CPUS_PER_SPACE: usize = 2;

/// Where the kernel's half of the addresses begins.
const UPPER_HALF: Vpn = Vpn(0xf_fff8_0000_0000);
/// A gigabyte in the lower half.
const LOWER_HALF: Vpn = Vpn(0x4_0000);
/// Where a window begins past its gigabyte.
const SKEW: u64 = 3 * GRANULE_PAGES;

/// What kernel to build.
///
/// ```
/// # use vmalloc_sim::KernelConfig;
/// # use vmalloc_core::Pages;
/// let config = KernelConfig { frames: Pages(4096), spaces: 3, ..KernelConfig::default() };
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelConfig {
    /// How many frames there are, page tables' not among them.
    pub frames: Pages,
    /// The length of each window.
    pub window: Pages,
    /// How many NUMA nodes the frames are of, in parts of one size.
    pub nodes: usize,
    /// How many address spaces, each with an engine.
    pub spaces: usize,
    /// How many backings there can be: areas of all windows, parked ones too.
    pub backings: usize,
    /// See [`engine::Config::lazy_pages_max`].
    pub lazy_pages_max: Pages,
    /// The TLB of each CPU.
    pub tlb: TlbSize,
    /// See [`Config::direct_map`].
    pub direct_map: bool,
    /// See [`Config::device_frames`].
    pub device_frames: Pages,
    /// How many CPUs run in each space.
    pub cpus_per_space: usize,
    /// The length of a window beside the engines', for what maps by itself, such as
    /// [`vmalloc_core::map_ram`]: there are tables for it, too. See [`SimKernel::beside`].
    pub beside: Pages,
    /// Whether a frame that goes home while a TLB shows it is a panic. O(TLB entries) each.
    pub watches_frames: bool,
}

impl KernelConfig {
    /// 512 frames, two spaces with windows of 128 MiB, unlimited TLBs.
    pub const USUAL: KernelConfig = KernelConfig {
        frames: Pages(512),
        window: Pages(32 << 10),
        nodes: 1,
        spaces: 2,
        backings: 4096,
        lazy_pages_max: Pages(256),
        tlb: TlbSize::Unlimited,
        direct_map: false,
        device_frames: Pages(0),
        cpus_per_space: CPUS_PER_SPACE,
        beside: Pages(0),
        watches_frames: false,
    };
}

impl Default for KernelConfig {
    fn default() -> KernelConfig {
        KernelConfig::USUAL
    }
}

/// A kernel with its hardware. See the module's story in its source, `kernel.rs`.
pub struct SimKernel<'a> {
    hardware: Arc<Hardware>,
    frames: &'a Buddy<'a>,
    backings: Backings<'a>,
    spaces: Vec<SimSpace<'a>>,
    beside: Pages,
}

/// An address space and the engine of its window.
struct SimSpace<'a> {
    space: AddressSpace,
    engine: SimEngine<'a>,
}

impl SimKernel<'_> {
    /// Builds a kernel, gives it to `body`, and takes it down again.
    ///
    /// ```
    /// # use vmalloc_sim::{KernelConfig, SimKernel};
    /// # use vmalloc_core::Request;
    /// SimKernel::run(KernelConfig::default(), |kernel| {
    ///     let area = kernel.engine(0).vzalloc(&Request::bytes(10_000)).unwrap();
    ///     kernel.cpu(0).store(area.addr(), 7).unwrap();
    ///     let _ = kernel.engine(0).vfree(area.addr()).unwrap();
    ///     assert_eq!(kernel.verify(), Ok(()));
    /// });
    /// ```
    ///
    /// # Panics
    ///
    /// If `config` is one that no kernel can have: no frame, no space, a window of less than a
    /// granule.
    pub fn run<R>(config: KernelConfig, body: impl FnOnce(&SimKernel<'_>) -> R) -> R {
        let hardware = hardware(&config);
        let data = hardware.ram().data_frames();
        let geometry = Geometry::for_window(config.window);
        let frame_words = words(Buddy::words_needed(data.len));
        let backing_words = words(Backings::words_needed(config.backings));
        let table_words: Vec<_> = (0..config.spaces).map(|_| words(geometry.words())).collect();

        let nodes = split(data, config.nodes);
        let buddy = Buddy::format(&frame_words, data.start, data.len).expect("a pool of frames");
        let buddy = buddy.with_nodes(&nodes);
        let backings = Backings::format(&backing_words, config.backings);
        let mut spaces = Vec::new();
        for (index, words) in table_words.iter().enumerate() {
            let tables = Tables::new(words, geometry).expect("words as many as asked for");
            spaces.push(SimSpace::new(&hardware, &buddy, backings, tables, index, &config));
        }
        let kernel = SimKernel {
            hardware: Arc::clone(&hardware),
            frames: &buddy,
            backings,
            spaces,
            beside: config.beside,
        };
        for cpu in 0..config.spaces * config.cpus_per_space {
            hardware.cpu(cpu).switch_to(kernel.space(cpu / config.cpus_per_space));
        }
        body(&kernel)
    }
}

impl<'a> SimKernel<'a> {
    /// The machine below.
    #[must_use]
    pub fn hardware(&self) -> &Arc<Hardware> {
        &self.hardware
    }

    /// The frame allocator, past the fault plan.
    #[must_use]
    pub fn frames(&self) -> &Buddy<'a> {
        self.frames
    }

    /// The backings of all engines.
    #[must_use]
    pub fn backings(&self) -> &Backings<'a> {
        &self.backings
    }

    /// How many spaces, and engines, there are.
    #[must_use]
    pub fn spaces(&self) -> usize {
        self.spaces.len()
    }

    /// The engine of space `index`. Engine 0 serves the kernel's half, which every space sees.
    ///
    /// # Panics
    ///
    /// If there is no such space; likewise below.
    #[must_use]
    pub fn engine(&self, index: usize) -> &SimEngine<'a> {
        &self.spaces[index].engine
    }

    /// Address space `index`.
    #[must_use]
    pub fn space(&self, index: usize) -> &AddressSpace {
        &self.spaces[index].space
    }

    /// CPU `index`; it runs in space `index / cpus_per_space`.
    #[must_use]
    pub fn cpu(&self, index: usize) -> Cpu<'_> {
        self.hardware.cpu(index)
    }

    /// The pages of window `index`.
    #[must_use]
    pub fn window(&self, index: usize) -> PageRange {
        PageRange { start: window_start(index), len: self.engine(index).geometry().pages() }
    }

    /// The window beside the engines', in the kernel's half: nobody's, and not prepared yet.
    #[must_use]
    pub fn beside(&self) -> PageRange {
        PageRange { start: Vpn(UPPER_HALF.0 + (1 << 26)), len: self.beside }
    }

    /// Frames that are not free.
    #[must_use]
    pub fn frames_in_use(&self) -> Pages {
        Pages(self.frames.total().0 - self.frames.free().0)
    }

    /// Purges every window.
    ///
    /// # Panics
    ///
    /// If a purge fails: nothing here lets it.
    pub fn purge(&self) {
        for space in &self.spaces {
            space.engine.purge().expect("a purge where waiting is allowed");
        }
    }

    /// Checks every engine, and what the machine knows besides: each frame has an owner that
    /// says so, no table leads or leaks anywhere it should not, no TLB shows a free frame, no
    /// CPU has used an old translation. Nobody else may be at work.
    ///
    /// # Errors
    ///
    /// [`Unsound`], the first that was found.
    pub fn verify(&self) -> Result<(), Unsound> {
        self.verify_with(Pages(0))
    }

    /// The same, where the caller itself has taken `borrowed` frames from [`SimKernel::frames`].
    ///
    /// # Errors
    ///
    /// [`Unsound`], the first that was found.
    pub fn verify_with(&self, borrowed: Pages) -> Result<(), Unsound> {
        for (index, space) in self.spaces.iter().enumerate() {
            space.engine.verify().map_err(|error| Unsound::Engine { index, error })?;
            self.verify_mappings(index)?;
        }
        self.frames.verify().map_err(Unsound::Frames)?;
        let records = self.backings.metadata_frames(self.space(0));
        let committed = (0..self.spaces()).map(|index| self.committed(index)).sum::<u64>();
        let owned = self.backings.owned_frames().0 + records.0 + borrowed.0 + committed;
        let owned = Pages(owned);
        if owned != self.frames_in_use() {
            return Err(Unsound::FrameCount { in_use: self.frames_in_use(), owned });
        }
        let (in_use, reachable) =
            (self.hardware.counters().tables_in_use, self.hardware.tables_reachable());
        if in_use != reachable {
            return Err(Unsound::TablesLeaked { in_use, reachable });
        }
        for run in self.free_runs() {
            let entries = self.hardware.tlb_entries_showing(run);
            if entries > 0 {
                return Err(Unsound::FreeFramesShown { run, entries });
            }
        }
        match self.hardware.first_stale_hit() {
            Some(hit) if self.hardware.stale_hits() > 0 => Err(Unsound::Stale(hit)),
            _ => Ok(()),
        }
    }

    /// Whether the pages that are mapped are those of the areas, and of nothing else.
    fn verify_mappings(&self, index: usize) -> Result<(), Unsound> {
        let mut from = self.window(index).start;
        let end = self.window(index).end();
        // An area that could not be flushed is parked unmapped; only it may show nothing.
        // A reservation may show nothing at any page.
        let is_hollow = |kind, bits| {
            kind == Kind::Parked && bits & flags::NO_REUSE != 0 || bits & flags::RESERVED != 0
        };
        for area in self.engine(index).areas() {
            self.verify_unmapped(index, from, area.pages.start)?;
            from = area.pages.end();
            let is_mapped = |page| self.space(index).translate(Vpn(page)).is_some();
            if !is_hollow(area.kind, area.flags)
                && let Some(page) = (area.pages.start.0..from.0).find(|&page| !is_mapped(page))
            {
                return Err(Unsound::AreaNotMapped { index, page: Vpn(page) });
            }
        }
        self.verify_unmapped(index, from, end)
    }

    /// Frames that were committed to reservations: the tables alone know of them.
    fn committed(&self, index: usize) -> u64 {
        let is_mapped = |page: &u64| self.space(index).translate(Vpn(*page)).is_some();
        let areas = self.engine(index).areas().filter(|area| area.flags & flags::COMMIT != 0);
        areas.map(|a| (a.pages.start.0..a.pages.end().0).filter(is_mapped).count() as u64).sum()
    }

    fn verify_unmapped(&self, index: usize, from: Vpn, end: Vpn) -> Result<(), Unsound> {
        let hole = PageRange { start: from, len: Pages(end.0 - from.0) };
        match self.space(index).first_mapped(hole) {
            Some((page, pfn)) => Err(Unsound::HoleMapped { index, page, pfn }),
            None => Ok(()),
        }
    }

    fn free_runs(&self) -> Vec<Extent> {
        let mut runs: Vec<Extent> = Vec::new();
        let all = self.frames.extent();
        for pfn in (all.start.0..all.end().0).map(Pfn).filter(|&pfn| self.frames.is_free(pfn)) {
            match runs.last_mut().filter(|run| run.end() == pfn) {
                Some(run) => run.len.0 += 1,
                None => runs.push(Extent { start: pfn, len: Pages(1) }),
            }
        }
        runs
    }
}

impl<'a> SimSpace<'a> {
    fn new(
        hardware: &Arc<Hardware>,
        frames: &'a Buddy<'a>,
        backings: Backings<'a>,
        tables: Tables<'a>,
        index: usize,
        config: &KernelConfig,
    ) -> SimSpace<'a> {
        let space = hardware.space().expect("a frame for the root");
        let mut faulty = FaultyFrames::new(frames, Arc::clone(hardware.faults()));
        if config.watches_frames {
            let hardware = Arc::clone(hardware);
            faulty = faulty.watched(Arc::new(move |run| {
                let entries = hardware.tlb_entries_showing(run);
                assert_eq!(entries, 0, "{run} goes home before its flush: TLB entries");
            }));
        }
        let machine = Paged::new(faulty, backings, space.clone());
        let config = engine::Config {
            window_start: window_start(index),
            owner: Owner::FIRST,
            lazy_pages_max: config.lazy_pages_max,
        };
        let engine = Engine::new(tables, machine, config).expect("a window of whole granules");
        engine.prepare().expect("frames for the window's upper tables");
        SimSpace { space, engine }
    }
}

/// `frames` in `parts` runs, the last one the longest.
fn split(frames: Extent, parts: usize) -> Vec<Extent> {
    let len = frames.len.0 / parts as u64;
    let start = |part: usize| Pfn(frames.start.0 + part as u64 * len);
    let end = |part: usize| if part + 1 == parts { frames.end() } else { start(part + 1) };
    let node = |part| Extent { start: start(part), len: Pages(end(part).0 - start(part).0) };
    (0..parts).map(node).collect()
}

/// Windows of the lower half lie at different pages of their spaces, too.
fn window_start(index: usize) -> Vpn {
    let base = if index == 0 { UPPER_HALF } else { LOWER_HALF };
    Vpn(base.0 + SKEW + index as u64 * (1 << 18))
}

/// Enough table frames for every page of every window to be mapped.
fn hardware(config: &KernelConfig) -> Arc<Hardware> {
    let leaves = config.window.0.div_ceil(512) + 2;
    let beside = config.beside.0.div_ceil(512) + 2;
    let tables = (leaves + leaves.div_ceil(512) + 8) * config.spaces as u64 + beside + 8;
    let tables = tables + if config.direct_map { config.frames.0.div_ceil(512) + 4 } else { 0 };
    Hardware::new(Config {
        frames: config.frames,
        table_frames: Pages(tables),
        cpus: config.spaces * config.cpus_per_space,
        tlb: config.tlb,
        direct_map: config.direct_map,
        device_frames: config.device_frames,
        ..Config::default()
    })
}

fn words(len: usize) -> Vec<AtomicU64> {
    (0..len).map(|_| AtomicU64::new(0)).collect()
}

/// What [`SimKernel::verify`] found to be wrong.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Unsound {
    /// An engine's tables break an invariant.
    Engine {
        /// Which engine.
        index: usize,
        /// What it says.
        error: VerifyError,
    },
    /// The frame allocator's words do not agree with each other.
    Frames(frames::VerifyError),
    /// Frames leaked, or have two owners.
    FrameCount {
        /// How many the allocator has given out.
        in_use: Pages,
        /// How many the backings own and use for their records.
        owned: Pages,
    },
    /// Page tables that no root leads to.
    TablesLeaked {
        /// How many are in use.
        in_use: Pages,
        /// How many the roots lead to.
        reachable: Pages,
    },
    /// A TLB shows frames that are free: they came home before their shootdown.
    FreeFramesShown {
        /// The frames.
        run: Extent,
        /// How many TLB entries show one of them.
        entries: u64,
    },
    /// A page that belongs to no area shows a frame.
    HoleMapped {
        /// Which window.
        index: usize,
        /// The page.
        page: Vpn,
        /// What it shows.
        pfn: Pfn,
    },
    /// A page of an area shows nothing.
    AreaNotMapped {
        /// Which window.
        index: usize,
        /// The page.
        page: Vpn,
    },
    /// A CPU used a translation that the tables no longer contained.
    Stale(StaleHit),
}

impl fmt::Display for Unsound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine { index, error } => write!(f, "engine {index}: {error}"),
            Self::Frames(error) => write!(f, "frames: {error}"),
            Self::FrameCount { in_use, owned } => {
                write!(f, "{in_use} frames are in use, {owned} have an owner")
            }
            Self::TablesLeaked { in_use, reachable } => {
                write!(f, "{in_use} hold page tables, {reachable} are reachable")
            }
            Self::FreeFramesShown { run, entries } => {
                write!(f, "{run} is free, and {entries} TLB entries show it")
            }
            Self::HoleMapped { index, page, pfn } => {
                write!(f, "window {index}: {page} belongs to no area and shows {pfn}")
            }
            Self::AreaNotMapped { index, page } => {
                write!(f, "window {index}: {page} of an area shows nothing")
            }
            Self::Stale(hit) => write!(f, "{hit}"),
        }
    }
}

impl std::error::Error for Unsound {}
