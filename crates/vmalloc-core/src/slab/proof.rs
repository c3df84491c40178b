//! Slabs under loom: objects have one owner, and slabs go home, in every order of steps.
//!
//! The world is as small as shows it: a slab or two of a frame, two CPUs, and a frame allocator of
//! one word, which panics when a frame comes back twice. An owner adds one to the first word of
//! what it owns, by a load and a store: if the next one has not seen that, the sum is short.
//!
//! `proof/objects.rs`: who owns an object. `proof/homeward.rs`: slabs that go home meanwhile.

extern crate std;

mod homeward;
mod objects;

use super::magazine::Magazines;
use super::occupancy::RECORD_WORDS;
use super::{CacheConfig, Ctor, DirectAddr, KmemCache, Shape, Slabs};
use crate::bits::BitTree;
use crate::platform::{FRAME_WORDS, Frames, NoFrames, Ram};
use crate::proof::explore::{Canary, Scenario, Walk, race_each_first};
use crate::sync::explored::{self, Sequential};
use crate::sync::{AtomicU64, Ordering};
use crate::{Extent, Order, Pages, Pfn};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

/// CPUs that a cache has magazines for.
const CPUS: usize = 2;
/// Objects of which a slab of one frame has eight: one word of bits.
const FEW: usize = 512;
/// Objects of which a slab of one frame has 64: two words of bits.
const MANY: usize = 64;

/// What there is.
#[derive(Clone, Copy)]
struct Plan {
    frames: usize,
    caches: u64,
    object_bytes: usize,
    ctor: Option<Ctor>,
}

/// One slab for one cache.
const ONE_SLAB: Plan = Plan { frames: 1, caches: 1, object_bytes: FEW, ctor: None };

/// Words in one row: which frames are taken, the frames, the table, the caches.
struct World {
    words: Vec<AtomicU64>,
    plan: Plan,
    /// What is owned: from where on, how many bytes, and of which cache (0: a frame).
    owned: Mutex<BTreeMap<u64, (u64, u64)>>,
    /// How often an owner has added one.
    used: Mutex<u64>,
}

impl Plan {
    fn shape(&self) -> Shape {
        Shape::new(&CacheConfig::object_bytes(self.object_bytes)).unwrap()
    }

    fn table_words(&self) -> usize {
        Slabs::<World, World>::words_needed(Pages(self.frames as u64), self.frames)
    }

    fn cache_words(&self) -> usize {
        KmemCache::<World, World>::words_needed(self.frames, CPUS)
    }

    fn extent(&self) -> Extent {
        Extent { start: Pfn(0), len: Pages(self.frames as u64) }
    }
}

impl World {
    fn new(plan: Plan) -> World {
        let words = 1 + plan.frames * FRAME_WORDS + plan.table_words();
        let words = explored::words(0, words + plan.caches as usize * plan.cache_words());
        let world = World { words, plan, owned: Mutex::default(), used: Mutex::default() };
        Slabs::format(world.table_words(), plan.extent(), plan.frames, &world, &world).unwrap();
        world
    }

    fn after_frames(&self) -> &[AtomicU64] {
        &self.words[1 + self.plan.frames * FRAME_WORDS..]
    }

    fn table_words(&self) -> &[AtomicU64] {
        &self.after_frames()[..self.plan.table_words()]
    }

