//! Planted bugs that a sanitizer must find: with `--cfg canary` alone.

use crate::os::PAGE_BYTES;
use crate::os::tests::{pool, span};

/// Goal: AddressSanitizer ends the process at a byte that is read after its view has ended.
/// Method: it is read by a pointer that a view gave out while it lived.
#[test]
fn a_byte_of_a_view_that_has_ended_is_read() {
    let pool = pool("canary", 4 * PAGE_BYTES);
    let mut view = pool.exclusive(span(2..3)).unwrap();
    view[7] = 1;
    let byte = &raw const view[7];
    drop(view);
    // SAFETY:
    // 1. None: this is the planted bug. The page is mapped still, so nothing but the sanitizer minds.
    assert_eq!(unsafe { byte.read() }, 1);
}
