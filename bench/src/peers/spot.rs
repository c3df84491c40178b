//! Where one victim works: a pool, segment or service of its own, and the files that belong to it.

use super::Kind;
use std::fs::{self, DirEntry};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use vmalloc::Pool;

/// How large a pool is.
const POOL_BYTES: u64 = 16 << 20;

/// One pool, segment or service; all of its files go when it does.
pub struct Spot {
    /// What a role is told first.
    pub argument: String,
    /// What `next` is told besides.
    pub more: Option<String>,
    /// Names of its files in `/dev/shm` begin so.
    tag: String,
    /// A directory of its own, if it has one.
    dir: Option<PathBuf>,
    /// The files, and their bytes, that are here by right.
    own: (usize, u64),
    // Held, so that the pool stays.
    _pool: Option<Pool>,
}

impl Spot {
    /// A new one.
    ///
    /// # Errors
    ///
    /// Why it could not be made, in words.
    pub fn new(kind: Kind, turn: usize) -> Result<Spot, String> {
        // With an end of its own: no tag is the beginning of another.
        let tag = format!("vmalloc-bench-{}-{turn}.", std::process::id());
        let mut spot =
            Spot { argument: tag.clone(), more: None, tag, dir: None, own: (0, 0), _pool: None };
        match kind {
            Kind::Ours => {
                let pool = Pool::create(POOL_BYTES).map_err(|e| e.to_string())?;
                spot.argument = pool.share_path().to_string_lossy().into_owned();
                spot._pool = Some(pool);
            }
            Kind::Boost => {
                let mut make = kind.command("make")?;
                make.args([&spot.tag, &POOL_BYTES.to_string()]);
                let output = make.output().map_err(|e| e.to_string())?;
                spot.more = Some(String::from_utf8_lossy(&output.stdout).trim().to_owned());
            }
            Kind::Iceoryx => spot.dir = Some(dir_of(&spot.tag)),
            Kind::Memfd | Kind::Python => {}
        }
        Ok(spot)
    }

    /// Takes what is here now for what is always here: a segment, a file of the whole system.
    pub fn settle(&mut self) {
        self.own = self.all();
    }

    /// How many files are here that were not when it was settled, and their bytes.
    pub fn stray(&self) -> (usize, u64) {
        let (files, bytes) = self.all();
        (files.saturating_sub(self.own.0), bytes.saturating_sub(self.own.1))
    }

    fn all(&self) -> (usize, u64) {
        let mut files = in_shm(&self.tag);
        if let Some(dir) = &self.dir {
            walk(dir, &mut files);
        }
        let bytes = files.iter().filter_map(|path| fs::metadata(path).ok());
        let bytes = bytes.map(|file| file.blocks() * 512).sum();
        (files.len(), bytes)
    }
}

impl Drop for Spot {
    fn drop(&mut self) {
        remove(&self.tag);
    }
}

/// The directory of its own that a service of this name has.
pub fn dir_of(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

/// Removes what one of this name leaves: files in `/dev/shm`, and its directory.
pub fn remove(name: &str) {
    // What is gone already, or never was, is no error here.
    for path in in_shm(name) {
        let _ = fs::remove_file(path);
    }
    let _ = fs::remove_dir_all(dir_of(name));
}

/// The files in `/dev/shm` whose names begin so.
fn in_shm(name: &str) -> Vec<PathBuf> {
    let is_ours = |entry: &DirEntry| entry.file_name().to_string_lossy().starts_with(name);
    let all = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    all.filter(is_ours).map(|entry| entry.path()).collect()
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => walk(&path, files),
            false => files.push(path),
        }
    }
}
