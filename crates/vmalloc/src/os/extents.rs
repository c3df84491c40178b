//! Which parts of a pool file hold data: asked of the file, touching nothing.
//!
//! A read through the mapping would give a hole its memory; the kernel's list of holes does not.
//! A page that is committed and was never touched counts as a hole here: the kernel zeroes it
//! with its first touch.
//!
//! Linux: `lseek` with `SEEK_DATA` and `SEEK_HOLE`.

use crate::os::file::PoolFile;
use crate::os::{Span, fail};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

impl PoolFile {
    /// The runs inside `span` that hold data, ascending. Two calls a run, about 1 µs each.
    ///
    /// # Errors
    ///
    /// What `lseek` said.
    pub(crate) fn data_within(&self, span: Span) -> Result<Vec<Span>, Errno> {
        fail::point("lseek")?;
        let end = span.start.saturating_add(span.len).min(self.bytes);
        let mut runs = Vec::new();
        let mut at = span.start;
        while at < end {
            let start = match seek(&self.fd, SeekFrom::Data(at)) {
                Ok(start) if start < end => start,
                // ENXIO: nothing but a hole up to the end of the file.
                Ok(_) | Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno),
            };
            // Somebody may have punched it meanwhile: then the run is empty, and left out.
            let stop = seek(&self.fd, SeekFrom::Hole(start))?.min(end);
            if stop > start {
                runs.push(Span::new(start, stop - start));
            }
            at = stop.max(start + 1);
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::PAGE_BYTES;
    use crate::os::fail::Plan;

    fn write(pool: &PoolFile, page: u64) {
        assert_eq!(rustix::io::pwrite(&pool.fd, &[1], page * PAGE_BYTES), Ok(1));
    }

    fn runs(pool: &PoolFile, pages: std::ops::Range<u64>) -> Vec<(u64, u64)> {
        let span = Span::new(pages.start * PAGE_BYTES, (pages.end - pages.start) * PAGE_BYTES);
        let found = pool.data_within(span).unwrap().into_iter();
        found.map(|run| (run.start / PAGE_BYTES, run.len / PAGE_BYTES)).collect()
    }

    /// Goal: exactly the pages that were written are found, cut at the ends, and looking gives no
    /// hole its memory.
    #[test]
    fn data_is_found_where_it_was_written_and_looking_adds_none() {
        let pool = PoolFile::create_memfd("extents", 64 * PAGE_BYTES).unwrap();
        assert_eq!(runs(&pool, 0..64), []);
        for page in [3, 4, 5, 9, 63] {
            write(&pool, page);
        }
        let held = pool.resident_bytes();
        assert_eq!(runs(&pool, 0..64), [(3, 3), (9, 1), (63, 1)]);
        assert_eq!(runs(&pool, 4..10), [(4, 2), (9, 1)]);
        assert_eq!(runs(&pool, 4..5), [(4, 1)]);
        assert_eq!(runs(&pool, 10..63), []);
        assert_eq!(runs(&pool, 60..1000), [(63, 1)], "past the end there is nothing");
        pool.punch(&[Span::new(4 * PAGE_BYTES, PAGE_BYTES)]).unwrap();
        assert_eq!(runs(&pool, 0..10), [(3, 1), (5, 1), (9, 1)]);
        assert_eq!(pool.resident_bytes().unwrap() + PAGE_BYTES, held.unwrap());

        let _armed = Plan::nth(1, Errno::IO.raw_os_error()).only("lseek").arm();
        assert_eq!(pool.data_within(Span::new(0, PAGE_BYTES)), Err(Errno::IO));
    }
}
