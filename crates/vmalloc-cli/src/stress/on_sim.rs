//! The simulated machine as a stage: an engine over page tables, a CPU with its TLB a worker.

use super::linux_cases::Scale;
use super::subject::{Mem, Settled, Stage, Stop, Subject, Verdict};
use std::sync::{Mutex, PoisonError};
use vmalloc_core::map_ram::{BLOCK_PAGES, MapRam};
use vmalloc_core::platform::Frames as _;
use vmalloc_core::sync::AtomicU64;
use vmalloc_core::{
    Area, Extent, Freed, PAGE_SIZE, PageRange, Pages, Prot, Request, ResizeError, VirtAddr,
};
use vmalloc_sim::{AddressSpace, KernelConfig, SimKernel};

/// Frames beside those that the cases ask for: lists of runs, slots that are larger than what is
/// in them.
const SPARE_PAGES: u64 = 4096;
/// Pages of the window for each frame.
const WINDOW_RATIO: u64 = 8;

/// A kernel, and what it said to frees that it refused.
pub struct SimStage<'a> {
    kernel: &'a SimKernel<'a>,
    ram: MapRam<'a, AddressSpace>,
    refused: Mutex<Option<String>>,
}

/// Gives `body` a kernel with a CPU for each of `cpus`, and memory for `pages` pages in use.
pub fn with<R>(
    cpus: u32,
    pages: u64,
    body: impl FnOnce(&SimStage<'_>) -> Verdict<R>,
) -> Verdict<R> {
    let lazy = Scale { cpus, objects: 0 }.fls_pages();
    let frames = pages + lazy + SPARE_PAGES;
    let config = KernelConfig {
        frames: Pages(frames),
        window: Pages((frames * WINDOW_RATIO).next_multiple_of(128)),
        spaces: 1,
        backings: frames as usize,
        lazy_pages_max: Pages(lazy),
        cpus_per_space: cpus as usize,
        beside: Pages(u64::from(cpus.max(2)) * BLOCK_PAGES.0),
        ..KernelConfig::default()
    };
    SimKernel::run(config, |kernel| {
        let words = MapRam::<()>::words_needed(config.beside, cpus as usize);
        let words: Vec<_> = (0..words).map(|_| AtomicU64::new(0)).collect();
        let space = kernel.space(0).clone();
        let ram = MapRam::new(&words, cpus as usize, kernel.beside(), space)?;
        ram.prepare()?;
        body(&SimStage { kernel, ram, refused: Mutex::new(None) })
    })
}

impl SimStage<'_> {
    fn note<T, E: std::fmt::Display>(&self, result: Result<T, E>) -> Option<T> {
        let note = |error: &E| {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.get_or_insert_with(|| error.to_string());
        };
        result.inspect_err(note).ok()
    }
}

impl<'k> Stage for SimStage<'k> {
    type Subject<'a>
        = SimWorker<'a>
    where
        Self: 'a;

    fn subject(&self, index: usize) -> SimWorker<'_> {
        SimWorker { stage: self, cpu: index % self.kernel.hardware().config().cpus }
    }

    fn settle(&self) -> Verdict<Settled> {
        if let Some(refused) = self.refused.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(format!("a free was refused: {refused}").into());
        }
        let engine = self.kernel.engine(0);
        engine.purge()?;
        self.ram.vm_unmap_aliases()?;
        self.kernel.verify()?;
        let (stats, frames) = (engine.stats(), self.kernel.frames_in_use());
        let sound = self.ram.is_sound() && self.ram.usage().live == Pages(0);
        if stats.areas > 0 || stats.holes != stats.window || frames > Pages(0) || !sound {
            return Err(format!(
                "leaked: {} areas, {} of {} pages are no holes, {frames} frames, {} pages of \
                 vm_map_ram",
                stats.areas,
                stats.window.0 - stats.holes.0,
                stats.window.0,
                self.ram.usage().live
            )
            .into());
        }
        let (allocs, revives, purged, flushes) =
            (stats.allocs, stats.revives, stats.purged, stats.flushes);
        Ok(Settled { areas: stats.areas, frames: frames.0, allocs, revives, purged, flushes })
    }
}

/// A worker and its CPU.
#[derive(Clone, Copy)]
pub struct SimWorker<'a> {
    stage: &'a SimStage<'a>,
    cpu: usize,
}

/// An area, reached through the TLB of its worker's CPU.
pub struct SimMem<'a> {
    worker: SimWorker<'a>,
    area: Area,
}

/// Frames of a worker.
pub struct SimFrames<'a> {
    stage: &'a SimStage<'a>,
    runs: Vec<Extent>,
}

/// Frames that are mapped for a moment.
pub struct SimRun<'a> {
    worker: SimWorker<'a>,
    pages: PageRange,
}

