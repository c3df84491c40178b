//! The files of the repository, read once, so that the checks are functions of strings.
//!
//! The files are those that a fresh clone would hold: what git tracks, and what is new and not
//! ignored. A document that names a build product therefore fails here as it would for a reader.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file longer than this is data, not text to check.
const TEXT_LEN_BYTES_MAX: u64 = 4 << 20;

/// Paths relative to the root, with `/`, and their text (empty for what is not text).
#[derive(Default)]
pub struct Repo {
    files: BTreeMap<String, String>,
    dirs: BTreeSet<String>,
}

/// One thing that is wrong, and where. Prints as `path:line: what`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The file, relative to the root.
    pub path: String,
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong, and what to do about it.
    pub what: String,
}

impl Finding {
    /// A finding at `line` of `path`.
    pub fn new(path: &str, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

impl Repo {
    /// Reads the repository at `root`.
    pub fn load(root: &Path) -> Repo {
        let paths = git_files(root).unwrap_or_else(|| walk(root));
        Repo::from_texts(paths.into_iter().filter_map(|path| {
            let meta = std::fs::metadata(root.join(&path)).ok().filter(|meta| meta.is_file())?;
            let is_text = meta.len() <= TEXT_LEN_BYTES_MAX;
            let bytes = if is_text { std::fs::read(root.join(&path)).ok()? } else { Vec::new() };
            Some((path, String::from_utf8(bytes).unwrap_or_default()))
        }))
    }

    /// A repository of these paths and texts.
    pub fn from_texts(texts: impl IntoIterator<Item = (String, String)>) -> Repo {
        let mut repo = Repo::default();
        for (path, text) in texts {
            let mut dir = path.as_str();
            while let Some((parent, _)) = dir.rsplit_once('/') {
                repo.dirs.insert(parent.to_owned());
                dir = parent;
            }
            repo.files.insert(path, text);
        }
        repo
    }

    /// A repository for a test.
    #[cfg(test)]
    pub fn of(texts: &[(&str, &str)]) -> Repo {
        Repo::from_texts(texts.iter().map(|&(path, text)| (path.to_owned(), text.to_owned())))
    }

    /// The files whose path ends in `suffix`, with their text, by path.
    pub fn files<'a>(&'a self, suffix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files
            .iter()
            .filter(move |(path, _)| path.ends_with(suffix))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The text of the file at `path`.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// Whether `path` is a file or a directory; `""` is the root.
    pub fn has(&self, path: &str) -> bool {
        path.is_empty() || self.files.contains_key(path) || self.dirs.contains(path)
    }

    /// Every file and directory.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().chain(&self.dirs).map(String::as_str)
    }

    /// The names of the packages, from the `Cargo.toml` files.
    pub fn packages(&self) -> Vec<&str> {
        self.files("Cargo.toml")
            .filter_map(|(_, text)| {
                let section = text.split("[package]").nth(1)?;
                let line = section.lines().find(|line| line.starts_with("name = "))?;
                line.split('"').nth(1)
            })
            .collect()
    }
}

/// The root of the repository: the parent of this package as cargo runs it now, which is not
/// where it was compiled if two work trees share a target directory.
pub fn root() -> PathBuf {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().expect("this package lies in the workspace").to_owned()
}

/// The tracked and the new files, or `None` where there is no git or no work tree (a tarball).
fn git_files(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .stderr(std::process::Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(names.split_terminator('\0').map(str::to_owned).collect())
}

/// Every file below `root` but for build products.
fn walk(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir {
                let name = entry.file_name();
                if name != "target" && name != ".git" {
                    dirs.push(path);
                }
            } else if let Ok(relative) = path.strip_prefix(root) {
                found.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: directories exist as soon as a file lies in them, and nothing else does.
    #[test]
    fn directories_follow_from_the_files() {
        let repo = Repo::of(&[("crates/a/src/lib.rs", "")]);
        assert!(repo.has("") && repo.has("crates") && repo.has("crates/a/src"));
        assert!(!repo.has("crates/a/sr") && !repo.has("lib.rs"));
    }

    /// Goal: the package's name is found, not that of a binary in the same file.
    #[test]
    fn packages_are_named_by_their_package_section() {
        let toml = "[[bin]]\nname = \"b\"\n[package]\nedition = \"2024\"\nname = \"p\"\n";
        assert_eq!(Repo::of(&[("x/Cargo.toml", toml)]).packages(), ["p"]);
    }

    /// Goal: the fallback without git sees this very file and no build product.
    #[test]
    fn walk_finds_sources_and_no_build_products() {
        let found = walk(&root());
        assert!(found.iter().any(|path| path == "xtask/src/repo.rs"));
        assert!(!found.iter().any(|path| path.starts_with("target/")));
    }
}
