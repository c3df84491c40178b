//! Two CPUs at one slab, step by step: what loom has found, told without it.

extern crate std;

use super::occupancy::OBJECTS_A_WORD;
use super::{CacheConfig, DirectAddr, KmemCache, Slabs};
use crate::frames::Buddy;
use crate::platform::{FRAME_WORDS, Ram};
use crate::sync::{AtomicU64, stepped};
use crate::{Extent, Pages, Pfn};
use std::boxed::Box;
use std::cell::Cell;
use std::rc::Rc;
use std::vec::Vec;

/// A pool of one frame, for one slab of 64 objects: two words of bits.
const POOL: Extent = Extent { start: Pfn(0), len: Pages(1) };
const OBJECT_BYTES: usize = 64;
const OBJECTS: usize = 64;

struct Frame([AtomicU64; FRAME_WORDS]);

impl Ram for Frame {
    fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        assert_eq!(pfn, POOL.start);
        &self.0
    }

    fn zero(&self, _run: Extent) {}
}

/// Hooks outlive what they borrow, so all of it stays.
fn words(len: usize) -> &'static [AtomicU64] {
    Box::leak((0..len).map(|_| AtomicU64::new(0)).collect())
}

fn cache() -> KmemCache<'static, Buddy<'static>, Frame> {
    let buddy = Buddy::format(words(Buddy::words_needed(POOL.len)), POOL.start, POOL.len).unwrap();
    let ram = Box::leak(Box::new(Frame([const { AtomicU64::new(0) }; FRAME_WORDS])));
    let table = words(Slabs::<Buddy<'_>, Frame>::words_needed(POOL.len, 1));
    let slabs = Slabs::format(table, POOL, 1, Box::leak(Box::new(buddy)), ram).unwrap();
    let state = words(KmemCache::<Buddy<'_>, Frame>::words_needed(1, 2));
    KmemCache::new(slabs, state, CacheConfig::object_bytes(OBJECT_BYTES).cpus(2)).unwrap()
}

/// Goal: a slab that a shrink closed in part, and could not send home, has room for whoever comes.
/// Method: those of its last word are owned; before each write of the shrink another CPU looks for room.
/// Then every other object can be had.
#[test]
fn regress_slab_that_could_not_go_home_had_room_that_nobody_found() {
    let mut found_none = 0;
    for write in 0.. {
        let cache = cache();
        let all: Vec<DirectAddr> = (0..OBJECTS).map(|_| cache.alloc().unwrap()).collect();
        assert!(cache.alloc().is_err(), "one frame, one slab");
        let owned = |addr: &DirectAddr| addr.0 >= (OBJECTS_A_WORD * OBJECT_BYTES) as u64;
        all.iter().filter(|addr| !owned(addr)).for_each(|addr| cache.free(*addr).unwrap());
        let (writes, other) = (Cell::new(0), cache.on_cpu(1));
        let looked = Rc::new(Cell::new(None));
        let told = Rc::clone(&looked);
        let hook = move || {
            if writes.replace(writes.get() + 1) == write {
                told.set(Some(other.alloc().is_ok()));
            }
        };
        assert_eq!(stepped::with_hook(hook, || cache.shrink()), Pages(0), "objects are owned");
        let Some(took) = looked.get() else { break };
        found_none += u32::from(!took);
        cache.verify().unwrap_or_else(|e| panic!("write {write}: {e}"));
        let had = (0..OBJECTS).take_while(|_| cache.alloc().is_ok()).count();
        assert_eq!(
            had + usize::from(took),
            OBJECTS_A_WORD,
            "write {write}: objects that were to be had"
        );
    }
    assert!(found_none > 0, "nobody looked while the slab was closed");
}
