//! A driver shows its buffer to a program: `remap_vmalloc_range` into a user's address space, once
//! writable and once read-only, where a write faults.
//!
//! `cargo run -p vmalloc-sim --example user_mapping`

use vmalloc_core::platform::Mapper as _;
use vmalloc_core::{PageRange, Pages, Request, Rights, VirtAddr, Vma, Vpn};
use vmalloc_sim::{Fault, KernelConfig, SimKernel};

/// Where the user lets the buffer appear: two pages to write, two to read.
const WRITABLE: PageRange = PageRange { start: Vpn(0x800_0000), len: Pages(2) };
const READ_ONLY: PageRange = PageRange { start: Vpn(0x800_0010), len: Pages(2) };

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = KernelConfig::default();
    SimKernel::run(config, |kernel| {
        let (engine, cpu) = (kernel.engine(0), kernel.cpu(0));
        // The user's process: another address space, and a CPU in user mode there.
        let space = kernel.space(1);
        space.prepare(PageRange { start: WRITABLE.start, len: Pages(64) })?;
        let user = kernel.cpu(config.cpus_per_space).as_user();

        // Zeroed, and marked as fit for users: nothing of the kernel's leaks out.
        let area = engine.vmalloc(&Request::bytes(2 * 4096).user())?;
        let writable = Vma::new(space.clone(), WRITABLE, Rights::ReadWrite);
        let read_only = Vma::new(space.clone(), READ_ONLY, Rights::Read);
        let first = engine.remap_vmalloc_range(&writable, area.addr(), 0)?;
        let second = engine.remap_vmalloc_range(&read_only, area.addr(), 0)?;

        let (to_write, to_read) = (WRITABLE.start.addr(), READ_ONLY.start.addr());
        user.store(VirtAddr(to_write.0 + 4096), 42)?;
        println!("the kernel reads {}", cpu.load(VirtAddr(area.addr().0 + 4096))?);
        println!("the other pages read {}", user.load(VirtAddr(to_read.0 + 4096))?);
        match user.store(to_read, 1) {
            Err(Fault::ReadOnly { va }) => println!("a write at {va} faults: read-only"),
            other => return Err(format!("a write to read-only pages: {other:?}").into()),
        }
        match user.load(area.addr()) {
            Err(Fault::Supervisor { .. }) => println!("the kernel's own address faults"),
            other => return Err(format!("a user at a kernel's address: {other:?}").into()),
        }

        // The driver may go first: the frames stay until the last user has let go.
        let _ = engine.vfree(area.addr())?;
        kernel.purge();
        println!("freed, and the user reads {}", user.load(VirtAddr(to_read.0 + 4096))?);
        drop(first);
        drop(second);
        kernel.verify()?;
        println!("{} frames in use", kernel.frames_in_use().0);
        Ok(())
    })
}
