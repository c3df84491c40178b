//! Whole verbs, by several threads and members, with kills.

extern crate std;

use super::machine::{ANY, Pool, owner};
use super::schedule::{By, Canary, Scenario};
use crate::planted::Bug;
use crate::record::{Kind, Record, State};
use crate::sync::scheduled;
use crate::{Area, Geometry, Machine as _, Prot, Publish, Request, Token, lazy};
use ::shuttle::rand::Rng as _;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

/// A pool, and what its members say of their pages: an owner writes its mark, and finds it again.
struct World {
    pool: Pool,
    marks: Mutex<BTreeMap<u64, u64>>,
    tokens: Mutex<Vec<Token>>,
}

type Walk = Box<dyn FnOnce(&World) + Send>;

impl World {
    fn new(granules: usize) -> Arc<World> {
        let geometry = Geometry { granules, small_granules: granules, members: 4, in_place: true };
        let pool = Pool::new(geometry, scheduled::words(geometry.words()));
        Arc::new(World { pool, marks: Mutex::default(), tokens: Mutex::default() })
    }

    fn alloc(&self, member: usize, pages: u64) -> Option<Area> {
        let area = self.pool.engine(member).vmalloc(&Request::bytes(pages * 4096)).ok()?;
        for page in area.pages.start.0..area.pages.end().0 {
            let other = self.marks.lock().unwrap().insert(page, member as u64);
            assert!(other.is_none(), "page {page:#x} of member {member} is member {other:?}'s");
        }
        Some(area)
    }

    /// What is about to be given up: nobody else has written to it.
    fn give_up(&self, member: usize, area: &Area) {
        for page in area.pages.start.0..area.pages.end().0 {
            let mark = self.marks.lock().unwrap().remove(&page);
            assert_eq!(mark, Some(member as u64), "page {page:#x} of member {member}");
        }
    }

    fn free(&self, member: usize, area: &Area) {
        self.give_up(member, area);
        let _ = self.pool.engine(member).free(area.id, area.generation).unwrap();
    }

    /// Allocates, frees, and allocates again.
    fn churn(&self, member: usize, pages: u64) {
        for _ in 0..2 {
            if let Some(area) = self.alloc(member, pages) {
                self.free(member, &area);
            }
        }
    }

    fn purge(&self, member: usize) {
        let _ = self.pool.engine(member).purge();
    }

    /// When all is quiet: the invariants hold, and a purge leaves nothing but what is in use.
    fn settle(&self, in_use: usize) {
        let engine = self.pool.engine(4);
        engine.verify().unwrap_or_else(|e| panic!("verify: {e:?}"));
        let _ = engine.purge();
        assert_eq!(self.pool.backed(), in_use, "pages with frames");
        engine.verify().unwrap_or_else(|e| panic!("verify at the end: {e:?}"));
    }
}

/// Runs the walks at once.
fn race(world: &Arc<World>, walks: Vec<Walk>) {
    let spawn = |walk: Walk| {
        let world = Arc::clone(world);
        ::shuttle::thread::spawn(move || walk(&world))
    };
    let threads: Vec<_> = walks.into_iter().map(spawn).collect();
    for thread in threads {
        thread.join().expect("a thread that panics ends the run");
    }
}

/// Goal: who allocates, frees and purges never has another's page, and loses none. Method: two threads
/// of one member with one size, a third member with another, and a window in which they are in each
/// other's way.
#[test]
fn members_that_churn_never_share_a_page() {
    fn body() {
        let world = World::new(2);
        let walks: Vec<Walk> = vec![
            Box::new(|w| w.churn(1, 3)),
            Box::new(|w| w.churn(1, 3)),
            Box::new(|w| {
                w.churn(3, 8);
                w.purge(3);
            }),
        ];
        race(&world, walks);
        world.settle(0);
    }
    let canary = Canary::Planted(Bug::DoublePublish);
    let by = By::Pct(3_000, 3);
    Scenario { name: "alloc, free, purge: three threads", by, canary, body }.run();
}

/// Goal: a parked area has one taker. Method: two threads of the member that parked it, which take it in
/// one step each, and one of another.
#[test]
fn parked_area_has_one_taker() {
    fn body() {
        let world = World::new(1);
        let area = world.alloc(1, 3).unwrap();
        world.free(1, &area);
        let take = |member| {
            Box::new(move |w: &World| {
                let (context, plan) = (w.pool.context(member), w.pool.plan(3));
                let last = lazy::revive_last(&context, &plan);
                if let Some(area) = last.or_else(|| lazy::revive(&context, &plan, ANY)) {
                    let was = w.marks.lock().unwrap().insert(area.pages.start.0, member as u64);
                    assert!(was.is_none(), "two have one area");
                }
            }) as Walk
        };
        race(&world, vec![take(1), take(1), take(2)]);
    }
    let (by, canary) = (By::Pct(5_000, 3), Canary::Planted(Bug::DoublePublish));
    Scenario { name: "revive: three threads", by, canary, body }.run();
}

