//! Operations on the simulated machine, beside the model. The first byte chooses the machine.
//!
//! Canary: a bug of `vmalloc_core::planted`, two ranges of a flush that become one a page short.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use std::sync::OnceLock;
use vmalloc_core::Pages;
use vmalloc_core::planted::Bug;
use vmalloc_sim::{Abilities, Host as _, Setup, SimHost, TlbSize, ops, run};

/// As the property tests have them: roomy, a tight window, few frames.
const SETUPS: [Setup; 3] = [
    Setup::DEFAULT,
    Setup { window: Pages(1024), ..Setup::DEFAULT },
    Setup { frames: Pages(48), window: Pages(4096), ..Setup::DEFAULT },
];

/// The longest sequence.
const OPS: usize = 60;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    static ABILITIES: OnceLock<Abilities> = OnceLock::new();
    let Some((first, rest)) = bytes.split_first() else { return Corpus::Reject };
    let setup = SETUPS[usize::from(*first) % SETUPS.len()];
    let tlb = if first & 0x80 == 0 { TlbSize::Unlimited } else { TlbSize::DirectMapped(16) };
    let host = SimHost { tlb };
    let abilities = *ABILITIES.get_or_init(|| {
        let mut abilities = None;
        host.with(setup, &mut |subject| abilities = Some(subject.abilities()));
        abilities.expect("the host called us")
    });
    let ops = fuzz::draw_each(rest, &ops::op(setup, abilities), OPS);
    fuzz::planted(Bug::WrongMerge, || {
        host.with(setup, &mut |subject| {
            if let Err(divergence) = run(subject, &ops) {
                panic!("{divergence}");
            }
        });
    });
    Corpus::Keep
});
