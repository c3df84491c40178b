//! The record of an area: one cache line, and in it the one word that says who owns the area.
//!
//! ```text
//!              claim            publish         share            free, nobody attached
//!   FREE(g) ─────────▶ BUILDING ───────▶ LIVE ───────▶ FROZEN ───────────▶ DYING ─┐
//!      ▲               (me, g+1)         (me) └──────▶ SHARED ──────────────┘     │ last detach
//!      │ settle             ▲             │ free                                  │
//!   PURGING(me) ◀───────────┼──────── PARKED(last owner) ◀────────────────────────┘
//!                           └── revive ───┘
//! ```
//!
//! An area that nobody may revive goes LIVE (me) ─▶ PURGING(me), where its owner may wait for a flush.
//! An area that is given away goes LIVE (giver) ─▶ GIVEN ─▶ LIVE (taker, g+1); see `give`.
//! The state word is `kind | owner | generation`. Each arrow is one CAS; the generation moves on
//! at each claim and revive, so a token of an earlier tenant never fits. The other seven words
//! belong to whoever the state word names, and are read by the rest as a snapshot that counts
//! only if the state word is the same before and after.
//!
//! Linux: `vm_struct` and `vmap_area`; its `VM_UNINITIALIZED` is our BUILDING.

use crate::layout::{RECORD_WORDS, Tables};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::tag::Owner;
use crate::units::Pages;

/// What an area's state word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// No area.
    Free = 0,
    /// Being made by its owner; nobody else may look.
    Building = 1,
    /// In use by its owner alone.
    Live = 2,
    /// Published, and written by nobody any more.
    Frozen = 3,
    /// Published, and written by anyone attached.
    Shared = 4,
    /// Freed while others were attached: goes when the last one detaches.
    Dying = 5,
    /// Freed, its pages still mapped and its frames still held. Linux: "unpurged vm_area".
    Parked = 6,
    /// Being purged by its owner.
    Purging = 7,
    /// Given away, and not taken yet: its owner may take it, or whoever comes first if it has none.
    Given = 8,
}

impl Kind {
    /// Whether somebody uses the area: live, published, given away, or dying with somebody attached.
    #[must_use]
    pub const fn is_in_use(self) -> bool {
        matches!(self, Kind::Live | Kind::Frozen | Kind::Shared | Kind::Dying | Kind::Given)
    }
}

/// A decoded state word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    /// What the area is.
    pub kind: Kind,
    /// Who owns it, or owned it last; `None` where nobody does.
    pub owner: Option<Owner>,
    /// Which tenant of the slot this is.
    pub generation: u64,
}

/// The bits of an area's flags word.
pub mod flags {
    /// Made by `vmap`: the frames are the caller's. Linux: `VM_MAP`.
    pub const VMAP: u64 = 1;
    /// Shows a backing that another area owns.
    pub const BORROWED: u64 = 1 << 1;
    /// Backed by huge pages where they fit. Linux: `VM_ALLOW_HUGE_VMAP`.
    pub const HUGE: u64 = 1 << 2;
    /// No stores.
    pub const READ_ONLY: u64 = 1 << 3;
    /// Purged at once when freed: never parked for reuse.
    pub const NO_REUSE: u64 = 1 << 4;
    /// Was published: its presence cells are committed.
    pub const CELLS: u64 = 1 << 5;
    /// May be shown to a user: zeroed, and where caches allow a second address. Linux:
    /// `VM_USERMAP`.
    pub const USERMAP: u64 = 1 << 6;
    /// Its place was asked for: it is not revived.
    pub const PLACED: u64 = 1 << 7;
    /// Instruction fetches; never together with stores.
    pub const EXECUTE: u64 = 1 << 24;
    /// Two bits: how the CPU caches it, a [`crate::Cache`].
    pub const CACHE: u64 = 3 << 25;
    /// The protection was changed and is put back before the frames go home. Linux:
    /// `VM_FLUSH_RESET_PERMS`.
    pub const RESET_PERMS: u64 = 1 << 27;

