//! The demo on a simulated machine: the same story with page tables and TLBs in the open.
//!
//! ```text
//!   kernel's half, space 0      frames 7 3 9 …       ┌ process 1: other pages, same frames
//!   vmalloc ─▶ pages 0xffff…  ═══════════════════════╪ process 2: other pages, same frames
//!   CPUs 0, 1                                        └ CPUs 2, 3 · 4, 5, each with its own TLB
//! ```
//!
//! Member 0 is the kernel, the others are processes with address spaces and windows of their own.
//! The TLBs keep what they have seen until they are flushed, so a shootdown that came too late
//! would be counted as a stale hit; [`super::stale`] leaves one out on purpose.

use super::member::{part, part_key};
use super::summary::{self, Block, Contiguous, Fill, Frames, Summary, Tlb};
use super::tell::{Tell, areas_lines, check, told};
use super::{Setup, pattern, stale};
use crate::failure::{Done, Failure};
use crate::info::StatsJson;
use crate::show::{count, count_of, thousands};
use crate::size::Size;
use std::ops::Range;
use vmalloc_core::{Area, PAGE_SIZE, Pages, Prot, Publish, Request, Token, VirtAddr};
use vmalloc_sim::{CPUS_PER_SPACE, Counters, Fault, KernelConfig, SimKernel};

/// A frame lists about this many runs, where an area has too many of them for its record.
const RUNS_IN_FRAME: u64 = 256;

/// The window, in pools.
const WINDOW_RATIO: u64 = 4;

/// The number of the block among the patterns: no area's.
const BLOCK: u64 = u64::MAX - 1;

/// Bytes that a CPU copies at a time.
const PIECE_BYTES: usize = 64 << 10;

/// The kernel, and what the first member holds of its memory.
struct Stage<'a, 'k> {
    setup: &'a Setup,
    tell: &'a mut Tell,
    kernel: &'a SimKernel<'k>,
    /// The areas by their place in the plan; `None`: freed.
    areas: Vec<Option<Area>>,
    in_use_full: Pages,
}

/// The block, as a member sees it.
#[derive(Clone, Copy)]
struct Mapped {
    space: usize,
    at: VirtAddr,
}

/// Plays the demo on a kernel of its own.
pub fn play(setup: &Setup, tell: &mut Tell) -> Result<Summary, Failure> {
    let (bytes, members, seed) = (Size(setup.capacity.bytes()), setup.members, setup.seed);
    tell.title(format_args!(
        "vmalloc demo on a simulated machine: {bytes}, {members} members, seed {seed}"
    ))?;
    // Beside the frames of the areas, those that list their runs, at worst one page each.
    let spare = setup.plan.sizes.len() as u64 + setup.capacity.0 / RUNS_IN_FRAME;
    let config = KernelConfig {
        frames: Pages(setup.capacity.0 + spare),
        window: Pages((setup.capacity.0 * WINDOW_RATIO).max(1 << 15)),
        spaces: members as usize,
        backings: setup.plan.sizes.len() * 2 + 64,
        lazy_pages_max: setup.capacity,
        ..KernelConfig::default()
    };
    let mut summary = SimKernel::run(config, |kernel| Stage::play(setup, tell, kernel))?;
    let omitted = stale::play(tell)?;
    if let Some(tlb) = &mut summary.tlb {
        tlb.stale_hits_when_omitted = omitted;
    }
    Ok(summary)
}

impl<'a, 'k> Stage<'a, 'k> {
    fn play(
        setup: &'a Setup,
        tell: &'a mut Tell,
        kernel: &'a SimKernel<'k>,
    ) -> Result<Summary, Failure> {
        let in_use_full = Pages(0);
        let mut stage = Stage { setup, tell, kernel, areas: Vec::new(), in_use_full };
        stage.introduce()?;
        stage.fill()?;
        stage.free_half()?;
        let contiguous = setup.plan.largest_free_run_first_fit();
        let (block, frames) = stage.one_block(contiguous)?;
        let (token, views) = stage.share(&block)?;
        let mut members = stage.write_parts(&block, &views)?;
        let gone = stage.one_goes(&block, &views)?;
        members[gone].killed = true;
        let resident_bytes = stage.free_everything(&block, &token, &views)?;
        let counters = kernel.hardware().counters();
        Ok(Summary {
            machine: "sim",
            seed: setup.seed,
            pool_bytes: setup.capacity.bytes(),
            fill: Fill::of(setup),
            contiguous: Contiguous::new(contiguous),
            block: Block {
                bytes: block.bytes,
                token: None,
                address: block.addr().0,
                frames: Some(frames),
            },
            members,
            recovered: None,
            resident_bytes,
            vmas: None,
            stats: StatsJson::of(&kernel.engine(0).stats()),
            tlb: Some(Tlb {
                hits: counters.tlb_hits,
                misses: counters.tlb_misses,
                shootdowns: counters.flushes,
                stale_hits: counters.stale_hits,
                stale_hits_when_omitted: 0,
            }),
            elapsed_ms: 0,
        })
    }

