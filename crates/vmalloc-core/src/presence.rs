//! Who is attached to an area: a cell a member, not a count.
//!
//! A count in shared memory cannot survive a kill: nobody knows whose +1 it was. Here each
//! member has a cell of its own for each area, and writes the area's generation into it while it
//! is attached. "How many" is how many cells hold the current generation; a dead member's cell is
//! set to 0 by whoever recovers it, once or ten times, with the same result.
//!
//! ```text
//!   attach:  cell[me] = g ─fence─ state still FROZEN|SHARED(g)?  no: cell[me] = 0, stale
//!   free:    state = DYING(g) ─fence─ any cell == g?             no: the area is parked
//!   detach:  cell[me] = 0 ─fence─ state DYING(g) and no cell?        the area is parked
//! ```
//!
//! Either the attacher sees DYING, or the freer sees the cell (Dekker). A generation in the cell,
//! not a bit: a bit cannot tell the area's last tenant from this one.

use crate::layout::Tables;
use crate::sync::{Ordering, fence};
use crate::tag::Owner;

/// The cells of one area.
#[derive(Clone, Copy)]
pub(crate) struct Presence<'a> {
    tables: Tables<'a>,
    id: usize,
}

impl<'a> Presence<'a> {
    /// The cells of area `id`. They must be committed: the area has been published once.
    pub(crate) fn of(tables: Tables<'a>, id: usize) -> Presence<'a> {
        Presence { tables, id }
    }

    /// Says that `me` is attached to the tenant `generation`. The caller looks at the state next.
    pub(crate) fn enter(&self, me: Owner, generation: u64) {
        if let Some(cell) = self.tables.presence(self.id).get(me.number() - 1) {
            cell.store(generation, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
    }

    /// Takes that back. Idempotent. The caller looks at the state next.
    pub(crate) fn leave(&self, me: Owner, generation: u64) {
        if let Some(cell) = self.tables.presence(self.id).get(me.number() - 1) {
            let _ = cell.compare_exchange(generation, 0, Ordering::SeqCst, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// Empties the cell of a dead member, whatever it holds.
    pub(crate) fn erase(&self, dead: Owner) {
        if let Some(cell) = self.tables.presence(self.id).get(dead.number() - 1) {
            cell.store(0, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
    }

    /// Whether `who` is attached to the tenant `generation`.
    pub(crate) fn holds(&self, who: Owner, generation: u64) -> bool {
        let cell = self.tables.presence(self.id).get(who.number() - 1);
        cell.is_some_and(|cell| cell.load(Ordering::SeqCst) == generation)
    }

    /// How many members are attached to the tenant `generation`.
    pub(crate) fn count(&self, generation: u64) -> usize {
        let cells = self.tables.presence(self.id).iter();
        cells.filter(|cell| cell.load(Ordering::SeqCst) == generation).count()
    }
}
