//! A module that reserves much and uses little: pages without frames, filled in parts. Once with
//! frames that the module has (`VM_SPARSE`), once with the engine's own (commit and decommit).
//!
//! `cargo run -p vmalloc-sim --example sparse`

use vmalloc_core::platform::Frames as _;
use vmalloc_core::{Area, Extent, Fill, Order, PageRange, Pages, Request, VirtAddr, Vpn};
use vmalloc_sim::{Fault, KernelConfig, SimEngine, SimKernel};

/// 32 MiB of addresses, twice, on a machine with 2 MiB of memory.
const RESERVED_BYTES: u64 = 32 << 20;

/// What the module holds while it is loaded.
struct Module {
    shown: Area,
    committed: Area,
}

impl Module {
    fn init(engine: &SimEngine<'_>) -> Result<Module, Box<dyn std::error::Error>> {
        let request = Request::bytes(RESERVED_BYTES);
        let shown = engine.get_vm_area(&request, Fill::Frames)?;
        match engine.get_vm_area(&request, Fill::Commit) {
            Ok(committed) => Ok(Module { shown, committed }),
            Err(e) => {
                let _ = engine.free_vm_area(shown.id, shown.generation)?;
                Err(e.into())
            }
        }
    }

    fn exit(self, engine: &SimEngine<'_>) -> Result<(), Box<dyn std::error::Error>> {
        for area in [self.shown, self.committed] {
            let _ = engine.free_vm_area(area.id, area.generation)?;
        }
        Ok(())
    }
}

/// `len` pages of `area` from its page `first` on.
fn part(area: &Area, first: u64, len: u64) -> PageRange {
    PageRange { start: Vpn(area.pages.start.0 + first), len: Pages(len) }
}

fn at(area: &Area, page: u64) -> VirtAddr {
    VirtAddr(area.addr().0 + page * 4096)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let (engine, cpu) = (kernel.engine(0), kernel.cpu(0));
        let module = Module::init(engine)?;
        let Module { shown, committed } = &module;
        println!("init: {} frames for twice {RESERVED_BYTES} bytes", kernel.frames_in_use().0);

        // The module's own frames, somewhere in the middle.
        let mine = Extent { start: kernel.frames().take(Order(2))?, len: Pages(4) };
        engine.map_pages(shown.id, shown.generation, part(shown, 8000, 4), &[mine])?;
        cpu.store(at(shown, 8003), 3)?;
        engine.unmap_pages(shown.id, shown.generation, part(shown, 8000, 4))?;
        kernel.frames().give(mine);

        // The engine's frames: zeroed when committed, home again when decommitted.
        engine.commit(committed.id, committed.generation, part(committed, 100, 8))?;
        println!("page 107 reads {}", cpu.load(at(committed, 107))?);
        println!("committed: {} frames", kernel.frames_in_use().0);
        match cpu.load(at(committed, 108)) {
            Err(Fault::NotPresent { .. }) => println!("page 108 faults: nothing is there"),
            other => return Err(format!("a page without a frame: {other:?}").into()),
        }
        engine.decommit(committed.id, committed.generation, part(committed, 100, 6))?;
        println!("decommitted: {} frames", kernel.frames_in_use().0);

        module.exit(engine)?;
        kernel.purge();
        kernel.verify()?;
        println!("exit: {} areas left, {} frames", engine.stats().areas, kernel.frames_in_use().0);
        Ok(())
    })
}
