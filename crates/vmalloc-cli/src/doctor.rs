//! `vmalloc doctor`: who is alive in a pool and who is dead, what the dead hold, and whether the
//! invariants hold.
//!
//! ```text
//!   each pool: look ─▶ --repair and somebody dead: join, which recovers them ─▶ look again
//! ```
//!
//! It looks through an [`Onlooker`], which takes no slot and stops nobody. So a member that is in
//! the middle of something may look like damage: the invariants are looked at until they hold,
//! and only what fails in the same way at every look is called wrong.

use crate::failure::{Done, Failure, open};
use crate::info::life;
use crate::list;
use crate::show::{Printable, count};
use crate::size::Size;
use crate::target::{self, Looked};
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;
use vmalloc::core::{Recovered, Verified};
use vmalloc::{HeaderError, Onlooker, OpenError};

/// How often the invariants are looked at, if members at work keep them from holding.
const LOOKS: usize = 25;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

const HELP: &str = "\
Examples:
  vmalloc doctor                          every pool that this user may see
  vmalloc doctor /dev/shm/frames
  vmalloc doctor /dev/shm/frames --repair
  vmalloc doctor --json | jq '.[] | select(.well | not) | .path'

Without --repair it only looks: it takes no member slot and changes nothing.
Members may go on working meanwhile. The dead are also recovered by the next
process that opens the pool, and by an allocation that finds no room.

Exit codes: 0 all well, 1 a member is dead, or a pool is damaged.";

/// Which pools to look at, and what to do.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct DoctorArgs {
    /// A pool's path, or the number of a process that has pools open [default: every pool].
    #[arg(value_name = "PATH|PID")]
    pub pool: Option<PathBuf>,
    /// Recover what dead members held.
    #[arg(long)]
    pub repair: bool,
    /// Print JSON: a list with one object a pool.
    #[arg(long)]
    pub json: bool,
}

/// What there is to say of a pool.
#[derive(Serialize)]
struct Report {
    path: String,
    /// Of what could be opened.
    id: Option<String>,
    well: bool,
    members: Vec<Member>,
    check: Check,
    /// What was done, if something was.
    repaired: Option<Repaired>,
}

#[derive(Serialize)]
struct Member {
    number: usize,
    pid: u32,
    /// Null: the kernel would not say.
    alive: Option<bool>,
    /// For people.
    #[serde(skip)]
    life: &'static str,
    areas: usize,
    bytes: u64,
    published: usize,
    attachments: usize,
}

/// Whether the invariants hold.
#[derive(Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
enum Check {
    /// They do.
    Holds { areas: usize, parked: usize, bytes: u64 },
    /// Members were changing things at every look: ask again when they are quiet.
    Busy { looks: usize, last: String },
    /// One does not, and nobody was changing anything there.
    Broken { what: String },
    /// It could not be opened.
    Unreadable { what: String },
}

/// What recovery did.
#[derive(Clone, Copy, Serialize)]
struct Repaired {
    /// Members that were dead before and have no slot now.
    members: usize,
    /// Areas freed.
    areas: usize,
    /// Attachments given back.
    detached: usize,
    /// Pieces of the window, of 512 KiB each, that they were just taking or giving back.
    granules: usize,
}

