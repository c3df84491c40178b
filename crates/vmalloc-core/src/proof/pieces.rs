//! The lock-free pieces, each raced against itself and its neighbours.

mod addresses;
mod frames;
mod lazy;
mod record;
mod sharing;
mod trees;

use super::machine::Pool;
use crate::Geometry;
use crate::sync::explored;

/// A window of `granules`, for three members.
fn pool(granules: usize) -> Pool {
    let geometry = Geometry { granules, small_granules: granules, members: 3, in_place: true };
    Pool::new(geometry, explored::words(0, geometry.words()))
}
