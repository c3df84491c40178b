//! Simulated RAM: words that any thread may read and write, in frames, with a tail for tables.
//!
//! ```text
//!   pfn  first              first + data        first + data + tables
//!        [ data frames ............ | table frames ........ ]   [ device ]
//!          the engine's: Ram::words   the mapper's own            no RAM
//! ```
//!
//! Behind it there may be a device's registers: words on the bus that are no RAM.
//!
//! Fresh RAM holds junk, never zeros, so that memory handed out without zeroing shows. The engine
//! reaches data frames alone: asking for a table frame through [`Ram::words`] panics. The MMU
//! and the CPUs sit on the bus and reach all of it ([`SimRam::frame`]).
//!
//! Orderings: loads are `Acquire` and stores `Release`, which is what x86_64 gives plain moves.

use vmalloc_core::platform::{FRAME_WORDS, Ram};
use vmalloc_core::sync::{AtomicU64, Ordering};
use vmalloc_core::{Extent, PAGE_SIZE, Pages, Pfn};

type Frame = [AtomicU64; FRAME_WORDS];

/// The RAM of one simulated machine. See the module's story in its source, `ram.rs`.
pub struct SimRam {
    // Constant after construction.
    data: Extent,
    tables: Extent,
    device: Extent,
    // Written by everyone. A box each: Miri looks at all atomics of a slice that it is shown.
    frames: Vec<Box<Frame>>,
}

impl SimRam {
    /// RAM of `data` frames from `first` on for the engine, and `tables` frames behind them for
    /// page tables. All of it holds junk. O(frames).
    ///
    /// # Panics
    ///
    /// If the size in words does not fit in a `usize`.
    #[must_use]
    pub fn new(first: Pfn, data: Pages, tables: Pages) -> SimRam {
        SimRam::with_device(first, data, tables, Pages(0))
    }

    /// The same, and behind the RAM `device` frames of registers, which are no RAM.
    ///
    /// # Panics
    ///
    /// As [`SimRam::new`].
    #[must_use]
    pub fn with_device(first: Pfn, data: Pages, tables: Pages, device: Pages) -> SimRam {
        let data = Extent { start: first, len: data };
        let tables = Extent { start: data.end(), len: tables };
        let device = Extent { start: tables.end(), len: device };
        let frames = data.len.0 + tables.len.0 + device.len.0;
        let frames = usize::try_from(frames).expect("fewer frames");
        assert!(frames <= usize::MAX / PAGE_SIZE, "less RAM");
        SimRam {
            data,
            tables,
            device,
            frames: (0..frames).map(|index| Box::new(fresh(index))).collect(),
        }
    }

    /// The frames that an engine may own.
    #[must_use]
    pub fn data_frames(&self) -> Extent {
        self.data
    }

    /// The frames that hold page tables.
    #[must_use]
    pub fn table_frames(&self) -> Extent {
        self.tables
    }

    /// The frame numbers of the device's registers.
    #[must_use]
    pub fn device_frames(&self) -> Extent {
        self.device
    }

    /// Frame `pfn` as the bus sees it: data, table or registers; `None` where there is nothing.
    #[must_use]
    pub fn frame(&self, pfn: Pfn) -> Option<&[AtomicU64; FRAME_WORDS]> {
        let index = usize::try_from(pfn.0.checked_sub(self.data.start.0)?).ok()?;
        self.frames.get(index).map(|frame| &**frame)
    }

    /// Copies `out.len()` bytes of frame `pfn` from byte `offset` on. `None` where there is no
    /// RAM; nothing was copied then. Words are read one by one: a concurrent writer may be seen
    /// half done, but never within an aligned word.
    ///
    /// # Panics
    ///
    /// If the bytes run past the end of the frame.
    #[must_use]
    pub fn read(&self, pfn: Pfn, offset: usize, out: &mut [u8]) -> Option<()> {
        assert!(offset + out.len() <= PAGE_SIZE, "{} bytes at {offset} leave {pfn}", out.len());
        let words = self.frame(pfn)?;
        for piece in Pieces::new(offset, out.len()) {
            let bytes = words[piece.word].load(Ordering::Acquire).to_le_bytes();
            out[piece.at..piece.at + piece.len]
                .copy_from_slice(&bytes[piece.byte..piece.byte + piece.len]);
        }
        Some(())
    }

