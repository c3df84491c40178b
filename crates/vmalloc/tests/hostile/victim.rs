//! The member that is exposed: does everything there is to do in a pool that may say anything.
//!
//! Errors are fine, and so are contents that somebody spoiled. What is not fine ends the process:
//! a panic, SIGBUS, SIGSEGV, a hang.

use super::forge::Words;
use crate::peer::say;
use crate::support::{KIB, MIB, PAGE, Random, Scratch, forge};
use crate::trust;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use vmalloc::{Buf, Frozen, Onlooker, OpenError, Pool, Request, Shared, Token};

/// Seeds of this process: `from..to`, one after the other.
pub fn expose(argument: &str) {
    let (from, to) = argument.split_once(' ').unwrap();
    // A panic ends it at once: the thread that goes on writing would not notice.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::abort();
    }));
    for seed in from.parse::<u64>().unwrap()..to.parse().unwrap() {
        say(&format!("seed {seed}"));
        expose_seed(seed);
    }
    say("done");
}

/// What the member holds when the forging begins.
struct Held {
    tokens: Vec<Token>,
    bufs: Vec<Buf>,
    frozen: Vec<Frozen>,
    shared: Vec<Shared>,
}

fn expose_seed(seed: u64) {
    let mut random = Random(seed);
    let path = Scratch::new("hostile");
    // Small, so that a seed takes a millisecond; or as pools are.
    let options = Pool::options().members(4).memory_bytes(1 << 30);
    let options = if seed.is_multiple_of(8) { options } else { options.window_bytes(64 * MIB) };
    let pool = options.create_at(&path.0, 8 * MIB).unwrap();
    let mut held = prepare(&pool, &mut random);
    let words = Words::of(&pool);
    // A third is forged beforehand, a third at once and all the time, a third by single words that
    // switch to and fro.
    let how = seed % 3;
    (0..1 << random.of(0..8)).take_while(|_| how != 2).for_each(|_| words.forge(&mut random));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if how > 0 {
            let (words, stop) = (&words, &stop);
            scope.spawn(move || {
                let mut random = Random(seed ^ 0x5555);
                // Relaxed: it ends a loop, no more.
                let stop = || stop.load(Ordering::Relaxed);
                while !stop() {
                    if how == 1 {
                        words.forge(&mut random);
                    } else {
                        words.flip(&mut random, 2000, stop);
                    }
                }
            });
        }
        drop(Onlooker::open(&path.0).map(|onlooker| {
            black_box((onlooker.info(), onlooker.members(), onlooker.areas().len()));
        }));
        match Pool::options().memory_bytes(1 << 30).open(&path.0) {
            Ok(second) => use_everything(&second, &held.tokens, &mut random),
            // Of the words that say what the pool is, any may be another now.
            Err(OpenError::Header(_) | OpenError::Full { .. } | OpenError::Os(_)) => {}
            Err(e) => panic!("{e:?}"),
        }
        held.bufs.iter_mut().for_each(|buf| buf.fill(6));
        held.frozen.iter().for_each(|frozen| drop(black_box(frozen.to_vec())));
        held.shared.iter().for_each(|shared| {
            let _ = shared.write_at(0, &vec![8; shared.len()]);
        });
        use_everything(&pool, &held.tokens, &mut random);
        drop(held);
        stop.store(true, Ordering::Relaxed);
    });
    drop(pool);
}

/// Areas in every state.
fn prepare(pool: &Pool, random: &mut Random) -> Held {
    let mut held =
        Held { tokens: Vec::new(), bufs: Vec::new(), frozen: Vec::new(), shared: Vec::new() };
    for i in 0..30 {
        let buf = pool.vmalloc(random.of(1..100 * KIB) as usize).unwrap();
        match i % 5 {
            0 => held.frozen.push(buf.freeze().unwrap()),
            1 => held.shared.push(buf.share().unwrap()),
            2 => held.bufs.push(buf),
            3 => held.tokens.push(buf.share().unwrap().token()),
            _ => drop(buf),
        }
    }
    held.tokens.extend(held.frozen.iter().map(Frozen::token));
    held.tokens.extend(held.shared.iter().map(Shared::token));
    held
}

/// Does everything, and holds on to as little as possible.
fn use_everything(pool: &Pool, tokens: &[Token], random: &mut Random) {
    let mut bufs: Vec<Buf> = (0..12).filter_map(|_| alloc(pool, random)).collect();
    let listed = pool.areas();
    black_box(listed.iter().map(|area| area.to_string().len()).sum::<usize>());
    let found: Vec<Token> = listed.iter().filter_map(|area| pool.token_of(area)).collect();
    for token in tokens.iter().chain(&found) {
        use_token(pool, token, random);
    }
    for buf in &mut bufs {
        let bytes = random.of(1..300 * KIB) as usize;
        if random.of(0..4) == 0 && buf.resize(bytes).is_ok() {
            buf.fill(7);
        }
    }
    while let Some(mut buf) = bufs.pop() {
        buf.fill(4);
        match random.of(0..4) {
            0 => drop(buf.share().map(|mut shared| {
                let _ = shared.grow(shared.len() + random.of(1..100 * KIB) as usize);
                let _ = shared.write_at(0, &vec![9; shared.len()]);
                shared.free()
            })),
            1 => drop(buf.freeze().map(Frozen::free)),
            _ => drop(buf),
        }
    }
    trust::use_the_rest(pool, tokens, random);
    black_box((pool.info(), pool.members()));
    pool.recover();
    let _ = pool.verify();
    let _ = if random.of(0..4) == 0 { pool.purge_step() } else { pool.purge() };
}

fn alloc(pool: &Pool, random: &mut Random) -> Option<Buf> {
    let bytes = match random.of(0..4) {
        0 => random.of(1..3 * PAGE),
        1 => random.of(1..300 * KIB),
        2 => random.of(1..2 * MIB),
        _ => random.of(2 * MIB..3 * MIB),
    };
    let mut request = Request::bytes(bytes).no_wait();
    match random.of(0..6) {
        0 => request = request.zeroed(),
        1 => request = request.huge(),
        2 => request = request.no_reuse(),
        3 => request = request.align_bytes(PAGE << random.of(0..10)),
        // One that waits for what others give back, or seem to: up to two seconds.
        4 if random.of(0..64) == 0 => request = Request::bytes(bytes),
        _ => {}
    }
    let mut buf = pool.alloc(&request).ok()?;
    buf.fill(3);
    Some(buf)
}

fn use_token(pool: &Pool, token: &Token, random: &mut Random) {
    let token = match random.of(0..8) {
        0 => forge(token, |numbers| {
            let which = random.of(1..4) as usize;
            numbers[which] = numbers[which].wrapping_add(random.of(0..5)).wrapping_sub(2) & 0xffff;
        }),
        _ => *token,
    };
    if let Ok(frozen) = pool.attach(&token) {
        black_box(frozen.to_vec());
    }
    if let Ok(mut shared) = pool.attach_shared(&token) {
        let _ = shared.write_at(0, &vec![5; shared.len()]);
        let _ = shared.refresh();
        black_box(shared.words().len());
    }
    if random.of(0..2) == 0 {
        let _ = pool.free(&token);
    }
}
