//! The frame allocator: what it promises as a buddy system, what it promises when its hints are
//! rubbish, and what it promises when several CPUs work at once.

use proptest::prelude::*;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use vmalloc_core::frames::{Buddy, BuddyStats, FormatError, Hint, OpenError, VerifyError};
use vmalloc_core::platform::{Frames, NoFrames};
use vmalloc_core::sync::{AtomicU64, Ordering};
use vmalloc_core::{Extent, ORDER_MAX, Order, Pages, Pfn};

/// The words of one hint map of a pool that begins in slot 0 and is not larger than 1 GiB.
const MAP_WORDS: usize = 8;
const GIB: u64 = 1 << 18;

fn words(len: u64) -> Vec<AtomicU64> {
    // Not zero: format must not count on it.
    (0..Buddy::words_needed(Pages(len))).map(|_| AtomicU64::new(0xdead_beef_dead_beef)).collect()
}

fn run(start: u64, len: u64) -> Extent {
    Extent { start: Pfn(start), len: Pages(len) }
}

/// splitmix64: the same numbers on every run.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Who owns each frame of `first..`, and a panic when a second owner turns up.
struct Owners {
    first: u64,
    cells: Vec<AtomicU64>,
}

impl Owners {
    fn new(all: Extent) -> Owners {
        let cells = (0..all.len.0).map(|_| AtomicU64::new(0)).collect();
        Owners { first: all.start.0, cells }
    }

    fn own(&self, run: Extent, who: u64) {
        for pfn in run.start.0..run.end().0 {
            let cell = usize::try_from(pfn - self.first).ok().and_then(|at| self.cells.get(at));
            let cell = cell.unwrap_or_else(|| panic!("{pfn:#x} is not in the pool"));
            let before = cell.swap(who, Ordering::Relaxed);
            assert_eq!(before, 0, "pfn {pfn:#x} went to {who} while {before} had it");
        }
    }

    fn disown(&self, run: Extent, who: u64) {
        for pfn in run.start.0..run.end().0 {
            let before = self.cells[(pfn - self.first) as usize].swap(0, Ordering::Relaxed);
            assert_eq!(before, who, "pfn {pfn:#x} was lent to {before} behind the back of {who}");
        }
    }
}

/// Writes rubbish over every word that is neither header nor truth.
fn scribble_over_hints(words: &[AtomicU64], buddy: &Buddy<'_>, mut rubbish: impl FnMut() -> u64) {
    let truth = buddy.bit_words();
    for (index, word) in words.iter().enumerate().skip(8) {
        if !truth.contains(&index) {
            word.store(rubbish(), Ordering::Relaxed);
        }
    }
}

fn bits(words: &[AtomicU64], buddy: &Buddy<'_>) -> Vec<u64> {
    words[buddy.bit_words()].iter().map(|word| word.load(Ordering::Relaxed)).collect()
}

fn message(panic: Box<dyn std::any::Any + Send>) -> String {
    *panic.downcast::<String>().expect("a panic with values")
}

// ---- orders, alignment, coalescing ----

/// Goal: a block of any order is naturally aligned by its absolute frame number.
/// Method: a pool that begins three frames after a 1 GiB boundary, and one each of all orders,
/// ascending and then descending, so that both splitting and searching happen.
#[test]
fn a_block_of_every_order_is_naturally_aligned() {
    let all = run(5 * GIB + 3, 3 * GIB);
    let words = words(all.len.0);
    let buddy = Buddy::format(&words, all.start, all.len).unwrap();
    let owners = Owners::new(all);
    let mut taken = Vec::new();
    for order in (0..18).chain((0..=18).rev()).map(Order) {
        let start = buddy.take(order).unwrap();
        assert_eq!(start.0 % order.pages().0, 0, "{start} at {order}");
        taken.push(Extent { start, len: order.pages() });
        owners.own(taken[taken.len() - 1], 1);
    }
    let sum: u64 = taken.iter().map(|run| run.len.0).sum();
    assert_eq!(buddy.free(), Pages(all.len.0 - sum));
    buddy.verify().unwrap();
    taken.into_iter().for_each(|run| buddy.give(run));
    assert_eq!(buddy.free(), all.len);
    buddy.verify().unwrap();
}

/// Goal: frames before the first aligned boundary and after the last are handed out too.
/// Method: pools with odd ends, some inside one word, emptied frame by frame; all come, each
/// once, and the next request fails.
#[test]
fn odd_ends_of_a_pool_are_used_to_the_last_frame() {
    for (first, len) in [
        (0, 1),
        (63, 2),
        (7, 50),
        (511, 2),
        (1, 511),
        (513, 1023),
        (GIB - 1, 2),
        (GIB - 777, 1999),
        ((1 << 52) - 700, 700),
    ] {
        let words = words(len);
        let buddy = Buddy::format(&words, Pfn(first), Pages(len)).unwrap();
        buddy.verify().unwrap();
        let mut seen = BTreeSet::new();
        while let Ok(pfn) = buddy.take(Order(0)) {
            assert!(seen.insert(pfn.0), "{pfn} twice");
        }
        assert!(seen.into_iter().eq(first..first + len), "pool of {len} at {first:#x}");
        assert_eq!(
            buddy.take(Order(0)),
            Err(NoFrames { wanted: Pages(1), free: Pages(0) }),
            "pool of {len} at {first:#x}"
        );
        buddy.verify().unwrap();
        buddy.give(run(first, len));
        buddy.verify().unwrap();
        assert_eq!(buddy.stats().longest, run(first, len));
    }
}