/// Goal: a record has one tenant at a time. Method: two claim it, live in it and give it back, in
/// every order; a claim that looks and then stores lets two in.
#[test]
fn record_has_one_tenant_in_every_order() {
    fn race_for(claim: fn(&Record<'_>, usize) -> Option<State>) {
        let world = World::new(1);
        let live = |member| {
            Box::new(move |w: &World| {
                let context = w.pool.context(member);
                let record = context.record(0);
                let Some(mine) = claim(&record, member) else { return };
                let was = w.marks.lock().unwrap().insert(0, member as u64);
                assert!(was.is_none(), "two tenants");
                assert!(record.is_free() || record.state() == Some(mine));
                w.marks.lock().unwrap().remove(&0);
                record.step(mine, State::new(Kind::Free, None, mine.generation));
            }) as Walk
        };
        race(&world, vec![live(1), live(2)]);
    }
    fn body() {
        race_for(|record, member| record.claim(owner(member)));
    }
    fn wrong() {
        race_for(|record, member| {
            let free = record.state().filter(|state| state.kind == Kind::Free)?;
            let mine = State::new(Kind::Building, Some(owner(member)), free.generation + 1);
            record.set_state(mine);
            Some(mine)
        });
    }
    let (by, canary) = (By::DepthFirst(100_000), Canary::Wrong("a claim by look and store", wrong));
    Scenario { name: "record: two live in it", by, canary, body }.run();
}

/// Goal: whoever is attached sees the area, whoever frees it when. Method: the maker publishes, frees
/// and purges; two attach by its token, look, and leave.
#[test]
fn shared_area_stays_while_somebody_is_attached() {
    fn race_for(looks: bool) {
        let world = World::new(1);
        let area = world.pool.engine(1).vmalloc(&Request::bytes(2 * 4096)).unwrap();
        let token = world.pool.engine(1).share(area.id, area.generation, Publish::Shared).unwrap();
        world.tokens.lock().unwrap().push(token);
        let visit = move |member| {
            Box::new(move |w: &World| {
                let (engine, token) = (w.pool.engine(member), w.tokens.lock().unwrap()[0]);
                let seen = if looks {
                    engine.attach(&token, Prot::READ_WRITE)
                } else {
                    engine.look(&token)
                };
                let Ok(area) = seen else { return };
                // It uses the area for a while: others go on.
                (0..3).for_each(|_| scheduled::spin_loop());
                let is_there = engine.machine().translate(area.pages.start).is_some();
                assert!(is_there, "frames went home under member {member}");
                let _ = engine.detach(area.id, area.generation);
            }) as Walk
        };
        let free = |w: &World| {
            let (engine, token) = (w.pool.engine(1), w.tokens.lock().unwrap()[0]);
            let _ = engine.free(token.area, token.generation).unwrap();
            let _ = engine.detach(token.area, token.generation);
            w.purge(1);
        };
        race(&world, vec![visit(2), visit(3), Box::new(free)]);
        world.settle(0);
    }
    fn body() {
        race_for(true);
    }
    fn wrong() {
        race_for(false);
    }
    let canary = Canary::Wrong("seen without being attached", wrong);
    let by = By::Pct(3_000, 3);
    Scenario { name: "share, attach, free, purge: three members", by, canary, body }.run();
}

/// Goal: a member may be killed before any write while others work, and who recovers it may be killed,
/// too; the next leaves nothing. Method: the writes are chosen by shuttle's own random numbers; if nobody
/// recovers the dead, something is left.
#[test]
fn killed_member_and_killed_recoverer_leave_nothing() {
    fn walk(w: &World) -> Option<()> {
        let (engine, request) = (w.pool.engine(1), Request::bytes(3 * 4096));
        let area = engine.vmalloc(&request).ok()?;
        let token = engine.share(area.id, area.generation, Publish::Shared).ok()?;
        let _ = engine.free(token.area, token.generation);
        let _ = engine.detach(token.area, token.generation);
        let parked = engine.vmalloc(&request).ok()?;
        let _ = engine.free(parked.id, parked.generation);
        let _ = engine.purge();
        Some(())
    }
    fn race_for(is_recovered: bool) {
        let world = World::new(2);
        let mut random = ::shuttle::rand::thread_rng();
        let (first, second) = (random.gen_range(0..90), random.gen_range(0..300));
        let victim = move |w: &World| {
            if scheduled::until_killed(Some(first), || walk(w)).is_some() {
                return;
            }
            // Who recovers holds the lock on the dead one's byte: one at a time.
            let recover = || w.pool.engine(2).recover(owner(1));
            if scheduled::until_killed(Some(second), recover).is_none() && is_recovered {
                w.pool.engine(4).recover(owner(2));
                w.pool.engine(4).recover(owner(1));
            }
        };
        race(&world, vec![Box::new(victim), Box::new(|w| w.churn(3, 3))]);
        if is_recovered {
            // Counters are exact only if nobody works while they are counted.
            world.pool.engine(4).recover(owner(1));
        }
        for area in world.pool.engine(4).areas() {
            let _ = world.pool.engine(4).free(area.id, area.generation);
        }
        world.settle(0);
    }
    fn body() {
        race_for(true);
    }
    fn wrong() {
        race_for(false);
    }
    let canary = Canary::Wrong("nobody recovers the recoverer", wrong);
    let by = By::Pct(5_000, 3);
    Scenario { name: "two kills: a member and its recoverer", by, canary, body }.run();
}
