//! A free of an address inside an area is refused, with the area's base; nothing is freed.
//!
//! Linux's `vfree` takes any address of the area, and warns for others.

use super::super::alone::{Terms, check};
use super::super::subject::Verdict;
use super::empty;
use vmalloc_core::{FreeError, Request, VirtAddr};
use vmalloc_sim::{KernelConfig, SimKernel};

/// Frees at each page but the first, and then at the first, twice.
pub fn run(terms: &Terms) -> Verdict<String> {
    terms.on_sim_only(
        "a buffer of a pool is freed by its handle: there is no address to get wrong",
    )?;
    SimKernel::run(KernelConfig { spaces: 1, ..KernelConfig::default() }, |kernel| {
        let engine = kernel.engine(0);
        let base = engine.vmalloc(&Request::bytes(8 * 4096))?.addr();
        for page in 1..8 {
            let refused = engine.vfree(VirtAddr(base.0 + page * 4096));
            check(matches!(refused, Err(FreeError::Interior { .. })), || format!("{refused:?}"))?;
        }
        kernel.cpu(0).store(base, 1)?;
        let _ = engine.vfree(base)?;
        let twice = engine.vfree(base);
        check(twice.is_err(), || "it was freed twice".to_owned())?;
        empty(kernel)?;
        Ok("7 frees of inner pages and one of a freed area were refused, with the reason"
            .to_owned())
    })
}