/// Goal: whatever was taken and given in whatever pieces, the largest blocks are back at the end.
/// Method: random takes of all orders; each is given back whole, in two parts, or joined with
/// the neighbour; the decomposition equals that of the fresh pool and order 18 can be taken.
#[test]
fn random_churn_coalesces_back_to_the_top() {
    let all = run(GIB - 100, 2 * GIB);
    let words = words(all.len.0);
    let buddy = Buddy::format(&words, all.start, all.len).unwrap();
    let fresh = buddy.stats();
    let mut rng = Rng(1);
    let mut held: Vec<Extent> = Vec::new();
    for _ in 0..4000 {
        if rng.below(100) < 55 || held.is_empty() {
            let order = Order(rng.below(13) as u8);
            if let Ok(start) = buddy.take(order) {
                held.push(Extent { start, len: order.pages() });
            }
        } else {
            let mut given = held.swap_remove(rng.below(held.len() as u64) as usize);
            if let Some(next) = held.iter().position(|run| run.start == given.end()) {
                given.len.0 += held.swap_remove(next).len.0;
            }
            let cut = rng.below(given.len.0 + 1);
            buddy.give(run(given.start.0, cut));
            buddy.give(run(given.start.0 + cut, given.len.0 - cut));
        }
    }
    buddy.verify().unwrap();
    held.into_iter().for_each(|run| buddy.give(run));
    buddy.verify().unwrap();
    assert_eq!(buddy.stats(), fresh);
    assert_eq!(buddy.take(Order(18)), Ok(Pfn(GIB)));
}

/// Goal: small requests leave whole 2 MiB blocks whole.
/// Method: one frame of each of two blocks is taken by hand, then 900 frames in orders 0 to 5:
/// all of them fit into the two, so all other blocks are still there.
#[test]
fn small_orders_prefer_used_blocks() {
    let words = words(16 * 512);
    let buddy = Buddy::format(&words, Pfn(0), Pages(16 * 512)).unwrap();
    let mut out = [run(0, 0)];
    assert_eq!(buddy.take_bulk(Pages(16 * 512), &mut out), 1);
    for block in 0..16 {
        let used = u64::from(block == 4 || block == 11);
        buddy.give(run(block * 512 + used, 512 - used));
    }
    assert_eq!(buddy.stats().blocks[9..12], [2, 2, 2]);
    let mut left = 900;
    for order in [5, 4, 3, 2, 1, 0].map(Order).into_iter().cycle() {
        if left < order.pages().0 {
            break;
        }
        let start = buddy.take(order).unwrap();
        assert!([4, 11].contains(&(start.0 / 512)), "{start} at {order}");
        left -= order.pages().0;
    }
    assert_eq!(buddy.stats().blocks[9..12], [2, 2, 2]);
}

/// Goal: CPUs keep out of each other's blocks while there are others.
/// Method: eight views with lanes of their own take frames in turn from a fresh pool.
#[test]
fn cpus_work_in_blocks_of_their_own() {
    let words = words(64 * 512);
    let buddy = Buddy::format(&words, Pfn(0), Pages(64 * 512)).unwrap();
    let mut owner_of_block = [None; 64];
    for turn in 0..8 * 100 {
        let cpu = turn % 8;
        let pfn = buddy.on_cpu(cpu).take(Order((turn % 3) as u8)).unwrap();
        let owner = owner_of_block[(pfn.0 / 512) as usize].get_or_insert(cpu);
        assert_eq!(*owner, cpu, "{pfn}");
    }
    buddy.verify().unwrap();
}

/// Goal: an order that cannot be had is refused with values, whatever number it is.
/// Method: orders the pool does not hold, and orders that there are not.
#[test]
fn an_order_too_large_is_refused() {
    let words = words(1000);
    let buddy = Buddy::format(&words, Pfn(1), Pages(1000)).unwrap();
    for (order, wanted) in [(9, 512), (18, GIB), (19, 2 * GIB), (63, 1 << 63), (64, u64::MAX)] {
        let refused = NoFrames { wanted: Pages(wanted), free: Pages(1000) };
        assert_eq!(buddy.take(Order(order)), Err(refused));
    }
    assert!(buddy.take(Order(255)).is_err());
    buddy.verify().unwrap();
}

// ---- bulk ----

/// Goal: 1 GiB that is wholly free comes as one extent, and so do three of them.
/// Method: an `out` of one extent. (That it takes whole words a step, the speed shows.)
#[test]
fn bulk_takes_free_gibibytes_as_one_extent() {
    let words = words(4 * GIB);
    let buddy = Buddy::format(&words, Pfn(GIB), Pages(4 * GIB)).unwrap();
    let mut out = [run(0, 0)];
    assert_eq!(buddy.take_bulk(Pages(GIB), &mut out), 1);
    assert_eq!(out, [run(GIB, GIB)]);
    assert_eq!(buddy.take_bulk(Pages(3 * GIB), &mut out), 1);
    assert_eq!(out, [run(2 * GIB, 3 * GIB)]);
    assert_eq!(buddy.take_bulk(Pages(1), &mut out), 0);
    buddy.verify().unwrap();
}

