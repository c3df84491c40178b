//! Members: who is in a pool, who died in it, and what becomes of what the dead held.
//!
//! A member is a process (strictly, one opening of the pool) with a slot in the header and a lock
//! on a byte of the file that is that slot's. The kernel drops the lock when the process dies,
//! however it dies; so a slot that says ACTIVE and whose byte can be locked is a dead member's,
//! and whoever got the lock is the one to recover it. Who recovers has the byte behind it locked,
//! too, by the same call: so that one who finds no free slot can tell a member from a slot that
//! will be free in a moment, and one who finds no memory waits for what a recovery will bring.
//!
//! ```text
//!   join: lock both of n ─▶ slot ACTIVE? recover(n) ─▶ enter, unlock the second
//!                                                                    leave: slot FREE, close
//!         none: a second byte locked? look again : full
//!   recover_dead: each ACTIVE slot but mine: lock both? recover(n) ─▶ slot FREE ─▶ unlock
//! ```
//!
//! A child of `fork` is not a member: it notices by a page that the kernel wipes for it. The locks
//! are on a description of their own, which no child of `fork` keeps ([`crate::os::life`]).

use crate::events::{self, About};
use crate::linear::{Ground, Linear, Recover};
use crate::os::fork::ForkGuard;
use crate::os::life::LifeFile;
use crate::trace::Op;
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vmalloc_core::{
    Area, AreaId, AttachError, Engine, Freed, Owner, Pages, Prot, Publish, PurgeError, Purged,
    Recovered, ShareError, Token,
};

/// Where the members' bytes are: far past the end of any pool.
const LOCKS_AT: u64 = 1 << 60;
/// How long joining waits for slots that are being recovered: a recovery takes some ms.
const JOIN_PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A pool as its member sees it. Leaves on drop.
#[derive(Debug)]
pub(crate) struct Member {
    // Constant after `join`.
    pub(crate) ground: Ground,
    pub(crate) me: Owner,
    pub(crate) lazy_pages_max: Pages,
    pub(crate) at_join: Recovered,
    fork: ForkGuard,
    life: LifeFile,
    // Written on attach and detach: area → generation, handles of this process.
    attached: Mutex<HashMap<u32, Attached>>,
    // Written once.
    has_published: AtomicBool,
    // One thread at a time: a lock on a byte keeps other members out, not our own threads.
    recovering: Mutex<()>,
}

#[derive(Debug)]
struct Attached {
    generation: u64,
    handles: usize,
    // Its first byte in the mapping.
    at: u64,
}

/// Why a process could not join.
#[derive(Debug)]
pub(crate) enum JoinError {
    /// All slots are taken by members that live, or by one whose recovery takes long.
    Full { members: usize },
    /// The kernel refused a lock or a page.
    Os(Errno),
}

impl Member {
    /// Takes the first free slot, and recovers whoever died, there or elsewhere. If all are taken
    /// and some of them are just being recovered, waits for those, two seconds at most.
    pub(crate) fn join(ground: Ground, lazy_pages_max: Pages) -> Result<Member, JoinError> {
        let fork = ForkGuard::new().map_err(JoinError::Os)?;
        let life = LifeFile::of(ground.mapping.file()).map_err(JoinError::Os)?;
        let me = free_slot(&life, ground.shape.geometry.members)?;
        let (attached, recovering) = (Mutex::default(), Mutex::default());
        let has_published = AtomicBool::new(false);
        let at_join = Recovered::default();
        let mut member = Member {
            ground,
            me,
            lazy_pages_max,
            at_join,
            fork,
            life,
            attached,
            has_published,
            recovering,
        };
        if member.ground.header().member(me).is_active() {
            // Its last tenant died. With its lock and its number, what it was doing is ours.
            member.at_join += member.recover_one(me);
        }
        let uid = rustix::process::geteuid().as_raw();
        member.ground.header().member(me).enter(std::process::id(), uid);
        let _ = member.life.unlock(byte_of(me) + 1, 1);
        member.at_join += member.recover_dead();
        events::listen();
        member.note(Op::Join, || member.about_pool());
        Ok(member)
    }

    /// The engine that works for this member.
    #[inline]
    pub(crate) fn engine(&self) -> Engine<'_, Linear<'_>> {
        self.ground.engine_of(self.me, self.lazy_pages_max, Some(self))
    }

    /// Whether this process is a fork of the member, and so is none.
    pub(crate) fn is_forked(&self) -> bool {
        self.fork.is_forked()
    }

    /// Recovers every member that died. A system call for each slot in use.
    pub(crate) fn recover_dead(&self) -> Recovered {
        let mut total = Recovered::default();
        let _one_at_a_time = self.recovering.lock().unwrap_or_else(PoisonError::into_inner);
        for other in self.others() {
            if !matches!(self.life.try_lock(byte_of(other), 2), Ok(true)) {
                continue; // it lives, or somebody else is at it
            }
            let slot = self.ground.header().member(other);
            if slot.is_active() {
                total += self.recover_one(other);
                slot.leave();
            }
            let _ = self.life.unlock(byte_of(other), 2);
        }
        self.recount_if_due();
        total
    }

    /// Takes over what `dead` left, whose lock this member has. If we die over it, the slot is as it
    /// was, and the next one does all of it.
    fn recover_one(&self, dead: Owner) -> Recovered {
        self.ground.header().want_recount();
        let recovered = self.engine().recover(dead);
        if let Some(frames) = self.ground.framed() {
            // Frames that it took out of the bits and never owned, or let go of and never put back.
            frames.mend();
        }
        recovered
    }

