//! The demo on a simulated machine.

use super::Setup;
use super::summary::Summary;
use super::tell::Tell;
use crate::failure::Failure;

/// Plays the demo on simulated hardware.
pub fn play(_setup: &Setup, _tell: &mut Tell) -> Result<Summary, Failure> {
    Err(Failure::new("demo: the simulated machine is not built in yet"))
}
