//! An area grows where it lies if nobody has the pages behind it, and a shrink gives frames back.
//!
//! Linux's `vrealloc` always moves to grow.

use super::super::alone::{Terms, check};
use super::super::subject::Verdict;
use super::empty;
use crate::args::Machine;
use vmalloc::Pool;
use vmalloc_core::{Pages, Request};
use vmalloc_sim::{KernelConfig, SimKernel};

/// The sizes in bytes: first, grown, shrunk.
const SIZES: [u64; 3] = [4 << 20, 8 << 20, 1 << 20];

/// Resizes, and looks at the address, the contents and the frames.
pub fn run(terms: &Terms) -> Verdict<String> {
    match terms.machine {
        Machine::Linux => on_linux(),
        Machine::Sim => on_sim(),
    }
}

fn on_linux() -> Verdict<String> {
    let pool = Pool::options().members(1).create(16 << 20)?;
    let mut buf = pool.alloc(&Request::bytes(SIZES[0]))?;
    buf[0] = 7;
    let at = buf.as_ptr().addr();
    for bytes in &SIZES[1..] {
        buf.resize(*bytes as usize)?;
        let committed = pool.info().committed_bytes;
        check(buf.as_ptr().addr() == at && buf[0] == 7, || "it moved".to_owned())?;
        check(committed == *bytes, || format!("{committed} bytes instead of {bytes}"))?;
    }
    Ok(saw())
}

fn on_sim() -> Verdict<String> {
    let config = KernelConfig { frames: Pages(4096), spaces: 1, ..KernelConfig::default() };
    SimKernel::run(config, |kernel| {
        let (engine, cpu) = (kernel.engine(0), kernel.cpu(0));
        let mut area = engine.vmalloc(&Request::bytes(SIZES[0]))?;
        let at = area.addr();
        cpu.store(at, 7)?;
        for bytes in &SIZES[1..] {
            area = engine.resize(area.id, area.generation, *bytes, true)?;
            let frames = kernel.backings().owned_frames();
            check(area.addr() == at && cpu.load(at)? == 7, || "it moved".to_owned())?;
            check(frames.bytes() == *bytes, || format!("{frames} instead of {bytes} bytes"))?;
        }
        let _ = engine.vfree(at)?;
        empty(kernel)?;
        Ok(saw())
    })
}

fn saw() -> String {
    "4 MiB grew to 8 and shrank to 1 at one address; the frames of 7 MiB came home".to_owned()
}
