//! Caches of small objects of one size, cut from blocks of frames. Linux: `kmem_cache`.
//!
//! One bit an object is the whole truth: 1 is owned, 0 is free, and **one CAS on the word that
//! holds it decides who owns the object** (`slab/occupancy.rs`). Magazines, a set of slabs with
//! room and a home slab for each CPU say where to look; whatever they say, the CAS decides. No
//! lock, no list, no pointer in a free object.
//!
//! ```text
//!   alloc ─▶ magazines of this CPU, depot ─▶ home slab ─▶ a slab with room ─▶ new slab ─┐ no frames
//!              a round names an object        no other                                  │
//!              that was free                  CPU's home          any slab at all ◀─────┘
//!   free  ─▶ frame's word ─▶ record ─▶ clear the bit ─▶ word was full? room ─▶ a round for this CPU
//!   shrink ─▶ close the words of a slab ─▶ record nobody's ─▶ frames home
//! ```
//!
//! **Slabs have no header; their records lie in the caller's words.** Linux puts its free list into
//! the objects and its counters into `struct page`; an older one kept a header on small slabs.
//! Three reasons for records aside, large slabs and small: a CAS that comes late, after the slab
//! went home and its frames to somebody else, must not hit that somebody's bytes; a program that
//! writes past its object cannot spoil what decides ownership; and objects of a power of two fill
//! a slab to the last byte and are aligned to their size. The price is 128 bytes a slab.
//!
//! Invariants: an object has one owner, whatever the hints say; a slab's frames go home only when
//! no object is owned and none can be taken any more; a constructor runs once an object and slab,
//! before anyone can own the object, and nobody else writes into a free object; a call that fails
//! changes nothing.
//!
//! Neighbours: frames from [`crate::platform::Frames`], words of frames by
//! [`crate::platform::Ram`]; [`crate::kmalloc`] stands on it. Knows no page table.
//! Linux: `mm/slub.c`. Ours differs: a wrong free is always an error with values, not if the
//! kernel was booted with `slub_debug`; nothing that is free is kept from one CPU because another
//! remembers it.

mod check;
mod error;
mod magazine;
mod object;
mod occupancy;
mod shape;
mod table;

#[cfg(loom)]
mod proof;
#[cfg(test)]
mod tests;

pub use check::CacheStats;
pub use error::{AllocError, CacheError, FreeError, InUse, VerifyError};
pub use object::{DirectAddr, Object};
pub use shape::{CacheConfig, Ctor};
pub use table::Slabs;

pub(crate) use table::FrameTag;

use crate::bits::BitTree;
use crate::platform::{Frames, Ram};
use crate::shrink::Shrinker;
use crate::sync::{AtomicU64, Ordering};
use crate::units::{PAGE_SHIFT, Pages};
use magazine::{Magazines, Round, TRIES};
use occupancy::{Closing, PutError, Record, Tag};
use shape::Shape;

/// A cache of objects of one size. All methods take `&self`: threads share it, or have copies.
///
/// [`KmemCache::on_cpu`] gives each CPU a view with magazines of its own; any number is right.
///
/// ```
/// use vmalloc_core::slab::{CacheConfig, FreeError, KmemCache, Slabs};
/// use vmalloc_core::frames::Buddy;
/// use vmalloc_core::platform::{FRAME_WORDS, Frames, Ram};
/// use vmalloc_core::sync::{AtomicU64, Ordering};
/// use vmalloc_core::{Extent, Pages, Pfn};
///
/// struct Vector(Vec<AtomicU64>);
/// impl Ram for Vector {
///     fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
///         self.0[pfn.0 as usize * FRAME_WORDS..][..FRAME_WORDS].try_into().unwrap()
///     }
///     fn zero(&self, run: Extent) {
///         for pfn in run.start.0..run.end().0 {
///             self.words(Pfn(pfn)).iter().for_each(|word| word.store(0, Ordering::Relaxed));
///         }
///     }
/// }
/// let words = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
/// let all = Extent { start: Pfn(0), len: Pages(64) };
/// let (ram, bits) = (Vector(words(64 * FRAME_WORDS)), words(Buddy::words_needed(all.len)));
/// let frames = Buddy::format(&bits, all.start, all.len).unwrap();
///
/// type Table<'a> = Slabs<'a, Buddy<'a>, Vector>;
/// let (table, cache) = (words(Table::words_needed(all.len, 16)), words(1000));
/// let slabs = Slabs::format(&table, all, 16, &frames, &ram).unwrap();
/// let config = CacheConfig::object_bytes(56).ctor(|o| o.word(6).store(7, Ordering::Relaxed));
/// let cache = KmemCache::new(slabs, &cache, config).unwrap();
///
/// let object = cache.alloc().unwrap();
/// assert_eq!(cache.object(object).unwrap().word(6).load(Ordering::Relaxed), 7);
/// cache.free(object).unwrap();
/// assert_eq!(cache.free(object), Err(FreeError::Twice { addr: object }));
/// assert_eq!(cache.shrink(), Pages(1));
/// assert_eq!(frames.free(), Pages(64));
/// ```
pub struct KmemCache<'a, F, R> {
    // Constant after `new`.
    slabs: Slabs<'a, F, R>,
    number: u64,
    shape: Shape,
    ctor: Option<Ctor>,
    cpu: usize,
    // Hints. Written when a slab is made, found full, or gets its first free object.
    room: BitTree<'a>,
    // Hints. Written by every alloc and free, four cache lines a CPU.
    magazines: Magazines<'a>,
}

