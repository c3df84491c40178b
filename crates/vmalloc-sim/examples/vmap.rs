//! `vmap`: frames that the caller has, scattered and in any order, shown side by side.
//!
//! `cargo run -p vmalloc-sim --example vmap`

use vmalloc_core::platform::Frames as _;
use vmalloc_core::{Extent, Order, Pages, Prot, VirtAddr};
use vmalloc_sim::{KernelConfig, SimKernel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let (engine, cpu) = (kernel.engine(0), kernel.cpu(0));
        let mut mine = Vec::new();
        for _ in 0..8 {
            mine.push(Extent { start: kernel.frames().take(Order(0))?, len: Pages(1) });
        }
        // Backwards, so that no two are neighbours in the order given.
        mine.reverse();
        let area = engine.vmap(&mine, Prot::READ_WRITE)?;
        cpu.write(VirtAddr(area.addr().0 + 4093), b"across")?;
        let mut tail = [0; 3];
        kernel.hardware().ram().read(mine[1].start, 0, &mut tail).ok_or("no such frame")?;
        println!(
            "{} at {}, {} runs; frame {} begins with {:?}",
            area.pages.len,
            area.addr(),
            mine.len(),
            mine[1].start,
            String::from_utf8_lossy(&tail)
        );

        // The frames are the caller's: they may go once no TLB shows them.
        let _ = engine.vunmap(area.addr())?;
        kernel.purge();
        mine.iter().for_each(|&run| kernel.frames().give(run));
        kernel.verify()?;
        println!("{} frames in use", kernel.frames_in_use().0);
        Ok(())
    })
}
