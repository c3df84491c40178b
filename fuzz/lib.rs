//! What the fuzzers share: bytes of libFuzzer's as operations of a proptest strategy.
//!
//! ```text
//!   libFuzzer's bytes  │ 4 │ 4 │ 4 │ …      each chunk is a seed,
//!                        ▼   ▼   ▼          each seed draws one operation of the strategy
//!                        op  op  op ─▶ subject beside model ─▶ panic = finding
//! ```
//!
//! So the fuzzers speak the operation language of the property tests: what one of them finds prints
//! as a test to paste. The same chunk is the same operation wherever it stands: when libFuzzer takes
//! chunks out, repeats them or joins two inputs, it does so to operations. Proptest's own way from
//! bytes to choices (`RngAlgorithm::PassThrough`) does not do: its forks halve the bytes and then
//! give zeros, and a strategy that draws again until a number fits draws zeros for ever.
//!
//! With the variable [`CANARY`] (`cargo xtask fuzz --canary`) each target's subject has the bug that the
//! target [plants](planted): the same program must find it, or finds nothing at all.

use proptest::strategy::{Strategy, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::sync::OnceLock;
use vmalloc_core::planted::{Bug, with_planted};

/// The variable that plants bugs.
const CANARY: &str = "VMALLOC_CANARY";

/// Runs `body`, on subjects that have `bug` if bugs are to be planted.
pub fn planted<R>(bug: Bug, body: impl FnOnce() -> R) -> R {
    static IS_CANARY: OnceLock<bool> = OnceLock::new();
    match IS_CANARY.get_or_init(|| std::env::var_os(CANARY).is_some()) {
        true => with_planted(bug, body),
        false => body(),
    }
}

/// The bytes that make one operation.
pub const CHUNK: usize = 4;

/// What `strategy` makes of each chunk of `bytes`, of at most `len` of them; what is left behind
/// the last whole chunk says nothing. A chunk of which it makes nothing is left out.
pub fn draw_each<S: Strategy>(bytes: &[u8], strategy: &S, len: usize) -> Vec<S::Value> {
    let (chunks, _) = bytes.as_chunks::<CHUNK>();
    chunks.iter().take(len).filter_map(|chunk| draw(chunk, strategy)).collect()
}

fn draw<S: Strategy>(chunk: &[u8; CHUNK], strategy: &S) -> Option<S::Value> {
    let mut seed = [0; 32];
    seed[..CHUNK].copy_from_slice(chunk);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let config = Config { failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, rng);
    strategy.new_tree(&mut runner).ok().map(|tree| tree.current())
}
