//! Slabs that go home while somebody takes from them, or still believes in them.

use super::{Canary, MANY, ONE_SLAB, Ordering, Plan, World, check, run, walk};
use crate::slab::occupancy::OBJECTS_A_WORD;
use std::vec;

extern crate std;

/// Gives slab 0 home if a look says that nobody owns an object, and then closes its words whatever
/// they say.
fn shrink_by_a_look(w: &World) {
    let (cache, objects) = (w.cache(1, 0), w.plan.shape().objects);
    let Some((record, tag)) = cache.slab(0) else { return };
    if record.owned(objects) > 0 {
        return;
    }
    for word in &w.record_words()[1..=objects.div_ceil(OBJECTS_A_WORD)] {
        word.update(Ordering::SeqCst, Ordering::SeqCst, |seen| {
            ((seen >> OBJECTS_A_WORD) + 1) << OBJECTS_A_WORD
        });
    }
    cache.slabs.take_back(tag.base, w.plan.shape().order);
    cache.slabs.release_record(0, record);
}

/// Goal: a slab does not go home under an object that is taken from it. Method: one takes, by a
/// round that its CPU remembers, uses and frees; another gives the empty slab home and uses its frame. A
/// shrink that looks and does not close the words would do it.
#[test]
fn slab_does_not_go_home_under_an_object() {
    fn race_for(shrink: fn(&World)) {
        let world = World::new(ONE_SLAB);
        world.use_one(1, 0);
        let home = move |w: &World| {
            shrink(w);
            w.use_frame();
        };
        check(world, vec![walk(|w| w.use_one(1, 0)), walk(home)]);
    }
    fn body() {
        race_for(|w| _ = w.cache(1, 1).shrink());
    }
    fn wrong() {
        race_for(shrink_by_a_look);
    }
    let canary = Canary::Assert("two owners", wrong);
    run("slab: take against its going home", 2, canary, body);
}

/// Goal: who still believes in a slab that went home takes nothing of the next one in its place.
/// Method: one takes from it by a round; another gives it home, and has the same record and the same
/// frame for another cache. Without orderings the old tag is seen beside the new word.
#[test]
fn late_take_finds_nothing_in_the_next_slab() {
    fn body() {
        let world = World::new(Plan { caches: 2, ..ONE_SLAB });
        world.use_one(1, 0);
        let next = |w: &World| {
            let _ = w.cache(1, 1).shrink();
            w.use_one(2, 1);
        };
        check(world, vec![walk(|w| w.use_one(1, 0)), walk(next)]);
    }
    run("slab: a late take against the next", 2, Canary::Unordered, body);
}

/// Goal: a slab of two words goes home once. Method: two shrink, one of which takes an object first.
#[test]
fn slab_goes_home_once() {
    fn race_for(shrink: fn(&World)) {
        let world = World::new(Plan { object_bytes: MANY, ..ONE_SLAB });
        world.use_one(1, 0);
        let shrink_after = move |w: &World| {
            w.use_one(1, 0);
            shrink(w);
        };
        check(world, vec![walk(shrink), walk(shrink_after)]);
    }
    fn body() {
        race_for(|w| _ = w.cache(1, 1).shrink());
    }
    fn wrong() {
        race_for(shrink_by_a_look);
    }
    run("slab: two give it home", 2, Canary::Assert("given twice", wrong), body);
}

/// Goal: a slab that could not go home is still said to have room. Method: its first word is free and
/// closed, its second is owned whole; while the closing is undone another looks for room, sees none
/// there, and takes the hint back. If who undoes it says nothing, nobody does.
#[test]
fn slab_that_stays_is_said_to_have_room() {
    fn race_for(shrink: fn(&World)) {
        let world = World::new(Plan { object_bytes: MANY, ..ONE_SLAB });
        let all = world.fill();
        all[..40].iter().for_each(|&addr| world.free(1, 0, addr));
        world.cache(1, 0).magazines.clear();
        let take = |w: &World| _ = w.take(1, 1);
        check(world, vec![walk(shrink), walk(take)]);
    }
    fn body() {
        race_for(|w| _ = w.cache(1, 0).shrink());
    }
    fn wrong() {
        race_for(|w| {
            let cache = w.cache(1, 0);
            let (record, tag) = cache.slab(0).unwrap();
            let _ = record.close(tag, w.plan.shape().objects);
        });
    }
    let canary = Canary::Assert("Hint", wrong);
    run("slab: take against a closing undone", 2, canary, body);
}

/// Goal: a slab in which an object is freed is said to have room. Method: one frees the first of a full
/// slab; another finds it full and takes the hint back. Without orderings it does not see the object
/// when it looks again.
#[test]
fn slab_with_a_freed_object_is_said_to_have_room() {
    fn body() {
        let world = World::new(ONE_SLAB);
        let freed = world.fill()[3];
        let walks = vec![walk(move |w| w.free(1, 0, freed)), walk(|w| _ = w.take(1, 1))];
        check(world, walks);
    }
    run("slab: free against a look for room", 3, Canary::Unordered, body);
}
