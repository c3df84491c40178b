//! Forgeries: what a hostile member writes into the words of a pool, behind everybody's back.
//!
//! Blind (any word, any bits), by structure (a tag, a state, a link, a count that looks like one of
//! ours), and wholesale (a page of another, a page of nothing, all words as they were before).

use crate::crash::image::header_words;
use crate::support::{PAGE, Random};
use rustix::fs::{FallocateFlags, SeekFrom};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use vmalloc::Pool;
use vmalloc::core::Geometry;
use vmalloc::core::layout::Table;

/// The words of a pool file, from outside.
pub struct Words {
    file: File,
    /// How many there are.
    pub count: u64,
    geometry: Geometry,
    /// Words of header before the engine's.
    header_words: u64,
    /// The words that are not zero, and what stands in them: where something happens, and what was.
    in_use: Vec<(u64, u64)>,
}

impl Words {
    /// The words as they are now. What is in use is looked for once.
    pub fn of(pool: &Pool) -> Words {
        let file = File::from(pool.as_fd().try_clone_to_owned().unwrap());
        let bytes = file.metadata().unwrap().len() - pool.info().stats.window.bytes();
        let geometry = Geometry { granules: 1, small_granules: 1, members: 1, in_place: true };
        let mut words =
            Words { file, count: bytes / 8, geometry, header_words: 0, in_use: Vec::new() };
        let shape = [4, 5, 6].map(|at| words.read(at) as usize);
        let [granules, small_granules, members] = shape;
        words.geometry = Geometry { granules, small_granules, members, in_place: true };
        words.header_words = header_words(pool, &words.geometry) as u64;
        words.in_use = words.look();
        words
    }

    fn read(&self, at: u64) -> u64 {
        let mut word = [0; 8];
        self.file.read_exact_at(&mut word, at * 8).unwrap();
        u64::from_ne_bytes(word)
    }

    fn write(&self, at: u64, word: u64) {
        self.file.write_all_at(&word.to_ne_bytes(), at * 8).unwrap();
    }

