//! Per-CPU objects over vmalloc, as `pcpu_alloc_test` needs them: one offset, a copy for each CPU.
//!
//! ```text
//!   chunk = one area:  [ unit of CPU 0 | unit of CPU 1 | … ]     an object has the same offset
//!                        ··██····██···   ··██····██···           in each unit
//! ```
//!
//! First fit over a bit for each 16 bytes of a unit, in the newest chunks; a chunk that has become empty is freed.
//! Linux: `mm/percpu.c`, which takes its chunks from the same window.

use super::subject::{Mem, Subject, Verdict};
use vmalloc_core::Request;

/// Linux: `PCPU_MIN_UNIT_SIZE`.
const UNIT_BYTES: usize = 32 << 10;
const GRAIN_BYTES: usize = 16;
const GRAINS: usize = UNIT_BYTES / GRAIN_BYTES;
/// So many of the newest chunks are looked at before a new one is made.
const CHUNKS_TRIED: usize = 8;

/// The allocator of one worker.
pub struct PerCpu<S: Subject> {
    subject: S,
    chunks: Vec<Option<Chunk<S::Mem>>>,
}

struct Chunk<M> {
    mem: M,
    used: [u64; GRAINS / 64],
    objects: usize,
}

/// An object: where it is in each unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Object {
    chunk: usize,
    first: usize,
    grains: usize,
}

impl<S: Subject> PerCpu<S> {
    pub fn new(subject: S) -> PerCpu<S> {
        PerCpu { subject, chunks: Vec::new() }
    }

    /// An object of `bytes` zeroed bytes for each CPU. Linux: `__alloc_percpu`.
    pub fn alloc(&mut self, bytes: usize, align_bytes: usize) -> Verdict<Object> {
        let grains = bytes.div_ceil(GRAIN_BYTES);
        let align = align_bytes.div_ceil(GRAIN_BYTES);
        let newest = self.chunks.iter_mut().enumerate().rev().take(CHUNKS_TRIED);
        let here = newest.filter_map(|(index, chunk)| Some((index, chunk.as_mut()?)));
        let here = here.rev().find_map(|(index, chunk)| {
            let first = chunk.take(grains, align)?;
            Some(Object { chunk: index, first, grains })
        });
        let object = match here {
            Some(object) => object,
            None => {
                let chunk = self.add_chunk()?;
                let first = self.chunk(chunk).take(grains, align);
                let first = first.ok_or("an object that no chunk can hold")?;
                Object { chunk, first, grains }
            }
        };
        let zeros = vec![0; bytes];
        for at in self.places(object) {
            self.chunk(object.chunk).mem.write(at, &zeros)?;
        }
        Ok(object)
    }

    /// Linux: `free_percpu`.
    pub fn free(&mut self, object: Object) {
        let chunk = self.chunk(object.chunk);
        chunk.mark(object.first, object.grains, false);
        chunk.objects -= 1;
        if chunk.objects == 0 {
            self.chunks[object.chunk] = None;
        }
    }

    /// Where the object begins in the area of its chunk, a place a CPU.
    fn places(&self, object: Object) -> impl Iterator<Item = usize> + use<S> {
        let units = self.subject.cpus() as usize;
        (0..units).map(move |unit| unit * UNIT_BYTES + object.first * GRAIN_BYTES)
    }

    fn chunk(&mut self, index: usize) -> &mut Chunk<S::Mem> {
        self.chunks[index].as_mut().expect("a chunk lives while an object of it does")
    }

    fn add_chunk(&mut self) -> Verdict<usize> {
        let bytes = u64::from(self.subject.cpus()) * UNIT_BYTES as u64;
        let mem = self.subject.alloc(&Request::bytes(bytes))?;
        let used = [0; GRAINS / 64];
        let chunk = Some(Chunk { mem, used, objects: 0 });
        if let Some(index) = self.chunks.iter().position(Option::is_none) {
            self.chunks[index] = chunk;
            return Ok(index);
        }
        self.chunks.push(chunk);
        Ok(self.chunks.len() - 1)
    }
}

impl<M> Chunk<M> {
    fn take(&mut self, grains: usize, align: usize) -> Option<usize> {
        let first = self.first_fit(grains, align)?;
        self.mark(first, grains, true);
        self.objects += 1;
        Some(first)
    }

    fn first_fit(&self, grains: usize, align: usize) -> Option<usize> {
        let mut first = 0;
        while first + grains <= GRAINS {
            match (first..first + grains).rev().find(|&at| self.is_used(at)) {
                None => return Some(first),
                Some(taken) => first = (taken + 1).next_multiple_of(align),
            }
        }
        None
    }

    fn is_used(&self, at: usize) -> bool {
        self.used[at / 64] >> (at % 64) & 1 == 1
    }

    fn mark(&mut self, first: usize, grains: usize, used: bool) {
        for at in first..first + grains {
            let bit = 1 << (at % 64);
            if used {
                self.used[at / 64] |= bit;
            } else {
                self.used[at / 64] &= !bit;
            }
        }
    }
}
