//! Slabs, `kmalloc` and `kvmalloc`: what they promise their callers, what they promise when the
//! frame allocator fails, and what they promise when several CPUs work at once.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use vmalloc_core::backing::Backings;
use vmalloc_core::frames::Buddy;
use vmalloc_core::kmalloc::{
    CLASSES, KMALLOC_MAX_BYTES, KfreeError, Kmalloc, KmallocError, KreallocError, Kv, KvAddr,
    KvfreeError, KvmallocError,
};
use vmalloc_core::platform::{FRAME_WORDS, Frames, MapError, Mapper, NoFrames, Prot, Ram, Tlb};
use vmalloc_core::slab::{
    AllocError, CacheConfig, CacheError, CacheStats, DirectAddr, FreeError, InUse, KmemCache,
    Object, Slabs, VerifyError,
};
use vmalloc_core::sync::{AtomicU64, Ordering};
use vmalloc_core::{
    Config, Engine, Extent, Geometry, Order, Owner, PAGE_SIZE, PageRange, Paged, Pages, Pfn,
    Tables, VirtAddr, Vpn,
};

/// Where the pool begins: no multiple of any slab's size.
const FIRST: u64 = 0x1_0003;
const SLABS: usize = 64;
const CPUS: usize = 3;

type Cache<'a> = KmemCache<'a, Failing<'a>, Vector>;
type General<'a> = Kmalloc<'a, Failing<'a>, Vector>;

fn words(len: usize) -> Vec<AtomicU64> {
    // Not zero: nobody must count on it.
    (0..len).map(|_| AtomicU64::new(0xdead_beef_dead_beef)).collect()
}

/// RAM in a vector, from frame [`FIRST`] on.
struct Vector(Vec<AtomicU64>);

impl Ram for Vector {
    fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        let at = (pfn.0 - FIRST) as usize * FRAME_WORDS;
        self.0[at..at + FRAME_WORDS].try_into().unwrap()
    }

    fn zero(&self, run: Extent) {
        for pfn in run.start.0..run.end().0 {
            self.words(Pfn(pfn)).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }
}

/// A frame allocator whose n-th `take` fails, or gives what `lie` says.
struct Failing<'a> {
    buddy: Buddy<'a>,
    takes: AtomicU64,
    fail_at: AtomicU64,
    lie: Mutex<Option<Pfn>>,
    given: Mutex<Vec<Extent>>,
}

impl Failing<'_> {
    fn fail_at(&self, nth: u64) {
        self.takes.store(0, Ordering::Relaxed);
        self.fail_at.store(nth, Ordering::Relaxed);
    }
}

impl Frames for Failing<'_> {
    fn take(&self, order: Order) -> Result<Pfn, NoFrames> {
        if self.takes.fetch_add(1, Ordering::Relaxed) == self.fail_at.load(Ordering::Relaxed) {
            return Err(NoFrames { wanted: order.pages(), free: self.free() });
        }
        match self.lie.lock().unwrap().take() {
            Some(lie) => Ok(lie),
            None => self.buddy.take(order),
        }
    }

    fn take_bulk(&self, want: Pages, out: &mut [Extent]) -> usize {
        self.buddy.take_bulk(want, out)
    }

    fn give(&self, run: Extent) {
        let all = self.buddy.extent();
        if run.start < all.start || run.end() > all.end() {
            self.given.lock().unwrap().push(run);
        } else {
            self.buddy.give(run);
        }
    }

    fn free(&self) -> Pages {
        self.buddy.free()
    }

    fn total(&self) -> Pages {
        self.buddy.total()
    }
}

/// All the words of a test.
struct World {
    all: Extent,
    ram: Vector,
    bits: Vec<AtomicU64>,
    table: Vec<AtomicU64>,
    state: Vec<AtomicU64>,
}

impl World {
    fn new(frames: u64) -> World {
        let all = Extent { start: Pfn(FIRST), len: Pages(frames) };
        World {
            all,
            ram: Vector(words(frames as usize * FRAME_WORDS)),
            bits: words(Buddy::words_needed(all.len)),
            table: words(Slabs::<Failing<'_>, Vector>::words_needed(all.len, SLABS)),
            state: words(General::words_needed(SLABS, CPUS)),
        }
    }

    fn frames(&self) -> Failing<'_> {
        Failing {
            buddy: Buddy::format(&self.bits, self.all.start, self.all.len).unwrap(),
            takes: AtomicU64::new(0),
            fail_at: AtomicU64::new(u64::MAX),
            lie: Mutex::new(None),
            given: Mutex::new(Vec::new()),
        }
    }

    fn slabs<'a>(&'a self, frames: &'a Failing<'a>) -> Slabs<'a, Failing<'a>, Vector> {
        Slabs::format(&self.table, self.all, SLABS, frames, &self.ram).unwrap()
    }

    fn cache<'a>(&'a self, frames: &'a Failing<'a>, config: CacheConfig) -> Cache<'a> {
        KmemCache::new(self.slabs(frames), &self.state, config).unwrap()
    }

    fn kmalloc<'a>(&'a self, frames: &'a Failing<'a>) -> General<'a> {
        Kmalloc::new(self.slabs(frames), &self.state, CPUS).unwrap()
    }
}

/// splitmix64: the same numbers on every run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// Who owns each word of the pool, and a panic when a second owner turns up.
struct Owners(Vec<AtomicU64>);

impl Owners {
    fn new(world: &World) -> Owners {
        Owners(world.ram.0.iter().map(|_| AtomicU64::new(0)).collect())
    }

    fn swap(&self, addr: DirectAddr, words: usize, from: u64, to: u64) {
        let at = (addr.0 - (FIRST << 12)) as usize / 8;
        for cell in &self.0[at..at + words] {
            let before = cell.swap(to, Ordering::Relaxed);
            assert_eq!(before, from, "{addr}, {words} words: {before} had it, not {from}");
        }
    }
}

fn fill(object: &Object<'_>, with: u64) {
    (0..object.words()).for_each(|i| object.word(i).store(with + i as u64, Ordering::Relaxed));
}

/// Whether the first `words` words still are what `fill` wrote.
fn keeps(object: &Object<'_>, with: u64, words: usize) -> bool {
    (0..words).all(|i| object.word(i).load(Ordering::Relaxed) == with + i as u64)
}

// ---- what a cache promises ----

