//! The simulation, for a few seconds. `cargo xtask simulate` runs it for as long as you like.

use vmalloc_sim::simulate::{Figures, simulate};

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
