//! `vmalloc info --kernel`: the machine's own vmalloc areas, as totals.
//!
//! From `/proc/vmallocinfo`, which is root's to read, or from a saved copy of it.

pub mod parse;

use crate::failure::{Done, Failure};
use crate::show::{count, cut, thousands};
use crate::size::Size;
use parse::{Entry, Kind, has_addresses, parse};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// Where the kernel tells it.
pub const VMALLOCINFO: &str = "/proc/vmallocinfo";

/// Rows of each table for people; `--json` has all.
const ROWS: usize = 15;

/// Adds up all there is.
#[derive(Serialize)]
struct Summary<'a> {
    areas: usize,
    /// Addresses, guard pages too.
    bytes: u64,
    /// Memory that the kernel counts pages of.
    pages_bytes: u64,
    unpurged_areas: usize,
    unpurged_bytes: u64,
    /// Whether addresses are real ones, or hashes.
    has_addresses: bool,
    kinds: Vec<Total>,
    nodes: Vec<Node>,
    callers: Vec<Total>,
    largest: Vec<Largest<'a>>,
}

#[derive(Serialize)]
struct Total {
    name: String,
    areas: usize,
    bytes: u64,
    pages_bytes: u64,
}

#[derive(Serialize)]
struct Node {
    node: u32,
    bytes: u64,
}

#[derive(Serialize)]
struct Largest<'a> {
    bytes: u64,
    pages_bytes: u64,
    kind: Kind,
    caller: Option<&'a str>,
}

/// Reads and parses a `vmallocinfo`; without a file, the machine's own.
pub fn read(file: Option<&Path>) -> Result<Vec<Entry>, Failure> {
    let path = file.unwrap_or(Path::new(VMALLOCINFO));
    let shown = path.display();
    let text = std::fs::read(path).map_err(|e| match (e.kind(), file) {
        (ErrorKind::PermissionDenied, None) => Failure::new(format_args!(
            "{VMALLOCINFO} is root's to read: use sudo, or a saved copy with --file"
        )),
        (ErrorKind::NotFound, None) => Failure::new(format_args!(
            "there is no {VMALLOCINFO} here: this kernel or container does not show it"
        )),
        _ => Failure::new(format_args!("{shown}: {e}")),
    })?;
    // What is no UTF-8 is no word of the kernel's either, and is refused as one.
    let entries = parse(&String::from_utf8_lossy(&text));
    entries.map_err(|e| Failure::new(format_args!("{shown}: {e}")))
}

/// Prints it.
pub fn run(file: Option<&Path>, json: bool) -> Done {
    let entries = read(file)?;
    let summary = Summary::of(&entries);
    let mut out = io::stdout().lock();
    let printed = if json {
        serde_json::to_writer_pretty(&mut out, &summary)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        let path = file.unwrap_or(Path::new(VMALLOCINFO)).display().to_string();
        summary.print(&path, &mut out)
    };
    printed.and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
}