/// Goal: objects of every size and alignment are aligned, inside the pool, and do not overlap.
/// Method: caches of sizes around the powers of two, three slabs of each, owned word by word.
#[test]
fn every_object_is_aligned_and_its_own() {
    for object_bytes in [1, 8, 9, 24, 100, 127, 128, 680, 1000, 2049, 5000, 8192, 40_000, 130_000] {
        for align_bytes in [1, 8, 64, 4096] {
            let world = World::new(256);
            let frames = world.frames();
            let config = CacheConfig::object_bytes(object_bytes).align_bytes(align_bytes);
            let cache = world.cache(&frames, config);
            let owners = Owners::new(&world);
            let stats = cache.stats();
            for _ in 0..(3 * stats.objects_a_slab).min(3 * (256 >> stats.order.0) - 6) {
                let addr = cache.alloc().unwrap();
                assert_eq!(addr.0 % align_bytes.max(8) as u64, 0, "{addr}");
                owners.swap(addr, object_bytes.div_ceil(8), 0, 1);
            }
            cache.verify().unwrap();
        }
    }
}

/// Goal: a slab wastes at most a sixteenth, where an order up to 3 allows it.
/// Method: the shapes of all classes and of the sizes that fit pages badly.
#[test]
fn slabs_waste_little() {
    for bytes in CLASSES.into_iter().chain([24, 40, 72, 680, 1000, 1400, 2000]) {
        let world = World::new(64);
        let frames = world.frames();
        let stats = world.cache(&frames, CacheConfig::object_bytes(bytes)).stats();
        let slab = PAGE_SIZE << stats.order.0;
        let waste = slab - stats.objects_a_slab * stats.stride_bytes;
        assert!(waste * 16 <= slab, "{bytes} bytes: {waste} of {slab} wasted");
        assert!(stats.order <= Order(3) && stats.objects_a_slab >= 4, "{stats:?}");
    }
}

/// Goal: the constructor runs once for each object of a slab, before anybody owns it, and what it
/// did survives the object's tenants.
/// Method: a constructor that counts in the object's last word; alloc and free many times over,
/// through more objects than magazines remember; then shrink, after which it runs again.
#[test]
fn a_constructor_runs_once_an_object_and_slab_and_its_effect_survives() {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    fn ctor(object: &Object<'_>) {
        RUNS.fetch_add(1, Ordering::Relaxed);
        fill(object, object.addr().0);
    }
    let world = World::new(64);
    let frames = world.frames();
    let cache = world.cache(&frames, CacheConfig::object_bytes(200).ctor(ctor));
    let a_slab = cache.stats().objects_a_slab as u64;
    for round in 0..5 {
        let held: Vec<_> = (0..2 * a_slab).map(|_| cache.alloc().unwrap()).collect();
        for &addr in &held {
            assert!(keeps(&cache.object(addr).unwrap(), addr.0, 25), "{addr}");
        }
        held.into_iter().for_each(|addr| cache.free(addr).unwrap());
        assert_eq!(RUNS.load(Ordering::Relaxed), 2 * a_slab, "round {round}");
    }
    cache.shrink();
    cache.alloc().unwrap();
    assert_eq!(RUNS.load(Ordering::Relaxed), 3 * a_slab);
}

/// Goal: an object freed is the next one this CPU gets, and another CPU prefers a slab of its own.
/// Method: one object back and forth, and three, last first; then two CPUs, one object each.
#[test]
fn a_cpu_gets_the_object_it_freed_last() {
    let world = World::new(64);
    let frames = world.frames();
    let cache = world.cache(&frames, CacheConfig::object_bytes(64).cpus(2));
    let held: Vec<_> = (0..10).map(|_| cache.alloc().unwrap()).collect();
    for &addr in &held {
        cache.free(addr).unwrap();
        assert_eq!(cache.alloc(), Ok(addr));
    }
    [3, 7, 5].iter().for_each(|&i| cache.free(held[i]).unwrap());
    assert_eq!([5, 7, 3].map(|i| (i, cache.alloc().unwrap())), [5, 7, 3].map(|i| (i, held[i])));
    let other = cache.on_cpu(1).alloc().unwrap();
    assert_ne!(other.pfn(), held[0].pfn());
}

/// Goal: magazines remember so many objects and no more, and what they forget is not lost.
/// Method: free ten times as many objects as they hold, on every CPU; one CPU takes as many
/// again, with no new slabs but one for each home of another that it leaves alone.
#[test]
fn magazines_are_bounded_and_forget_nothing_that_matters() {
    let world = World::new(64);
    let frames = world.frames();
    let cache = world.cache(&frames, CacheConfig::object_bytes(16).cpus(CPUS));
    let max = cache.stats().rounds_max;
    let held: BTreeSet<_> =
        (0..10 * max).map(|i| cache.on_cpu(i % CPUS).alloc().unwrap()).collect();
    for (i, &addr) in held.iter().enumerate() {
        cache.on_cpu(i % CPUS).free(addr).unwrap();
    }
    let rounds = cache.verify().unwrap().rounds;
    assert!(rounds <= max && rounds >= max - CPUS * 15, "{rounds} of {max}");
    let free = frames.free();
    let again: BTreeSet<_> = (0..held.len()).map(|_| cache.alloc().unwrap()).collect();
    assert_eq!(again.len(), held.len());
    assert!(free.0 - frames.free().0 < CPUS as u64, "{free} were free before");
}

/// Goal: an object that is free is had by any CPU, whoever remembers it.
/// Method: a pool of one slab, filled and freed on CPU 0; CPU 1 takes every object of it.
#[test]
fn no_free_object_is_out_of_reach_in_another_cpus_magazine() {
    let world = World::new(1);
    let frames = world.frames();
    let cache = world.cache(&frames, CacheConfig::object_bytes(512).cpus(2));
    let held: Vec<_> = (0..8).map(|_| cache.alloc().unwrap()).collect();
    held.iter().for_each(|&addr| cache.free(addr).unwrap());
    let other = cache.on_cpu(1);
    let taken: BTreeSet<_> = (0..8).map(|_| other.alloc().unwrap()).collect();
    assert_eq!(taken, held.into_iter().collect());
    assert!(matches!(cache.alloc(), Err(AllocError::NoFrames(NoFrames { free: Pages(0), .. }))));
}

