//! The stage of a simulated machine: page tables, TLBs, and every shootdown counted.

use super::{Look, Outcome, Played, Setting, Stage, request};
use crate::failure::Failure;
use std::collections::HashMap;
use std::time::Instant;
use vmalloc::core::{AreaId, Pages};
use vmalloc::trace::{Event, Op};
use vmalloc_sim::{KernelConfig, SimKernel};

/// The most frames that are simulated: 4 GiB of contents that nobody looks at, 64 MiB of words.
const FRAMES_MAX: u64 = 1 << 20;
/// The window, in pools.
const WINDOW_RATIO: u64 = 4;
/// Frames beside those of the areas: lists of runs, at worst one page for so many.
const RUNS_IN_FRAME: u64 = 256;

struct Kernel<'k, 'a> {
    kernel: &'k SimKernel<'a>,
    setting: &'k Setting,
    pool: u32,
    held: HashMap<(u32, u64), (AreaId, u64)>,
    /// Given away, by record: who takes it has another generation.
    given: HashMap<u32, (AreaId, u64)>,
}

/// Plays on a kernel that has as many frames as the run's first pool.
pub fn with(
    events: &[Event],
    setting: &Setting,
    play: impl FnOnce(&mut dyn Stage) -> Outcome,
) -> Result<Outcome, Failure> {
    let join = events.iter().find(|event| event.op == Op::Join);
    let join = join.ok_or_else(|| Failure::new("the trace has no pool: nobody joins one in it"))?;
    let capacity = Pages::for_bytes(join.bytes);
    let areas = events.iter().filter(|event| event.op == Op::Alloc).count().min(1 << 20);
    let frames = capacity.0 + areas as u64 + capacity.0 / RUNS_IN_FRAME;
    if capacity.0 == 0 || frames > FRAMES_MAX {
        return Err(Failure::new(format_args!(
            "a pool of {} is too large to simulate: at most about 3.9 GiB; use --machine linux",
            crate::size::Size(join.bytes)
        )));
    }
    let config = KernelConfig {
        frames: Pages(frames),
        window: Pages((capacity.0 * WINDOW_RATIO).max(1 << 15)),
        spaces: 1,
        backings: areas * 2 + 64,
        lazy_pages_max: setting.lazy_bytes.map_or(capacity, |bytes| Pages(bytes >> 12)),
        ..KernelConfig::default()
    };
    Ok(SimKernel::run(config, |kernel| {
        let (held, given) = (HashMap::new(), HashMap::new());
        play(&mut Kernel { kernel, setting, pool: join.pool, held, given })
    }))
}

impl Stage for Kernel<'_, '_> {
    fn play(&mut self, event: &Event) -> Option<Played> {
        if event.pool != self.pool {
            return None;
        }
        let engine = self.kernel.engine(0);
        let key = (event.area, event.generation);
        let start = Instant::now();
        let refused = match event.op {
            Op::Alloc | Op::Refused => {
                let area = engine.vmalloc(&request(event, self.setting));
                let refused = area.is_err();
                if let (Ok(area), Op::Alloc) = (area, event.op) {
                    self.held.insert(key, (area.id, area.generation));
                }
                refused
            }
            Op::Free => {
                let (id, generation) = self.held.remove(&key)?;
                let freed = engine.free(id, generation);
                // As a member does who may wait.
                freed.map_or(true, |freed| freed.over_limit && engine.relieve().is_err())
            }
            Op::Give => self.given.insert(event.area, self.held.remove(&key)?).is_some(),
            Op::Take => self.held.insert(key, self.given.remove(&event.area)?).is_some(),
            Op::Purge => engine.purge().is_err(),
            _ => return None,
        };
        Some(Played { took: start.elapsed(), refused })
    }

    fn look(&self) -> Look {
        let counters = self.kernel.hardware().counters();
        let stats = self.kernel.engine(0).stats();
        Look {
            stats,
            resident_bytes: self.kernel.frames_in_use().bytes(),
            walks: Some(counters.mapper_walks),
            flushed_pages: Some(counters.flushed_pages.0),
        }
    }
}
