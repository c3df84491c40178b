//! Members of one pool by seed: they act, meet in the midst of each other's walks, are killed and
//! recovered.
//!
//! ```text
//!   Move ─ pick what it is about ─ the engine's verb ─ compare with the oracle ─ note
//!                                     │ before the chosen write
//!                                     ├─ another member's act, whole
//!                                     └─ die: nothing more that it does has an effect
//! ```

mod check;

use super::moves::{Act, MEMBERS, Move, Turn, as_test};
use super::oracle::{Held, Oracle};
use super::{Failure, Figures, shrink::shrink, told};
use crate::in_place::{Pool, PoolEngine, owner};
use crate::random::Random;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use vmalloc_core::sync::stepped;
use vmalloc_core::{Area, AttachError, Geometry, PageRange, Pages, Prot, Publish, Request, Vpn};

const GRANULES: usize = 256;
const GEOMETRY: Geometry =
    Geometry { granules: GRANULES, small_granules: GRANULES, members: MEMBERS, in_place: true };
const CAPACITY: Pages = Pages(1024);
const LAZY_PAGES_MAX: Pages = Pages(512);

pub(super) fn simulate(seed: u64, steps: usize) -> Result<Figures, Box<Failure>> {
    let mut random = Random::new(seed);
    let moves: Vec<Move> = (0..steps).map(|_| Move::any(&mut random)).collect();
    run(&moves).map_err(|what| {
        let fails = |part: &[Move]| run(part).is_err();
        let mut short = shrink(&moves, fails);
        for at in 0..short.len() {
            let mut plain = short.clone();
            plain[at].turn = Turn::Whole;
            if fails(&plain) {
                short = plain;
            }
        }
        let what = run(&short).err().unwrap_or(what);
        let test = as_test(&short, &what);
        Box::new(Failure { seed, what, len: short.len(), test })
    })
}

/// Makes the moves in a fresh pool, checks after each, and winds up.
pub(super) fn run(moves: &[Move]) -> Result<Figures, String> {
    let world = Rc::new(World {
        pool: Pool::sized(GEOMETRY, CAPACITY, LAZY_PAGES_MAX),
        oracle: RefCell::default(),
        figures: Cell::new(Figures { seeds: 1, ..Figures::default() }),
        turn: Cell::new(0),
        met: RefCell::new(Ok(false)),
        recovering: Cell::new(None),
        recount: Cell::new(None),
        miscounts: Cell::new(false),
    });
    for (at, one) in moves.iter().enumerate() {
        told(|| world.play(one).and_then(|()| world.check()))
            .map_err(|what| format!("move {at}: {what}"))?;
    }
    told(|| world.wind_up()).map_err(|what| format!("at the end: {what}"))?;
    world.note(|f| f.flushes = world.pool.flushes());
    Ok(world.figures.get())
}

struct World {
    pool: Pool,
    oracle: RefCell<Oracle>,
    figures: Cell<Figures>,
    /// The members' CPUs take turns.
    turn: Cell<usize>,
    /// Whether the act in flight was met, and what was wrong with the other's.
    met: RefCell<Result<bool, String>>,
    /// Who is being recovered: one at a time.
    recovering: Cell<Option<usize>>,
    /// Who is to be recovered once more, when nobody walks.
    recount: Cell<Option<usize>>,
    /// A flush failed in a recovery: what that area holds is charged wrongly until a recount.
    miscounts: Cell<bool>,
}

/// What an engine's verb came to.
enum Came {
    Area(Result<Area, String>),
    Token(Result<vmalloc_core::Token, String>),
    Attached(Result<Area, AttachError>),
    Done(Result<(), String>),
}

impl World {
    fn note(&self, change: impl FnOnce(&mut Figures)) {
        let mut figures = self.figures.get();
        change(&mut figures);
        self.figures.set(figures);
    }