/// Goal: shrink gives back every empty slab, and no slab of which an object is owned.
/// Method: four slabs; all objects freed but one, then that one, too.
#[test]
fn shrink_gives_back_every_empty_slab_and_no_other() {
    for object_bytes in [8, 64, 700, 8192] {
        let world = World::new(128);
        let frames = world.frames();
        let cache = world.cache(&frames, CacheConfig::object_bytes(object_bytes));
        let CacheStats { objects_a_slab, order, .. } = cache.stats();
        let mut held: Vec<_> = (0..4 * objects_a_slab).map(|_| cache.alloc().unwrap()).collect();
        assert_eq!(cache.shrink(), Pages(0));
        let last = held.pop().unwrap();
        held.into_iter().for_each(|addr| cache.free(addr).unwrap());
        assert_eq!(cache.shrink(), Pages(3 << order.0));
        assert_eq!(cache.verify().unwrap().owned, 1);
        assert_eq!(cache.destroy(), Err(InUse { objects: 1 }));
        cache.free(last).unwrap();
        assert_eq!(cache.destroy(), Ok(()));
        assert_eq!(frames.free(), Pages(128));
    }
}

/// Goal: a free of what is not an owned object's base is refused with the values, and changes
/// nothing.
/// Method: each kind of wrong address, for one-word and many-word slabs; the words of the table
/// before and after.
#[test]
fn a_wrong_free_is_an_error_and_changes_nothing() {
    for object_bytes in [8, 96, 5000] {
        let world = World::new(64);
        let frames = world.frames();
        let slabs = world.slabs(&frames);
        let needed = Cache::words_needed(SLABS, 1);
        let cache =
            |words| KmemCache::new(slabs, words, CacheConfig::object_bytes(object_bytes)).unwrap();
        let (ours, other) = (cache(&world.state), cache(&world.state[needed..]));
        let (kept, freed, foreign) =
            (ours.alloc().unwrap(), ours.alloc().unwrap(), other.alloc().unwrap());
        ours.free(freed).unwrap();
        let snapshot = || -> Vec<u64> {
            world.table.iter().map(|word| word.load(Ordering::Relaxed)).collect()
        };
        let before = snapshot();
        let stats = ours.stats();
        let tail = kept.0 + (stats.objects_a_slab * stats.stride_bytes) as u64;
        let mut wrong = vec![
            (freed, FreeError::Twice { addr: freed }),
            (
                DirectAddr(kept.0 + 3),
                FreeError::Interior { addr: DirectAddr(kept.0 + 3), base: kept },
            ),
            (foreign, FreeError::WrongCache { addr: foreign, cache: other.number() }),
        ];
        // The rest of the slab, a frame not lent, one before and after the pool, and rubbish.
        let free = DirectAddr::new(world.all.end(), 0).0 - 4096;
        for addr in [tail, free, 0, (FIRST << 12) - 8, (FIRST + 64) << 12, u64::MAX].map(DirectAddr)
        {
            if addr.0 != tail || object_bytes != 8 {
                wrong.push((addr, FreeError::Stranger { addr }));
            }
        }
        for (addr, error) in wrong {
            assert_eq!(ours.free(addr), Err(error));
            assert_eq!(ours.object(addr).unwrap_err(), error);
        }
        assert_eq!(snapshot(), before);
        ours.free(kept).unwrap();
        ours.shrink();
        assert_eq!(ours.free(kept), Err(FreeError::Stranger { addr: kept }), "its slab went home");
    }
}

/// Goal: whatever stands in the words of hints, an object has one owner.
/// Method: scribble over the cache's words and the table's hint between any two steps.
#[test]
fn rubbish_in_the_hints_costs_time_but_nothing_else() {
    let world = World::new(64);
    let frames = world.frames();
    let cache = world.cache(&frames, CacheConfig::object_bytes(100));
    let owners = Owners::new(&world);
    let (mut rng, mut held) = (Rng(7), Vec::new());
    for _ in 0..3_000 {
        for _ in 0..8 {
            let at = rng.below(Cache::words_needed(SLABS, 1) as u64) as usize;
            let bits = rng.below(1 << 24);
            world.state[at].store(if rng.below(2) == 0 { bits } else { 0 }, Ordering::Relaxed);
        }
        // The hint which records are nobody's: empty, or all.
        let hint = 8 + SLABS * 16 + 64;
        let bits = if rng.below(2) == 0 { 0 } else { u64::MAX };
        world.table[hint..].iter().for_each(|word| word.store(bits, Ordering::Relaxed));
        if rng.below(5) < 3 && held.len() < 2000 {
            let addr = cache.alloc().unwrap();
            owners.swap(addr, 13, 0, 1);
            held.push(addr);
        } else if let Some(addr) = held.pop() {
            owners.swap(addr, 13, 1, 0);
            cache.free(addr).unwrap();
        }
    }
    assert_eq!(cache.stats().owned, held.len());
}

/// Goal: a configuration that cannot be is refused with its values.
/// Method: each of them.
#[test]
fn a_cache_that_cannot_be_is_refused() {
    let world = World::new(64);
    let frames = world.frames();
    let new = |words, config| {
        KmemCache::new(world.slabs(&frames), words, config).map(|_| ()).unwrap_err()
    };
    let size = |bytes| new(&world.state, CacheConfig::object_bytes(bytes));
    assert!(matches!(size(0), CacheError::BadSize { object_bytes: 0, .. }));
    assert!(matches!(size((1 << 30) + 1), CacheError::BadSize { limit_bytes: 0x4000_0000, .. }));
    for align_bytes in [24, 8192] {
        let config = CacheConfig::object_bytes(8).align_bytes(align_bytes);
        assert_eq!(new(&world.state, config), CacheError::BadAlign { align_bytes });
    }
    let needed = Cache::words_needed(SLABS, 1);
    let e = new(&world.state[..needed - 1], CacheConfig::object_bytes(8));
    assert_eq!(e, CacheError::TooFewWords { needed, given: needed - 1 });
    let few = Slabs::format(&world.table[..9], world.all, SLABS, &frames, &world.ram);
    assert!(matches!(few.map(|_| ()), Err(CacheError::TooFewWords { given: 9, .. })));
    let slabs = world.slabs(&frames);
    let number = || KmemCache::new(slabs, &world.state, CacheConfig::object_bytes(8));
    assert!((0..4094).all(|_| number().is_ok()));
    assert_eq!(number().map(|_| ()).unwrap_err(), CacheError::TooManyCaches);
}

