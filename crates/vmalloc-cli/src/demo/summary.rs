//! What the demo did, for programs: `vmalloc demo --json`.

use super::Setup;
use super::plan::mix;
use crate::args::Way;
use crate::info::StatsJson;
use serde::{Deserialize, Serialize};
use vmalloc_core::{PAGE_SIZE, Pages};

/// The whole. It is printed only when every check has passed.
#[derive(Serialize)]
pub struct Summary {
    pub machine: &'static str,
    pub seed: u64,
    pub pool_bytes: u64,
    pub fill: Fill,
    pub contiguous: Contiguous,
    pub block: Block,
    pub members: Vec<Member>,
    pub recovered: Option<Recovered>,
    /// Frames of the pool that the system held: at the beginning, at the fullest, at the end.
    pub resident_bytes: [u64; 3],
    pub vmas: Option<Vmas>,
    pub stats: StatsJson,
    pub tlb: Option<Tlb>,
    pub elapsed_ms: u64,
}

/// The areas that filled the pool.
#[derive(Serialize)]
pub struct Fill {
    pub sizes_bytes: Vec<u64>,
    pub freed_areas: usize,
    pub free_bytes: u64,
}

/// What an allocator that cannot scatter would have had.
#[derive(Serialize)]
pub struct Contiguous {
    pub method: &'static str,
    pub largest_free_bytes: u64,
}

/// The one block.
#[derive(Serialize)]
pub struct Block {
    pub bytes: u64,
    pub token: Option<String>,
    /// Where it is mapped, in the first member.
    pub address: u64,
    pub frames: Option<Frames>,
}

/// The physical frames behind a block, as many as are known.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    pub present: u64,
    /// Runs of frames that follow each other in the order of the pages, upwards or downwards:
    /// the kernel often hands them out from the top of a run.
    pub runs: u64,
    pub lowest_pfn: u64,
    pub highest_pfn: u64,
    /// The same number where pages show the same frames in the same order.
    pub digest: u64,
}

/// A member.
#[derive(Serialize)]
pub struct Member {
    pub pid: Option<u32>,
    pub way: Option<Way>,
    pub address: u64,
    pub checked_bytes: u64,
    pub wrote_bytes: u64,
    pub killed: bool,
}

/// What was found of the member that was killed.
#[derive(Serialize)]
pub struct Recovered {
    pub areas: usize,
    pub detached: usize,
}

/// Virtual memory areas of the first process.
#[derive(Serialize)]
pub struct Vmas {
    pub pool: usize,
    pub process: usize,
}

/// What the simulated machine counted.
#[derive(Serialize)]
pub struct Tlb {
    pub hits: u64,
    pub misses: u64,
    pub shootdowns: u64,
    pub stale_hits: u64,
    /// Stale hits of the run in which shootdowns were omitted.
    pub stale_hits_when_omitted: u64,
}

impl Fill {
    /// What the plan says.
    pub fn of(setup: &Setup) -> Fill {
        Fill {
            sizes_bytes: setup.plan.sizes.iter().map(|pages| pages.bytes()).collect(),
            freed_areas: setup.plan.freed.len(),
            free_bytes: setup.plan.free_pages().bytes(),
        }
    }
}

impl Contiguous {
    /// By the one method we have.
    pub fn new(largest: Pages) -> Contiguous {
        Contiguous { method: "first-fit", largest_free_bytes: largest.bytes() }
    }
}

impl Frames {
    /// Counts runs over the frames that are present, in the order of the pages.
    pub fn of(frames: impl IntoIterator<Item = Option<u64>>) -> Option<Frames> {
        let mut counted: Option<(Frames, u64)> = None;
        for pfn in frames.into_iter().flatten() {
            let (frames, last) = counted.get_or_insert((
                Frames { present: 0, runs: 0, lowest_pfn: pfn, highest_pfn: pfn, digest: 0 },
                u64::MAX / 2,
            ));
            frames.present += 1;
            frames.runs += u64::from(last.abs_diff(pfn) != 1);
            frames.lowest_pfn = frames.lowest_pfn.min(pfn);
            frames.highest_pfn = frames.highest_pfn.max(pfn);
            frames.digest = mix(frames.digest ^ pfn);
            *last = pfn;
        }
        counted.map(|(frames, _)| frames)
    }

    /// Bytes of physical memory from the lowest to the highest.
    pub fn spread_bytes(&self) -> u64 {
        (self.highest_pfn - self.lowest_pfn + 1) * PAGE_SIZE as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_in_the_order_of_the_pages() {
        let frames = Frames::of([Some(7), Some(8), None, Some(9), Some(3), Some(2)]).unwrap();
        let found = (frames.present, frames.runs, frames.lowest_pfn, frames.highest_pfn);
        assert_eq!(found, (5, 2, 2, 9));
        assert_eq!(frames.spread_bytes(), 8 * 4096);
        assert_eq!(Frames::of([None]), None);
        assert_ne!(Frames::of([1, 2].map(Some)), Frames::of([2, 1].map(Some)));
    }
}
