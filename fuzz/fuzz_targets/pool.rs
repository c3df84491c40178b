//! The words of a pool, as a hostile member writes them, and a member that works in them.
//!
//! As in `crates/vmalloc/tests/hostile/`, but what is forged is libFuzzer's choice, which sees what
//! code each forgery reached. Before the pool is opened a second time, and between the verbs.
//! Errors are fine; a panic, a signal and a hang are findings.
//!
//! Canary: the size class that a tag names is not checked.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proptest::prelude::*;
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use vmalloc::{Buf, Frozen, Onlooker, Pool, Request, Shared, Token};
use vmalloc_core::planted::Bug;

const MIB: u64 = 1 << 20;

/// A word, and what is written to it.
#[derive(Clone, Copy, Debug)]
enum Value {
    Bits(u64),
    Flip(u32),
    Add(u64),
    /// What stands in another word that is in use.
    Of(usize),
    /// A state or a tag: kind, owner, and what stands above.
    Kind(u8, u8, u64),
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Forge(usize, u8, Value),
    Alloc(u64, bool),
    FreeLast,
    Freeze,
    Share,
    Resize(u64),
    Redeem(usize),
    FreeToken(usize),
    Look,
    Recover,
    Purge,
    Open,
}

/// The longest sequence.
const ACTS: usize = 32;

fn act() -> impl Strategy<Value = Act> {
    let value = prop_oneof![
        any::<u64>().prop_map(Value::Bits),
        (0..64_u32).prop_map(Value::Flip),
        (0..5_u64).prop_map(|by| Value::Add(by.wrapping_sub(2))),
        any::<usize>().prop_map(Value::Of),
        (0..16_u8, 0..6_u8, any::<u64>())
            .prop_map(|(kind, owner, rest)| { Value::Kind(kind, owner, rest >> (rest % 64)) }),
    ];
    let bytes = prop_oneof![1..12_288_u64, 1..300_000_u64, 2 * MIB..3 * MIB];
    prop_oneof![
        12 => (any::<usize>(), 0..16_u8, value).prop_map(|(at, by, value)| Act::Forge(at, by, value)),
        4 => (bytes.clone(), any::<bool>()).prop_map(|(bytes, zeroed)| Act::Alloc(bytes, zeroed)),
        2 => Just(Act::FreeLast),
        2 => Just(Act::Freeze),
        2 => Just(Act::Share),
        1 => bytes.prop_map(Act::Resize),
        2 => any::<usize>().prop_map(Act::Redeem),
        1 => any::<usize>().prop_map(Act::FreeToken),
        2 => Just(Act::Look),
        1 => Just(Act::Recover),
        1 => Just(Act::Purge),
        1 => Just(Act::Open),
    ]
}

/// The words of a pool file, from outside.
struct Words {
    file: File,
    in_use: Vec<(u64, u64)>,
}

impl Words {
    /// Those that are not zero, as they are now.
    fn of(pool: &Pool) -> Words {
        let path = pool.share_path();
        let file = OpenOptions::new().read(true).write(true).open(path).expect("our own pool");
        let len = file.metadata().expect("it is open").len() - pool.info().stats.window.bytes();
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0).expect("as long as it says");
        let (words, _) = bytes.as_chunks::<8>();
        let words = (0_u64..).zip(words).map(|(at, word)| (at, u64::from_ne_bytes(*word)));
        Words { in_use: words.filter(|(_, word)| *word != 0).collect(), file }
    }

    /// Writes `value` to the word in use number `nth`, or to one of the few behind it.
    fn forge(&self, nth: usize, behind: u8, value: Value) {
        let used = |nth: usize| self.in_use[nth % self.in_use.len()];
        let (at, was) = used(nth);
        let word = match value {
            Value::Bits(word) => word,
            Value::Flip(bit) => was ^ 1 << bit,
            Value::Add(by) => was.wrapping_add(by),
            Value::Of(other) => used(other).1,
            Value::Kind(kind, owner, rest) => u64::from(kind) | u64::from(owner) << 8 | rest << 16,
        };
        let at = at + u64::from(behind.saturating_sub(8));
        self.file.write_all_at(&word.to_ne_bytes(), at * 8).expect("inside of the file");
    }
}