    fn introduce(&mut self) -> Done {
        self.tell.step("A machine")?;
        let frames = self.kernel.frames();
        self.tell.say(format_args!(
            "{} frames from {} on; {} CPUs with a TLB each that forgets nothing until it is \
             flushed; the kernel, and {} with an address space each.",
            thousands(frames.extent().len.0),
            frames.extent().start,
            self.kernel.spaces() * CPUS_PER_SPACE,
            count_of(self.kernel.spaces() as u64 - 1, "process", "processes"),
        ))?;
        self.tell.say(format_args!(
            "Each has a window of {} of pages, and page tables of four levels.",
            Size(self.kernel.window(0).len.bytes())
        ))
    }

    /// Fills the pool, each area with a pattern that CPU 0 stores through its own TLB.
    fn fill(&mut self) -> Done {
        self.tell.step("Fill it")?;
        for (i, pages) in self.setup.plan.sizes.iter().enumerate() {
            let area = told(self.vmalloc(*pages), "filling the pool")?;
            let all = 0..area.bytes as usize;
            self.store(0, area.addr(), all, pattern::key(self.setup.seed, i as u64))?;
            self.areas.push(Some(area));
        }
        self.in_use_full = self.kernel.frames_in_use();
        let counters = self.kernel.hardware().counters();
        self.tell.say(format_args!(
            "{} of random sizes, written by CPU 0: {} TLB misses, each a walk through the tables.",
            count(self.areas.len() as u64, "area"),
            thousands(counters.tlb_misses),
        ))
    }

    fn free_half(&mut self) -> Done {
        self.tell.step("Free half at random")?;
        for &i in &self.setup.plan.freed {
            if let Some(area) = self.areas[i].take() {
                // Over the limit or not: the purge comes when the block asks for room.
                let _ = told(self.kernel.engine(0).vfree(area.addr()), "freeing")?;
            }
        }
        let flushes = self.kernel.hardware().counters().flushes;
        check(flushes == 0, format_args!("{flushes} shootdowns for frees alone"))?;
        let shown = self.kernel.hardware().tlb_entries_showing(self.kernel.frames().extent());
        self.tell.say(format_args!(
            "{} freed, {}: parked. No shootdown yet, and {} TLB entries show frames.",
            count(self.setup.plan.freed.len() as u64, "area"),
            Size(self.setup.plan.free_pages().bytes()),
            thousands(shown),
        ))
    }

    fn one_block(&mut self, contiguous: Pages) -> Result<(Area, Frames), Failure> {
        let free = self.setup.plan.free_pages();
        self.tell.step(format_args!("ONE block of all that was freed: {}", Size(free.bytes())))?;
        self.tell.cannot_scatter(contiguous, free)?;
        let before = self.kernel.hardware().counters();
        let block = told(self.vmalloc(free), "the one block")?;
        self.store(0, block.addr(), 0..block.bytes as usize, self.block_key())?;
        let after = self.kernel.hardware().counters();
        let mut runs = Vec::new();
        let backing = vmalloc_core::Backing(block.backing);
        self.kernel.engine(0).machine().each_extent(backing, |run| runs.push(run));
        let pfns = runs.iter().flat_map(|run| run.start.0..run.end().0);
        let frames = Frames::of(pfns.map(Some)).ok_or_else(|| Failure::new("demo: no frames"))?;
        let longest = runs.iter().map(|run| run.len).max().unwrap_or_default();
        self.tell.say(format_args!(
            "Here it is, at {}. Its {} frames are {}, the longest of {longest}, from pfn {:#x} \
             to {:#x}.",
            block.addr(),
            thousands(frames.present),
            count(runs.len() as u64, "run"),
            frames.lowest_pfn,
            frames.highest_pfn
        ))?;
        self.tell.say(format_args!(
            "To make room: {} over {} pages, not one a free; {} walks of the mapper.",
            count(after.flushes - before.flushes, "shootdown"),
            thousands(after.flushed_pages.0 - before.flushed_pages.0),
            thousands(after.mapper_walks - before.mapper_walks),
        ))?;
        Ok((block, frames))
    }