/// Goal: bulk gathers every last frame of a pool of crumbs, ascending and merged.
/// Method: free half of a full pool at random, in runs of 1 to 5 frames, and ask for more than
/// there is; the extents are exactly the free runs.
#[test]
fn bulk_gathers_every_frame_of_a_half_freed_pool() {
    let all = run(GIB - 12_345, 40_000);
    let words = words(all.len.0);
    let buddy = Buddy::format(&words, all.start, all.len).unwrap();
    let mut out = vec![run(0, 0); 40_000];
    assert_eq!(buddy.take_bulk(Pages(40_000), &mut out), 1);
    let mut rng = Rng(2);
    let (mut at, mut freed) = (all.start.0, Vec::new());
    while at < all.end().0 {
        let len = (1 + rng.below(5)).min(all.end().0 - at);
        if rng.below(2) == 0 {
            buddy.give(run(at, len));
            freed.push(run(at, len));
        }
        at += len;
    }
    freed.dedup_by(|next, last| {
        let touch = last.end() == next.start;
        last.len.0 += if touch { next.len.0 } else { 0 };
        touch
    });
    let count = buddy.take_bulk(Pages(u64::MAX), &mut out);
    assert_eq!(out[..count], freed);
    assert_eq!(buddy.stats().free, Pages(0));
    buddy.verify().unwrap();
}

/// Goal: with a small `out`, bulk brings the largest blocks, and repeated calls bring the rest.
/// Method: free single frames everywhere, and 64 and 300 frames somewhere; extents of 2 a call.
#[test]
fn bulk_with_little_room_brings_the_largest_first_and_nothing_is_lost() {
    let words = words(8192);
    let buddy = Buddy::format(&words, Pfn(0), Pages(8192)).unwrap();
    let mut out = [run(0, 0); 2];
    buddy.take_bulk(Pages(8192), &mut out);
    (0..8192).step_by(2).for_each(|pfn| buddy.give(run(pfn, 1)));
    (0..32).for_each(|odd| buddy.give(run(6400 + 2 * odd + 1, 1)));
    (0..150).for_each(|odd| buddy.give(run(1280 + 2 * odd + 1, 1)));
    assert_eq!(buddy.take_bulk(Pages(8192), &mut out), 2);
    assert_eq!(out, [run(1280, 256), run(6400, 64)]);
    let owners = Owners::new(run(0, 8192));
    out.iter().for_each(|run| owners.own(*run, 1));
    let mut sum = 320;
    loop {
        let count = buddy.take_bulk(Pages(8192), &mut out);
        if count == 0 {
            break;
        }
        for run in &out[..count] {
            owners.own(*run, 1);
            sum += run.len.0;
        }
    }
    assert_eq!(sum, 4096 + 32 + 150);
    assert_eq!(buddy.take_bulk(Pages(1), &mut []), 0);
}

/// Goal: bulk leaves room unused only when nothing is left, however its extents merge.
/// Method: many small pools with random holes, and rooms about as large as the number of holes.
#[test]
fn bulk_leaves_room_only_when_nothing_is_left() {
    let mut rng = Rng(7);
    let words = words(320);
    for _ in 0..4000 {
        let buddy = Buddy::format(&words, Pfn(13), Pages(320)).unwrap();
        let mut out = [run(0, 0); 32];
        buddy.take_bulk(Pages(320), &mut out);
        let mut at = 13 + rng.below(200);
        for _ in 0..8 {
            at += 1 + rng.below(3);
            let len = (1 + rng.below(9)).min(333 - at.min(333));
            buddy.give(run(at.min(333), len));
            at += len;
        }
        let (free, room) = (buddy.free(), 1 + rng.below(10) as usize);
        let count = buddy.take_bulk(Pages(200), &mut out[..room]);
        let sum: u64 = out[..count].iter().map(|run| run.len.0).sum();
        assert_eq!(buddy.free(), Pages(free.0 - sum));
        if count < room {
            assert_eq!(buddy.free(), Pages(free.0.saturating_sub(200)), "{count} of {room}");
        }
    }
}

// ---- failures change nothing ----

/// Goal: a large block is taken whole or not at all.
/// Method: one frame of 1 GiB is gone, the last, so that a claim would get furthest; all orders
/// that would need it fail and leave every bit as it was.
#[test]
fn a_large_block_is_taken_whole_or_not_at_all() {
    let words = words(GIB);
    let buddy = Buddy::format(&words, Pfn(0), Pages(GIB)).unwrap();
    let mut out = [run(0, 0)];
    buddy.take_bulk(Pages(GIB), &mut out);
    buddy.give(run(GIB / 2, GIB / 2 - 1));
    let before = bits(&words, &buddy);
    for order in [17, 18] {
        assert!(buddy.take(Order(order)).is_err());
        assert_eq!(bits(&words, &buddy), before);
    }
    // The hints lie in favour of it: then the bits must say no.
    scribble_over_hints(&words, &buddy, || u64::MAX);
    for order in [17, 18] {
        assert!(buddy.take(Order(order)).is_err());
        assert_eq!(bits(&words, &buddy), before);
    }
    buddy.give(run(GIB - 1, 1));
    assert_eq!(buddy.take(Order(17)), Ok(Pfn(GIB / 2)));
}

/// Goal: giving a frame that is free already panics with its number and changes nothing.
/// Method: whole, in part, in the middle of a run of several words, and on a fresh pool.
#[test]
fn giving_a_free_frame_panics_and_changes_nothing() {
    let words = words(4096);
    let buddy = Buddy::format(&words, Pfn(0), Pages(4096)).unwrap();
    assert_eq!(buddy.take(Order(10)), Ok(Pfn(0)));
    buddy.give(run(200, 1));
    let before = bits(&words, &buddy);
    for (bad, free) in
        [(run(200, 1), 200), (run(0, 1024), 200), (run(199, 2), 200), (run(1000, 25), 1024)]
    {
        let panic = catch_unwind(AssertUnwindSafe(|| buddy.give(bad))).unwrap_err();
        assert_eq!(message(panic), format!("give of {bad}: pfn {free:#x} is free already"));
        assert_eq!(bits(&words, &buddy), before);
        buddy.verify().unwrap();
    }
}

