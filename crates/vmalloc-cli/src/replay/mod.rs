//! `vmalloc replay`: plays a recorded run again, under several settings, side by side.
//!
//! ```text
//!   trace ─▶ for each setting: Stage (linux: real pools · sim: page tables) ─▶ Outcome ─▶ column
//! ```
//!
//! One process plays all members of the run, each as a member of its own, without the time that
//! the program thought in between. Only the verbs are timed. At the moment at which the program
//! held most, the pool is looked at.

mod linux;
mod sim;

use crate::args::Machine;
use crate::failure::{Done, Failure};
use crate::record;
use crate::show::{percent, thousands};
use crate::size::Size;
use clap::Args as ClapArgs;
use serde::Serialize;
use std::collections::HashMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;
use vmalloc::core::{Request, Stats};
use vmalloc::trace::{Event, Op, flags};

const EXAMPLES: &str = "\
Examples:
  vmalloc replay run.trace
  vmalloc replay run.trace --lazy-limit none,0,64M
  vmalloc replay run.trace --no-reuse          with reuse, and without
  vmalloc replay run.trace --machine sim,linux --json

Each combination of the values is a column. --lazy-limit is what a member may
leave parked before its frees purge: none is the default of a pool. On linux the
memory is real, so a run that needs 8 GiB needs them again. On sim times are the
simulation's; shootdowns and walks are what counts there, and only allocations,
frees and purges are played, of one pool.";

/// What to play, and how.
#[derive(ClapArgs, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ReplayArgs {
    /// What `vmalloc record` wrote.
    pub trace: PathBuf,
    /// On real memory, on a simulated machine, or both.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "linux")]
    pub machine: Vec<Machine>,
    /// How much may be parked, one or more: none, 0, 64M.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', default_value = "none", value_parser = lazy_limit)]
    pub lazy_limit: Vec<Limit>,
    /// Play it once more without reuse of parked areas.
    #[arg(long)]
    pub no_reuse: bool,
    /// Print JSON: a list with one object a column.
    #[arg(long)]
    pub json: bool,
}

/// What may be parked; `None`: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit(Option<u64>);

fn lazy_limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    let size: Size = text.parse().map_err(|e: crate::size::SizeError| e.to_string())?;
    Ok(Limit(Some(size.0)))
}

/// One way to play it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    machine: Machine,
    lazy_bytes: Option<u64>,
    no_reuse: bool,
}

/// What plays an event. `None`: it could not be played, since what it is about is not there.
trait Stage {
    fn play(&mut self, event: &Event) -> Option<Played>;
    fn look(&self) -> Look;
}

/// How an event went.
struct Played {
    took: Duration,
    refused: bool,
}

/// The pools at a moment.
#[derive(Clone, Copy, Default, Debug)]
struct Look {
    stats: Stats,
    resident_bytes: u64,
    /// Of the page tables' walker, on sim.
    walks: Option<u64>,
    flushed_pages: Option<u64>,
}

/// A column.
#[derive(Serialize)]
struct Outcome {
    machine: &'static str,
    /// Null: no limit.
    lazy_limit_bytes: Option<u64>,
    reuse: bool,
    played: usize,
    skipped: usize,
    refused: usize,
    seconds: f64,
    alloc_ns_median: u64,
    alloc_ns_p99: u64,
    free_ns_median: u64,
    free_ns_p99: u64,
    revived: u64,
    allocs: u64,
    purged: u64,
    flushes: u64,
    flushed_pages: Option<u64>,
    mapper_walks: Option<u64>,
    /// At the fullest moment.
    used_bytes: u64,
    parked_bytes: u64,
    resident_bytes: u64,
    largest_hole_bytes: u64,
    holes_bytes: u64,
    taken_bytes: u64,
}

/// Plays it under each setting.
pub fn run(args: &ReplayArgs) -> Done {
    let events = record::read(&args.trace)?;
    if events.is_empty() {
        return Err(Failure::new(format_args!("{} holds no event", args.trace.display())));
    }
    let outcomes: Vec<Outcome> = settings(args)
        .into_iter()
        .map(|setting| match setting.machine {
            Machine::Linux => Ok(play(&events, &setting, &mut linux::Pools::new(&setting))),
            Machine::Sim => sim::with(&events, &setting, |stage| play(&events, &setting, stage)),
        })
        .collect::<Result<_, Failure>>()?;
    let mut out = io::stdout().lock();
    let printed = if args.json {
        serde_json::to_writer_pretty(&mut out, &outcomes)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        table(&outcomes, &mut out)
    };
    printed.and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
}

/// Every combination, in the order of the command line.
fn settings(args: &ReplayArgs) -> Vec<Setting> {
    let mut settings = Vec::new();
    for &machine in &args.machine {
        for limit in &args.lazy_limit {
            for no_reuse in [false, true] {
                let setting = Setting { machine, lazy_bytes: limit.0, no_reuse };
                if (!no_reuse || args.no_reuse) && !settings.contains(&setting) {
                    settings.push(setting);
                }
            }
        }
    }
    settings
}

/// The request that an event was.
fn request(event: &Event, setting: &Setting) -> Request {
    let mut request = Request::bytes(event.bytes).align_bytes(event.align_bytes());
    let has = |flag: u16| event.flags & flag != 0;
    if has(flags::ZEROED) {
        request = request.zeroed();
    }
    if has(flags::HUGE) {
        request = request.huge();
    }
    if has(flags::NO_GUARD) {
        request = request.no_guard();
    }
    if has(flags::NO_REUSE) || setting.no_reuse {
        request = request.no_reuse();
    }
    request
}

