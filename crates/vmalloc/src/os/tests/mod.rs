//! Tests of this folder against the kernel itself, other processes included.
//!
//! Another process is this test program started again: [`child`] runs the one test
//! [`child_main`], which does what the environment variable [`ROLE`] says and nothing else when it
//! is not set. A test that cannot run here says so by [`skip`].

#[cfg(miri)]
mod alias;
mod bell;
#[cfg(any(asan, tsan))]
mod canary;
mod claims;
mod file;
mod map;
mod measure;
mod memory;
#[cfg(not(miri))]
mod numa;
mod process;

#[cfg(not(miri))]
use crate::os::file::PoolFile;
use crate::os::map::Mapping;
use crate::os::{PAGE_BYTES, Span};
use crate::spread::{Seat, Spread};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Names the part that a child plays.
const ROLE: &str = "VMALLOC_OS_TEST_ROLE";
/// What the part needs to know.
const ARGUMENT: &str = "VMALLOC_OS_TEST_ARGUMENT";

const MIB: u64 = 1 << 20;

/// This program once more, as `role`. Its standard input and output are pipes.
fn child(role: &str, argument: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "os::tests::child_main", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(ARGUMENT, argument)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Goal: none of its own. Method: the entry of every child process.
#[test]
fn child_main() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let argument = std::env::var(ARGUMENT).unwrap();
    process::play(&role, &argument);
}

/// Says that `what` was not tested, here and in the file that `VMALLOC_SKIPS` names.
fn skip(what: &str, why: &str, how_to_get_it: &str) {
    let line = format!("skipped: {what}: {why}, {how_to_get_it}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("VMALLOC_SKIPS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).unwrap();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn span(pages: std::ops::Range<u64>) -> Span {
    Span::new(pages.start * PAGE_BYTES, (pages.end - pages.start) * PAGE_BYTES)
}

/// A pool of `bytes` bytes on a memfd with one page of words, mapped.
#[cfg(not(miri))]
pub(crate) fn pool(name: &str, bytes: u64) -> Arc<Mapping> {
    let file = PoolFile::create_memfd(name, bytes).unwrap();
    Mapping::new(Arc::new(file), PAGE_BYTES).unwrap()
}

/// The same for Miri: on the heap.
#[cfg(miri)]
pub(crate) fn pool(_: &str, bytes: u64) -> Arc<Mapping> {
    Mapping::on_heap(bytes, PAGE_BYTES)
}

/// What keeps the mapping as a buffer does.
fn seat(mapping: Arc<Mapping>) -> Arc<Seat<()>> {
    Spread::new(mapping, ()).here()
}

fn resident(mapping: &Mapping) -> u64 {
    mapping.file().resident_bytes().unwrap()
}
