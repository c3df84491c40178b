//! Peek: what a token names, from a few words that somebody else fetches.
//!
//! For a reader that has a pool's file and may not write it, nor map it: it asks for the words it
//! needs, one at a time, and looks again after it has copied. Nothing here keeps the area: whoever
//! copied, and finds the same afterwards, has what was there.

use crate::class::SLOTS_MAX;
use crate::layout::Geometry;
use crate::record::{RawRecord, State};
use crate::share::Token;
use crate::slots::slot_of;
use crate::tag::Tag;
use crate::units::PageRange;

/// What a token names, as it was when it was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peeked {
    /// Its state.
    pub state: State,
    /// Its pages, as offsets in the window.
    pub pages: PageRange,
    /// The bytes asked for.
    pub bytes: u64,
}

/// Looks at what `token` names. `word` fetches a word of the tables by its index; it may say what
/// it likes. `None`: there is no such area, it is another tenant, or it changed under the look.
pub fn peek(
    geometry: &Geometry,
    token: &Token,
    word: impl Fn(usize) -> Option<u64>,
) -> Option<Peeked> {
    let id = token.area.0 as usize;
    let (head, slot) = (id / SLOTS_MAX, id % SLOTS_MAX);
    if head >= geometry.granules {
        return None;
    }
    let tag = Tag::decode(word(geometry.tag_word(head))?)?.settled();
    let pages = slot_of(tag, geometry.granules, id)?;
    let record = RawRecord { at: geometry.record_words(head).start, slot };
    let before = record.state(&word)?;
    let (len, bytes) = record.len(&word)?;
    let after = record.state(&word)?;
    if before != after || before.generation != token.generation {
        return None;
    }
    let pages = PageRange { start: pages.start, len: len.min(pages.len) };
    Some(Peeked { state: before, pages, bytes: bytes.min(pages.len.bytes()) })
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::proof::machine::{Pool, START};
    use crate::slots::slot_pages;
    use crate::sync::Ordering;
    use crate::{AreaId, Kind, Publish, Request};
    use std::cell::Cell;

    const GEOMETRY: Geometry =
        Geometry { granules: 16, small_granules: 16, members: 2, in_place: true };

    /// Goal: a look shows what a token names; nothing of another tenant, of what changed meanwhile, or
    /// where a word cannot be fetched; and no more than the slot holds, whatever the words say. Method:
    /// two areas of a chunk and a long one, and one fetch after the other that says something else.
    #[test]
    fn a_look_shows_what_a_token_names_or_nothing() {
        let pool = Pool::empty(GEOMETRY);
        let engine = pool.engine(1);
        let word = |i: usize| pool.words.get(i).map(|word| word.load(Ordering::SeqCst));
        for bytes in [5000, 6000, 700 * 4096] {
            let area = engine.vmalloc(&Request::bytes(bytes)).unwrap();
            let token = engine.share(area.id, area.generation, Publish::Frozen).unwrap();
            let peeked = peek(&GEOMETRY, &token, word).unwrap();
            assert_eq!((peeked.state.kind, peeked.bytes), (Kind::Frozen, bytes));
            let start = area.pages.start.0 - START.0;
            assert_eq!((peeked.pages.start.0, peeked.pages.len), (start, area.pages.len));
            let next = Token { generation: token.generation + 1, ..token };
            assert_eq!(peek(&GEOMETRY, &next, word), None);
            // The tag, the state, the pages, the bytes, and the state again.
            let with = |n: usize, told: Option<u64>| {
                let count = Cell::new(0);
                let word = |i| if count.replace(count.get() + 1) == n { told } else { word(i) };
                peek(&GEOMETRY, &token, word)
            };
            assert!((0..5).all(|n| with(n, None).is_none()));
            let state = peeked.state;
            let later = State { generation: state.generation + 1, ..state }.encode();
            let other = State { kind: Kind::Dying, ..state }.encode();
            assert_eq!(
                [with(1, Some(later)), with(4, Some(later)), with(4, Some(other))],
                [None; 3]
            );
            let slot = slot_pages(pool.context(1).tables, area.id.0 as usize).unwrap();
            let long = with(2, Some(u64::from(u32::MAX))).unwrap();
            assert_eq!((long.pages.len, long.bytes), (slot.len, bytes));
            let full = with(3, Some(u64::MAX)).unwrap();
            assert_eq!((full.pages, full.bytes), (peeked.pages, area.pages.len.bytes()));
            for id in [(GEOMETRY.granules * SLOTS_MAX) as u32, u32::MAX] {
                let beyond = Token { area: AreaId(id), ..token };
                assert_eq!(peek(&GEOMETRY, &beyond, |_| Some(0)), None);
            }
        }
    }
}
