//! The word that says who owns a granule.
//!
//! ```text
//!   FREE ─CAS▶ HELD(owner) ─▶ CHUNK(class) | SOLO ─CAS▶ DRAIN(owner) ─▶ FREE
//!                         └─▶ BODY(head)  ───────────────────────────▶ FREE
//! ```
//!
//! One CAS decides. `HELD` and `DRAIN` name the member that is between two steps, so that if it
//! dies whoever comes next knows what to finish. Words may come from a hostile member: decoding
//! yields `None` for what we never write, and callers check indices before they use them.

use crate::class::{Class, SLOT_CLASSES};
use crate::planted::{Bug, is_planted};

/// A member of a window, 1 to [`crate::layout::MEMBERS_MAX`]; a kernel is member 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Owner(u8);

impl Owner {
    /// The first, and in a kernel the only, member.
    pub const FIRST: Owner = Owner(1);

    /// Member number `n`, from 1 on.
    #[must_use]
    pub const fn new(n: usize) -> Option<Owner> {
        if n >= 1 && n <= crate::layout::MEMBERS_MAX { Some(Owner(n as u8)) } else { None }
    }

    /// The number, from 1 on.
    #[must_use]
    pub const fn number(self) -> usize {
        self.0 as usize
    }
}

impl core::fmt::Display for Owner {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "member {}", self.0)
    }
}

/// A decoded granule tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tag {
    Free,
    /// Claimed by `owner`, not yet part of anything.
    Held(Owner),
    /// First granule of a chunk of slots.
    Chunk(Class),
    /// First granule of an area of its own, `granules` long.
    Solo {
        granules: usize,
    },
    /// A further granule of what begins at `head`, built by `owner`.
    Body {
        head: usize,
        owner: Owner,
    },
    /// First granule of a chunk or solo run that `owner` is giving back.
    Drain {
        owner: Owner,
        granules: usize,
        class: Option<Class>,
    },
}

const FREE: u64 = 0;
const HELD: u64 = 1;
const CHUNK: u64 = 2;
const SOLO: u64 = 3;
const BODY: u64 = 4;
const DRAIN: u64 = 5;
const NO_CLASS: u64 = 0xff;

const fn word(kind: u64, owner: u64, class: u64, arg: u64) -> u64 {
    kind | owner << 8 | class << 16 | arg << 32
}

impl Tag {
    /// The word for this tag.
    #[inline]
    pub(crate) fn encode(self) -> u64 {
        match self {
            Tag::Free => FREE,
            Tag::Held(owner) => word(HELD, owner.0.into(), 0, 0),
            Tag::Chunk(class) => word(CHUNK, 0, class.index() as u64, 0),
            Tag::Solo { granules } => word(SOLO, 0, 0, granules as u64),
            Tag::Body { head, owner } => word(BODY, owner.0.into(), 0, head as u64),
            Tag::Drain { owner, granules, class } => {
                let class = class.map_or(NO_CLASS, |c| c.index() as u64);
                word(DRAIN, owner.0.into(), class, granules as u64)
            }
        }
    }

    /// The class, if `bits` are those of a chunk: what most calls look at, in few steps.
    #[inline]
    pub(crate) fn chunk(bits: u64) -> Option<Class> {
        let class = (bits >> 16) as usize;
        if bits & 0xffff == CHUNK && class < SLOT_CLASSES { Class::from_index(class) } else { None }
    }

    /// How many granules a solo run has, if `bits` say that one begins there.
    #[inline]
    pub(crate) fn solo(bits: u64) -> Option<usize> {
        (bits & 0xff == SOLO).then_some((bits >> 32) as usize)
    }

    /// What `bits` say, or `None` for a word that we never write.
    #[inline]
    pub(crate) fn decode(bits: u64) -> Option<Tag> {
        match Tag::chunk(bits) {
            Some(class) => Some(Tag::Chunk(class)),
            None => Tag::decode_any(bits),
        }
    }

    fn decode_any(bits: u64) -> Option<Tag> {
        let owner = || Owner::new((bits >> 8 & 0xff) as usize);
        let class = bits >> 16 & 0xff;
        // Planted, for the fuzzer to find: a class without slots is taken for one with them.
        let has_slots = |c: u64| c < SLOT_CLASSES as u64 || is_planted(Bug::ClassUnchecked);
        let slots = |c: u64| Class::from_index(c as usize).filter(|_| has_slots(c));
        let arg = (bits >> 32) as usize;
        Some(match bits & 0xff {
            FREE => Tag::Free,
            HELD => Tag::Held(owner()?),
            CHUNK => Tag::Chunk(slots(class)?),
            SOLO => Tag::Solo { granules: Tag::solo(bits)? },
            BODY => Tag::Body { head: arg, owner: owner()? },
            DRAIN if class == NO_CLASS => {
                Tag::Drain { owner: owner()?, granules: arg, class: None }
            }
            DRAIN => Tag::Drain { owner: owner()?, granules: arg, class: Some(slots(class)?) },
            _ => return None,
        })
    }