    /// Shows the same frames in every other address space.
    fn share(&mut self, block: &Area) -> Result<(Token, Vec<Mapped>), Failure> {
        self.tell.step("Share it")?;
        let shared = self.kernel.engine(0).share(block.id, block.generation, Publish::Shared);
        let token = told(shared, "sharing the block")?;
        self.tell.say("vmallocinfo of the kernel's window now:")?;
        let areas: Vec<Area> = self.kernel.engine(0).areas().collect();
        areas_lines(self.tell, &areas)?;
        let mut views = vec![Mapped { space: 0, at: block.addr() }];
        for space in 1..self.kernel.spaces() {
            let attached = self.kernel.engine(space).attach(&token, Prot::READ_WRITE);
            let view = Mapped { space, at: told(attached, "attaching")?.addr() };
            check(
                self.first_wrong(view, 0..block.bytes as usize, self.block_key())?.is_none(),
                format_args!("space {space} sees another pattern"),
            )?;
            let translate = |view: Mapped| self.translate(view.space, view.at);
            let (ours, theirs) = (translate(views[0]), translate(view));
            check(ours == theirs, format_args!("space {space} shows {theirs:?}, not {ours:?}"))?;
            self.tell.say(format_args!(
                "process {space}: block at {}, its first page shows pfn {:#x}, as the kernel's \
                 does; pattern intact, read by CPU {}",
                view.at,
                theirs.unwrap_or_default(),
                space * CPUS_PER_SPACE,
            ))?;
            views.push(view);
        }
        Ok((token, views))
    }

    fn write_parts(
        &mut self,
        block: &Area,
        views: &[Mapped],
    ) -> Result<Vec<summary::Member>, Failure> {
        self.tell.step("Each writes its part")?;
        let (len, key) = (block.bytes as usize, self.block_key());
        let mut members = Vec::new();
        for (i, view) in views.iter().enumerate() {
            let part = part(len, i as u32, self.setup.members);
            self.store(view.space, view.at, part.clone(), part_key(key, i as u32))?;
            members.push(summary::Member {
                pid: None,
                way: None,
                address: view.at.0,
                checked_bytes: block.bytes,
                wrote_bytes: part.len() as u64,
                killed: false,
            });
        }
        self.check_parts(block, views)?;
        self.tell.say("Every CPU reads all of it, each through its own tables and its own TLB.")?;
        Ok(members)
    }

    /// A process ends: what it had mapped goes, the block stays. Which one.
    fn one_goes(&mut self, block: &Area, views: &[Mapped]) -> Result<usize, Failure> {
        let gone = views.len() - 1;
        self.tell.step(format_args!("Process {gone} ends"))?;
        let engine = self.kernel.engine(gone);
        let _ = told(engine.vunmap(views[gone].at), "unmapping what a process had")?;
        told(engine.purge(), "purging its window")?;
        let cpu = self.kernel.cpu(gone * CPUS_PER_SPACE);
        match cpu.load(views[gone].at) {
            Err(Fault::NotPresent { va }) => self.tell.say(format_args!(
                "Its mapping is gone from its tables and from all TLBs: CPU {} faults at {va}.",
                cpu.index()
            ))?,
            other => {
                return Err(Failure::new(format_args!("demo: a dead mapping gave {other:?}")));
            }
        }
        self.check_parts(block, &views[..gone])?;
        self.tell.say("The block is whole, its part too; the others never noticed.")?;
        Ok(gone)
    }

