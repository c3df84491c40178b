//! How much the pool may hold, and each of its members: words of the header that anyone may change
//! while all work.

use crate::error::BudgetError;
use crate::pool::Pool;
use vmalloc_core::{Owner, Pages};

impl Pool {
    /// Bytes that the pool may hold now: its capacity, if nobody has set less.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.member().ground.limit().bytes()
    }

    /// Sets how much the pool may hold from now on, for all members: up to its capacity, which was
    /// fixed when it was made. A pool takes memory only for what is in use or parked, so a large
    /// capacity with a low limit costs address space and tables. If it holds more already it keeps
    /// that; only new memory is refused, as by a full pool.
    ///
    /// # Errors
    ///
    /// [`BudgetError`]; the limit is as it was.
    pub fn set_limit(&self, bytes: u64) -> Result<(), BudgetError> {
        let ground = &self.member().ground;
        let (limit, capacity) = (Pages::for_bytes(bytes), ground.shape.capacity);
        if limit.0 == 0 || limit > capacity {
            let capacity_bytes = capacity.bytes();
            return Err(BudgetError::Limit { bytes, capacity_bytes });
        }
        ground.header().set_limit(limit);
        Ok(())
    }

    /// Sets how much each member may hold that has no quota of its own; `None`: no quota.
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.member().ground.header().set_quota(bytes.map(Pages::for_bytes));
    }

    /// Sets how much the member with this number may hold, until it leaves; `None`: what is set for
    /// all. It keeps what it has; if that is more, it gets an error when it asks for memory.
    ///
    /// # Errors
    ///
    /// [`BudgetError`]: there is no such member.
    pub fn set_quota_of(&self, member: usize, bytes: Option<u64>) -> Result<(), BudgetError> {
        let ground = &self.member().ground;
        let owner = Owner::new(member).filter(|_| member <= ground.shape.geometry.members);
        let slot = owner.map(|owner| ground.header().member(owner)).filter(|slot| slot.is_active());
        let slot = slot.ok_or(BudgetError::NoMember { member })?;
        slot.set_quota(bytes.map(Pages::for_bytes));
        Ok(())
    }
}
