//! A loadable module's life, as introductions to vmalloc show it: `init` allocates a page, or
//! says `ENOMEM`; `exit` frees it.
//!
//! `cargo run -p vmalloc --example module`

use std::fmt;
use vmalloc::{AllocError, Buf, Pool};

const BYTES: usize = 4096;

/// What the module holds while it is loaded.
struct Module {
    buffer: Buf,
}

/// Why the module did not load. Nothing was taken.
#[derive(Debug)]
struct InitError(AllocError);

impl Module {
    /// Linux: `module_init`, with `vmalloc(4096)` in it.
    fn init(pool: &Pool) -> Result<Module, InitError> {
        let mut buffer = pool.vmalloc(BYTES).map_err(InitError)?;
        buffer[..5].copy_from_slice(b"hello");
        Ok(Module { buffer })
    }

    /// Linux: `module_exit`, with the `vfree`.
    fn exit(self) {
        drop(self.buffer);
    }
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ENOMEM: {}", self.0)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::create(16 * BYTES as u64)?;
    let module = Module::init(&pool).map_err(|e| e.to_string())?;
    println!("init: {BYTES} bytes at {:p}", module.buffer.as_ptr());
    module.exit();

    // A pool that is full: the module does not load, and leaves nothing behind.
    let mut all = Vec::new();
    while let Ok(buffer) = pool.vmalloc(BYTES) {
        all.push(buffer);
    }
    match Module::init(&pool) {
        Ok(_) => return Err("the pool is full".into()),
        Err(e) => println!("init: {e}"),
    }
    drop(all);
    let module = Module::init(&pool).map_err(|e| e.to_string())?;
    module.exit();
    println!("exit: {} areas left", pool.verify()?.areas);
    Ok(())
}
