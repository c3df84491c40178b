//! Objects of which each CPU has a copy, over vmalloc. Linux: `pcpu_alloc_test`.
//!
//! ```text
//!   chunk = one area:  [ unit of CPU 0 | unit of CPU 1 ]     an object has the same offset in each
//! ```
//!
//! First fit over a bit for each 64 bytes of a unit; a chunk that has become empty is freed. Each CPU
//! writes its own copy. Linux: `mm/percpu.c`, which takes its chunks from the same window.

use crate::arch;
use crate::machine::KernelEngine;
use crate::smp;
use alloc::vec::Vec;
use vmalloc_core::{Area, Request};
use vmalloc_sim::Random;

/// Linux: 35,000.
const OBJECTS: usize = 400;
/// Linux: `PCPU_MIN_UNIT_SIZE`.
const UNIT_BYTES: u64 = 32 << 10;
const GRAIN_BYTES: u64 = 64;
const GRAINS: usize = (UNIT_BYTES / GRAIN_BYTES) as usize;

struct Chunk {
    area: Area,
    used: [bool; GRAINS],
}

/// An object: its place in each unit.
struct Object {
    chunk: usize,
    first: usize,
    grains: usize,
}

/// Goal: the copies are zero at first, and each CPU's own. Method: sizes of 1 to 1,024 bytes,
/// alignments of 2 to 2,048, as in Linux; the CPUs write, then this one looks at both copies.
pub fn run(engine: &KernelEngine<'_>, random: &mut Random) {
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut objects = Vec::new();
    for index in 0..OBJECTS as u64 {
        let bytes = 1 + random.below(1024);
        let align = 1 << (1 + random.below(11));
        let object = take(engine, &mut chunks, bytes, align);
        for cpu in 0..2 {
            let at = address(&chunks, &object, cpu);
            assert!(at.is_multiple_of(align), "{at:#x}: no multiple of {align}");
            assert_eq!(arch::load(at), Ok(0), "object {index}: not zero");
        }
        arch::store(address(&chunks, &object, 0), index << 1).expect("mapped");
        smp::store_there(address(&chunks, &object, 1), index << 1 | 1).expect("mapped");
        objects.push(object);
    }
    assert!(chunks.len() > 1, "all in one chunk");
    for (index, object) in objects.iter().enumerate() {
        for cpu in 0..2 {
            let now = arch::load(address(&chunks, object, cpu));
            assert_eq!(now, Ok((index as u64) << 1 | cpu), "object {index} of CPU {cpu}");
        }
    }
    for object in objects {
        let chunk = &mut chunks[object.chunk];
        chunk.used[object.first..object.first + object.grains].fill(false);
        if !chunk.used.contains(&true) {
            let _ = engine.vfree(chunk.area.addr()).expect("live");
        }
    }
}

fn take(engine: &KernelEngine<'_>, chunks: &mut Vec<Chunk>, bytes: u64, align: u64) -> Object {
    let grains = bytes.div_ceil(GRAIN_BYTES) as usize;
    let step = align.div_ceil(GRAIN_BYTES) as usize;
    let fits = |chunk: &Chunk| {
        let mut firsts = (0..=GRAINS - grains).step_by(step);
        firsts.find(|&first| !chunk.used[first..first + grains].contains(&true))
    };
    let here = chunks.iter().enumerate().find_map(|(i, chunk)| Some((i, fits(chunk)?)));
    let (chunk, first) = here.unwrap_or_else(|| {
        let area = engine.vzalloc(&Request::bytes(2 * UNIT_BYTES)).expect("room");
        chunks.push(Chunk { area, used: [false; GRAINS] });
        (chunks.len() - 1, 0)
    });
    chunks[chunk].used[first..first + grains].fill(true);
    Object { chunk, first, grains }
}

fn address(chunks: &[Chunk], object: &Object, cpu: u64) -> u64 {
    let unit = chunks[object.chunk].area.addr().0 + cpu * UNIT_BYTES;
    unit + object.first as u64 * GRAIN_BYTES
}
