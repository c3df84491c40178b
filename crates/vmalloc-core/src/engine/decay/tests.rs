//! Who is old, and who revives what is about to go.

extern crate std;

use crate::proof::machine::Pool;
use crate::sync::stepped;
use crate::{Area, Kind, Pages, Request};
use std::cell::Cell;
use std::rc::Rc;
use std::vec::Vec;

fn parked(pool: &Pool, pages: &[u64]) -> Vec<Area> {
    let engine = pool.engine(1);
    let ask = |&pages: &u64| engine.vmalloc(&Request::bytes(pages * 4096)).unwrap();
    let areas: Vec<Area> = pages.iter().map(ask).collect();
    for area in &areas {
        let _ = engine.free(area.id, area.generation).unwrap();
    }
    areas
}

/// What is in each place; `None`: nothing.
fn kinds(pool: &Pool, areas: &[Area]) -> Vec<Option<Kind>> {
    let engine = pool.engine(1);
    let kind = |area: &Area| engine.area(area.id).map(|area| area.kind);
    areas.iter().map(|area| kind(area).filter(|kind| *kind != Kind::Free)).collect()
}

/// Goal: what was parked at two calls goes at the second, all for one flush; what was used between
/// them stays, and goes at the third. Method: three sizes, of which one is taken and parked again.
#[test]
fn what_nobody_used_between_two_calls_goes() {
    let pool = Pool::small();
    let areas = parked(&pool, &[1, 3, 5]);
    let engine = pool.engine(1);
    assert_eq!(engine.decay().unwrap().areas, 0);
    let used = parked(&pool, &[3])[0];
    assert_eq!(used.id, areas[1].id, "it was revived");
    let purged = engine.decay().unwrap();
    assert_eq!((purged.areas, purged.pages, purged.flushes), (2, Pages(6), 1));
    assert_eq!(kinds(&pool, &areas), [None, Some(Kind::Parked), None]);
    assert_eq!(engine.decay().unwrap().pages, Pages(3));
    assert_eq!(engine.decay().unwrap().areas, 0);
    engine.verify().unwrap();
    assert_eq!(pool.backed(), 0);
}

/// Goal: an area that is in use is never taken, whenever it was taken into use. Method: before each
/// write of a decay that would purge it, another member revives it.
#[test]
fn an_area_that_is_revived_meanwhile_stays() {
    let mut revived = 0;
    for write in 0.. {
        let pool = Rc::new(Pool::small());
        let area = parked(&pool, &[3])[0];
        pool.engine(1).decay().unwrap();
        let (other, taken, writes) = (Rc::clone(&pool), Rc::new(Cell::new(None)), Cell::new(0));
        let told = Rc::clone(&taken);
        let hook = move || {
            if writes.replace(writes.get() + 1) == write {
                let request = Request::bytes(3 * 4096);
                told.set(Some(other.engine(2).vmalloc(&request).unwrap()));
            }
        };
        stepped::with_hook(hook, || pool.engine(1).decay().unwrap());
        let Some(taken) = taken.get() else { break };
        let engine = pool.engine(2);
        assert_eq!(engine.area(taken.id).map(|area| area.kind), Some(Kind::Live), "write {write}");
        engine.verify().unwrap();
        revived += u32::from(taken.id == area.id && engine.stats().revives == 1);
        // A mark that it got while in use says nothing when it is parked.
        let _ = engine.free(taken.id, taken.generation).unwrap();
        engine.decay().unwrap();
        assert_eq!(kinds(&pool, &[taken]), [Some(Kind::Parked)], "write {write}");
        engine.decay().unwrap();
        assert_eq!(
            (kinds(&pool, &[taken]), pool.backed()),
            (Vec::from([None]), 0),
            "write {write}"
        );
    }
    assert!(revived > 0);
}

/// Goal: a step takes 64 areas at most, and only the one that finds none marks.
#[test]
fn a_step_takes_one_batch() {
    let pool = Pool::small();
    parked(&pool, &[1; 100]);
    let engine = pool.engine(1);
    let steps = [(); 4].map(|()| engine.decay_step().unwrap().areas);
    assert_eq!(steps, [0, 64, 36, 0]);
    assert_eq!(engine.stats().flushes, 2);
}

/// Goal: where nothing can be flushed nothing is lost, and it goes when that is over.
#[test]
fn what_could_not_go_goes_later() {
    let mut pool = Pool::small();
    pool.refuses_flushes = true;
    let areas = parked(&pool, &[1, 3]);
    pool.engine(1).decay().unwrap();
    pool.engine(1).decay().unwrap_err();
    assert_eq!(kinds(&pool, &areas), [Some(Kind::Parked); 2]);
    pool.refuses_flushes = false;
    assert_eq!(pool.engine(1).decay().unwrap().areas, 2);
}
