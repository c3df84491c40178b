//! The simulation as a program: `simulate [--seed N] [--seconds N] [--steps N]`. `cargo xtask
//! simulate` builds and runs it.

use std::process::ExitCode;
use std::time::{Duration, Instant};
use vmalloc_sim::simulate::{Figures, simulate};

fn main() -> ExitCode {
    let mut options = Options { seed: None, seconds: 60, steps: 200 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().and_then(|value| value.parse::<u64>().ok());
        match (word.as_str(), value) {
            ("--seed", Some(seed)) => options.seed = Some(seed),
            ("--seconds", Some(seconds)) => options.seconds = seconds,
            ("--steps", Some(steps)) => options.steps = steps,
            _ => {
                eprintln!("simulate [--seed N] [--seconds N] [--steps N]; not {word}");
                return ExitCode::from(2);
            }
        }
    }
    // What panics is told with its seed, and panics a hundred times while it is shrunk.
    std::panic::set_hook(Box::new(|_| {}));
    run(&options)
}

struct Options {
    /// One seed; else one after the other.
    seed: Option<u64>,
    seconds: u64,
    steps: u64,
}

fn run(options: &Options) -> ExitCode {
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut total = Figures::default();
    for seed in options.seed.map_or(1..u64::MAX, |seed| seed..seed + 1) {
        match simulate(seed, options.steps as usize) {
            Ok(figures) => total.add(&figures),
            Err(failure) => {
                println!("{failure}\nbefore it: {total}");
                println!("again: cargo xtask simulate --seed {seed} --steps {}", options.steps);
                return ExitCode::FAILURE;
            }
        }
        if Instant::now() >= end {
            break;
        }
    }
    println!("{total}: clean");
    ExitCode::SUCCESS
}