    fn slabs(&self) -> Slabs<'_, World, World> {
        let (words, plan) = (self.table_words(), self.plan);
        Slabs::laid_out(words, plan.extent(), plan.frames, self, self)
    }

    /// The record of slab 0, behind the header.
    fn record_words(&self) -> &[AtomicU64] {
        &self.table_words()[8..][..RECORD_WORDS]
    }

    /// Cache `number`, from 1 on, as `cpu` uses it.
    fn cache(&self, number: u64, cpu: usize) -> KmemCache<'_, World, World> {
        let len = self.plan.cache_words();
        let words = &self.after_frames()[self.plan.table_words()..];
        let words = &words[(number as usize - 1) * len..][..len];
        let (lanes, room) = words.split_at(Magazines::words_needed(CPUS));
        let slabs = self.slabs();
        let (room, magazines) =
            (BitTree::new(room, slabs.slabs_max()), Magazines::new(lanes, CPUS));
        let (shape, ctor) = (self.plan.shape(), self.plan.ctor);
        KmemCache { slabs, number, shape, ctor, cpu, room, magazines }
    }

    fn own(&self, start: u64, len: u64, cache: u64) {
        let mut owned = self.owned.lock().unwrap();
        let meets = |(&other, &(other_len, _)): (&u64, &(u64, u64))| {
            other < start + len && start < other + other_len
        };
        assert!(!owned.iter().any(meets), "two owners of {start:#x}");
        owned.insert(start, (len, cache));
    }

    fn disown(&self, start: u64) {
        self.owned.lock().unwrap().remove(&start).expect("it was owned");
    }

    /// What an owner does with what it owns.
    fn write_to(&self, start: DirectAddr) {
        let word = &Ram::words(self, start.pfn())[start.offset_bytes() as usize / 8];
        word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        *self.used.lock().unwrap() += 1;
    }

    fn take(&self, cache: u64, cpu: usize) -> Option<DirectAddr> {
        let addr = self.cache(cache, cpu).alloc().ok()?;
        self.own(addr.0, u64::from(self.plan.shape().stride), cache);
        Some(addr)
    }

    fn free(&self, cache: u64, cpu: usize, addr: DirectAddr) {
        self.disown(addr.0);
        let freed = self.cache(cache, cpu).free(addr);
        assert_eq!(freed, Ok(()), "two owners of {addr}, or none");
    }

    fn use_one(&self, cache: u64, cpu: usize) {
        if let Some(addr) = self.take(cache, cpu) {
            self.write_to(addr);
            self.free(cache, cpu, addr);
        }
    }

    /// Takes a frame as anyone may who has no slabs.
    fn use_frame(&self) {
        if let Ok(pfn) = Frames::take(self, Order(0)) {
            let start = DirectAddr::new(pfn, 0);
            self.own(start.0, 4096, 0);
            self.write_to(start);
            self.disown(start.0);
            self.give(Extent { start: pfn, len: Pages(1) });
        }
    }

    /// Takes all objects of a slab of cache 1.
    fn fill(&self) -> Vec<DirectAddr> {
        (0..self.plan.shape().objects).map(|_| self.take(1, 0).unwrap()).collect()
    }

    /// When all is quiet: words and hints agree, no addition is lost, and all frames go home.
    fn settle(&self) {
        self.slabs().verify().unwrap_or_else(|e| panic!("verify: {e:?}"));
        for number in 1..=self.plan.caches {
            let verified = self.cache(number, 0).verify();
            verified.unwrap_or_else(|e| panic!("verify: {e:?}"));
        }
        let frames = &self.words[1..][..self.plan.frames * FRAME_WORDS];
        let sum: u64 = frames.iter().map(|word| word.load(Ordering::Relaxed)).sum();
        let is_counted = self.plan.ctor.is_none();
        let used = *self.used.lock().unwrap();
        assert!(!is_counted || sum == used, "what an owner wrote, the next did not see");
        let owned: Vec<_> = self.owned.lock().unwrap().iter().map(|(&a, &(_, c))| (a, c)).collect();
        owned.iter().for_each(|&(addr, cache)| self.free(cache, 0, DirectAddr(addr)));
        (1..=self.plan.caches).for_each(|number| _ = self.cache(number, 0).shrink());
        assert_eq!(Frames::free(self), self.total(), "a frame is lost");
    }
}

/// Bit `n` of the first word: frame `n` is taken.
impl Frames for World {
    fn take(&self, order: Order) -> Result<Pfn, NoFrames> {
        let mut taken = self.words[0].load(Ordering::Acquire);
        loop {
            let pfn = u64::from(taken.trailing_ones());
            if order != Order(0) || pfn >= self.plan.frames as u64 {
                return Err(NoFrames { wanted: order.pages(), free: Frames::free(self) });
            }
            // AcqRel: who takes a frame comes after who gave it, as any allocator promises.
            let with = taken | 1 << pfn;
            match self.words[0].compare_exchange(taken, with, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(Pfn(pfn)),
                Err(now) => taken = now,
            }
        }
    }

    fn take_bulk(&self, _want: Pages, _out: &mut [Extent]) -> usize {
        0
    }

    fn give(&self, run: Extent) {
        let was = self.words[0].fetch_and(!(1 << run.start.0), Ordering::AcqRel);
        assert_eq!(was >> run.start.0 & 1, 1, "a frame is given twice");
    }

    fn free(&self) -> Pages {
        Pages(
            self.plan.frames as u64 - u64::from(self.words[0].load(Ordering::Acquire).count_ones()),
        )
    }

    fn total(&self) -> Pages {
        self.plan.extent().len
    }
}

impl Ram for World {
    fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        self.words[1 + pfn.0 as usize * FRAME_WORDS..][..FRAME_WORDS].try_into().unwrap()
    }

    fn zero(&self, _run: Extent) {
        unreachable!("objects are as their last owner left them");
    }
}

fn run(name: &'static str, preemptions: usize, canary: Canary, body: fn()) {
    let (preemptions, needs) = (Some(preemptions), Sequential::Plain);
    Scenario { name, preemptions, needs, canary, body }.run();
}

fn walk(walk: impl FnOnce(&World) + Send + 'static) -> Walk<World> {
    Box::new(walk)
}

fn check(world: World, walks: Vec<Walk<World>>) {
    let world = Arc::new(world);
    race_each_first(&world, |world| &world.words, walks);
    world.settle();
}
