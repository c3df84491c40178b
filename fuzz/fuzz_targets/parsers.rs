//! Bytes that come from elsewhere, through each parser: tokens, traces, events.
//!
//! What is taken must be in bounds, and must be what is written again, byte by byte.
//!
//! Canary: an event's page is not checked.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vmalloc::Token;
use vmalloc::trace::{self, Event};
use vmalloc_core::planted::Bug;

/// The bounds that every reader of a trace relies on.
const BYTES_MAX: u64 = 1 << 47;

fuzz_target!(|bytes: &[u8]| fuzz::planted(Bug::PageUnchecked, || parse(bytes)));

fn parse(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        match text.parse::<Token>() {
            Ok(token) => assert_eq!(token.to_string(), text),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    read_trace(bytes);
    // As if the first part were right: else few inputs come past it.
    read_trace(&[&trace::header(7)[..], bytes].concat());
}

fn read_trace(file: &[u8]) {
    match trace::parse(file) {
        Ok(events) => {
            let began = trace::began_ns(file).expect("it was parsed");
            let mut again = trace::header(began).to_vec();
            again.extend(events.iter().flat_map(Event::to_bytes));
            assert_eq!(again, file);
            for event in events {
                assert!((1..=64).contains(&event.member), "{event:?}");
                assert!(event.bytes <= BYTES_MAX && event.page <= BYTES_MAX >> 12, "{event:?}");
                assert!(event.align_bytes().is_power_of_two());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
