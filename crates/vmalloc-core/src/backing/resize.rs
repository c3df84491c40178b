//! A backing made longer or shorter while its one user keeps it.

use super::{Backings, Draft, EXTENTS, HEAD, INLINE, INLINE_MAX, PAGES, STATE, TAIL, pack, unpack};
use crate::machine::BackError;
use crate::platform::{Frames, Ram};
use crate::sync::{AtomicU64, Ordering};
use crate::units::{Extent, Pages, Pfn};

impl Backings<'_> {
    /// Adds frames behind a backing's last, neighbours merged. On failure some may have been
    /// added: the caller truncates.
    pub(crate) fn append<F: Frames, R: Ram>(
        &self,
        name: u64,
        run: Extent,
        frames: &F,
        ram: &R,
    ) -> Result<(), BackError> {
        let index = self.index_of(name).ok_or(BackError::Gone)?;
        let kind = self.word(index, STATE).load(Ordering::Relaxed) & 3;
        // Not a draft any more, but extended as one: by its only user.
        self.push(&Draft { index, kind }, run, frames, ram)
    }

    /// Keeps the first `keep` pages; the frames behind them go home. O(extents).
    pub(crate) fn truncate<F: Frames, R: Ram>(&self, name: u64, keep: Pages, frames: &F, ram: &R) {
        let Some(index) = self.index_of(name) else { return };
        let count = self.word(index, EXTENTS).load(Ordering::Relaxed) as usize;
        let mut cut = Cut { left: keep.0, kept: 0 };
        for i in 0..count.min(INLINE_MAX) {
            cut.extent(self.word(index, INLINE + i), frames);
        }
        let (head, tail) = (self.word(index, HEAD), self.word(index, TAIL));
        let mut link = head;
        let mut last = 0;
        while let Some(pfn) = link.load(Ordering::Relaxed).checked_sub(1) {
            let words = ram.words(Pfn(pfn));
            let before = cut.kept;
            let here = words[1].load(Ordering::Relaxed) as usize;
            words[2..2 + here].iter().for_each(|word| cut.extent(word, frames));
            let kept = cut.kept - before;
            words[1].store(kept as u64, Ordering::Relaxed);
            if kept == 0 {
                // Nothing behind is kept, either: the chain ends before this frame.
                link.store(words[0].load(Ordering::Relaxed), Ordering::Relaxed);
                frames.give(Extent { start: Pfn(pfn), len: Pages(1) });
            } else {
                last = pfn + 1;
                link = &words[0];
            }
        }
        tail.store(last, Ordering::Relaxed);
        self.word(index, EXTENTS).store(cut.kept as u64, Ordering::Relaxed);
        self.word(index, PAGES).store(keep.0, Ordering::Relaxed);
    }
}

/// How far a cut has come.
struct Cut {
    /// Pages still to be kept.
    left: u64,
    /// Extents kept.
    kept: usize,
}

impl Cut {
    /// Keeps what may be kept of an extent; the rest goes home.
    fn extent(&mut self, word: &AtomicU64, frames: &impl Frames) {
        let run = unpack(word.load(Ordering::Relaxed));
        let keep = run.len.0.min(self.left);
        if keep > 0 {
            word.store(pack(Extent { start: run.start, len: Pages(keep) }), Ordering::Relaxed);
            self.kept += 1;
            self.left -= keep;
        }
        if keep < run.len.0 {
            frames.give(Extent { start: Pfn(run.start.0 + keep), len: Pages(run.len.0 - keep) });
        }
    }
}
