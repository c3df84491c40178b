//! Page tables of each format against the MMU of its architecture and a map model: the property
//! test of `crates/vmalloc-bare/tests/tables.rs`, fed by libFuzzer.
//!
//! Canary: `protect_run` passes large leaves by.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use vmalloc_bare::{Aarch64, Sv39, Sv48, X86_64, X86_64La57};
use vmalloc_core::planted::Bug;

#[path = "../../crates/vmalloc-bare/tests/tables.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "its tests are for cargo test")]
mod tables;

use tables::{Arch, agree};

/// The longest sequence.
const OPS: usize = 24;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Some((first, rest)) = bytes.split_first() else { return Corpus::Reject };
    let ops = fuzz::draw_each(rest, &tables::op(), OPS);
    let is_upper = first & 0x80 != 0;
    fn half<A: Arch>(is_upper: bool) -> vmalloc_core::Vpn {
        if is_upper { A::UPPER } else { A::LOWER }
    }
    fuzz::planted(Bug::LargeLeafPassedBy, || match first % 5 {
        0 => agree::<X86_64>(&ops, half::<X86_64>(is_upper)),
        1 => agree::<X86_64La57>(&ops, half::<X86_64La57>(is_upper)),
        2 => agree::<Aarch64>(&ops, half::<Aarch64>(is_upper)),
        3 => agree::<Sv39>(&ops, half::<Sv39>(is_upper)),
        _ => agree::<Sv48>(&ops, half::<Sv48>(is_upper)),
    });
    Corpus::Keep
});
