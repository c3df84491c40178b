//! `kvmalloc`: contiguous frames if they can be had, else contiguous pages.
//!
//! ```text
//!   kvmalloc(n) ─▶ kmalloc ──────────────────────────────▶ KvAddr::Direct
//!                   │ no, and n > a page ─▶ vmalloc ─────▶ KvAddr::Virtual
//!   kvfree(KvAddr) ─▶ by kind: kfree or vfree
//! ```
//!
//! The kind of an address is in its type. Linux's `kvfree` compares the address with the bounds
//! of the window, and `kfree` of what `kvmalloc` gave works until the day it falls back; here it
//! does not compile.
//!
//! Neighbours: joins [`Kmalloc`] and [`Engine`], both by reference, and keeps no state. Linux:
//! `kvmalloc_node`, `kvfree` of `mm/slub.c`.

use super::error::{KmallocError, KvfreeError, KvmallocError};
use super::{Kmalloc, array_bytes};
use crate::engine::{Engine, Freed};
use crate::machine::Machine;
use crate::platform::{Frames, Ram};
use crate::request::Request;
use crate::slab::DirectAddr;
use crate::units::{PAGE_SIZE, Pages, VirtAddr};
use core::fmt;

/// What [`Kv::kvmalloc`] gave: where it lies, and so how it is freed and reached.
///
/// ```compile_fail,E0308
/// # use vmalloc_core::{kmalloc::{Kmalloc, KvAddr}, platform::{Frames, Ram}};
/// fn mixed_up<F: Frames, R: Ram>(kmalloc: &Kmalloc<'_, F, R>, addr: KvAddr) {
///     let _ = kmalloc.kfree(addr);
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum KvAddr {
    /// In the direct map: contiguous frames.
    Direct(DirectAddr),
    /// In the window: contiguous pages. Linux: `is_vmalloc_addr`.
    Virtual(VirtAddr),
}

impl fmt::Display for KvAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvAddr::Direct(addr) => write!(f, "{addr}"),
            KvAddr::Virtual(addr) => write!(f, "virtual {addr}"),
        }
    }
}

/// `kmalloc` and `vmalloc`, whichever can serve.
pub struct Kv<'k, 'a, F, R, M> {
    kmalloc: &'k Kmalloc<'a, F, R>,
    engine: &'k Engine<'a, M>,
}

impl<'k, 'a, F: Frames, R: Ram, M: Machine> Kv<'k, 'a, F, R, M> {
    /// Joins the two. Free.
    #[must_use]
    pub const fn new(kmalloc: &'k Kmalloc<'a, F, R>, engine: &'k Engine<'a, M>) -> Self {
        Kv { kmalloc, engine }
    }

    /// `bytes` bytes, contents undefined: from `kmalloc` if it has them, and if not and they are
    /// more than a page, from `vmalloc`.
    ///
    /// For more than a page `kmalloc` does not try hard: it takes what is free, and gives up no
    /// empty slab for it. A request of a page or less never falls back, since a page of the window
    /// takes a whole frame, too; for it frames are sought in empty slabs and in what the engine
    /// has parked, where waiting is allowed. Cost: of whichever serves.
    ///
    /// # Errors
    ///
    /// [`KvmallocError`]; nothing was taken.
    pub fn kvmalloc(&self, bytes: u64) -> Result<KvAddr, KvmallocError> {
        self.take(Request::bytes(bytes), bytes, |kmalloc| kmalloc.kmalloc_or_fail(bytes))
    }

    /// The same, filled with zeros. Linux: `kvzalloc`.
    ///
    /// # Errors
    ///
    /// As [`Kv::kvmalloc`].
    pub fn kvzalloc(&self, bytes: u64) -> Result<KvAddr, KvmallocError> {
        let zeroed = Request::bytes(bytes).zeroed();
        self.take(zeroed, bytes, |kmalloc| {
            let addr = kmalloc.kmalloc_or_fail(bytes)?;
            kmalloc.zero(addr);
            Ok(addr)
        })
    }

    /// `count` elements of `size_bytes` bytes. Linux: `kvmalloc_array`.
    ///
    /// # Errors
    ///
    /// As [`Kv::kvmalloc`], and [`KmallocError::Overflow`].
    pub fn kvmalloc_array(&self, count: u64, size_bytes: u64) -> Result<KvAddr, KvmallocError> {
        self.kvmalloc(array_bytes(count, size_bytes).map_err(KvmallocError::Kmalloc)?)
    }

    /// The same, filled with zeros. Linux: `kvcalloc`.
    ///
    /// # Errors
    ///
    /// As [`Kv::kvmalloc_array`].
    pub fn kvcalloc(&self, count: u64, size_bytes: u64) -> Result<KvAddr, KvmallocError> {
        self.kvzalloc(array_bytes(count, size_bytes).map_err(KvmallocError::Kmalloc)?)
    }

    /// Frees what `kvmalloc` gave, or `kmalloc`, or `vmalloc`. Never waits, never allocates.
    ///
    /// # Errors
    ///
    /// [`KvfreeError`]: what is wrong with the address; nothing was freed.
    pub fn kvfree(&self, addr: KvAddr) -> Result<Freed, KvfreeError> {
        match addr {
            KvAddr::Direct(addr) => {
                self.kmalloc.kfree(addr).map_err(KvfreeError::Kfree)?;
                Ok(Freed { over_limit: false })
            }
            KvAddr::Virtual(addr) => self.engine.vfree(addr).map_err(KvfreeError::Vfree),
        }
    }

    fn take(
        &self,
        request: Request,
        bytes: u64,
        kmalloc: impl Fn(&Kmalloc<'a, F, R>) -> Result<DirectAddr, KmallocError>,
    ) -> Result<KvAddr, KvmallocError> {
        let is_small = bytes <= PAGE_SIZE as u64;
        let e = match kmalloc(self.kmalloc) {
            Ok(addr) => return Ok(KvAddr::Direct(addr)),
            Err(e) => e,
        };
        if is_small {
            return self
                .again_with_room(e, || kmalloc(self.kmalloc))
                .map(KvAddr::Direct)
                .map_err(KvmallocError::Kmalloc);
        }
        let vmalloc = || self.engine.vmalloc(&request).map(|area| KvAddr::Virtual(area.addr()));
        vmalloc()
            .or_else(|v| match v.purge_may_help() && self.kmalloc.shrink() > Pages(0) {
                true => vmalloc(),
                false => Err(v),
            })
            .map_err(|vmalloc| KvmallocError::Both { kmalloc: e, vmalloc })
    }

    /// Tries again while empty slabs, and then what is parked, give up frames.
    fn again_with_room(
        &self,
        e: KmallocError,
        kmalloc: impl Fn() -> Result<DirectAddr, KmallocError>,
    ) -> Result<DirectAddr, KmallocError> {
        let mut last = e;
        while last.shrink_may_help() && (self.kmalloc.shrink() > Pages(0) || self.made_room()) {
            match kmalloc() {
                Err(e) => last = e,
                done => return done,
            }
        }
        Err(last)
    }

    fn made_room(&self) -> bool {
        self.engine.purge_step().is_ok_and(|purged| purged.areas > 0)
    }
}