    /// Made by `vmap_put_pages`: frames that somebody took, and that are the area's now. Linux:
    /// `VM_MAP_PUT_PAGES`.
    pub const PUT_PAGES: u64 = 1 << 28;
    /// Shows what is no RAM. Linux: `VM_IOREMAP`.
    pub const IOREMAP: u64 = 1 << 29;
    /// Reserved, and filled in parts or not at all: a page of it may show nothing.
    pub const RESERVED: u64 = 1 << 30;
    /// Filled in parts with its owner's frames. Linux: `VM_SPARSE`.
    pub const SPARSE: u64 = 1 << 31;
    /// Filled in parts with the engine's frames, which go home with the area.
    pub const COMMIT: u64 = 1 << 32;

    /// Was published for anyone attached to write.
    pub const OTHERS_WROTE: u64 = 1 << 33;

    /// Parked, and was so when [`crate::Engine::decay`] came by. Means nothing of an area in use.
    pub const OLD: u64 = 1 << 34;

    /// Shows frames that are somebody else's: the caller's, or another area's.
    pub const FOREIGN: u64 = VMAP | BORROWED;

    /// The bits that say the protection.
    pub const PROT: u64 = READ_ONLY | EXECUTE | CACHE;
}

impl State {
    pub(crate) const fn new(kind: Kind, owner: Option<Owner>, generation: u64) -> State {
        State { kind, owner, generation }
    }

    #[inline]
    pub(crate) fn encode(self) -> u64 {
        let owner = self.owner.map_or(0, |o| o.number() as u64);
        self.kind as u64 | owner << 8 | self.generation << 16
    }

    /// What `bits` say; `None` for a word that we never write.
    #[inline]
    pub(crate) fn decode(bits: u64) -> Option<State> {
        let kind = match bits & 0xff {
            0 => Kind::Free,
            1 => Kind::Building,
            2 => Kind::Live,
            3 => Kind::Frozen,
            4 => Kind::Shared,
            5 => Kind::Dying,
            6 => Kind::Parked,
            7 => Kind::Purging,
            8 => Kind::Given,
            _ => return None,
        };
        let owner = (bits >> 8 & 0xff) as usize;
        if owner > crate::layout::MEMBERS_MAX {
            return None;
        }
        Some(State { kind, owner: Owner::new(owner), generation: bits >> 16 })
    }

    /// Whether this is published: others may attach.
    #[must_use]
    pub const fn is_published(&self) -> bool {
        matches!(self.kind, Kind::Frozen | Kind::Shared)
    }
}

/// What an area's record says besides its state.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Shape {
    /// Bytes asked for.
    pub(crate) bytes: u64,
    /// Pages that may be used.
    pub(crate) pages: Pages,
    /// Guard pages behind them.
    pub(crate) guard: Pages,
    /// See [`flags`].
    pub(crate) flags: u64,
    /// The machine's word for what backs the pages.
    pub(crate) backing: u64,
    /// Who asked, as the caller chose to say it.
    pub(crate) caller: u64,
    /// The number of the reservation: changes when the slot's pages do.
    pub(crate) birth: u64,
}

/// The record with number `id`.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    words: &'a [AtomicU64; RECORD_WORDS],
    pub(crate) id: usize,
}

const STATE: usize = 0;
const BYTES: usize = 1;
const PAGES: usize = 2;
/// The lower half of that word; the guard's pages are in the upper.
const PAGES_MASK: u64 = 0xffff_ffff;
const FLAGS: usize = 3;
const BACKING: usize = 4;
const CALLER: usize = 5;
const BIRTH: usize = 6;
const GROWER: usize = 7;

