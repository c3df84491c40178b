//! The engine on the simulated machine against the model: random operations, faults among them.

use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, FileFailurePersistence};
use vmalloc_core::Pages;
use vmalloc_sim::{Abilities, Host, Op, Setup, SimHost, Tally, TlbSize, ops, run};

const HOST: SimHost = SimHost { tlb: TlbSize::Unlimited };

/// A machine that evicts, so that nothing comes to depend on what a TLB holds.
const FORGETFUL: SimHost = SimHost { tlb: TlbSize::DirectMapped(16) };

fn abilities(host: &impl Host) -> Abilities {
    let mut abilities = None;
    host.with(Setup::DEFAULT, &mut |subject| abilities = Some(subject.abilities()));
    abilities.expect("the host called us")
}

fn without_faults() -> Abilities {
    Abilities { injects_faults: false, ..abilities(&HOST) }
}

/// So many cases, or as many as `PROPTEST_CASES` says.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let is_set = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig {
        cases: if is_set { default.cases } else { cases },
        max_shrink_iters: 3_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..default
    }
}

fn check(host: &impl Host, setup: Setup, ops: &[Op]) -> Result<Tally, TestCaseError> {
    let mut result = Ok(Tally::default());
    host.with(setup, &mut |subject| result = run(subject, ops));
    result.map_err(|divergence| TestCaseError::fail(divergence.to_string()))
}

/// A window that is hardly larger than the pool: holes run out, too.
const TIGHT: Setup = Setup { window: Pages(1024), ..Setup::DEFAULT };

/// Few frames: everything runs out all the time.
const SMALL: Setup = Setup { frames: Pages(48), window: Pages(4096), ..Setup::DEFAULT };

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn any_sequence_does_what_the_model_says(
        ops in ops::sequences(Setup::DEFAULT, without_faults(), 80),
    ) {
        check(&HOST, Setup::DEFAULT, &ops)?;
    }

    #[test]
    fn any_sequence_with_faults_does_what_the_model_says(
        ops in ops::sequences(Setup::DEFAULT, abilities(&HOST), 80),
    ) {
        check(&HOST, Setup::DEFAULT, &ops)?;
    }

    #[test]
    fn any_sequence_in_a_tight_window_does_what_the_model_says(
        ops in ops::sequences(TIGHT, abilities(&HOST), 80),
    ) {
        check(&HOST, TIGHT, &ops)?;
    }

    #[test]
    fn any_sequence_in_a_small_pool_does_what_the_model_says(
        ops in ops::sequences(SMALL, abilities(&HOST), 80),
    ) {
        check(&HOST, SMALL, &ops)?;
    }

    #[test]
    fn any_sequence_with_small_tlbs_does_what_the_model_says(
        ops in ops::sequences(Setup::DEFAULT, abilities(&HOST), 40),
    ) {
        check(&FORGETFUL, Setup::DEFAULT, &ops)?;
    }
}
