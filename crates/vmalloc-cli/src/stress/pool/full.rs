//! A pool that is full, a machine that is, a tmpfs that is, and a process that has no VMAs left for
//! stitched views: an error each time, and it goes on.
//!
//! The machine's memory is a stated number, since to fill a whole machine wakes its OOM killer,
//! which takes somebody else. The tmpfs is mounted by a child in a mount namespace of its own,
//! so that it is gone when the child is.

use super::super::alone::{Terms, check};
use super::super::subject::{Stop, Verdict};
use super::member::StressMemberArgs;
use super::{MIB, REAL_ONLY};
use crate::demo::plan::Random;
use crate::failure::{Done, Failure};
use std::path::Path;
use std::process::Command;
use vmalloc::{AllocError, Pool, StitchError};

const ROUNDS: u64 = 1000;

/// Where the child mounts a tmpfs, which nobody else sees, and how large.
const TMPFS: &str = "mount -t tmpfs -o size=24m vmalloc-stress /tmp && exec \"$0\" \"$@\"";

/// `--loops` refusals each.
pub fn run(terms: &Terms) -> Verdict<String> {
    terms.on_linux_only(REAL_ONLY)?;
    let rounds = terms.loops.unwrap_or(ROUNDS);
    let bytes = terms.pool_bytes.unwrap_or(64 * MIB);
    let pool = Pool::create(bytes)?;
    let at_capacity = fill(&pool, rounds, terms.seed)?;
    check(at_capacity == bytes, || format!("{at_capacity} of {bytes} bytes were had"))?;
    let pool = Pool::options().memory_bytes(bytes / 2).create(bytes)?;
    let on_machine = fill(&pool, rounds, terms.seed)?;
    check(on_machine < bytes / 2, || format!("{on_machine} bytes of half of {bytes}"))?;
    let (rings, vmas) = at_vma_budget(rounds, terms.seed)?;
    Ok(format!(
        "{rounds} refusals each, and each time it went on: at the capacity of {bytes} bytes; where \
         the machine has {}, at {on_machine}; with all {vmas} VMAs of the budget in {rings} rings; \
         on a tmpfs of 24 MiB, {}",
        bytes / 2,
        on_tmpfs(rounds, terms.seed)?
    ))
}

/// Makes rings until the VMA budget of this process is spent; then is refused one, allocates, and
/// changes one ring for another, `rounds` times. Returns how many rings there were, of how many
/// VMAs.
fn at_vma_budget(rounds: u64, seed: u64) -> Verdict<(usize, usize)> {
    let mut random = Random::new(seed);
    let pool = Pool::create(64 * MIB)?;
    let mut buf = pool.vmalloc(4096)?;
    buf.fill(7);
    let area = buf.freeze().map_err(|unpublished| unpublished.error.to_string())?;
    let mut rings = Vec::new();
    let most = loop {
        match area.ring() {
            Ok(ring) => rings.push(ring),
            Err(StitchError::Vmas { most, .. }) => break most,
            Err(e) => return Err(Stop::from(e)),
        }
    };
    for _ in 0..rounds {
        match area.ring() {
            Err(StitchError::Vmas { wanted, taken, most: m }) if m == most => {
                check(taken + wanted > most, || {
                    format!("{taken} of {most} VMAs, {wanted} wanted")
                })?;
            }
            Err(e) => return Err(Stop::from(e)),
            Ok(_) => return Err(Stop::from("a ring beyond the VMA budget")),
        }
        let mut buf = pool.vmalloc(4096 << random.below(10))?;
        buf.fill(1);
        drop(buf);
        pool.purge_step()?;
        drop(rings.swap_remove(random.below(rings.len() as u64) as usize));
        let ring = area.ring()?;
        check(ring.iter().all(|&byte| byte == 7), || "a ring of other bytes".into())?;
        rings.push(ring);
    }
    let count = rings.len();
    drop(rings);
    area.free()?;
    pool.verify()?;
    Ok((count, most))
}

/// Fills the pool until it refuses; then frees one and has one of that size, and is refused again,
/// `rounds` times. Returns the bytes that it had at first.
fn fill(pool: &Pool, rounds: u64, seed: u64) -> Verdict<u64> {
    let mut random = Random::new(seed);
    let mut bufs = Vec::new();
    let mut had = 0;
    let mut order = 8;
    // Smaller ones at the end, so that it is full to the last page.
    loop {
        let bytes = 4096 << random.below(order + 1);
        match pool.vmalloc(bytes) {
            Ok(mut buf) => {
                buf.fill(1);
                had += bytes as u64;
                bufs.push(buf);
            }
            Err(e) => match expected(e).and(Ok(order.checked_sub(1)))? {
                Some(less) => order = less,
                None if bytes == 4096 => break,
                None => {}
            },
        }
    }
    for _ in 0..rounds {
        match pool.vmalloc(4096 << random.below(10)) {
            Ok(_) => return Err(Stop::from("a full pool gave memory")),
            Err(e) => expected(e)?,
        }
        let at = random.below(bufs.len() as u64) as usize;
        let bytes = bufs.swap_remove(at).len();
        let mut buf = pool.vmalloc(bytes)?;
        buf.fill(2);
        bufs.push(buf);
    }
    pool.verify()?;
    drop(bufs);
    pool.purge()?;
    Ok(had)
}

fn expected(error: AllocError) -> Verdict {
    match error {
        AllocError::Engine(e) if e.purge_may_help() => Ok(()),
        e => Err(Stop::from(e)),
    }
}

/// What the child says that has a tmpfs, or why there is none.
fn on_tmpfs(rounds: u64, seed: u64) -> Verdict<String> {
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", TMPFS])
        .arg(std::env::current_exe()?)
        .args(["stress-member", "--fill", &rounds.to_string()])
        .args(["--pool", "/tmp/pool", "--writer", "0", "--seed", &seed.to_string()])
        .output();
    let Ok(output) = output else { return Ok("unsupported: there is no unshare".into()) };
    let (told, why) = (text(&output.stdout), text(&output.stderr));
    match output.status.code() {
        Some(0) => Ok(told),
        // Killed, or the case failed.
        None => Err(Stop::from(format!("on a tmpfs: {}", output.status))),
        _ if why.starts_with("vmalloc") => Err(Stop::from(why)),
        _ => Ok(format!("unsupported: {why}")),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// What the child does: fills a pool that is larger than the tmpfs it lies on.
pub fn in_child(args: &StressMemberArgs, rounds: u64) -> Done {
    match fill_at(&args.pool, rounds, args.seed) {
        Ok(had) => super::member::say(format_args!("at {had} bytes")),
        Err(Stop::Failed(why)) => Err(Failure::new(format_args!("on a tmpfs: {why}"))),
        Err(Stop::Unsupported(why)) => Err(Failure::new(why)),
    }
}

fn fill_at(path: &Path, rounds: u64, seed: u64) -> Verdict<u64> {
    let pool = Pool::create_at(path, 64 * MIB)?;
    let had = fill(&pool, rounds, seed)?;
    check(had > 8 * MIB && had < 24 * MIB, || format!("{had} bytes on a tmpfs of 24 MiB"))?;
    Ok(had)
}
