//! Random numbers that are the same on every machine: SplitMix64.

/// A generator; the seed is its whole state.
#[derive(Clone, Copy)]
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// Puts `items` in any order, each as likely as any.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for left in (1..items.len()).rev() {
            items.swap(left, self.below(left as u64 + 1) as usize);
        }
    }

    /// A number from `low` to `high`, each doubling as likely as the next.
    pub fn log_uniform(&mut self, low: u64, high: u64) -> u64 {
        let (a, b) = ((low as f64).ln(), ((high + 1) as f64).ln());
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        ((a + unit * (b - a)).exp() as u64).clamp(low, high)
    }
}
