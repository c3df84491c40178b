//! The word of a slot: which frame its page is for, how far that has come, and how many use it.
//!
//! ```text
//!   63            43 42                3 2  0
//!   [ count|ticket ][       pfn        ][kind]
//! ```

use crate::units::Pfn;

const PFN_BITS: u32 = 40;
const KIND_BITS: u32 = 3;

/// Frame numbers from here on do not fit in a slot: 2^52 bytes, all that `x86_64` and `aarch64`
/// can address.
pub(super) const PFN_LIMIT: Pfn = Pfn(1 << PFN_BITS);
/// The most users of one frame.
pub(super) const COUNT_MAX: u64 = u64::MAX >> (PFN_BITS + KIND_BITS);

/// A decoded slot word. Each change is one CAS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    /// No frame, and no translation of the page in any TLB.
    Free,
    /// Somebody wants this page for the frame; nobody may use it yet, anyone may withdraw it. The
    /// ticket tells this proposal from earlier ones.
    Proposed { pfn: Pfn, ticket: u64 },
    /// This is the frame's page, and the `count` who hold it are mapping it.
    Agreed { pfn: Pfn, count: u64 },
    /// The page shows the frame, and `count` use it. With 0 it may be recycled.
    Live { pfn: Pfn, count: u64 },
    /// Being unmapped and shot down by whoever put it in this state.
    Purging,
}

impl Slot {
    pub(super) fn encode(self) -> u64 {
        let (kind, pfn, number) = match self {
            Slot::Free => return 0,
            Slot::Proposed { pfn, ticket } => (1, pfn, ticket & COUNT_MAX),
            Slot::Agreed { pfn, count } => (2, pfn, count),
            Slot::Live { pfn, count } => (3, pfn, count),
            Slot::Purging => return 4,
        };
        number << (PFN_BITS + KIND_BITS) | pfn.0 << KIND_BITS | kind
    }

    /// What `bits` say. What we never write is a slot that we never touch.
    pub(super) fn decode(bits: u64) -> Slot {
        let pfn = Pfn(bits >> KIND_BITS & (PFN_LIMIT.0 - 1));
        let number = bits >> (PFN_BITS + KIND_BITS);
        match bits & 7 {
            0 => Slot::Free,
            1 => Slot::Proposed { pfn, ticket: number },
            2 => Slot::Agreed { pfn, count: number },
            3 => Slot::Live { pfn, count: number },
            _ => Slot::Purging,
        }
    }

    /// The same with another count.
    pub(super) fn with_count(self, count: u64) -> Slot {
        match self {
            Slot::Agreed { pfn, .. } => Slot::Agreed { pfn, count },
            Slot::Live { pfn, .. } => Slot::Live { pfn, count },
            other => other,
        }
    }

    /// The frame, in states that have one.
    pub(super) fn pfn(self) -> Option<Pfn> {
        match self {
            Slot::Proposed { pfn, .. } | Slot::Agreed { pfn, .. } | Slot::Live { pfn, .. } => {
                Some(pfn)
            }
            Slot::Free | Slot::Purging => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a word says what was put into it. Method: each state with the smallest and largest
    /// values that fit; a ticket too large keeps its lower bits.
    #[test]
    fn a_slot_word_decodes_to_what_was_encoded() {
        for pfn in [Pfn(0), Pfn(PFN_LIMIT.0 - 1)] {
            for number in [0, 1, COUNT_MAX] {
                for slot in [
                    Slot::Free,
                    Slot::Proposed { pfn, ticket: number },
                    Slot::Agreed { pfn, count: number },
                    Slot::Live { pfn, count: number },
                    Slot::Purging,
                ] {
                    assert_eq!(Slot::decode(slot.encode()), slot);
                }
            }
        }
        let wrapped = Slot::Proposed { pfn: Pfn(7), ticket: COUNT_MAX + 3 };
        assert_eq!(Slot::decode(wrapped.encode()), Slot::Proposed { pfn: Pfn(7), ticket: 2 });
    }
}