impl<'a> Record<'a> {
    /// The record of slot `slot` of what begins at granule `head`.
    #[inline]
    pub(crate) fn of(tables: Tables<'a>, head: usize, slot: usize) -> Record<'a> {
        Record::new(tables, head * crate::class::SLOTS_MAX + slot)
    }

    #[inline]
    pub(crate) fn new(tables: Tables<'a>, id: usize) -> Record<'a> {
        Record { words: tables.record(id), id }
    }

    /// The state, or `None` for a word that we never write.
    #[inline]
    pub(crate) fn state(&self) -> Option<State> {
        // SeqCst: attach and free agree on an order through this word (see `presence`).
        State::decode(self.words[STATE].load(Ordering::SeqCst))
    }

    /// The state, if it is of this kind and owner.
    #[inline]
    pub(crate) fn is_in(&self, kind: Kind, owner: Owner) -> Option<State> {
        // SeqCst: as in `state`.
        let bits = self.words[STATE].load(Ordering::SeqCst);
        let is_it = bits & 0xffff == State::new(kind, Some(owner), 0).encode();
        is_it.then(|| State::new(kind, Some(owner), bits >> 16))
    }

    /// Whether the state is FREE. A word that we never write is not.
    #[inline]
    pub(crate) fn is_free(&self) -> bool {
        self.state().is_some_and(|s| s.kind == Kind::Free)
    }

    /// Moves the area from one state to the next. `false`: the state was another one.
    #[inline]
    pub(crate) fn step(&self, from: State, to: State) -> bool {
        let (from, to) = (from.encode(), to.encode());
        // SeqCst, as above; on success we also see all that the last owner wrote.
        self.words[STATE].compare_exchange(from, to, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// What no engine does: a state without a look at the last one. For the proof's canaries.
    #[cfg(all(test, any(loom, shuttle)))]
    pub(crate) fn set_state(&self, state: State) {
        self.words[STATE].store(state.encode(), Ordering::SeqCst);
    }

    /// FREE → BUILDING(me), one generation on.
    #[inline]
    pub(crate) fn claim(&self, me: Owner) -> Option<State> {
        let free = self.state().filter(|s| s.kind == Kind::Free)?;
        let mine = State::new(Kind::Building, Some(me), next_generation(free.generation));
        self.step(free, mine).then_some(mine)
    }

    /// What the record says besides its state. Meaningful to the owner; others use `snapshot`.
    #[inline]
    pub(crate) fn shape(&self) -> Shape {
        let word = |i: usize| self.words[i].load(Ordering::Relaxed);
        let pages = word(PAGES);
        Shape {
            bytes: word(BYTES),
            pages: Pages(pages & PAGES_MASK),
            guard: Pages(pages >> 32),
            flags: word(FLAGS),
            backing: word(BACKING),
            caller: word(CALLER),
            birth: word(BIRTH),
        }
    }

    /// Writes what the owner, who is building, has decided.
    #[inline]
    pub(crate) fn set_shape(&self, shape: &Shape) {
        // Pairs with the Acquire fence in `snapshot`: who sees any of this sees BUILDING, too.
        fence(Ordering::Release);
        let set = |i: usize, value: u64| self.words[i].store(value, Ordering::Relaxed);
        set(BYTES, shape.bytes);
        set(PAGES, shape.pages.0 & PAGES_MASK | shape.guard.0 << 32);
        set(FLAGS, shape.flags);
        set(BACKING, shape.backing);
        set(CALLER, shape.caller);
        set(BIRTH, shape.birth);
    }

    /// The flags word alone.
    #[inline]
    pub(crate) fn flags(&self) -> u64 {
        self.words[FLAGS].load(Ordering::Relaxed)
    }

    /// The pages that may be used, alone.
    #[inline]
    pub(crate) fn pages(&self) -> Pages {
        Pages(self.words[PAGES].load(Ordering::Relaxed) & PAGES_MASK)
    }

    /// Who asked for how many bytes and how, where nothing else about the area changes: written
    /// by an owner whose area is LIVE already. Who looks meanwhile sees the last tenant's.
    #[inline]
    pub(crate) fn set_tenant(&self, bytes: u64, caller: u64, flags: u64) {
        // Pairs with the Acquire fence in `snapshot`: who sees any of this sees LIVE, too.
        fence(Ordering::Release);
        self.words[BYTES].store(bytes, Ordering::Relaxed);
        self.words[CALLER].store(caller, Ordering::Relaxed);
        self.words[FLAGS].store(flags, Ordering::Relaxed);
    }

    /// Sets bits of the flags word; the owner's to do.
    pub(crate) fn add_flags(&self, bits: u64) {
        self.words[FLAGS].fetch_or(bits, Ordering::Relaxed);
    }

    pub(crate) fn drop_flags(&self, bits: u64) {
        self.words[FLAGS].fetch_and(!bits, Ordering::Relaxed);
    }

    /// Who is making the published tenant `generation` longer, if anybody.
    pub(crate) fn grower(&self, generation: u64) -> Option<Owner> {
        let growing = State::decode(self.words[GROWER].load(Ordering::SeqCst))?;
        growing.owner.filter(|_| growing.generation == generation)
    }

    /// Says that `me` is making the tenant `generation` longer; the error: another one is.
    pub(crate) fn begin_growing(&self, me: Owner, generation: u64) -> Result<(), Option<Owner>> {
        let before = self.words[GROWER].load(Ordering::SeqCst);
        let other = self.grower(generation);
        let mine = State::new(Kind::Building, Some(me), generation).encode();
        // SeqCst: a recount that sees no grower sees the pages that the last one published.
        let step = || {
            let word = &self.words[GROWER];
            word.compare_exchange(before, mine, Ordering::SeqCst, Ordering::Relaxed)
        };
        if other.is_none() && step().is_ok() { Ok(()) } else { Err(self.grower(generation)) }
    }

    /// Takes that back. Idempotent.
    pub(crate) fn end_growing(&self, who: Owner, generation: u64) {
        let growing = State::new(Kind::Building, Some(who), generation).encode();
        let word = &self.words[GROWER];
        let _ = word.compare_exchange(growing, 0, Ordering::SeqCst, Ordering::Relaxed);
    }

    /// Publishes a longer shape of an area in use: the pages first, so that whoever sees more bytes
    /// sees their pages.
    pub(crate) fn lengthen(&self, shape: &Shape) {
        // Release: the frames are there.
        let set = |i: usize, value: u64| self.words[i].store(value, Ordering::Release);
        set(PAGES, shape.pages.0 & PAGES_MASK | shape.guard.0 << 32);
        set(BACKING, shape.backing);
        set(BIRTH, shape.birth);
        set(BYTES, shape.bytes);
    }

    /// State and shape of one moment, or `None` if the area changed meanwhile.
    #[inline]
    pub(crate) fn snapshot(&self) -> Option<(State, Shape)> {
        self.snapshot_with(|| ()).map(|(state, shape, ())| (state, shape))
    }

    /// The same, and what else is to be of that moment.
    #[inline]
    pub(crate) fn snapshot_with<R>(&self, look: impl FnOnce() -> R) -> Option<(State, Shape, R)> {
        // SeqCst, both looks: as in `state`.
        let bits = self.words[STATE].load(Ordering::SeqCst);
        let before = State::decode(bits)?;
        let (shape, seen) = (self.shape(), look());
        // Acquire: the shape's loads stay before the second look at the state.
        fence(Ordering::Acquire);
        (self.words[STATE].load(Ordering::SeqCst) == bits).then_some((before, shape, seen))
    }
}

/// A record whose words somebody else fetches, one at a time.
pub(crate) struct RawRecord {
    /// The first word of its granule's records.
    pub(crate) at: usize,
    /// Which of them it is.
    pub(crate) slot: usize,
}

impl RawRecord {
    pub(crate) fn state(&self, word: impl Fn(usize) -> Option<u64>) -> Option<State> {
        State::decode(word(self.word(STATE))?)
    }

    /// Pages that may be used, and bytes asked for.
    pub(crate) fn len(&self, word: impl Fn(usize) -> Option<u64>) -> Option<(Pages, u64)> {
        Some((Pages(word(self.word(PAGES))? & PAGES_MASK), word(self.word(BYTES))?))
    }

    const fn word(&self, i: usize) -> usize {
        self.at + self.slot * crate::layout::RECORD_WORDS + i
    }
}

/// The generation after `generation`; 48 bits, never 0.
#[inline]
pub(crate) fn next_generation(generation: u64) -> u64 {
    ((generation + 1) & ((1 << 48) - 1)).max(1)
}

#[cfg(test)]
mod tests;
