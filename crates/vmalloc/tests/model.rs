//! Pools against the model: random operations of several members.

use crate::subject::PoolHost;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use vmalloc::core::Pages;
use vmalloc_sim::{Abilities, Host, Op, Setup, Tally, ops, run};

/// Few frames: everything runs out all the time.
const SMALL: Setup = Setup { frames: Pages(48), members: 3, ..Setup::DEFAULT };

fn abilities() -> Abilities {
    let mut abilities = None;
    PoolHost.with(Setup::DEFAULT, &mut |subject| abilities = Some(subject.abilities()));
    abilities.expect("the host called us")
}

/// So many cases, or as many as `PROPTEST_CASES` says.
fn config(cases: u32) -> Config {
    let default = Config::default();
    let is_set = std::env::var_os("PROPTEST_CASES").is_some();
    Config {
        cases: if is_set { default.cases } else { cases },
        max_shrink_iters: 1_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..default
    }
}

fn check(setup: Setup, ops: &[Op]) -> Result<Tally, TestCaseError> {
    let mut result = Ok(Tally::default());
    PoolHost.with(setup, &mut |subject| result = run(subject, ops));
    result.map_err(|divergence| TestCaseError::fail(divergence.to_string()))
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn any_sequence_does_what_the_model_says(
        ops in ops::sequences(Setup::DEFAULT, abilities(), 80),
    ) {
        check(Setup::DEFAULT, &ops)?;
    }

    #[test]
    fn any_sequence_in_a_small_pool_of_three_does_what_the_model_says(
        ops in ops::sequences(SMALL, abilities(), 80),
    ) {
        check(SMALL, &ops)?;
    }
}
