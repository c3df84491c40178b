//! What a shootdown is for: the same steps with it, and without.
//!
//! ```text
//!   process 1 reads its area ─ the kernel frees and purges it ─ process 2 gets the frames and
//!   writes a secret ─ process 1 reads its old address:  with the shootdown a fault,
//!                                                       without it the secret
//! ```
//!
//! Only a simulated machine can leave it out: in the engine, frames go home for a proof that the
//! shootdown took place, and code without it does not compile.

use super::tell::{Tell, check, told};
use crate::failure::Failure;
use crate::show::count;
use vmalloc_core::{Frames, Pages, Request, VirtAddr};
use vmalloc_sim::{CPUS_PER_SPACE, Fault, KernelConfig, SimKernel};

const OLD: u64 = 0x1111_1111;
const SECRET: u64 = 0x5ec2_e700;

/// The address and what came of reading it after the free.
struct Outcome {
    at: VirtAddr,
    read: Result<u64, Fault>,
    stale_hits: u64,
    told: Option<String>,
}

/// Tells both runs; the stale hits of the one without.
pub fn play(tell: &mut Tell) -> Result<u64, Failure> {
    tell.step("What the shootdown is for")?;
    tell.say(
        "Process 1 reads its area, which is then freed and purged. Process 2 gets the frames and \
         writes a secret. Process 1 reads its old address again:",
    )?;
    let with = run(false)?;
    check(
        with.read == Err(Fault::NotPresent { va: with.at }) && with.stale_hits == 0,
        format_args!("after a shootdown: {:?}, {} stale hits", with.read, with.stale_hits),
    )?;
    tell.say(format_args!("- with the shootdown: a fault, at {}.", with.at))?;
    let without = run(true)?;
    check(
        without.read == Ok(SECRET) && without.stale_hits > 0,
        format_args!("without a shootdown: {:?}, {} stale hits", without.read, without.stale_hits),
    )?;
    tell.say(format_args!(
        "- with the shootdown left out: {SECRET:#x}, the secret of another process. {}: {}.",
        count(without.stale_hits, "stale hit"),
        without.told.unwrap_or_default()
    ))?;
    Ok(without.stale_hits)
}

fn run(omit_shootdown: bool) -> Result<Outcome, Failure> {
    let config = KernelConfig { frames: Pages(64), spaces: 3, ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let hardware = kernel.hardware();
        let (one, two) = (kernel.cpu(CPUS_PER_SPACE), kernel.cpu(2 * CPUS_PER_SPACE));
        let area = told(kernel.engine(1).vmalloc(&Request::bytes(4096)), "an area")?;
        let at = area.addr();
        check(one.store(at, OLD).is_ok() && one.load(at) == Ok(OLD), "process 1 lost its word")?;

        hardware.omit_shootdown(omit_shootdown);
        let _ = told(kernel.engine(1).vfree(at), "freeing")?;
        told(kernel.engine(1).purge(), "purging")?;
        hardware.omit_shootdown(false);

        // All frames, so process 1's is among them.
        let all = Request::bytes(kernel.frames().free().bytes());
        let next = told(kernel.engine(2).vmalloc(&all), "the next owner's area")?;
        for page in 0..next.pages.len.0 {
            let stored = two.store(VirtAddr(next.addr().0 + (page << 12)), SECRET);
            check(stored.is_ok(), format_args!("{stored:?}"))?;
        }
        let read = one.load(at);
        let told = hardware.first_stale_hit().map(|hit| hit.to_string());
        Ok(Outcome { at, read, stale_hits: hardware.stale_hits(), told })
    })
}
