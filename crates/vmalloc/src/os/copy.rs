//! Copies to and from memory that others may write meanwhile.
//!
//! A `memcpy` of such bytes would be a data race. Here every access is a relaxed 64-bit atomic:
//! the result may be a mix of old and new words, never undefined behaviour. Words of one size
//! only, since accesses of different sizes to the same bytes must not race either; so a ragged
//! end is read as a whole word, and written by compare-and-swap, which leaves the neighbours'
//! bytes as they are.

use std::sync::atomic::{AtomicU64, Ordering};

const WORD: usize = 8;

/// Copies `out.len()` bytes from byte `at` of `words` on.
///
/// # Panics
///
/// If they pass the end of `words`: the caller has checked.
pub(crate) fn copy_out(words: &[AtomicU64], at: usize, out: &mut [u8]) {
    let words = &words[at / WORD..(at + out.len()).div_ceil(WORD)];
    let load = |word: &AtomicU64| word.load(Ordering::Relaxed).to_ne_bytes();

    let skip = at % WORD;
    let (head, body) = out.split_at_mut(if skip == 0 { 0 } else { (WORD - skip).min(out.len()) });
    let (first, words) = words.split_at(usize::from(!head.is_empty()));
    if let [first] = first {
        head.copy_from_slice(&load(first)[skip..skip + head.len()]);
    }
    let mut chunks = body.chunks_exact_mut(WORD);
    for (chunk, word) in chunks.by_ref().zip(words) {
        chunk.copy_from_slice(&load(word));
    }
    let tail = chunks.into_remainder();
    if let Some(last) = words.last()
        && !tail.is_empty()
    {
        tail.copy_from_slice(&load(last)[..tail.len()]);
    }
}

/// Copies `bytes` to byte `at` of `words` and on.
///
/// # Panics
///
/// If they pass the end of `words`: the caller has checked.
pub(crate) fn copy_in(words: &[AtomicU64], at: usize, bytes: &[u8]) {
    let words = &words[at / WORD..(at + bytes.len()).div_ceil(WORD)];

    let skip = at % WORD;
    let (head, body) = bytes.split_at(if skip == 0 { 0 } else { (WORD - skip).min(bytes.len()) });
    let (first, words) = words.split_at(usize::from(!head.is_empty()));
    if let [first] = first {
        merge(first, skip, head);
    }
    let (chunks, tail) = body.as_chunks::<WORD>();
    for (chunk, word) in chunks.iter().zip(words) {
        word.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
    }
    if let Some(last) = words.last()
        && !tail.is_empty()
    {
        merge(last, 0, tail);
    }
}

/// Replaces the bytes `at ..` of one word, and no other.
fn merge(word: &AtomicU64, at: usize, bytes: &[u8]) {
    let mut old = word.load(Ordering::Relaxed);
    loop {
        let mut new = old.to_ne_bytes();
        new[at..at + bytes.len()].copy_from_slice(bytes);
        let new = u64::from_ne_bytes(new);
        match word.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(seen) => old = seen,
        }
    }
}