    fn engine(&self, who: usize) -> PoolEngine<'_> {
        self.pool.engine(who)
    }

    /// One move, with all that its turn says.
    fn play(self: &Rc<World>, one: &Move) -> Result<(), String> {
        let Move { who, act, turn } = *one;
        let Some(about) = self.pick(who, act) else { return Ok(()) };
        *self.met.borrow_mut() = Ok(false);
        if let Turn::Refused { call } = turn {
            self.pool.fail(Some(call));
        }
        self.fly(about.as_ref().map(|held| held.key), act);
        let world = Rc::clone(self);
        let mut writes = 0;
        let hook = move || {
            match turn {
                Turn::Killed { write } if write == writes && world.spares_one() => stepped::die(),
                Turn::Met { write, by, act } if write == writes && by != who => {
                    *world.met.borrow_mut() = world.meet(by, act);
                }
                _ => {}
            }
            writes += 1;
        };
        let verb = || self.verb(who, act, about.as_ref());
        let came = stepped::until_death(|| stepped::with_hook(hook, verb));
        let fired = self.pool.has_failed();
        self.pool.fail(None);
        self.fly(None, act);
        let met = self.met.replace(Ok(false))?;
        self.note(|f| {
            f.operations += 1;
            f.faults += u64::from(fired);
            f.meetings += u64::from(met);
        });
        match came {
            Some(came) => self.settle(who, act, about.as_ref(), came, fired || met),
            None => {
                self.killed(who, act, about.as_ref());
                Ok(())
            }
        }?;
        self.recovering.set(None);
        if let Some(dead) = self.recount.take() {
            // Recovered while another walked: the count of parked pages is exact without only.
            let someone = self.oracle.borrow().living().next().expect("one lives");
            self.engine(someone).recover(owner(dead));
        }
        self.oracle.borrow_mut().sweep();
        Ok(())
    }

    /// Another member acts in the midst of a walk. Whether it did anything.
    fn meet(&self, who: usize, act: Act) -> Result<bool, String> {
        let Some(about) = self.pick(who, act) else { return Ok(false) };
        let came = self.verb(who, act, about.as_ref());
        self.settle(who, act, about.as_ref(), came, true)?;
        self.note(|f| f.operations += 1);
        Ok(true)
    }

    fn fly(&self, key: Option<usize>, act: Act) {
        let mut oracle = self.oracle.borrow_mut();
        oracle.flying = key;
        oracle.may_end = matches!(act, Act::Free { .. } | Act::Detach { .. });
    }

    fn spares_one(&self) -> bool {
        self.oracle.borrow().living().count() > 1
    }

    /// What the act is about; `None`: it is left out. Of some there is nothing to pick.
    fn pick(&self, who: usize, act: Act) -> Option<Option<Held>> {
        let oracle = self.oracle.borrow();
        if !oracle.is_alive(who) {
            return None;
        }
        let own = |held: &Held| held.owner == Some(who) && !held.published && !held.freed;
        match act {
            Act::Alloc { .. } | Act::PurgeStep | Act::Purge | Act::Decay => Some(None),
            Act::Free { nth } => {
                let its = |held: &Held| held.owner.is_none_or(|owner| owner == who) && !held.freed;
                oracle.nth(nth, its).map(Some)
            }
            Act::Share { nth, .. } | Act::Resize { nth, .. } => oracle.nth(nth, own).map(Some),
            Act::Attach { nth } => {
                let (_, key) = oracle.tokens.get(nth % oracle.tokens.len().max(1))?;
                let held = oracle.held.iter().find(|held| held.key == *key).cloned();
                // A cell is not a count, and a maker has its own already.
                let has = held.as_ref().is_some_and(|held| held.attached.contains(&who));
                (!has).then_some(held)
            }
            Act::Detach { nth } => {
                let guest = |held: &Held| held.attached.contains(&who) && held.owner != Some(who);
                oracle.nth(nth, guest).map(Some)
            }
            Act::Store { nth } => {
                let sees = |held: &Held| held.viewers().contains(&who) && !held.frozen;
                oracle.nth(nth, sees).map(Some)
            }
            Act::Die => (oracle.living().count() > 1).then_some(None),
            Act::Recover { nth } => {
                if self.recovering.get().is_some() || oracle.dead.is_empty() {
                    return None;
                }
                self.recovering.set(Some(oracle.dead[nth % oracle.dead.len()]));
                Some(None)
            }
        }
    }

    /// The engine's verb. It holds nothing of the oracle: others act meanwhile.
    fn verb(&self, who: usize, act: Act, about: Option<&Held>) -> Came {
        let engine = self.engine(who);
        let area = || about.expect("picked").area;
        match act {
            Act::Alloc { pages, zeroed, strict } => {
                let mut request = Request::bytes(pages * 4096);
                request = if zeroed { request.zeroed() } else { request };
                request = if strict { request.no_reuse() } else { request };
                Came::Area(engine.vmalloc(&request).map_err(|e| e.to_string()))
            }
            Act::Free { .. } => {
                let Area { id, generation, .. } = area();
                let freed = engine.free(id, generation);
                if about.is_some_and(|held| held.published && held.owner == Some(who)) {
                    let _ = engine.detach(id, generation);
                }
                Came::Done(freed.map(|_| ()).map_err(|e| e.to_string()))
            }
            Act::Share { how, .. } => {
                let Area { id, generation, .. } = area();
                Came::Token(engine.share(id, generation, how).map_err(|e| e.to_string()))
            }
            Act::Attach { nth } => {
                let token = {
                    let tokens = &self.oracle.borrow().tokens;
                    tokens[nth % tokens.len()].0
                };
                Came::Attached(engine.attach(&token, Prot::READ_WRITE))
            }
            Act::Detach { .. } => {
                let _ = engine.detach(area().id, area().generation);
                Came::Done(Ok(()))
            }
            Act::Resize { pages, .. } => {
                let Area { id, generation, .. } = area();
                let resized = engine.resize(id, generation, pages * 4096, true);
                Came::Area(resized.map_err(|e| e.to_string()))
            }
            Act::PurgeStep => {
                Came::Done(engine.purge_step().map(|_| ()).map_err(|e| e.to_string()))
            }
            Act::Purge => Came::Done(engine.purge().map(|_| ()).map_err(|e| e.to_string())),
            Act::Decay => Came::Done(engine.decay().map(|_| ()).map_err(|e| e.to_string())),
            Act::Recover { .. } => {
                engine.recover(owner(self.recovering.get().expect("picked")));
                Came::Done(Ok(()))
            }
            Act::Store { .. } | Act::Die => Came::Done(Ok(())),
        }
    }

    /// Compares what came with what had to, and notes it. `excused`: a call was made to fail, or
    /// another member acted meanwhile, which may be why it was refused.
    fn settle(
        &self,
        who: usize,
        act: Act,
        about: Option<&Held>,
        came: Came,
        excused: bool,
    ) -> Result<(), String> {
        let refused = |what: String| {
            if excused { Ok(()) } else { Err(format!("member {who}, {act:?}: {what}")) }
        };
        match (act, came) {
            (Act::Alloc { pages, zeroed, .. }, Came::Area(came)) => match came {
                // Who found no room, and whose purge was refused, gets a larger parked area.
                Ok(area) if excused && area.pages.len.0 > pages => {
                    self.allocated(who, area, area.pages.len.0, zeroed)
                }
                Ok(area) => self.allocated(who, area, pages, zeroed),
                Err(_) if !self.is_roomy(pages) => Ok(()),
                Err(e) => refused(e),
            },
            (Act::Resize { pages, .. }, Came::Area(came)) => {
                let before = about.expect("picked");
                match came {
                    Ok(area) => self.resized(who, before, area, pages),
                    Err(_) if pages > before.area.pages.len.0 => Ok(()),
                    Err(e) => refused(e),
                }
            }
            (Act::Free { .. }, Came::Done(came)) => self.freed(about.expect("picked"), who, came),
            (Act::Share { how, .. }, Came::Token(came)) => match came {
                Ok(token) => {
                    let key = about.expect("picked").key;
                    let mut oracle = self.oracle.borrow_mut();
                    oracle.tokens.push((token, key));
                    let held = oracle.of(key).ok_or("what was shared is gone")?;
                    (held.published, held.frozen) = (true, how == Publish::Frozen);
                    held.attached.insert(who);
                    Ok(())
                }
                Err(e) => refused(e),
            },
            (Act::Attach { .. }, Came::Attached(came)) => self.attached(who, about, came, excused),
            (Act::Detach { .. }, _) => {
                if let Some(held) = self.oracle.borrow_mut().of(about.expect("picked").key) {
                    held.attached.remove(&who);
                }
                Ok(())
            }
            (Act::Store { .. }, _) => {
                let mut oracle = self.oracle.borrow_mut();
                let stamp = oracle.stamp(who);
                let held = oracle.of(about.expect("picked").key).ok_or("it is gone")?;
                held.stamp = stamp;
                self.write(who, held.area.pages, stamp)
            }
            (Act::Die, _) => {
                self.killed(who, act, None);
                Ok(())
            }
            (Act::Recover { .. }, _) => self.recovered(who, excused),
            (_, Came::Done(came)) => came.or_else(refused),
            (act, _) => unreachable!("{act:?} came to something else"),
        }
    }

    /// Whether an allocation has to be served: half of the pool is free, and the window is empty.
    fn is_roomy(&self, pages: u64) -> bool {
        let oracle = self.oracle.borrow();
        let used: u64 = oracle.held.iter().map(|held| held.area.pages.len.0).sum();
        oracle.dead.is_empty() && used + pages <= CAPACITY.0 / 2
    }

    fn allocated(&self, who: usize, area: Area, pages: u64, zeroed: bool) -> Result<(), String> {
        if area.pages.len.0 != pages {
            return Err(format!("{pages} pages wanted, {area} given"));
        }
        let mut oracle = self.oracle.borrow_mut();
        let key = oracle.hold(who, area)?;
        for page in pages_of(area.pages) {
            let word = self.word(who, page)?.ok_or(format!("{page} of a new area faults"))?;
            let clean = if zeroed { word == 0 } else { oracle.may_see(who, word) };
            if !clean {
                return Err(format!("member {who} finds {word:#x} in {page} of its new area"));
            }
        }
        let stamp = oracle.of(key).expect("held above").stamp;
        self.write(who, area.pages, stamp)
    }

    fn resized(&self, who: usize, before: &Held, area: Area, pages: u64) -> Result<(), String> {
        let old = before.area.pages;
        if area.pages.len.0 != pages || area.pages.start != old.start {
            return Err(format!("{} to {pages} pages became {area}", before.area));
        }
        let mut oracle = self.oracle.borrow_mut();
        let held = oracle.of(before.key).ok_or("what was resized is gone")?;
        held.area = area;
        let stamp = held.stamp;
        for page in pages_of(area.pages) {
            let word = self.word(who, page)?.ok_or(format!("{page} of a resized area faults"))?;
            let index = page.0 - old.start.0;
            let right = if index < old.len.0 { word == stamp | index } else { word == 0 };
            if !right {
                return Err(format!("member {who} finds {word:#x} in resized {page}"));
            }
        }
        self.write(who, area.pages, stamp)
    }

    fn freed(&self, before: &Held, who: usize, came: Result<(), String>) -> Result<(), String> {
        let mut oracle = self.oracle.borrow_mut();
        let contested = oracle.flying == Some(before.key);
        let Some(held) = oracle.of(before.key) else { return Err("it is gone".into()) };
        match came {
            // Two who free an orphan: one is refused.
            Err(_)
                if before.owner.is_none()
                    && (held.freed || contested || before.doubt.is_some()) =>
            {
                Ok(())
            }
            Err(e) => Err(format!("member {who} frees {}: {e}", held.area)),
            Ok(()) => {
                held.freed = true;
                if before.owner == Some(who) {
                    held.attached.remove(&who);
                    held.owner = None;
                }
                Ok(())
            }
        }
    }

    fn attached(
        &self,
        who: usize,
        before: Option<&Held>,
        came: Result<Area, AttachError>,
        excused: bool,
    ) -> Result<(), String> {
        let mut oracle = self.oracle.borrow_mut();
        let contested = before.is_some_and(|held| oracle.flying == Some(held.key));
        let now = before.and_then(|held| oracle.of(held.key));
        match (came, now) {
            (Ok(area), Some(now)) => {
                let before = before.expect("it is there now");
                if before.freed && before.doubt.is_none() || area.pages != now.area.pages {
                    return Err(format!("member {who} attached {area}; it was {now:?}"));
                }
                now.attached.insert(who);
                Ok(())
            }
            (Ok(area), None) => Err(format!("a stale token gave {area} to member {who}")),
            (Err(AttachError::Stale { .. } | AttachError::Malformed), now)
                if now.as_ref().is_none_or(|now| now.freed || now.doubt.is_some())
                    || contested && excused =>
            {
                Ok(())
            }
            (Err(AttachError::Alloc(_)), _) if excused => Ok(()),
            (Err(e), _) => Err(format!("member {who} has a good token: {e}")),
        }
    }

    fn killed(&self, who: usize, act: Act, about: Option<&Held>) {
        let mut oracle = self.oracle.borrow_mut();
        oracle.dead.push(who);
        self.pool.drop_tlbs(who);
        self.note(|f| f.kills += 1);
        let decides = matches!(act, Act::Free { .. } | Act::Share { .. } | Act::Resize { .. });
        if let Some(held) = about.filter(|_| decides).and_then(|held| oracle.of(held.key)) {
            held.doubt = Some(who);
        }
    }

    fn recovered(&self, who: usize, again: bool) -> Result<(), String> {
        let dead = self.recovering.take().expect("picked");
        let engine = self.engine(who);
        if again {
            // A call failed, or another acted meanwhile: what was left is done now, or after it.
            engine.recover(owner(dead));
            self.recount.set(Some(dead));
            self.miscounts.set(true);
        }
        self.note(|f| f.recoveries += 1);
        let same =
            |area: &Area| engine.area(area.id).filter(|found| found.generation == area.generation);
        self.oracle.borrow_mut().recovered(dead, same)
    }
}

fn pages_of(pages: PageRange) -> impl Iterator<Item = Vpn> {
    (pages.start.0..pages.end().0).map(Vpn)
}
