//! Size classes: which slot an area of so many pages goes into.
//!
//! A slot holds an area and its guard page. 1 to 8 pages have a class each, then there are four
//! a doubling, so a slot is at most a quarter longer than its area. Slots of a class lie side by
//! side in a *chunk* of whole granules, at most 64 of them, so that one word says which are
//! taken. Areas over 448 pages have a run of granules for themselves: they are *solo*.
//!
//! ```text
//!   granule (128 pages)      granule                  granule
//!   [s][s][s][s][s]…         [slot    ][slot    ][…]  [ solo area …
//!   class 0: stride 2, 64    class 19: stride 65, 7 in 4 granules
//! ```
//!
//! Linux: the size pools of `vmap_node`, which hold whole-size matches only.

use crate::layout::LANES;
use crate::units::Pages;

/// log2 of the pages in a granule.
pub const GRANULE_SHIFT: u32 = 7;
/// The pages in a granule: 128 (512 KiB), so that the smallest slots, of two pages, are 64.
pub const GRANULE_PAGES: u64 = 1 << GRANULE_SHIFT;
/// The most slots that a chunk can have: one bit each in one word.
pub const SLOTS_MAX: usize = 64;
/// The classes that have slots.
pub const SLOT_CLASSES: usize = 31;
/// All classes: behind the slots', one a doubling of granules, by which parked solo areas are
/// found again.
pub const CLASSES: usize = SLOT_CLASSES + 32;

/// A size class, below [`CLASSES`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Class(u8);

/// The strides, in pages, each one page (the guard) longer than the largest area of its class.
const STRIDES: [u16; SLOT_CLASSES] = {
    let mut strides = [0; SLOT_CLASSES];
    let (mut i, mut pages) = (0, 1_u16);
    while i < SLOT_CLASSES {
        strides[i] = pages + 1;
        // Four a doubling: the step is a quarter of the power of two below.
        pages += if pages < 8 { 1 } else { (1 << pages.ilog2()) / 4 };
        i += 1;
    }
    strides
};

/// Granules a chunk: the fewest that hold seven slots. The table is computed, not typed.
const CHUNK_GRANULES: [u8; SLOT_CLASSES] = {
    let mut granules = [0; SLOT_CLASSES];
    let mut i = 0;
    while i < SLOT_CLASSES {
        let mut g = 1;
        while g * GRANULE_PAGES / (STRIDES[i] as u64) < 7 {
            g += 1;
        }
        granules[i] = g as u8;
        i += 1;
    }
    granules
};

/// Slots a chunk, 7 to 64.
const SLOTS: [u8; SLOT_CLASSES] = {
    let mut slots = [0; SLOT_CLASSES];
    let mut i = 0;
    while i < SLOT_CLASSES {
        let fit = CHUNK_GRANULES[i] as u64 * GRANULE_PAGES / STRIDES[i] as u64;
        slots[i] = if fit < SLOTS_MAX as u64 { fit as u8 } else { SLOTS_MAX as u8 };
        i += 1;
    }
    slots
};

impl Class {
    /// The class whose slots hold `span` pages (area and guard); a solo class if none does.
    #[must_use]
    #[inline]
    pub fn for_span(span: Pages) -> Class {
        let pages = span.0.saturating_sub(1);
        let i = match pages {
            0 => 0,
            1..=8 => pages - 1,
            // Four a doubling: `doubling` is the log2 of the power of two below.
            _ => {
                let doubling = u64::from((pages - 1).ilog2());
                8 + 4 * (doubling - 3) + (((pages - 1) >> (doubling - 2)) & 3)
            }
        };
        if i < SLOT_CLASSES as u64 { Class(i as u8) } else { Class::solo(granules_for(span)) }
    }

    /// The class of solo areas of `granules` granules.
    #[must_use]
    #[inline]
    pub fn solo(granules: usize) -> Class {
        Class((SLOT_CLASSES + granules.max(1).ilog2().min(31) as usize) as u8)
    }

    /// The class with this index, if there is one: indices come from shared words, too.
    #[must_use]
    #[inline]
    pub fn from_index(index: usize) -> Option<Class> {
        (index < CLASSES).then_some(Class(index as u8))
    }

    /// Its number, below [`CLASSES`].
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether its areas have a run of granules each.
    #[must_use]
    pub const fn is_solo(self) -> bool {
        self.0 as usize >= SLOT_CLASSES
    }

    /// The last class in which an area of twice the pages of this class's may be: four on, or the
    /// next doubling.
    pub(crate) fn last_for_twice(self) -> Class {
        let more = if self.is_solo() { 1 } else { 4 };
        Class((self.index() + more).min(CLASSES - 1) as u8)
    }

    /// The pages from one slot's start to the next's. For slot classes only.
    ///
    /// # Panics
    ///
    /// If the class is solo.
    #[must_use]
    #[inline]
    pub fn stride(self) -> Pages {
        Pages(u64::from(STRIDES[self.index()]))
    }

