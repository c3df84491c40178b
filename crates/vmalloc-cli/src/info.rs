//! `vmalloc info`: one pool, or those of one process, from outside.
//!
//! Looks through an [`Onlooker`], which takes no member slot. What it prints is of the moment:
//! members go on working meanwhile. The area lines are `vmallocinfo`'s, cut on a terminal only,
//! so that a pipe gets all of them.

use crate::args::InfoArgs;
use crate::failure::{Done, Failure};
use crate::kernel_info;
use crate::metrics;
use crate::show::{COLUMNS, Printable, area_line, count, counted, percent, thousands};
use crate::size::Size;
use crate::target::{self, Looked};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};
use vmalloc::core::{Area, Stats, flags};
use vmalloc::{Info, MemberInfo};

/// A pool, as `--json` tells it.
#[derive(Serialize)]
struct PoolJson {
    id: String,
    path: String,
    made_unix_s: u64,
    capacity_bytes: u64,
    /// What it may hold now.
    limit_bytes: u64,
    committed_bytes: u64,
    resident_bytes: u64,
    tables_bytes: u64,
    /// What stitched views and runs of framed pools of one process may take, by this machine's
    /// `vm.max_map_count`.
    stitched_vmas_max: usize,
    guards: bool,
    framed: bool,
    stats: StatsJson,
    members: Vec<MemberJson>,
    areas: Vec<AreaJson>,
}

#[derive(Serialize)]
struct MemberJson {
    number: usize,
    pid: u32,
    /// Null: the kernel would not say.
    alive: Option<bool>,
    used_bytes: u64,
    /// Null: it has none.
    quota_bytes: Option<u64>,
}

#[derive(Serialize)]
struct AreaJson {
    offset_bytes: u64,
    bytes: u64,
    pages: u64,
    guard_pages: u64,
    /// A word that whoever asked gave; 0: none.
    caller: u64,
    /// `vmalloc`, `vmap`…, as `vmallocinfo` says it.
    what: &'static str,
    user: bool,
    huge: bool,
    read_only: bool,
    /// `live`, `frozen`, `parked`…
    kind: String,
    generation: u64,
    owner: Option<usize>,
    /// Of a published area.
    token: Option<String>,
    vmallocinfo: String,
}

/// The engine's totals under their names.
#[derive(Serialize)]
pub struct StatsJson {
    areas: usize,
    used_bytes: u64,
    parked_areas: usize,
    parked_bytes: u64,
    free_bytes: u64,
    window_bytes: u64,
    largest_hole_bytes: u64,
    allocs: u64,
    frees: u64,
    revives: u64,
    purged: u64,
    flushes: u64,
    attaches: u64,
    failures: u64,
    recovered: u64,
}

/// Prints the pool or pools.
pub fn run(args: &InfoArgs) -> Done {
    let Some(target) = &args.target else {
        return kernel_info::run(args.file.as_deref(), args.json);
    };
    let found = target::all(target)?;
    let mut out = io::stdout().lock();
    let printed = if args.metrics {
        metrics::print(&found, &mut out)
    } else if args.json {
        let pools: Vec<PoolJson> = found.iter().map(PoolJson::of).collect();
        serde_json::to_writer_pretty(&mut out, &pools)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        found.iter().enumerate().try_for_each(|(i, looked)| {
            if i > 0 {
                writeln!(out)?;
            }
            looked.print(&mut out)
        })
    };
    printed.and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
}

impl Looked {
    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let (info, areas) = (self.pool.info(), self.pool.areas());
        let path = self.path.display().to_string();
        writeln!(out, "pool {:08x} at {}", info.id, Printable(&path))?;
        print_totals(out, &info)?;
        let members = self.pool.members();
        writeln!(out, "members{}", if members.is_empty() { ": none" } else { "" })?;
        for member in members {
            let MemberInfo { number, pid, used_bytes, quota_bytes, .. } = member;
            let quota =
                quota_bytes.map_or("no quota".into(), |quota| format!("of {}", Size(quota)));
            let held = format!("{} {quota}", Size(used_bytes));
            writeln!(out, "  {number:<3} pid {pid:<8} {held:<22} {}", life(&member))?;
        }
        writeln!(out, "areas{}", if areas.is_empty() { ": none" } else { "" })?;
        let width = io::stdout().is_terminal().then_some(COLUMNS - 2);
        for area in &areas {
            writeln!(out, "  {}", area_line(area, width))?;
            if let Some(token) = self.pool.token_of(area) {
                writeln!(out, "      {token}  {}", Size(area.bytes))?;
            }
        }
        Ok(())
    }
}

