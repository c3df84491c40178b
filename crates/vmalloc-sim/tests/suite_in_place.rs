//! The suite on a machine in place, where all members share one window, as on Linux: the rules,
//! and random operations against the model.

use proptest::prelude::*;
use vmalloc_core::Pages;
use vmalloc_sim::in_place::subject::InPlaceHost;
use vmalloc_sim::{Abilities, Host, Setup, ops, run};

vmalloc_sim::conformance_tests!(InPlaceHost);

const THREE: Setup = Setup { members: 3, ..Setup::DEFAULT };
const TIGHT: Setup = Setup { members: 3, window: Pages(1024), ..Setup::DEFAULT };

fn abilities() -> Abilities {
    let mut abilities = None;
    InPlaceHost.with(THREE, &mut |subject| abilities = Some(subject.abilities()));
    abilities.expect("the host called us")
}

fn check(setup: Setup, ops: &[vmalloc_sim::Op]) -> Result<(), TestCaseError> {
    let mut result = Ok(());
    InPlaceHost.with(setup, &mut |subject| result = run(subject, ops).map(drop));
    result.map_err(|divergence| TestCaseError::fail(divergence.to_string()))
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 3_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_does_what_the_model_says(ops in ops::sequences(THREE, abilities(), 80)) {
        check(THREE, &ops)?;
    }

    #[test]
    fn any_sequence_in_a_tight_window_does_what_the_model_says(
        ops in ops::sequences(TIGHT, abilities(), 80),
    ) {
        check(TIGHT, &ops)?;
    }
}
