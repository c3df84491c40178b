//! Planted bugs that a sanitizer must find: built for one alone, and ignored but for its canary.

#[cfg(asan)]
use crate::os::view::ExclusiveView;
use crate::os::{
    PAGE_BYTES,
    tests::{pool, span},
};

/// Goal: AddressSanitizer ends the process at a byte that is read after its view has ended.
/// Method: it is read by a pointer that a view gave out while it lived.
#[cfg(asan)]
#[test]
#[ignore = "a planted bug, run alone by `cargo xtask asan`"]
fn a_byte_of_a_view_that_has_ended_is_read() {
    let pool = pool("canary", 4 * PAGE_BYTES);
    let mut view = ExclusiveView::new(&*pool, span(2..3)).unwrap();
    view[7] = 1;
    let byte = &raw const view[7];
    drop(view);
    // SAFETY:
    // 1. None: this is the planted bug. The page is mapped still, so nothing but the sanitizer minds.
    assert_eq!(unsafe { byte.read() }, 1);
}

/// Goal: ThreadSanitizer ends the process where two threads write to a page, one after the other, and
/// nothing says so but the claim. Method: a claim's end is no Release; this processor makes it one.
#[cfg(tsan)]
#[test]
#[ignore = "a planted bug, run alone by `cargo xtask tsan`"]
fn a_view_that_ends_hands_nothing_on() {
    crate::os::claims::PLANTED.store(true, std::sync::atomic::Ordering::Relaxed);
    crate::os::tests::claims::a_view_that_ends_hands_its_bytes_to_the_next();
}
