//! Never full while free: a full pool, half of it freed at random, then one block of a quarter of
//! the pool, and then one of every free frame. `--loops` says how many seeds.

use super::super::alone::{Terms, check};
use super::super::subject::Verdict;
use super::{MIB, REAL_ONLY, empty};
use crate::demo::pattern;
use crate::demo::plan::Plan;
use crate::size::Size;
use std::time::{Duration, Instant};
use vmalloc::{Buf, Pool};
use vmalloc_core::Pages;

const SEEDS: u64 = 3;

/// What all seeds showed.
#[derive(Default)]
struct Seen {
    areas: usize,
    /// The longest run of frames that first fit would have had free, in the worst of all seeds.
    longest: u64,
    vmas: usize,
    slowest: Duration,
}

/// Sizes from 4 KiB to 4 MiB.
pub fn run(terms: &Terms) -> Verdict<String> {
    terms.on_linux_only(REAL_ONLY)?;
    let capacity = Pages::for_bytes(terms.pool_bytes.unwrap_or(256 * MIB));
    let seeds = terms.loops.unwrap_or(SEEDS);
    let mut seen = Seen::default();
    for seed in terms.seed..terms.seed.saturating_add(seeds) {
        one(seed, capacity, &mut seen)?;
    }
    let Seen { areas, longest, vmas, slowest } = seen;
    Ok(format!(
        "{seeds} of {seeds} seeds in pools of {}: a block of 25 % of the pool, and one of every \
         free frame; {areas} areas had filled them, the longest free piece was {} at most; \
         {vmas} VMAs at most, the slowest block took {:.1} ms",
        Size(capacity.bytes()),
        Size(longest),
        slowest.as_secs_f64() * 1000.0
    ))
}

fn one(seed: u64, capacity: Pages, seen: &mut Seen) -> Verdict {
    let pool = Pool::create(capacity.bytes())?;
    let plan = Plan::new(seed, capacity);
    let mut bufs = Vec::new();
    for (number, size) in (0..).zip(&plan.sizes) {
        let mut buf = pool.vmalloc(size.bytes() as usize)?;
        pattern::fill(&mut buf, pattern::key(seed, number), 0);
        bufs.push(Some(buf));
    }
    check(pool.vmalloc(1).is_err(), || format!("seed {seed}: a full pool gave a page"))?;
    for &at in &plan.freed {
        bufs[at] = None;
    }
    let sizes = || plan.sizes.iter().zip(&bufs);
    let free: u64 = sizes().filter(|(_, buf)| buf.is_none()).map(|(size, _)| size.bytes()).sum();
    let longest = sizes().fold((0, 0), |(most, run), (size, buf)| {
        let run = if buf.is_none() { run + size.bytes() } else { 0 };
        (most.max(run), run)
    });
    // A seed may free less than a quarter if the pool is small; then that is what there is.
    for bytes in [(capacity.bytes() / 4).min(free), free] {
        let began = Instant::now();
        let mut block = pool.vmalloc(bytes as usize)?;
        seen.slowest = seen.slowest.max(began.elapsed());
        seen.vmas = seen.vmas.max(pool.vmas()?);
        pattern::fill(&mut block, seed, 0);
        check(pattern::first_wrong(&block, seed, 0).is_none(), || "the block is wrong".into())?;
    }
    let wrong = |(number, buf): (u64, &Option<Buf>)| {
        let is_wrong =
            |buf: &Buf| pattern::first_wrong(buf, pattern::key(seed, number), 0).is_some();
        buf.as_ref().is_some_and(is_wrong).then_some(number)
    };
    let wrong = (0..).zip(&bufs).find_map(wrong);
    check(wrong.is_none(), || format!("seed {seed}: area {wrong:?} was written by another"))?;
    drop(bufs);
    seen.areas += plan.sizes.len();
    seen.longest = seen.longest.max(longest.0);
    empty(&pool)
}
