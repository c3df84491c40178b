//! Granules, slots and look-ups: chunks come and go under those who use them.

extern crate std;

use super::pool;
use crate::class::{Class, GRANULE_PAGES, SLOTS_MAX};
use crate::proof::explore::{Canary, Scenario, Walk, race_each_first};
use crate::proof::machine::{Pool, START};
use crate::record::{Kind, State};
use crate::slots::{Slot, Wanted};
use crate::sync::explored::Sequential;
use crate::tag::Tag;
use crate::units::{PageRange, Pages, Vpn};
use crate::{Request, registry};
use std::boxed::Box;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

struct World {
    pool: Pool,
    held: Mutex<Vec<(usize, Slot)>>,
}

fn wanted(span: u64) -> Wanted {
    let within = PageRange { start: Vpn(0), len: Pages(u64::MAX >> 1) };
    Wanted { span: Pages(span), align: Pages(1), zone: 0, within }
}

impl World {
    fn new(granules: usize) -> Arc<World> {
        Arc::new(World { pool: pool(granules), held: Mutex::default() })
    }

    fn take(&self, member: usize, span: u64) {
        let context = self.pool.context(member);
        let Ok(slot) = context.slots().take(wanted(span), &context.machine) else { return };
        let state = context.record(slot.id).state();
        assert_eq!(state, Some(slot.state), "a slot that is taken is its taker's");
        let head = slot.id / SLOTS_MAX;
        let tag = Tag::decode(context.tables.tag(head).load(crate::sync::Ordering::SeqCst));
        // If the last granule came free between the two looks for one, the slot is all of it.
        let is_whole = slot.pages.len == Pages(GRANULE_PAGES);
        let chunk = Tag::Chunk(Class::for_span(Pages(span)));
        let whole = if is_whole { Tag::Solo { granules: 1 } } else { chunk };
        assert_eq!(tag.map(Tag::settled), Some(whole), "a slot in what is no chunk of its class");
        let mut held = self.held.lock().unwrap();
        let meets = |(_, other): &(usize, Slot)| {
            let (a, b) = (other.pages, slot.pages);
            a.start.0 < b.end().0 && b.start.0 < a.end().0
        };
        assert!(!held.iter().any(meets), "two slots overlap");
        held.push((member, slot));
    }

    fn give(&self, nth: usize) {
        let (member, slot) = self.held.lock().unwrap().remove(nth);
        let context = self.pool.context(member);
        let free = State::new(Kind::Free, None, slot.state.generation);
        assert!(context.record(slot.id).step(slot.state, free));
        context.slots().give(slot.id);
    }

    /// Has `member` give back the chunks that were kept although nobody lives there.
    fn retire(&self, member: usize) {
        self.pool.context(member).slots().granules.retire_idle();
    }

    /// When all is quiet: what is held can be given back, and then every granule is free.
    fn settle(&self) {
        while !self.held.lock().unwrap().is_empty() {
            self.give(0);
        }
        self.retire(3);
        let granules = self.pool.geometry.granules;
        let context = self.pool.context(3);
        let is_free = |g: &usize| context.slots().granules.is_free(*g);
        assert!((0..granules).all(|g| is_free(&g)), "a granule is lost");
        assert_eq!(context.slots().granules.take(0, granules, 1), Ok(0), "the index lost a run");
    }
}

fn run(name: &'static str, preemptions: usize, needs: Sequential, canary: Canary, body: fn()) {
    Scenario { name, preemptions: Some(preemptions), needs, canary, body }.run();
}

fn check(world: Arc<World>, walks: Vec<Walk<World>>) {
    race_each_first(&world, |world| &world.pool.words, walks);
    world.settle();
}

/// Goal: a chunk is not given back under a slot that is taken in it. Method: its last slot is given
/// back, and then the chunk for want of granules, while another takes a slot there.
#[test]
fn chunk_is_not_retired_under_a_slot_that_is_taken() {
    fn body() {
        let world = World::new(1);
        world.take(1, 2);
        let give = |w: &World| {
            w.give(0);
            w.retire(1);
        };
        check(world, vec![Box::new(give), Box::new(|w| w.take(2, 2))]);
    }
    let needs = Sequential::Plain;
    run("slots: take against the last give", 3, needs, Canary::Unordered, body);
}

/// Goal: two who take granules have different ones, and none is lost. Method: two take one of two;
/// a bug in which the claim looks and then stores gives both the same.
#[test]
fn granules_have_one_owner_and_none_is_lost() {
    fn race_for(take: fn(&World, usize) -> Option<usize>) {
        let world = World::new(2);
        let taker = |member| {
            Box::new(move |w: &World| {
                let Some(at) = take(w, member) else { return };
                let pages = PageRange { start: Vpn(at as u64), len: Pages(1) };
                let slot = Slot { id: at, state: State::new(Kind::Building, None, 0), pages };
                let mut held = w.held.lock().unwrap();
                assert!(held.iter().all(|(_, other)| other.id != at), "one granule, two owners");
                held.push((member, slot));
            }) as Walk<World>
        };
        race_each_first(&world, |world| &world.pool.words, vec![taker(1), taker(2)]);
        for (member, slot) in world.held.lock().unwrap().drain(..) {
            world.pool.context(member).slots().granules.abandon(slot.id..slot.id + 1);
        }
        world.settle();
    }
    fn body() {
        race_for(|w, member| w.pool.context(member).slots().granules.take(0, 1, 1).ok());
    }
    fn wrong() {
        race_for(|w, member| {
            let context = w.pool.context(member);
            let at = (0..2).find(|g| context.slots().granules.is_free(*g))?;
            let held = Tag::Held(context.me).encode();
            context.tables.tag(at).store(held, crate::sync::Ordering::SeqCst);
            Some(at)
        });
    }
    let canary = Canary::Assert("one granule, two owners", wrong);
    run("granules: two take", 3, Sequential::Plain, canary, body);
}

/// Goal: a look-up finds an area that was there, or none. Method: an address is looked up while its
/// area goes and the granule becomes a chunk of another size.
#[test]
fn look_up_finds_what_was_there_or_nothing() {
    fn body() {
        let world = World::new(1);
        // Slot 1 of a chunk of one-page areas: page 2. Of eight-page areas: page 9.
        let engine = world.pool.engine(1);
        let first = engine.vmalloc(&Request::bytes(4096).no_reuse()).unwrap();
        let second = engine.vmalloc(&Request::bytes(4096).no_reuse()).unwrap();
        assert_eq!(second.pages.start, Vpn(START.0 + 2));
        let _ = engine.vfree(first.addr()).unwrap();
        let look = move |w: &World| {
            let context = w.pool.context(2);
            if let Some(area) = registry::find(&context, second.addr()) {
                let found = (area.pages.start.0 - START.0, area.pages.len.0);
                assert!([(2, 1), (0, 8)].contains(&found), "an area that never was: {found:?}");
            }
        };
        let reuse = move |w: &World| {
            let engine = w.pool.engine(1);
            let _ = engine.vfree(second.addr()).unwrap();
            for _ in 0..2 {
                w.take(1, 9);
            }
            for (_, slot) in w.held.lock().unwrap().iter() {
                let record = w.pool.context(1).record(slot.id);
                record.set_shape(&crate::record::Shape { pages: Pages(8), ..record.shape() });
                record.step(slot.state, State { kind: Kind::Live, ..slot.state });
            }
        };
        race_each_first(&world, |world| &world.pool.words, vec![Box::new(look), Box::new(reuse)]);
    }
    let needs = Sequential::Plain;
    run("look-up against reuse", 3, needs, Canary::Unordered, body);
}