    /// Copies `bytes` to frame `pfn` from byte `offset` on; neighbouring bytes that others write
    /// at the same time are not lost. `None` where there is no RAM; nothing was copied then.
    ///
    /// # Panics
    ///
    /// If the bytes run past the end of the frame.
    #[must_use]
    pub fn write(&self, pfn: Pfn, offset: usize, bytes: &[u8]) -> Option<()> {
        assert!(offset + bytes.len() <= PAGE_SIZE, "{} bytes at {offset} leave {pfn}", bytes.len());
        let words = self.frame(pfn)?;
        for piece in Pieces::new(offset, bytes.len()) {
            let patch = |old: u64| {
                let mut word = old.to_le_bytes();
                word[piece.byte..piece.byte + piece.len]
                    .copy_from_slice(&bytes[piece.at..piece.at + piece.len]);
                u64::from_le_bytes(word)
            };
            if piece.len == 8 {
                words[piece.word].store(patch(0), Ordering::Release);
            } else {
                // AcqRel: the other bytes of the word keep what their writers released.
                words[piece.word].update(Ordering::AcqRel, Ordering::Acquire, patch);
            }
        }
        Some(())
    }

    /// Whether the frames of `run` still hold exactly the junk that fresh RAM is filled with,
    /// word for word. `false` where there is no RAM.
    #[must_use]
    pub fn is_junk(&self, run: Extent) -> bool {
        (run.start.0..run.end().0).all(|pfn| {
            self.frame(Pfn(pfn)).is_some_and(|words| {
                let first = (pfn - self.data.start.0) * FRAME_WORDS as u64;
                (first..).zip(words).all(|(i, word)| word.load(Ordering::Acquire) == junk(i))
            })
        })
    }

    /// Fills the frames of `run` with junk again, as fresh RAM has it.
    ///
    /// # Panics
    ///
    /// If a frame is not RAM.
    pub(crate) fn spoil(&self, run: Extent) {
        for pfn in run.start.0..run.end().0 {
            let words = self.frame(Pfn(pfn)).expect("RAM");
            let first = (pfn - self.data.start.0) * FRAME_WORDS as u64;
            for (i, word) in (first..).zip(words) {
                word.store(junk(i), Ordering::Release);
            }
        }
    }
}

impl Ram for SimRam {
    /// # Panics
    ///
    /// If `pfn` is not a data frame: the engine may not touch page tables, or what is no RAM.
    fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        let data = self.data;
        assert!(pfn >= data.start && pfn < data.end(), "{pfn} is no data frame; those are {data}");
        self.frame(pfn).expect("data frames are RAM")
    }

    fn ram_in(&self, run: Extent) -> Pages {
        let (first, end) = (self.data.start, self.tables.end());
        Pages(run.end().min(end).0.saturating_sub(run.start.max(first).0))
    }

    /// # Panics
    ///
    /// If a frame of `run` is not a data frame.
    fn zero(&self, run: Extent) {
        for pfn in run.start.0..run.end().0 {
            for word in self.words(Pfn(pfn)) {
                word.store(0, Ordering::Release);
            }
        }
    }
}

/// What word `index` of fresh RAM holds: differs from word to word, and is never zero. Under Miri
/// all frames are alike.
const fn junk(index: u64) -> u64 {
    let index = if cfg!(miri) { index % FRAME_WORDS as u64 } else { index };
    (index ^ 0x6a75_6e6b).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// Fresh RAM: frame `index`. Under Miri one copy a frame, since words one by one take it minutes.
fn fresh(index: usize) -> Frame {
    if cfg!(miri) {
        return const {
            let (mut frame, mut i) = ([const { AtomicU64::new(0) }; FRAME_WORDS], 0);
            while i < FRAME_WORDS {
                frame[i] = AtomicU64::new(junk(i as u64));
                i += 1;
            }
            frame
        };
    }
    std::array::from_fn(|i| AtomicU64::new(junk((index * FRAME_WORDS + i) as u64)))
}

/// One word's part of a run of bytes.
struct Piece {
    /// The word in its frame.
    word: usize,
    /// The first byte in the word, and how many.
    byte: usize,
    len: usize,
    /// Where the piece lies in the caller's buffer.
    at: usize,
}

/// Cuts a run of bytes in a frame at the words' borders.
struct Pieces {
    offset: usize,
    at: usize,
    left: usize,
}

impl Pieces {
    fn new(offset: usize, len: usize) -> Pieces {
        Pieces { offset, at: 0, left: len }
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.left == 0 {
            return None;
        }
        let byte = self.offset % 8;
        let piece =
            Piece { word: self.offset / 8, byte, len: self.left.min(8 - byte), at: self.at };
        self.offset += piece.len;
        self.at += piece.len;
        self.left -= piece.len;
        Some(piece)
    }
}