fn print_totals(out: &mut impl Write, info: &Info) -> io::Result<()> {
    let stats = &info.stats;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let used = format!("{} of {}", Size(stats.used.bytes()), Size(info.capacity_bytes));
    let share = percent(stats.used.bytes(), info.capacity_bytes);
    writeln!(out, "  used      {used} ({share}) in {}", count(stats.areas as u64, "area"))?;
    let limit = match info.limit_bytes == info.capacity_bytes {
        true => "its capacity".into(),
        false => format!("{} of {} capacity", Size(info.limit_bytes), Size(info.capacity_bytes)),
    };
    writeln!(out, "  limit     {limit}")?;
    let parked = count(stats.parked_areas as u64, "area");
    writeln!(out, "  parked    {} in {parked}", Size(stats.parked.bytes()))?;
    let tables = Size(info.tables_bytes);
    writeln!(out, "  resident  {}, of it {tables} of tables", Size(info.resident_bytes))?;
    let (window, hole) = (Size(stats.window.bytes()), Size(stats.largest_hole.bytes()));
    writeln!(out, "  window    {window} of addresses, largest hole {hole}")?;
    if info.framed {
        writeln!(out, "  framed    its frames are there from the start")?;
    }
    let guards = if info.guards { "yes" } else { "no: this kernel has none before Linux 6.13" };
    writeln!(out, "  guards    {guards}")?;
    let vmas = info.stitched_vmas_max;
    if info.framed {
        writeln!(
            out,
            "  VMAs      one a run of frames; with stitched views at most {vmas} a process"
        )?;
    } else {
        writeln!(out, "  VMAs      3 a member; stitched views of a process may take {vmas} more")?;
    }
    let [allocs, rest] = counted(stats);
    writeln!(out, "  counted   {allocs},")?;
    writeln!(out, "            {rest},")?;
    writeln!(out, "            {} recovered from the dead", thousands(stats.recovered))?;
    writeln!(out, "  made      {} ago", age(now.saturating_sub(info.made_unix_s)))
}

pub fn life(member: &MemberInfo) -> &'static str {
    match member.alive {
        Some(true) => "alive",
        Some(false) => "dead: the next member recovers what it held",
        None => "unknown",
    }
}

/// `45 s`, `12 min`, `5 h`, `3 days`.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

impl PoolJson {
    fn of(looked: &Looked) -> PoolJson {
        let (pool, info) = (&looked.pool, looked.pool.info());
        let area = |area: &Area| AreaJson {
            offset_bytes: area.addr().0,
            bytes: area.bytes,
            pages: area.pages.len.0,
            guard_pages: area.guard.0,
            caller: area.caller,
            what: area.what(),
            user: area.flags & flags::USERMAP != 0,
            huge: area.flags & flags::HUGE != 0,
            read_only: area.flags & flags::READ_ONLY != 0,
            generation: area.generation,
            kind: format!("{:?}", area.kind).to_lowercase(),
            owner: area.owner.map(|owner| owner.number()),
            token: pool.token_of(area).map(|token| token.to_string()),
            vmallocinfo: area.to_string(),
        };
        let member = |m: MemberInfo| MemberJson {
            number: m.number,
            pid: m.pid,
            alive: m.alive,
            used_bytes: m.used_bytes,
            quota_bytes: m.quota_bytes,
        };
        PoolJson {
            id: format!("{:08x}", info.id),
            path: looked.path.display().to_string(),
            made_unix_s: info.made_unix_s,
            capacity_bytes: info.capacity_bytes,
            limit_bytes: info.limit_bytes,
            committed_bytes: info.committed_bytes,
            resident_bytes: info.resident_bytes,
            tables_bytes: info.tables_bytes,
            stitched_vmas_max: info.stitched_vmas_max,
            guards: info.guards,
            framed: info.framed,
            stats: StatsJson::of(&info.stats),
            members: pool.members().into_iter().map(member).collect(),
            areas: pool.areas().iter().map(area).collect(),
        }
    }
}

impl StatsJson {
    /// The totals, in bytes.
    pub fn of(stats: &Stats) -> StatsJson {
        StatsJson {
            areas: stats.areas,
            used_bytes: stats.used.bytes(),
            parked_areas: stats.parked_areas,
            parked_bytes: stats.parked.bytes(),
            free_bytes: stats.frames_free.bytes(),
            window_bytes: stats.window.bytes(),
            largest_hole_bytes: stats.largest_hole.bytes(),
            allocs: stats.allocs,
            frees: stats.frees,
            revives: stats.revives,
            purged: stats.purged,
            flushes: stats.flushes,
            attaches: stats.attaches,
            failures: stats.failures,
            recovered: stats.recovered,
        }
    }
}
