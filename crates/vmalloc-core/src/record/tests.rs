//! What the words of a record say, written and read again.

extern crate std;

use super::*;
use crate::Geometry;
use crate::layout::MEMBERS_MAX;
use std::vec::Vec;

const GEOMETRY: Geometry = Geometry { granules: 4, small_granules: 4, members: 2, in_place: true };
const LAST: u64 = (1 << 48) - 1;

fn words() -> Vec<AtomicU64> {
    (0..GEOMETRY.words()).map(|_| AtomicU64::new(0)).collect()
}

fn owner(number: usize) -> Owner {
    Owner::new(number).unwrap()
}

/// Goal: each state is read as it was written, no two are one word, and words that no member writes are
/// no state. Method: each kind with no owner, the first and the last, of the first and the last generation.
#[test]
fn states_are_read_as_they_were_written() {
    let mut seen = std::collections::BTreeSet::new();
    for kind in 0..=8 {
        for number in [0, 1, MEMBERS_MAX] {
            for generation in [0, 1, LAST] {
                let bits = kind | (number as u64) << 8 | generation << 16;
                let state = State::decode(bits).unwrap();
                assert_eq!((state.kind as u64, state.generation), (kind, generation));
                assert_eq!(state.owner, Owner::new(number));
                assert_eq!(state.encode(), bits);
                assert!(seen.insert(state.encode()));
                let published = matches!(state.kind, Kind::Frozen | Kind::Shared);
                assert_eq!(state.is_published(), published);
            }
        }
    }
    for wrong in [9, 0xff, (MEMBERS_MAX as u64 + 1) << 8, 0xff << 8 | 2] {
        assert_eq!(State::decode(wrong), None, "{wrong:#x}");
    }
    assert_eq!([0, 1, LAST - 1, LAST].map(next_generation), [1, 2, LAST, 1]);
}

/// Goal: a record says what was written into it, in each of the ways to write it, to its owner and to
/// who reads single words of it. Method: another value for each word, lengths of 32 bits.
#[test]
fn a_record_says_what_was_written() {
    let words = words();
    let tables = Tables::new(&words, GEOMETRY).unwrap();
    let (beside, record) = (Record::of(tables, 1, 2), Record::of(tables, 1, 3));
    let shape = Shape {
        bytes: 11,
        pages: Pages(0xffff_fff5),
        guard: Pages(0x8000_0001),
        flags: 14,
        backing: 15,
        caller: 16,
        birth: 17,
    };
    record.set_shape(&shape);
    assert_eq!((record.shape(), record.pages(), record.flags()), (shape, shape.pages, 14));
    record.add_flags(3);
    record.lengthen(&Shape { bytes: 21, backing: 25, birth: 27, flags: 0, caller: 0, ..shape });
    let longer = Shape { bytes: 21, flags: 15, backing: 25, birth: 27, ..shape };
    assert_eq!(record.shape(), longer);
    record.set_tenant(31, 36, 34);
    assert_eq!(record.shape(), Shape { bytes: 31, caller: 36, flags: 34, ..longer });
    assert_eq!(beside.shape(), Shape::default());

    let made = record.claim(owner(2)).unwrap();
    assert_eq!(made, State::new(Kind::Building, Some(owner(2)), 1));
    assert_eq!((record.claim(owner(1)), record.is_free()), (None, false));
    assert_eq!(record.is_in(Kind::Building, owner(2)), Some(made));
    assert_eq!(record.is_in(Kind::Building, owner(1)), None);
    assert_eq!(record.snapshot(), Some((made, record.shape())));
    let moves = || record.step(made, State { kind: Kind::Live, ..made });
    assert_eq!(record.snapshot_with(moves), None, "it moved under the look");
    assert!(beside.is_free() && !beside.step(made, made));

    let raw = RawRecord { at: GEOMETRY.record_words(1).start, slot: 3 };
    let word = |i: usize| words.get(i).map(|word: &AtomicU64| word.load(Ordering::Relaxed));
    assert_eq!(raw.state(word), record.state());
    assert_eq!(raw.len(word), Some((shape.pages, 31)));
    assert_eq!((raw.state(|_| None), raw.len(|_| None)), (None, None));
}

/// Goal: one member at a time makes a tenant longer, and what the last tenant's grower left is in nobody's
/// way.
#[test]
fn one_member_grows_a_tenant() {
    let words = words();
    let record = Record::of(Tables::new(&words, GEOMETRY).unwrap(), 0, 1);
    let (one, two) = (owner(1), owner(2));
    assert_eq!(record.grower(7), None);
    assert_eq!(record.begin_growing(one, 7), Ok(()));
    assert_eq!((record.grower(7), record.grower(8)), (Some(one), None));
    assert_eq!(record.begin_growing(two, 7), Err(Some(one)));
    assert_eq!(record.begin_growing(one, 7), Err(Some(one)), "nor twice");
    record.end_growing(two, 7);
    record.end_growing(one, 6);
    assert_eq!(record.grower(7), Some(one), "neither its grower nor this tenant");
    assert_eq!(record.begin_growing(two, 8), Ok(()), "of the next tenant");
    record.end_growing(two, 8);
    assert_eq!(record.grower(8), None);
    assert_eq!(record.begin_growing(one, 8), Ok(()));
}
