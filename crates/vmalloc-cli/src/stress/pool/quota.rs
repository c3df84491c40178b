//! Who is over its quota gets an error with the numbers, and the others go on.

use super::super::alone::{Terms, check};
use super::super::subject::{Stop, Verdict};
use super::{MIB, REAL_ONLY, empty};
use crate::demo::plan::Random;
use vmalloc::{AllocError, OverQuota, Pool};

const ROUNDS: u64 = 1000;
const QUOTA: u64 = 8 * MIB;
const STEP_MAX: u64 = MIB;

/// Two members of a pool, one with a quota; `--loops` refusals.
pub fn run(terms: &Terms) -> Verdict<String> {
    terms.on_linux_only(REAL_ONLY)?;
    let rounds = terms.loops.unwrap_or(ROUNDS);
    let pool = Pool::create(terms.pool_bytes.unwrap_or(64 * MIB))?;
    // An opening of its own is a member of its own.
    let limited = Pool::open(pool.share_path())?;
    pool.set_quota_of(limited.member_number(), Some(QUOTA))?;
    let mut random = Random::new(terms.seed);
    let mut refused = 0;
    let mut held = Vec::new();
    while refused < rounds {
        let bytes = 1 + random.below(STEP_MAX);
        let wanted = bytes.next_multiple_of(4096);
        let used: u64 =
            held.iter().map(|buf: &vmalloc::Buf| buf.len().next_multiple_of(4096) as u64).sum();
        match limited.vmalloc(bytes as usize) {
            Ok(mut buf) => {
                check(used + wanted <= QUOTA, || format!("{used} and {wanted} bytes were had"))?;
                buf.fill(1);
                held.push(buf);
            }
            Err(AllocError::Quota(told)) => {
                let right =
                    OverQuota { wanted_bytes: wanted, used_bytes: used, quota_bytes: QUOTA };
                check(told == right && used + wanted > QUOTA, || {
                    format!("{told:?}, is {right:?}")
                })?;
                refused += 1;
                pool.vmalloc(QUOTA as usize * 2)?.fill(2);
                held.swap_remove(random.below(held.len() as u64) as usize);
            }
            Err(e) => return Err(Stop::from(e)),
        }
    }
    let member = pool.members().into_iter().find(|m| m.number == limited.member_number());
    let used: u64 = held.iter().map(|buf| buf.len().next_multiple_of(4096) as u64).sum();
    check(member.is_some_and(|m| m.used_bytes == used), || format!("{member:?}, holds {used}"))?;
    drop((held, limited));
    empty(&pool)?;
    Ok(format!(
        "{refused} refusals at a quota of {QUOTA} bytes, each with the right numbers; after each \
         the other had twice the quota at once"
    ))
}
