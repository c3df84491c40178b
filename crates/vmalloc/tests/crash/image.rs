//! What a SIGKILL would leave of a pool: its words, and which pages have frames behind them.
//!
//! Contents of the window are left out: nothing in it is metadata.

use crate::support::PAGE;
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, SeekFrom};
use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use vmalloc::Pool;
use vmalloc::core::frames::Buddy;
use vmalloc::core::layout::Table;
use vmalloc::core::{Geometry, PAGE_SIZE, Pages};

/// Where the bytes are whose locks say that a member lives.
const LOCKS_AT: i64 = 1 << 60;

/// Where is what in a pool's file.
#[derive(Clone, Copy)]
pub struct Layout {
    pub geometry: Geometry,
    /// Words of header before the engine's.
    pub header_words: usize,
    /// Pages before the window, or before the frames.
    pub word_pages: u64,
    /// Pages behind those in the file: the window's, or of a framed pool the frames.
    pub window_pages: u64,
    pub is_framed: bool,
}

/// One moment of a pool.
#[derive(Clone)]
pub struct Image {
    /// The pages of words that have frames, ascending, and what stands in them.
    pages: Arc<Vec<u64>>,
    words: Vec<u8>,
    /// A bit a page of the window that has a frame.
    window: Vec<u64>,
    pub when: String,
}

impl Layout {
    pub fn of(pool: &Pool, file: &File) -> Layout {
        let word = |at: u64| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at * 8).unwrap();
            u64::from_ne_bytes(bytes) as usize
        };
        let geometry = Geometry {
            granules: word(4),
            small_granules: word(5),
            members: word(6),
            in_place: true,
        };
        let info = pool.info();
        assert_eq!(geometry.pages(), info.stats.window);
        let header_words = header_words(pool, &geometry);
        let is_framed = info.framed;
        let frames = info.capacity_bytes.next_multiple_of(2 << 20) / PAGE;
        let window_pages = if is_framed { frames } else { info.stats.window.0 };
        let word_pages = file.metadata().unwrap().len() / PAGE - window_pages;
        Layout { geometry, header_words, word_pages, window_pages, is_framed }
    }

    /// How far behind the words' first byte the window begins in a member's addresses: behind the
    /// words, or behind the frames.
    pub fn window_at(&self) -> u64 {
        let frame_pages = if self.is_framed { self.window_pages } else { 0 };
        (self.word_pages + frame_pages) * PAGE
    }

    /// Words of the file: those of a table.
    pub fn table(&self, table: Table) -> Range<usize> {
        let words = self.geometry.table(table);
        self.header_words + words.start..self.header_words + words.end
    }

    /// The pages of the words about frames, all there from the start: of a framed pool.
    fn frame_tables(&self) -> Range<u64> {
        if !self.is_framed {
            return 0..0;
        }
        let pages = |words: usize| words.div_ceil(512) as u64;
        let start = pages(self.header_words) + pages(self.geometry.words());
        let bits = pages(Buddy::words_needed(Pages(self.window_pages)));
        let owners = pages(self.window_pages as usize);
        start..start + bits + owners + pages(self.geometry.pages().0 as usize)
    }

    /// What word of the file this is.
    pub fn name(&self, at: usize) -> String {
        let tables = self.frame_tables();
        if tables.contains(&(at as u64 / 512)) {
            return format!("frames {}", at - tables.start as usize * 512);
        }
        let engine = at.checked_sub(self.header_words).and_then(|at| self.geometry.table_of(at));
        match engine {
            Some((Table::Records, at)) => format!("record {} word {}", at / 8, at % 8),
            Some((table, at)) => format!("{table:?} {at}"),
            None => format!("header {at}"),
        }
    }
}

impl Image {
    /// The pool as it is, while nobody is at work. What the kernel holds must be what the pool says.
    pub fn of(pool: &Pool, file: &File, layout: &Layout) -> Image {
        let mut window = vec![0; layout.window_pages.div_ceil(64) as usize];
        for area in pool.areas() {
            if !layout.is_framed {
                (area.pages.start.0..area.pages.end().0).for_each(|p| set(&mut window, p, true));
            }
        }
        if layout.is_framed {
            (0..layout.window_pages).for_each(|p| set(&mut window, p, true));
        }
        let mut pages: Vec<u64> = (0..pool.info().tables_bytes / PAGE).collect();
        pages.extend(layout.frame_tables());
        pages.extend(data_pages(file, layout));
        pages.sort_unstable();
        pages.dedup();
        let mut image =
            Image { pages: Arc::new(pages), words: Vec::new(), window, when: "before".into() };
        image.words = image.read(file);
        assert_eq!(
            image.blocks(),
            blocks(file),
            "the kernel holds other frames than the pool says"
        );
        image
    }

    /// The words as they are now, of the pages that are known to have frames.
    pub fn read(&self, file: &File) -> Vec<u8> {
        let mut bytes = vec![0; self.pages.len() * PAGE_SIZE];
        self.read_into(file, &mut bytes);
        bytes
    }

    pub fn read_into(&self, file: &File, bytes: &mut [u8]) {
        let mut at = 0;
        for run in self.pages.chunk_by(|a, b| a + 1 == *b) {
            let part = &mut bytes[at..at + run.len() * PAGE_SIZE];
            file.read_exact_at(part, run[0] * PAGE).unwrap();
            at += part.len();
        }
    }

    pub fn words(&self) -> &[u8] {
        &self.words
    }

    pub fn set_words(&mut self, bytes: &[u8]) {
        self.words.copy_from_slice(bytes);
    }

