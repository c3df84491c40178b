//! The bits that say who owns a frame.

extern crate std;

use crate::frames::Buddy;
use crate::platform::Frames as _;
use crate::proof::explore::{Canary, Scenario, race_each_first};
use crate::sync::explored::{self, Sequential};
use crate::sync::{AtomicU64, Ordering};
use crate::{Extent, Order, Pages, Pfn};
use std::boxed::Box;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

const FRAMES: Pages = Pages(128);

/// A pool of two words of bits, and a word of contents that goes with the first frame of each.
struct World {
    words: Vec<AtomicU64>,
    owned: Mutex<BTreeSet<u64>>,
}

impl World {
    /// With `free` frames free, the lowest.
    fn new(free: u64) -> Arc<World> {
        let len = Buddy::words_needed(FRAMES);
        let words = explored::words(0, len + 2);
        let buddy = Buddy::format(&words[..len], Pfn(0), FRAMES).unwrap();
        for _ in 0..FRAMES.0 {
            buddy.take(Order(0)).unwrap();
        }
        buddy.give(Extent { start: Pfn(0), len: Pages(free) });
        Arc::new(World { words, owned: Mutex::default() })
    }

    fn buddy(&self) -> Buddy<'_> {
        let all = Extent { start: Pfn(0), len: FRAMES };
        Buddy::open(&self.words[..Buddy::words_needed(FRAMES)], all).unwrap()
    }

    /// Takes a block, adds one to the contents of its first frame, and gives it back.
    fn use_one(&self, order: u8) -> bool {
        let (buddy, len) = (self.buddy(), 1 << order);
        let Ok(start) = buddy.take(Order(order)) else { return false };
        let frames = start.0..start.0 + len;
        for frame in frames.clone() {
            assert!(self.owned.lock().unwrap().insert(frame), "two owners of frame {frame}");
        }
        let contents = &self.words[self.words.len() - 2 + (start.0 / 64) as usize];
        contents.store(contents.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        for frame in frames {
            self.owned.lock().unwrap().remove(&frame);
        }
        buddy.give(Extent { start, len: Pages(len) });
        true
    }

    fn contents(&self) -> u64 {
        self.words[self.words.len() - 2..].iter().map(|word| word.load(Ordering::Relaxed)).sum()
    }
}

/// Two take blocks of these orders out of `free` frames.
fn race_for(free: u64, orders: [u8; 2]) {
    let world = World::new(free);
    let used = Arc::new(Mutex::new(0));
    let user = |order| {
        let used = Arc::clone(&used);
        Box::new(move |world: &World| {
            let won = world.use_one(order);
            *used.lock().unwrap() += u64::from(won);
        }) as _
    };
    let walks = vec![user(orders[0]), user(orders[1])];
    race_each_first(&world, |world| &world.words, walks);
    assert_eq!(
        world.contents(),
        *used.lock().unwrap(),
        "what an owner wrote, the next did not see"
    );
    let buddy = world.buddy();
    assert_eq!(buddy.free(), Pages(free));
    buddy.verify().unwrap();
}

/// Goal: a frame has one owner, who sees what the last one wrote. Method: two take the one that is
/// free; without orderings the second overwrites what it has not seen.
#[test]
fn frame_has_one_owner_who_sees_what_the_last_one_wrote() {
    fn body() {
        race_for(1, [0, 0]);
    }
    let (preemptions, needs, canary) = (Some(3), Sequential::Plain, Canary::Unordered);
    Scenario { name: "frames: two take the last", preemptions, needs, canary, body }.run();
}

/// Goal: a block of two words is taken whole or not at all, and nothing of it is lost. Method: one
/// takes both words, another a frame of the first.
#[test]
fn block_of_two_words_is_taken_whole_or_not_at_all() {
    fn body() {
        race_for(128, [7, 0]);
    }
    let (preemptions, needs, canary) = (Some(3), Sequential::Plain, Canary::Unordered);
    Scenario { name: "frames: two words against one", preemptions, needs, canary, body }.run();
}