impl<'a> Summary<'a> {
    fn of(entries: &'a [Entry]) -> Summary<'a> {
        let unpurged = || entries.iter().filter(|entry| entry.kind == Kind::Unpurged);
        let mut nodes: BTreeMap<u32, u64> = BTreeMap::new();
        for (node, pages) in entries.iter().flat_map(|entry| &entry.nodes) {
            let sum = nodes.entry(*node).or_default();
            *sum = sum.saturating_add(in_bytes(*pages));
        }
        let in_use = || entries.iter().filter(|entry| entry.kind != Kind::Unpurged);
        let mut largest: Vec<&Entry> = in_use().collect();
        largest.sort_by_key(|entry| std::cmp::Reverse(entry.bytes));
        Summary {
            areas: entries.len(),
            bytes: sum(entries.iter().map(|entry| entry.bytes)),
            pages_bytes: sum(entries.iter().map(memory)),
            unpurged_areas: unpurged().count(),
            unpurged_bytes: sum(unpurged().map(|entry| entry.bytes)),
            has_addresses: has_addresses(entries),
            kinds: totals(entries.iter(), |entry| entry.kind.name().to_owned()),
            nodes: nodes.into_iter().map(|(node, bytes)| Node { node, bytes }).collect(),
            callers: totals(in_use(), Entry::function),
            largest: largest
                .into_iter()
                .map(|entry| Largest {
                    bytes: entry.bytes,
                    pages_bytes: memory(entry),
                    kind: entry.kind,
                    caller: entry.caller.as_deref(),
                })
                .collect(),
        }
    }

    fn print(&self, path: &str, out: &mut impl Write) -> io::Result<()> {
        let areas = count(self.areas as u64, "area");
        writeln!(out, "{areas} in {path}")?;
        writeln!(out, "  addresses {}, guard pages too", Size(self.bytes))?;
        writeln!(out, "  memory    {}, as far as the kernel counts pages", Size(self.pages_bytes))?;
        let unpurged = count(self.unpurged_areas as u64, "area");
        let waiting = Size(self.unpurged_bytes);
        writeln!(out, "  unpurged  {waiting} in {unpurged}: freed, waiting for one flush")?;
        let nodes: Vec<String> =
            self.nodes.iter().map(|node| format!("N{} {}", node.node, Size(node.bytes))).collect();
        let nodes = if nodes.is_empty() { "not told".to_owned() } else { nodes.join(", ") };
        writeln!(out, "  nodes     {nodes}")?;
        if !self.has_addresses {
            writeln!(out, "  places    hidden: hashes stand for addresses (kernel.kptr_restrict)")?;
        }
        table(out, "BY KIND", &self.kinds)?;
        table(out, "BY CALLER", &self.callers)?;
        writeln!(out, "\n{:<44} {:>11} {:>11}  KIND", "LARGEST", "ADDRESSES", "MEMORY")?;
        for area in self.largest.iter().take(ROWS) {
            let caller = cut(area.caller.unwrap_or("-"), 44);
            let (bytes, memory) = (Size(area.bytes), Size(area.pages_bytes));
            writeln!(out, "{caller:<44} {bytes:>11} {memory:>11}  {}", area.kind.name())?;
        }
        Ok(())
    }
}

fn table(out: &mut impl Write, title: &str, rows: &[Total]) -> io::Result<()> {
    writeln!(out, "\n{title:<44} {:>7} {:>11} {:>11}", "AREAS", "ADDRESSES", "MEMORY")?;
    for row in rows.iter().take(ROWS) {
        let (name, areas) = (cut(&row.name, 44), thousands(row.areas as u64));
        let (bytes, memory) = (Size(row.bytes), Size(row.pages_bytes));
        writeln!(out, "{name:<44} {areas:>7} {bytes:>11} {memory:>11}")?;
    }
    if rows.len() > ROWS {
        writeln!(out, "… and {} more: --json has all", rows.len() - ROWS)?;
    }
    Ok(())
}

/// Totals by name, those with most addresses first.
fn totals<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    name: impl Fn(&Entry) -> String,
) -> Vec<Total> {
    let mut by_name: BTreeMap<String, Total> = BTreeMap::new();
    for entry in entries {
        let name = name(entry);
        let empty = Total { name: name.clone(), areas: 0, bytes: 0, pages_bytes: 0 };
        let total = by_name.entry(name).or_insert(empty);
        total.areas += 1;
        total.bytes = total.bytes.saturating_add(entry.bytes);
        total.pages_bytes = total.pages_bytes.saturating_add(memory(entry));
    }
    let mut totals: Vec<Total> = by_name.into_values().collect();
    totals.sort_by_key(|total| std::cmp::Reverse(total.bytes));
    totals
}

fn memory(entry: &Entry) -> u64 {
    in_bytes(entry.pages.unwrap_or(0))
}

fn in_bytes(pages: u64) -> u64 {
    pages.saturating_mul(vmalloc::core::PAGE_SIZE as u64)
}

fn sum(bytes: impl Iterator<Item = u64>) -> u64 {
    bytes.fold(0, u64::saturating_add)
}
