//! From a moment at which somebody died: recover on a copy, and look at everything.

use super::image::{Image, Layout, keep_alive, let_die};
use super::verbs::options;
use crate::support::{PAGE, punch};
use std::fs::File;
use std::os::fd::OwnedFd;
use vmalloc::core::{Area, Kind};
use vmalloc::{Pool, Request};

/// Who recovers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Whoever joins in the dead member's slot.
    Heir,
    /// A member that lives.
    Survivor,
}

/// What is to be so after a recovery, whoever died in whatever.
pub struct Expected<'a> {
    pub layout: &'a Layout,
    /// The members that live: the others of the image are dead.
    pub alive: &'a [usize],
    /// A living member's own area: nobody else's business.
    pub apart: Area,
}

impl Expected<'_> {
    /// Recovers from `image` in both ways, and says what is wrong then.
    pub fn check(&self, image: &Image) -> Result<(), String> {
        for way in [Way::Heir, Way::Survivor] {
            self.check_way(image, way)
                .map_err(|why| format!("{}\n  {way:?}: {why}", image.when))?;
        }
        Ok(())
    }

    fn check_way(&self, image: &Image, way: Way) -> Result<(), String> {
        let file = image.copy(self.layout);
        let members = self.layout.geometry.members;
        let dead: Vec<usize> = (1..members).filter(|n| !self.alive.contains(n)).collect();
        let alive = keep_alive(&file, self.alive);
        if way == Way::Survivor {
            let not_dead_yet = keep_alive(&file, &dead);
            let pool = join(&file)?;
            // By a call: a child that another thread starts just now may have the description, too.
            dead.iter().for_each(|n| let_die(&not_dead_yet, *n));
            pool.recover();
            self.look(&pool, &file, &alive)
        } else {
            let pool = join(&file)?;
            self.look(&pool, &file, &alive)
        }
    }

    fn look(&self, pool: &Pool, file: &File, alive: &File) -> Result<(), String> {
        let verified = pool.verify().map_err(|e| format!("{e}"))?;
        let areas = pool.areas();
        ensure(areas.contains(&self.apart), || format!("a bystander's area is gone: {areas:#?}"))?;
        let here = pool.member_number();
        let strays: Vec<usize> = pool.members().iter().map(|m| m.number).collect();
        let expected = |n: &usize| *n == here || self.alive.contains(n);
        ensure(strays.iter().all(expected), || format!("members {strays:?} after the recovery"))?;
        for area in &areas {
            let owner = area.owner.map(|owner| owner.number());
            let is_orphan =
                area.kind == Kind::Live && !owner.is_some_and(|n| self.alive.contains(&n));
            ensure(!is_orphan, || format!("a dead member's, and still live: {area:?}"))?;
        }
        for pair in areas.windows(2) {
            let end = pair[0].pages.end().0 + pair[0].guard.0;
            ensure(end <= pair[1].pages.start.0, || format!("two owners: {pair:?}"))?;
        }
        // The kernel's frames, area by area, and none beside. Those of a framed pool stay where they
        // are: who has which, `verify` has looked at.
        let in_file = |area: &&Area| !self.layout.is_framed && area.pages.len.0 > 0;
        let window = self.layout.word_pages * PAGE;
        for area in areas.iter().filter(in_file) {
            let held = punch(file, window + area.pages.start.0 * PAGE, area.pages.len.bytes());
            let hollow = area.flags & vmalloc::core::flags::NO_REUSE != 0 && held == 0;
            ensure(held == area.pages.len.bytes() || hollow, || {
                format!("{held} bytes of {area:?}")
            })?;
        }
        let is_framed = self.layout.is_framed;
        let leaked =
            if is_framed { 0 } else { punch(file, window, self.layout.window_pages * PAGE) };
        ensure(leaked == 0, || format!("{leaked} bytes leaked"))?;
        let committed = pool.info().committed_bytes;
        ensure(committed == verified.pages.bytes(), || format!("{committed} bytes committed"))?;
        // Life goes on.
        let buf = pool.alloc(&Request::bytes(9 * PAGE)).map_err(|e| format!("afterwards: {e}"))?;
        drop(buf);
        self.wind_up(pool, alive)
    }

    /// Everybody dies; what was published is freed; nothing is left.
    fn wind_up(&self, pool: &Pool, alive: &File) -> Result<(), String> {
        self.alive.iter().for_each(|n| let_die(alive, *n));
        pool.recover();
        pool.verify().map_err(|e| format!("when all are dead: {e}"))?;
        for token in pool.areas().iter().filter_map(|area| pool.token_of(area)) {
            pool.free(&token).map_err(|e| format!("{token}: {e}"))?;
        }
        pool.purge().map_err(|e| format!("at the end: {e}"))?;
        pool.verify().map_err(|e| format!("at the end: {e}"))?;
        let (left, info) = (pool.areas(), pool.info());
        ensure(left.is_empty(), || format!("left at the end: {left:#?}"))?;
        ensure(info.committed_bytes == 0, || format!("{} bytes committed", info.committed_bytes))?;
        if info.framed {
            let all = pool.alloc(&Request::bytes(info.capacity_bytes));
            all.map_err(|e| format!("not every frame can be had: {e}"))?;
            pool.purge().map_err(|e| format!("at the end: {e}"))?;
        }
        let stats = pool.info().stats;
        ensure(stats.holes == stats.window, || format!("{} of {} holes", stats.holes, stats.window))
    }
}

fn join(file: &File) -> Result<Pool, String> {
    let fd = OwnedFd::from(file.try_clone().unwrap());
    options().open_fd(fd).map_err(|e| format!("joining: {e}"))
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
