//! Magazines: where a CPU looks first, because it freed something there.
//!
//! ```text
//!   CPU 0   state │ home │ magazine A, 15 rounds │ magazine B, 15 rounds
//!   CPU 1   state │ home │ …                       one is loaded, the other was before
//!   depot   full  │ 8 full magazines of 15 rounds, for any CPU
//!
//!   free ─▶ loaded, full? ─▶ the other one, not empty? ─▶ depot, full? ─▶ forget the rounds
//!   alloc ◀ loaded, empty? ◀ the other one, empty?     ◀ depot, empty? ◀ the slabs
//! ```
//!
//! As in Bonwick and Adams, *Magazines and Vmem* (USENIX 2001), but that **a round is a hint**: the
//! number of an object that was free when it was pushed. Whether it still is, the slab's word
//! says. So the words here are loaded and stored without any atomic step; when two threads use
//! one CPU's magazines at once, or one is moved to another CPU in between, rounds are lost or seen
//! twice, and a round that is lost is an object that the slabs give out instead. What is forgotten
//! here leaks nothing, and no free object is out of reach because another CPU has it.
//!
//! Invariants: a cache remembers at most 30 rounds a CPU and 120 in its depot; the words may hold
//! rubbish.
//! Linux: `struct kmem_cache_cpu`, and since 6.18 the sheaves and barns of `mm/slub.c`.

use crate::sync::{AtomicU64, Ordering};

/// Rounds in a magazine.
const ROUNDS: usize = 15;
/// The words of a CPU: four cache lines.
const LANE_WORDS: usize = 2 + 2 * ROUNDS;
const STATE: usize = 0;
const HOME: usize = 1;
const SLOTS: usize = 2;
/// Full magazines in the depot.
const DEPOT_MAGAZINES: usize = 8;
/// The words of the depot; the first is a bit a magazine: full.
const DEPOT_WORDS: usize = 8 + DEPOT_MAGAZINES * ROUNDS;
const DEPOT_SLOTS: usize = 8;

/// How many objects a magazine miss may try before the slabs are asked.
pub(super) const TRIES: usize = 2 * ROUNDS;

/// An object that was free: the number of its slab, and its own in there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Round {
    pub(super) slab: usize,
    pub(super) index: usize,
}

impl Round {
    fn encode(self) -> u64 {
        (self.slab as u64) << 16 | (self.index as u64 + 1)
    }

    fn decode(bits: u64) -> Option<Round> {
        let index = (bits & 0xffff) as usize;
        (index > 0).then(|| Round { slab: (bits >> 16) as usize, index: index - 1 })
    }
}

/// Which of a CPU's two magazines is loaded, and how many rounds each has.
#[derive(Clone, Copy)]
struct Lane {
    loaded: usize,
    rounds: [usize; 2],
}

impl Lane {
    fn encode(self) -> u64 {
        self.loaded as u64 | (self.rounds[0] as u64) << 8 | (self.rounds[1] as u64) << 16
    }

    /// Whatever the word says, never more rounds than a magazine has.
    fn decode(bits: u64) -> Lane {
        let rounds = |shift: u32| ((bits >> shift & 0xff) as usize).min(ROUNDS);
        Lane { loaded: (bits & 1) as usize, rounds: [rounds(8), rounds(16)] }
    }
}

/// The magazines of a cache. A view of the caller's words.
#[derive(Clone, Copy)]
pub(super) struct Magazines<'a> {
    lanes: &'a [AtomicU64],
    depot: &'a [AtomicU64],
    cpus: usize,
}

// All of it is Relaxed: a round gives no right to anything.
impl<'a> Magazines<'a> {
    pub(super) const fn words_needed(cpus: usize) -> usize {
        cpus * LANE_WORDS + DEPOT_WORDS
    }

