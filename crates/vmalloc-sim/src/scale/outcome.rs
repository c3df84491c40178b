//! What a run found: turns, and the lines that they waited for, by the names of the layout.

use super::lines::{Lines, Ps};
use super::work::Workload;
use std::collections::BTreeMap;
use vmalloc_core::Geometry;
use vmalloc_core::layout::{LANES, Table};

/// What a run found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// How many CPUs worked.
    pub cpus: usize,
    /// At what.
    pub workload: Workload,
    /// For how long, in simulated time.
    pub time: Ps,
    /// What each of them did.
    pub turns: Vec<u64>,
    /// Accesses of words, of all.
    pub accesses: u64,
    /// Shootdowns, of all.
    pub shootdowns: u64,
    /// How long they waited for lines that were busy, all together.
    pub waited: Ps,
    /// How long lines were on their way to them.
    pub moved: Ps,
    /// The lines for which time was lost, the most first.
    pub hot: Vec<HotLine>,
}

/// A line, or lines of the same table, for which time was lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HotLine {
    /// What it is.
    pub name: String,
    /// Waits and ways.
    pub lost: Ps,
    /// How often it came from another CPU.
    pub moves: u64,
    /// How many lines there are of that name.
    pub lines: usize,
}

impl Outcome {
    /// Turns a second, of all CPUs.
    #[must_use]
    pub fn turns_a_second(&self) -> f64 {
        self.turns.iter().sum::<u64>() as f64 / (self.time as f64 * 1e-12)
    }

    /// Time a turn took a CPU, in nanoseconds, on the average.
    #[must_use]
    pub fn ns_each(&self) -> f64 {
        self.cpus as f64 * 1e9 / self.turns_a_second()
    }

    /// How much of all CPUs' time went to lines that were busy, and to lines on their way.
    #[must_use]
    pub fn shares(&self) -> (f64, f64) {
        let all = self.time as f64 * self.cpus as f64;
        (self.waited as f64 / all, self.moved as f64 / all)
    }
}

/// The lines for which time was lost: those of a name together.
pub(super) fn hot_lines(lines: &Lines, geometry: &Geometry, line_bytes: usize) -> Vec<HotLine> {
    let mut by_name: BTreeMap<String, HotLine> = BTreeMap::new();
    for (at, line) in lines.all().filter(|(_, line)| line.lost > 0) {
        let name = name_of(geometry, at * line_bytes / 8);
        let none = HotLine { name: name.clone(), lost: 0, moves: 0, lines: 0 };
        let hot = by_name.entry(name).or_insert(none);
        hot.lost += line.lost;
        hot.moves += line.moves;
        hot.lines += 1;
    }
    let mut all: Vec<HotLine> = by_name.into_values().collect();
    // By name, too: the same run says the same.
    all.sort_by(|a, b| b.lost.cmp(&a.lost).then_with(|| a.name.cmp(&b.name)));
    all
}

/// What word `at` is, as a line whose first word it is.
fn name_of(geometry: &Geometry, at: usize) -> String {
    let Some((table, within)) = geometry.table_of(at) else { return "no table".into() };
    let name = match table {
        Table::Zones if within == 0 => "lock of the index",
        Table::Zones => "index of free runs",
        Table::Counters => "counters of the window",
        Table::Stats => {
            let lane_words = geometry.table(Table::Stats).len() / (geometry.members * LANES);
            let (lane, word) = (within / lane_words, within % lane_words);
            // The counts of events come first; then pages parked, and what was parked last.
            let half = if word < lane_words / 2 { "events" } else { "parked" };
            return format!("lane {lane} of {LANES}, {half}");
        }
        Table::Tags => "tags",
        Table::Taken => "slots taken",
        Table::Parked => "slots parked",
        Table::Links => "links of free runs",
        Table::Runs => "lengths of free runs",
        Table::Trees => "trees of chunks",
        Table::Records => "records",
        Table::Presence => "presence",
    };
    name.into()
}
