//! A member dies between two steps; whoever comes next finishes what it began.
//!
//! The verb runs once in peace, and the machine takes a photo of every word before and after each
//! of its own calls. Each photo is a moment at which a kill could have come: from it a survivor
//! recovers the dead member, verifies, and winds everything up; nothing may be left.
//!
//! ```text
//!   prepare ─ verb ─┬─photo─┬─photo─┬─photo─▶ done
//!                   ▼       ▼       ▼
//!                recover, verify, go on, free all, purge: every page a hole, none backed
//! ```

use vmalloc_core::{Area, AttachError, Kind, Publish, Request, Token};
use vmalloc_sim::in_place::{Photo, Pool, PoolEngine, owner};

const DEAD: usize = 1;
const SURVIVOR: usize = 2;
const WITNESS: usize = 3;

/// What everybody has before the verb.
struct Prepared {
    /// The one who will die, alone.
    own: Area,
    /// Shared by the one who will die; the witness is attached.
    given: Token,
    /// Shared by the witness; the one who will die is attached.
    taken: Token,
    /// Shared by the witness; the one who will die is not attached yet.
    offered: Token,
    /// The witness's, alone: nobody else's business at any time.
    apart: Area,
}

fn prepare(pool: &Pool) -> Prepared {
    let (dead, witness) = (pool.engine(DEAD), pool.engine(WITNESS));
    let shared = |engine: &PoolEngine<'_>, pages: u64| {
        let area = engine.vmalloc(&Request::bytes(pages * 4096)).unwrap();
        engine.share(area.id, area.generation, Publish::Shared).unwrap()
    };
    let own = dead.vmalloc(&Request::bytes(3 * 4096)).unwrap();
    let given = shared(&dead, 4);
    witness.attach(&given, vmalloc_core::Prot::READ_WRITE).unwrap();
    let (taken, offered) = (shared(&witness, 5), shared(&witness, 600));
    dead.attach(&taken, vmalloc_core::Prot::READ_WRITE).unwrap();
    let apart = witness.vmalloc(&Request::bytes(2 * 4096)).unwrap();
    // Parked: of a chunk, and one with granules of its own; its and the witness's.
    for (engine, pages) in [(&dead, 3), (&dead, 700), (&witness, 6), (&witness, 500)] {
        let parked = engine.vmalloc(&Request::bytes(pages * 4096).align_bytes(8192)).unwrap();
        let _ = engine.vfree(parked.addr()).unwrap();
    }
    Prepared { own, given, taken, offered, apart }
}

