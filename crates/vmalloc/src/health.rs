//! How a pool is: what each member holds, and whether the invariants hold, seen from outside.
//!
//! For `vmalloc doctor`. Neighbours: [`crate::info`] has the totals, [`crate::member`] recovers.

use crate::error::VerifyError;
use crate::info::Onlooker;
use crate::linear::Ground;
use std::sync::atomic::Ordering;
use vmalloc_core::{Area, Kind, Owner, Pages, Verified};

/// What a member holds in a pool, alive or dead.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Holdings {
    /// Areas that are its alone: they go when it is recovered.
    pub areas: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Areas that it published: they stay until somebody frees them.
    pub published: usize,
    /// Areas that it is attached to, its own among them: it lets go of them when it is recovered.
    pub attachments: usize,
}

impl Onlooker {
    /// What the member with this number holds now. O(granules + areas).
    #[must_use]
    pub fn holdings(&self, member: usize) -> Holdings {
        let Some(who) = Owner::new(member).filter(|_| member <= self.ground.shape.geometry.members)
        else {
            return Holdings::default();
        };
        let engine = self.ground.engine(Owner::FIRST, Pages(0));
        let mut held = Holdings::default();
        for area in engine.areas() {
            held.attachments += usize::from(engine.is_attached(&area, who));
            if area.owner == Some(who) {
                held.add(&area);
            }
        }
        held
    }

    /// Checks the invariants from outside. Members at work make it fail now and then, since a verb
    /// that is half done looks like damage: what fails always the same is damage, or a member
    /// that has stopped or died there.
    ///
    /// # Errors
    ///
    /// [`VerifyError`]: which one does not hold, where.
    pub fn verify(&self) -> Result<Verified, VerifyError> {
        self.ground.verify()
    }
}

impl Holdings {
    fn add(&mut self, area: &Area) {
        match area.kind {
            Kind::Building | Kind::Live | Kind::Given | Kind::Purging => {
                self.areas += 1;
                self.bytes += area.pages.len.bytes();
            }
            Kind::Frozen | Kind::Shared => self.published += 1,
            _ => {}
        }
    }
}

impl Ground {
    /// The engine's invariants, and that the pool's account is what the areas have.
    pub(crate) fn verify(&self) -> Result<Verified, VerifyError> {
        let verified = self.engine(Owner::FIRST, Pages(0)).verify().map_err(VerifyError::Engine)?;
        let charged = self.header().charged().load(Ordering::SeqCst);
        let found = verified.pages.0;
        if let Some(frames) = self.framed() {
            let areas: Vec<Area> = self.engine(Owner::FIRST, Pages(0)).areas().collect();
            frames.verify(&areas).map_err(VerifyError::Frames)?;
        }
        if charged == found { Ok(verified) } else { Err(VerifyError::Charged { charged, found }) }
    }
}
