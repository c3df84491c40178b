//! A user is killed in a tight loop of allocating and freeing; what does the next one find?
//!
//! ```text
//!   judge: make, next ─▶ work ┄ "ready" ┄ up to 5 ms ┄ SIGKILL ─▶ next ─ an answer within a second? ─▶ count
//! ```
//!
//! Every kill has a pool (segment, service) of its own: where the next user hangs, all later ones would.

use super::Kind;
use super::spot::Spot;
use crate::report::number;
use crate::rng::Rng;
use crate::runner::{Runner, quantile};
use crate::table::Table;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Who takes longer than this to answer, hangs.
const LIMIT: Duration = Duration::from_secs(1);
/// The most time between the victim's first turn and its death.
const LIFE_NS: u64 = 5_000_000;
/// What a helper of the victim has to clean up after it, at most.
const GRACE: Duration = Duration::from_secs(1);

/// Whom SIGKILL reaches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// The process alone.
    Process,
    /// All of its process group, as when a container or a service is stopped.
    Group,
}

/// What became of one contender's victims.
#[derive(Default)]
struct Seen {
    kills: usize,
    hung: usize,
    refused: usize,
    leaking: usize,
    leaked_bytes: u64,
    stray: usize,
    answers_ms: Vec<f64>,
    /// What the first one that was refused said.
    why: Option<String>,
}

/// Runs the case.
pub fn run(runner: &mut Runner) {
    if !runner.wants("peers/kill") {
        return;
    }
    let kills = if runner.quick { 20 } else { 100 };
    let about = format!(
        "A process allocates, writes and frees 4–256 KiB in a loop and is killed by SIGKILL at a random \
         moment (iceoryx2: loans and sends; Python: makes and unlinks). Then a new process does so once: \
         *hung* is no answer within {} s, *refused* an error. *Leaked* are bytes that nobody alive holds \
         after that, *stray* files that are left in `/dev/shm` and in iceoryx2's directory a second later, and are not left by \
         a user who comes and goes in peace. What a dead \
         member of ours had published would stay, on purpose, until it is freed by its token: \
         [crash.md](crash.md) kills such members, too.",
        LIMIT.as_secs()
    );
    let columns = vec![
        "the next user after a SIGKILL",
        "kills",
        "served",
        "hung",
        "refused",
        "leaked, times",
        "leaked, bytes",
        "stray files",
        "answer, median ms",
        "slowest ms",
    ];
    let mut table = Table::new("peers/kill", about, columns);
    for (kind, reach, name) in contestants() {
        // Ours is quick, and has promised more.
        let kills = if kind == Kind::Ours { kills * 10 } else { kills };
        match kill_many(kind, reach, kills, runner.seed) {
            Ok(seen) => {
                if kind == Kind::Ours {
                    promise(&mut table, &seen);
                }
                if let Some(why) = &seen.why {
                    println!("{name}: refused, the first time with: {why}");
                }
                table.row(name, seen.cells());
            }
            Err(why) => table.skip(name, &why),
        }
    }
    runner.keep(table);
}

fn contestants() -> Vec<(Kind, Reach, String)> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        if kind == Kind::Python {
            all.push((kind, Reach::Process, format!("{}, process", kind.name())));
            all.push((kind, Reach::Group, format!("{}, process group", kind.name())));
        } else {
            all.push((kind, Reach::Process, kind.name().to_owned()));
        }
    }
    all
}

fn promise(table: &mut Table, seen: &Seen) {
    let Seen { kills, hung, refused, leaking, stray, .. } = seen;
    let measured = format!(
        "{hung} hung, {refused} refused, {leaking} leaked, {stray} stray files in {kills} kills"
    );
    let is_met = hung + refused + leaking + stray == 0;
    table.promise(
        "the next user after a SIGKILL",
        "0 hang, 0 leak, 0 stray file",
        measured,
        is_met,
    );
}