// ---- when the world fails ----

/// Goal: an allocation that finds no frame, whichever it is, leaves nothing behind.
/// Method: fill several caches' worth of objects with the n-th take failing, for each n; free
/// what was had; all frames are home, and a second try succeeds.
#[test]
fn a_failure_at_any_frame_leaves_nothing_behind() {
    let sizes = [8, 100, 4096, 8192, 20_000, 100_000, KMALLOC_MAX_BYTES];
    for nth in 0..12 {
        let world = World::new(2048);
        let frames = world.frames();
        let kmalloc = world.kmalloc(&frames);
        frames.fail_at(nth);
        let (mut held, mut failed) = (Vec::new(), 0);
        for bytes in sizes.into_iter().cycle().take(21) {
            match kmalloc.kmalloc(bytes) {
                Ok(addr) => held.push(addr),
                Err(KmallocError::Alloc(AllocError::NoFrames(_))) => failed += 1,
                Err(e) => panic!("{e}"),
            }
            kmalloc.verify().unwrap();
        }
        assert_eq!(failed, 1, "take {nth}");
        held.into_iter().for_each(|addr| kmalloc.kfree(addr).unwrap());
        kmalloc.shrink();
        assert_eq!(frames.free(), Pages(2048), "take {nth}");
    }
}

/// Goal: with the records of slabs at an end, the error says so, nothing is left behind, and an
/// empty slab of any class makes room.
/// Method: one page objects, eight a slab, for more slabs than the table has.
#[test]
fn the_end_of_the_records_is_an_error_of_its_own() {
    let world = World::new(2048);
    let frames = world.frames();
    let kmalloc = world.kmalloc(&frames);
    let mut held = Vec::new();
    let e = loop {
        match kmalloc.kmalloc(4096) {
            Ok(addr) => held.push(addr),
            Err(e) => break e,
        }
    };
    assert_eq!(e, KmallocError::Alloc(AllocError::NoRecord { slabs: SLABS }));
    assert_eq!(frames.free(), Pages(2048 - held.len() as u64));
    kmalloc.verify().unwrap();
    assert_eq!(kmalloc.kmalloc(8), Err(e));
    held.into_iter().for_each(|addr| kmalloc.kfree(addr).unwrap());
    kmalloc.kmalloc(8).unwrap();
}

/// Goal: a frame allocator that lies is found out before its block is used.
/// Method: blocks outside the table, misaligned, and lent already, for a slab and for a block.
#[test]
fn a_block_that_the_frame_allocator_must_not_give_is_refused() {
    let world = World::new(64);
    let frames = world.frames();
    let kmalloc = world.kmalloc(&frames);
    let owned = kmalloc.kmalloc(8).unwrap();
    let large = kmalloc.kmalloc(16_384).unwrap();
    let before = frames.free();
    for bytes in [20_000, 4096] {
        let order = Order(3);
        for start in [Pfn(FIRST - 3), Pfn(8), Pfn((1 << 52) - 8), world.all.end()] {
            *frames.lie.lock().unwrap() = Some(start);
            let e = AllocError::BadFrames { start, order, table: world.all };
            assert_eq!(kmalloc.kmalloc(bytes), Err(KmallocError::Alloc(e)));
            assert_eq!(frames.given.lock().unwrap().pop().map(|run| run.start), Some(start));
        }
        assert_eq!(frames.free(), before);
    }
    // Misaligned, and so given back.
    let block = frames.take(Order(4)).unwrap();
    let start = Pfn(block.0 + 1);
    *frames.lie.lock().unwrap() = Some(start);
    let e = AllocError::BadFrames { start, order: Order(3), table: world.all };
    assert_eq!(kmalloc.kmalloc(20_000), Err(KmallocError::Alloc(e)));
    assert_eq!(frames.free(), Pages(before.0 - 8));
    // Lent already: refused, and not given back under its owner.
    *frames.lie.lock().unwrap() = Some(large.pfn());
    let e = kmalloc.kmalloc(16).unwrap_err();
    assert!(matches!(e, KmallocError::Alloc(AllocError::BadFrames { .. })), "{e}");
    assert_eq!((kmalloc.kfree(large), kmalloc.kfree(owned)), (Ok(()), Ok(())));
    kmalloc.verify().unwrap();
}

/// Goal: verify tells what is wrong, and where.
/// Method: break each kind of word by hand.
#[test]
fn verify_tells_what_is_wrong() {
    let world = World::new(64);
    let frames = world.frames();
    let slabs = world.slabs(&frames);
    let cache = KmemCache::new(slabs, &world.state, CacheConfig::object_bytes(1024)).unwrap();
    cache.alloc().unwrap();
    let broken = |at: usize, bits: u64| {
        let was = world.table[at].swap(bits, Ordering::Relaxed);
        let found = (cache.verify().err(), slabs.verify().err());
        world.table[at].store(was, Ordering::Relaxed);
        (was, found)
    };
    // 8 words of header, then the records, 16 words each; slab 0 is the only one.
    let (tag, word) = (8, 9);
    let (was, (_, found)) = broken(tag, 0xfff);
    assert_eq!(found, Some(VerifyError::Dangling { pfn: Pfn(was >> 12), bits: 1 }));
    let (was, (found, _)) = broken(word, 1 << 40 | 1);
    assert!(matches!(found, Some(VerifyError::Occupancy { slab: 0, word: 1, .. })), "{was:#x}");
    let (_, (_, found)) = broken(8 + 16, 0xfff);
    assert_eq!(found, Some(VerifyError::Unfinished { slab: 1 }));
    let frame = 8 + 16 * SLABS + (world.table[tag].load(Ordering::Relaxed) >> 12) as usize;
    let (_, (found, _)) = broken(frame - FIRST as usize, 0);
    assert!(matches!(found, Some(VerifyError::Lost { slab: 0, .. })));
    let (_, (_, found)) = broken(8 + 16 * SLABS + 63, 9);
    assert!(matches!(found, Some(VerifyError::Dangling { bits: 9, .. })));
    assert!(cache.verify().is_ok() && slabs.verify().is_ok());
}

// ---- kmalloc ----

