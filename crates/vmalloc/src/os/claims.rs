//! Which pages of a mapping somebody in this process has a view of.
//!
//! The records that say who owns an area lie in the pool, where other processes write them. So a
//! hostile or broken member could make our allocator hand out the same pages twice; with
//! `&mut [u8]` on both that would be undefined behaviour in *this* process. The claims are
//! private to the process, and every view takes one: the second asker gets an error instead.
//!
//! ```text
//!   blocks: 2 bits a 2 MiB block    UNTOUCHED ──first small claim──▶ SMALL (for ever)
//!                                       ▲ └─claim of the whole block─▶ WHOLE ─┐
//!                                       └────────────── release ──────────────┘
//!   pages:  1 bit a page, used in SMALL blocks only
//! ```
//!
//! Cost: a load and one atomic step (8 ns here) for each word of 64 pages, and for up to 8 whole
//! blocks (16 MiB) one. So a claim and its end cost 13 ns for a page, 23 ns for 2 MiB, 170 ns for
//! 200 MiB. A whole block that was once SMALL costs 8 steps; size classes keep to their own
//! chunks, so that is rare. The table has 2 KiB for 64 MiB of window, and is mapped lazily.
//!
//! Words that are neighbours lie on cache lines that are not: two threads, whose areas lie side
//! by side, then do not write the same line.
//!
//! Exclusive claims are bits alone. Frozen and shared ones may be taken several times, of exactly
//! the same pages: they are counted in a small table beside, under a lock (attaching is rare).
//!
//! A claim can be cut short or made longer without being given up in between (`Claims::shorten`, or
//! one more `Claims::take` behind it): an area that is resized stays claimed.
//!
//! Invariant: a page is in at most one exclusive claim, or in any number of counted claims of one
//! kind and one extent (shared ones may begin alike and be shorter), never in both.

use crate::os::anon::AnonWords;
use crate::os::{HUGE_BYTES, PAGE_BYTES};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const PAGES_A_BLOCK: u64 = HUGE_BYTES / PAGE_BYTES;
/// Few, so that two threads' large areas seldom share a word.
const BLOCKS_A_WORD: u64 = 8;
/// So many pages, from a multiple on, are one word where they are claimed as whole blocks.
pub(crate) const PAGES_A_WORD: u64 = BLOCKS_A_WORD * PAGES_A_BLOCK;
/// Words of a page of the table, and of a cache line.
const WORDS_A_PAGE: u64 = PAGE_BYTES / 8;
const WORDS_A_LINE: u64 = 8;
const LINES_A_PAGE: u64 = WORDS_A_PAGE / WORDS_A_LINE;
const SMALL: u64 = 0b01;
const WHOLE: u64 = 0b10;
/// The low bit of each block of a word.
const EACH: u64 = 0x5555_5555_5555_5555;

/// What a counted claim is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sharing {
    /// `&[u8]`: nobody writes.
    Frozen,
    /// Atomics and copies: everybody may.
    Shared,
}

/// Some page of the run is in another claim. Nothing was claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Taken;

#[derive(Debug)]
struct Counted {
    len: u64,
    sharing: Sharing,
    count: u64,
}

/// The claims of one mapping.
#[derive(Debug)]
pub(crate) struct Claims {
    blocks: AnonWords,
    pages: AnonWords,
    counted: Mutex<BTreeMap<u64, Counted>>,
}

impl Claims {
    /// An empty table for a mapping of `len` pages.
    ///
    /// # Errors
    ///
    /// What `mmap` said: a lack of address space.
    pub(crate) fn new(len: u64) -> Result<Claims, Errno> {
        // Whole pages of a table, among whose lines its words are spread.
        let spread = |count: u64| {
            let count = count.next_multiple_of(WORDS_A_PAGE);
            AnonWords::new(usize::try_from(count).unwrap_or(usize::MAX))
        };
        let blocks = len.div_ceil(PAGES_A_BLOCK);
        Ok(Claims {
            blocks: spread(blocks.div_ceil(BLOCKS_A_WORD))?,
            // Whole blocks, so that a block's eight words are always there.
            pages: spread(blocks * (PAGES_A_BLOCK / 64))?,
            counted: Mutex::default(),
        })
    }