/// Goal: giving a frame of somebody else's panics and changes nothing.
/// Method: before, after, across both ends, past the end of all numbers.
#[test]
fn giving_a_stranger_panics_and_changes_nothing() {
    let words = words(100);
    let buddy = Buddy::format(&words, Pfn(10), Pages(100)).unwrap();
    let mut out = [run(0, 0); 16];
    buddy.take_bulk(Pages(100), &mut out);
    for bad in [run(9, 1), run(9, 2), run(110, 1), run(109, 2), run(0, 512), run(20, u64::MAX)] {
        let panic = catch_unwind(AssertUnwindSafe(|| buddy.give(bad))).unwrap_err();
        assert!(message(panic).contains("not all in the pool, pfn 0xa..0x6e"));
        assert_eq!(buddy.stats().free, Pages(0));
        assert!(!buddy.is_free(bad.start));
    }
    buddy.give(run(50, 0));
    buddy.give(run(10, 100));
    buddy.verify().unwrap();
}

// ---- hints ----

/// Goal: whatever the hints say, no frame is handed out twice, none is missed, and rebuild mends.
/// Method: a half-used pool; every hint word is overwritten with zeros, ones, or noise before
/// each step; then takes of every order, bulk to the last frame, and gives.
#[test]
fn stale_hints_cost_time_but_nothing_else() {
    for (kind, seed) in [(0, 0), (1, 0), (2, 3), (2, 4), (2, 5)] {
        let (mut noise, mut rng) = (Rng(seed), Rng(seed));
        let all = run(3 * GIB - 5000, 20_000);
        let words = words(all.len.0);
        let buddy = Buddy::format(&words, all.start, all.len).unwrap();
        let owners = Owners::new(all);
        let mut scribble = || {
            scribble_over_hints(&words, &buddy, || [0, u64::MAX, noise.next()][kind]);
        };
        let mut held = Vec::new();
        for round in 0..250 {
            scribble();
            let order = Order(round % 10);
            match buddy.take(order) {
                Ok(start) => held.push(Extent { start, len: order.pages() }),
                Err(_) => {
                    let largest = buddy.stats().largest();
                    assert!(largest < Some(order), "{largest:?} is free, {order} refused");
                    continue;
                }
            }
            owners.own(held[held.len() - 1], 1);
            if round % 3 == 0 {
                let given = held.swap_remove(rng.below(held.len() as u64) as usize);
                scribble();
                owners.disown(given, 1);
                buddy.give(given);
            }
        }
        scribble();
        let mut out = vec![run(0, 0); 20_000];
        let count = buddy.take_bulk(all.len, &mut out);
        for run in &out[..count] {
            owners.own(*run, 1);
            held.push(*run);
        }
        assert_eq!(held.iter().map(|run| run.len.0).sum::<u64>(), all.len.0);
        for given in held.into_iter().step_by(2) {
            scribble();
            buddy.give(given);
        }
        scribble();
        assert!(buddy.verify().is_err());
        buddy.rebuild();
        buddy.verify().unwrap();
        assert_eq!(buddy.free(), buddy.stats().free);
    }
}

/// Goal: bits set outside the pool never come out as frames.
/// Method: set every bit of the edge words, then empty the pool by every way of taking.
#[test]
fn bits_outside_the_pool_are_never_handed_out() {
    let all = run(1000, 1100); // blocks 1 to 4, the outer two in part
    for order in [0, 3, 6, 7, 9] {
        let words = words(all.len.0);
        let buddy = Buddy::format(&words, all.start, all.len).unwrap();
        words[buddy.bit_words()].iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        scribble_over_hints(&words, &buddy, || u64::MAX);
        assert_eq!(buddy.verify(), Err(VerifyError::Stranger { pfn: Pfn(512) }));
        assert!(!buddy.is_free(Pfn(999)));
        assert_eq!(buddy.stats().free, all.len);
        let owners = Owners::new(all);
        while let Ok(start) = buddy.take(Order(order)) {
            owners.own(Extent { start, len: Order(order).pages() }, 1);
        }
        let mut out = vec![run(0, 0); 64];
        let count = buddy.take_bulk(Pages(9999), &mut out);
        out[..count].iter().for_each(|run| owners.own(*run, 1));
        assert!(owners.cells.iter().all(|cell| cell.load(Ordering::Relaxed) == 1));
        buddy.rebuild();
        buddy.verify().unwrap();
    }
}

