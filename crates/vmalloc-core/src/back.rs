//! Stage 3, back: reserved pages get frames.
//!
//! `Reserved ─back▶ Backed`, from the machine's pool ([`back`]), from frames the caller brings
//! ([`adopt`]: `vmap`), or from a backing that lives already ([`borrow`]: attach). Dropping a
//! [`Backed`] sends the frames home and then the pages: nothing was mapped, no flush is owed.
//! Linux: `vm_area_alloc_pages`.

use crate::machine::{BackError, Backing, Machine};
use crate::policy::FramePolicy;
use crate::reserve::Reserved;
use crate::units::Extent;

/// Pages with frames behind them that no table shows yet.
#[must_use]
pub(crate) struct Backed<'e, 'a, M: Machine> {
    pub(crate) backing: Backing,
    /// Whether the frames are zero.
    pub(crate) is_zero: bool,
    // Last: dropped after the frames went home.
    pub(crate) reserved: Reserved<'e, 'a, M>,
}

/// Takes frames from the machine's pool.
pub(crate) fn back<'e, 'a, M: Machine>(
    reserved: Reserved<'e, 'a, M>,
) -> Result<Backed<'e, 'a, M>, BackError> {
    let machine = &reserved.context.machine;
    let backing = machine.back(reserved.pages(), FramePolicy::of(reserved.plan.flags))?;
    Ok(Backed { backing, is_zero: M::FRESH_IS_ZERO, reserved })
}

/// Uses frames that the caller owns.
pub(crate) fn adopt<'e, 'a, M: Machine>(
    reserved: Reserved<'e, 'a, M>,
    frames: &[Extent],
) -> Result<Backed<'e, 'a, M>, BackError> {
    let backing = reserved.context.machine.adopt(frames)?;
    Ok(Backed { backing, is_zero: false, reserved })
}

/// Takes over one use, already counted, of a backing that lives.
pub(crate) fn borrow<'e, 'a, M: Machine>(
    reserved: Reserved<'e, 'a, M>,
    backing: Backing,
) -> Backed<'e, 'a, M> {
    Backed { backing, is_zero: false, reserved }
}

impl<M: Machine> Drop for Backed<'_, '_, M> {
    fn drop(&mut self) {
        self.reserved.context.machine.unback(self.reserved.pages(), self.backing);
    }
}
