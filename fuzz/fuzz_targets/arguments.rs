//! Command lines of `vmalloc`, as clap reads them, and the texts that they are made of.
//!
//! The program's own files, built into this one; nothing of what a command line asks for is done.
//! The bytes are words, one a line: a number chooses one of the program's own, so that few inputs
//! stop at the first word.
//!
//! Canary: a unit that is none is cut in the midst of a character.

#![no_main]
#![allow(dead_code, reason = "the program's files, of which only the command line runs")]

// `build.rs` writes the list of modules as `crates/vmalloc-cli/src/main.rs` has it.
include!(concat!(env!("OUT_DIR"), "/modules.rs"));

use clap::{CommandFactory as _, Parser as _};
use libfuzzer_sys::fuzz_target;
use size::{Size, SizeError};
use std::sync::OnceLock;
use vmalloc_core::planted::Bug;

/// Commands, options and values as the program knows them.
fn vocabulary() -> &'static [String] {
    static WORDS: OnceLock<Vec<String>> = OnceLock::new();
    WORDS.get_or_init(|| {
        let mut words = Vec::new();
        let program = args::Args::command();
        for command in program.get_subcommands().chain([&program]) {
            words.push(command.get_name().to_owned());
            for argument in command.get_arguments() {
                words.extend(argument.get_long().map(|long| format!("--{long}")));
                let values = argument.get_possible_values();
                words.extend(values.iter().map(|value| value.get_name().to_owned()));
            }
        }
        let values =
            ["1G", "64K", "0", "-1", "/dev/shm/p", "vm1-0000002a-0-1-1", "all", "a=b", "1,2"];
        words.extend(values.map(str::to_owned));
        words.sort_unstable();
        words.dedup();
        words
    })
}

fuzz_target!(|bytes: &[u8]| fuzz::planted(Bug::CutInACharacter, || read(bytes)));

fn read(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let known = vocabulary();
    let words: Vec<&str> = text
        .split('\n')
        .map(|word| match word.parse::<usize>() {
            Ok(number) if number < known.len() => known[number].as_str(),
            _ => word,
        })
        .collect();
    if let Err(error) = args::Args::try_parse_from(["vmalloc"].iter().chain(&words)) {
        assert!(!error.render().to_string().is_empty());
    }
    for word in words {
        a_size_is_what_it_says(word);
    }
}

/// A size that is read is number times unit, and is printed as so many whole ones of the largest unit
/// that it reaches; an error says something.
fn a_size_is_what_it_says(text: &str) {
    match text.parse::<Size>() {
        Ok(size) => {
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            let number: u128 = digits.parse().expect("it begins with a number");
            assert!(u128::from(size.0).checked_rem(number).is_none_or(|rest| rest == 0), "{text}");
            let printed = size.to_string();
            let (shown, unit) = printed.split_once(' ').expect("a number and its unit");
            let unit = match unit {
                "byte" | "bytes" => 1,
                unit => format!("1{unit}").parse::<Size>().expect("a unit that is read").0,
            };
            let whole = shown.split('.').next().and_then(|whole| whole.parse::<u64>().ok());
            assert_eq!(whole, Some(size.0 / unit), "{text}: {printed}");
            assert!(size.0 / unit < 1024 || unit == 1 << 40, "{text}: {printed}");
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            if let SizeError::Unit(unit) = error {
                assert!(text.contains(&unit), "{text}: {unit}");
            }
        }
    }
}