/// Goal: verify names what is wrong, with values.
/// Method: one damage at a time, to words whose place is known, then rebuild.
#[test]
fn verify_tells_what_is_wrong() {
    let words = words(GIB);
    let buddy = Buddy::format(&words, Pfn(0), Pages(1024)).unwrap();
    let truth = buddy.bit_words();
    let (some, whole) = (truth.end, truth.end + MAP_WORDS);
    let block = Pfn(512);
    for (word, flip, error) in [
        (8, 4, VerifyError::WrongCount { hinted: 1028, counted: Pages(1024) }),
        (some, 2, VerifyError::WrongHint { block, hint: Hint::Some, is_set: false }),
        (whole, 2, VerifyError::WrongHint { block, hint: Hint::Whole, is_set: false }),
        (some, 4, VerifyError::StrangeHint { word: 0, bits: 4 }),
        (whole + 7, 8, VerifyError::StrangeHint { word: 7, bits: 8 }),
    ] {
        buddy.verify().unwrap();
        words[word].fetch_xor(flip, Ordering::Relaxed);
        assert_eq!(buddy.verify(), Err(error), "{error}");
        buddy.rebuild();
    }
    buddy.verify().unwrap();
    words[1].store(7, Ordering::Relaxed);
    assert_eq!(buddy.verify(), Err(VerifyError::Header { word: 1, found: 7 }));
}

/// Goal: a process that dies after its CAS and before its bookkeeping leaves a pool that works.
/// Method: do the CAS by hand: empty a block's bits, and fill them again; hints and count stay.
#[test]
fn a_death_between_a_bit_and_its_hints_leaves_a_pool_that_works() {
    let words = words(1024);
    let buddy = Buddy::format(&words, Pfn(0), Pages(1024)).unwrap();
    let truth = buddy.bit_words();
    // It took frames 0..512 and died.
    words[truth.start..truth.start + 8].iter().for_each(|word| word.store(0, Ordering::Relaxed));
    assert_eq!(buddy.take(Order(9)), Ok(Pfn(512)));
    assert!(buddy.take(Order(0)).is_err());
    // Whoever recovers gives them back, and dies before the hints say so.
    words[truth.start..truth.start + 8]
        .iter()
        .for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
    assert_eq!(buddy.take(Order(9)), Ok(Pfn(0)));
    buddy.rebuild();
    buddy.verify().unwrap();
    assert_eq!(buddy.free(), Pages(0));
}

// ---- many CPUs ----

/// Counts a worker down, even when a check of its fails, so that those who wait for it stop.
struct Done<'a>(&'a AtomicU64);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes and gives at random from `threads` threads, and checks at every step that a frame has
/// one owner. With `is_hostile`, one more thread scribbles over the hints all the while.
fn hammer(all: Extent, threads: u64, rounds: u64, orders: &[u8], is_hostile: bool) {
    let words = words(all.len.0);
    let buddy = Buddy::format(&words, all.start, all.len).unwrap();
    let fresh = buddy.stats();
    let owners = Owners::new(all);
    let working = AtomicU64::new(threads);
    std::thread::scope(|scope| {
        for who in 1..=threads {
            let (owners, working) = (&owners, &working);
            let buddy = buddy.on_cpu(who as usize);
            scope.spawn(move || {
                let _done = Done(working);
                let mut rng = Rng(who);
                let mut held: Vec<Extent> = Vec::new();
                let mut out = [run(0, 0); 40];
                for _ in 0..rounds {
                    let from = held.len();
                    match rng.below(10) {
                        0..=4 => {
                            let order = Order(orders[rng.below(orders.len() as u64) as usize]);
                            if let Ok(start) = buddy.take(order) {
                                assert_eq!(start.0 % order.pages().0, 0);
                                held.push(Extent { start, len: order.pages() });
                            }
                        }
                        5 => {
                            let count = buddy.take_bulk(Pages(1 + rng.below(3000)), &mut out);
                            held.extend(&out[..count]);
                        }
                        _ if held.is_empty() => {}
                        _ => {
                            let mut given = held.swap_remove(rng.below(from as u64) as usize);
                            let cut = rng.below(given.len.0);
                            if cut > 0 && rng.below(2) == 0 {
                                held.push(run(given.start.0, cut));
                                given = run(given.start.0 + cut, given.len.0 - cut);
                            }
                            owners.disown(given, who);
                            buddy.give(given);
                            continue;
                        }
                    }
                    held[from..].iter().for_each(|run| owners.own(*run, who));
                }
                for run in held {
                    owners.disown(run, who);
                    buddy.give(run);
                }
            });
        }
        if is_hostile {
            let (words, working) = (&words, &working);
            scope.spawn(move || {
                let mut rng = Rng(99);
                while working.load(Ordering::Relaxed) > 0 {
                    scribble_over_hints(words, &buddy, || rng.next());
                    std::thread::yield_now();
                }
            });
        }
    });
    assert_eq!(buddy.stats(), fresh);
    if is_hostile {
        buddy.rebuild();
    }
    buddy.verify().unwrap();
}

/// Goal: no frame has two owners, and when all is quiet hints and count are exact.
/// Method: 2, 3 and 4 threads, orders 0 to 10, in a pool so small that they run out of frames
/// and fight for the same words.
#[test]
fn threads_never_share_a_frame() {
    for threads in 2..=4 {
        hammer(
            run(GIB - 700, 4000),
            threads,
            15_000,
            &[0, 0, 0, 1, 2, 3, 5, 6, 7, 8, 9, 10],
            false,
        );
    }
}

/// Goal: claims of several words that collide put back what they got, so all comes back.
/// Method: only large orders, in a pool of four blocks of the largest of them.
#[test]
fn threads_that_collide_on_large_blocks_lose_no_frame() {
    hammer(run(0, 4 * 2048), 4, 8_000, &[0, 7, 8, 9, 10, 11], false);
}

