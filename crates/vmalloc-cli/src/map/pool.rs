//! The picture of a live pool: its areas above, below them what the system backs them with.
//!
//! As root that is the physical frames, read from the page maps of the members' processes; what
//! no member has touched is not there. Otherwise, or if no member has anything mapped, it is the
//! extents of the pool's file, and the picture says so.

use super::scene::{Below, Piece, Run, Scene, states};
use crate::process::Process;
use crate::show::{Printable, count, percent};
use crate::size::Size;
use crate::target::Looked;
use crate::top::{caller, frame_runs, frames, name};
use vmalloc::core::{Area, Kind, PAGE_SIZE};

const FRAMES: &str = "page frames of this machine, as the members' page maps have them";
const FILE: &str = "extents of the pool's file (physical frames are shown to root, while a member \
                    has them mapped)";

/// What there is to see of a pool now.
pub fn scene(looked: &Looked) -> Scene {
    let pool = &looked.pool;
    let (info, areas) = (pool.info(), pool.areas());
    let processes: Vec<Process> = pool
        .members()
        .iter()
        .filter_map(|member| Process::look(member.pid, pool.file_id()))
        .collect();
    let physical: Vec<Option<Vec<Run>>> =
        areas.iter().map(|area| Some(runs_of(&frames(pool, processes.iter(), area)?.1))).collect();
    let is_physical = physical.iter().any(Option::is_some);
    let below = |area: &Area, runs: Option<Vec<Run>>| match is_physical {
        true => runs.unwrap_or_default(),
        false => file_runs(looked, area),
    };
    let pieces = areas.iter().zip(physical).map(|(area, runs)| Piece {
        start: area.pages.start.0,
        pages: area.pages.len.0,
        guard: area.guard.0,
        group: area.kind as usize,
        label: label(area),
        more: pool.token_of(area).map_or(String::new(), |token| token.to_string()),
        runs: below(area, runs),
        life: None,
    });
    let pieces: Vec<Piece> = pieces.collect();
    let stats = &info.stats;
    let free = info.capacity_bytes.saturating_sub(info.committed_bytes);
    let facts = vec![
        format!(
            "{} of {} in {}, {} parked, {} free ({})",
            Size(stats.used.bytes()),
            Size(info.capacity_bytes),
            count(stats.areas as u64, "area"),
            Size(stats.parked.bytes()),
            Size(free),
            percent(free, info.capacity_bytes),
        ),
        format!(
            "window {}, largest hole {}: one block of all that is free fits",
            Size(stats.window.bytes()),
            Size(stats.largest_hole.bytes())
        ),
    ];
    let path = looked.path.display().to_string();
    Scene {
        title: format!("pool {:08x} at {}", info.id, Printable(&path)),
        facts: if free > 0 && stats.largest_hole.bytes() > free {
            facts
        } else {
            facts[..1].to_vec()
        },
        groups: states(),
        pieces,
        window: (0, stats.window.0),
        is_order_only: false,
        below: if is_physical {
            Below::Frames(FRAMES.to_owned())
        } else {
            Below::File(FILE.to_owned())
        },
    }
}

fn label(area: &Area) -> String {
    let mut text = name(area.kind).to_owned();
    if let Some(owner) = area.owner {
        let last = if area.kind == Kind::Parked { "last " } else { "" };
        text += &format!(", {last}of {owner}");
    }
    if area.caller != 0 {
        text += &format!(", asked for by {}", caller(area.caller));
    }
    text
}

fn runs_of(frames: &[Option<u64>]) -> Vec<Run> {
    frame_runs(frames).into_iter().map(|(page, at, len)| Run { page, at, len }).collect()
}

fn file_runs(looked: &Looked, area: &Area) -> Vec<Run> {
    // What cannot be read is not drawn; the pool may be closing.
    let runs = looked.pool.extents_of(area).unwrap_or_default();
    let run = |run: vmalloc::FileRun| Run {
        page: run.pages.start.0 - area.pages.start.0,
        at: run.bytes.start / PAGE_SIZE as u64,
        len: run.pages.len.0,
    };
    runs.into_iter().map(run).collect()
}
