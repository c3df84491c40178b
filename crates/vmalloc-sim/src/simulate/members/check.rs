//! Everything that can be checked between moves: every byte through a CPU of whoever sees it, what
//! is listed and counted, `verify()`; and the end, at which all is as at the beginning.

use super::{World, pages_of};
use crate::in_place::CPUS_PER_MEMBER;
use crate::simulate::moves::{Act, MEMBERS};
use crate::simulate::oracle::Held;
use vmalloc_core::{Area, Kind, PageRange, Vpn, flags};

impl World {
    // Memory, as the members' CPUs see it.

    pub(super) fn word(&self, who: usize, page: Vpn) -> Result<Option<u64>, String> {
        self.turn.set(self.turn.get() + 1);
        let first = |bytes: &mut [u8]| u64::from_le_bytes(bytes[..8].try_into().expect("8"));
        let cpu = self.turn.get() % CPUS_PER_MEMBER;
        self.pool.load(who, cpu, page, first).map_err(|e| e.to_string())
    }

    pub(super) fn write(&self, who: usize, pages: PageRange, stamp: u64) -> Result<(), String> {
        for (i, page) in (0..).zip(pages_of(pages)) {
            let put = |bytes: &mut [u8]| bytes[..8].copy_from_slice(&(stamp | i).to_le_bytes());
            let there = self.pool.load(who, i as usize, page, put).map_err(|e| e.to_string())?;
            there.ok_or(format!("{page} faults"))?;
        }
        Ok(())
    }

    /// Everything that can be checked now: of the dead nobody knows how far they came.
    pub(super) fn check(&self) -> Result<(), String> {
        let oracle = self.oracle.borrow();
        for held in &oracle.held {
            let alive = |who: &usize| oracle.is_alive(*who);
            for who in held.viewers().into_iter().filter(alive) {
                self.check_contents(who, held)?;
            }
        }
        if !oracle.dead.is_empty() {
            return Ok(());
        }
        let engine = self.engine(1);
        engine.verify().map_err(|e| e.to_string())?;
        if self.miscounts.get() {
            engine.recount();
        }
        let in_use = [Kind::Live, Kind::Frozen, Kind::Shared, Kind::Dying];
        let listed: Vec<Area> = engine.areas().collect();
        let used: Vec<&Area> = listed.iter().filter(|a| in_use.contains(&a.kind)).collect();
        for held in &oracle.held {
            let same = |a: &&&Area| a.id == held.area.id && a.generation == held.area.generation;
            if used.iter().find(same).is_none_or(|area| area.pages != held.area.pages) {
                return Err(format!("{} is held, and not listed so", held.area));
            }
        }
        if used.len() != oracle.held.len() {
            return Err(format!("{} areas listed, {} held", used.len(), oracle.held.len()));
        }
        let sum =
            |areas: &mut dyn Iterator<Item = &Area>| areas.map(|a| a.pages.len.0).sum::<u64>();
        let pages = sum(&mut listed.iter());
        // What could not be flushed is parked for the next purge, and may have nothing behind it.
        let is_hollow = |a: &&Area| a.kind == Kind::Parked && a.flags & flags::NO_REUSE != 0;
        let hollow = sum(&mut listed.iter().filter(is_hollow));
        match self.pool.totals() {
            (backed, charged) if charged == pages && (pages - hollow..=pages).contains(&backed) => {
                Ok(())
            }
            (backed, charged) => {
                Err(format!("{pages} pages listed, {backed} backed, {charged} charged"))
            }
        }
    }

    /// The first page, the last, and those between by turns; and nothing behind them.
    fn check_contents(&self, who: usize, held: &Held) -> Result<(), String> {
        let Area { pages, guard, .. } = held.area;
        let between = self.turn.get() as u64 % pages.len.0;
        for i in [0, between, pages.len.0 - 1] {
            let (page, want) = (Vpn(pages.start.0 + i), held.stamp | i);
            match self.word(who, page)? {
                Some(word) if word == want => {}
                other => {
                    return Err(format!("member {who} finds {other:x?} in {page}, not {want:x}"));
                }
            }
        }
        if guard.0 > 0 && self.word(who, pages.end())?.is_some() {
            return Err(format!("the guard page {} has memory", pages.end()));
        }
        Ok(())
    }

    /// The dead are recovered, everybody leaves, and everything is as at the beginning.
    pub(super) fn wind_up(&self) -> Result<(), String> {
        let who = self.oracle.borrow().living().next().expect("one lives");
        while self.pick(who, Act::Recover { nth: 0 }).is_some() {
            self.verb(who, Act::Recover { nth: 0 }, None);
            self.recovered(who, false)?;
        }
        self.oracle.borrow_mut().sweep();
        self.check()?;
        for who in 1..=MEMBERS {
            for act in [Act::Free { nth: 0 }, Act::Detach { nth: 0 }] {
                while let Some(about) = self.pick(who, act) {
                    let came = self.verb(who, act, about.as_ref());
                    self.settle(who, act, about.as_ref(), came, false)?;
                    self.oracle.borrow_mut().sweep();
                }
            }
        }
        let engine = self.engine(who);
        engine.purge().map_err(|e| e.to_string())?;
        self.check()?;
        let stats = engine.stats();
        if let Some(area) = engine.areas().next() {
            return Err(format!("{area} is left"));
        }
        if stats.holes != stats.window {
            return Err(format!("{} of {} pages are holes", stats.holes.0, stats.window.0));
        }
        Ok(())
    }
}
