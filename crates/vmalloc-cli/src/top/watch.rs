//! Looks at a pool, one after the other, and what two of them say together.
//!
//! A record holds no time: how old an area is can only be said since it was first seen, and of
//! those that were there at the first look only that they are older. Rates are differences of the
//! members' counters, which only ever grow; before there are two looks they are averages since
//! the pool was made.

use crate::process::{self, Process};
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vmalloc::core::{Area, AreaId, Kind, Stats};
use vmalloc::{FileRun, Info, MemberInfo, Onlooker};

/// Which tenant of which slot.
pub type Key = (AreaId, u64);

/// What one look found.
#[derive(Debug)]
pub struct Sample {
    pub info: Info,
    pub members: Vec<Member>,
    pub areas: Vec<Area>,
    pub at: Instant,
}

/// A member and what it holds.
#[derive(Debug)]
pub struct Member {
    pub info: MemberInfo,
    pub areas: usize,
    pub held_bytes: u64,
    pub parked_bytes: u64,
    /// Its process, if this user may look into it.
    pub process: Option<Process>,
}

/// Events a second.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rates {
    pub allocs: f64,
    pub frees: f64,
    pub revives: f64,
    pub purged: f64,
    pub flushes: f64,
    pub attaches: f64,
    pub failures: f64,
    /// Over which time; `None`: since the pool was made.
    pub over: Option<Duration>,
}

/// How long an area has been there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Age {
    pub seen: Duration,
    /// It was there before the first look: it is older.
    pub or_more: bool,
}

/// A pool that is looked at again and again.
pub struct Watch {
    pool: Onlooker,
    began: Instant,
    now: Sample,
    before: Option<(Stats, Instant)>,
    first_seen: HashMap<Key, Instant>,
    /// `vm.max_map_count`.
    pub vmas_max: Option<usize>,
}

impl Watch {
    /// Looks for the first time.
    pub fn new(pool: Onlooker) -> Watch {
        let now = Sample::take(&pool);
        let began = now.at;
        let first_seen = now.areas.iter().map(|area| (key(area), began)).collect();
        Watch { pool, began, now, before: None, first_seen, vmas_max: process::vmas_max() }
    }

    /// Looks again.
    pub fn look(&mut self) {
        let now = Sample::take(&self.pool);
        let seen = |area: &Area| (key(area), *self.first_seen.get(&key(area)).unwrap_or(&now.at));
        self.first_seen = now.areas.iter().map(seen).collect();
        self.before = Some((self.now.info.stats, self.now.at));
        self.now = now;
    }

    /// What the last look found.
    pub fn now(&self) -> &Sample {
        &self.now
    }

    /// Events a second between the last two looks.
    pub fn rates(&self) -> Rates {
        let stats = &self.now.info.stats;
        let (before, over) = match &self.before {
            Some((before, at)) => (*before, Some(self.now.at - *at)),
            None => (Stats::default(), None),
        };
        let lived = unix_now().saturating_sub(self.now.info.made_unix_s).max(1) as f64;
        let seconds = over.map_or(lived, |over| over.as_secs_f64().max(1e-3));
        // Words that any member may write: one that runs backwards counts nothing.
        let rate = |of: fn(&Stats) -> u64| of(stats).saturating_sub(of(&before)) as f64 / seconds;
        Rates {
            allocs: rate(|s| s.allocs),
            frees: rate(|s| s.frees),
            revives: rate(|s| s.revives),
            purged: rate(|s| s.purged),
            flushes: rate(|s| s.flushes),
            attaches: rate(|s| s.attaches),
            failures: rate(|s| s.failures),
            over,
        }
    }

    /// How long an area of the last look has been there.
    pub fn age(&self, area: &Area) -> Age {
        let first = self.first_seen.get(&key(area)).copied().unwrap_or(self.now.at);
        Age { seen: self.now.at - first, or_more: first == self.began }
    }

    /// Whether it was looked at once only, so that ages say nothing.
    pub fn is_first(&self) -> bool {
        self.before.is_none()
    }

    /// The token of a published area.
    pub fn token_of(&self, area: &Area) -> Option<String> {
        self.pool.token_of(area).map(|token| token.to_string())
    }

    /// The parts of an area that hold data, in the file.
    pub fn extents(&self, area: &Area) -> std::io::Result<Vec<FileRun>> {
        self.pool.extents_of(area)
    }

    /// The physical frames of an area, from the first member that has it mapped and whose page map
    /// may be read; and that member's process.
    pub fn frames(&self, area: &Area) -> Option<(u32, Vec<Option<u64>>)> {
        frames(&self.pool, self.now.members.iter().filter_map(|m| m.process.as_ref()), area)
    }
}

/// The physical frames of an area, as whichever process has most of it mapped sees them.
pub fn frames<'a>(
    pool: &Onlooker,
    processes: impl Iterator<Item = &'a Process>,
    area: &Area,
) -> Option<(u32, Vec<Option<u64>>)> {
    let mut runs = pool.file_runs(area);
    runs.sort_by_key(|run| run.bytes.start);
    let seen = processes.filter_map(|process| Some((process.pid, process.frames(area, &runs)?)));
    let known = |frames: &[Option<u64>]| frames.iter().flatten().count();
    seen.max_by_key(|(_, frames)| known(frames)).filter(|(_, frames)| known(frames) > 0)
}

impl Sample {
    fn take(pool: &Onlooker) -> Sample {
        let (info, areas) = (pool.info(), pool.areas());
        let mut members: Vec<Member> = pool.members().into_iter().map(Member::of).collect();
        for member in &mut members {
            let has_it = |process: &Process| process.pool_vmas() > 0;
            member.process = Process::look(member.info.pid, pool.file_id()).filter(has_it);
            member.count(&areas);
        }
        Sample { info, members, areas, at: Instant::now() }
    }
}

impl Member {
    fn of(info: MemberInfo) -> Member {
        Member { info, areas: 0, held_bytes: 0, parked_bytes: 0, process: None }
    }

    fn count(&mut self, areas: &[Area]) {
        let number = Some(self.info.number);
        let mine = areas.iter().filter(|area| area.owner.map(|owner| owner.number()) == number);
        for area in mine {
            if matches!(area.kind, Kind::Parked | Kind::Purging) {
                self.parked_bytes += area.pages.len.bytes();
            } else {
                self.areas += 1;
                self.held_bytes += area.pages.len.bytes();
            }
        }
    }
}

/// Which tenant of which slot an area is.
pub fn key(area: &Area) -> Key {
    (area.id, area.generation)
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
