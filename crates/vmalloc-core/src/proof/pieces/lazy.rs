//! The lazy list: parked areas are found, and have one taker.

extern crate std;

use super::pool;
use crate::class::Class;
use crate::machine::Machine as _;
use crate::planted::Bug;
use crate::proof::explore::{Canary, Scenario, Walk, race_each_first};
use crate::proof::machine::{ANY, Pool, START};
use crate::record::{Kind, Shape, State};
use crate::slots::slot_pages;
use crate::sync::explored::Sequential;
use crate::{Area, PageRange, Pages, lazy, purge};
use std::boxed::Box;
use std::sync::{Arc, Mutex};
use std::vec;

const PAGES: u64 = 3;

struct World {
    pool: Pool,
    area: Area,
    taken: Mutex<u64>,
}

impl World {
    /// An area of member 1, which was parked before and is now if `parked`.
    fn new(parked: bool) -> Arc<World> {
        let pool = pool(1);
        let area = {
            let engine = pool.engine(1);
            let first = engine.vmalloc(&crate::Request::bytes(PAGES * 4096)).unwrap();
            let _ = engine.vfree(first.addr()).unwrap();
            let area = engine.vmalloc(&crate::Request::bytes(PAGES * 4096)).unwrap();
            assert_eq!(area.addr(), first.addr());
            if parked {
                let _ = engine.vfree(area.addr()).unwrap();
            }
            area
        };
        Arc::new(World { pool, area, taken: Mutex::default() })
    }

    fn park(&self) {
        let context = self.pool.context(1);
        let live = State::new(Kind::Live, Some(context.me), self.area.generation);
        assert!(lazy::park(&context, context.record(self.area.id.0 as usize), live));
    }

    fn revive(&self, member: usize) {
        let (context, plan) = (self.pool.context(member), self.pool.plan(PAGES));
        let last = lazy::revive_last(&context, &plan);
        if last.or_else(|| lazy::revive(&context, &plan, ANY)).is_some() {
            let mut taken = self.taken.lock().unwrap();
            *taken += 1;
            assert_eq!(*taken, 1, "two have one area");
        }
    }

    fn purge(&self, member: usize) {
        purge::purge_step(&self.pool.context(member), Pages(u64::MAX), |_| true).unwrap();
    }

    /// Goes through the list and takes back hints that lead nowhere.
    fn visit(&self, member: usize) {
        let context = self.pool.context(member);
        let class = Class::for_span(Pages(PAGES + 1));
        lazy::each_parked(&context, class, |_| false);
    }

    /// When all is quiet: what is parked is found by a purge, and counted.
    fn settle(&self) {
        let context = self.pool.context(3);
        let engine = self.pool.engine(3);
        engine.verify().unwrap_or_else(|e| panic!("verify: {e:?}"));
        self.purge(3);
        let live = *self.taken.lock().unwrap() * PAGES;
        assert_eq!(self.pool.backed() as u64, live, "a parked area is not found");
        assert_eq!(context.lazy_pages(), Pages(0), "parked pages are not counted");
    }
}

fn run(name: &'static str, preemptions: usize, needs: Sequential, canary: Canary, body: fn()) {
    Scenario { name, preemptions: Some(preemptions), needs, canary, body }.run();
}

fn check(parked: bool, walks: std::vec::Vec<Walk<World>>) {
    let world = World::new(parked);
    race_each_first(&world, |world| &world.pool.words, walks);
    world.settle();
}

/// Goal: an area that is parked is found, though hints are being taken back. Method: it is parked
/// where it was before, so its hint is there, while another takes that hint back.
#[test]
fn parked_area_is_found_though_its_old_hint_is_taken_back() {
    fn body() {
        check(false, vec![Box::new(World::park), Box::new(|w| w.visit(2))]);
    }
    run("lazy: park against a visit", 4, Sequential::Fenced, Canary::AcqRel, body);
}