    /// Claims the pages `first .. first + len` for one holder.
    ///
    /// # Errors
    ///
    /// [`Taken`].
    ///
    /// # Panics
    ///
    /// If the run passes the table: the mapping has checked it.
    #[inline]
    pub(crate) fn take(&self, first: u64, len: u64) -> Result<(), Taken> {
        match self.one_word(first, len) {
            Some((word, mask)) => take_bits(word, mask),
            None => self.take_all(first, len),
        }
    }

    // Not inlined: it would cost the short way its registers.
    #[inline(never)]
    fn take_all(&self, first: u64, len: u64) -> Result<(), Taken> {
        let mut done = 0;
        while done < len {
            match self.take_some(first + done, len - done) {
                Some(taken) => done += taken,
                None => {
                    self.put(first, done);
                    return Err(Taken);
                }
            }
        }
        Ok(())
    }

    /// Ends a claim that [`Claims::take`] made of exactly these pages.
    #[inline]
    pub(crate) fn put(&self, first: u64, len: u64) {
        match self.one_word(first, len) {
            Some((word, mask)) => put_bits(word, mask),
            None => self.put_all(first, len),
        }
    }

    #[inline(never)]
    fn put_all(&self, first: u64, len: u64) {
        let mut done = 0;
        while done < len {
            done += self.put_some(first + done, len - done);
        }
    }

    /// Makes a claim that [`Claims::take`] made of `len` pages one of its first `new_len`, which
    /// are no more: what is behind them is free.
    pub(crate) fn shorten(&self, first: u64, len: u64, new_len: u64) {
        debug_assert!(new_len <= len);
        let (cut, end) = (first + new_len, first + len);
        if !cut.is_multiple_of(PAGES_A_BLOCK) {
            self.break_up(cut / PAGES_A_BLOCK);
        }
        self.put(cut, end - cut);
    }

    /// Turns a block that is claimed as a whole, by our caller, into one claimed page by page.
    fn break_up(&self, block: u64) {
        let word = self.block_word(block);
        let shift = 2 * (block % BLOCKS_A_WORD);
        if word.load(Ordering::Relaxed) >> shift & WHOLE == 0 {
            return;
        }
        let first = block * (PAGES_A_BLOCK / 64);
        // Relaxed: nobody looks at them before the block is SMALL.
        let words = first..first + PAGES_A_BLOCK / 64;
        words.for_each(|i| self.pages[spot(i)].store(u64::MAX, Ordering::Relaxed));
        // Release: whoever sees SMALL sees its pages taken.
        word.fetch_xor((SMALL | WHOLE) << shift, Ordering::Release);
    }

    /// Claims the pages for one more holder of this kind. Shared ones may be fewer than those that
    /// are claimed: the area was longer when somebody looked again.
    ///
    /// # Errors
    ///
    /// [`Taken`]: also if they are claimed with another extent or kind.
    pub(crate) fn take_counted(&self, first: u64, len: u64, how: Sharing) -> Result<(), Taken> {
        let mut counted = self.lock();
        if let Some(entry) = counted.get_mut(&first) {
            let fits = entry.len == len || how == Sharing::Shared && len < entry.len;
            if !fits || entry.sharing != how {
                return Err(Taken);
            }
            entry.count += 1;
            return Ok(());
        }
        self.take(first, len)?;
        counted.insert(first, Counted { len, sharing: how, count: 1 });
        Ok(())
    }

    /// Makes a shared claim at least `len` pages long, for all its holders. `false`: there is none.
    ///
    /// # Errors
    ///
    /// [`Taken`]: a page behind it is claimed; the claim is as it was.
    pub(crate) fn lengthen_counted(&self, first: u64, len: u64) -> Result<bool, Taken> {
        let mut counted = self.lock();
        let Some(entry) = counted.get_mut(&first).filter(|e| e.sharing == Sharing::Shared) else {
            return Ok(false);
        };
        if entry.len < len {
            self.take(first + entry.len, len - entry.len)?;
            entry.len = len;
        }
        Ok(true)
    }

