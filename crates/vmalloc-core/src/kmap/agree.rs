//! Which page is a frame's: how CPUs that do not wait for each other come to the same one.
//!
//! ```text
//!   CPU 0:  propose in slot 5 ── walk: sees 9 ── withdraws 9 ── decide 5  ✓
//!   CPU 1:  propose in slot 9 ── walk: sees 5 ── withdraws its own; looks again, joins 5
//! ```
//!
//! Every walk that decides began after its proposal was in its slot. So of two proposals for a
//! frame at least one walk sees the other's; what it sees it withdraws, or gives way to: two are
//! never both decided. Which one stands is settled by the frame's way through the window, the same
//! for all, so CPUs do not withdraw each other's for ever. A decision is a CAS on the proposal with
//! its ticket: one that was withdrawn meanwhile, and made anew by another CPU, does not fit
//! (unless the 21 bits of the ticket have come round while one CPU took one walk).
//!
//! Neighbours: [`super::Kmap::kmap`] calls in; the words are `slot.rs`'s. Linux has
//! `kmap_lock` instead.

use super::Kmap;
use super::slot::Slot;
use crate::units::Pfn;

/// What a walk over the window found for a frame.
pub(super) enum Seen {
    /// A page that is agreed on, with its word.
    Joinable(usize, Slot),
    /// No such page, but a proposal.
    Proposal(usize, Slot),
    /// Nothing; and the first free page on the way, if there is one.
    Nothing(Option<usize>),
}

impl<H> Kmap<'_, H> {
    /// The slots in the order in which `pfn` looks at them.
    pub(super) fn way(&self, pfn: Pfn) -> impl Iterator<Item = usize> + use<H> {
        let len = self.slots.len();
        // Fibonacci hashing: the upper half of the product, scaled to the window.
        let hash = pfn.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let home = ((hash * len as u64) >> 32) as usize;
        (home..len).chain(0..home)
    }

    pub(super) fn look(&self, pfn: Pfn) -> Seen {
        let (mut free, mut proposal) = (None, None);
        for index in self.way(pfn) {
            match self.get(index) {
                Slot::Free => free = free.or(Some(index)),
                slot if slot.pfn() != Some(pfn) => {}
                slot @ Slot::Proposed { .. } => proposal = proposal.or(Some((index, slot))),
                slot => return Seen::Joinable(index, slot),
            }
        }
        match proposal {
            Some((index, slot)) => Seen::Proposal(index, slot),
            None => Seen::Nothing(free),
        }
    }

    /// Makes the proposal in `index` the frame's page, with the caller as its first user, unless
    /// there is another. Anyone may do it for a proposal that he finds.
    pub(super) fn decide(&self, index: usize, proposed: Slot, pfn: Pfn) -> bool {
        let mut is_past = false;
        for other in self.way(pfn) {
            if other == index {
                is_past = true;
                continue;
            }
            loop {
                let slot = self.get(other);
                let gives_way = match slot {
                    _ if slot.pfn() != Some(pfn) => break,
                    Slot::Proposed { .. } => !is_past,
                    _ => true,
                };
                if gives_way {
                    self.step(index, proposed, Slot::Free);
                    return false;
                }
                // The other one gives way. If it was decided meanwhile, look again.
                if self.step(other, slot, Slot::Free) {
                    break;
                }
            }
        }
        // Fails if the proposal was withdrawn while we walked: its ticket has gone then.
        self.step(index, proposed, Slot::Agreed { pfn, count: 1 })
    }
}