/// Goal: every size from 1 byte to 2 MiB is served, with at least as many bytes, aligned to its
/// class, and goes home again.
/// Method: every size up to 9,000, and the sizes around each power of two and each page beyond.
#[test]
fn every_size_up_to_2_mib_makes_the_round_trip() {
    let world = World::new(2048);
    let frames = world.frames();
    let kmalloc = world.kmalloc(&frames);
    let around = (9_000..=KMALLOC_MAX_BYTES).step_by(4096).flat_map(|n| [n & !4095, n | 1]);
    for bytes in (1..9_000).chain(around).chain([KMALLOC_MAX_BYTES - 1, KMALLOC_MAX_BYTES]) {
        let addr = kmalloc.kmalloc(bytes).unwrap();
        let size = kmalloc.ksize(addr).unwrap();
        assert!(size >= bytes && (bytes < 64 || size <= 2 * bytes), "{bytes}: {size}");
        let align = 1 << size.trailing_zeros();
        assert_eq!(addr.0 % align, 0, "{bytes} bytes at {addr}");
        if bytes % 97 == 0 {
            let object = kmalloc.object(addr).unwrap();
            fill(&object, bytes);
            assert!(keeps(&object, bytes, size as usize / 8));
        }
        kmalloc.kfree(addr).unwrap();
        assert_eq!(kmalloc.kfree(addr), Err(KfreeError::Twice { addr }));
    }
    assert!(kmalloc.stats().iter().zip(CLASSES).all(|(s, bytes)| s.stride_bytes == bytes));
    kmalloc.shrink();
    assert_eq!(frames.free(), Pages(2048));
    kmalloc.verify().unwrap();
}

/// Goal: each class has its objects aligned to the largest power of two that divides it.
/// Method: two slabs of each class.
#[test]
fn every_class_is_aligned() {
    let world = World::new(512);
    let frames = world.frames();
    let kmalloc = world.kmalloc(&frames);
    let owners = Owners::new(&world);
    for (class, bytes) in CLASSES.into_iter().enumerate() {
        for _ in 0..2 * kmalloc.stats()[class].objects_a_slab {
            let addr = kmalloc.kmalloc(bytes as u64).unwrap();
            assert_eq!(addr.0 % (1 << bytes.trailing_zeros()), 0, "{bytes} at {addr}");
            owners.swap(addr, bytes / 8, 0, 1);
        }
    }
}

/// Goal: sizes that cannot be are refused with their values, and take nothing.
/// Method: 0, one too many, and products that overflow.
#[test]
fn sizes_that_cannot_be_are_refused() {
    let world = World::new(1024);
    let frames = world.frames();
    let kmalloc = world.kmalloc(&frames);
    assert_eq!(kmalloc.kmalloc(0), Err(KmallocError::ZeroSize));
    let too_big = |bytes| KmallocError::TooBig { bytes, limit_bytes: KMALLOC_MAX_BYTES };
    for bytes in [KMALLOC_MAX_BYTES + 1, u64::MAX] {
        assert_eq!(kmalloc.kmalloc(bytes), Err(too_big(bytes)));
    }
    let (count, size_bytes) = (1 << 33, 1 << 31);
    let overflow = KmallocError::Overflow { count, size_bytes };
    assert_eq!(kmalloc.kmalloc_array(count, size_bytes), Err(overflow));
    assert_eq!(kmalloc.kcalloc(count, size_bytes), Err(overflow));
    assert_eq!(kmalloc.kmalloc_array(1 << 20, 3), Err(too_big(3 << 20)));
    assert_eq!(frames.free(), Pages(1024));
    assert_eq!(kmalloc.ksize(kmalloc.kmalloc_array(100, 3).unwrap()), Ok(512));
}

/// Goal: zeroed memory is zero, to its end, whoever had it before.
/// Method: small and large; fill, free, ask again.
#[test]
fn zeroed_memory_is_zero() {
    let world = World::new(64);
    let frames = world.frames();
    let kmalloc = world.kmalloc(&frames);
    for bytes in [1, 96, 5000, 30_000] {
        let dirty = kmalloc.kmalloc(bytes).unwrap();
        fill(&kmalloc.object(dirty).unwrap(), 1);
        kmalloc.kfree(dirty).unwrap();
        for addr in [kmalloc.kzalloc(bytes).unwrap(), kmalloc.kcalloc(bytes, 1).unwrap()] {
            let object = kmalloc.object(addr).unwrap();
            assert!((0..object.words()).all(|i| object.word(i).load(Ordering::Relaxed) == 0));
        }
    }
}

/// Goal: a wrong kfree is refused with the values: inside, twice, another cache's, a stranger's.
/// Method: small objects and blocks; addresses in every page of a block.
#[test]
fn a_wrong_kfree_is_an_error_and_changes_nothing() {
    let world = World::new(256);
    let frames = world.frames();
    let slabs = world.slabs(&frames);
    let kmalloc = Kmalloc::new(slabs, &world.state, 1).unwrap();
    let other_words = words(Cache::words_needed(SLABS, 1));
    let other = KmemCache::new(slabs, &other_words, CacheConfig::object_bytes(64)).unwrap();
    let (large, gone) = (kmalloc.kmalloc(100_000).unwrap(), kmalloc.kmalloc(300_000).unwrap());
    kmalloc.kfree(gone).unwrap();
    let before = frames.free();
    for page in 0..32 {
        for offset in [0, 8, 4095] {
            let addr = DirectAddr(large.0 + page * 4096 + offset);
            if addr != large {
                assert_eq!(kmalloc.kfree(addr), Err(KfreeError::Interior { addr, base: large }));
            }
        }
    }
    assert_eq!(kmalloc.kfree(gone), Err(KfreeError::Twice { addr: gone }));
    let foreign = other.alloc().unwrap();
    let e = KfreeError::NotKmalloc { addr: foreign, cache: other.number() };
    assert_eq!(kmalloc.kfree(foreign), Err(e));
    let small = kmalloc.kmalloc(96).unwrap();
    let addr = DirectAddr(small.0 + 95);
    assert_eq!(kmalloc.kfree(addr), Err(KfreeError::Interior { addr, base: small }));
    for addr in [gone.0 + 8, gone.0 + 4096, 0, u64::MAX].map(DirectAddr) {
        assert_eq!(kmalloc.ksize(addr), Err(KfreeError::Stranger { addr }));
    }
    assert_eq!(frames.free(), Pages(before.0 - 2));
    assert_eq!(kmalloc.kfree(large), Ok(()));
}