    /// The granules of a chunk of this class.
    ///
    /// # Panics
    ///
    /// If the class is solo.
    #[must_use]
    #[inline]
    pub fn chunk_granules(self) -> usize {
        usize::from(CHUNK_GRANULES[self.index()])
    }

    /// The slots of a chunk of this class, 7 to 64.
    ///
    /// # Panics
    ///
    /// If the class is solo.
    #[must_use]
    #[inline]
    pub fn slots(self) -> usize {
        usize::from(SLOTS[self.index()])
    }

    /// The slot of a chunk at which lane `lane` begins: 0, in the middle, at a quarter, at three
    /// quarters, and so on by the lane's number backwards.
    ///
    /// # Panics
    ///
    /// If the class is solo.
    #[must_use]
    #[inline]
    pub fn first_slot(self, lane: usize) -> usize {
        let backwards = (lane % LANES).reverse_bits() >> (usize::BITS - LANES.ilog2());
        backwards * self.slots() / LANES
    }

    /// The bits of the slots whose first page is a multiple of `align` pages, in a chunk that
    /// starts at a multiple of it.
    #[must_use]
    #[inline]
    pub fn aligned_slots(self, align: Pages) -> u64 {
        let all = if self.slots() == 64 { u64::MAX } else { (1 << self.slots()) - 1 };
        // `align` is a power of two, so slot i is aligned where i is a multiple of this:
        let period = align.0 >> self.stride().0.trailing_zeros().min(align.0.trailing_zeros());
        if period <= 1 {
            return all;
        }
        (0..self.slots() as u64).step_by(period as usize).fold(0, |bits, i| bits | 1 << i)
    }
}

/// The granules that `span` pages need.
#[must_use]
pub const fn granules_for(span: Pages) -> usize {
    span.0.div_ceil(GRANULE_PAGES) as usize
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec::Vec;

    /// Goal: a slot holds its area and guard, and wastes at most a quarter of the area.
    /// Method: every page count up to the largest class.
    #[test]
    fn every_area_fits_its_slot_with_a_guard_and_little_waste() {
        for pages in 1..=448_u64 {
            let class = Class::for_span(Pages(pages + 1));
            assert!(!class.is_solo(), "{pages} pages");
            let first = STRIDES.iter().position(|&stride| u64::from(stride) > pages);
            assert_eq!(Some(class.index()), first, "{pages} pages: the first class that fits");
            let stride = class.stride().0;
            assert!(stride > pages, "{pages} pages and a guard in {stride}");
            assert!(stride - 1 <= pages + pages / 4, "{pages} pages in {stride}");
        }
        assert!(Class::for_span(Pages(450)).is_solo());
    }

    #[test]
    fn every_chunk_has_7_to_64_slots_that_fit_its_granules() {
        for i in 0..SLOT_CLASSES {
            let class = Class::from_index(i).unwrap();
            assert!((7..=64).contains(&class.slots()), "{class:?}: {}", class.slots());
            let used = class.slots() as u64 * class.stride().0;
            assert!(used <= class.chunk_granules() as u64 * GRANULE_PAGES);
        }
    }

    /// Goal: no two lanes begin side by side, and the first two as far apart as can be.
    /// Method: every class with room for it; the distances also around the end.
    #[test]
    fn lanes_begin_far_apart_in_a_chunk() {
        for class in (0..SLOT_CLASSES).map(|i| Class::from_index(i).unwrap()) {
            let slots = class.slots();
            let firsts: Vec<usize> = (0..LANES).map(|lane| class.first_slot(lane)).collect();
            assert_eq!((firsts[0], firsts[1]), (0, slots / 2), "{class:?}");
            assert!(firsts.iter().all(|&first| first < slots));
            for (lane, &first) in firsts.iter().enumerate() {
                for &other in &firsts[..lane] {
                    let apart = first.abs_diff(other);
                    let least = slots / LANES;
                    assert!(apart.min(slots - apart) >= least, "{class:?}: {firsts:?}");
                }
            }
        }
    }

    /// Goal: `aligned_slots` marks exactly the slots that are aligned.
    /// Method: against the definition, every class and alignment up to a granule.
    #[test]
    fn aligned_slots_are_those_whose_first_page_is_a_multiple() {
        for i in 0..SLOT_CLASSES {
            let class = Class::from_index(i).unwrap();
            for align in (0..=GRANULE_SHIFT).map(|s| 1_u64 << s) {
                let want = (0..class.slots() as u64)
                    .filter(|s| (s * class.stride().0).is_multiple_of(align))
                    .fold(0, |bits, s| bits | 1 << s);
                assert_eq!(class.aligned_slots(Pages(align)), want, "{class:?} align {align}");
            }
        }
    }
}