impl SimWorker<'_> {
    fn write(&self, at: VirtAddr, bytes: &[u8]) -> Verdict {
        Ok(self.stage.kernel.cpu(self.cpu).write(at, bytes)?)
    }

    fn read(&self, at: VirtAddr, out: &mut [u8]) -> Verdict {
        Ok(self.stage.kernel.cpu(self.cpu).read(at, out)?)
    }

    fn move_to(&self, old: &SimMem<'_>, bytes: u64) -> Verdict<Area> {
        let new = self.stage.kernel.engine(0).vmalloc(&Request::bytes(bytes))?;
        let mut copy = [0; PAGE_SIZE];
        for at in (0..old.area.bytes.min(bytes)).step_by(PAGE_SIZE) {
            let piece =
                &mut copy[..(old.area.bytes.min(bytes) - at).min(PAGE_SIZE as u64) as usize];
            self.read(VirtAddr(old.area.addr().0 + at), piece)?;
            self.write(VirtAddr(new.addr().0 + at), piece)?;
        }
        Ok(new)
    }
}

impl<'a> Subject for SimWorker<'a> {
    type Mem = SimMem<'a>;
    type Frames = SimFrames<'a>;
    type Run = SimRun<'a>;

    fn cpus(&self) -> u32 {
        self.stage.kernel.hardware().config().cpus as u32
    }

    fn alloc(&self, request: &Request) -> Verdict<SimMem<'a>> {
        let area = self.stage.kernel.engine(0).vmalloc(request)?;
        Ok(SimMem { worker: *self, area })
    }

    fn resize(&self, mut mem: SimMem<'a>, bytes: u64) -> Verdict<SimMem<'a>> {
        let engine = self.stage.kernel.engine(0);
        match engine.resize(mem.area.id, mem.area.generation, bytes, false) {
            Ok(area) => mem.area = area,
            Err(ResizeError::NoRoom { .. }) => {
                let area = self.move_to(&mem, bytes)?;
                mem = SimMem { worker: *self, area };
            }
            Err(e) => return Err(e.into()),
        }
        Ok(mem)
    }

    fn without_waiting<R>(&self, body: impl FnOnce() -> R) -> R {
        let _off = self.stage.kernel.hardware().interrupts_off();
        body()
    }

    fn take_frames(&self, pages: u64) -> Verdict<SimFrames<'a>> {
        let mut frames = SimFrames { stage: self.stage, runs: Vec::new() };
        let mut left = pages;
        while left > 0 {
            let mut runs = [Extent { start: vmalloc_core::Pfn(0), len: Pages(0) }; 64];
            let count = self.stage.kernel.frames().take_bulk(Pages(left), &mut runs);
            if count == 0 {
                return Err(Stop::from("no frames are free"));
            }
            left -= runs[..count].iter().map(|run| run.len.0).sum::<u64>();
            frames.runs.extend_from_slice(&runs[..count]);
        }
        Ok(frames)
    }

    fn map_ram(&self, frames: &SimFrames<'a>) -> Verdict<SimRun<'a>> {
        let pages = self.stage.ram.vm_map_ram(self.cpu, &frames.runs, Prot::READ_WRITE)?;
        Ok(SimRun { worker: *self, pages })
    }
}

impl Mem for SimMem<'_> {
    fn addr(&self) -> u64 {
        self.area.addr().0
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Verdict {
        self.worker.write(VirtAddr(self.addr() + at as u64), bytes)
    }

    fn read(&self, at: usize, out: &mut [u8]) -> Verdict {
        self.worker.read(VirtAddr(self.addr() + at as u64), out)
    }
}

impl Drop for SimMem<'_> {
    fn drop(&mut self) {
        let engine = self.worker.stage.kernel.engine(0);
        let freed = self.worker.stage.note(engine.free(self.area.id, self.area.generation));
        if let Some(Freed { over_limit: true }) = freed {
            self.worker.stage.note(engine.relieve());
        }
    }
}

impl Drop for SimFrames<'_> {
    fn drop(&mut self) {
        // Theirs no more, so no TLB may show them.
        self.stage.note(self.stage.ram.vm_unmap_aliases());
        self.runs.iter().for_each(|&run| self.stage.kernel.frames().give(run));
    }
}

impl Mem for SimRun<'_> {
    fn addr(&self) -> u64 {
        self.pages.start.addr().0
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Verdict {
        self.worker.write(VirtAddr(self.addr() + at as u64), bytes)
    }

    fn read(&self, at: usize, out: &mut [u8]) -> Verdict {
        self.worker.read(VirtAddr(self.addr() + at as u64), out)
    }
}

impl Drop for SimRun<'_> {
    fn drop(&mut self) {
        let stage = self.worker.stage;
        stage.note(stage.ram.vm_unmap_ram(self.pages.start.addr(), self.pages.len));
    }
}