/// Goal: a claim of 1 GiB that loses its last word puts the other 4095 back.
/// Method: one thread takes and gives the whole pool, another owns and disowns the last frame,
/// by CAS on its bit and nothing else: the large claim often sees that word full, then loses it.
#[test]
fn a_large_claim_that_loses_its_last_word_puts_the_others_back() {
    let words = words(GIB);
    let buddy = Buddy::format(&words, Pfn(0), Pages(GIB)).unwrap();
    let fresh = buddy.stats();
    let last = &words[buddy.bit_words().end - 1];
    let working = AtomicU64::new(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (full, relaxed) = (u64::MAX, Ordering::Relaxed);
            while working.load(relaxed) > 0 {
                if last.compare_exchange(full, full >> 1, relaxed, relaxed).is_ok() {
                    (0..200).for_each(|_| std::hint::spin_loop());
                    assert_eq!(last.fetch_or(!(full >> 1), relaxed), full >> 1);
                }
                (0..200).for_each(|_| std::hint::spin_loop());
            }
        });
        let _done = Done(&working);
        for _ in 0..200 {
            if let Ok(start) = buddy.take(Order(18)) {
                buddy.give(Extent { start, len: Pages(GIB) });
            }
        }
    });
    assert_eq!(buddy.stats(), fresh);
    buddy.rebuild();
    buddy.verify().unwrap();
}

/// Goal: whenever all CPUs are done, hints and count are exact, without any rebuild.
/// Method: two threads and one block, whose state most steps change, as each holds one of the
/// only two frames that move; they start and stop together, then verify; many times over.
#[test]
fn hints_are_exact_whenever_all_is_quiet() {
    let (rounds, steps_each_round) = (3000, 30);
    let words = words(512);
    let buddy = Buddy::format(&words, Pfn(512), Pages(512)).unwrap();
    buddy.take(Order(9)).unwrap();
    let (arrived, steps) = (AtomicU64::new(0), AtomicU64::new(0));
    // Not std's barrier: it wakes one so late that the other is done by then.
    let wait_for_both = |meeting: u64| {
        arrived.fetch_add(1, Ordering::AcqRel);
        while arrived.load(Ordering::Acquire) < 2 * meeting {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        for who in 0..2 {
            let (buddy, steps, wait_for_both) = (buddy.on_cpu(who), &steps, &wait_for_both);
            scope.spawn(move || {
                let mut mine = run(512 + 64 * who as u64, 1);
                let mut result = Ok(());
                for round in 0..rounds {
                    wait_for_both(3 * round + 1);
                    while steps.fetch_add(1, Ordering::Relaxed) < (round + 1) * steps_each_round {
                        buddy.give(mine);
                        // Each gives one and takes one, so there is one for each.
                        mine.start = std::iter::repeat_with(|| buddy.take(Order(0)))
                            .find_map(Result::ok)
                            .unwrap();
                    }
                    wait_for_both(3 * round + 2);
                    // On failure go on, or the other would wait for ever.
                    result = result.and(buddy.verify());
                    steps.store((round + 1) * steps_each_round, Ordering::Relaxed);
                    wait_for_both(3 * round + 3);
                }
                assert_eq!(result, Ok(()));
            });
        }
    });
}

/// Goal: not even somebody who scribbles over the hints makes two owners of a frame.
/// Method: the same with such a thread.
#[test]
fn threads_never_share_a_frame_while_the_hints_are_scribbled_over() {
    hammer(run(513, 6000), 3, 5_000, &[0, 0, 1, 3, 6, 7, 9, 10], true);
}

/// Goal: of two that take the last frame, one gets it and the other is refused.
/// Method: a pool of one frame; two threads take it and give it back, counting.
#[test]
fn the_last_frame_goes_to_one_of_two() {
    let words = words(1);
    let buddy = Buddy::format(&words, Pfn(77), Pages(1)).unwrap();
    let holders = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for cpu in 0..2 {
            let (buddy, holders) = (buddy.on_cpu(cpu), &holders);
            scope.spawn(move || {
                for _ in 0..20_000 {
                    if let Ok(pfn) = buddy.take(Order(0)) {
                        assert_eq!(holders.fetch_add(1, Ordering::Relaxed), 0);
                        holders.fetch_sub(1, Ordering::Relaxed);
                        buddy.give(Extent { start: pfn, len: Pages(1) });
                    }
                }
            });
        }
    });
    buddy.verify().unwrap();
    assert_eq!(buddy.free(), Pages(1));
}

// ---- format and open ----

/// Goal: a second view, opened from the words, is the same pool.
/// Method: take through one, give through the other.
#[test]
fn views_of_the_same_words_are_one_pool() {
    let words = words(5000);
    let one = Buddy::format(&words, Pfn(50), Pages(5000)).unwrap();
    let other = Buddy::open(&words, run(0, 6000)).unwrap().on_cpu(3);
    assert_eq!(other.extent(), run(50, 5000));
    let pfn = one.take(Order(8)).unwrap();
    assert!(!other.is_free(pfn));
    other.give(Extent { start: pfn, len: Pages(256) });
    assert!(one.is_free(pfn));
    one.verify().unwrap();
}