    /// Whether somebody else is recovering a dead member just now, and so may free what is wanted
    /// here. A system call for each slot in use.
    pub(crate) fn others_recover(&self) -> bool {
        let is_held = |other| matches!(self.life.probe_byte(byte_of(other) + 1), Ok(Some(_)));
        self.others().any(is_held)
    }

    /// Puts the budget right, if somebody died and the others were too busy to count then.
    pub(crate) fn recount_if_due(&self) {
        if self.ground.header().recount_due().is_some() {
            self.engine().recount();
        }
    }

    /// Attaches this process once more: the cell is written for the first handle only.
    pub(crate) fn attach(&self, token: &Token) -> Result<Area, AttachError> {
        let mut attached = self.lock_attached();
        match attached.get_mut(&token.area.0).filter(|a| a.generation == token.generation) {
            Some(here) => {
                let area = self.engine().look(token)?;
                here.handles += 1;
                Ok(area)
            }
            None => {
                let area = self.engine().attach(token, Prot::READ_WRITE)?;
                let at = self.ground.span(area.pages).start;
                let entry = Attached { generation: token.generation, handles: 1, at };
                attached.insert(token.area.0, entry);
                Ok(area)
            }
        }
    }

    /// Publishes an area of this member's, which begins at byte `at` of the mapping, turns its view into one for sharing, and notes the
    /// handle: all before another thread of this process can attach to it.
    pub(crate) fn publish<V>(
        &self,
        id: AreaId,
        generation: u64,
        at: u64,
        how: Publish,
        turn_view: impl FnOnce() -> V,
    ) -> Result<(Token, V), ShareError> {
        let mut attached = self.lock_attached();
        let token = self.engine().share(id, generation, how)?;
        if !self.has_published.load(Ordering::Relaxed) {
            self.has_published.store(true, Ordering::Relaxed);
        }
        self.note_publish(id, generation, how);
        attached.insert(id.0, Attached { generation, handles: 1, at });
        Ok((token, turn_view()))
    }

    /// Gives one handle back: with the last one the cell is emptied.
    pub(crate) fn detach(&self, id: AreaId, generation: u64) {
        if self.is_forked() {
            return;
        }
        let mut attached = self.lock_attached();
        let Some(here) = attached.get_mut(&id.0).filter(|a| a.generation == generation) else {
            return;
        };
        here.handles -= 1;
        self.note(Op::Detach, || About::handle(id, generation));
        // What is shown here still, we are attached to.
        if here.handles == 0 && self.ground.hide(here.at).is_ok() {
            attached.remove(&id.0);
            let freed = self.engine().detach(id, generation);
            drop(attached);
            self.relieve(freed);
        }
    }

    /// After a free: purges a step if too much is parked. What cannot be purged now stays parked.
    pub(crate) fn relieve(&self, freed: Freed) {
        if freed.over_limit {
            let _ = self.engine().relieve();
        }
    }

    /// A step of purging what nobody used since the last time, of all members.
    pub(crate) fn decay_step(&self) -> Result<Purged, PurgeError> {
        if self.is_forked() { Ok(Purged::default()) } else { self.engine().decay_step() }
    }

    /// The slots of members other than this one that are not free.
    pub(crate) fn others(&self) -> impl Iterator<Item = Owner> {
        let members = self.ground.shape.geometry.members;
        (1..=members)
            .filter_map(Owner::new)
            .filter(|&other| other != self.me && self.ground.header().member(other).is_active())
    }

    fn lock_attached(&self) -> MutexGuard<'_, HashMap<u32, Attached>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recover for Member {
    fn recover_the_dead(&self) -> bool {
        self.recover_dead() != Recovered::default()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.is_forked() {
            return; // the parent's slot, and the parent's to leave
        }
        self.note(Op::Leave, About::default);
        if self.others().next().is_none() {
            // The last one turns off the light: what is parked serves nobody now.
            let _ = self.engine().purge();
        }
        // What it published first: that may be parked meanwhile.
        if self.has_published.load(Ordering::Relaxed) {
            self.engine().disown_published();
        }
        self.engine().leave();
        let slot = self.ground.header().member(self.me);
        slot.leave();
        // What others gave us meanwhile: from here on they see that we are gone.
        if slot.gifts_expected() {
            self.engine().decline_gifts();
        }
        // The lock would go with the file description; but a child of a raw `clone` may have that.
        let _ = self.life.unlock(byte_of(self.me), 1);
    }
}

/// Whether the member in this slot lives: somebody holds its byte. Seen from outside.
pub(crate) fn is_alive(ground: &Ground, owner: Owner) -> Result<bool, Errno> {
    ground.mapping.file().probe_byte(byte_of(owner)).map(|holder| holder.is_some())
}

/// Locks the byte of a slot that nobody has.
fn free_slot(life: &LifeFile, members: usize) -> Result<Owner, JoinError> {
    let start = Instant::now();
    let mut had_hope = true;
    loop {
        let mut has_hope = false;
        for owner in (1..=members).filter_map(Owner::new) {
            if life.try_lock(byte_of(owner), 2).map_err(JoinError::Os)? {
                return Ok(owner);
            }
            let recoverer = life.probe_byte(byte_of(owner) + 1).map_err(JoinError::Os)?;
            has_hope |= recoverer.is_some();
        }
        // Twice in a row: between the two calls a recovery may have ended.
        if !(has_hope || had_hope) || start.elapsed() > JOIN_PATIENCE {
            return Err(JoinError::Full { members });
        }
        had_hope = has_hope;
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The byte that a member locks; who recovers it locks the next one, too.
fn byte_of(owner: Owner) -> u64 {
    LOCKS_AT + 2 * owner.number() as u64
}
