//! Units as types: pages, frames, orders, and runs of them.
//!
//! A page number and a frame number are both integers, and mixing them up is the oldest bug in
//! memory management. Here each is a type that prints its kind: `vpn 0x80`, `pfn 0x1f3`,
//! `12 pages`, `order 9`. Bytes appear only at the edges, as [`VirtAddr`] and in names that end
//! in `bytes`.

use core::fmt;

/// log2 of the page size in bytes.
pub const PAGE_SHIFT: u32 = 12;
/// The page size in bytes: 4096 on every machine we run on.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// The highest order of a buddy block: 2^18 pages, 1 GiB.
pub const ORDER_MAX: Order = Order(18);

/// A number of pages (or of frames, which have the same size).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Pages(pub u64);

/// The number of a page frame: physical address / 4096. Linux: `pfn`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Pfn(pub u64);

/// The number of a virtual page: virtual address / 4096.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Vpn(pub u64);

/// log2 of a buddy block's size in pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Order(pub u8);

/// A virtual address in bytes, as a caller holds it. May be anything: it is checked on use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct VirtAddr(pub u64);

/// A run of virtual pages, `start .. start + len`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct PageRange {
    /// The first page.
    pub start: Vpn,
    /// How many pages.
    pub len: Pages,
}

/// A run of page frames, `start .. start + len`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Extent {
    /// The first frame.
    pub start: Pfn,
    /// How many frames.
    pub len: Pages,
}

impl Pages {
    /// The pages that `bytes` bytes need, rounded up. Never overflows.
    ///
    /// ```
    /// # use vmalloc_core::Pages;
    /// assert_eq!(Pages::for_bytes(0), Pages(0));
    /// assert_eq!(Pages::for_bytes(4097), Pages(2));
    /// ```
    #[must_use]
    pub const fn for_bytes(bytes: u64) -> Pages {
        Pages(bytes.div_ceil(PAGE_SIZE as u64))
    }

    /// The size in bytes.
    ///
    /// # Panics
    ///
    /// In debug builds, if the size does not fit in a `u64`.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 << PAGE_SHIFT
    }
}

impl Order {
    /// The size of a block of this order.
    #[must_use]
    pub const fn pages(self) -> Pages {
        Pages(1 << self.0)
    }

    /// The largest order whose block is no longer than `len`, at most [`ORDER_MAX`]; `None` for
    /// no pages.
    #[must_use]
    pub const fn at_most(len: Pages) -> Option<Order> {
        if len.0 == 0 {
            return None;
        }
        let log2 = len.0.ilog2() as u8;
        Some(if log2 < ORDER_MAX.0 { Order(log2) } else { ORDER_MAX })
    }
}

impl Vpn {
    /// The address of the page's first byte.
    #[must_use]
    pub const fn addr(self) -> VirtAddr {
        VirtAddr(self.0 << PAGE_SHIFT)
    }
}

impl VirtAddr {
    /// The page that holds this byte.
    #[must_use]
    pub const fn vpn(self) -> Vpn {
        Vpn(self.0 >> PAGE_SHIFT)
    }

    /// Whether this is the first byte of a page.
    #[must_use]
    pub const fn is_page_aligned(self) -> bool {
        self.0 & (PAGE_SIZE as u64 - 1) == 0
    }
}

impl PageRange {
    /// The first page after the run.
    #[must_use]
    pub const fn end(self) -> Vpn {
        Vpn(self.start.0 + self.len.0)
    }

    /// Whether `page` lies in the run.
    #[must_use]
    pub const fn contains(self, page: Vpn) -> bool {
        page.0 >= self.start.0 && page.0 - self.start.0 < self.len.0
    }

    /// The smallest run that holds both.
    pub(crate) fn hull(self, other: PageRange) -> PageRange {
        let (start, end) = (self.start.min(other.start), self.end().max(other.end()));
        PageRange { start, len: Pages(end.0 - start.0) }
    }
}

impl Extent {
    /// The first frame after the run.
    #[must_use]
    pub const fn end(self) -> Pfn {
        Pfn(self.start.0 + self.len.0)
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} page{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

impl fmt::Display for Vpn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vpn {:#x}", self.0)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {}", self.0)
    }
}

impl fmt::Display for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vpn {:#x}..{:#x}", self.start.0, self.end().0)
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}..{:#x}", self.start.0, self.end().0)
    }
}
