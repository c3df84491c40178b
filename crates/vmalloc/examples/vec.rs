//! A `Vec` in a pool: whatever writes into a `Vec<u8, A>` writes into memory that is then frozen and
//! shared, with no copy at the end. It grows where it lies, as `Buf::resize` does.
//!
//! `cargo run -p vmalloc --features allocator-api2 --example vec`

use allocator_api2::vec::Vec;
use std::error::Error;
use std::process::Command;
use vmalloc::{InPool, Pool};

fn main() -> Result<(), Box<dyn Error>> {
    let args: std::vec::Vec<String> = std::env::args().collect();
    match args.get(1..) {
        Some([path, token]) => read(path, token),
        _ => write(),
    }
}

fn write() -> Result<(), Box<dyn Error>> {
    let pool = Pool::create(64 << 20)?;

    // Any element type, as long as the vector stays in this process.
    let mut squares: Vec<u64, InPool> = Vec::new_in(InPool::new(&pool));
    let mut moves = 0;
    let mut at = squares.as_ptr();
    for n in 0..1 << 20 {
        squares.push(n * n);
        if squares.as_ptr() != at {
            (moves, at) = (moves + 1, squares.as_ptr());
        }
    }
    println!("{} squares, {} bytes, moved {moves} times", squares.len(), 8 * squares.len());
    drop(squares);

    // Bytes leave as a buffer, the very same memory, and so to another process.
    let mut text = Vec::new_in(InPool::new(&pool));
    for n in 0..100_000 {
        text.extend_from_slice(format!("{n}\n").as_bytes());
    }
    let frozen = InPool::into_buf(text)?.freeze()?;
    let mut child = Command::new(std::env::current_exe()?);
    let status = child.arg(pool.share_path()).arg(frozen.token().to_string()).status()?;
    assert!(status.success());

    frozen.free()?;
    pool.purge()?;
    println!("{} areas left", pool.verify()?.areas);
    Ok(())
}

fn read(path: &str, token: &str) -> Result<(), Box<dyn Error>> {
    let text = Pool::open(path)?.attach(&token.parse()?)?;
    let last = str::from_utf8(&text)?.lines().next_back();
    println!("the other process: {} bytes, the last line is {last:?}", text.len());
    Ok(())
}
