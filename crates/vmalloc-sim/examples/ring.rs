//! A ring buffer from a double mapping: the same frames twice, side by side, so that what crosses
//! the end is contiguous all the same. By `vmap` of scattered frames.
//!
//! `cargo run -p vmalloc-sim --example ring`

use vmalloc_core::platform::Frames as _;
use vmalloc_core::{Extent, Order, Pages, Prot, VirtAddr};
use vmalloc_sim::{KernelConfig, SimKernel};

const RING_BYTES: u64 = 2 * 4096;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let (engine, cpu) = (kernel.engine(0), kernel.cpu(0));
        // Two frames that are no neighbours, each shown at two pages.
        let take = || kernel.frames().take(Order(0));
        let (low, between, high) = (take()?, take()?, take()?);
        let frame = |start| Extent { start, len: Pages(1) };
        let once = [frame(high), frame(low)];
        let ring = engine.vmap(&[once, once].concat(), Prot::READ_WRITE)?.addr();

        let at = |offset: u64| VirtAddr(ring.0 + offset);
        cpu.write(at(RING_BYTES - 3), b"around")?;
        let mut front = [0; 3];
        cpu.read(at(0), &mut front)?;
        println!(
            "written across the end, read at the front: {:?}",
            String::from_utf8_lossy(&front)
        );

        let _ = engine.vunmap(ring)?;
        kernel.purge();
        for pfn in [low, between, high] {
            kernel.frames().give(frame(pfn));
        }
        kernel.verify()?;
        println!("{} frames in use", kernel.frames_in_use().0);
        Ok(())
    })
}
