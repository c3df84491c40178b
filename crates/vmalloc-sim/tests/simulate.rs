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
const PLANTED: [(Bug, u64); 6] = [
    (Bug::MissingFlush, 0),
    (Bug::FreedBeforeFlush, 0),
    (Bug::GuardForgotten, 0),
    (Bug::DoublePublish, 0),
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

/// Goal: what a recovery parks because its flush failed has the whole slot, not what the dead
/// builder had written of its record: the next purge would flush too little. Method: the short list
/// of seed 179; fails without `is_torn` in `park_again`.
#[test]
fn regress_0179_half_written_record_was_parked_as_it_was() {
    let alloc = |pages, zeroed, strict| Alloc { pages, zeroed, strict };
    replay(&[
        Move { who: 2, act: Die, turn: Whole },
        Move { who: 4, act: alloc(11, false, false), turn: Killed { write: 5 } },
        Move { who: 3, act: alloc(14, false, false), turn: Killed { write: 0 } },
        Move { who: 1, act: Recover { nth: 5 }, turn: Whole },
        Move { who: 1, act: Recover { nth: 52 }, turn: Whole },
        Move { who: 3, act: alloc(12, false, false), turn: Whole },
        Move { who: 2, act: alloc(11, true, true), turn: Killed { write: 5 } },
        Move { who: 1, act: alloc(4, true, false), turn: Killed { write: 9 } },
        Move { who: 3, act: Recover { nth: 57 }, turn: Whole },
        Move { who: 3, act: Recover { nth: 51 }, turn: Whole },
        Move { who: 1, act: Recover { nth: 44 }, turn: Refused { call: 1 } },
    ]);
}

/// Goal: the same where the record's length was the last tenant's, and longer than the slot is now.
/// Method: the short list of seed 305; fails without `is_torn` in `park_again`.
#[test]
fn regress_0305_half_written_record_was_longer_than_its_slot() {
    let alloc = |pages, zeroed, strict| Alloc { pages, zeroed, strict };
    let meets = Met { write: 19, by: 1, act: alloc(5, false, false) };
    replay(&[
        Move { who: 3, act: alloc(4, false, false), turn: Killed { write: 8 } },
        Move { who: 4, act: alloc(39, false, false), turn: Killed { write: 28 } },
        Move { who: 1, act: alloc(8, false, false), turn: Whole },
        Move { who: 1, act: alloc(4, false, false), turn: Whole },
        Move { who: 2, act: Recover { nth: 51 }, turn: Whole },
        Move { who: 1, act: Free { nth: 12 }, turn: Whole },
        Move { who: 2, act: Purge, turn: Whole },
        Move { who: 2, act: alloc(9, true, true), turn: meets },
        Move { who: 1, act: alloc(9, true, false), turn: Whole },
        Move { who: 1, act: Free { nth: 6 }, turn: Whole },
        Move { who: 1, act: Free { nth: 46 }, turn: Whole },
        Move { who: 4, act: Recover { nth: 17 }, turn: Whole },
        Move { who: 2, act: Free { nth: 24 }, turn: Whole },
        Move { who: 3, act: Purge, turn: Whole },
        Move { who: 1, act: Free { nth: 18 }, turn: Whole },
        Move { who: 4, act: alloc(7, false, false), turn: Whole },
        Move { who: 4, act: PurgeStep, turn: Whole },
        Move { who: 2, act: alloc(12, true, false), turn: Whole },
        Move { who: 4, act: alloc(8, true, false), turn: Whole },
        Move { who: 3, act: alloc(8, true, false), turn: Killed { write: 2 } },
        Move { who: 2, act: Recover { nth: 4 }, turn: Refused { call: 1 } },
    ]);
}

/// Goal: what a recovery took that was cut short is nobody's, and another may have it. Method: the
/// short list of seed 111; fails if the oracle lets an area live until it is over.
#[test]
fn regress_0111_area_of_a_recovery_cut_short_was_said_to_live() {
    let alloc = |pages, zeroed, strict| Alloc { pages, zeroed, strict };
    replay(&[
        Move { who: 2, act: alloc(8, true, false), turn: Whole },
        Move { who: 2, act: alloc(8, true, false), turn: Killed { write: 10 } },
        Move { who: 1, act: Recover { nth: 34 }, turn: Killed { write: 6 } },
        Move { who: 4, act: PurgeStep, turn: Whole },
        Move { who: 4, act: alloc(11, false, false), turn: Whole },
        Move { who: 4, act: Free { nth: 46 }, turn: Killed { write: 6 } },
        Move { who: 3, act: alloc(8, false, true), turn: Whole },
    ]);
}
