//! A planted fault that Miri must find: `cargo xtask miri` runs it first, with each model of aliasing.

use crate::os::PAGE_BYTES;
use crate::os::tests::{pool, span};
use crate::os::view::ExclusiveView;

/// Goal: Miri ends the run where two mutable slices are of the same frames. Method: a claim is given
/// up while its view lives, so that a second view of the page is to be had; each is written.
#[test]
#[ignore = "a planted fault, for `cargo xtask miri`"]
fn two_exclusive_views_of_one_page() {
    let pool = pool("alias", 4 * PAGE_BYTES);
    let mut one = ExclusiveView::new(&*pool, span(2..3)).unwrap();
    pool.claims.put(2, 1);
    let mut other = ExclusiveView::new(&*pool, span(2..3)).unwrap();
    let first: &mut [u8] = &mut one;
    other[7] = 1;
    first[7] = 2;
}