    /// The words that are not zero, of the pages that have frames.
    fn look(&self) -> Vec<(u64, u64)> {
        let mut words = Vec::new();
        let mut at = 0;
        while let Ok(data) = rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            if data >= self.count * 8 {
                break;
            }
            let mut page = [0; PAGE as usize];
            self.file.read_exact_at(&mut page, data).unwrap();
            let (page, _) = page.as_chunks::<8>();
            let used = (0_u64..).zip(page).filter(|(_, word)| **word != [0; 8]);
            words.extend(used.map(|(i, word)| (data / 8 + i, u64::from_ne_bytes(*word))));
            at = data + PAGE;
        }
        words
    }

    fn used(&self, random: &mut Random) -> (u64, u64) {
        self.in_use[random.of(0..self.in_use.len() as u64) as usize]
    }

    /// Forges something, once.
    pub fn forge(&self, random: &mut Random) {
        match random.of(0..64) {
            0 => self.roll_back(),
            1 => self.copy_page(random),
            2 => self.fill_page(random),
            3 => self.punch_page(random),
            4..8 => self.swap(random),
            8..36 => self.forge_field(random),
            _ => self.forge_word(random),
        }
    }

    /// Switches a word to and fro: true for whoever checks it, forged for whoever uses it. Stops
    /// after `times`, or when `stop` says so.
    pub fn flip(&self, random: &mut Random, times: u64, stop: impl Fn() -> bool) {
        let (at, was) = self.used(random);
        self.forge_at(at, random);
        let forged = self.read(at);
        for _ in 0..times {
            if stop() {
                return;
            }
            self.write(at, was);
            self.write(at, forged);
        }
    }

    /// A word that is in use, or stands beside one, or any; by a value that looks like something.
    fn forge_word(&self, random: &mut Random) {
        let (used, _) = self.used(random);
        let at = match random.of(0..10) {
            0 => random.of(0..self.count),
            1..3 => (used + random.of(0..16)).saturating_sub(8).min(self.count - 1),
            _ => used,
        };
        self.forge_at(at, random);
    }

    fn forge_at(&self, at: u64, random: &mut Random) {
        let old = self.read(at);
        let word = match random.of(0..9) {
            0 => 0,
            1 => u64::MAX,
            2 => random.next(),
            3 => random.of(0..256),
            4 => old ^ 1 << random.of(0..64),
            5 => old.wrapping_add(random.of(0..5)).wrapping_sub(2),
            6 => self.used(random).1,
            7 => self.tag(random),
            _ => state(random),
        };
        self.write(at, word);
    }

    /// A field of a table by a value of its kind.
    fn forge_field(&self, random: &mut Random) {
        let table = Table::ALL[random.of(0..Table::ALL.len() as u64) as usize];
        let range = self.geometry.table(table);
        let granules = self.geometry.granules as u64;
        // Mostly where there is something.
        let somewhere = self.header_words + random.of(range.start as u64..range.end as u64);
        let here: Vec<u64> = self.used_in(&range).collect();
        let at = match here.len() as u64 {
            0 => somewhere,
            _ if random.of(0..8) == 0 => somewhere,
            n => here[random.of(0..n) as usize],
        };
        let word = match table {
            Table::Tags => self.tag(random),
            Table::Links => random.of(0..granules + 2) | random.of(0..granules + 2) << 32,
            Table::Runs => random.of(0..granules + 2) | random.of(0..4) << 32,
            Table::Presence => random.of(0..8),
            Table::Records => match (at - self.header_words - range.start as u64) % 8 {
                0 => state(random),
                // Bytes, pages and guard, flags, backing, caller, birth.
                1 => random.next() >> random.of(0..64),
                2 => random.of(0..1 << 20) | random.of(0..3) << 32,
                3 => random.of(0..1 << 8),
                4 => random.of(0..1 << 20),
                _ => random.next() >> random.of(0..64),
            },
            Table::Taken | Table::Parked | Table::Trees => random.next() & random.next(),
            Table::Zones | Table::Counters | Table::Stats => random.next() >> random.of(0..64),
        };
        // A member's slot, the budget, the counts of recounts.
        if random.of(0..16) == 0 {
            let at = [16, 17, 18, 64 + random.of(0..8 * self.geometry.members as u64)];
            let at = at[random.of(0..4) as usize];
            return self.write(at, random.next() >> random.of(0..64));
        }
        self.write(at, word);
    }

    fn used_in(&self, range: &std::ops::Range<usize>) -> impl Iterator<Item = u64> {
        let (start, end) =
            (self.header_words + range.start as u64, self.header_words + range.end as u64);
        self.in_use.iter().map(|(at, _)| *at).filter(move |at| (start..end).contains(at))
    }

    /// A tag: kind, owner, class, argument.
    fn tag(&self, random: &mut Random) -> u64 {
        let (owner, class) = (random.of(0..6), random.of(0..40));
        let argument = match random.of(0..4) {
            0 => random.next() & 0xffff_ffff,
            _ => random.of(0..self.geometry.granules as u64 + 2),
        };
        random.of(0..7) | owner << 8 | class << 16 | argument << 32
    }

    /// Two words change places; two whole records, as often as not.
    fn swap(&self, random: &mut Random) {
        let (a, b) = (self.used(random).0, self.used(random).0);
        let records = self.geometry.table(Table::Records);
        let first = self.header_words + records.start as u64;
        let line = |at: u64| (at >= first).then(|| at - (at - first) % 8);
        let (a, b, count) = match (line(a), line(b)) {
            (Some(a), Some(b)) => (a, b, 8),
            _ => (a, b, 1),
        };
        for i in 0..count {
            let (x, y) = (self.read(a + i), self.read(b + i));
            self.write(a + i, y);
            self.write(b + i, x);
        }
    }

    /// Everything as it was when these words were looked at: an old state, true once.
    fn roll_back(&self) {
        self.in_use.iter().for_each(|(at, word)| self.write(*at, *word));
    }

    fn copy_page(&self, random: &mut Random) {
        let (from, to) = (self.used(random).0 / 512, self.used(random).0 / 512);
        let mut page = [0; PAGE as usize];
        self.file.read_exact_at(&mut page, from * PAGE).unwrap();
        self.file.write_all_at(&page, to * PAGE).unwrap();
    }

    fn fill_page(&self, random: &mut Random) {
        let page = self.used(random).0 / 512;
        (0..512).for_each(|i| self.write(page * 512 + i, random.next() >> random.of(0..64)));
    }

    /// A page of words whose frame is taken away, as a page of a dead file system would be.
    fn punch_page(&self, random: &mut Random) {
        let page = self.used(random).0 / 512;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, flags, page * PAGE, PAGE).unwrap();
    }
}

/// A state: kind, owner, generation.
fn state(random: &mut Random) -> u64 {
    let generation = match random.of(0..8) {
        0 => random.next() >> 16,
        _ => random.of(0..6),
    };
    random.of(0..10) | random.of(0..6) << 8 | generation << 16
}
