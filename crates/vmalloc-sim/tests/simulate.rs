//! The simulation, for a few seconds. `cargo xtask simulate` runs it for as long as you like.

use vmalloc_core::planted::{Bug, with_planted};
use vmalloc_sim::simulate::{Act::*, Figures, Move, Turn::*, replay, simulate};

/// Goal: whatever members do, wherever they are met or killed, whatever fails, every invariant
/// holds after each step. Method: the first seeds.
#[test]
fn the_first_seeds_are_clean() {
    let mut total = Figures::default();
    for seed in 0..24 {
        match simulate(seed, 120) {
            Ok(figures) => total.add(&figures),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{total}");
    assert!(total.kills > 20 && total.meetings > 20 && total.faults > 20, "{total}");
}

/// Each planted bug, and the seeds from which on it is looked for: all of them would take minutes.
const PLANTED: [(Bug, u64); 5] = [
    (Bug::MissingFlush, 0),
    (Bug::FreedBeforeFlush, 0),
    (Bug::GuardForgotten, 0),
    (Bug::LostCounter, 0),
    (Bug::WrongMerge, 8),
];

/// Goal: the simulation finds what it is there for. Method: an engine with a bug, and seeds until
/// one fails; even ones are kernels, odd ones pools.
#[test]
fn every_planted_bug_is_found() {
    for (bug, from) in PLANTED {
        let seeds = from..from + 100;
        let found = with_planted(bug, || seeds.clone().find_map(|seed| simulate(seed, 200).err()));
        let failure = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        println!("{bug:?}: {failure}");
        assert!(failure.len < 40, "{bug:?} is not shrunk: {failure}");
        assert!(simulate(failure.seed, 200).is_ok(), "seed {} fails without it", failure.seed);
    }
}

/// Goal: one of two who revive the same area has it. Method: its last owner asks for it, and
/// another member meets it before each write; with the planted bug one of the lists must fail.
#[test]
fn a_revive_that_does_not_look_gives_an_area_to_two() {
    let alloc = Alloc { pages: 4, zeroed: false, strict: false };
    let lists = (0..6).map(|write| {
        let met = Met { write, by: 2, act: alloc };
        [(alloc, Whole), (Free { nth: 0 }, Whole), (alloc, met)].map(|(act, turn)| Move {
            who: 1,
            act,
            turn,
        })
    });
    let fails = |moves: [Move; 3]| std::panic::catch_unwind(|| replay(&moves)).is_err();
    assert_eq!(lists.clone().filter(|moves| fails(*moves)).count(), 0);
    assert!(with_planted(Bug::DoublePublish, || lists.filter(|moves| fails(*moves)).count()) > 0);
}
