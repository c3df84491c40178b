//! A mapping on the heap, for Miri: it knows neither memfds nor shared mappings.
//!
//! All that stands on a [`Mapping`] in this process is the same: words, claims, views, their slices
//! and references. So Miri sees whether two of them alias, outlive the mapping or race. What the
//! kernel does with the real one (frames, guards, other processes) it does not see.

use crate::os::PAGE_BYTES;
use crate::os::claims::Claims;
use crate::os::commit::HugeWay;
use crate::os::file::{FileId, Kind, PoolFile};
use crate::os::map::Mapping;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

impl Mapping {
    /// `bytes` zeroed bytes, the first `words_bytes` of them for words.
    pub(in crate::os) fn on_heap(bytes: u64, words_bytes: u64) -> Arc<Mapping> {
        let fd = OwnedFd::from(std::fs::File::open("/dev/null").expect("it is always there"));
        let file = PoolFile { fd, id: FileId { dev: 0, ino: 0 }, bytes, kind: Kind::Memfd };
        let words = vec![0_u64; (bytes / 8) as usize].into_boxed_slice();
        let base = NonNull::from(Box::leak(words)).cast();
        let claims = Claims::new(bytes / PAGE_BYTES).expect("heap");
        let (file, huge_way) = (Arc::new(file), HugeWay::Never);
        let is_lost = AtomicBool::new(false);
        Arc::new(Mapping { base, bytes, words_bytes, file, huge_way, is_lost, claims })
    }

    /// Gives the bytes back to the heap: for `drop` alone.
    pub(super) fn free_heap(&mut self) {
        let words = std::ptr::slice_from_raw_parts_mut(
            self.base.as_ptr().cast::<u64>(),
            (self.bytes / 8) as usize,
        );
        // SAFETY:
        // 1. Every mapping under Miri is from `on_heap`, which leaked a box of exactly these words.
        // 2. Only `drop` calls this, once; no view is left, as each keeps the mapping, by a borrow or
        //    an `Arc`.
        drop(unsafe { Box::from_raw(words) });
    }
}
