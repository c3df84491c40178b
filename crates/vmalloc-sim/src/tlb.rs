//! One CPU's translation look-aside buffer: keeps what the MMU found, until flushed or evicted.
//!
//! A real TLB may drop an entry at any moment, which hides bugs. The unlimited one never does:
//! whatever a missing shootdown can show, it shows. The direct-mapped one evicts, as a small real
//! one would, and shows that nothing depends on an entry being there.
//!
//! Entries are tagged with their address space, or as global (the G bit), and a look-up finds
//! both. A CPU may also be told to remember that a page was *not* mapped, as RISC-V allows: those
//! entries are what `Tlb::publish` is for.
//!
//! Neighbours: filled and asked by `cpu.rs`, under the CPU's lock. Knows no table.

use crate::mmu::Translation;
use std::collections::BTreeMap;
use vmalloc_core::{PageRange, Vpn};

/// How many translations a CPU's TLB holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlbSize {
    /// All of them: nothing goes but by a flush. The strictest.
    Unlimited,
    /// One for each of so many slots; page `vpn` goes to slot `vpn % slots` and evicts what is
    /// there. Real ones have 64 to 2,048.
    DirectMapped(usize),
}

/// The number of an address space; never used twice. The kernel's own tables have number 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SpaceId(pub u64);

/// Whose accesses an entry serves. `Global` sorts first; [`Entries::drop_where`] counts on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Tag {
    Global,
    Space(SpaceId),
}

/// What an entry says of its page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cached {
    Valid(Translation),
    /// The page was not mapped when the CPU looked.
    Invalid,
}

type Key = (Vpn, Tag);

/// The entries. O(log entries) or O(1) a look-up; a flush looks at the entries in its range
/// alone, or at every slot.
pub(crate) enum Entries {
    Unlimited(BTreeMap<Key, Cached>),
    DirectMapped(Vec<Option<(Key, Cached)>>),
}

impl Entries {
    pub(crate) fn new(size: TlbSize) -> Entries {
        match size {
            TlbSize::Unlimited => Entries::Unlimited(BTreeMap::new()),
            TlbSize::DirectMapped(slots) => {
                assert!(slots > 0, "a TLB needs a slot");
                Entries::DirectMapped(vec![None; slots])
            }
        }
    }

    /// What is kept for `page` when `space` is the current one.
    pub(crate) fn get(&self, page: Vpn, space: SpaceId) -> Option<Cached> {
        [Tag::Space(space), Tag::Global].into_iter().find_map(|tag| match self {
            Entries::Unlimited(map) => map.get(&(page, tag)).copied(),
            Entries::DirectMapped(slots) => match slots[slot(page, slots.len())] {
                Some((key, cached)) if key == (page, tag) => Some(cached),
                _ => None,
            },
        })
    }

    /// Keeps `cached` for `page`. Whether another entry had to go for it.
    pub(crate) fn put(&mut self, page: Vpn, tag: Tag, cached: Cached) -> bool {
        match self {
            Entries::Unlimited(map) => {
                map.insert((page, tag), cached);
                false
            }
            Entries::DirectMapped(slots) => {
                let index = slot(page, slots.len());
                let old = slots[index].replace(((page, tag), cached));
                old.is_some_and(|(key, _)| key != (page, tag))
            }
        }
    }

    /// Drops every entry of the pages `at` (of all pages for `None`) that `is_doomed` names.
    pub(crate) fn drop_where(
        &mut self,
        at: Option<PageRange>,
        is_doomed: impl Fn(Vpn, Tag, Cached) -> bool,
    ) {
        match self {
            Entries::Unlimited(map) => {
                let (first, end) = at.map_or((Vpn(0), Vpn(u64::MAX)), |at| (at.start, at.end()));
                let doomed: Vec<Key> = map
                    .range((first, Tag::Global)..(end, Tag::Global))
                    .filter(|&(&(page, tag), &cached)| is_doomed(page, tag, cached))
                    .map(|(&key, _)| key)
                    .collect();
                for key in doomed {
                    map.remove(&key);
                }
            }
            Entries::DirectMapped(slots) => {
                for slot in slots {
                    if let Some(((page, tag), cached)) = *slot
                        && at.is_none_or(|at| at.contains(page))
                        && is_doomed(page, tag, cached)
                    {
                        *slot = None;
                    }
                }
            }
        }
    }

    /// How many entries satisfy `is_counted`.
    pub(crate) fn count(&self, is_counted: impl Fn(Vpn, Cached) -> bool) -> u64 {
        let count = match self {
            Entries::Unlimited(map) => {
                map.iter().filter(|&(&(page, _), &cached)| is_counted(page, cached)).count()
            }
            Entries::DirectMapped(slots) => slots
                .iter()
                .flatten()
                .filter(|&&((page, _), cached)| is_counted(page, cached))
                .count(),
        };
        count as u64
    }
}

fn slot(page: Vpn, slots: usize) -> usize {
    (page.0 % slots as u64) as usize
}