#[test]
fn parked_area_is_purged_or_found_later() {
    fn body() {
        check(false, vec![Box::new(World::park), Box::new(|w| w.purge(2))]);
    }
    run("lazy: park against a purge", 3, Sequential::Fenced, Canary::AcqRel, body);
}

/// Goal: one of two has a parked area. Method: its last owner, who takes it in one step, and
/// another; with the planted bug both have it.
#[test]
fn parked_area_is_revived_by_one() {
    fn body() {
        check(true, vec![Box::new(|w| w.revive(1)), Box::new(|w| w.revive(2))]);
    }
    run("lazy: two revive", 3, Sequential::Plain, Canary::Bug(Bug::DoublePublish), body);
}

#[test]
fn parked_area_is_revived_or_purged() {
    fn body() {
        check(true, vec![Box::new(|w| w.revive(1)), Box::new(|w| w.purge(2))]);
    }
    run(
        "lazy: revive against a purge",
        3,
        Sequential::Fenced,
        Canary::Bug(Bug::DoublePublish),
        body,
    );
}

/// Goal: what is revived is shown where it lies. Method: a parked area is purged, its granule becomes
/// a chunk of larger slots, and one of those is parked with as many pages, while another looks for such
/// an area. A bug in which the slot is looked at before the state shows it where the first one lay.
#[test]
fn revived_area_is_shown_where_it_lies() {
    /// Slot 1 of a chunk of three-page areas, and of eight-page areas, and their generations.
    const PLACES: [(u64, u64); 2] = [(2, 4), (3, 9)];
    fn race_for(revive: fn(&World) -> Option<(u64, u64)>) {
        let pool = pool(1);
        let area = {
            let engine = pool.engine(1);
            let request = crate::Request::bytes(PAGES * 4096);
            let first = engine.vmalloc(&request.no_reuse()).unwrap();
            let area = engine.vmalloc(&request).unwrap();
            let _ = engine.vfree(first.addr()).unwrap();
            let _ = engine.vfree(area.addr()).unwrap();
            area
        };
        assert_eq!((area.id.0, area.generation), (1, 1));
        let world = Arc::new(World { pool, area, taken: Mutex::default() });
        let look = move |w: &World| {
            if let Some(found) = revive(w) {
                assert!(PLACES.contains(&found), "shown where it does not lie");
            }
        };
        race_each_first(&world, |world| &world.pool.words, vec![Box::new(look), Box::new(reuse)]);
    }
    fn reuse(w: &World) {
        w.purge(2);
        let (context, plan) = (w.pool.context(2), w.pool.plan(8));
        let take = || context.slots().take(plan.want, &context.machine).ok();
        let (Some(_), Some(slot)) = (take(), take()) else { return };
        let pages = PageRange { start: context.absolute(slot.pages).start, len: Pages(PAGES) };
        context.machine.back(pages, crate::FramePolicy::default()).unwrap();
        let (record, guard) = (context.record(slot.id), Pages(1));
        record.set_shape(&Shape { pages: pages.len, guard, backing: PAGES, ..Shape::default() });
        assert!(lazy::park(&context, record, slot.state));
    }
    fn body() {
        race_for(|w| {
            let area = lazy::revive(&w.pool.context(1), &w.pool.plan(PAGES), ANY)?;
            Some((area.generation, area.pages.start.0 - START.0))
        });
    }
    fn wrong() {
        race_for(|w| {
            let context = w.pool.context(1);
            let slot = slot_pages(context.tables, 1)?;
            let (parked, _) = context.record(1).snapshot()?;
            let generation = parked.generation + 1;
            let live = State::new(Kind::Live, Some(context.me), generation);
            let won = parked.kind == Kind::Parked && context.record(1).step(parked, live);
            won.then_some((generation, slot.start.0))
        });
    }
    let canary = Canary::Assert("shown where it does not lie", wrong);
    run("lazy: revive against another class", 3, Sequential::Plain, canary, body);
}