/// After which event most bytes are held.
fn fullest(events: &[Event]) -> usize {
    let mut held: HashMap<(u32, u32), u64> = HashMap::new();
    let (mut now, mut most, mut at) = (0_u64, 0, 0);
    for (i, event) in events.iter().enumerate() {
        let key = (event.pool, event.area);
        match event.op {
            Op::Alloc | Op::Resize => {
                let before = held.insert(key, event.bytes).unwrap_or(0);
                now = now.saturating_sub(before).saturating_add(event.bytes);
            }
            Op::Free => now = now.saturating_sub(held.remove(&key).unwrap_or(0)),
            _ => {}
        }
        if now > most {
            (most, at) = (now, i);
        }
    }
    at
}

fn play(events: &[Event], setting: &Setting, stage: &mut dyn Stage) -> Outcome {
    let fullest = fullest(events);
    let (mut allocs, mut frees) = (Vec::new(), Vec::new());
    let (mut played, mut skipped, mut refused) = (0, 0, 0);
    let mut took = Duration::ZERO;
    let mut full = Look::default();
    // Counters go with a pool whose last member leaves: the best that was seen counts.
    let mut last = Look::default();
    for (i, event) in events.iter().enumerate() {
        if event.op == Op::Leave || i + 1 == events.len() {
            last = later(last, stage.look());
        }
        match stage.play(event) {
            None => skipped += 1,
            Some(done) => {
                played += 1;
                refused += usize::from(done.refused);
                took += done.took;
                match event.op {
                    Op::Alloc => allocs.push(done.took),
                    Op::Free => frees.push(done.took),
                    _ => {}
                }
            }
        }
        if i == fullest {
            full = stage.look();
        }
    }
    last = later(last, stage.look());
    let holes = full.stats.holes.bytes();
    Outcome {
        machine: if setting.machine == Machine::Linux { "linux" } else { "sim" },
        lazy_limit_bytes: setting.lazy_bytes,
        reuse: !setting.no_reuse,
        played,
        skipped,
        refused,
        seconds: took.as_secs_f64(),
        alloc_ns_median: at_part(&mut allocs, 0.5),
        alloc_ns_p99: at_part(&mut allocs, 0.99),
        free_ns_median: at_part(&mut frees, 0.5),
        free_ns_p99: at_part(&mut frees, 0.99),
        revived: last.stats.revives,
        allocs: last.stats.allocs,
        purged: last.stats.purged,
        flushes: last.stats.flushes,
        flushed_pages: last.flushed_pages,
        mapper_walks: last.walks,
        used_bytes: full.stats.used.bytes(),
        parked_bytes: full.stats.parked.bytes(),
        resident_bytes: full.resident_bytes,
        largest_hole_bytes: full.stats.largest_hole.bytes(),
        holes_bytes: holes,
        taken_bytes: full.stats.window.bytes().saturating_sub(holes),
    }
}

fn later(a: Look, b: Look) -> Look {
    if b.stats.allocs >= a.stats.allocs { b } else { a }
}

/// The value below which a part of them lie, in ns.
fn at_part(times: &mut [Duration], part: f64) -> u64 {
    times.sort_unstable();
    let at = (times.len() as f64 * part) as usize;
    let time = times.get(at.min(times.len().saturating_sub(1)));
    time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// A row of the table: its name, and what stands in it for an outcome.
type Row = (&'static str, fn(&Outcome) -> String);

#[rustfmt::skip] // A table reads as one row a line.
const ROWS: [Row; 21] = [
    ("machine", |o| o.machine.to_owned()),
    ("lazy limit", |o| o.lazy_limit_bytes.map_or("none".into(), |bytes| Size(bytes).to_string())),
    ("reuse", |o| if o.reuse { "yes" } else { "no" }.to_owned()),
    ("events played", |o| thousands(o.played as u64)),
    ("  not playable", |o| thousands(o.skipped as u64)),
    ("  refused", |o| thousands(o.refused as u64)),
    ("time in the verbs", |o| format!("{:.1} ms", o.seconds * 1000.0)),
    ("alloc, median", |o| microseconds(o.alloc_ns_median)),
    ("alloc, 99 %", |o| microseconds(o.alloc_ns_p99)),
    ("free, median", |o| microseconds(o.free_ns_median)),
    ("free, 99 %", |o| microseconds(o.free_ns_p99)),
    ("revived", |o| percent(o.revived, o.allocs)),
    ("flushes", |o| thousands(o.flushes)),
    ("areas purged", |o| thousands(o.purged)),
    ("fullest: used", |o| Size(o.used_bytes).to_string()),
    ("  parked", |o| Size(o.parked_bytes).to_string()),
    ("  addresses taken", |o| Size(o.taken_bytes).to_string()),
    ("  largest hole", |o| percent(o.largest_hole_bytes, o.holes_bytes) + " of holes"),
    ("  resident", |o| Size(o.resident_bytes).to_string()),
    ("pages flushed", |o| o.flushed_pages.map_or("-".into(), thousands)),
    ("walks of the mapper", |o| o.mapper_walks.map_or("-".into(), thousands)),
];

fn microseconds(ns: u64) -> String {
    format!("{:.1} µs", ns as f64 / 1000.0)
}

/// A row a measure, a column a setting.
fn table(outcomes: &[Outcome], out: &mut impl Write) -> io::Result<()> {
    ROWS.iter().try_for_each(|(name, cell)| {
        let cells: String = outcomes.iter().map(|o| format!(" {:>14}", cell(o))).collect();
        writeln!(out, "{name:<20}{cells}")
    })
}