impl<F, R> Clone for KmemCache<'_, F, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F, R> Copy for KmemCache<'_, F, R> {}

/// Empty slabs. Counting looks at every record of the table.
impl<F: Frames, R: Ram> Shrinker for KmemCache<'_, F, R> {
    fn count(&self) -> Pages {
        let records = (0..self.slabs.slabs_max()).filter_map(|slab| self.slab(slab));
        let empty = records.filter(|(record, _)| record.owned(self.shape.objects) == 0).count();
        Pages(empty as u64 * self.shape.order.pages().0)
    }

    fn scan(&self, want: Pages) -> Pages {
        self.shrink_by(want)
    }
}

impl<'a, F: Frames, R: Ram> KmemCache<'a, F, R> {
    /// The words that a cache over a table of `slabs` slabs needs for `cpus` CPUs: 256 bytes a
    /// CPU, a kilobyte for the depot, and a bit a slab.
    #[must_use]
    pub const fn words_needed(slabs: usize, cpus: usize) -> usize {
        Magazines::words_needed(if cpus == 0 { 1 } else { cpus }) + BitTree::words_needed(slabs)
    }

    /// A cache without slabs. Takes no frames. The words should begin on a cache line, for speed
    /// only; nobody else may use them while the cache lives. Linux: `kmem_cache_create`.
    ///
    /// # Errors
    ///
    /// [`CacheError`]: what of the configuration is wrong.
    pub fn new(
        slabs: Slabs<'a, F, R>,
        words: &'a [AtomicU64],
        config: CacheConfig,
    ) -> Result<Self, CacheError> {
        let number = || slabs.number_caches(1);
        KmemCache::numbered(slabs, words, config, number)
    }

    pub(crate) fn numbered(
        slabs: Slabs<'a, F, R>,
        words: &'a [AtomicU64],
        config: CacheConfig,
        number: impl FnOnce() -> Result<u64, CacheError>,
    ) -> Result<Self, CacheError> {
        let shape = Shape::new(&config)?;
        let (given, needed) = (words.len(), Self::words_needed(slabs.slabs_max(), config.cpus));
        if given < needed {
            return Err(CacheError::TooFewWords { needed, given });
        }
        let number = number()?;
        words[..needed].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let (lanes, room) = words[..needed].split_at(Magazines::words_needed(config.cpus));
        let room = BitTree::new(room, slabs.slabs_max());
        let magazines = Magazines::new(lanes, config.cpus);
        Ok(KmemCache { slabs, number, shape, ctor: config.ctor, cpu: 0, room, magazines })
    }