/// What the member holds.
#[derive(Default)]
struct Held {
    bufs: Vec<Buf>,
    frozen: Vec<Frozen>,
    shared: Vec<Shared>,
    tokens: Vec<Token>,
}

impl Held {
    fn act(&mut self, pool: &Pool, words: &Words, act: Act) {
        let nth = |nth: usize| self.tokens.get(nth % self.tokens.len().max(1)).copied();
        match act {
            Act::Forge(nth, behind, value) => words.forge(nth, behind, value),
            Act::Alloc(bytes, zeroed) => {
                let request = Request::bytes(bytes).no_wait();
                let request = if zeroed { request.zeroed() } else { request };
                if let Ok(mut buf) = pool.alloc(&request) {
                    buf.fill(3);
                    self.bufs.push(buf);
                }
            }
            Act::FreeLast => drop(self.bufs.pop()),
            Act::Freeze => {
                if let Some(Ok(frozen)) = self.bufs.pop().map(Buf::freeze) {
                    self.tokens.push(frozen.token());
                    self.frozen.push(frozen);
                }
            }
            Act::Share => {
                if let Some(Ok(shared)) = self.bufs.pop().map(Buf::share) {
                    self.tokens.push(shared.token());
                    self.shared.push(shared);
                }
            }
            Act::Resize(bytes) => {
                if let Some(buf) = self.bufs.last_mut()
                    && buf.resize(bytes as usize).is_ok()
                {
                    buf.fill(7);
                }
            }
            Act::Redeem(which) => {
                let Some(token) = nth(which) else { return };
                if let Ok(frozen) = pool.attach(&token) {
                    black_box(frozen.iter().map(|byte| u64::from(*byte)).sum::<u64>());
                }
                if let Ok(mut shared) = pool.attach_shared(&token) {
                    let _ = shared.write_at(0, &vec![5; shared.len()]);
                    let _ = shared.refresh();
                }
            }
            Act::FreeToken(which) => drop(nth(which).map(|token| pool.free(&token))),
            Act::Look => {
                let areas = pool.areas();
                black_box(areas.iter().map(|area| area.to_string().len()).sum::<usize>());
                self.tokens.extend(areas.iter().filter_map(|area| pool.token_of(area)));
                black_box((pool.info(), pool.members()));
                let _ = pool.verify();
            }
            Act::Recover => drop(black_box(pool.recover())),
            Act::Purge => drop(black_box(pool.purge())),
            Act::Open => {
                if let Ok(onlooker) = Onlooker::open(&pool.share_path()) {
                    black_box((onlooker.info(), onlooker.members(), onlooker.areas().len()));
                }
                if let Ok(second) = Pool::options().memory_bytes(MIB << 10).open(&pool.share_path())
                {
                    drop(second.vmalloc(5000));
                }
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| fuzz::planted(Bug::ClassUnchecked, || work(bytes)));

fn work(bytes: &[u8]) {
    let acts = fuzz::draw_each(bytes, &act(), ACTS);
    // Small, so that a run takes a millisecond.
    let options = Pool::options().members(4).memory_bytes(MIB << 10).window_bytes(64 * MIB);
    let pool = options.create(8 * MIB).expect("a new pool");
    let mut held = Held::default();
    // An area in each state: frozen, shared, parked, and two that are the member's own.
    let words = Words::of(&pool);
    for bytes in [5_000, 70_000, 4_096, 100_000, 9_000] {
        held.act(&pool, &words, Act::Alloc(bytes, false));
        match bytes {
            5_000 => held.act(&pool, &words, Act::Freeze),
            70_000 => held.act(&pool, &words, Act::Share),
            4_096 => held.act(&pool, &words, Act::FreeLast),
            _ => {}
        }
    }
    assert_eq!((held.bufs.len(), held.frozen.len(), held.shared.len()), (2, 1, 1));
    let words = Words::of(&pool);
    for act in acts {
        held.act(&pool, &words, act);
    }
}
