//! The state word: one claimant, and a snapshot of one tenant.

extern crate std;

use super::pool;
use crate::proof::explore::{Canary, Scenario, race_each_first};
use crate::proof::machine::{Pool, owner};
use crate::record::{Kind, Record, Shape, State};
use crate::sync::explored::Sequential;
use crate::{Pages, Tables};
use std::boxed::Box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::vec;

struct World {
    pool: Pool,
    /// How many have claimed the record and not given it back.
    tenants: AtomicUsize,
}

impl World {
    fn new() -> Arc<World> {
        Arc::new(World { pool: pool(1), tenants: AtomicUsize::new(0) })
    }

    fn record(&self) -> Record<'_> {
        Record::new(Tables::new(&self.pool.words, self.pool.geometry).unwrap(), 0)
    }

    /// Claims, publishes and gives back, as a tenant whose whole shape says who it is.
    fn live(&self, who: usize) {
        let record = self.record();
        let Some(building) = record.claim(owner(who)) else { return };
        assert_eq!(self.tenants.fetch_add(1, Ordering::Relaxed), 0, "two tenants");
        let word = mark(building);
        let shape = Shape { bytes: word, caller: word, birth: word, ..Shape::default() };
        record.set_shape(&Shape { pages: Pages(word), ..shape });
        let live = State { kind: Kind::Live, ..building };
        assert!(record.step(building, live));
        self.tenants.fetch_sub(1, Ordering::Relaxed);
        assert!(record.step(live, State::new(Kind::Free, None, live.generation)));
    }

    fn look(&self) {
        let Some((state, shape)) = self.record().snapshot() else { return };
        if state.kind == Kind::Live {
            let words = [shape.bytes, shape.caller, shape.birth, shape.pages.0];
            assert_eq!(words, [mark(state); 4], "{state:?}");
        }
    }
}

/// What a tenant writes everywhere.
fn mark(state: State) -> u64 {
    state.generation * 100 + state.owner.map_or(0, |owner| owner.number() as u64)
}

/// Goal: a FREE record has one claimant. Method: two claim it; a bug in which whoever steps wins
/// would put two in.
#[test]
fn record_is_claimed_by_one() {
    fn body() {
        let world = World::new();
        let walks = (1..=2).map(|who| Box::new(move |w: &World| w.live(who)) as _).collect();
        race_each_first(&world, |w| &w.pool.words, walks);
        assert!(world.record().is_free());
    }
    let (preemptions, needs) = (None, Sequential::Plain);
    let canary = Canary::Assert("two tenants", || {
        let world = World::new();
        // As `claim`, but by a load and a store.
        let claim = |w: &World| {
            if w.record().is_free() {
                assert_eq!(w.tenants.fetch_add(1, Ordering::Relaxed), 0, "two tenants");
                w.record().set_state(State::new(Kind::Live, None, 1));
            }
        };
        race_each_first(&world, |w| &w.pool.words, vec![Box::new(claim), Box::new(claim)]);
    });
    Scenario { name: "record: two claim it", preemptions, needs, canary, body }.run();
}

/// Goal: a snapshot is of one tenant. Method: one lives there twice while another looks; without the
/// fences of `set_shape` and `snapshot` it sees half of each.
#[test]
fn record_snapshot_is_of_one_tenant() {
    fn body() {
        let world = World::new();
        let twice = |w: &World| {
            w.live(1);
            w.live(2);
        };
        race_each_first(&world, |w| &w.pool.words, vec![Box::new(twice), Box::new(World::look)]);
    }
    let (preemptions, needs) = (Some(3), Sequential::Plain);
    let canary = Canary::Unordered;
    Scenario { name: "record: snapshot", preemptions, needs, canary, body }.run();
}