/// Goal: words that are no pool, or not this pool, are refused with the reason.
/// Method: one damage at a time to a good header.
#[test]
fn open_refuses_what_format_did_not_write() {
    let within = run(100, 1000);
    let words = words(1000);
    let magic = 0xdead_beef_dead_beef;
    assert_eq!(Buddy::open(&words, within).unwrap_err(), OpenError::BadMagic { found: magic });
    assert_eq!(Buddy::open(&words[..7], within).unwrap_err(), OpenError::NoHeader { given: 7 });
    Buddy::format(&words, Pfn(100), Pages(1000)).unwrap();
    assert_eq!(Buddy::open(&words, within).unwrap().extent(), within);
    for within in [run(101, 1000), run(100, 999), run(0, 100), run(u64::MAX, 5)] {
        let found = run(100, 1000);
        let error = Buddy::open(&words, within).unwrap_err();
        assert_eq!(error, OpenError::Outside { found, within });
        assert!(error.to_string().starts_with("the header speaks of pfn 0x64..0x44c"));
    }
    let short = Buddy::open(&words[..150], within).unwrap_err();
    assert!(matches!(short, OpenError::BadShape(FormatError::TooFewWords { given: 150, .. })));
    for word in 1..4 {
        words[word].fetch_add(1, Ordering::Relaxed);
        let error = Buddy::open(&words, within).unwrap_err();
        assert!(matches!(error, OpenError::BadCheck { .. }), "word {word}: {error}");
        words[word].fetch_sub(1, Ordering::Relaxed);
    }
    Buddy::open(&words, within).unwrap();
}

/// Goal: format refuses pools that cannot be, and writes nothing then.
/// Method: none, too many, too few words; the words stay as they were.
#[test]
fn format_refuses_a_pool_that_cannot_be() {
    let words = words(1000);
    let (first, len) = (Pfn(1 << 52), Pages(1));
    for (first, len, error) in [
        (Pfn(0), Pages(0), FormatError::Empty),
        (first, len, FormatError::PastTheEnd { first, len }),
        (
            Pfn(u64::MAX),
            Pages(u64::MAX),
            FormatError::PastTheEnd { first: Pfn(u64::MAX), len: Pages(u64::MAX) },
        ),
    ] {
        assert_eq!(Buddy::format(&words, first, len).unwrap_err(), error);
    }
    let error = Buddy::format(&words, Pfn(0), Pages(1 << 40)).unwrap_err();
    assert!(matches!(error, FormatError::TooFewWords { .. }), "{error}");
    assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0xdead_beef_dead_beef));
    assert_eq!(Buddy::words_needed(Pages(u64::MAX)), usize::MAX);
}

/// Goal: the state costs what `words_needed` says: a bit a frame and little more.
/// Method: the formula of its docstring, for many lengths.
#[test]
fn the_state_takes_one_bit_a_frame_and_little_more() {
    let mut rng = Rng(6);
    for len in (0..2000).map(|_| rng.next() % (1 << (1 + rng.next() % 40))) {
        let bound = len.div_ceil(64) + 2 * len.div_ceil(512).div_ceil(64) + 184;
        let needed = Buddy::words_needed(Pages(len)) as u64;
        assert!(needed <= bound, "{needed} words for {len} frames; {bound} promised");
    }
}

// ---- the model ----

/// A frame is free or not: what the allocator must agree with.
struct Model {
    first: u64,
    free: Vec<bool>,
    count: u64,
}

impl Model {
    fn all_free(&self, start: u64, len: u64) -> bool {
        start >= self.first
            && start + len <= self.first + self.free.len() as u64
            && self.free[(start - self.first) as usize..][..len as usize].iter().all(|free| *free)
    }

    fn set(&mut self, run: Extent, to: bool) {
        for pfn in run.start.0..run.end().0 {
            assert_eq!(std::mem::replace(&mut self.free[(pfn - self.first) as usize], to), !to);
        }
        self.count = if to { self.count + run.len.0 } else { self.count - run.len.0 };
    }

    fn blocks(&self, order: Order) -> impl Iterator<Item = u64> {
        let size = order.pages().0;
        let end = self.first + self.free.len() as u64;
        let starts = (self.first.next_multiple_of(size)..end).step_by(size as usize);
        starts.filter(move |&start| self.all_free(start, size))
    }

    fn largest(&self, at_most: Order) -> Option<Order> {
        (0..=at_most.0).rev().map(Order).find(|&order| self.blocks(order).next().is_some())
    }

    fn stats(&self) -> BuddyStats {
        let mut blocks = [0; 19];
        for order in (0..19).map(Order) {
            let parent = Order(order.0 + 1);
            let is_top = |start: &u64| {
                let size = parent.pages().0;
                order == ORDER_MAX || !self.all_free(start / size * size, size)
            };
            blocks[usize::from(order.0)] = self.blocks(order).filter(is_top).count() as u64;
        }
        let mut longest = run(self.first, 0);
        let mut at = 0;
        for free in self.free.chunk_by(|a, b| a == b) {
            if free[0] && free.len() as u64 > longest.len.0 {
                longest = run(self.first + at, free.len() as u64);
            }
            at += free.len() as u64;
        }
        BuddyStats {
            free: Pages(self.count),
            total: Pages(self.free.len() as u64),
            blocks,
            longest,
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Take { cpu: usize, order: u8 },
    Bulk { cpu: usize, want: u64, room: usize },
    Give { which: usize, skip: u64, len: u64 },
    Scribble { word: usize, with: u64 },
    Rebuild,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..20usize, 0..13u8).prop_map(|(cpu, order)| Op::Take { cpu, order }),
        3 => (0..20usize, 0..2500u64, 0..12usize)
            .prop_map(|(cpu, want, room)| Op::Bulk { cpu, want, room }),
        6 => (any::<usize>(), 0..700u64, 1..700u64)
            .prop_map(|(which, skip, len)| Op::Give { which, skip, len }),
        1 => (any::<usize>(), any::<u64>()).prop_map(|(word, with)| Op::Scribble { word, with }),
        1 => Just(Op::Rebuild),
    ]
}

