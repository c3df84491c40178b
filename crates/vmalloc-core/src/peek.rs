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
