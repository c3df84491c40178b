//! How the processes of a pool see it: their VMAs, and the physical frames behind their pages.
//!
//! Read from `/proc/PID/maps` and `/proc/PID/pagemap`: a look that maps nothing and touches no
//! page. The numbers of physical frames are for those who may know them (CAP_SYS_ADMIN); to
//! everybody else the kernel shows zeros.
//!
//! Linux: Documentation/admin-guide/mm/pagemap.rst.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use vmalloc::FileRun;
use vmalloc::core::{Area, PAGE_SIZE};

const PAGE: u64 = PAGE_SIZE as u64;
const PRESENT: u64 = 1 << 63;
const PFN_MASK: u64 = (1 << 55) - 1;
/// Entries of a page map that are read at a time.
const CHUNK: u64 = 1 << 16;

/// A process that may have the pool's file mapped.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// All its VMAs, against `vm.max_map_count`.
    pub vmas: usize,
    /// Those that show the file.
    views: Vec<FileView>,
}

/// A VMA that shows a part of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
struct FileView {
    addresses: Range<u64>,
    offset: u64,
}

impl Process {
    /// The process, if it may be looked into.
    pub fn look(pid: u32, file_id: (u64, u64)) -> Option<Process> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
        let lines: Vec<Line> = maps.lines().filter_map(Line::parse).collect();
        let ours = |line: &&Line| line.file_id == file_id;
        let views = lines.iter().filter(ours).map(|line| line.view.clone()).collect();
        Some(Process { pid, vmas: lines.len(), views })
    }

    /// How many of its VMAs show the file.
    pub fn pool_vmas(&self) -> usize {
        self.views.len()
    }

    /// The physical frame behind each page of an area that lies in `runs` of the file, ordered by
    /// where they begin there, as this process has them mapped now; `None` inside for a page that
    /// is not in its page tables. `None`: the kernel does not tell.
    pub fn frames(&self, area: &Area, runs: &[FileRun]) -> Option<Vec<Option<u64>>> {
        let pagemap = File::open(format!("/proc/{}/pagemap", self.pid)).ok()?;
        let mut frames = vec![None; area.pages.len.0 as usize];
        for view in &self.views {
            // A framed area may have as many runs as the process has VMAs: those in sight only.
            let hidden = runs.partition_point(|run| run.bytes.end <= view.offset);
            for run in runs[hidden..].iter().take_while(|run| run.bytes.start < view.end()) {
                let first = run.pages.start.0.checked_sub(area.pages.start.0)? as usize;
                view.read(&pagemap, &run.bytes, frames.get_mut(first..)?)?;
            }
        }
        Some(frames)
    }
}

impl FileView {
    /// The first byte of the file behind it.
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.addresses.end - self.addresses.start)
    }

    /// Reads the frames of those of `bytes` of the file that it shows. `None`: the kernel does not
    /// tell.
    fn read(&self, pagemap: &File, bytes: &Range<u64>, frames: &mut [Option<u64>]) -> Option<()> {
        let end = bytes.end.min(self.end());
        let mut at = bytes.start.max(self.offset);
        while at < end {
            let count = ((end - at) / PAGE).min(CHUNK);
            let mut words = vec![0; count as usize * 8];
            let address = self.addresses.start + (at - self.offset);
            pagemap.read_exact_at(&mut words, address / PAGE * 8).ok()?;
            let first = ((at - bytes.start) / PAGE) as usize;
            let seen = frames.get_mut(first..)?;
            for (frame, word) in seen.iter_mut().zip(words.as_chunks::<8>().0) {
                let word = u64::from_ne_bytes(*word);
                if word & PRESENT != 0 {
                    // Frame 0 is the kernel's own: a present page with it is a hidden one.
                    *frame = Some(word & PFN_MASK).filter(|&pfn| pfn != 0);
                    frame.as_ref()?;
                }
            }
            at += count.max(1) * PAGE;
        }
        Some(())
    }
}

/// `vm.max_map_count`: how many VMAs a process may have.
pub fn vmas_max() -> Option<usize> {
    fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()
}

/// A line of `/proc/PID/maps`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Line {
    view: FileView,
    file_id: (u64, u64),
}

impl Line {
    fn parse(line: &str) -> Option<Line> {
        let mut words = line.split_ascii_whitespace();
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let (start, end) = words.next()?.split_once('-')?;
        let addresses = hex(start)?..hex(end)?;
        let offset = hex(words.nth(1)?)?;
        let (major, minor) = words.next()?.split_once(':')?;
        let (major, minor) = (hex(major)?, hex(minor)?);
        let inode = words.next()?.parse().ok()?;
        (addresses.start <= addresses.end).then_some(())?;
        // As glibc packs the two into `st_dev`.
        let device =
            (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32;
        Some(Line { view: FileView { addresses, offset }, file_id: (device, inode) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_read_or_left_out() {
        let text = "7f12a000-7f12c000 rw-s 00003000 103:1a 2049    /memfd:vmalloc:x (deleted)";
        let view = FileView { addresses: 0x7f12_a000..0x7f12_c000, offset: 0x3000 };
        assert_eq!(Line::parse(text), Some(Line { view, file_id: (0x1_031a, 2049) }));
        for bad in ["", "x", "1-", "2-1 r 0 0:0 0", "1-2 r z 0:0 0", "1-2 r 0 00 0", "1-2 r 0 0:0"]
        {
            assert_eq!(Line::parse(bad), None, "{bad:?}");
        }
    }

    /// Goal: a file that this process has mapped is found by its number, and no other one.
    #[test]
    fn the_pool_that_a_process_has_mapped_is_found_in_its_maps() {
        let pool = vmalloc::Pool::create(1 << 20).unwrap();
        let mut buf = pool.vmalloc(3 * PAGE_SIZE).unwrap();
        buf.fill(1);
        let looker = vmalloc::Onlooker::open(pool.share_path()).unwrap();
        let me = Process::look(std::process::id(), looker.file_id()).unwrap();
        // Both the pool's mapping and the onlooker's own.
        assert_eq!(me.pool_vmas(), 2 * pool.vmas().unwrap(), "{me:?}");
        assert!(me.vmas > me.pool_vmas());
        let other = Process::look(std::process::id(), (0, 1)).unwrap();
        assert_eq!(other.pool_vmas(), 0);

        let area = looker.areas()[0];
        let seen = me.frames(&area, &looker.file_runs(&area));
        let known = vmalloc::frames_behind(&buf).unwrap();
        assert_eq!(seen, known, "as the process itself sees them");
    }
}
