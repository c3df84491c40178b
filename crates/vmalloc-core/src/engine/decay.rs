//! Decay: what was freed and nobody wanted since goes back, in bounded steps.
//!
//! ```text
//!   decay ─ marked the last time, and parked still: purge, a batch a flush ─▶ none is left
//!         └ then: mark all that is parked                  in use meanwhile: the mark is gone
//! ```
//!
//! Called every ten seconds it leaves what was parked for less than ten, and nothing that was for
//! more than twenty. No clock, no list: the mark is a bit of the record, which whoever parks an area
//! takes back. A marker that meets whoever revives the area may mark one in use, which changes
//! nothing. Linux: `decay_va_pool_node`, a quarter of the addresses of each size a purge.

use super::Engine;
use crate::error::PurgeError;
use crate::lazy;
use crate::machine::Machine;
use crate::purge::{Purged, purge_step, sweep};
use crate::record::{Record, flags};
use crate::units::Pages;

impl<M: Machine> Engine<'_, M> {
    /// Purges what was parked already when this was called last, and marks the rest for the next
    /// time: whoever calls it at intervals gives back what nobody used for one or two of them.
    ///
    /// # Errors
    ///
    /// [`PurgeError`]; what was not purged is parked still, and the rest is marked: what cannot go keeps
    /// nobody younger.
    pub fn decay(&self) -> Result<Purged, PurgeError> {
        Purged::until_none(|| self.decay_step())
    }

    /// A step of [`Engine::decay`]: one shootdown, of at most 64 areas in place, and of what is in up
    /// to 128 chunks over page tables. Who finds none left marks the rest: so a caller goes on until
    /// `areas` is 0, and does other things between.
    ///
    /// # Errors
    ///
    /// As [`Engine::decay`].
    pub fn decay_step(&self) -> Result<Purged, PurgeError> {
        let is_old = |record: &Record<'_>| record.flags() & flags::OLD != 0;
        let all = Pages(u64::MAX);
        let purged = match M::IN_PLACE {
            true => purge_step(&self.context, all, is_old),
            false => sweep(&self.context, all, is_old),
        };
        if !purged.as_ref().is_ok_and(|purged| purged.areas > 0) {
            lazy::all_parked(&self.context, |record| record.add_flags(flags::OLD));
        }
        purged
    }
}

#[cfg(test)]
mod tests;