    /// The same cache, as CPU number `cpu` should use it. A hint: two threads that use the same
    /// number, or one that is moved to another CPU, lose time and nothing else. Free.
    #[must_use]
    pub fn on_cpu(mut self, cpu: usize) -> KmemCache<'a, F, R> {
        self.cpu = cpu % self.magazines.cpus();
        self
    }

    /// The number of this cache among those of its table.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// How many words of an object its owner may use.
    #[must_use]
    pub const fn object_words(&self) -> usize {
        self.shape.object_words
    }

    /// Takes an object, as its constructor or its last owner left it.
    ///
    /// Warm: two loads and a store in this CPU's words, two loads and one CAS in the record. A
    /// magazine miss looks for a slab with room, a few words; a miss there takes frames and runs
    /// the constructor for all objects of a slab. Before it fails it looks at every record. Waits for nobody; only a
    /// constructor that never returns can hold it up. Linux: `kmem_cache_alloc`.
    ///
    /// While calls run at once, objects of a slab that [`KmemCache::shrink`] has begun to close
    /// count as taken, and so does a slab that another call is making.
    ///
    /// # Errors
    ///
    /// [`AllocError`]; nothing was taken.
    pub fn alloc(&self) -> Result<DirectAddr, AllocError> {
        for _ in 0..TRIES {
            let Some(round) = self.magazines.pop(self.cpu) else { break };
            if let Some(addr) = self.take_round(round) {
                return Ok(addr);
            }
        }
        let home = self.magazines.home(self.cpu).and_then(|slab| self.take_in(slab));
        if let Some(addr) = home.or_else(|| self.take_with_room(false)) {
            return Ok(addr);
        }
        self.new_slab().or_else(|e| {
            let anywhere = || (0..self.slabs.slabs_max()).find_map(|slab| self.take_in(slab));
            self.take_with_room(true).or_else(anywhere).ok_or(e)
        })
    }

    /// Gives an object back. What its owner wrote stays: the next one finds it, so a cache with a
    /// constructor wants its objects back in the state in which they were constructed.
    ///
    /// One load each of the frame's word and the record's tag, one CAS, and a round for this
    /// CPU. Never waits, never allocates, legal with interrupts off. Linux: `kmem_cache_free`.
    ///
    /// # Errors
    ///
    /// [`FreeError`]: what is wrong with the address; nothing was changed. Two calls that free
    /// the same object at once: one of them gets [`FreeError::Twice`]. (Not seen is only a second
    /// free after somebody else was given the object.)
    pub fn free(&self, addr: DirectAddr) -> Result<(), FreeError> {
        let (slab, record, tag, index) = self.locate(addr)?;
        let was_full = record.put(tag, index).map_err(|e| match e {
            PutError::NotOwned => FreeError::Twice { addr },
            PutError::Gone => FreeError::Stranger { addr },
        })?;
        if was_full {
            self.room.set(slab);
        }
        self.magazines.push(self.cpu, Round { slab, index });
        Ok(())
    }

    /// The object at `addr`, which somebody owns.
    ///
    /// # Errors
    ///
    /// [`FreeError`]: why [`KmemCache::free`] would refuse the address.
    pub fn object(&self, addr: DirectAddr) -> Result<Object<'a>, FreeError> {
        let (_, record, tag, index) = self.locate(addr)?;
        if !record.is_owned(tag, index) {
            return Err(FreeError::Twice { addr });
        }
        Ok(self.words_of(addr))
    }

    /// Gives back the frames of all slabs of which no object is owned; how many those were. Looks
    /// at every record of the table. Forgets what the magazines remember. Waits for nobody: a
    /// slab in which another CPU takes an object meanwhile stays. Linux: `kmem_cache_shrink`.
    pub fn shrink(&self) -> Pages {
        self.shrink_by(Pages(u64::MAX))
    }

    /// The same, but stops when it has given back `want` frames.
    fn shrink_by(&self, want: Pages) -> Pages {
        self.magazines.clear();
        let mut given = Pages(0);
        for slab in 0..self.slabs.slabs_max() {
            if given >= want {
                break;
            }
            let Some((record, tag)) = self.slab(slab) else { continue };
            match record.close(tag, self.shape.objects) {
                Closing::Done => {
                    self.room.clear(slab);
                    self.slabs.take_back(tag.base, self.shape.order);
                    self.slabs.release_record(slab, record);
                    given.0 += self.shape.order.pages().0;
                }
                // Who looked at its closed words found no room, and has said so.
                Closing::Undone => self.room.set(slab),
                Closing::Refused => {}
            }
        }
        given
    }

    /// Gives back all frames, for a cache that nobody will use again: its words may serve
    /// something else then. Linux: `kmem_cache_destroy`, which only prints a warning.
    ///
    /// # Errors
    ///
    /// [`InUse`]: objects of it are owned.
    pub fn destroy(&self) -> Result<(), InUse> {
        self.shrink();
        match self.stats() {
            CacheStats { slabs: 0, .. } => Ok(()),
            stats => Err(InUse { objects: stats.owned }),
        }
    }

    /// The object of a round, if it is free still.
    fn take_round(&self, Round { slab, index }: Round) -> Option<DirectAddr> {
        let (record, tag) = self.slab(slab)?;
        let is_ours = index < self.shape.objects && record.take_at(tag, index);
        is_ours.then(|| self.addr(tag, index))
    }

    /// A free object of this slab, which becomes this CPU's home.
    fn take_in(&self, slab: usize) -> Option<DirectAddr> {
        let (record, tag) = self.slab(slab)?;
        let index = record.take(tag, self.shape.objects)?;
        self.magazines.set_home(self.cpu, slab);
        Some(self.addr(tag, index))
    }

    /// A free object of a slab that is said to have room: first those where no other CPU works.
    fn take_with_room(&self, at_home_of_others: bool) -> Option<DirectAddr> {
        let mut from = 0;
        while let Some(slab) = self.room.next(from) {
            from = slab + 1;
            if !at_home_of_others && self.magazines.is_home_of_another(self.cpu, slab) {
                continue;
            }
            if let Some(addr) = self.take_in(slab) {
                return Some(addr);
            }
            self.room.clear(slab);
            // Somebody may have freed an object, or made the slab, between the two: say so again.
            if self.slab(slab).is_some_and(|(record, _)| record.has_room(self.shape.objects)) {
                self.room.set(slab);
            }
        }
        None
    }

    /// Makes a slab; its first object is the caller's.
    fn new_slab(&self) -> Result<DirectAddr, AllocError> {
        let (slab, record) = self.slabs.hold_record()?;
        let base = self
            .slabs
            .lend(self.shape.order, FrameTag::Slab(slab), true)
            .inspect_err(|_| self.slabs.release_record(slab, record))?;
        let tag = Tag { base, cache: self.number };
        if let Some(ctor) = self.ctor {
            (0..self.shape.objects).for_each(|i| ctor(&self.words_of(self.addr(tag, i))));
        }
        record.open(tag, self.shape.objects);
        self.room.set(slab);
        self.magazines.set_home(self.cpu, slab);
        Ok(self.addr(tag, 0))
    }

    /// The record of slab number `slab`, if it is one of this cache's.
    fn slab(&self, slab: usize) -> Option<(Record<'a>, Tag)> {
        let record = self.slabs.record(slab)?;
        record.tag().filter(|tag| tag.cache == self.number).map(|tag| (record, tag))
    }

    /// The slab and the number of the object that begins at `addr`, owned or not.
    fn locate(&self, addr: DirectAddr) -> Result<(usize, Record<'a>, Tag, usize), FreeError> {
        let stranger = FreeError::Stranger { addr };
        let (slab, record, tag) = self.slabs.slab_of(addr.pfn()).ok_or(stranger)?;
        if tag.cache != self.number {
            return Err(FreeError::WrongCache { addr, cache: tag.cache });
        }
        let offset = addr.0 - DirectAddr::new(tag.base, 0).0;
        if offset >> PAGE_SHIFT >= self.shape.order.pages().0 {
            return Err(stranger);
        }
        // 32 bits: half the price of a division.
        let (index, inside) =
            (offset as u32 / self.shape.stride, offset as u32 % self.shape.stride);
        if index as usize >= self.shape.objects {
            return Err(stranger);
        }
        if inside != 0 {
            return Err(FreeError::Interior { addr, base: self.addr(tag, index as usize) });
        }
        Ok((slab, record, tag, index as usize))
    }

    fn addr(&self, tag: Tag, index: usize) -> DirectAddr {
        DirectAddr::new(tag.base, index as u64 * u64::from(self.shape.stride))
    }

    fn words_of(&self, addr: DirectAddr) -> Object<'a> {
        Object::new(self.slabs.ram(), addr, self.shape.object_words)
    }
}
