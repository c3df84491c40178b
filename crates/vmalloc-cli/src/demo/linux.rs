//! The demo on this machine: a memfd, real processes, the kernel's page tables.
//!
//! Each function is one step of the story: it does something, checks what came of it, and only
//! then says so. The steps with other processes are in [`super::together`].

use super::Setup;
use super::member::{address, parts_are_right};
use super::others::{Other, Task};
use super::pattern;
use super::summary::{self, Block, Contiguous, Fill, Frames, Summary, Vmas};
use super::tell::{Tell, areas_lines, check, told};
use crate::failure::{Done, Failure};
use crate::info::StatsJson;
use crate::show::{count, count_of, counted, thousands};
use crate::size::Size;
use vmalloc::{AllocError, Buf, Pool, Shared};
use vmalloc_core::{self as core, Pages};

/// The number of the block among the patterns: no area's.
const BLOCK: u64 = u64::MAX - 1;

/// The pool and what this process holds of it.
pub struct Stage<'a> {
    pub(super) setup: &'a Setup,
    pub(super) tell: &'a mut Tell,
    pub(super) pool: Pool,
    /// The areas by their place in the plan; `None`: freed.
    pub(super) areas: Vec<Option<Buf>>,
    /// `fstat` when the pool was new, and full.
    resident_new: u64,
    resident_full: u64,
}

/// Plays the demo on a pool of our own.
pub fn play(setup: &Setup, tell: &mut Tell) -> Result<Summary, Failure> {
    let (bytes, members, seed) = (Size(setup.capacity.bytes()), setup.members, setup.seed);
    tell.title(format_args!("vmalloc demo: {bytes}, {members} processes, seed {seed}"))?;
    let mut stage = Stage::new(setup, tell)?;
    stage.fill()?;
    stage.free_half()?;
    let contiguous = setup.plan.largest_free_run_first_fit();
    let (block, frames) = stage.one_block(contiguous)?;
    let block_key = pattern::key(setup.seed, BLOCK);
    let block = stage.publish(block)?;
    let mut members = vec![summary::Member {
        pid: Some(std::process::id()),
        way: None,
        address: address(&block),
        checked_bytes: 0,
        wrote_bytes: block.len() as u64,
        killed: false,
    }];
    let task = Task { token: block.token(), parts: setup.members, key: block_key };
    let mut others = stage.attach_others(&task, &block, frames, &mut members)?;
    stage.write_parts(&block, block_key, &mut others, &mut members)?;
    stage.stay()?;
    let recovered = stage.kill_one(&block, block_key, &mut others, &mut members)?;
    let vmas = Vmas {
        pool: told(stage.pool.vmas(), "counting VMAs")?,
        process: told(vmalloc::vmas(), "counting VMAs")?,
    };
    let shown = Block {
        bytes: block.len() as u64,
        token: Some(block.token().to_string()),
        address: address(&block),
        frames,
    };
    stage.free_the_block(block, block_key, others)?;
    let resident_bytes = stage.give_everything_back()?;
    Ok(Summary {
        machine: "linux",
        seed: setup.seed,
        pool_bytes: setup.capacity.bytes(),
        fill: Fill::of(setup),
        contiguous: Contiguous::new(contiguous),
        block: shown,
        members,
        recovered: Some(recovered),
        resident_bytes,
        vmas: Some(vmas),
        stats: StatsJson::of(&stage.pool.info().stats),
        tlb: None,
        elapsed_ms: 0,
    })
}

