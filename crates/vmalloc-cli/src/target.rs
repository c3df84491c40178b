//! Which pools a command looks at: by path, by process, or the only one there is.
//!
//! All through an [`Onlooker`], which takes no member slot.

use crate::failure::{Failure, not_opened};
use crate::list::{self, Row};
use std::io;
use std::path::{Path, PathBuf};
use vmalloc::Onlooker;

/// A pool and how it was found.
pub struct Looked {
    /// What opens it.
    pub path: PathBuf,
    /// The pool, seen from outside.
    pub pool: Onlooker,
}

/// The pools that a target names: a path one, a process those that it has open.
pub fn all(target: &Path) -> Result<Vec<Looked>, Failure> {
    match pid(target) {
        Some(pid) => of_process(pid),
        None => Ok(vec![look(target.to_owned())?]),
    }
}

/// The one pool that a target names; without a target, the one that there is on this machine.
pub fn one(target: Option<&Path>) -> Result<Looked, Failure> {
    match target {
        Some(target) => one_of(all(target)?),
        None => only(list::rows()),
    }
}

/// The one pool of a list.
pub fn only(rows: Vec<Row>) -> Result<Looked, Failure> {
    // One that goes while we look is not there any more.
    one_of(rows.into_iter().filter_map(|row| look(row.path.into()).ok()).collect())
}

fn one_of(mut found: Vec<Looked>) -> Result<Looked, Failure> {
    match (found.pop(), found.is_empty()) {
        (Some(pool), true) => Ok(pool),
        (Some(last), false) => {
            let paths = found.iter().chain([&last]).map(|looked| looked.path.display().to_string());
            let paths: Vec<String> = paths.collect();
            Err(Failure::new(format_args!(
                "there are {} pools, say which: {} (`vmalloc list` tells more)",
                paths.len(),
                paths.join(", ")
            )))
        }
        (None, _) => Err(Failure::new(
            "there is no pool that this user may see: make one with `vmalloc create`, \
             or run the demo",
        )),
    }
}

/// The process that a target of digits alone names.
fn pid(target: &Path) -> Option<u32> {
    target.to_str().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

/// The pool at a path.
pub fn look(path: PathBuf) -> Result<Looked, Failure> {
    match Onlooker::open(&path) {
        Ok(pool) => Ok(Looked { path, pool }),
        Err(e) => Err(not_opened(&path, &e)),
    }
}

fn of_process(pid: u32) -> Result<Vec<Looked>, Failure> {
    let folder = format!("/proc/{pid}/fd");
    std::fs::read_dir(&folder).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Failure::new(format_args!(
            "there is no process {pid} (write ./{pid} for a file of that name)"
        )),
        _ => Failure::new(format_args!("process {pid}: {folder}: {e}")),
    })?;
    let pools = vmalloc::list().into_iter().filter(|pool| pool.pids.contains(&pid));
    // One that closes while we look is not there any more.
    let found: Vec<Looked> = pools.filter_map(|pool| look(pool.path).ok()).collect();
    if found.is_empty() {
        return Err(Failure::new(format_args!(
            "process {pid} has no pool open; `vmalloc list` shows the pools there are"
        )));
    }
    Ok(found)
}