    /// Pages of words that got frames: where they lie is asked of the kernel, and of `allocated`.
    pub fn grow_words(
        &mut self,
        file: &File,
        layout: &Layout,
        allocated: impl Iterator<Item = u64>,
    ) {
        let mut pages = (*self.pages).clone();
        pages.extend(data_pages(file, layout));
        pages.extend(allocated);
        pages.sort_unstable();
        pages.dedup();
        self.pages = Arc::new(pages);
        self.words = self.read(file);
    }

    pub fn set_window(&mut self, page: u64, has_frame: bool) {
        set(&mut self.window, page, has_frame);
    }

    pub fn has_frame(&self, page: u64) -> bool {
        self.window[(page / 64) as usize] >> (page % 64) & 1 == 1
    }

    /// How many 512-byte blocks the kernel should count.
    pub fn blocks(&self) -> u64 {
        let window: u64 = self.window.iter().map(|word| u64::from(word.count_ones())).sum();
        (window + self.pages.len() as u64) * 8
    }

    /// The words that differ, by name.
    pub fn differences(&self, before: &[u8], layout: &Layout) -> Vec<String> {
        let (now, _) = self.words.as_chunks::<8>();
        let (before, _) = before.as_chunks::<8>();
        let differ = now.iter().zip(before).enumerate().filter(|(_, (a, b))| a != b);
        differ
            .map(|(i, (now, before))| {
                let at = self.pages[i / 512] as usize * 512 + i % 512;
                let (now, before) = (u64::from_ne_bytes(*now), u64::from_ne_bytes(*before));
                format!("{} {before:#x} → {now:#x}", layout.name(at))
            })
            .collect()
    }

    /// Two moments that differ in nothing but what is counted for people are the same to recovery.
    pub fn key(&self, layout: &Layout) -> u64 {
        let (mut hasher, stats) = (DefaultHasher::new(), layout.table(Table::Stats));
        let (words, _) = self.words.as_chunks::<8>();
        for (i, word) in words.iter().enumerate() {
            let at = self.pages[i / 512] as usize * 512 + i % 512;
            if *word != [0; 8] && !stats.contains(&at) {
                (at, word).hash(&mut hasher);
            }
        }
        self.window.hash(&mut hasher);
        hasher.finish()
    }

    /// A memfd like the pool's at this moment, which nobody has locked a byte of.
    pub fn copy(&self, layout: &Layout) -> File {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create("vmalloc:crash", flags).unwrap());
        file.set_len((layout.word_pages + layout.window_pages) * PAGE).unwrap();
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .unwrap();
        self.write_over(&file, layout);
        file
    }

    /// Makes the file like this moment.
    pub fn write_over(&self, file: &File, layout: &Layout) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let all = (layout.word_pages + layout.window_pages) * PAGE;
        rustix::fs::fallocate(file, flags, 0, all).unwrap();
        let mut at = 0;
        for run in self.pages.chunk_by(|a, b| a + 1 == *b) {
            let part = &self.words[at..at + run.len() * PAGE_SIZE];
            file.write_all_at(part, run[0] * PAGE).unwrap();
            at += part.len();
        }
        let framed: Vec<u64> = (0..layout.window_pages).filter(|p| self.has_frame(*p)).collect();
        for run in framed.chunk_by(|a, b| a + 1 == *b) {
            let (at, len) = ((layout.word_pages + run[0]) * PAGE, run.len() as u64 * PAGE);
            rustix::fs::fallocate(file, FallocateFlags::empty(), at, len).unwrap();
        }
        assert_eq!(blocks(file), self.blocks(), "{}: a copy that is none", self.when);
    }
}

/// Words of header before the engine's: what must be there from the start, but for the flat tables.
pub fn header_words(pool: &Pool, geometry: &Geometry) -> usize {
    pool.info().tables_bytes as usize / 8 - geometry.flat_words()
}

/// Blocks of 512 bytes that the kernel holds for the file.
pub fn blocks(file: &File) -> u64 {
    file.metadata().unwrap().blocks()
}

/// Says that member `n` of the pool in `file` lives, for as long as the result does.
pub fn keep_alive(file: &File, members: &[usize]) -> File {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
    let own = File::options().read(true).write(true).open(path).unwrap();
    members.iter().for_each(|n| lock(&own, *n, 1, nix::libc::F_WRLCK));
    own
}

/// Locks what a member locks that recovers member `n`, for as long as the result lives.
pub fn as_if_recovering(file: &File, n: usize) -> File {
    let own = keep_alive(file, &[]);
    lock(&own, n, 2, nix::libc::F_WRLCK);
    own
}

/// Lets member `n` be dead.
pub fn let_die(lock_holder: &File, n: usize) {
    lock(lock_holder, n, 1, nix::libc::F_UNLCK);
}

fn lock(file: &File, member: usize, bytes: i64, kind: i32) {
    let lock = nix::libc::flock {
        l_type: kind as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: LOCKS_AT + 2 * member as i64,
        l_len: bytes,
        l_pid: 0,
    };
    fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&lock)).unwrap();
}

fn set(window: &mut [u64], page: u64, has_frame: bool) {
    let (word, bit) = (&mut window[(page / 64) as usize], 1 << (page % 64));
    *word = if has_frame { *word | bit } else { *word & !bit };
}

/// The pages of words that the kernel says hold data.
fn data_pages(file: &File, layout: &Layout) -> Vec<u64> {
    let end = layout.word_pages * PAGE;
    let mut pages = Vec::new();
    let mut at = 0;
    while let Ok(data) = rustix::fs::seek(file, SeekFrom::Data(at)) {
        if data >= end {
            break;
        }
        at = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap().min(end);
        pages.extend(data / PAGE..at / PAGE);
    }
    pages
}
