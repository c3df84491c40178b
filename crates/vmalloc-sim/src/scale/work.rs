//! What the CPUs do: the same turns in the model and on this machine's clock.

use super::machine::{Bare, Lanes, be_cpu};
use crate::Random;
use std::hint::black_box;
use vmalloc_core::sync::AtomicU64;
use vmalloc_core::{Engine, Geometry, PAGE_SIZE, Pages, Request, VirtAddr};

/// What each CPU does again and again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workload {
    /// `vmalloc` of a page and `vfree`, warm, each CPU in its lane.
    Pair,
    /// The same, all in one lane.
    PairOneLane,
    /// One of 16 areas of 1 to 64 pages replaced, nothing parked: unmapped, flushed and given back.
    /// The shootdown costs nothing here, so that the rest is seen.
    Mixed,
    /// Look-ups at random among many areas, by all but one CPU in 8: that one frees an area and
    /// takes one again.
    Find,
    /// One of 32 areas of 1 to 400 pages replaced; who passes the lazy limit, which is Linux's for
    /// so many CPUs, purges, for a shootdown.
    Purge,
}

impl Workload {
    /// All of them, in the order of the report.
    pub const ALL: [Workload; 5] =
        [Workload::Pair, Workload::PairOneLane, Workload::Mixed, Workload::Find, Workload::Purge];

    /// Its name, for commands.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Workload::Pair => "pair",
            Workload::PairOneLane => "pair-one-lane",
            Workload::Mixed => "mixed",
            Workload::Find => "find",
            Workload::Purge => "purge",
        }
    }

    /// What it is, for a reader.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Workload::Pair => {
                "vmalloc + vfree of 1 page, warm; lanes as a program's threads have them"
            }
            Workload::PairOneLane => "the same, all CPUs in one lane, as over page tables",
            Workload::Mixed => {
                "vmalloc + vfree of 1 to 64 pages, nothing parked; flushes cost nothing"
            }
            Workload::Find => "look-ups; of each 8 CPUs the last frees and takes areas instead",
            Workload::Purge => {
                "vmalloc + vfree of 1 to 400 pages, parked and purged; shootdowns cost"
            }
        }
    }

    fn lanes(self) -> Lanes {
        if self == Workload::PairOneLane { Lanes::One } else { Lanes::Own }
    }

    /// Areas that each CPU holds, and the most pages that one has.
    fn held(self) -> (usize, u64) {
        match self {
            Workload::Pair | Workload::PairOneLane | Workload::Find => (0, 1),
            Workload::Mixed => (16, 64),
            Workload::Purge => (32, 400),
        }
    }
}

/// An engine at work.
pub struct Site<'w> {
    workload: Workload,
    engine: Engine<'w, Bare>,
    /// Areas to look up.
    starts: Vec<VirtAddr>,
}

impl<'w> Site<'w> {
    /// A window of this geometry for so many CPUs, with `areas` areas of a page in it if the
    /// workload looks any up. Each shootdown calls `shootdown`.
    ///
    /// # Panics
    ///
    /// If the window is too small for that.
    #[must_use]
    pub fn new(
        workload: Workload,
        words: &'w [AtomicU64],
        geometry: Geometry,
        cpus: usize,
        areas: usize,
        shootdown: fn(),
    ) -> Site<'w> {
        be_cpu(0);
        // Linux: 32 MiB for each doubling of the CPUs.
        let lazy_pages_max = Pages(8192 * u64::from(cpus.ilog2() + 1));
        let machine = Bare { lanes: workload.lanes(), shootdown };
        let engine = machine.engine(words, geometry, lazy_pages_max);
        let areas = if workload == Workload::Find { areas } else { 0 };
        // The first request of a window looks at all of it, once.
        let first = engine.vmalloc(&pages(1)).expect("a window with room").addr();
        let _ = engine.vfree(first).expect("an area of ours");
        let take = |_| engine.vmalloc(&pages(1)).expect("a window with room").addr();
        let starts = (0..areas).map(take).collect();
        Site { workload, engine, starts }
    }

    /// Frees the areas to look up, and purges all that is parked.
    ///
    /// # Panics
    ///
    /// If an invariant of the engine does not hold then, or anything is left.
    pub fn leave(self) {
        for start in self.starts {
            // One that a writer had may be parked.
            let _ = self.engine.vfree(start);
        }
        self.engine.purge().expect("a machine that flushes");
        let left = self.engine.verify().expect("an engine that is whole");
        assert_eq!((left.areas, left.parked), (0, 0), "{:?}", self.workload);
    }
}

/// A CPU at work.
pub struct Worker {
    cpu: usize,
    random: Random,
    held: Vec<VirtAddr>,
}

impl Worker {
    /// CPU `cpu`, with the areas that it holds. Makes this thread that CPU.
    #[must_use]
    pub fn new(site: &Site<'_>, cpu: usize, seed: u64) -> Worker {
        be_cpu(cpu);
        let random = Random::new(seed.wrapping_mul(0x1_0001).wrapping_add(cpu as u64));
        let mut worker = Worker { cpu, random, held: Vec::new() };
        let (held, _) = site.workload.held();
        for _ in 0..held {
            let area = worker.take(site);
            worker.held.push(area);
        }
        worker
    }

    /// Does it once. Makes this thread the worker's CPU.
    ///
    /// # Panics
    ///
    /// If the engine refuses: the window has room for all.
    pub fn turn(&mut self, site: &Site<'_>) {
        be_cpu(self.cpu);
        match site.workload {
            Workload::Pair | Workload::PairOneLane => {
                let area = self.take(site);
                give(site, black_box(area));
            }
            Workload::Mixed | Workload::Purge => {
                let i = self.random.index(self.held.len());
                give(site, self.held[i]);
                self.held[i] = self.take(site);
            }
            Workload::Find if self.cpu % 8 == 7 => {
                // Each writer's are others, spread over all of them.
                let i = self.random.index(site.starts.len()) / 16 * 16 + self.cpu / 8;
                if let Some(start) = site.starts.get(i)
                    && site.engine.vfree(*start).is_ok()
                {
                    black_box(self.take(site));
                }
            }
            Workload::Find => {
                let start = site.starts[self.random.index(site.starts.len())];
                black_box(site.engine.find(start));
            }
        }
    }

    /// Frees what it holds.
    pub fn leave(self, site: &Site<'_>) {
        be_cpu(self.cpu);
        self.held.into_iter().for_each(|area| give(site, area));
    }

    fn take(&mut self, site: &Site<'_>) -> VirtAddr {
        let (_, most) = site.workload.held();
        let request = pages(if most == 1 { 1 } else { 1 + self.random.below(most) });
        let request = if site.workload == Workload::Mixed { request.no_reuse() } else { request };
        site.engine.vmalloc(&request).expect("a window with room").addr()
    }
}

fn give(site: &Site<'_>, start: VirtAddr) {
    let freed = site.engine.vfree(start).expect("an area of ours");
    if freed.over_limit {
        site.engine.relieve().expect("a machine that flushes");
    }
}

fn pages(count: u64) -> Request {
    Request::bytes(count * PAGE_SIZE as u64)
}
