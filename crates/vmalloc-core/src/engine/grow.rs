//! Shared areas that grow under their members.

use super::Engine;
use crate::error::{AllocError, ResizeError};
use crate::grow::grow_shared;
use crate::machine::Machine;
use crate::publish::{Area, AreaId};

impl<M: Machine> Engine<'_, M> {
    /// Makes a shared area, to which this member is attached, `bytes` bytes long; nothing if it is
    /// already. Members that look find it longer from then on; what they have stays valid, so a
    /// shared area never shrinks. New pages are zeros.
    ///
    /// # Errors
    ///
    /// [`ResizeError`]; the area is as it was. `NoRoom`: others live behind it. `Busy`: another
    /// member is growing it.
    pub fn grow_shared(
        &self,
        id: AreaId,
        generation: u64,
        bytes: u64,
    ) -> Result<Area, ResizeError> {
        loop {
            match grow_shared(&self.context, id, generation, bytes) {
                Err(ResizeError::Back(e))
                    if AllocError::Back(e).purge_may_help()
                        && self.made_room(crate::Pages::for_bytes(bytes)) => {}
                done => return done,
            }
        }
    }
}
