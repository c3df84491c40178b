//! A loadable module's life on the simulated machine: `init` allocates a page, or says `ENOMEM`;
//! `exit` frees it. The same on a pool: the example `module` of the crate `vmalloc`.
//!
//! `cargo run -p vmalloc-sim --example module_sim`

use std::fmt;
use vmalloc_core::{AllocError, Area, FreeError, Request};
use vmalloc_sim::{KernelConfig, SimEngine, SimKernel};

const BYTES: u64 = 4096;

/// What the module holds while it is loaded.
struct Module {
    area: Area,
}

/// Why the module did not load. Nothing was taken.
#[derive(Debug)]
struct InitError(AllocError);

impl Module {
    /// Linux: `module_init`, with `vmalloc(4096)` in it.
    fn init(engine: &SimEngine<'_>) -> Result<Module, InitError> {
        engine.vmalloc(&Request::bytes(BYTES)).map(|area| Module { area }).map_err(InitError)
    }

    /// Linux: `module_exit`, with the `vfree`.
    fn exit(self, engine: &SimEngine<'_>) -> Result<(), FreeError> {
        engine.vfree(self.area.addr()).map(drop)
    }
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ENOMEM: {}", self.0)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    SimKernel::run(KernelConfig::default(), |kernel| {
        let engine = kernel.engine(0);
        let module = Module::init(engine).map_err(|e| e.to_string())?;
        kernel.cpu(0).store(module.area.addr(), 7)?;
        println!("init: {BYTES} bytes at {}", module.area.addr());
        module.exit(engine)?;

        // A machine that is full: the module does not load, and leaves nothing behind.
        let mut all = Vec::new();
        while let Ok(area) = engine.vmalloc(&Request::bytes(BYTES)) {
            all.push(area);
        }
        match Module::init(engine) {
            Ok(_) => return Err("the machine is full".into()),
            Err(e) => println!("init: {e}"),
        }
        for area in all {
            let _ = engine.vfree(area.addr())?;
        }
        Module::init(engine).map_err(|e| e.to_string())?.exit(engine)?;
        kernel.purge();
        kernel.verify()?;
        println!("exit: {} areas left", engine.stats().areas);
        Ok(())
    })
}