    /// Views words that are as many as needed, and all zero or whatever.
    pub(super) fn new(words: &'a [AtomicU64], cpus: usize) -> Magazines<'a> {
        let (lanes, depot) = words.split_at(cpus * LANE_WORDS);
        Magazines { lanes, depot, cpus }
    }

    pub(super) fn cpus(&self) -> usize {
        self.cpus
    }

    /// The round that `cpu` pushed last, or one of the depot's.
    pub(super) fn pop(&self, cpu: usize) -> Option<Round> {
        let words = self.lane(cpu);
        let mut lane = Lane::decode(words[STATE].load(Ordering::Relaxed));
        if lane.rounds[lane.loaded] == 0 {
            let other = 1 - lane.loaded;
            if lane.rounds[other] > 0 {
                lane.loaded = other;
            } else if self.take_from_depot(magazine(words, lane.loaded)) {
                lane.rounds[lane.loaded] = ROUNDS;
            } else {
                return None;
            }
        }
        lane.rounds[lane.loaded] -= 1;
        let round = magazine(words, lane.loaded)[lane.rounds[lane.loaded]].load(Ordering::Relaxed);
        words[STATE].store(lane.encode(), Ordering::Relaxed);
        Round::decode(round)
    }

    /// Remembers a round. A full depot forgets as many as a magazine holds.
    pub(super) fn push(&self, cpu: usize, round: Round) {
        let words = self.lane(cpu);
        let mut lane = Lane::decode(words[STATE].load(Ordering::Relaxed));
        if lane.rounds[lane.loaded] == ROUNDS {
            let other = 1 - lane.loaded;
            if lane.rounds[other] == ROUNDS {
                self.put_to_depot(magazine(words, other));
            }
            lane.rounds[other] = 0;
            lane.loaded = other;
        }
        let slot = &magazine(words, lane.loaded)[lane.rounds[lane.loaded]];
        slot.store(round.encode(), Ordering::Relaxed);
        lane.rounds[lane.loaded] += 1;
        words[STATE].store(lane.encode(), Ordering::Relaxed);
    }

    /// The slab that `cpu` took an object from last, past its magazines.
    pub(super) fn home(&self, cpu: usize) -> Option<usize> {
        (self.lane(cpu)[HOME].load(Ordering::Relaxed) as usize).checked_sub(1)
    }

    pub(super) fn set_home(&self, cpu: usize, slab: usize) {
        self.lane(cpu)[HOME].store(slab as u64 + 1, Ordering::Relaxed);
    }

    pub(super) fn is_home_of_another(&self, cpu: usize, slab: usize) -> bool {
        (0..self.cpus).any(|other| other != cpu && self.home(other) == Some(slab))
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        for cpu in 0..self.cpus {
            self.lane(cpu)[..SLOTS].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        self.depot[0].store(0, Ordering::Relaxed);
    }

    /// How many rounds are remembered.
    pub(super) fn rounds(&self) -> usize {
        let lane = |cpu| Lane::decode(self.lane(cpu)[STATE].load(Ordering::Relaxed)).rounds;
        let held: usize = (0..self.cpus).map(|cpu| lane(cpu).iter().sum::<usize>()).sum();
        held + self.full().count_ones() as usize * ROUNDS
    }

    /// The most rounds that can be remembered.
    pub(super) fn rounds_max(&self) -> usize {
        (2 * self.cpus + DEPOT_MAGAZINES) * ROUNDS
    }

    fn lane(&self, cpu: usize) -> &'a [AtomicU64] {
        &self.lanes[cpu * LANE_WORDS..][..LANE_WORDS]
    }

    fn full(&self) -> u64 {
        self.depot[0].load(Ordering::Relaxed) & ((1 << DEPOT_MAGAZINES) - 1)
    }

    fn in_depot(&self, number: u32) -> &'a [AtomicU64] {
        &self.depot[DEPOT_SLOTS + number as usize * ROUNDS..][..ROUNDS]
    }

    fn take_from_depot(&self, into: &[AtomicU64]) -> bool {
        loop {
            let full = self.full();
            if full == 0 {
                return false;
            }
            let number = full.trailing_zeros();
            // Who clears the bit has the magazine.
            if self.depot[0].fetch_and(!(1 << number), Ordering::Relaxed) >> number & 1 == 1 {
                copy(self.in_depot(number), into);
                return true;
            }
        }
    }

    /// Two CPUs that fill the same magazine mix their rounds, and each half of them is forgotten.
    fn put_to_depot(&self, from: &[AtomicU64]) {
        let number = (!self.full()).trailing_zeros();
        if (number as usize) < DEPOT_MAGAZINES {
            copy(from, self.in_depot(number));
            self.depot[0].fetch_or(1 << number, Ordering::Relaxed);
        }
    }
}

fn magazine(lane: &[AtomicU64], number: usize) -> &[AtomicU64] {
    &lane[SLOTS + number * ROUNDS..][..ROUNDS]
}

fn copy(from: &[AtomicU64], to: &[AtomicU64]) {
    for (from, to) in from.iter().zip(to) {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
