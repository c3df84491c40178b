//! Areas that go from one member to another whole.

use super::Engine;
use crate::error::{AttachError, ShareError};
use crate::give;
use crate::machine::Machine;
use crate::publish::{Area, AreaId};
use crate::share::Token;
use crate::tag::Owner;

impl<M: Machine> Engine<'_, M> {
    /// Gives an area that is this member's alone to member `to`, or to whoever takes it first: from
    /// then on it is not this member's. One CAS. It lives until somebody takes it or frees it; if
    /// `to` dies, it goes with `to`.
    ///
    /// # Errors
    ///
    /// [`ShareError`]; the area is as it was.
    pub fn give(
        &self,
        id: AreaId,
        generation: u64,
        to: Option<Owner>,
    ) -> Result<Token, ShareError> {
        give::give(&self.context, id, generation, to)
    }

    /// Takes back what [`Engine::give`] gave to `to`. `false`: somebody has taken or freed it.
    pub fn take_back(&self, token: &Token, to: Option<Owner>) -> bool {
        give::take_back(&self.context, token, to)
    }

    /// Takes an area that was given to this member, or to whoever takes it. Of all that try, one
    /// gets it.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; nothing was taken. `Stale`: somebody else was first. `NotYours`: it was
    /// given to another member.
    pub fn take(&self, token: &Token) -> Result<Area, AttachError> {
        give::take(&self.context, token)
    }

    /// Says of what this member has published that it is nobody's: so that it does not count as its
    /// successor's. O(granules + areas).
    pub fn disown_published(&self) {
        give::disown_published(&self.context);
    }

    /// Frees what was given to this member and never taken: before it leaves. O(granules + areas).
    pub fn decline_gifts(&self) {
        give::decline_all(&self.context);
    }
}