/// Where a pool begins: anywhere, and just before boundaries that matter.
fn first() -> impl Strategy<Value = u64> {
    prop_oneof![0..1500u64, (GIB - 1500)..(GIB + 3), (7 * GIB - 33_000)..(7 * GIB - 31_000)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Goal: the allocator agrees with a list of booleans, refusals included, whatever its hints.
    /// Method: random operations, each judged by the list; when hints were left alone, after each
    /// the count, verify and "largest first"; at the end every frame and the statistics.
    #[test]
    fn the_allocator_agrees_with_a_list_of_booleans(
        first in first(),
        len in 1..5000u64,
        is_scribbled in any::<bool>(),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let words = words(len);
        let buddy = Buddy::format(&words, Pfn(first), Pages(len)).unwrap();
        let mut model = Model { first, free: vec![true; len as usize], count: len };
        let mut held: Vec<Extent> = Vec::new();
        for op in ops {
            match op {
                Op::Take { cpu, order } => match buddy.on_cpu(cpu).take(Order(order)) {
                    Ok(start) => {
                        prop_assert_eq!(start.0 % (1 << order), 0);
                        held.push(run(start.0, 1 << order));
                        model.set(held[held.len() - 1], false);
                    }
                    Err(NoFrames { wanted, .. }) => {
                        prop_assert_eq!(wanted, Pages(1 << order));
                        prop_assert_eq!(model.blocks(Order(order)).next(), None);
                    }
                },
                Op::Bulk { cpu, want, room } => {
                    let largest = Order::at_most(Pages(want)).and_then(|o| model.largest(o));
                    let mut out = vec![run(0, 0); room];
                    let count = buddy.on_cpu(cpu).take_bulk(Pages(want), &mut out);
                    let got = &out[..count];
                    got.iter().for_each(|run| model.set(*run, false));
                    prop_assert!(got.windows(2).all(|two| two[0].end() < two[1].start));
                    let sum: u64 = got.iter().map(|run| run.len.0).sum();
                    prop_assert!(sum <= want);
                    if sum < want && count < room {
                        prop_assert_eq!(model.count, 0);
                    }
                    if let Some(size) = largest.map(|order| order.pages().0)
                        && room > 0 && !is_scribbled
                    {
                        let holds = |run: &Extent| {
                            run.start.0.next_multiple_of(size) + size <= run.end().0
                        };
                        prop_assert!(got.iter().any(holds), "no run of {} in {:?}", size, got);
                    }
                    held.extend(got);
                }
                Op::Give { .. } if held.is_empty() => {}
                Op::Give { which, skip, len } => {
                    let at = which % held.len();
                    let whole = held.swap_remove(at);
                    let skip = skip % whole.len.0;
                    let len = len.min(whole.len.0 - skip);
                    let given = run(whole.start.0 + skip, len);
                    let rest = run(given.end().0, whole.len.0 - skip - len);
                    held.extend([run(whole.start.0, skip), rest].iter().filter(|r| r.len.0 > 0));
                    buddy.give(given);
                    model.set(given, true);
                }
                Op::Scribble { word, with } if is_scribbled => {
                    let hints = 8 + word % (words.len() - 8);
                    if !buddy.bit_words().contains(&hints) {
                        words[hints].store(with, Ordering::Relaxed);
                    }
                }
                Op::Scribble { .. } => {}
                Op::Rebuild => {
                    buddy.rebuild();
                    prop_assert_eq!(buddy.verify(), Ok(()));
                }
            }
            if !is_scribbled {
                prop_assert_eq!(buddy.verify(), Ok(()));
                prop_assert_eq!(buddy.free(), Pages(model.count));
            }
        }
        for (at, free) in model.free.iter().enumerate() {
            prop_assert_eq!(buddy.is_free(Pfn(first + at as u64)), *free);
        }
        prop_assert_eq!(buddy.stats(), model.stats());
        for run in held {
            buddy.give(run);
        }
        prop_assert_eq!(buddy.stats().longest, run(first, len));
        buddy.rebuild();
        prop_assert_eq!(buddy.verify(), Ok(()));
    }
}

/// Goal: bits that are hints to somebody who keeps the truth elsewhere can be set again and again:
/// what is free is counted once, hints agree, and what is not of the pool is refused.
/// Method: take half of a pool with a ragged end, set runs that overlap, beside a count by hand.
#[test]
fn restored_frames_count_once_however_often_they_are_set() {
    let (first, len) = (61, 1500);
    let words = words(len);
    let buddy = Buddy::format(&words, Pfn(first), Pages(len)).unwrap();
    let taken: Vec<Pfn> = (0..len).map(|_| buddy.take(Order(0)).unwrap()).collect();
    assert_eq!((taken.len(), buddy.free()), (1500, Pages(0)));
    assert_eq!(buddy.restore(run(first, 10)), Pages(10));
    assert_eq!(buddy.restore(run(first, 10)), Pages(0));
    assert_eq!(buddy.restore(run(first + 5, 700)), Pages(695));
    assert_eq!((buddy.free(), buddy.verify()), (Pages(705), Ok(())));
    for outside in [run(first - 1, 5), run(first + 1499, 2), run(u64::MAX, 2), run(first, 0)] {
        assert_eq!(buddy.restore(outside), Pages(0), "{outside}");
    }
    assert_eq!(buddy.restore(run(first, len)), Pages(795));
    assert_eq!((buddy.stats().longest, buddy.verify()), (run(first, len), Ok(())));
}