/// Goal: krealloc keeps the first min(old, new) bytes, stays where it fits, and follows Linux's
/// rules for nothing and for 0.
/// Method: grow through all classes and blocks and back; fail a growth half-way.
#[test]
fn krealloc_keeps_what_both_sizes_hold() {
    let world = World::new(2048);
    let frames = world.frames();
    let kmalloc = world.kmalloc(&frames);
    let sizes = [8, 9, 64, 100, 5000, 8192, 9000, 70_000, KMALLOC_MAX_BYTES];
    let mut addr = kmalloc.krealloc(None, 1).unwrap().unwrap();
    for (step, bytes) in sizes.into_iter().enumerate() {
        let old = kmalloc.object(addr).unwrap();
        let (words, with) = (old.words(), 1000 * step as u64);
        fill(&old, with);
        let new = kmalloc.krealloc(Some(addr), bytes).unwrap().unwrap();
        assert!(keeps(&kmalloc.object(new).unwrap(), with, words), "{bytes}");
        assert_eq!(new == addr, bytes <= words as u64 * 8, "moves only if it must");
        assert_eq!(kmalloc.kfree(addr).is_err(), new != addr, "the old one is free");
        addr = if new == addr { kmalloc.kmalloc(bytes).unwrap() } else { new };
    }
    assert_eq!(kmalloc.krealloc(Some(addr), 1), Ok(Some(addr)), "shrinking stays");
    assert_eq!(kmalloc.krealloc(Some(addr), 0), Ok(None));
    let twice = KreallocError::Old(KfreeError::Twice { addr });
    assert_eq!(kmalloc.krealloc(Some(addr), 1), Err(twice));
    assert_eq!(kmalloc.krealloc(None, 0), Ok(None));

    let kept = kmalloc.kmalloc(100).unwrap();
    fill(&kmalloc.object(kept).unwrap(), 5);
    kmalloc.shrink();
    frames.fail_at(0);
    assert!(matches!(kmalloc.krealloc(Some(kept), 20_000), Err(KreallocError::New(_))));
    assert!(keeps(&kmalloc.object(kept).unwrap(), 5, 16), "a failure leaves the old one");
    kmalloc.kfree(kept).unwrap();
    kmalloc.shrink();
    assert_eq!(frames.free(), Pages(2048));
}

/// Goal: empty slabs never stand in the way of a larger request.
/// Method: the whole pool in small slabs, freed; then half of it in one block.
#[test]
fn empty_slabs_make_way_for_a_block() {
    let world = World::new(64);
    let frames = world.frames();
    let kmalloc = world.kmalloc(&frames);
    let mut held = Vec::new();
    while let Ok(addr) = kmalloc.kmalloc(256) {
        held.push(addr);
    }
    assert_eq!((frames.free(), held.len()), (Pages(0), 64 * 16));
    held.into_iter().for_each(|addr| kmalloc.kfree(addr).unwrap());
    assert_eq!(frames.free(), Pages(0));
    kmalloc.kmalloc(100_000).unwrap();
}

// ---- kvmalloc ----

/// Page tables in a map, and TLBs that there are none of.
struct Tiny<'a> {
    ram: &'a Vector,
    pages: Mutex<BTreeMap<u64, (Pfn, Prot)>>,
}

impl Ram for Tiny<'_> {
    fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        self.ram.words(pfn)
    }

    fn zero(&self, run: Extent) {
        self.ram.zero(run);
    }
}

impl Mapper for Tiny<'_> {
    fn prepare(&self, _window: PageRange) -> Result<(), MapError> {
        Ok(())
    }

    fn map_run(&self, at: Vpn, run: Extent, prot: Prot) -> Result<(), MapError> {
        let mut pages = self.pages.lock().unwrap();
        pages.extend((0..run.len.0).map(|i| (at.0 + i, (Pfn(run.start.0 + i), prot))));
        Ok(())
    }

    fn unmap_run(&self, at: PageRange) {
        self.pages.lock().unwrap().retain(|&page, _| !at.contains(Vpn(page)));
    }

    fn protect_run(&self, at: PageRange, prot: Prot) {
        let mut pages = self.pages.lock().unwrap();
        pages.range_mut(at.start.0..at.end().0).for_each(|(_, shown)| shown.1 = prot);
    }

    fn translate(&self, at: Vpn) -> Option<(Pfn, Prot)> {
        self.pages.lock().unwrap().get(&at.0).copied()
    }
}

impl Tlb for Tiny<'_> {
    fn publish(&self, _at: PageRange) {}
    fn flush_all_cpus(&self, _ranges: &[PageRange]) {}
    fn may_wait(&self) -> bool {
        true
    }
}

type Machine<'a> = Paged<'a, &'a Failing<'a>, Tiny<'a>>;

/// Runs `body` with both allocators over `frames` frames.
fn with_kv(frames: u64, body: impl FnOnce(&Failing<'_>, &General<'_>, &Engine<'_, Machine<'_>>)) {
    let world = World::new(frames);
    let frames = world.frames();
    let backing_words = words(Backings::words_needed(64));
    let geometry = Geometry::for_window(Pages(128 * 64));
    let table_words: Vec<_> = (0..geometry.words()).map(|_| AtomicU64::new(0)).collect();
    let tables = Tables::new(&table_words, geometry).unwrap();
    let tiny = Tiny { ram: &world.ram, pages: Mutex::default() };
    let machine = Paged::new(&frames, Backings::format(&backing_words, 64), tiny);
    let (window_start, lazy_pages_max) = (Vpn(1 << 20), Pages(1 << 20));
    let config = Config { window_start, owner: Owner::FIRST, lazy_pages_max };
    let engine = Engine::new(tables, machine, config).unwrap();
    engine.prepare().unwrap();
    body(&frames, &world.kmalloc(&frames), &engine);
}

