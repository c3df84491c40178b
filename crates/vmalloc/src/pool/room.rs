//! Whether there will be room in a moment, for a call that found none: never full while free.
//!
//! ```text
//!   no room ─▶ recover the dead ─ found some ▶ again
//!                  │ none          another member is recovering one,  ─▶ wait a little ▶ again
//!                  ▼               or some memory is on its way back
//!            all of it is held ─▶ the error
//! ```
//!
//! The engine has purged what was parked before it said that there is no room. What it cannot see:
//! that a member is dead, that another member is just finishing the work of a dead one, and that
//! memory is neither held nor free while the kernel takes it back. A recovery and a purge each end
//! in bounded time, so they are waited for, two seconds at most.

use crate::error::ResizeError;
use crate::member::Member;
use std::time::{Duration, Instant};
use vmalloc_core::layout::MEMBERS_MAX;
use vmalloc_core::{AllocError, Area, BackError, Kind, Recovered, Request};

/// How long a call waits for memory that others are giving back: a batch of a purge may
/// take the kernel so long, 0.1 ms a MiB.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// How often one call asks again since it recovered somebody: a member that forges deaths must not
/// keep it busy for ever.
const RECOVERIES_MAX: usize = MEMBERS_MAX;

/// What an allocation does that has failed with `error`: asks again as long as that may help.
#[cold]
pub(super) fn alloc_again(
    member: &Member,
    request: &Request,
    mut error: AllocError,
) -> Result<Area, AllocError> {
    let mut search = Search::new();
    while request.may_wait() && search.may_help(member, &error) {
        match member.engine().vmalloc(request) {
            Err(e) => error = e,
            done => return done,
        }
    }
    member.note_refused(request);
    Err(error)
}

/// One call's search for room.
#[derive(Debug)]
pub(crate) struct Search {
    since: Instant,
    // Whether there was a recovery to hope for: what it brings shows only after it has ended, so
    // one more try then. Addresses only: of frames, the areas themselves say what is held.
    had_hope: bool,
    recoveries: usize,
}

impl Search {
    /// A search that begins now, since there was no room.
    pub(crate) fn new() -> Search {
        Search { since: Instant::now(), had_hope: true, recoveries: 0 }
    }

    /// As [`Search::may_help`], for an area that is to become longer. One whose neighbours live is not
    /// helped: it would have to move.
    pub(crate) fn may_lengthen(&mut self, member: &Member, error: &ResizeError) -> bool {
        let ResizeError::Engine(error) = error else { return false };
        match error {
            vmalloc_core::ResizeError::Back(e) => self.may_help(member, &AllocError::Back(*e)),
            // Who is growing it may have died over that.
            vmalloc_core::ResizeError::Busy { .. } => self.recovers(member),
            _ => false,
        }
    }

    /// Whether it is worth asking again, after waiting a little if need be.
    pub(crate) fn may_help(&mut self, member: &Member, error: &AllocError) -> bool {
        if !error.purge_may_help() {
            return false;
        }
        if self.recovers(member) {
            return true;
        }
        // In this order: if it ends meanwhile, the areas show what it brought.
        let has_hope = member.others_recover();
        let is_on_its_way = has_hope
            || match error {
                AllocError::Back(BackError::NoFrames { wanted, .. }) => {
                    let in_use = |area: &Area| area.kind.is_in_use();
                    let areas = member.engine();
                    let held: u64 = areas.areas().filter(in_use).map(|area| area.pages.len.0).sum();
                    held.saturating_add(wanted.0) <= member.ground.limit().0
                }
                _ => {
                    self.had_hope || member.engine().areas().any(|area| area.kind == Kind::Purging)
                }
            };
        self.had_hope = has_hope;
        if is_on_its_way && self.since.elapsed() < PATIENCE {
            // If nobody is giving anything back, the budget is wrong.
            member.engine().recount();
            std::thread::sleep(LOOK_EVERY);
            return true;
        }
        false
    }

    /// Recovers the dead. Whether there were any, and it is worth asking again.
    fn recovers(&mut self, member: &Member) -> bool {
        let found = member.recover_dead() != Recovered::default();
        self.recoveries += usize::from(found);
        found && self.recoveries <= RECOVERIES_MAX
    }
}
