//! A buffer that grows and never copies: addresses for all it may become are reserved at once, and
//! memory is committed behind them as it fills. No byte moves, so what was lent stays where it is.
//!
//! `cargo run -p vmalloc --example growable`

use std::error::Error;
use vmalloc::{Pool, Reservation};

/// The first part; each further one doubles what there is, so a gibibyte takes 15 of them.
const FIRST_BYTES: usize = 64 << 10;

/// Bytes in a row, as in a `Vec<u8>`.
struct Growable {
    place: Reservation,
    committed: usize,
    len: usize,
}

impl Growable {
    fn with_room_for(pool: &Pool, bytes: usize) -> Result<Growable, Box<dyn Error>> {
        Ok(Growable { place: pool.reserve(bytes)?, committed: 0, len: 0 })
    }

    /// Appends `bytes`. An error leaves the buffer as it was.
    fn extend(&mut self, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        let end = self.len + bytes.len();
        while end > self.committed {
            let grown = (2 * self.committed).max(FIRST_BYTES).min(self.place.len());
            self.place.commit(self.committed..grown)?;
            self.committed = grown;
        }
        self.place.slice_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    fn as_slice(&self) -> Result<&[u8], Box<dyn Error>> {
        Ok(self.place.slice(0..self.len)?)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::create(16 << 20)?;
    let mut log = Growable::with_room_for(&pool, 1 << 30)?;
    log.extend(b"line 0\n")?;
    let before = log.as_slice()?.as_ptr();

    let mut lines = 1;
    while log.len < 4 << 20 {
        log.extend(format!("line {lines}\n").as_bytes())?;
        lines += 1;
    }
    let all = log.as_slice()?;
    assert_eq!(all.as_ptr(), before, "it never moves");
    assert_eq!(all.iter().filter(|byte| **byte == b'\n').count(), lines);
    let parts = log.place.committed().count();
    println!("{} bytes in {parts} parts, one slice, where the first byte was", all.len());

    // The pool holds no more than it may, whatever was reserved.
    let mut more = 0;
    while log.extend(&[0; 1 << 20]).is_ok() {
        more += 1;
    }
    println!("{more} MiB more, then the pool is full, and nothing is lost");
    assert!(log.as_slice()?.starts_with(b"line 0\nline 1\n"));

    drop(log);
    pool.purge()?;
    println!("{} areas left", pool.verify()?.areas);
    Ok(())
}
