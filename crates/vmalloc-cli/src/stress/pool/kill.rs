//! SIGKILL at a random moment, `--loops` times, while the others go on.

use super::super::alone::Terms;
use super::super::subject::Verdict;
use super::deaths::{self, Deaths};
use super::{MIB, REAL_ONLY};
use std::time::Duration;

const KILLS: u64 = 100;

/// Four members in a pool that is too small for all they would like to have.
pub fn run(terms: &Terms) -> Verdict<String> {
    terms.on_linux_only(REAL_ONLY)?;
    let deaths = Deaths {
        pool_bytes: terms.pool_bytes.unwrap_or(16 * MIB),
        members: 4,
        rejoin: 0,
        pause_max: Duration::from_millis(10),
        kills: terms.loops.unwrap_or(KILLS),
        lasts: Duration::MAX,
    };
    deaths::run(&deaths, terms)
}