    /// How many pages the shared claim that begins at `first` has, if there is one.
    pub(crate) fn shared_len(&self, first: u64) -> Option<u64> {
        let counted = self.lock();
        counted.get(&first).filter(|e| e.sharing == Sharing::Shared).map(|entry| entry.len)
    }

    /// How many pages the counted claim that begins at `first` has, if there is one.
    pub(crate) fn counted_len(&self, first: u64) -> Option<u64> {
        self.lock().get(&first).map(|entry| entry.len)
    }

    /// Turns an exclusive claim of exactly these pages into a counted one with one holder.
    pub(crate) fn start_counting(&self, first: u64, len: u64, how: Sharing) {
        let before = self.lock().insert(first, Counted { len, sharing: how, count: 1 });
        debug_assert!(before.is_none(), "an exclusive claim that was counted: {before:?}");
    }

    /// Ends one holder's counted claim; the last one frees the pages.
    pub(crate) fn put_counted(&self, first: u64) {
        let mut counted = self.lock();
        let Some(entry) = counted.get_mut(&first) else {
            debug_assert!(false, "no counted claim at page {first:#x}");
            return;
        };
        entry.count -= 1;
        if entry.count == 0 {
            let len = entry.len;
            counted.remove(&first);
            self.put(first, len);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Counted>> {
        // A panic cannot leave the table half changed: each change is one call.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims a piece from the front of the run: whole blocks as one step can, or what lies in the
    /// first block. `None` if taken.
    fn take_some(&self, first: u64, len: u64) -> Option<u64> {
        let block = first / PAGES_A_BLOCK;
        let word = self.block_word(block);
        let shift = 2 * (block % BLOCKS_A_WORD);
        // Acquire here and on each success below: pairs with the Release in `put_some`, so that
        // the last holder's reads and writes are over.
        let seen = word.load(Ordering::Acquire);

        let whole = whole_blocks(first, len).min(BLOCKS_A_WORD - block % BLOCKS_A_WORD);
        let are_free = |count: u64| seen >> shift & low_bits(2 * count) == 0;
        // All of those in this word; or one, if they are not all untouched.
        let count = if are_free(whole) { whole } else { whole.min(u64::from(are_free(1))) };
        if count > 0 {
            let new = seen | (low_bits(2 * count) & (EACH << 1)) << shift;
            return match word.compare_exchange(seen, new, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => Some(count * PAGES_A_BLOCK),
                Err(_) => Some(0), // Look again.
            };
        }

        match seen >> shift & (SMALL | WHOLE) {
            SMALL => {}
            0 => {
                let new = seen | SMALL << shift;
                let _ = word.compare_exchange(seen, new, Ordering::Acquire, Ordering::Relaxed);
                return Some(0);
            }
            _ => return None,
        }
        let (mut at, end) = (first, first + within_block(first, len));
        while at < end {
            let (word, mask, count) = self.page_word(at, end - at);
            if take_bits(word, mask).is_err() {
                self.put(first, at - first);
                return None;
            }
            at += count;
        }
        Some(end - first)
    }

    /// Frees a piece from the front of a claimed run and says how many pages that was.
    fn put_some(&self, first: u64, len: u64) -> u64 {
        let block = first / PAGES_A_BLOCK;
        let word = self.block_word(block);
        let shift = 2 * (block % BLOCKS_A_WORD);
        // Relaxed: the bits of a claimed block change only by its holder's hand.
        let seen = word.load(Ordering::Relaxed);

        let whole = whole_blocks(first, len).min(BLOCKS_A_WORD - block % BLOCKS_A_WORD);
        let are_whole = |count: u64| seen >> shift & low_bits(2 * count) & EACH == 0;
        let count = if are_whole(whole) { whole } else { whole.min(u64::from(are_whole(1))) };
        if count > 0 {
            let bits = (low_bits(2 * count) & (EACH << 1)) << shift;
            // Release: pairs with the Acquire in `take_some`.
            let before = word.fetch_and(!bits, Ordering::Release);
            debug_assert_eq!(before & bits, bits, "blocks from {block:#x} were not claimed");
            return count * PAGES_A_BLOCK;
        }

        let (mut at, end) = (first, first + within_block(first, len));
        while at < end {
            let (word, mask, count) = self.page_word(at, end - at);
            put_bits(word, mask);
            at += count;
        }
        end - first
    }

    /// The word and the bits of a run within one word of a SMALL block, as most small areas are.
    #[inline]
    fn one_word(&self, first: u64, len: u64) -> Option<(&AtomicU64, u64)> {
        if len == 0 || len > 64 - first % 64 {
            return None;
        }
        let block = first / PAGES_A_BLOCK;
        // Acquire: pairs with the Release in `break_up`.
        let seen = self.block_word(block).load(Ordering::Acquire);
        let is_small = seen >> (2 * (block % BLOCKS_A_WORD)) & SMALL != 0;
        is_small.then(|| {
            let (word, mask, _) = self.page_word(first, len);
            (word, mask)
        })
    }

    fn block_word(&self, block: u64) -> &AtomicU64 {
        &self.blocks[spot(block / BLOCKS_A_WORD)]
    }

    /// The word of `first`, the bits of the run that lie in it, and how many they are.
    #[inline]
    fn page_word(&self, first: u64, len: u64) -> (&AtomicU64, u64, u64) {
        let at = first % 64;
        let count = len.min(64 - at);
        (&self.pages[spot(first / 64)], low_bits(count) << at, count)
    }
}

/// Where word `word` of a table lies: on another line than those before and behind it, and not on
/// the other half of a pair of lines, which are fetched together.
#[inline]
fn spot(word: u64) -> usize {
    const LINE_BITS: u32 = LINES_A_PAGE.trailing_zeros();
    let (page, i) = (word & !(WORDS_A_PAGE - 1), word & (WORDS_A_PAGE - 1));
    let (line, on_line) = (i & (LINES_A_PAGE - 1), i >> LINE_BITS);
    // Turned by a bit: the even lines first.
    let line = ((line << 1) & (LINES_A_PAGE - 1)) + (line >> (LINE_BITS - 1));
    (page + line * WORDS_A_LINE + on_line) as usize
}

/// Whether a claim's end is to hand nothing on, which is a bug: for Miri a build with it, for
/// ThreadSanitizer a build that has it while its canary runs.
fn is_planted() -> bool {
    #[cfg(tsan)]
    return PLANTED.load(Ordering::Relaxed);
    #[cfg(not(tsan))]
    cfg!(canary)
}

/// Set by the canary, which runs alone.
#[cfg(tsan)]
pub static PLANTED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Claims the pages of a word that `mask` names, if none of them is claimed.
#[inline]
fn take_bits(word: &AtomicU64, mask: u64) -> Result<(), Taken> {
    let free = |bits: u64| (bits & mask == 0).then_some(bits | mask);
    // Acquire: pairs with the Release in `put_bits`, so that the last holder's reads and writes are
    // over.
    word.fetch_update(Ordering::Acquire, Ordering::Relaxed, free).map(drop).map_err(|_| Taken)
}

/// Frees them.
#[inline]
fn put_bits(word: &AtomicU64, mask: u64) {
    // Release, both: pair with the Acquire in `take_bits`. Planted, for Miri and ThreadSanitizer to
    // find: what was written may come later.
    let release = if is_planted() { Ordering::Relaxed } else { Ordering::Release };
    let before = if mask == u64::MAX {
        // All 64 pages are this claim's, so nobody else writes the word: no atomic step.
        let before = word.load(Ordering::Relaxed);
        word.store(0, release);
        before
    } else {
        word.fetch_and(!mask, release)
    };
    debug_assert_eq!(before & mask, mask, "pages that were not claimed");
}

/// How many whole blocks the run begins with.
fn whole_blocks(first: u64, len: u64) -> u64 {
    if first.is_multiple_of(PAGES_A_BLOCK) { len / PAGES_A_BLOCK } else { 0 }
}

/// How many pages of a run lie in its first block.
fn within_block(first: u64, len: u64) -> u64 {
    len.min(PAGES_A_BLOCK - first % PAGES_A_BLOCK)
}

/// A word whose `count` lowest bits are set; all of them from 64 on.
fn low_bits(count: u64) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}