/// Examines the pools, and repairs them if asked to.
pub fn run(args: &DoctorArgs) -> Done {
    let mut reports = Vec::new();
    match &args.pool {
        Some(pool) => reports.extend(target::all(pool)?.into_iter().map(Report::of)),
        None => reports.extend(list::found().into_iter().filter_map(|pool| anywhere(pool.path))),
    }
    let mut failed = None;
    if args.repair {
        for report in reports.iter_mut().filter(|report| report.dead() > 0) {
            if let Err(failure) = report.repair() {
                failed = failed.or(Some(failure));
            }
        }
    }
    let mut out = io::stdout().lock();
    let printed = if args.json {
        serde_json::to_writer_pretty(&mut out, &reports)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else if reports.is_empty() {
        writeln!(io::stderr(), "no pools: make one with `vmalloc create`, or run the demo")
    } else {
        reports.iter().try_for_each(|report| report.print(&mut out))
    };
    printed.and_then(|()| out.flush()).map_err(|e| Failure::output(&e))?;
    match failed {
        Some(failure) => Err(failure),
        None => verdict(&reports),
    }
}

/// What was found at a place where a pool may be: `None` if it is none, or not there any more.
fn anywhere(path: PathBuf) -> Option<Report> {
    match Onlooker::open(&path) {
        Ok(pool) => Some(Report::of(Looked { path, pool })),
        // Somebody else's file, or a pool that is being made.
        Err(OpenError::Header(HeaderError::Magic { .. } | HeaderError::NotReady)) => None,
        Err(OpenError::Header(e)) => Some(Report::unreadable(&path, e.to_string())),
        Err(_) => None,
    }
}

/// The exit code, and what to do next.
fn verdict(reports: &[Report]) -> Done {
    let ill: Vec<&Report> = reports.iter().filter(|report| !report.well).collect();
    let Some(first) = ill.first() else { return Ok(()) };
    let dead: usize = ill.iter().map(|report| report.dead()).sum();
    let (what, next) = match dead {
        0 => {
            ("is damaged", "copy out what you still need, and remove it with `vmalloc rm --force`")
        }
        _ => ("has dead members", "`vmalloc doctor --repair` recovers what they held"),
    };
    let others = match ill.len() {
        1 => String::new(),
        ill => format!(", and {} more not well", ill - 1),
    };
    Err(Failure::new(format_args!("{} {what}{others}: {next}", first.path)))
}

impl Report {
    fn of(looked: Looked) -> Report {
        let member = |m: vmalloc::MemberInfo| {
            let held = looked.pool.holdings(m.number);
            Member {
                number: m.number,
                pid: m.pid,
                alive: m.alive,
                life: life(&m),
                areas: held.areas,
                bytes: held.bytes,
                published: held.published,
                attachments: held.attachments,
            }
        };
        let members: Vec<Member> = looked.pool.members().into_iter().map(member).collect();
        let is_quiet = members.iter().all(|m| m.alive == Some(false));
        let check = Check::of(&looked.pool, is_quiet);
        let well = members.iter().all(|m| m.alive != Some(false)) && check.is_well();
        let id = Some(format!("{:08x}", looked.pool.info().id));
        let path = looked.path.display().to_string();
        Report { path, id, well, members, check, repaired: None }
    }

    fn unreadable(path: &std::path::Path, what: String) -> Report {
        let (path, check) = (path.display().to_string(), Check::Unreadable { what });
        Report { path, id: None, well: false, members: vec![], check, repaired: None }
    }

    fn dead(&self) -> usize {
        self.members.iter().filter(|member| member.alive == Some(false)).count()
    }

    /// Joins the pool, which recovers the dead, and looks at it again.
    fn repair(&mut self) -> Done {
        let path = PathBuf::from(&self.path);
        // Before joining, and after having left: a memfd goes with the last one who has it open.
        let looked = target::look(path.clone())?;
        let pool = open(&path)?;
        let mut found = pool.recovered_at_join();
        // Those who died since.
        found += pool.recover();
        drop(pool);
        let before = self.dead();
        *self = Report::of(looked);
        let Recovered { areas, detached, granules } = found;
        let members = before.saturating_sub(self.dead());
        self.repaired = Some(Repaired { members, areas, detached, granules });
        Ok(())
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let id = self.id.as_deref().unwrap_or("-");
        writeln!(out, "pool {id} at {}", Printable(&self.path))?;
        if let Some(did) = self.repaired {
            writeln!(
                out,
                "  repaired  {} recovered: {} freed, {} given back, {} put right",
                count(did.members as u64, "dead member"),
                count(did.areas as u64, "area"),
                count(did.detached as u64, "attachment"),
                count(did.granules as u64, "granule"),
            )?;
        }
        for m in &self.members {
            let alone = count(m.areas as u64, "area");
            writeln!(out, "  member {:<3} pid {:<8} {}", m.number, m.pid, m.life)?;
            writeln!(
                out,
                "      holds {alone} of its own ({}), {} published, {}",
                Size(m.bytes),
                m.published,
                count(m.attachments as u64, "attachment")
            )?;
        }
        if self.members.is_empty() && self.id.is_some() {
            writeln!(out, "  members: none")?;
        }
        self.check.print(out)?;
        writeln!(out, "  {}", if self.well { "well" } else { "not well" })
    }
}

impl Check {
    /// Looks until the invariants hold; with nobody there who could be changing things, once.
    fn of(pool: &Onlooker, is_quiet: bool) -> Check {
        let holds = |v: Verified| {
            let (areas, parked, bytes) = (v.areas, v.parked, v.pages.bytes());
            Check::Holds { areas, parked, bytes }
        };
        let first = match pool.verify() {
            Ok(verified) => return holds(verified),
            Err(e) => e.to_string(),
        };
        let (mut last, mut is_always_the_same) = (first.clone(), true);
        for _ in 1..if is_quiet { 1 } else { LOOKS } {
            std::thread::sleep(BETWEEN_LOOKS);
            match pool.verify() {
                Ok(verified) => return holds(verified),
                Err(e) => last = e.to_string(),
            }
            is_always_the_same &= last == first;
        }
        match is_always_the_same {
            true => Check::Broken { what: last },
            false => Check::Busy { looks: LOOKS, last },
        }
    }

    fn is_well(&self) -> bool {
        matches!(self, Check::Holds { .. } | Check::Busy { .. })
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Check::Holds { areas, parked, bytes } => writeln!(
                out,
                "  invariants hold: {}, {parked} parked, {}",
                count(*areas as u64, "area"),
                Size(*bytes)
            ),
            Check::Busy { looks, last } => writeln!(
                out,
                "  invariants: not to be had in {looks} looks, since members are at work; \
                 ask again when they are quiet\n      the last look: {last}"
            ),
            Check::Broken { what } => writeln!(out, "  invariants broken: {what}"),
            Check::Unreadable { what } => writeln!(out, "  cannot be opened: {}", Printable(what)),
        }
    }
}
