//! Where an area's bytes are, for tools that show it: in the file, and in the members' addresses.
//!
//! Neighbours: [`crate::info`] has the totals and the list of areas. Nothing here writes, and
//! nothing touches a page: a read of a hole would give it memory.

use crate::info::Onlooker;
use std::ops::Range;
use vmalloc_core::{Area, PAGE_SIZE, PageRange, Pages, Vpn};

/// A run of an area's pages whose bytes are neighbours in the pool's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileRun {
    /// The pages of the window.
    pub pages: PageRange,
    /// The bytes of the file: what a member's line in `/proc/PID/maps` counts from.
    pub bytes: Range<u64>,
}

impl Onlooker {
    /// The runs of an area's pages that hold data, ascending. A page that is committed and was
    /// never touched holds none yet. Of a framed pool: [`Onlooker::file_runs`], for frames are
    /// always there. Linux: `SEEK_DATA`.
    ///
    /// # Errors
    ///
    /// What the file said.
    pub fn extents_of(&self, area: &Area) -> std::io::Result<Vec<FileRun>> {
        if self.ground.framed().is_some() {
            return Ok(self.file_runs(area));
        }
        let span = self.ground.span(area.pages);
        let page = PAGE_SIZE as u64;
        let first = |start: u64| (start - span.start) / page;
        let runs = self.ground.mapping.file().data_within(span)?;
        let extent = |run: crate::os::Span| {
            let start = Vpn(area.pages.start.0 + first(run.start));
            let pages = PageRange { start, len: Pages(run.len.div_ceil(page)) };
            FileRun { pages, bytes: run.start..run.start + pages.len.bytes() }
        };
        Ok(runs.into_iter().map(extent).collect())
    }

    /// Where in the pool's file an area lies, in the order of its pages: in one run, with data or
    /// without. Of a framed pool: a run for each run of frames, without pages that have none.
    #[must_use]
    pub fn file_runs(&self, area: &Area) -> Vec<FileRun> {
        let Some(frames) = self.ground.framed() else {
            let span = self.ground.span(area.pages);
            return vec![FileRun { pages: area.pages, bytes: span.start..span.start + span.len }];
        };
        let run = |pages: PageRange| {
            // One whose frame went home since lies nowhere.
            let start = frames.frame_of(pages.start.0)? * PAGE_SIZE as u64;
            Some(FileRun { pages, bytes: start..start + pages.len.bytes() })
        };
        frames.runs_of(area.pages).into_iter().filter_map(run).collect()
    }

    /// The pool's file: device and inode, as in `stat` and `/proc/PID/maps`.
    #[must_use]
    pub fn file_id(&self) -> (u64, u64) {
        let id = self.ground.mapping.file().id();
        (id.dev, id.ino)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Onlooker, Pool};
    use std::os::unix::fs::FileExt;

    /// Goal: of an area whose frames are no neighbours each page is told, with the place in the file
    /// where its bytes are.
    /// Method: every second frame is taken; each page of a block holds its number.
    #[test]
    fn each_run_of_a_framed_area_is_told_with_its_place_in_the_file() {
        let pool = Pool::options().framed().create(1 << 20).unwrap();
        let pages: Vec<_> = (0..256).map(|_| pool.vmalloc(4096).unwrap()).collect();
        let (kept, freed): (Vec<_>, Vec<_>) =
            pages.into_iter().enumerate().partition(|(i, _)| i % 2 == 0);
        drop(freed);
        pool.purge().unwrap();
        let mut block = pool.vmalloc(32 * 4096).unwrap();
        block.chunks_mut(4096).zip(1..).for_each(|(page, number)| page.fill(number));

        let onlooker = Onlooker::open(pool.share_path()).unwrap();
        let areas = onlooker.areas();
        let area = areas.iter().find(|area| area.bytes == 32 * 4096).unwrap();
        let runs = onlooker.file_runs(area);
        assert_eq!(runs.len(), 32, "{runs:?}");
        assert_eq!(onlooker.extents_of(area).unwrap(), runs);
        let file = std::fs::File::open(pool.share_path()).unwrap();
        for (number, run) in (1..).zip(&runs) {
            assert_eq!(run.pages.start.0, area.pages.start.0 + number - 1);
            assert_eq!((run.pages.len.0, run.bytes.end - run.bytes.start), (1, 4096));
            let mut bytes = [0; 4096];
            file.read_exact_at(&mut bytes, run.bytes.start).unwrap();
            assert!(bytes.iter().all(|&byte| u64::from(byte) == number), "page {number}");
        }
        drop((kept, block));
    }
}
