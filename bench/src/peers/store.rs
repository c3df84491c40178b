//! Contenders of this program that hold many blocks at once, and what that costs their process.

use crate::machine::status_bytes;
use crate::raw::map_shared;
use memmap2::MmapMut;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;
use vmalloc::{Buf, Pool};

/// Takes blocks; a block is given back when it is dropped.
pub trait Store {
    type Block;
    /// A block with a byte written in every page, if there is room.
    fn touched(&mut self, bytes: usize) -> Option<Self::Block>;
}

/// What a judge tells a contender of a fragmentation test: the first line of it, then the sizes,
/// then which of them are freed.
pub struct Plan {
    pub pool_bytes: usize,
    pub wanted_bytes: usize,
    pub sizes: Vec<usize>,
    pub freed: Vec<usize>,
}

impl Plan {
    /// As every contender reads it.
    pub fn text(&self) -> String {
        let Plan { pool_bytes, wanted_bytes, sizes, freed } = self;
        let mut text = format!("{pool_bytes} {wanted_bytes} {} {}\n", sizes.len(), freed.len());
        for number in sizes.iter().chain(freed) {
            text += &format!("{number}\n");
        }
        text
    }

    /// From standard input.
    pub fn read() -> Plan {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).expect("a plan");
        let mut numbers = text.split_whitespace().map(|word| word.parse().expect("a number"));
        let mut next = || numbers.next().expect("a number more");
        let (pool_bytes, wanted_bytes, blocks, freed) = (next(), next(), next(), next());
        let sizes = (0..blocks).map(|_| next()).collect();
        let freed = (0..freed).map(|_| next()).collect();
        Plan { pool_bytes, wanted_bytes, sizes, freed }
    }
}

/// Plays a plan, and prints what came of it.
pub fn frag<S: Store>(plan: &Plan, open: impl FnOnce(&Plan) -> S) {
    let (address, files) = (status_bytes("VmSize"), descriptors());
    let mut store = open(plan);
    let mut blocks: Vec<Option<S::Block>> =
        plan.sizes.iter().map(|&size| store.touched(size)).collect();
    for &at in &plan.freed {
        blocks[at] = None;
    }
    let live = plan.sizes.iter().zip(&blocks).filter(|(_, block)| block.is_some());
    let held: usize = live.map(|(size, _)| size).sum();
    let free = plan.pool_bytes - held;
    let wanted = plan.wanted_bytes.min(free);
    let start = Instant::now();
    let block = store.touched(wanted);
    let ns = start.elapsed().as_nanos();
    let served = usize::from(block.is_some());
    let (address, memory) = (status_bytes("VmSize") - address, status_bytes("RssShmem"));
    let (in_use, files) = (held + served * wanted, descriptors().saturating_sub(files));
    drop(block);
    let largest = largest(&mut store, free);
    println!(
        "served={served} largest={largest} free={free} address={address} memory={memory} \
         in_use={in_use} files={files} ns={ns}"
    );
}

/// The largest block of at most `free` bytes: all of it, or by halving.
fn largest<S: Store>(store: &mut S, free: usize) -> usize {
    if store.touched(free).is_some() {
        return free;
    }
    let (mut low, mut high) = (0, free / 4096);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match store.touched(middle * 4096) {
            Some(_) => low = middle,
            None => high = middle,
        }
    }
    low * 4096
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

impl Store for Pool {
    type Block = Buf;

    fn touched(&mut self, bytes: usize) -> Option<Buf> {
        let mut buf = self.vmalloc(bytes).ok()?;
        buf.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        Some(buf)
    }
}

/// A memfd a block, within a limit that this program keeps: the kernel has none.
pub struct Memfds;

/// A mapping, and its file as long as it must be handed over.
pub struct Memfd {
    // Held, as who fills a buffer does.
    _map: MmapMut,
    pub file: OwnedFd,
}

impl Store for Memfds {
    type Block = Memfd;

    fn touched(&mut self, bytes: usize) -> Option<Memfd> {
        let file = memfd_create("vmalloc-bench", MemfdFlags::CLOEXEC).ok()?;
        ftruncate(&file, bytes as u64).ok()?;
        let mut map = map_shared(file.as_fd(), bytes);
        map.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        Some(Memfd { _map: map, file })
    }
}
