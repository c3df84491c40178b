//! Where an area's bytes are, for tools that show it: in the file, and in the members' addresses.
//!
//! Neighbours: [`crate::info`] has the totals and the list of areas. Nothing here writes, and
//! nothing touches a page: a read of a hole would give it memory.

use crate::info::Onlooker;
use std::ops::Range;
use vmalloc_core::{Area, PAGE_SIZE, PageRange, Pages, Vpn};

impl Onlooker {
    /// The runs of an area's pages that hold data, as pages of the window, ascending. A page that
    /// is committed and was never touched holds none yet. Of a framed pool: a run for each run of
    /// frames. Linux: `SEEK_DATA`.
    ///
    /// # Errors
    ///
    /// What the file said.
    pub fn extents_of(&self, area: &Area) -> std::io::Result<Vec<PageRange>> {
        if let Some(frames) = self.ground.framed() {
            return Ok(frames.runs_of(area.pages));
        }
        let span = self.ground.span(area.pages);
        let page = PAGE_SIZE as u64;
        let first = |start: u64| (start - span.start) / page;
        let runs = self.ground.mapping.file().data_within(span)?;
        let extent = |run: crate::os::Span| PageRange {
            start: Vpn(area.pages.start.0 + first(run.start)),
            len: Pages(run.len.div_ceil(page)),
        };
        Ok(runs.into_iter().map(extent).collect())
    }

    /// The bytes of the pool's file where an area lies: what a member's line in
    /// `/proc/PID/maps` counts from. Of a framed pool: where its first run of frames lies.
    #[must_use]
    pub fn file_range(&self, area: &Area) -> Range<u64> {
        if let Some(frames) = self.ground.framed() {
            let pages = frames.runs_of(area.pages).first().map_or(0, |run| run.len.0);
            let first = frames.frame_of(area.pages.start.0).unwrap_or(0);
            return first * PAGE_SIZE as u64..(first + pages) * PAGE_SIZE as u64;
        }
        let span = self.ground.span(area.pages);
        span.start..span.start + span.len
    }

    /// The pool's file: device and inode, as in `stat` and `/proc/PID/maps`.
    #[must_use]
    pub fn file_id(&self) -> (u64, u64) {
        let id = self.ground.mapping.file().id();
        (id.dev, id.ino)
    }
}