/// Kills the member at each moment of `verb`, and recovers. Returns how many moments.
fn survive<R>(verb: impl Fn(&PoolEngine<'_>, &Prepared) -> R) -> usize {
    let pool = Pool::new();
    let prepared = prepare(&pool);
    let photos = pool.photograph(|| drop(verb(&pool.engine(DEAD), &prepared)));
    for photo in &photos {
        recover_from(photo, &prepared);
    }
    photos.len()
}

fn recover_from(photo: &Photo, prepared: &Prepared) {
    let pool = Pool::from_photo(photo);
    let when = &photo.when;
    let survivor = pool.engine(SURVIVOR);
    survivor.recover(owner(DEAD));
    survivor.verify().unwrap_or_else(|e| panic!("{when}: {e}"));

    // Nothing is the dead member's, and what was the witness's still is.
    let dead_owns = |area: &Area| area.kind == Kind::Live && area.owner == Some(owner(DEAD));
    assert!(!survivor.areas().any(|area| dead_owns(&area)), "{when}: it still owns an area");
    assert_eq!(survivor.find(prepared.apart.addr()), Some(prepared.apart), "{when}");
    let held: u64 = survivor.areas().map(|area| area.pages.len.0).sum();
    assert_eq!(pool.ground().charged, held, "{when}: charged to the pool");
    assert_eq!(pool.ground().backed.len() as u64, held, "{when}: backed");

    // A second time, by another, changes nothing.
    pool.engine(WITNESS).recover(owner(DEAD));
    survivor.verify().unwrap_or_else(|e| panic!("{when}, recovered twice: {e}"));

    // Life goes on, and then ends.
    let more = survivor.vmalloc(&Request::bytes(9 * 4096)).unwrap();
    let _ = survivor.vfree(more.addr()).unwrap();
    wind_up(&pool, when);
}

/// Everybody leaves, and everything goes.
fn wind_up(pool: &Pool, when: &str) {
    let areas: Vec<Area> = pool.engine(SURVIVOR).areas().collect();
    for area in areas {
        let detach = |n| pool.engine(n).detach(area.id, area.generation);
        match area.kind {
            Kind::Live => {
                let engine = pool.engine(area.owner.expect("live").number());
                let _ = engine.free(area.id, area.generation).unwrap();
            }
            Kind::Frozen | Kind::Shared => {
                let _ = pool.engine(SURVIVOR).free(area.id, area.generation).unwrap();
                let _ = detach(WITNESS);
            }
            Kind::Dying => {
                let _ = detach(WITNESS);
            }
            _ => {}
        }
    }
    let survivor = pool.engine(SURVIVOR);
    survivor.purge().unwrap_or_else(|e| panic!("{when}: {e}"));
    survivor.verify().unwrap_or_else(|e| panic!("{when}, at the end: {e}"));
    let left: Vec<Area> = survivor.areas().collect();
    assert_eq!(left, [], "{when}: areas at the end");
    let stats = survivor.stats();
    assert_eq!(stats.holes, stats.window, "{when}: pages that are no hole at the end");
    assert_eq!(
        pool.ground(),
        vmalloc_sim::in_place::Ground::default(),
        "{when}: the machine at the end"
    );
}

fn bytes(pages: u64) -> Request {
    Request::bytes(pages * 4096)
}

/// Goal: the harness itself is sound. Method: nobody dies in the middle of anything.
#[test]
fn member_that_dies_between_two_verbs_leaves_nothing() {
    assert_eq!(survive(|_, _| ()), 2);
}

#[test]
fn member_that_dies_in_vmalloc_leaves_nothing() {
    assert!(survive(|dead, _| dead.vmalloc(&bytes(10))) >= 6);
}

#[test]
fn member_that_dies_in_a_solo_vmalloc_leaves_nothing() {
    assert!(survive(|dead, _| dead.vmalloc(&bytes(900))) >= 6);
}

/// Goal: the same where a parked area is made longer or shorter, ours or another's.
/// Method: so much is taken first that less than is wanted is free; fresh frames there are none.
#[test]
fn member_that_dies_while_it_makes_an_area_fit_leaves_nothing() {
    for pages in [720, 690, 510, 490] {
        for request in [bytes(pages), bytes(pages).zeroed()] {
            let moments = survive(|dead, _| {
                dead.vmalloc(&bytes(1900)).unwrap();
                let before = dead.stats().revives;
                dead.vmalloc(&request).unwrap();
                assert_eq!(dead.stats().revives, before + 1, "{pages} pages were taken afresh");
            });
            assert!(moments >= 6, "{moments}");
        }
    }
}

#[test]
fn member_that_dies_in_a_revive_leaves_nothing() {
    survive(|dead, _| dead.vzalloc(&bytes(3).align_bytes(8192)));
    survive(|dead, _| dead.vzalloc(&bytes(700)));
    survive(|dead, _| dead.vmalloc(&bytes(6)));
}

#[test]
fn member_that_dies_in_free_leaves_nothing() {
    survive(|dead, prepared| dead.vfree(prepared.own.addr()));
    survive(|dead, prepared| dead.free(prepared.given.area, prepared.given.generation));
    survive(|dead, prepared| dead.free(prepared.taken.area, prepared.taken.generation));
}

#[test]
fn member_that_dies_in_a_strict_free_leaves_nothing() {
    let moments = survive(|dead, _| {
        let area = dead.vmalloc(&bytes(8).no_reuse()).unwrap();
        let _ = dead.vfree(area.addr()).unwrap();
    });
    assert!(moments >= 12, "{moments}");
}

#[test]
fn member_that_dies_in_share_leaves_nothing() {
    let moments = survive(|dead, prepared| {
        let own = &prepared.own;
        dead.share(own.id, own.generation, Publish::Frozen).unwrap();
    });
    assert!(moments >= 3);
}

#[test]
fn member_that_dies_in_attach_or_detach_leaves_nothing() {
    let moments = survive(|dead, prepared| {
        dead.attach(&prepared.offered, vmalloc_core::Prot::READ_WRITE).unwrap();
    });
    assert!(moments >= 4);
    survive(|dead, prepared| {
        let _ = dead.detach(prepared.taken.area, prepared.taken.generation);
    });
    // The last to leave an area that its owner has freed.
    survive(|dead, prepared| {
        let _ = dead.free(prepared.taken.area, prepared.taken.generation).unwrap();
        let _ = dead.detach(prepared.taken.area, prepared.taken.generation);
    });
}

#[test]
fn member_that_dies_in_purge_leaves_nothing() {
    let moments = survive(|dead, _| dead.purge());
    assert!(moments >= 15, "{moments}");
}

/// Goal: a recovery that is cut short is done again by the next, for both dead.
#[test]
fn recoverer_that_dies_leaves_nothing() {
    let pool = Pool::new();
    let prepared = prepare(&pool);
    let photos = pool.photograph(|| {
        let dead = pool.engine(DEAD);
        dead.vmalloc(&bytes(10)).unwrap();
        dead.purge().unwrap();
    });
    let mut moments = 0;
    for photo in &photos {
        let pool = Pool::from_photo(photo);
        let second = pool.photograph(|| {
            pool.engine(SURVIVOR).recover(owner(DEAD));
        });
        for photo in &second {
            let pool = Pool::from_photo(photo);
            let third = pool.engine(4);
            third.recover(owner(SURVIVOR));
            third.recover(owner(DEAD));
            third.verify().unwrap_or_else(|e| panic!("{}: {e}", photo.when));
            assert_eq!(third.find(prepared.apart.addr()), Some(prepared.apart));
            wind_up(&pool, &photo.when);
            moments += 1;
        }
    }
    assert!(moments > 60, "{moments}");
}

/// Goal: a pool in place loses nothing when a call of the machine fails, either. Method: as in
/// `each_step_fails.rs`: count the calls of a verb, then fail each.
#[test]
fn every_call_of_a_machine_in_place_fails_cleanly() {
    type Verb = fn(&PoolEngine<'_>, &Prepared) -> Result<(), String>;
    fn told<T>(result: Result<T, impl ToString>) -> Result<(), String> {
        result.map(drop).map_err(|e| e.to_string())
    }
    let verbs: [Verb; 7] = [
        |e, _| told(e.vmalloc(&bytes(10))),
        |e, _| told(e.vmalloc(&bytes(900))),
        |e, _| told(e.vzalloc(&bytes(3))),
        |e, p| told(e.share(p.own.id, p.own.generation, Publish::Shared)),
        |e, p| told(e.attach(&p.offered, vmalloc_core::Prot::READ_WRITE)),
        |e, p| told(e.vfree(p.own.addr())),
        |e, _| told(e.purge()),
    ];
    for (i, verb) in verbs.into_iter().enumerate() {
        let pool = Pool::new();
        let prepared = prepare(&pool);
        let calls = pool.count(|| verb(&pool.engine(DEAD), &prepared).unwrap());
        for (n, call) in calls.iter().enumerate() {
            let when = format!("verb {i}, call {n}, {call:?}");
            let pool = Pool::new();
            let prepared = prepare(&pool);
            pool.fail(Some(n));
            let refused = verb(&pool.engine(DEAD), &prepared).is_err();
            pool.fail(None);
            let engine = pool.engine(DEAD);
            engine.verify().unwrap_or_else(|e| panic!("{when}: {e}"));
            if refused {
                verb(&engine, &prepared).unwrap_or_else(|e| panic!("{when}, then: {e}"));
            }
            let held: u64 = engine.areas().map(|area| area.pages.len.0).sum();
            assert_eq!(pool.ground().charged, held, "{when}");
            engine.recover(owner(4));
            pool.engine(SURVIVOR).recover(owner(DEAD));
            wind_up(&pool, &when);
        }
    }
}

/// Goal: what a dead member wrote nobody reads, not even the next member with its number, which
/// otherwise gets its own areas back as they were. Method: areas that it had freed, and that it
/// died with; each is revived, and must be zeroed.
#[test]
fn area_of_a_dead_member_is_zeroed_for_the_next_one_with_its_number() {
    let pool = Pool::new();
    let mut areas = vec![prepare(&pool).own];
    let dead = pool.engine(DEAD);
    areas.push(dead.vmalloc(&bytes(11)).unwrap());
    let _ = dead.vfree(areas[1].addr()).unwrap();
    pool.engine(SURVIVOR).recover(owner(DEAD));
    let next = pool.engine(DEAD);
    for area in areas {
        let mut revived = None;
        // The parked area of the same length that `prepare` left may come first.
        while revived != Some(area.pages) {
            let request = Request::bytes(area.pages.len.bytes());
            let calls = pool.count(|| revived = next.vmalloc(&request).ok().map(|a| a.pages));
            assert!(calls.contains(&vmalloc_sim::in_place::Call::Zero), "{revived:?}: {calls:?}");
        }
    }
}

/// Goal: a token that was good once is stale for ever, and one that never was is malformed.
/// Method: the area is purged and its granules go back to the holes.
#[test]
fn regress_token_of_a_purged_area_was_malformed() {
    let pool = Pool::new();
    let owner = pool.engine(DEAD);
    let area = owner.vmalloc(&bytes(3)).unwrap();
    let token = owner.share(area.id, area.generation, Publish::Shared).unwrap();
    let _ = owner.free(area.id, area.generation).unwrap();
    let _ = owner.detach(area.id, area.generation);
    owner.purge().unwrap();
    let guest = pool.engine(SURVIVOR);
    let attach = |token: &Token| guest.attach(token, vmalloc_core::Prot::READ_WRITE);
    let stale = AttachError::Stale { generation: token.generation };
    assert_eq!(attach(&token), Err(stale));
    assert_eq!(guest.look(&token), Err(stale));
    let nowhere = Token { area: vmalloc_core::AreaId(64 * 64), ..token };
    assert_eq!(attach(&nowhere), Err(AttachError::Malformed));
    assert_eq!(guest.look(&nowhere), Err(AttachError::Malformed));
}
