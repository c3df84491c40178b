//! The areas are listed in address order, none over another, while two threads come and go.
//!
//! Linux prints `vmallocinfo` under a spinlock that allocation waits for.

use super::super::alone::{Terms, check};
use super::super::subject::Verdict;
use super::empty;
use crate::args::Machine;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use vmalloc::Pool;
use vmalloc_core::{Area, Pages, Request};
use vmalloc_sim::{KernelConfig, Random, SimKernel};

const LISTINGS: usize = 200;

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
    let work = |seed| {
        let mut random = Random::new(seed);
        while !is_over.load(Ordering::Relaxed) {
            if !come_and_go(&Request::bytes((1 + random.below(40)) * 4096)) {
                all_served.store(false, Ordering::Relaxed);
            }
        }
    };
    let mut listed = 0;
    let in_order = thread::scope(|scope| {
        let workers = [1, 2].map(|seed| scope.spawn(move || work(seed)));
        let in_order = (0..LISTINGS).all(|_| {
            let areas = list();
            listed += areas.len();
            areas.windows(2).all(|two| two[0].pages.end() <= two[1].pages.start)
        });
        is_over.store(true, Ordering::Relaxed);
        drop(workers);
        in_order
    });
    check(in_order, || "a listing is out of order".to_owned())?;
    check(all_served.into_inner(), || "an allocation or a free failed meanwhile".to_owned())?;
    Ok(format!("{LISTINGS} listings of {listed} areas in all, in order, two threads at work"))
}
