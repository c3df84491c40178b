//! Presence: an area stays while a member is attached, and goes when nobody is.

extern crate std;

use super::pool;
use crate::presence::Presence;
use crate::proof::explore::{Canary, Scenario, Walk, race_each_first};
use crate::proof::machine::{ANY, Pool, owner};
use crate::record::Kind;
use crate::sync::explored::Sequential;
use crate::{Area, Machine as _, Publish, Request, Token, lazy, purge, share};
use crate::{Pages, give};
use std::boxed::Box;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

const PAGES: u64 = 2;

struct World {
    pool: Pool,
    area: Area,
    token: Token,
    taken: Mutex<usize>,
}

impl World {
    /// An area that member 1 made, published, and is attached to.
    fn shared() -> Arc<World> {
        World::new(|pool, area| {
            pool.engine(1).share(area.id, area.generation, Publish::Shared).unwrap()
        })
    }

    fn new(publish: impl Fn(&Pool, &Area) -> Token) -> Arc<World> {
        let pool = pool(1);
        let area = pool.engine(1).vmalloc(&Request::bytes(PAGES * 4096)).unwrap();
        let token = publish(&pool, &area);
        Arc::new(World { pool, area, token, taken: Mutex::default() })
    }

    fn state(&self) -> crate::State {
        self.pool.context(3).record(self.area.id.0 as usize).state().unwrap()
    }

    /// Attaches; while it is attached the area is there, and nobody else's.
    fn visit(&self, member: usize) {
        let context = self.pool.context(member);
        let Ok(area) = share::attach_in_place(&context, &self.token) else { return };
        assert_eq!(area.generation, self.token.generation, "attached to the next tenant");
        let state = self.state();
        assert_eq!(state.generation, self.token.generation, "the next tenant lives here already");
        assert!(matches!(state.kind, Kind::Shared | Kind::Dying), "attached to {state:?}");
        let page = area.pages.start;
        assert!(context.machine.translate(page).is_some(), "its frames went home");
        share::detach(&context, area.id, area.generation);
    }

    /// The maker frees it and leaves.
    fn free(&self) {
        let context = self.pool.context(1);
        let record = context.record(self.area.id.0 as usize);
        share::free_published(&context, record, self.state()).unwrap();
        share::detach(&context, self.area.id, self.area.generation);
    }

    fn purge(&self) {
        purge::purge_step(&self.pool.context(1), Pages(u64::MAX), |_| true).unwrap();
    }

    /// The same member has the same area again, and publishes it.
    fn publish_again(&self) {
        let context = self.pool.context(1);
        let Some(area) = lazy::revive(&context, &self.pool.plan(PAGES), ANY) else { return };
        let token = share::share(&context, area.id, area.generation, Publish::Shared).unwrap();
        assert!(token.generation > self.token.generation);
    }

    /// When all is quiet: nobody's cell says the first tenant; it is parked, or another lives there.
    fn settle(&self) {
        let cells = Presence::of(self.pool.context(3).tables, self.area.id.0 as usize);
        assert_eq!(cells.count(self.token.generation), 0, "a cell stays");
        assert!(!cells.holds(owner(2), self.state().generation), "attached to what it never saw");
        let (kind, is_first) =
            (self.state().kind, self.state().generation == self.token.generation);
        let over = matches!(kind, Kind::Parked | Kind::Free);
        assert!(!is_first || over, "{kind:?}, and nobody will ever free it");
    }
}

fn run(name: &'static str, preemptions: usize, canary: Canary, body: fn()) {
    let needs = Sequential::Plain;
    Scenario { name, preemptions: Some(preemptions), needs, canary, body }.run();
}

fn check(world: Arc<World>, walks: Vec<Walk<World>>) {
    race_each_first(&world, |world| &world.pool.words, walks);
    world.settle();
}

/// Goal: who is attached keeps the area; when nobody is it goes. Method: one attaches and leaves
/// while its maker frees it, leaves and purges.
#[test]
fn attached_area_stays_and_a_left_one_goes() {
    fn body() {
        let free = |w: &World| {
            w.free();
            w.purge();
        };
        check(World::shared(), vec![Box::new(|w| w.visit(2)), Box::new(free)]);
    }
    run("presence: attach against free", 3, Canary::Unordered, body);
}

/// Goal: a late attach never holds the next tenant. Method: the maker frees it, has it again, and
/// publishes it, while another attaches by the old token.
#[test]
fn late_attach_does_not_hold_the_next_tenant() {
    fn body() {
        let again = |w: &World| {
            w.free();
            w.publish_again();
        };
        check(World::shared(), vec![Box::new(|w| w.visit(2)), Box::new(again)]);
    }
    run("presence: attach against the next tenant", 3, Canary::Unordered, body);
}

/// Goal: the last to leave a dying area parks it, and only one does. Method: both leave at once.
#[test]
fn last_of_two_to_leave_parks_it() {
    fn body() {
        let world = World::shared();
        share::attach_in_place(&world.pool.context(2), &world.token).unwrap();
        let record = world.area.id.0 as usize;
        let context = world.pool.context(1);
        share::free_published(&context, context.record(record), world.state()).unwrap();
        let leave = |member| {
            Box::new(move |w: &World| {
                share::detach(&w.pool.context(member), w.area.id, w.token.generation);
            }) as Walk<World>
        };
        check(Arc::clone(&world), vec![leave(1), leave(2)]);
        assert_eq!(world.pool.context(3).lazy_pages(), Pages(PAGES), "counted once");
    }
    run("presence: two leave", 5, Canary::Unordered, body);
}

/// Goal: a gift has one taker. Method: two take it; a bug in which the taker does not look whether
/// its step won gives it to both.
#[test]
fn gift_has_one_taker() {
    fn race_for(take: fn(&World, usize) -> bool) {
        let world =
            World::new(|pool, area| pool.engine(1).give(area.id, area.generation, None).unwrap());
        let taker = |member| {
            Box::new(move |w: &World| *w.taken.lock().unwrap() += usize::from(take(w, member)))
                as Walk<World>
        };
        race_each_first(&world, |world| &world.pool.words, vec![taker(1), taker(2)]);
        assert_eq!(*world.taken.lock().unwrap(), 1, "takers of one gift");
    }
    fn body() {
        race_for(|w, member| give::take(&w.pool.context(member), &w.token).is_ok());
    }
    fn wrong() {
        race_for(|w, _| {
            w.state().kind == Kind::Given && {
                let live = crate::State { kind: Kind::Live, ..w.state() };
                w.pool.context(3).record(w.area.id.0 as usize).set_state(live);
                true
            }
        });
    }
    run("give: two take", 5, Canary::Assert("takers of one gift", wrong), body);
}
