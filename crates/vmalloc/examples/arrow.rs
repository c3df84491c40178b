//! Arrow buffers over a pool: a column that one process fills is, in another, an Arrow array's
//! buffer over the same frames. No copy and no `unsafe`: a `Frozen` is bytes with an owner, and
//! that is what Arrow asks for. The area stays attached for as long as a buffer shows it.
//!
//! `cargo run -p vmalloc --example arrow`

use arrow_buffer::{Buffer, ScalarBuffer};
use bytes::Bytes;
use std::error::Error;
use std::process::Command;
use vmalloc::{Frozen, Pool};

const ROWS: usize = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1..) {
        Some([path, token]) => read(path, token),
        _ => fill(),
    }
}

/// The column in a frozen area: pages are aligned for every type of Arrow's.
fn column(area: Frozen, rows: usize) -> ScalarBuffer<i64> {
    ScalarBuffer::new(Buffer::from(Bytes::from_owner(area)), 0, rows)
}

fn fill() -> Result<(), Box<dyn Error>> {
    let pool = Pool::create(32 << 20)?;
    let mut area = pool.vmalloc(ROWS * size_of::<i64>())?;
    for (bytes, row) in area.chunks_exact_mut(size_of::<i64>()).zip(0..) {
        bytes.copy_from_slice(&i64::to_ne_bytes(row));
    }
    let area = area.freeze()?;
    let token = area.token();

    let mut reader = Command::new(std::env::current_exe()?);
    let status = reader.arg(pool.share_path()).arg(token.to_string()).status()?;
    assert!(status.success());

    let here = column(area, ROWS);
    pool.free(&token)?; // nobody attaches any more; the buffer keeps what it shows
    println!("here, after the free: {} rows, the last {}", here.len(), here[ROWS - 1]);
    drop(here);
    pool.purge()?;
    println!("{} areas left", pool.verify()?.areas);
    Ok(())
}

fn read(path: &str, token: &str) -> Result<(), Box<dyn Error>> {
    let area = Pool::open(path)?.attach(&token.parse()?)?;
    let first_byte = area.as_ptr();
    let rows = column(area, ROWS);
    assert_eq!(rows.inner().as_ptr(), first_byte, "the frames of the pool, not a copy");
    let part = rows.slice(1000, 10); // shares them, too
    println!("there: sum {}, rows 1000 to 1009: {}", sum(&rows), sum(&part));
    Ok(())
}

fn sum(rows: &[i64]) -> i64 {
    rows.iter().sum()
}
