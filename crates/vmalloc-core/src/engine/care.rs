//! Care: what was freed comes back in bounded steps, and what to do when there is no room.
//!
//! ```text
//!   no room ─▶ purge a batch ─▶ again …  nothing parked ─▶ shrinkers ─freed?▶ again …
//!                                        nothing freed  ─▶ fail, or wait and again (no_fail)
//! ```
//!
//! Linux: `purge_vmap_area_lazy`, `drain_vmap_area_work`, the purge notifiers and the loops for
//! `__GFP_NOFAIL` in `__vmalloc_node_range`.

use super::Engine;
use crate::context::Context;
use crate::error::{AllocError, PurgeError};
use crate::machine::Machine;
use crate::publish::Area;
use crate::purge::{Purged, purge_step, retire_idle, sweep};
use crate::request::Plan;
use crate::shrink::Shrinker;
use crate::{lazy, units::Pages};

impl<'a, M: Machine> Engine<'a, M> {
    /// The same engine, which asks these in turn for room when a purge did not help: before an
    /// allocation fails. Linux: `register_vmap_purge_notifier`.
    #[must_use]
    pub fn with_shrinkers(self, shrinkers: &'a [&'a (dyn Shrinker + Sync)]) -> Self {
        Engine { shrinkers, ..self }
    }

    /// The same engine, with these marks: a free over `high` parked pages says so, and a drain
    /// that it sets off goes on to `low`. Until this is called, `high` is
    /// [`Config::lazy_pages_max`](super::Config::lazy_pages_max), and `low` half of it in place, and
    /// 0 over page tables: the fewest shootdowns, as Linux does.
    #[must_use]
    pub fn with_marks(self, low: Pages, high: Pages) -> Self {
        let context = Context { lazy_slack: super::lazy_slack(high), ..self.context };
        Engine { context, lazy_pages_max: high, lazy_pages_low: low.min(high), ..self }
    }

    /// Purges up to 64 parked areas with one shootdown. A purge of everything is a loop until
    /// `areas` is 0.
    ///
    /// # Errors
    ///
    /// [`PurgeError`]; what was not purged is still parked.
    pub fn purge_step(&self) -> Result<Purged, PurgeError> {
        let purged = purge_step(&self.context, Pages(u64::MAX), |_| true)?;
        if purged.areas == 0 {
            retire_idle(&self.context);
        }
        Ok(purged)
    }

    /// Purges for one shootdown if more is parked than the high mark allows, towards the low one:
    /// what a caller that may wait does after a free that was
    /// [`Freed::over_limit`](super::Freed::over_limit). In place it is a
    /// [`drain_step`](Engine::drain_step). Over page tables it takes what is parked in up to 128
    /// chunks, so 8,192 areas at most: there a shootdown costs every CPU an interrupt, whatever it
    /// covers.
    ///
    /// # Errors
    ///
    /// As [`Engine::purge_step`].
    pub fn relieve(&self) -> Result<Purged, PurgeError> {
        match self.context.lazy_pages() > self.lazy_pages_max {
            true if M::IN_PLACE => self.drain_step(),
            true => sweep(&self.context, self.over_low(), |_| true),
            false => Ok(Purged::default()),
        }
    }

    /// How many pages are parked above the low mark.
    fn over_low(&self) -> Pages {
        Pages(self.context.lazy_pages().0.saturating_sub(self.lazy_pages_low.0))
    }

    /// One bounded step down to the low mark: at most 64 areas, one shootdown. A worker that a
    /// free over the high mark woke calls it until `areas` is 0, and does other things between.
    /// Linux: `drain_vmap_area_work`, which drains everything in one go.
    ///
    /// # Errors
    ///
    /// As [`Engine::purge_step`].
    pub fn drain_step(&self) -> Result<Purged, PurgeError> {
        match self.over_low() {
            Pages(0) => Ok(Purged::default()),
            over => purge_step(&self.context, over, |_| true),
        }
    }

    /// Purges until nothing is parked.
    ///
    /// # Errors
    ///
    /// As [`Engine::purge_step`].
    pub fn purge(&self) -> Result<Purged, PurgeError> {
        Purged::until_none(|| self.purge_step())
    }

    /// Runs a walk; if there was no room, makes some and runs it again, until there is room or
    /// none to be made. Who may not wait, or whose purge failed, gets a parked area that is large
    /// enough.
    pub(super) fn with_purge(
        &self,
        plan: &Plan,
        walk: impl Fn() -> Result<Area, AllocError>,
    ) -> Result<Area, AllocError> {
        loop {
            match walk() {
                Err(e) if !e.purge_may_help() => return Err(e),
                Err(_) if plan.may_wait && self.made_room(plan.want.span) => {}
                Err(e) if plan.no_fail => self.wait(plan, e)?,
                Err(e) => return lazy::borrow_larger(&self.context, plan).ok_or(e),
                area => return area,
            }
        }
    }

    pub(super) fn made_room(&self, want: Pages) -> bool {
        self.purge_step().is_ok_and(|purged| purged.areas > 0) || self.shrunk(want)
    }

    /// Asks the shrinkers. They may wait, so where that is forbidden nobody is asked.
    fn shrunk(&self, want: Pages) -> bool {
        self.context.machine.may_wait()
            && self.shrinkers.iter().any(|shrinker| shrinker.scan(want) > Pages(0))
    }

    /// For a request that must not fail: an error if it never can be served, here or at all.
    fn wait(&self, plan: &Plan, e: AllocError) -> Result<(), AllocError> {
        if !self.context.machine.may_wait() {
            return Err(AllocError::MustWait);
        }
        if matches!(e, AllocError::NoHole { .. }) && !self.context.slots().could_fit(plan.want) {
            return Err(e);
        }
        self.context.machine.wait_for_others();
        Ok(())
    }
}

/// The lazy list, for whoever is short of memory. Linux: `vmap_node_shrink_count`,
/// `vmap_node_shrink_scan`, which give back cached addresses; ours are frames, too.
impl<M: Machine> Shrinker for Engine<'_, M> {
    fn count(&self) -> Pages {
        self.context.lazy_pages()
    }

    /// At most 64 areas, the largest first.
    fn scan(&self, want: Pages) -> Pages {
        purge_step(&self.context, want, |_| true).map_or(Pages(0), |purged| purged.pages)
    }
}
