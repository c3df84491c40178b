//! As many members as a pool can have, which join, work and leave for `--loops` seconds, while
//! some of them die.

use super::super::alone::Terms;
use super::super::subject::Verdict;
use super::deaths::{self, Deaths};
use super::{MIB, REAL_ONLY};
use std::time::Duration;

const SECONDS: u64 = 3;

/// This process is the 64th.
const OTHERS: usize = 63;

/// Each joins, works for eight rounds, leaves, and joins again.
pub fn run(terms: &Terms) -> Verdict<String> {
    terms.on_linux_only(REAL_ONLY)?;
    let deaths = Deaths {
        pool_bytes: terms.pool_bytes.unwrap_or(256 * MIB),
        members: OTHERS,
        rejoin: 8,
        pause_max: Duration::from_millis(200),
        kills: u64::MAX,
        lasts: Duration::from_secs(terms.loops.unwrap_or(SECONDS)),
    };
    deaths::run(&deaths, terms)
}
