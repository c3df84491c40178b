//! Reserve and fill later: a table with room for a tebibyte, in a pool of 16 MiB. Memory comes with
//! the rows that are written, and goes with them.
//!
//! `cargo run -p vmalloc --example sparse`

use vmalloc::Pool;

const ROW_BYTES: usize = 64 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::create(16 << 20)?;
    let mut table = pool.reserve(1 << 40)?;
    let row = |n: usize| n * ROW_BYTES..(n + 1) * ROW_BYTES;

    for n in [3, 4, 9_000_000] {
        table.commit(row(n))?;
        table.slice_mut(row(n))?.fill(n as u8);
    }
    // Rows that touch are one slice; a row that was never written is an error, no signal.
    let both = table.slice(row(3).start..row(4).end)?;
    assert_eq!((both[0], both[2 * ROW_BYTES - 1]), (3, 4));
    println!("row 5: {}", table.slice(row(5)).unwrap_err());
    println!("{} bytes hold {} rows", pool.info().committed_bytes, table.committed().count());

    table.decommit(row(3))?;
    drop(table);
    pool.purge()?;
    println!("{} areas left", pool.verify()?.areas);
    Ok(())
}
