//! The picture of the machine's own vmalloc areas; below them the nodes that their memory is on.
//!
//! Which frames they have the kernel does not tell. Where it hides addresses the areas stand in
//! the order of its list, and the picture says so.

use super::scene::{Below, Group, NODE_SHIFT, Piece, Run, Scene};
use crate::kernel_info::parse::{Entry, Kind, has_addresses};
use crate::show::count;
use crate::size::Size;
use std::collections::BTreeMap;
use vmalloc::core::{PAGE_SIZE, Pages};

/// What there is to see of a `vmallocinfo`.
pub fn scene(mut entries: Vec<Entry>, path: &str) -> Scene {
    let is_order_only = !has_addresses(&entries);
    if !is_order_only {
        entries.sort_by_key(|entry| entry.start);
    }
    let mut next_page = 0;
    let mut on_node: BTreeMap<u32, u64> = BTreeMap::new();
    let mut pieces = Vec::new();
    for entry in &entries {
        let span = entry.bytes / PAGE_SIZE as u64;
        let start = if is_order_only { next_page } else { entry.start / PAGE_SIZE as u64 };
        // A page between neighbours, so that they do not look like one.
        next_page = next_page.saturating_add(span).saturating_add(1);
        // The size counts the guard; where pages are counted the difference shows it.
        let guard = u64::from(entry.pages.is_some_and(|pages| pages.checked_add(1) == Some(span)));
        pieces.push(Piece {
            start,
            pages: span - guard,
            guard,
            group: entry.kind as usize,
            label: entry.caller.clone().unwrap_or_default(),
            more: entry.phys.map_or(String::new(), |phys| format!("phys {phys:#x}")),
            runs: runs(entry, &mut on_node),
            life: None,
        });
    }
    let first = pieces.first().map_or(0, |piece| piece.start);
    let end = pieces.last().map_or(0, |piece| piece.start + piece.pages + piece.guard);
    let unpurged = || entries.iter().filter(|entry| entry.kind == Kind::Unpurged);
    let bytes = |all: u64, entry: &Entry| all.saturating_add(entry.bytes);
    let nodes: u64 = on_node.values().sum();
    Scene {
        title: format!("the kernel's vmalloc areas, {path}"),
        facts: vec![
            format!(
                "{} of addresses in {}, {} of it unpurged in {}",
                Size(entries.iter().fold(0, bytes)),
                count(entries.len() as u64, "area"),
                Size(unpurged().fold(0, bytes)),
                count(unpurged().count() as u64, "area")
            ),
            format!(
                "{} of memory on {}",
                Size(Pages(nodes).bytes()),
                count(on_node.len() as u64, "node")
            ),
        ],
        groups: groups(),
        pieces,
        window: (first, end - first),
        is_order_only,
        below: Below::Nodes("nodes that the memory is on; the kernel does not tell frames".into()),
    }
}

/// An area's pages, one run a node, stacked there behind those of the areas before it.
fn runs(entry: &Entry, on_node: &mut BTreeMap<u32, u64>) -> Vec<Run> {
    let mut page = 0;
    let mut runs = Vec::new();
    for &(node, len) in &entry.nodes {
        // Sizes in a saved copy may be anything: what passes the line is left out.
        let at = on_node.entry(node).or_default();
        if len == 0 || *at >= 1 << NODE_SHIFT || len >= 1 << NODE_SHIFT || node >= 1 << 16 {
            continue;
        }
        runs.push(Run { page, at: u64::from(node) << NODE_SHIFT | *at, len });
        *at += len;
        page += len;
    }
    runs
}

fn groups() -> Vec<Group> {
    let colour = |kind| match kind {
        Kind::Vmalloc => ('m', "#3fd18a"),
        Kind::User => ('u', "#8fe3b8"),
        Kind::Vmap => ('v', "#b48cff"),
        Kind::VmMapRam => ('r', "#e05fb5"),
        Kind::Ioremap => ('i', "#5db8ff"),
        Kind::DmaCoherent => ('d', "#f2b544"),
        Kind::Sparse => ('s', "#d8d05a"),
        Kind::Other => ('o', "#a0acb8"),
        Kind::Unpurged => ('p', "#7d8896"),
    };
    let group = |kind: Kind| {
        let (letter, colour) = colour(kind);
        Group { name: kind.name(), letter, colour, is_grey: kind == Kind::Unpurged }
    };
    Kind::ALL.map(group).into()
}