    fn free_everything(
        &mut self,
        block: &Area,
        token: &Token,
        views: &[Mapped],
    ) -> Result<[u64; 3], Failure> {
        self.tell.step("Free everything, purge, verify")?;
        let kernel = self.kernel;
        let _ = told(kernel.engine(0).free(block.id, block.generation), "freeing the block")?;
        // What was over the limit is purged below.
        let _ = kernel.engine(0).detach(block.id, block.generation);
        let again = kernel.engine(0).attach(token, Prot::READ_WRITE);
        check(again.is_err(), "a freed block could be attached to by its token")?;
        for view in &views[1..views.len() - 1] {
            let _ = told(kernel.engine(view.space).vunmap(view.at), "unmapping")?;
        }
        for (i, area) in self.areas.iter().enumerate() {
            let Some(area) = area else { continue };
            let key = pattern::key(self.setup.seed, i as u64);
            let view = Mapped { space: 0, at: area.addr() };
            let wrong = self.first_wrong(view, 0..area.bytes as usize, key)?;
            check(wrong.is_none(), format_args!("area {i} is damaged at byte {wrong:?}"))?;
            let _ = told(kernel.engine(0).vfree(area.addr()), "freeing")?;
        }
        kernel.purge();
        told(kernel.verify(), "verifying")?;
        let left = kernel.frames_in_use();
        let areas: usize = (0..kernel.spaces()).map(|i| kernel.engine(i).areas().count()).sum();
        check(areas == 0 && left == Pages(0), format_args!("{areas} areas and {left} are left"))?;
        let Counters { flushes, tlb_hits, tlb_misses, stale_hits, .. } =
            kernel.hardware().counters();
        check(stale_hits == 0, format_args!("{stale_hits} stale hits"))?;
        self.tell.say(format_args!(
            "No area is left, every frame is back, no TLB shows a free one: {} frames were in \
             use at the fullest, {} now.",
            thousands(self.in_use_full.0),
            left.0
        ))?;
        self.tell.say(format_args!(
            "In all: {}, {} TLB hits, {} misses, {stale_hits} stale.",
            count(flushes, "shootdown"),
            thousands(tlb_hits),
            thousands(tlb_misses)
        ))?;
        Ok([0, self.in_use_full.bytes(), left.bytes()])
    }

    fn vmalloc(&self, pages: Pages) -> Result<Area, vmalloc_core::AllocError> {
        self.kernel.engine(0).vmalloc(&Request::bytes(pages.bytes()))
    }

    fn block_key(&self) -> u64 {
        pattern::key(self.setup.seed, BLOCK)
    }

    fn translate(&self, space: usize, at: VirtAddr) -> Option<u64> {
        use vmalloc_core::Mapper;
        self.kernel.space(space).translate(at.vpn()).map(|(pfn, _)| pfn.0)
    }

    /// Whether every member reads every part as it was written.
    fn check_parts(&self, block: &Area, views: &[Mapped]) -> Done {
        for view in views {
            for i in 0..self.setup.members {
                let part = part(block.bytes as usize, i, self.setup.members);
                let wrong = self.first_wrong(*view, part, part_key(self.block_key(), i))?;
                check(
                    wrong.is_none(),
                    format_args!("space {} reads part {i} wrong at byte {wrong:?}", view.space),
                )?;
            }
        }
        Ok(())
    }

    /// Stores the pattern at bytes `range` of what lies at `base`, by the first CPU of a space.
    fn store(&self, space: usize, base: VirtAddr, range: Range<usize>, key: u64) -> Done {
        let cpu = self.kernel.cpu(space * CPUS_PER_SPACE);
        let mut piece = vec![0; PIECE_BYTES.min(range.len())];
        for at in range.clone().step_by(PIECE_BYTES) {
            let piece = &mut piece[..PIECE_BYTES.min(range.end - at)];
            pattern::fill(piece, key, at as u64 / 8);
            let stored = cpu.write(VirtAddr(base.0 + at as u64), piece);
            check(stored.is_ok(), format_args!("CPU {}: {stored:?}", cpu.index()))?;
        }
        Ok(())
    }

    /// The first byte of `range` that is not the pattern's, read by the first CPU of the space.
    fn first_wrong(
        &self,
        view: Mapped,
        range: Range<usize>,
        key: u64,
    ) -> Result<Option<usize>, Failure> {
        let cpu = self.kernel.cpu(view.space * CPUS_PER_SPACE);
        let mut piece = vec![0; PIECE_BYTES.min(range.len())];
        for at in range.clone().step_by(PIECE_BYTES) {
            let piece = &mut piece[..PIECE_BYTES.min(range.end - at)];
            let read = cpu.read(VirtAddr(view.at.0 + at as u64), piece);
            check(read.is_ok(), format_args!("CPU {}: {read:?}", cpu.index()))?;
            if let Some(wrong) = pattern::first_wrong(piece, key, at as u64 / 8) {
                return Ok(Some(at + wrong));
            }
        }
        Ok(None)
    }
}

const _: () = assert!(PIECE_BYTES.is_multiple_of(PAGE_SIZE));
