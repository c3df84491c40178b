//! Who owns an object, whatever magazines and hints say.

use super::{Canary, FEW, MANY, ONE_SLAB, Ordering, Plan, World, check, run, walk};
use crate::slab::magazine::Round;
use crate::slab::{DirectAddr, FrameTag};
use crate::{Extent, Frames as _, Order, Pages, Pfn};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::vec;

extern crate std;

/// Goal: a slab's last object has one owner, who sees what the one before wrote. Method: two take,
/// use and free the one that is free; without orderings the second overwrites what it has not seen.
#[test]
fn last_object_has_one_owner_who_sees_what_the_one_before_wrote() {
    fn body() {
        let world = World::new(ONE_SLAB);
        let last = *world.fill().last().unwrap();
        world.free(1, 0, last);
        check(world, vec![walk(|w| w.use_one(1, 0)), walk(|w| w.use_one(1, 1))]);
    }
    run("slab: two use the last object", 3, Canary::Unordered, body);
}

/// Goal: an object is seen as its constructor left it. Method: two take from nothing: one makes the
/// slab, the other may find it.
#[test]
fn object_is_never_had_before_its_constructor_ran() {
    fn body() {
        let ctor = Some((|object| object.word(1).store(7, Ordering::Relaxed)) as super::Ctor);
        let world = World::new(Plan { ctor, ..ONE_SLAB });
        let take = |cpu| {
            walk(move |w| {
                let Some(addr) = w.take(1, cpu) else { return };
                let made = w.cache(1, cpu).words_of(addr).word(1).load(Ordering::Relaxed);
                assert_eq!(made, 7, "an object that no constructor has seen");
            })
        };
        check(world, vec![take(0), take(1)]);
    }
    run("slab: take against the making of it", 2, Canary::Unordered, body);
}

/// Takes what a round names, and believes it.
fn take_by_the_round(w: &World, cpu: usize) -> Option<DirectAddr> {
    let cache = w.cache(1, cpu);
    let Round { slab, index } = cache.magazines.pop(cpu)?;
    let (record, tag) = cache.slab(slab)?;
    let _ = record.take_at(tag, index);
    w.own(cache.addr(tag, index).0, u64::from(w.plan.shape().stride), 1);
    Some(cache.addr(tag, index))
}

/// Goal: an object has one owner though two threads use one CPU's magazines at once, which they mix
/// up. Method: one frees, another takes twice; if the round were believed, an object would have two.
#[test]
fn magazines_that_two_use_at_once_give_no_object_twice() {
    fn race_for(take: fn(&World, usize) -> Option<DirectAddr>) {
        let world = World::new(ONE_SLAB);
        let all = world.fill();
        world.free(1, 0, all[0]);
        let freed = all[1];
        let walks = vec![
            walk(move |w| w.free(1, 0, freed)),
            walk(move |w| {
                let _ = (take(w, 0), take(w, 0));
            }),
        ];
        check(world, walks);
    }
    fn body() {
        race_for(|w, cpu| w.take(1, cpu));
    }
    fn wrong() {
        race_for(take_by_the_round);
    }
    let canary = Canary::Assert("two owners", wrong);
    run("slab: free against take, one CPU", 3, canary, body);
}

/// Goal: an object has one owner though a magazine of the depot is filled by one CPU while another
/// empties it. Method: the depot has one full magazine, and CPU 0 two: it frees one more, while CPU 1
/// takes; then each takes what is left. If the rounds were believed, an object would have two owners.
#[test]
fn depot_that_is_filled_and_emptied_at_once_gives_no_object_twice() {
    fn race_for(take: fn(&World, usize) -> Option<DirectAddr>) {
        let world = World::new(Plan { object_bytes: MANY, ..ONE_SLAB });
        let all = world.fill();
        // Two magazines and a round: one of them goes to the depot. Then the second is full again.
        all[..45].iter().for_each(|&addr| world.free(1, 0, addr));
        let freed = all[45];
        let walks = vec![walk(move |w| w.free(1, 0, freed)), walk(move |w| _ = take(w, 1))];
        let world = Arc::new(world);
        super::race_each_first(&world, |world| &world.words, walks);
        // Two magazines and the depot's.
        (0..30).for_each(|n| _ = take(&world, 1 - n / 15));
        world.settle();
    }
    fn body() {
        race_for(|w, cpu| w.take(1, cpu));
    }
    fn wrong() {
        race_for(take_by_the_round);
    }
    let canary = Canary::Assert("two owners", wrong);
    run("slab: two CPUs at the depot", 2, canary, body);
}

/// Goal: of two who free one object, one is told so. Method: a free that looks and then stores
/// would tell neither.
#[test]
fn object_is_freed_once() {
    fn race_for(free: fn(&World, usize, DirectAddr) -> bool) {
        let world = World::new(ONE_SLAB);
        let addr = world.take(1, 0).unwrap();
        world.disown(addr.0);
        let freed = Arc::new(AtomicUsize::new(0));
        let free = |cpu| {
            let freed = Arc::clone(&freed);
            walk(move |w| {
                freed.fetch_add(usize::from(free(w, cpu, addr)), Ordering::Relaxed);
            })
        };
        check(world, vec![free(0), free(1)]);
        assert_eq!(freed.load(Ordering::Relaxed), 1, "frees of one object");
    }
    fn body() {
        race_for(|w, cpu, addr| w.cache(1, cpu).free(addr).is_ok());
    }
    fn wrong() {
        race_for(|w, _, _| {
            let word = &w.record_words()[1];
            let seen = word.load(Ordering::SeqCst);
            word.store(seen & !1, Ordering::SeqCst);
            seen & 1 == 1
        });
    }
    run("slab: two free one object", 3, Canary::Assert("frees of one object", wrong), body);
}

/// Goal: a large block goes home once. Method: two free it; a free that looks and does not step
/// would give its frames twice.
#[test]
fn large_block_goes_home_once() {
    fn race_for(free: fn(&World, Pfn) -> bool) {
        let world = World::new(Plan { object_bytes: FEW, ..ONE_SLAB });
        let start = world.slabs().lend(Order(0), FrameTag::Large(Order(0)), false).unwrap();
        let freed = Arc::new(Mutex::new(0));
        let free = || {
            let freed = Arc::clone(&freed);
            walk(move |w| {
                let won = free(w, start);
                *freed.lock().unwrap() += usize::from(won);
            })
        };
        check(world, vec![free(), free()]);
        assert_eq!(*freed.lock().unwrap(), 1, "frees of one block");
    }
    fn body() {
        race_for(|w, start| w.slabs().take_back_large(start, Order(0)));
    }
    fn wrong() {
        race_for(|w, start| {
            let is_lent = w.slabs().tag_of(start) == FrameTag::Large(Order(0));
            if is_lent {
                w.give(Extent { start, len: Pages(1) });
            }
            is_lent
        });
    }
    run("slab: two free a large block", 3, Canary::Assert("given twice", wrong), body);
}
