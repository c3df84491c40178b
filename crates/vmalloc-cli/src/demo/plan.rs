//! What the demo allocates and frees, decided by a seed before anything happens.
//!
//! Sizes from 4 KiB to 4 MiB, as many small as large ones (the order of magnitude is drawn first),
//! until the pool is full to the last page. Then half of the areas are drawn to be freed. The
//! same plan is played on a pool and on paper, in an allocator that cannot scatter.

use vmalloc_core::Pages;

/// The largest size that is drawn: 2^10 pages, 4 MiB.
const SIZE_ORDER_MAX: u32 = 10;
/// In a small pool the sizes are smaller, so that there are some: at most a 16th of it.
const SIZES_IN_POOL_MIN: u64 = 16;

/// What to allocate, in order, and which of it to free, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The sizes.
    pub sizes: Vec<Pages>,
    /// Indices into `sizes`: half of them.
    pub freed: Vec<usize>,
}

/// splitmix64: small, and good enough to shuffle by.
pub struct Random(u64);

impl Random {
    /// Numbers that `seed` alone decides.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`, which is not 0. (The bias of the modulus is below 2^-40 here.)
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// The mixing step of splitmix64.
pub fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl Plan {
    /// A plan that fills `capacity` to the last page.
    pub fn new(seed: u64, capacity: Pages) -> Plan {
        let mut random = Random::new(seed);
        let mut sizes = Vec::new();
        let order_max = (capacity.0 / SIZES_IN_POOL_MIN).max(2).ilog2().min(SIZE_ORDER_MAX);
        let mut left = capacity.0;
        while left > 0 {
            let low = 1 << random.below(order_max.into());
            let pages = (low + random.below(low + 1)).min(left);
            sizes.push(Pages(pages));
            left -= pages;
        }
        let mut freed: Vec<usize> = (0..sizes.len()).collect();
        for i in (1..freed.len()).rev() {
            freed.swap(i, random.below(i as u64 + 1) as usize);
        }
        freed.truncate(sizes.len() / 2);
        Plan { sizes, freed }
    }

    /// Pages that are free once the plan is played.
    pub fn free_pages(&self) -> Pages {
        Pages(self.freed.iter().map(|&i| self.sizes[i].0).sum())
    }

    /// The largest free run that a first-fit allocator without scattering has after the same
    /// allocations and frees in a segment of exactly the same size, without a header or a
    /// rounding of its own: better than any real one.
    pub fn largest_free_run_first_fit(&self) -> Pages {
        let mut segment = FirstFit::new(self.sizes.iter().map(|pages| pages.0).sum());
        let starts: Vec<u64> = self.sizes.iter().map(|pages| segment.take(pages.0)).collect();
        for &i in &self.freed {
            segment.put(starts[i], self.sizes[i].0);
        }
        Pages(segment.holes.iter().map(|hole| hole.1).max().unwrap_or(0))
    }
}

/// An allocator of runs of pages in one segment, on paper.
struct FirstFit {
    /// Start and length, ascending, none beside another.
    holes: Vec<(u64, u64)>,
}

impl FirstFit {
    fn new(pages: u64) -> FirstFit {
        FirstFit { holes: vec![(0, pages)] }
    }

    /// The lowest hole that is long enough.
    fn take(&mut self, pages: u64) -> u64 {
        let fit = self.holes.iter().position(|hole| hole.1 >= pages);
        let i = fit.expect("the plan's sizes add up to the segment");
        let (start, len) = self.holes[i];
        if len == pages {
            self.holes.remove(i);
        } else {
            self.holes[i] = (start + pages, len - pages);
        }
        start
    }

    /// Frees a run and joins it to its neighbours.
    fn put(&mut self, start: u64, pages: u64) {
        let i = self.holes.partition_point(|hole| hole.0 < start);
        self.holes.insert(i, (start, pages));
        for i in [i + 1, i] {
            if i > 0
                && i < self.holes.len()
                && self.holes[i - 1].0 + self.holes[i - 1].1 == self.holes[i].0
            {
                self.holes[i - 1].1 += self.holes[i].1;
                self.holes.remove(i);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_the_plan_and_the_plan_fills_the_pool() {
        let plan = Plan::new(7, Pages(65_536));
        assert_eq!(plan, Plan::new(7, Pages(65_536)));
        assert_ne!(plan, Plan::new(8, Pages(65_536)));
        assert_eq!(plan.sizes.iter().map(|pages| pages.0).sum::<u64>(), 65_536);
        assert!(plan.sizes.iter().all(|pages| (1..=1024).contains(&pages.0)));
        let mut freed = plan.freed.clone();
        freed.sort_unstable();
        freed.dedup();
        assert_eq!(freed.len(), plan.sizes.len() / 2);
    }

    /// Goal: the comparison is right. Method: runs that can be counted by hand.
    #[test]
    fn the_largest_run_joins_what_lies_side_by_side() {
        let sizes = [3, 5, 2, 4, 6].map(Pages).to_vec();
        let largest = |freed: &[usize]| {
            Plan { sizes: sizes.clone(), freed: freed.to_vec() }.largest_free_run_first_fit()
        };
        assert_eq!(largest(&[0, 2, 4]), Pages(6));
        assert_eq!(largest(&[0, 2, 1]), Pages(10));
        assert_eq!(largest(&[2, 1, 0]), Pages(10));
        assert_eq!(largest(&[4, 3]), Pages(10));
        assert_eq!(largest(&[]), Pages(0));
        assert_eq!(largest(&[0, 1, 2, 3, 4]), Pages(20));
    }
}
