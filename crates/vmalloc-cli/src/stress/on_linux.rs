//! This machine as a stage: one pool on a memfd, of which all workers are the one member.
//!
//! The pool has no name and no other member, so when the process goes, however it goes, the kernel
//! takes everything back.

use super::linux_cases::Scale;
use super::subject::{Mem, Settled, Stage, Subject, Verdict};
use vmalloc::{Buf, Pool, Shared, SharedRun};
use vmalloc_core::{PAGE_SIZE, Request};

/// Bytes of the pool beside those that the cases ask for.
const SPARE_BYTES: u64 = 16 << 20;

/// The pool.
pub struct LinuxStage {
    pool: Pool,
    cpus: u32,
}

/// The CPUs that this process may use.
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32)
}

/// Gives `body` a pool with memory for `pages` pages in use.
pub fn with<R>(pages: u64, body: impl FnOnce(&LinuxStage) -> Verdict<R>) -> Verdict<R> {
    let cpus = cpus();
    let lazy_bytes = Scale { cpus, objects: 0 }.fls_pages() << 12;
    let options = Pool::options().name("stress").members(1).lazy_bytes(lazy_bytes);
    let pool = options.create((pages << 12) + lazy_bytes + SPARE_BYTES)?;
    body(&LinuxStage { pool, cpus })
}

impl Stage for LinuxStage {
    type Subject<'a> = LinuxWorker<'a>;

    fn subject(&self, _: usize) -> LinuxWorker<'_> {
        LinuxWorker { stage: self }
    }

    fn settle(&self) -> Verdict<Settled> {
        self.pool.purge()?;
        let verified = self.pool.verify()?;
        let info = self.pool.info();
        let stats = info.stats;
        if verified.areas > 0 || stats.holes != stats.window || info.committed_bytes > 0 {
            return Err(format!(
                "leaked: {} areas, {} of {} pages are no holes, {} bytes",
                verified.areas,
                stats.window.0 - stats.holes.0,
                stats.window.0,
                info.committed_bytes
            )
            .into());
        }
        let frames = verified.pages.0;
        let (allocs, revives, purged, flushes) =
            (stats.allocs, stats.revives, stats.purged, stats.flushes);
        Ok(Settled { areas: verified.areas, frames, allocs, revives, purged, flushes })
    }
}

/// A worker.
#[derive(Clone, Copy)]
pub struct LinuxWorker<'a> {
    stage: &'a LinuxStage,
}

impl Subject for LinuxWorker<'_> {
    type Mem = Buf;
    type Frames = PoolFrames;
    type Run = SharedRun;

    fn cpus(&self) -> u32 {
        self.stage.cpus
    }

    fn alloc(&self, request: &Request) -> Verdict<Buf> {
        Ok(self.stage.pool.alloc(request)?)
    }

    fn resize(&self, mut mem: Buf, bytes: u64) -> Verdict<Buf> {
        mem.vrealloc(usize::try_from(bytes)?)?;
        Ok(mem)
    }

    /// A process is preempted when the kernel likes; the request alone says that it may not wait.
    fn without_waiting<R>(&self, body: impl FnOnce() -> R) -> R {
        body()
    }

    /// A pool hands out areas: so each frame is one of a page.
    fn take_frames(&self, pages: u64) -> Verdict<PoolFrames> {
        let mut frames = PoolFrames(Vec::new());
        for _ in 0..pages {
            let page = self.stage.pool.alloc(&Request::bytes(PAGE_SIZE as u64))?;
            frames.0.push(page.share()?);
        }
        Ok(frames)
    }

    /// A stitched view: an `mmap` for each run of frames, and the `munmap` with its drop.
    fn map_ram(&self, frames: &PoolFrames) -> Verdict<SharedRun> {
        let pieces: Vec<&Shared> = frames.0.iter().collect();
        Ok(self.stage.pool.stitch_shared(&pieces)?)
    }
}

/// Single frames: areas of one page that their mappings share.
pub struct PoolFrames(Vec<Shared>);

impl Drop for PoolFrames {
    fn drop(&mut self) {
        for page in self.0.drain(..) {
            // What cannot be freed is found as a leak at the end.
            let _ = page.free();
        }
    }
}

impl Mem for SharedRun {
    fn addr(&self) -> u64 {
        self.words().as_ptr() as u64
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Verdict {
        Ok(self.write_at(at, bytes)?)
    }

    fn read(&self, at: usize, out: &mut [u8]) -> Verdict {
        Ok(self.read_at(at, out)?)
    }
}

impl Mem for Buf {
    fn addr(&self) -> u64 {
        self.as_ptr() as u64
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Verdict {
        let there = self.get_mut(at..at + bytes.len()).ok_or("past the end of the buffer")?;
        there.copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, at: usize, out: &mut [u8]) -> Verdict {
        out.copy_from_slice(self.get(at..at + out.len()).ok_or("past the end of the buffer")?);
        Ok(())
    }
}
