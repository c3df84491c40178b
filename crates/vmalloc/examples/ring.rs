//! A ring buffer from a double mapping: the same frames twice, side by side, so that a record
//! which crosses the end is one copy all the same.
//!
//! `cargo run -p vmalloc --example ring`

use vmalloc::{OutOfBounds, Pool, SharedRun};

const RING_BYTES: usize = 2 * 4096;

/// A queue of bytes: both ends only ever go forward, and are taken modulo the ring.
struct Queue {
    ring: SharedRun,
    written: usize,
    read: usize,
}

impl Queue {
    fn push(&mut self, record: &[u8]) -> Result<(), OutOfBounds> {
        assert!(self.written + record.len() - self.read <= RING_BYTES, "the ring is full");
        self.ring.write_at(self.written % RING_BYTES, record)?;
        self.written += record.len();
        Ok(())
    }

    fn pop(&mut self, record: &mut [u8]) -> Result<(), OutOfBounds> {
        assert!(self.read + record.len() <= self.written, "the ring is empty");
        self.ring.read_at(self.read % RING_BYTES, record)?;
        self.read += record.len();
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::create(16 << 20)?;
    let area = pool.vzalloc(RING_BYTES)?.share()?;
    let mut queue = Queue { ring: area.ring()?, written: 0, read: 0 };

    // Up to three bytes before the end.
    let mut record = vec![b'.'; RING_BYTES - 3];
    queue.push(&record)?;
    queue.pop(&mut record)?;
    queue.push(b"around")?;

    let mut whole = [0; 6];
    queue.pop(&mut whole)?;
    assert_eq!(&whole, b"around");
    let mut front = [0; 3];
    area.read_at(0, &mut front)?;
    println!("written across the end, read at the front: {:?}", String::from_utf8_lossy(&front));

    drop(queue);
    area.free()?;
    pool.purge()?;
    println!("{} areas left", pool.verify()?.areas);
    Ok(())
}
