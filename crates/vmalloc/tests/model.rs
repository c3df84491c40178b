//! Pools against the model: the random operations that the simulated machine is held to, less
//! those that Linux has no way to ask for.

use crate::subject_linux::{ABILITIES, FRAMED, LinuxSubject};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use vmalloc_core::Pages;
use vmalloc_sim::{Setup, ops, run};

/// Few frames: everything runs out all the time.
const SMALL: Setup = Setup { frames: Pages(48), ..Setup::DEFAULT };

/// Huge pages, too, and members enough that the last to leave is often not the owner.
const LARGE: Setup = Setup { frames: Pages(4096), members: 4, ..Setup::DEFAULT };

/// Nothing is ever parked for long.
const EAGER: Setup = Setup { lazy_pages_max: Pages(0), members: 3, ..Setup::DEFAULT };

fn config(cases: u32) -> Config {
    Config {
        cases,
        max_shrink_iters: 2_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..Config::default()
    }
}

fn check(setup: Setup, ops: &[vmalloc_sim::Op]) -> Result<(), TestCaseError> {
    let mut subject = LinuxSubject::new(setup);
    let done = run(&mut subject, ops);
    done.map(drop).map_err(|divergence| TestCaseError::fail(divergence.to_string()))
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn any_sequence_does_what_the_model_says(
        ops in ops::sequences(Setup::DEFAULT, ABILITIES, 80),
    ) {
        check(Setup::DEFAULT, &ops)?;
    }

    #[test]
    fn any_sequence_in_a_small_pool_does_what_the_model_says(
        ops in ops::sequences(SMALL, ABILITIES, 80),
    ) {
        check(SMALL, &ops)?;
    }

    #[test]
    fn any_sequence_that_parks_nothing_does_what_the_model_says(
        ops in ops::sequences(EAGER, ABILITIES, 80),
    ) {
        check(EAGER, &ops)?;
    }
}

fn check_framed(setup: Setup, ops: &[vmalloc_sim::Op]) -> Result<(), TestCaseError> {
    let mut subject = LinuxSubject::framed(setup);
    let done = run(&mut subject, ops);
    done.map(drop).map_err(|divergence| TestCaseError::fail(divergence.to_string()))
}

proptest! {
    #![proptest_config(config(32))]

    #[test]
    fn any_sequence_in_a_framed_pool_does_what_the_model_says(
        ops in ops::sequences(Setup::DEFAULT, FRAMED, 80),
    ) {
        check_framed(Setup::DEFAULT, &ops)?;
    }

    #[test]
    fn any_sequence_in_a_small_framed_pool_does_what_the_model_says(
        ops in ops::sequences(SMALL, FRAMED, 80),
    ) {
        check_framed(SMALL, &ops)?;
    }

    #[test]
    fn any_sequence_with_huge_pages_in_a_framed_pool_does_what_the_model_says(
        ops in ops::sequences(LARGE, FRAMED, 60),
    ) {
        check_framed(LARGE, &ops)?;
    }
}

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn any_sequence_with_huge_pages_does_what_the_model_says(
        ops in ops::sequences(LARGE, ABILITIES, 60),
    ) {
        check(LARGE, &ops)?;
    }
}