impl Seen {
    fn cells(&self) -> Vec<String> {
        let served = self.kills - self.hung - self.refused;
        let ms = |q| match self.answers_ms.len() {
            0 => "–".into(),
            _ => number(quantile(&self.answers_ms, q)),
        };
        let counts = [self.kills, served, self.hung, self.refused, self.leaking];
        let mut cells: Vec<String> = counts.iter().map(usize::to_string).collect();
        let bytes = self.leaked_bytes.to_string();
        cells.extend([bytes, self.stray.to_string(), ms(0.5), ms(1.0)]);
        cells
    }
}

fn kill_many(kind: Kind, reach: Reach, kills: usize, seed: u64) -> Result<Seen, String> {
    let mut rng = Rng(seed);
    let mut seen = Seen::default();
    for turn in 0..kills {
        let mut spot = Spot::new(kind, turn)?;
        // A user who comes and goes in peace: what is left after that is no fault.
        let mut before = kind.command("next")?;
        before.arg(&spot.argument).args(&spot.more);
        if answer_of(&mut before, &mut Seen::default()).is_none() {
            return Err("it could not work at all".into());
        }
        spot.settle();
        let mut victim = kind.command("work")?;
        victim.arg(&spot.argument).stdout(Stdio::piped()).process_group(0);
        if kind == Kind::Python {
            // Its tracker says what it cleans up.
            victim.stderr(Stdio::null());
        }
        let mut victim = victim.spawn().map_err(|e| e.to_string())?;
        let mut line = String::new();
        let ready = BufReader::new(victim.stdout.take().expect("it is piped")).read_line(&mut line);
        if !ready.is_ok_and(|bytes| bytes > 0) {
            let _ = victim.wait();
            return Err("it could not work at all".into());
        }
        std::thread::sleep(Duration::from_nanos(rng.below(LIFE_NS)));
        match reach {
            Reach::Process => victim.kill().map_err(|e| e.to_string())?,
            Reach::Group => end_group(&victim),
        }
        let _ = victim.wait();
        seen.kills += 1;
        let mut next = kind.command("next")?;
        next.arg(&spot.argument).args(&spot.more);
        let missing = answer_of(&mut next, &mut seen);
        let start = Instant::now();
        while reach == Reach::Process && spot.stray().0 > 0 && start.elapsed() < GRACE {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (files, bytes) = spot.stray();
        seen.stray += files;
        // Where a pool counts its bytes, what is missing there; elsewhere, what lies in files.
        let lost = match kind {
            Kind::Boost | Kind::Ours => missing.unwrap_or(0),
            _ => bytes,
        };
        seen.leaked_bytes += lost;
        seen.leaking += usize::from(lost > 0);
        if kind == Kind::Python && reach == Reach::Process {
            // Its helper, should it be there still.
            end_group(&victim);
        }
    }
    Ok(seen)
}

fn end_group(victim: &Child) {
    // The group may be empty by now: no error.
    if let Some(group) = i32::try_from(victim.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Runs the next user; the bytes that it found to be missing, if it answered.
fn answer_of(next: &mut Command, seen: &mut Seen) -> Option<u64> {
    let start = Instant::now();
    let mut child =
        next.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a child process");
    let status = loop {
        match child.try_wait().expect("our own child") {
            Some(status) => break Some(status),
            None if start.elapsed() > LIMIT => break None,
            None => std::thread::sleep(Duration::from_micros(200)),
        }
    };
    let Some(status) = status else {
        seen.hung += 1;
        let _ = child.kill();
        let _ = child.wait();
        return None;
    };
    let mut text = String::new();
    if !status.success() {
        seen.refused += 1;
        let _ = child.stderr.take().expect("it is piped").read_to_string(&mut text);
        let why = text.lines().next().unwrap_or_default().to_owned();
        seen.why.get_or_insert(why);
        return None;
    }
    seen.answers_ms.push(start.elapsed().as_secs_f64() * 1e3);
    let _ = child.stdout.take().expect("it is piped").read_to_string(&mut text);
    text.trim().strip_prefix("leaked=")?.parse().ok()
}
