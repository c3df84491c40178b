//! The picture of a recorded run: where areas lay, and below it how long they lived.

use super::scene::{Below, Piece, Scene, states};
use crate::show::count;
use crate::size::Size;
use crate::top::name;
use std::collections::{BTreeMap, HashMap};
use vmalloc::core::{Kind, Pages};
use vmalloc::trace::{Event, Op, flags};

/// What there is to see of a trace. Of several pools in it, the one with most events.
pub fn scene(events: &[Event], path: &str) -> Scene {
    let mut pools: BTreeMap<u32, usize> = BTreeMap::new();
    for event in events {
        *pools.entry(event.pool).or_default() += 1;
    }
    let pool = pools.iter().max_by_key(|(_, events)| **events).map_or(0, |(pool, _)| *pool);
    let events: Vec<&Event> = events.iter().filter(|event| event.pool == pool).collect();
    let seconds = |event: &Event| event.at_ns as f64 / 1e9;
    // Time begins with the first event, and ends a little after the last.
    let first = events.first().map_or(0.0, |event| seconds(event));
    let end = events.iter().map(|event| seconds(event) - first).fold(0.0, f64::max) * 1.01 + 1e-9;
    let mut alive: HashMap<(u32, u64), usize> = HashMap::new();
    let mut given: HashMap<u32, usize> = HashMap::new();
    let mut pieces: Vec<Piece> = Vec::new();
    for event in &events {
        let (key, at) = ((event.area, event.generation), seconds(event) - first);
        match (event.op, alive.get(&key)) {
            (Op::Alloc, _) => {
                alive.insert(key, pieces.len());
                pieces.push(piece(event, at, end));
            }
            (Op::Free, Some(&i)) => {
                pieces[i].life = pieces[i].life.map(|(born, _)| (born, at.max(born)));
                alive.remove(&key);
            }
            (Op::Give, Some(&i)) => {
                given.insert(event.area, i);
            }
            // The generation moves on.
            (Op::Take, _) => alive.extend(given.remove(&event.area).map(|i| (key, i))),
            (Op::Freeze, Some(&i)) => pieces[i].group = Kind::Frozen as usize,
            (Op::Share, Some(&i)) => pieces[i].group = Kind::Shared as usize,
            (Op::Resize, Some(&i)) => pieces[i].pages = Pages::for_bytes(event.bytes).0,
            _ => {}
        }
    }
    pieces.sort_by_key(|piece| piece.start);
    let capacity = events.iter().find(|event| event.op == Op::Join).map_or(0, |event| event.bytes);
    let start = pieces.first().map_or(0, |piece| piece.start);
    let stop = pieces.iter().map(|piece| piece.start + piece.pages + piece.guard).max();
    let others = match pools.len() {
        0 | 1 => String::new(),
        pools => format!("; {} more are in the trace", count(pools as u64 - 1, "pool")),
    };
    let mut scene = Scene {
        title: format!("a run of pool {pool:08x}, {path}"),
        facts: Vec::new(),
        groups: states(),
        pieces,
        window: (start, stop.unwrap_or(start) - start),
        is_order_only: false,
        below: Below::Time(end),
    };
    let fullest = scene.fullest();
    let there = scene.pieces.iter().filter(|piece| piece.is_there(fullest));
    let pages: u64 = there.clone().map(|piece| piece.pages).sum();
    scene.facts = vec![
        format!(
            "{} in {end:.3} s, {} allocated{others}",
            count(events.len() as u64, "event"),
            count(scene.pieces.len() as u64, "area"),
        ),
        format!(
            "shown above at {fullest:.3} s, the fullest moment: {} of {} in {}",
            Size(Pages(pages).bytes()),
            Size(capacity),
            count(there.count() as u64, "area")
        ),
    ];
    scene
}

fn piece(event: &Event, born: f64, end: f64) -> Piece {
    Piece {
        start: event.page,
        pages: Pages::for_bytes(event.bytes).0,
        guard: u64::from(event.flags & flags::NO_GUARD == 0),
        group: Kind::Live as usize,
        label: format!("{} for member {}", name(Kind::Live), event.member),
        more: format!("record {}, generation {}", event.area, event.generation),
        runs: Vec::new(),
        life: Some((born, end)),
    }
}
