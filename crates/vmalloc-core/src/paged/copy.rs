//! Bytes of areas, reached through the direct map: what moves when an area does.
//!
//! Page by page, by what the tables say, word by word with relaxed atomics: the areas are the
//! caller's alone, and if they are not, the result is a mix, never undefined behaviour.

use super::{Hardware, Paged};
use crate::platform::{FRAME_WORDS, Frames};
use crate::sync::{AtomicU64, Ordering};
use crate::units::{PAGE_SIZE, VirtAddr};

const WORD: u64 = 8;

impl<F: Frames, H: Hardware> Paged<'_, F, H> {
    /// Copies `len` bytes between two places that are mapped, each the first byte of a page.
    pub(crate) fn copy(&self, from: VirtAddr, to: VirtAddr, len: u64) {
        self.store(to, 0..len, |at| {
            self.word(VirtAddr(from.0 + at)).map_or(0, |word| word.load(Ordering::Relaxed))
        });
    }

    /// Fills the bytes `range` from `base`, the first byte of a page, with zeros.
    pub(crate) fn zero_bytes(&self, base: VirtAddr, range: core::ops::Range<u64>) {
        self.store(base, range, |_| 0);
    }

    /// Stores words at the bytes `range` from `base` on: of the words at its ends, only the bytes
    /// inside. `word(at)` is the word for offset `at`, a multiple of 8.
    pub(crate) fn store(
        &self,
        base: VirtAddr,
        range: core::ops::Range<u64>,
        word: impl Fn(u64) -> u64,
    ) {
        let mut at = range.start - range.start % WORD;
        while at < range.end {
            if let Some(place) = self.word(VirtAddr(base.0 + at)) {
                let mask =
                    bytes_up_to(range.end - at) & !bytes_up_to(range.start.saturating_sub(at));
                let kept = place.load(Ordering::Relaxed) & !mask;
                place.store(kept | word(at) & mask, Ordering::Relaxed);
            }
            at += WORD;
        }
    }

    /// The word that holds the byte at `addr`, if a frame shows there.
    fn word(&self, addr: VirtAddr) -> Option<&AtomicU64> {
        let (pfn, _) = self.hardware.translate(addr.vpn())?;
        let words: &[AtomicU64; FRAME_WORDS] = self.hardware.words(pfn);
        words.get((addr.0 % PAGE_SIZE as u64 / WORD) as usize)
    }
}

/// The first `len` bytes of a word in memory order (the machine's words are little-endian).
const fn bytes_up_to(len: u64) -> u64 {
    if len >= WORD { u64::MAX } else { (1 << (len * 8)) - 1 }
}