    /// What the head is, or was before somebody began to give it back and may yet take that back:
    /// whoever looks for an area that lives there must find it meanwhile.
    #[inline]
    pub(crate) fn settled(self) -> Tag {
        match self {
            Tag::Drain { class: Some(class), .. } => Tag::Chunk(class),
            Tag::Drain { granules, class: None, .. } => Tag::Solo { granules },
            tag => tag,
        }
    }

    /// How many granules begin here, if this is the head of a chunk or solo run in use.
    #[inline]
    pub(crate) fn granules(self) -> Option<usize> {
        match self {
            Tag::Chunk(class) => Some(class.chunk_granules()),
            Tag::Solo { granules } => Some(granules),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MEMBERS_MAX;

    fn classes() -> impl Iterator<Item = Class> {
        (0..SLOT_CLASSES).filter_map(Class::from_index)
    }

    fn owners() -> impl Iterator<Item = Owner> {
        (1..=MEMBERS_MAX).filter_map(Owner::new)
    }

    /// Goal: each tag is read as it was written, with the largest and the smallest of what it holds.
    #[test]
    fn each_tag_is_read_as_it_was_written() {
        let numbers = [0, 1, 2, 0xff, 0x1_0000, u32::MAX as usize];
        let read = |tag: Tag| assert_eq!(Tag::decode(tag.encode()), Some(tag));
        read(Tag::Free);
        classes().for_each(|class| read(Tag::Chunk(class)));
        numbers.iter().for_each(|&granules| read(Tag::Solo { granules }));
        for owner in owners() {
            read(Tag::Held(owner));
            for number in numbers {
                read(Tag::Body { head: number, owner });
                read(Tag::Drain { owner, granules: number, class: None });
                classes().for_each(|class| {
                    read(Tag::Drain { owner, granules: number, class: Some(class) });
                });
            }
        }
    }

    /// Goal: members are numbered from 1 to the last, and no other number is one.
    #[test]
    fn members_are_numbered_from_1_on() {
        assert_eq!((Owner::new(0), Owner::new(MEMBERS_MAX + 1)), (None, None));
        assert_eq!(owners().map(Owner::number).sum::<usize>(), MEMBERS_MAX * (MEMBERS_MAX + 1) / 2);
    }

    /// Goal: a word of no kind, of a member that cannot be, or of a class without slots is no tag.
    #[test]
    fn a_word_that_we_never_write_is_no_tag() {
        for bits in (0..=0xffff_u64).filter(|bits| bits & 0xff > DRAIN) {
            assert_eq!(Tag::decode(bits), None, "{bits:#x}");
        }
        let nobody = MEMBERS_MAX as u64 + 1;
        for owner in [0, nobody, 0xff] {
            for kind in [HELD, BODY, DRAIN] {
                assert_eq!(Tag::decode(word(kind, owner, NO_CLASS, 1)), None, "{kind} {owner}");
            }
        }
        for class in [SLOT_CLASSES as u64, SLOT_CLASSES as u64 + 1, NO_CLASS] {
            assert_eq!(Tag::decode(word(CHUNK, 0, class, 0)), None, "{class}");
            let drain = Tag::decode(word(DRAIN, 1, class, 7));
            let solo = Tag::Drain { owner: Owner::FIRST, granules: 7, class: None };
            assert_eq!(drain, (class == NO_CLASS).then_some(solo));
        }
    }

    /// Goal: what is being given back is still found as what it was, and only heads in use have a length.
    #[test]
    fn what_is_given_back_is_found_as_what_it_was() {
        let owner = Owner::FIRST;
        for class in classes() {
            let drain = Tag::Drain { owner, granules: class.chunk_granules(), class: Some(class) };
            assert_eq!(drain.settled(), Tag::Chunk(class));
            assert_eq!(drain.settled().granules(), Some(class.chunk_granules()));
        }
        let drain = Tag::Drain { owner, granules: 9, class: None };
        assert_eq!((drain.granules(), drain.settled().granules()), (None, Some(9)));
        for tag in [Tag::Free, Tag::Held(owner), Tag::Body { head: 3, owner }] {
            assert_eq!((tag.settled(), tag.granules()), (tag, None));
        }
    }
}