impl<'a> Stage<'a> {
    /// Makes the pool.
    fn new(setup: &'a Setup, tell: &'a mut Tell) -> Result<Stage<'a>, Failure> {
        let options = Pool::options().name("demo");
        let pool = told(options.create(setup.capacity.bytes()), "making the pool")?;
        let info = pool.info();
        tell.step("A pool")?;
        tell.say(format_args!(
            "A memfd that may hold {} of frames. Its window, {} of addresses, is mapped once: \
             {}, whatever it will hold. Tables: {}.",
            Size(info.capacity_bytes),
            Size(info.stats.window.bytes()),
            count(told(pool.vmas(), "counting VMAs")? as u64, "VMA"),
            Size(info.tables_bytes),
        ))?;
        let (areas, resident_new) = (Vec::new(), info.resident_bytes);
        Ok(Stage { setup, tell, pool, areas, resident_new, resident_full: resident_new })
    }

    /// Fills the pool to the last page, each area with a pattern of its own.
    fn fill(&mut self) -> Done {
        self.tell.step("Fill it")?;
        for (i, pages) in self.setup.plan.sizes.iter().enumerate() {
            let mut buf = told(self.pool.vmalloc(pages.bytes() as usize), "filling the pool")?;
            pattern::fill(&mut buf, pattern::key(self.setup.seed, i as u64), 0);
            self.areas.push(Some(buf));
        }
        let info = self.pool.info();
        self.resident_full = info.resident_bytes;
        let areas = count(self.areas.len() as u64, "area");
        let (sizes, smallest) = (&self.setup.plan.sizes, Pages(1));
        let least = sizes.iter().min().unwrap_or(&smallest);
        let most = sizes.iter().max().unwrap_or(&smallest);
        self.tell.say(format_args!(
            "{areas} of random sizes, {} to {}, filled with a pattern each.",
            Size(least.bytes()),
            Size(most.bytes())
        ))?;
        let refused = match self.pool.vmalloc(1) {
            Err(AllocError::Engine(core::AllocError::Back(e))) => e,
            Err(e) => return Err(Failure::new(format_args!("demo: a full pool said: {e}"))),
            Ok(_) => return Err(Failure::new("demo: a full pool had a page to give")),
        };
        self.tell.say(format_args!("One byte more is refused: \"{refused}\". No SIGBUS later."))
    }

    /// Frees half of the areas, drawn at random.
    fn free_half(&mut self) -> Done {
        self.tell.step("Free half at random")?;
        for &i in &self.setup.plan.freed {
            self.areas[i] = None;
        }
        let stats = self.pool.info().stats;
        check(
            stats.parked == self.setup.plan.free_pages() && stats.flushes == 0,
            format_args!("{} are parked after {} flushes", stats.parked, stats.flushes),
        )?;
        self.tell.say(format_args!(
            "{} freed, {}: parked. No shootdown yet: {} flushes.",
            count(stats.parked_areas as u64, "area"),
            Size(stats.parked.bytes()),
            stats.flushes
        ))
    }

    /// Asks for one block of everything that is free, and says who else could have served it.
    fn one_block(&mut self, contiguous: Pages) -> Result<(Buf, Option<Frames>), Failure> {
        let free = self.setup.plan.free_pages();
        self.tell.step(format_args!("ONE block of all that is free: {}", Size(free.bytes())))?;
        self.tell.cannot_scatter(contiguous, free)?;
        let mut block = told(self.pool.vmalloc(free.bytes() as usize), "the one block")?;
        pattern::fill(&mut block, pattern::key(self.setup.seed, BLOCK), 0);
        let stats = self.pool.info().stats;
        check(stats.frames_free == Pages(0), format_args!("{} are free", stats.frames_free))?;
        self.tell.say(format_args!(
            "Here it is, at {:#x}, every byte of it written. {} purged with {}.",
            block.as_ptr().addr(),
            count(stats.purged, "parked area"),
            count(stats.flushes, "shootdown"),
        ))?;
        let frames = self.show_frames(&block)?;
        let own = told(self.pool.vmas(), "counting VMAs")?;
        let all = told(vmalloc::vmas(), "counting VMAs")?;
        self.tell.say(format_args!(
            "VMAs: {own} for the pool, {all} in this process; {}.",
            count(stats.areas as u64, "live area")
        ))?;
        Ok((block, frames))
    }

    /// The physical frames, for those who may know them.
    fn show_frames(&mut self, block: &Buf) -> Result<Option<Frames>, Failure> {
        let Some(frames) = told(vmalloc::frames_behind(block), "/proc/self/pagemap")? else {
            self.tell.say(
                "The frames behind it: the kernel shows their numbers to root alone. \
                 Run it with sudo to see them.",
            )?;
            return Ok(None);
        };
        let present = frames.iter().flatten().count();
        check(
            present == frames.len(),
            format_args!("{present} of {} pages are present after writing them", frames.len()),
        )?;
        let Some(frames) = Frames::of(frames) else { return Ok(None) };
        self.tell.say(format_args!(
            "Its {} frames lie in {}, from pfn {:#x} to {:#x}: scattered over {} of RAM, \
             stitched by page tables.",
            thousands(frames.present),
            count(frames.runs, "run"),
            frames.lowest_pfn,
            frames.highest_pfn,
            Size(frames.spread_bytes()),
        ))?;
        Ok(Some(frames))
    }

    /// Shares the block writable, and lists what there is.
    fn publish(&mut self, block: Buf) -> Result<Shared, Failure> {
        self.tell.step("Share it")?;
        let block = told(block.share(), "sharing the block")?;
        self.tell.say(format_args!("Its name for other processes: {}", block.token()))?;
        self.tell.say("vmallocinfo now (offsets in the window; sizes count the guard page):")?;
        areas_lines(self.tell, &self.pool.areas())?;
        Ok(block)
    }

    /// Frees the block under the others' hands.
    fn free_the_block(&mut self, block: Shared, key: u64, mut others: Vec<Other>) -> Done {
        self.tell.step("Free everything")?;
        check(parts_are_right(&block, key, self.setup.members), "the block is damaged")?;
        let token = block.token();
        told(block.free(), "freeing the block")?;
        check(
            self.pool.attach_shared(&token).is_err(),
            "a freed block could be attached to by its token",
        )?;
        if !others.is_empty() {
            others.iter_mut().try_for_each(Other::check)?;
            self.tell.say(format_args!(
                "The block is freed, and its token is stale; {} still attached to it and has it.",
                count_of(others.len() as u64, "member is", "members are")
            ))?;
        }
        others.into_iter().try_for_each(Other::leave)?;
        for (i, buf) in self.areas.iter().enumerate() {
            let key = pattern::key(self.setup.seed, i as u64);
            let wrong = buf.as_ref().and_then(|buf| pattern::first_wrong(buf, key, 0));
            check(wrong.is_none(), format_args!("area {i} is damaged at byte {wrong:?}"))?;
        }
        let kept = self.areas.iter().flatten().count() as u64;
        self.areas.clear();
        self.tell.say(format_args!(
            "The others have left. The {} kept since step 3: intact, now freed, too.",
            count(kept, "area")
        ))
    }

    /// Purges, verifies, and asks the system whether the frames are back.
    fn give_everything_back(&mut self) -> Result<[u64; 3], Failure> {
        self.tell.step("Purge and verify")?;
        let purged = told(self.pool.purge(), "purging")?;
        let verified = told(self.pool.verify(), "verifying")?;
        let info = self.pool.info();
        check(
            verified.areas == 0 && verified.parked == 0 && info.committed_bytes == 0,
            format_args!("left behind: {verified:?}, {} bytes", info.committed_bytes),
        )?;
        let (new, full, now) = (self.resident_new, self.resident_full, info.resident_bytes);
        let capacity = info.capacity_bytes;
        check(
            full >= capacity && now < new + capacity / 50 + (1 << 20),
            format_args!("fstat says {new} bytes at first, {full} when full, {now} at the end"),
        )?;
        self.tell.say(format_args!(
            "{} purged with {}; every invariant holds; no area is left.",
            count(purged.areas as u64, "area"),
            count(purged.flushes as u64, "shootdown")
        ))?;
        self.tell.say(format_args!(
            "fstat: {} when full, {} now, which is tables: the frames are back.",
            Size(full),
            Size(now)
        ))?;
        let [allocs, rest] = counted(&info.stats);
        self.tell.say(format_args!("In all: {allocs}, {rest}."))?;
        Ok([new, full, now])
    }
}
