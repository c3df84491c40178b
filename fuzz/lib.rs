//! What the fuzzers share: bytes of libFuzzer's as the choices of a proptest strategy.
//!
//! ```text
//!   libFuzzer's bytes ─▶ draw(strategy) ─▶ operations ─▶ subject beside model ─▶ panic = finding
//! ```
//!
//! So the fuzzers speak the operation language of the property tests: what one of them finds prints
//! as a test to paste. Behind the bytes come those of a fixed sequence, the same for every input: a
//! strategy that draws again until a number fits would draw zeros for ever.
//!
//! Built with `--cfg canary` (`cargo xtask fuzz --canary`) each target's subject has a planted bug.

use proptest::strategy::{Strategy, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::sync::OnceLock;

/// Bytes behind the input: more than the longest sequence takes.
const TAIL: usize = 32 << 10;

/// What `strategy` makes of `bytes`; `None` if it cannot make anything of them.
pub fn draw<S: Strategy>(bytes: &[u8], strategy: &S) -> Option<S::Value> {
    static FIXED: OnceLock<Vec<u8>> = OnceLock::new();
    let fixed = FIXED.get_or_init(|| {
        // SplitMix64.
        let mix = |i: u64| {
            let z = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        };
        (0..TAIL as u64 / 8).flat_map(|i| mix(i).to_le_bytes()).collect()
    });
    let bytes = [bytes, fixed].concat();
    let rng = TestRng::from_seed(RngAlgorithm::PassThrough, &bytes);
    let config = Config { failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, rng);
    strategy.new_tree(&mut runner).ok().map(|tree| tree.current())
}
