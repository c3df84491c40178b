//! The areas are listed in address order, none over another, while two threads come and go.
//!
//! Linux prints `vmallocinfo` under a spinlock that allocation waits for.

use super::super::alone::{Terms, check};
use super::super::subject::Verdict;
use super::empty;
use crate::args::Machine;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use vmalloc::Pool;
use vmalloc_core::{Area, Pages, Request};
use vmalloc_sim::{KernelConfig, Random, SimKernel};

/// So many at least, and until each worker has gone round so often meanwhile.
const LISTINGS: usize = 200;
const ROUNDS: u64 = 200;

/// Lists, while others allocate and free.
pub fn run(terms: &Terms) -> Verdict<String> {
    match terms.machine {
        Machine::Linux => {
            let pool = Pool::options().members(1).create(16 << 20)?;
            let saw =
                while_working(|request| pool.alloc(request).map(drop).is_ok(), || pool.areas())?;
            pool.purge()?;
            check(pool.verify()?.areas == 0, || "areas leaked".to_owned())?;
            Ok(saw)
        }
        Machine::Sim => {
            let config = KernelConfig { frames: Pages(4096), spaces: 1, ..KernelConfig::default() };
            SimKernel::run(config, |kernel| {
                let engine = kernel.engine(0);
                let come_and_go = |request: &Request| {
                    engine.vmalloc(request).is_ok_and(|area| engine.vfree(area.addr()).is_ok())
                };
                let saw = while_working(come_and_go, || engine.areas().collect())?;
                empty(kernel)?;
                Ok(saw)
            })
        }
    }
}

fn while_working(
    come_and_go: impl Fn(&Request) -> bool + Sync,
    list: impl Fn() -> Vec<Area>,
) -> Verdict<String> {
    let (is_over, all_served) = (AtomicBool::new(false), AtomicBool::new(true));
    let rounds = [AtomicU64::new(0), AtomicU64::new(0)];
    let work = |worker: usize| {
        let mut random = Random::new(worker as u64);
        while !is_over.load(Ordering::Relaxed) {
            if !come_and_go(&Request::bytes((1 + random.below(40)) * 4096)) {
                all_served.store(false, Ordering::Relaxed);
            }
            rounds[worker].fetch_add(1, Ordering::Relaxed);
        }
    };
    let (mut listings, mut listed, mut in_order) = (0, 0, true);
    thread::scope(|scope| {
        let work = &work;
        for worker in 0..rounds.len() {
            scope.spawn(move || work(worker));
        }
        let worked = || rounds.iter().all(|rounds| rounds.load(Ordering::Relaxed) >= ROUNDS);
        while in_order && (listings < LISTINGS || !worked()) {
            let areas = list();
            listings += 1;
            listed += areas.len();
            in_order = areas.windows(2).all(|two| two[0].pages.end() <= two[1].pages.start);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    check(in_order, || "a listing is out of order".to_owned())?;
    check(all_served.into_inner(), || "an allocation or a free failed meanwhile".to_owned())?;
    let rounds: u64 = rounds.into_iter().map(AtomicU64::into_inner).sum();
    Ok(format!(
        "{listings} listings in order, {listed} areas in all; {rounds} came and went meanwhile"
    ))
}
