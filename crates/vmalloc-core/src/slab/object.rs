//! An object's address in the direct map, and its words.
//!
//! ```text
//!   DirectAddr  = frame number · 4096 + offset        Linux: the address __va(pa) gives
//!   Object      = the words from an address on; they may cross from one frame into the next
//! ```
//!
//! An address is a number, not a pointer: it says where the object lies and gives no access.
//! Access is by [`Object`], whose words are atomics, so that a use after free or a race between
//! two owners spoils contents and nothing else.

use crate::platform::{FRAME_WORDS, Ram};
use crate::sync::{AtomicU64, Ordering};
use crate::units::{PAGE_SHIFT, PAGE_SIZE, Pfn};
use core::fmt;

/// The address of a byte in the direct map: frame number times 4096, plus an offset. May be
/// anything: it is checked on use.
///
/// Not a [`crate::VirtAddr`], so that what `kmalloc` gave cannot go to `vfree`.
///
/// ```
/// # use vmalloc_core::{Pfn, slab::DirectAddr};
/// let addr = DirectAddr::new(Pfn(0x1f3), 64);
/// assert_eq!((addr.pfn(), addr.offset_bytes()), (Pfn(0x1f3), 64));
/// assert_eq!(addr.to_string(), "direct 0x1f3040");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DirectAddr(pub u64);

impl DirectAddr {
    /// The byte at `offset_bytes` from the start of frame `pfn`, or of frames behind it.
    #[must_use]
    pub const fn new(pfn: Pfn, offset_bytes: u64) -> DirectAddr {
        DirectAddr((pfn.0 << PAGE_SHIFT) + offset_bytes)
    }

    /// The frame that holds the byte. Linux: `virt_to_pfn`.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }

    /// Where in its frame the byte lies.
    #[must_use]
    pub const fn offset_bytes(self) -> u64 {
        self.0 & (PAGE_SIZE as u64 - 1)
    }
}

impl fmt::Display for DirectAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "direct {:#x}", self.0)
    }
}

/// An object: so many words from an address on.
///
/// Made by [`crate::slab::KmemCache::object`] and [`crate::kmalloc::Kmalloc::object`], which look
/// whether somebody owns it, and handed to constructors. It does not keep the object alive.
#[derive(Clone, Copy)]
pub struct Object<'a> {
    ram: &'a dyn Ram,
    addr: DirectAddr,
    words: usize,
}

impl<'a> Object<'a> {
    pub(crate) fn new(ram: &'a dyn Ram, addr: DirectAddr, words: usize) -> Object<'a> {
        Object { ram, addr, words }
    }

    /// The address of the first word.
    #[must_use]
    pub const fn addr(&self) -> DirectAddr {
        self.addr
    }

    /// How many words there are: at least as many as were asked for.
    #[must_use]
    pub const fn words(&self) -> usize {
        self.words
    }

    /// Word number `index`.
    ///
    /// # Panics
    ///
    /// If there are not so many words.
    #[must_use]
    pub fn word(&self, index: usize) -> &'a AtomicU64 {
        assert!(index < self.words, "word {index} of an object of {}", self.words);
        let at = self.addr.offset_bytes() as usize / 8 + index;
        let pfn = Pfn(self.addr.pfn().0 + (at / FRAME_WORDS) as u64);
        &self.ram.words(pfn)[at % FRAME_WORDS]
    }

    /// Fills the object with zeros.
    pub(crate) fn zero(&self) {
        (0..self.words).for_each(|i| self.word(i).store(0, Ordering::Relaxed));
    }

    /// Copies the words that both have.
    pub(crate) fn copy_from(&self, other: &Object<'_>) {
        for i in 0..self.words.min(other.words) {
            self.word(i).store(other.word(i).load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({}, {} words)", self.addr, self.words)
    }
}
