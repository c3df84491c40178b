//! What all tests need: random numbers by seed, places for pools, skips, and a way to wait.

use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use vmalloc::{Pool, Token};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const PAGE: u64 = 4096;

/// SplitMix64: the same numbers for the same seed, everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number from `range`, which is not empty.
    pub fn of(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }
}

/// A path on tmpfs that nobody else has; what is there goes when this is dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(what: &str) -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vmalloc-test-{}-{count}-{what}", std::process::id());
        Scratch(Path::new("/dev/shm").join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A tmpfs of our own, unmounted and removed when this is dropped.
pub struct Mount(pub PathBuf);

impl Mount {
    /// Mounts one with these options; `None`, and the skip is told, where that is impossible.
    pub fn new(what: &str, options: &str) -> Option<Mount> {
        Mount::of(what, "tmpfs", options)
    }

    /// The same of another file system.
    pub fn of(what: &str, kind: &str, options: &str) -> Option<Mount> {
        if !is_root() {
            skip(what, &format!("mounting a {kind} needs root"), "run the tests as root");
            return None;
        }
        let folder = std::env::temp_dir().join(Scratch::new("mount").0.file_name().unwrap());
        std::fs::create_dir(&folder).unwrap();
        let mount = Mount(folder);
        let mut command = Command::new("mount");
        command.args(["-t", kind, "-o", options, kind]).arg(&mount.0);
        match command.output() {
            Ok(output) if output.status.success() => Some(mount),
            failed => {
                let why = format!("mount -o {options} failed ({failed:?})");
                skip(what, &why, "run the tests where mounting is allowed");
                None
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
        let _ = std::fs::remove_dir(&self.0);
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that `what` was not tested, here and in the file that `VMALLOC_SKIPS` names.
pub fn skip(what: &str, why: &str, how_to_get_it: &str) {
    let line = format!("{what}: {why}; {how_to_get_it}\n");
    println!("skipped: {line}");
    if let Some(path) = std::env::var_os("VMALLOC_SKIPS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).unwrap();
    }
}

/// Waits until `done`, and fails after ten seconds.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: not within 10 s");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// The error as text, of whatever type it is.
pub fn told<T>(result: Result<T, impl std::fmt::Debug>) -> Result<T, String> {
    result.map_err(|e| format!("{e:?}"))
}

/// Bytes of real memory the system holds for the pool.
pub fn resident(pool: &Pool) -> u64 {
    pool.info().resident_bytes
}

/// The pool's file, and where in it the window begins; a framed pool's is not in the file.
pub fn file_of(pool: &Pool) -> (File, u64) {
    let file = File::from(pool.as_fd().try_clone_to_owned().unwrap());
    let window = file.metadata().unwrap().len().saturating_sub(pool.info().stats.window.bytes());
    (file, window)
}

/// Takes the memory away that the system holds for a part of a file; how much that was. (What
/// was allocated and never touched is in no other count of the kernel's.)
pub fn punch(file: &File, at: u64, bytes: u64) -> u64 {
    let blocks = || file.metadata().unwrap().blocks();
    let before = blocks();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, flags, at, bytes).unwrap();
    (before - blocks()) * 512
}

/// Nothing is out, nothing parked, nothing committed, and the invariants hold.
#[track_caller]
pub fn assert_empty(pool: &Pool) {
    pool.purge().unwrap();
    let verified = pool.verify().unwrap();
    let info = pool.info();
    let left: Vec<String> = pool.areas().iter().map(ToString::to_string).collect();
    assert_eq!((verified.areas, verified.parked), (0, 0), "{left:#?}");
    assert_eq!(info.committed_bytes, 0, "bytes are still committed");
    let (file, window) = file_of(pool);
    let stray = punch(&file, window, info.stats.window.bytes());
    assert_eq!(stray, 0, "the system still holds frames");
    assert_eq!(info.stats.holes, info.stats.window, "granules are still taken");
}

/// The five numbers of a token's text, to be changed and put together again.
pub fn forge(token: &Token, change: impl FnOnce(&mut [u64; 4])) -> Token {
    let text = token.to_string();
    let mut parts = text.split('-').skip(1).map(|part| u64::from_str_radix(part, 16).unwrap());
    let mut numbers: [u64; 4] = std::array::from_fn(|_| parts.next().unwrap());
    change(&mut numbers);
    let [pool, area, generation, pages] = numbers;
    let (pool, area) = (pool as u32, area as u32);
    format!("vm1-{pool:08x}-{area:x}-{generation:x}-{pages:x}").parse().unwrap()
}
