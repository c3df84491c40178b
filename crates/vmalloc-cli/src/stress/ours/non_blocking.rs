//! A caller that may not wait is served while the lazy list holds all memory.
//!
//! In Linux, `GFP_ATOMIC` and `GFP_NOWAIT` cannot purge, so they fail while what was freed waits
//! for a shootdown. Here a parked area that is large enough is taken as it is: it needs no flush.

use super::super::alone::{Terms, check};
use super::super::subject::Verdict;
use super::empty;
use crate::args::Machine;
use vmalloc::Pool;
use vmalloc_core::{Area, Pages, Request};
use vmalloc_sim::{KernelConfig, SimKernel};

/// What fills the memory, and what is asked for then: as large, and smaller.
const FILL: Request = Request::bytes(8 * 4096);
const WANTED: [Request; 2] = [FILL.no_wait(), Request::bytes(5 * 4096).no_wait()];

/// Parks everything, then asks where waiting is forbidden.
pub fn run(terms: &Terms) -> Verdict<String> {
    match terms.machine {
        Machine::Linux => on_linux(),
        Machine::Sim => on_sim(),
    }
}

fn on_linux() -> Verdict<String> {
    let capacity = 4 << 20;
    let pool = Pool::options().members(1).lazy_bytes(capacity).create(capacity)?;
    let filled: Vec<_> = std::iter::from_fn(|| pool.alloc(&FILL.no_wait()).ok()).collect();
    let count = filled.len();
    drop(filled);
    let before = pool.info().stats;
    check(before.parked.0 == 8 * count as u64, || format!("{} parked", before.parked))?;
    let served = [pool.alloc(&WANTED[0])?, pool.alloc(&WANTED[1])?];
    let flushes = pool.info().stats.flushes - before.flushes;
    check(flushes == 0, || format!("{flushes} flushes"))?;
    drop(served);
    pool.purge()?;
    check(pool.verify()?.areas == 0, || "areas leaked".to_owned())?;
    Ok(saw(count))
}

fn on_sim() -> Verdict<String> {
    let config = KernelConfig { lazy_pages_max: Pages(512), spaces: 1, ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let engine = kernel.engine(0);
        let filled: Vec<Area> =
            std::iter::from_fn(|| engine.vmalloc(&FILL.no_wait()).ok()).collect();
        for area in &filled {
            let _ = engine.vfree(area.addr())?;
        }
        let flushes = engine.stats().flushes;
        let interrupts_off = kernel.hardware().interrupts_off();
        let served = [engine.vmalloc(&WANTED[0])?, engine.vmalloc(&WANTED[1])?];
        drop(interrupts_off);
        check(engine.stats().flushes == flushes, || "it was flushed".to_owned())?;
        for area in served {
            let _ = engine.vfree(area.addr())?;
        }
        empty(kernel)?;
        Ok(saw(filled.len()))
    })
}

fn saw(parked: usize) -> String {
    format!("with all memory in {parked} parked areas, two that may not wait were served, no flush")
}
