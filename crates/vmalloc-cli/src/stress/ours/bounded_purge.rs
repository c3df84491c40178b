//! A purge of thousands of areas is made of steps, none of which takes more than a batch.
//!
//! Linux purges the whole lazy list under a mutex: more than 10 ms are on record. What a step does
//! is asserted; how long it took is told, since that depends on the machine.

use super::super::alone::{Terms, check};
use super::super::subject::Verdict;
use super::empty;
use crate::args::Machine;
use std::error::Error;
use std::time::{Duration, Instant};
use vmalloc::Pool;
use vmalloc_core::{Area, Pages, Purged, Request, flush::BATCH};
use vmalloc_sim::{KernelConfig, SimKernel};

const AREAS: usize = 4096;
const ONE: Request = Request::bytes(4096);

/// Parks the areas, and purges step by step.
pub fn run(terms: &Terms) -> Verdict<String> {
    match terms.machine {
        Machine::Linux => on_linux(),
        Machine::Sim => on_sim(),
    }
}

fn on_linux() -> Verdict<String> {
    let capacity = 2 * AREAS as u64 * 4096;
    let pool = Pool::options().members(1).lazy_bytes(capacity).create(capacity)?;
    drop((0..AREAS).map(|_| pool.alloc(&ONE)).collect::<Result<Vec<_>, _>>()?);
    let saw = steps(|| pool.purge_step())?;
    check(pool.verify()?.parked == 0, || "areas are parked".to_owned())?;
    Ok(saw)
}

fn on_sim() -> Verdict<String> {
    let frames = Pages(2 * AREAS as u64);
    let config = KernelConfig {
        frames,
        lazy_pages_max: frames,
        backings: 2 * AREAS,
        spaces: 1,
        ..KernelConfig::default()
    };
    SimKernel::run(config, |kernel| {
        let engine = kernel.engine(0);
        let areas: Vec<Area> =
            (0..AREAS).map(|_| engine.vmalloc(&ONE)).collect::<Result<_, _>>()?;
        for area in &areas {
            let _ = engine.vfree(area.addr())?;
        }
        let saw = steps(|| engine.purge_step())?;
        empty(kernel)?;
        Ok(saw)
    })
}

/// Purges to the end, and looks at each step.
fn steps<E>(mut step: impl FnMut() -> Result<Purged, E>) -> Verdict<String>
where
    E: Error + Send + Sync + 'static,
{
    let (mut areas, mut steps, mut longest) = (0, 0, Duration::ZERO);
    let started = Instant::now();
    loop {
        let begun = Instant::now();
        let purged = step()?;
        longest = longest.max(begun.elapsed());
        if purged.areas == 0 {
            break;
        }
        check(purged.areas <= BATCH && purged.flushes == 1, || format!("a step: {purged:?}"))?;
        areas += purged.areas;
        steps += 1;
    }
    check(areas == AREAS, || format!("{areas} of {AREAS} were purged"))?;
    Ok(format!(
        "{AREAS} areas in {steps} steps of {BATCH} at most; the longest {} us of {} us in all",
        longest.as_micros(),
        started.elapsed().as_micros()
    ))
}