/// Goal: kvmalloc is kmalloc while that can serve; more than a page falls back, less never does;
/// the free goes by kind.
/// Method: a pool of which every other frame is taken, so that no two are contiguous.
#[test]
fn kvmalloc_falls_back_for_more_than_a_page_and_for_no_less() {
    with_kv(64, |frames, kmalloc, engine| {
        let kv = Kv::new(kmalloc, engine);
        let whole = kv.kvmalloc(20_000).unwrap();
        assert!(matches!(whole, KvAddr::Direct(_)));
        let _ = kv.kvfree(whole).unwrap();
        let singles: Vec<_> = (0..64).map(|_| frames.take(Order(0)).unwrap()).collect();
        singles.iter().filter(|pfn| pfn.0 % 2 == 0).for_each(|&start| {
            frames.give(Extent { start, len: Pages(1) });
        });
        let scattered = kv.kvzalloc(20_000).unwrap();
        let KvAddr::Virtual(addr) = scattered else { panic!("{scattered} is contiguous") };
        assert_eq!(engine.find(addr).unwrap().pages.len, Pages(5));
        // Five, and one that holds the extents.
        assert_eq!(frames.free(), Pages(32 - 6));
        let e = kv.kvmalloc(1 << 20).unwrap_err();
        assert!(matches!(e, KvmallocError::Both { .. }), "{e}");
        let twice = |addr| kv.kvfree(addr).map(|_| ()).unwrap_err();
        let _ = kv.kvfree(scattered).unwrap();
        let e = vmalloc_core::FreeError::Twice { addr };
        assert_eq!(twice(scattered), KvfreeError::Vfree(e));
        let addr = DirectAddr(addr.0);
        let e = KfreeError::Stranger { addr };
        assert_eq!(twice(KvAddr::Direct(addr)), KvfreeError::Kfree(e));
        let overflow = kv.kvmalloc_array(u64::MAX, 2).unwrap_err();
        assert!(matches!(overflow, KvmallocError::Kmalloc(KmallocError::Overflow { .. })));
        let zero = kv.kvcalloc(3, 0).unwrap_err();
        assert_eq!(zero, KvmallocError::Kmalloc(KmallocError::ZeroSize));
    });
}

/// Goal: a page or less is never served by the window, though the window has frames parked: they
/// are fetched from there.
/// Method: all frames in one area; kvmalloc of a page fails while it lives, and not when it is
/// freed.
#[test]
fn kvmalloc_of_a_page_never_falls_back_but_finds_parked_frames() {
    with_kv(64, |frames, kmalloc, engine| {
        let kv = Kv::new(kmalloc, engine);
        let area = engine.vmalloc(&vmalloc_core::Request::bytes(64 * 4096)).unwrap();
        let none = KmallocError::Alloc(AllocError::NoFrames(NoFrames {
            wanted: Pages(1),
            free: Pages(0),
        }));
        assert_eq!(kv.kvmalloc(64), Err(KvmallocError::Kmalloc(none)));
        let _ = kv.kvfree(KvAddr::Virtual(area.addr())).unwrap();
        assert_eq!(frames.free(), Pages(0), "parked");
        let addr = kv.kvmalloc(64).unwrap();
        assert!(matches!(addr, KvAddr::Direct(_)), "{addr}");
        assert_ne!(KvAddr::Virtual(VirtAddr(0)), addr);
    });
}

// ---- random calls, and many CPUs ----

#[derive(Clone, Copy, Debug)]
enum Op {
    Kmalloc(u64),
    Kzalloc(u64),
    Krealloc(usize, u64),
    Kfree(usize),
    FreeAgain(usize),
    FreeInside(usize, u64),
    Shrink,
}

fn bytes() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1..300_u64, 3 => 1..9_000_u64, 2 => 9_000..200_000_u64, 1 => Just(3 << 20)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => bytes().prop_map(Op::Kmalloc),
        2 => bytes().prop_map(Op::Kzalloc),
        3 => (any::<usize>(), bytes()).prop_map(|(i, n)| Op::Krealloc(i, n)),
        5 => any::<usize>().prop_map(Op::Kfree),
        1 => any::<usize>().prop_map(Op::FreeAgain),
        1 => (any::<usize>(), 1..200_000_u64).prop_map(|(i, n)| Op::FreeInside(i, n)),
        1 => Just(Op::Shrink),
    ]
}

/// What the model knows of an object: how long it is and what was written there.
#[derive(Clone, Copy)]
struct Known {
    size: u64,
    with: u64,
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 48, ..ProptestConfig::default()
    })]

    /// Goal: kmalloc is a map from addresses to bytes that do not overlap.
    /// Method: random calls against a `BTreeMap`; CPUs by the number of the step; in the end all
    /// is freed and every frame is home.
    #[test]
    fn kmalloc_is_what_a_naive_model_is(ops in prop::collection::vec(op(), 1..250)) {
        let world = World::new(256);
        let frames = world.frames();
        let shared = world.kmalloc(&frames);
        let mut live: BTreeMap<u64, Known> = BTreeMap::new();
        let mut freed: Vec<DirectAddr> = Vec::new();
        for (step, op) in ops.into_iter().enumerate() {
            let kmalloc = shared.on_cpu(step);
            let with = (step as u64) << 32;
            let pick = |i: usize| live.keys().nth(i % live.len().max(1)).map(|&a| DirectAddr(a));
            let mut born = None;
            match op {
                Op::Kmalloc(n) => born = kmalloc.kmalloc(n).ok().map(|addr| (addr, n)),
                Op::Kzalloc(n) => {
                    born = kmalloc.kzalloc(n).ok().map(|addr| (addr, n));
                    if let Some((addr, _)) = born {
                        let object = kmalloc.object(addr).unwrap();
                        prop_assert!((0..object.words())
                            .all(|i| object.word(i).load(Ordering::Relaxed) == 0));
                    }
                }
                Op::Krealloc(i, n) => if let Some(old) = pick(i) {
                    let known = live[&old.0];
                    if let Ok(new) = kmalloc.krealloc(Some(old), n) {
                        let new = new.unwrap();
                        let words = known.size.min(n) as usize / 8;
                        prop_assert!(keeps(&kmalloc.object(new).unwrap(), known.with, words));
                        live.remove(&old.0);
                        born = Some((new, n));
                    }
                }
                Op::Kfree(i) => if let Some(addr) = pick(i) {
                    let known = live.remove(&addr.0).unwrap();
                    let object = kmalloc.object(addr).unwrap();
                    prop_assert!(keeps(&object, known.with, object.words()));
                    kmalloc.kfree(addr).unwrap();
                    freed.push(addr);
                }
                Op::FreeAgain(i) => if !freed.is_empty() {
                    let addr = freed[i % freed.len()];
                    if !live.contains_key(&addr.0) {
                        prop_assert!(kmalloc.kfree(addr).is_err());
                    }
                }
                Op::FreeInside(i, n) => if let Some(base) = pick(i) {
                    let inside = n % live[&base.0].size;
                    if inside != 0 {
                        let addr = DirectAddr(base.0 + inside);
                        prop_assert_eq!(
                            kmalloc.kfree(addr),
                            Err(KfreeError::Interior { addr, base })
                        );
                    }
                }
                Op::Shrink => {
                    kmalloc.shrink();
                }
            }
            if let Some((addr, n)) = born {
                let size = kmalloc.ksize(addr).unwrap();
                prop_assert!(size >= n);
                let before = live.range(..addr.0 + size).next_back();
                prop_assert!(before.is_none_or(|(&a, known)| a + known.size <= addr.0));
                fill(&kmalloc.object(addr).unwrap(), with);
                live.insert(addr.0, Known { size, with });
            }
        }
        prop_assert_eq!(shared.verify(), Ok(()));
        for (&addr, known) in &live {
            let object = shared.object(DirectAddr(addr)).unwrap();
            prop_assert!(keeps(&object, known.with, object.words()));
            shared.kfree(DirectAddr(addr)).unwrap();
        }
        shared.shrink();
        prop_assert_eq!(frames.free(), Pages(256));
    }
}

