//! `vmalloc list`: every pool of this machine that I may see. No daemon, no registry.
//!
//! Two places are looked at: what processes have open ([`vmalloc::list`]), and the files in
//! `/dev/shm`, where a pool waits that nobody has open at the moment. A pool found in both is
//! told once.

use crate::args::ListArgs;
use crate::failure::{Done, Failure};
use crate::show::Printable;
use crate::size::Size;
use serde::Serialize;
use std::collections::HashSet;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use vmalloc::{FoundPool, Onlooker};

/// Where pools with a path usually are.
const SHM: &str = "/dev/shm";

/// A pool in the list.
#[derive(Serialize)]
pub struct Row {
    /// The pool's number.
    pub id: String,
    name: String,
    /// What opens it.
    pub path: String,
    /// The most that it may hold.
    pub capacity_bytes: u64,
    /// What its areas hold.
    pub used_bytes: u64,
    /// How many there are.
    pub areas: usize,
    resident_bytes: u64,
    uid: u32,
    /// The processes that have it open.
    pub pids: Vec<u32>,
}

/// Prints the list.
pub fn run(args: &ListArgs) -> Done {
    let rows = rows();
    let mut out = io::stdout().lock();
    let printed = if args.json {
        serde_json::to_writer_pretty(&mut out, &rows)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        table(&rows, &mut out)
    };
    printed.and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
}

/// Every pool of this machine that this user may see.
pub fn rows() -> Vec<Row> {
    found().into_iter().filter_map(row).collect()
}

/// What may be one: the pools that processes have open, each once, and every file in `/dev/shm`.
pub fn found() -> Vec<FoundPool> {
    let mut seen = HashSet::new();
    let mut is_new =
        |path: &Path| path.metadata().is_ok_and(|meta| seen.insert((meta.dev(), meta.ino())));
    let mut found = vmalloc::list();
    found.retain(|pool| is_new(&pool.path));
    for entry in std::fs::read_dir(SHM).into_iter().flatten().flatten() {
        let path = entry.path();
        // Regular files only, and no links: nothing else is opened, or even asked.
        if entry.file_type().is_ok_and(|kind| kind.is_file())
            && is_new(&path)
            && let Ok(meta) = path.symlink_metadata()
        {
            let name = path.display().to_string();
            let (uid, resident_bytes) = (meta.uid(), meta.blocks() * 512);
            found.push(FoundPool { name, path, pids: vec![], uid, resident_bytes });
        }
    }
    found
}

/// A row, if it is a pool still.
fn row(found: FoundPool) -> Option<Row> {
    let info = Onlooker::open(&found.path).ok()?.info();
    Some(Row {
        id: format!("{:08x}", info.id),
        name: found.name,
        path: found.path.display().to_string(),
        capacity_bytes: info.capacity_bytes,
        used_bytes: info.stats.used.bytes(),
        areas: info.stats.areas,
        resident_bytes: found.resident_bytes,
        uid: found.uid,
        pids: found.pids,
    })
}

fn table(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    if rows.is_empty() {
        // To stderr, so that a script that counts lines counts none.
        return writeln!(io::stderr(), "no pools: make one with `vmalloc create`, or run the demo");
    }
    writeln!(
        out,
        "{:<8} {:>9} {:>9} {:>9} {:>5} {:>6}  {:<10} NAME",
        "POOL", "CAPACITY", "USED", "RESIDENT", "AREAS", "UID", "PIDS"
    )?;
    for row in rows {
        let pids: Vec<String> = row.pids.iter().map(u32::to_string).collect();
        let pids = if pids.is_empty() { "-".to_owned() } else { pids.join(",") };
        writeln!(
            out,
            "{:<8} {:>9} {:>9} {:>9} {:>5} {:>6}  {:<10} {}",
            row.id,
            Size(row.capacity_bytes),
            Size(row.used_bytes),
            Size(row.resident_bytes),
            row.areas,
            row.uid,
            pids,
            Printable(&shown_name(row))
        )?;
    }
    Ok(())
}

/// A pool without a path is named with the path that opens it.
pub fn shown_name(row: &Row) -> String {
    if row.name.starts_with('/') {
        row.name.clone()
    } else {
        format!("{} ({})", row.name, row.path)
    }
}
