//! Who hands out blocks.

use crate::raw::{GlobalBlock, GlobalHeap};
use memmap2::MmapMut;
use vmalloc::{Buf, Pool};

/// Hands out blocks of memory.
pub trait Heap: Send + Sync {
    /// What it hands out; freed on drop.
    type Block: Block;
    /// A block of so many bytes; ends the program if there is none.
    fn take(&self, bytes: usize) -> Self::Block;
}

/// A block of memory.
pub trait Block: Send {
    /// Writes one byte in every `stride`, from the first on.
    fn touch(&mut self, stride: usize);
}

/// Meets every heap, each with its own type: no call through a pointer on the measured path.
pub trait Visitor {
    /// Meets one.
    fn visit<H: Heap + 'static>(&mut self, name: &'static str, heap: H);
}

/// Has the visitor meet ours and then the peers that are wanted.
pub fn all(visitor: &mut impl Visitor, wants: fn(&str) -> bool) {
    if wants("ours") {
        visitor.visit("ours", Ours::new(false));
    }
    if wants("ours, cold") {
        visitor.visit("ours, cold", Ours::new(true));
    }
    if wants("mmap") {
        visitor.visit("mmap", Mmap);
    }
    if wants("glibc") {
        visitor.visit("glibc", GlobalHeap(&std::alloc::System));
    }
    #[cfg(feature = "mimalloc")]
    if wants("mimalloc") {
        visitor.visit("mimalloc", GlobalHeap(&mimalloc::MiMalloc));
    }
    #[cfg(feature = "jemalloc")]
    if wants("jemalloc") {
        visitor.visit("jemalloc", GlobalHeap(&tikv_jemallocator::Jemalloc));
    }
    #[cfg(feature = "snmalloc")]
    if wants("snmalloc") {
        visitor.visit("snmalloc", GlobalHeap(&snmalloc_rs::SnMalloc));
    }
}

/// A pool, in this process alone.
struct Ours {
    pool: Pool,
    is_cold: bool,
}

impl Ours {
    fn new(is_cold: bool) -> Ours {
        let pool = Pool::create(4 << 30).expect("a pool: only what is used is taken");
        Ours { pool, is_cold }
    }
}

impl Heap for Ours {
    type Block = Buf;

    fn take(&self, bytes: usize) -> Buf {
        if self.is_cold {
            self.pool.purge().expect("a purge");
        }
        self.pool.vmalloc(bytes).expect("a pool with room")
    }
}

impl Block for Buf {
    fn touch(&mut self, stride: usize) {
        self.iter_mut().step_by(stride).for_each(|byte| *byte = 1);
    }
}

/// A mapping a block.
struct Mmap;

impl Heap for Mmap {
    type Block = MmapMut;

    fn take(&self, bytes: usize) -> MmapMut {
        MmapMut::map_anon(bytes).expect("a mapping")
    }
}

impl Block for MmapMut {
    fn touch(&mut self, stride: usize) {
        self.iter_mut().step_by(stride).for_each(|byte| *byte = 1);
    }
}

impl Heap for GlobalHeap {
    type Block = GlobalBlock;

    fn take(&self, bytes: usize) -> GlobalBlock {
        GlobalHeap::take(self, bytes)
    }
}

impl Block for GlobalBlock {
    fn touch(&mut self, stride: usize) {
        self.bytes().iter_mut().step_by(stride).for_each(|byte| {
            byte.write(1);
        });
    }
}
