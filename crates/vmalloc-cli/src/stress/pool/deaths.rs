//! Members that work, one of which is killed at a random moment and replaced, again and again.
//!
//! Whoever notices first recovers what the dead one held: the one that takes its slot, one that
//! finds no room, or this process, after every other kill. What the dead one had published outlives it,
//! as it must: it is found by what is written in it, and freed by its token.

use super::super::alone::{Terms, check};
use super::super::subject::{Stop, Verdict};
use super::member::{DONE, check_published};
use super::peer::Peer;
use super::{empty, tag};
use crate::demo::plan::Random;
use crate::failure::Failure;
use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};
use vmalloc::{Pool, Token};
use vmalloc_core::PAGE_SIZE;

/// After so many kills everybody is asked, and what the dead have published is freed.
const ASK_EVERY: u64 = 8;

/// The number that this process writes.
const PARENT: u32 = 0;

/// How it is to go.
pub struct Deaths {
    pub pool_bytes: u64,
    pub members: usize,
    /// Each leaves and joins again after so many rounds; 0: they stay.
    pub rejoin: u64,
    /// The longest that a member lives after the last one died.
    pub pause_max: Duration,
    /// It ends after so many kills.
    pub kills: u64,
    /// And after so long at the latest.
    pub lasts: Duration,
}

/// What was seen.
#[derive(Default)]
struct Seen {
    kills: u64,
    recovered: usize,
    freed: u64,
    rounds: u64,
    full: u64,
    slowest: Duration,
}

/// Runs it; what was seen.
pub fn run(deaths: &Deaths, terms: &Terms) -> Verdict<String> {
    let name = format!("stress-{}", std::process::id());
    let pool = Pool::options().name(&name).create(deaths.pool_bytes)?;
    let mut random = Random::new(terms.seed);
    let mut seen = Seen::default();
    let mut block = pool.vmalloc(16 * PAGE_SIZE)?;
    let key = tag::fill(&mut block, PARENT, random.next());
    let block = block.freeze()?.token();

    let mut writer = PARENT;
    let mut start = |random: &mut Random| {
        writer += 1;
        Peer::start(&pool, writer, random.next(), deaths.rejoin)
    };
    let mut peers: Vec<Peer> =
        (0..deaths.members).map(|_| start(&mut random)).collect::<Verdict<_>>()?;
    let began = Instant::now();
    while seen.kills < deaths.kills && began.elapsed() < deaths.lasts {
        let pause = random.below(deaths.pause_max.as_micros() as u64 + 1);
        thread::sleep(Duration::from_micros(pause));
        let victim = peers.swap_remove(random.below(peers.len() as u64) as usize);
        seen.rounds += victim.rounds;
        victim.kill()?;
        seen.kills += 1;
        if seen.kills.is_multiple_of(2) {
            seen.recovered += pool.recover().areas;
        }
        peers.push(start(&mut random)?);
        if seen.kills.is_multiple_of(ASK_EVERY) {
            for peer in &mut peers {
                seen.slowest = seen.slowest.max(peer.ask()?);
            }
            seen.freed += free_of_the_dead(&pool, &peers)?;
        }
    }
    let took = began.elapsed();
    leave(peers, &mut seen)?;
    seen.recovered += pool.recover().areas;
    let left = pool.members().len();
    check(left == 1, || format!("{left} members are left"))?;
    seen.freed += free_of_the_dead(&pool, &[])?;
    check_published(&pool, &block, Some(key)).map_err(stop)?;
    pool.free(&block)?;
    empty(&pool)?;
    drop(pool);
    let left = vmalloc::list().into_iter().find(|found| found.name.contains(&name));
    check(left.is_none(), || format!("a pool is left: {left:?}"))?;

    let Seen { kills, recovered, freed, rounds, full, slowest } = seen;
    Ok(format!(
        "{kills} killed of {} members in {:.1} s, {rounds} rounds of work counted; here {recovered} \
         areas recovered, and {freed} freed that the dead had published; the pool was full {full} \
         times; the slowest answer took {:.1} ms; 0 hangs, 0 wrong bytes, 0 frames left, 0 files \
         left",
        deaths.members,
        took.as_secs_f64(),
        slowest.as_secs_f64() * 1000.0
    ))
}

/// Frees what nobody that lives has published; how many areas.
fn free_of_the_dead(pool: &Pool, living: &[Peer]) -> Verdict<u64> {
    let living: HashSet<u32> = living.iter().map(|peer| peer.writer).chain([PARENT]).collect();
    let tokens: Vec<Token> = pool.areas().iter().filter_map(|area| pool.token_of(area)).collect();
    let mut freed = 0;
    for token in tokens {
        let Some(key) = check_published(pool, &token, None).map_err(stop)? else { continue };
        if !living.contains(&tag::writer(key)) {
            pool.free(&token)?;
            freed += 1;
        }
    }
    Ok(freed)
}

fn leave(mut peers: Vec<Peer>, seen: &mut Seen) -> Verdict {
    peers.iter_mut().for_each(Peer::tell_to_leave);
    for peer in peers {
        let words = peer.last_words()?;
        let figures = words.strip_prefix(DONE).and_then(|rest| rest.trim().split_once(' '));
        let Some((rounds, full)) = figures else { return Err(Stop::from(words)) };
        seen.rounds += rounds.parse::<u64>()?;
        seen.full += full.parse::<u64>()?;
    }
    Ok(())
}

fn stop(failure: Failure) -> Stop {
    match failure {
        Failure::Said(why) => Stop::from(why),
        Failure::Exited(_) | Failure::Unread => Stop::from("nobody reads"),
    }
}
