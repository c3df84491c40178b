//! The tree of hints: what stays set is found.

extern crate std;

use crate::bits::BitTree;
use crate::proof::explore::{Canary, Scenario, race_each_first};
use crate::sync::AtomicU64;
use crate::sync::explored::{self, Sequential};
use std::boxed::Box;
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

/// Three words of bits and one above them.
const LEN: usize = 130;

fn tree(words: &[AtomicU64]) -> BitTree<'_> {
    BitTree::new(words, LEN)
}

/// Goal: an element that was put in, and not taken out, is found. Method: two put theirs into the
/// word out of which another takes its last, so that the level above is cleared meanwhile.
#[test]
fn element_that_stays_is_found() {
    fn body() {
        let words = Arc::new(explored::words(0, BitTree::words_needed(LEN)));
        tree(&words).set(65);
        let walks: Vec<Box<dyn FnOnce(&Vec<AtomicU64>) + Send>> = vec![
            Box::new(|words| tree(words).set(64)),
            Box::new(|words| tree(words).set(66)),
            Box::new(|words| tree(words).clear(65)),
        ];
        race_each_first(&words, |words| words, walks);
        let found = [tree(&words).next(0), tree(&words).next(65)];
        assert_eq!(found, [Some(64), Some(66)], "an element is not found");
    }
    let (preemptions, needs, canary) = (Some(5), Sequential::Plain, Canary::Unordered);
    Scenario { name: "bits: set against clear", preemptions, needs, canary, body }.run();
}

/// Goal: the same where the tree has a level more, all of which forget the one that goes. Method: one
/// puts his into the word out of which another takes the last element of the tree.
#[test]
fn element_that_stays_is_found_on_three_levels() {
    const LEN: usize = 4100;
    fn tree(words: &[AtomicU64]) -> BitTree<'_> {
        BitTree::new(words, LEN)
    }
    fn body() {
        let words = Arc::new(explored::words(0, BitTree::words_needed(LEN)));
        tree(&words).set(LEN - 1);
        let walks: Vec<Box<dyn FnOnce(&Vec<AtomicU64>) + Send>> = vec![
            Box::new(|words| tree(words).set(LEN - 2)),
            Box::new(|words| tree(words).clear(LEN - 1)),
        ];
        race_each_first(&words, |words| words, walks);
        assert_eq!(tree(&words).next(0), Some(LEN - 2), "an element is not found");
    }
    let (preemptions, needs, canary) = (Some(5), Sequential::Plain, Canary::Unordered);
    Scenario { name: "bits: set against clear, three levels", preemptions, needs, canary, body }
        .run();
}