/// Three threads take, check and free at random; each uses `cpu(thread)` as its CPU, holds up to
/// `held_max` objects, and one in `shrinks` steps is a shrink. The pool is small: they run out.
fn hammer(pool: u64, cpu: fn(u64) -> usize, held_max: usize, shrinks: u64, sizes: &[u64]) {
    let world = World::new(pool);
    let frames = world.frames();
    let kmalloc = world.kmalloc(&frames);
    let owners = Owners::new(&world);
    std::thread::scope(|scope| {
        for who in 1..=3 {
            let (kmalloc, owners) = (kmalloc.on_cpu(cpu(who)), &owners);
            scope.spawn(move || {
                let (mut rng, mut held) = (Rng(who), Vec::new());
                for _ in 0..15_000 {
                    if rng.below(shrinks) == 0 {
                        kmalloc.shrink();
                    } else if rng.below(2) == 0 && held.len() < held_max {
                        let bytes = sizes[rng.below(sizes.len() as u64) as usize];
                        if let Ok(addr) = kmalloc.kmalloc(bytes) {
                            let words = kmalloc.ksize(addr).unwrap() as usize / 8;
                            owners.swap(addr, words, 0, who);
                            held.push((addr, words));
                        }
                    } else if !held.is_empty() {
                        let (addr, words) = held.swap_remove(rng.below(held.len() as u64) as usize);
                        owners.swap(addr, words, who, 0);
                        kmalloc.kfree(addr).unwrap();
                    }
                }
                held.into_iter().for_each(|(addr, words)| {
                    owners.swap(addr, words, who, 0);
                    kmalloc.kfree(addr).unwrap();
                });
            });
        }
    });
    kmalloc.verify().unwrap();
    kmalloc.shrink();
    assert_eq!(frames.free(), Pages(pool));
}

/// Goal: no word has two owners, and nothing is lost, while three CPUs work and slabs go home
/// under them.
/// Method: `hammer`, each thread its own CPU.
#[test]
fn threads_never_share_an_object() {
    hammer(96, |who| who as usize, 200, 50, &[8, 64, 96, 700, 4096, 8192, 20_000]);
}

/// Goal: the same if the CPU's number is a lie.
/// Method: all threads say CPU 0.
#[test]
fn threads_that_share_a_magazine_never_share_an_object() {
    hammer(96, |_| 0, 200, 50, &[8, 512, 1024]);
}

/// Goal: a slab that goes home takes no object with it, and a late taker takes none of whoever has
/// the frame next.
/// Method: a pool of one frame, which goes from class to class all the time; each thread holds
/// one object at most, and every third step is a shrink.
#[test]
fn a_slab_goes_home_only_when_nobody_can_take_from_it() {
    hammer(1, |who| who as usize, 1, 3, &[8, 64, 96, 512]);
}

/// Goal: neighbours in one word lose neither an object nor a free one.
/// Method: one slab of eight objects; three threads take and free one each in a tight loop.
#[test]
fn takes_and_frees_of_one_word_do_not_undo_each_other() {
    let world = World::new(1);
    let frames = world.frames();
    let cache = world.cache(&frames, CacheConfig::object_bytes(512).cpus(CPUS));
    let owners = Owners::new(&world);
    std::thread::scope(|scope| {
        for who in 1..=3 {
            let (cache, owners) = (cache.on_cpu(who as usize), &owners);
            scope.spawn(move || {
                for _ in 0..60_000 {
                    let addr = cache.alloc().unwrap();
                    owners.swap(addr, 1, 0, who);
                    owners.swap(addr, 1, who, 0);
                    cache.free(addr).unwrap();
                }
            });
        }
    });
    assert_eq!(cache.verify().unwrap().owned, 0);
}

/// Goal: of two calls that free the same object, or the same block, at once, one is refused.
/// Method: two threads that wait for each other at each round; successes are counted.
#[test]
fn of_two_frees_at_once_one_succeeds() {
    const ROUNDS: u64 = 3_000;
    let world = World::new(64);
    let frames = world.frames();
    let kmalloc = world.kmalloc(&frames);
    let (offer, taken, freed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let wait = |word: &AtomicU64, until: u64| {
        let start = std::time::Instant::now();
        while word.load(Ordering::Acquire) < until {
            std::thread::yield_now();
            assert!(start.elapsed().as_secs() < 30, "the other thread died");
        }
    };
    let addr = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for cpu in 0..2 {
            let (kmalloc, offer, taken, freed) = (kmalloc.on_cpu(cpu), &offer, &taken, &freed);
            let addr = &addr;
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    wait(offer, round);
                    let addr = DirectAddr(addr.load(Ordering::Relaxed));
                    freed.fetch_add(u64::from(kmalloc.kfree(addr).is_ok()), Ordering::Relaxed);
                    taken.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        for round in 1..=ROUNDS {
            let bytes = if round % 2 == 0 { 64 } else { 20_000 };
            addr.store(kmalloc.on_cpu(2).kmalloc(bytes).unwrap().0, Ordering::Relaxed);
            offer.store(round, Ordering::Release);
            wait(&taken, 2 * round);
        }
    });
    assert_eq!(freed.into_inner(), ROUNDS);
    kmalloc.verify().unwrap();
}
