//! What a scenario tells: one line, whatever panicked on the way.

extern crate std;

use std::any::Any;
use std::borrow::ToOwned;
use std::boxed::Box;
use std::string::String;

/// Runs what explores scenario `name`. What panics in it, as it may in hundreds of rounds, prints
/// nothing; what it returns as an error is this test's panic.
pub(super) fn run(name: &str, explore: impl FnOnce() -> Result<(), String>) {
    std::panic::set_hook(Box::new(|_| {}));
    let told = explore();
    let _ = std::panic::take_hook();
    told.unwrap_or_else(|why| panic!("{name}: {why}"));
}

/// What a panic said.
pub(super) fn text(cause: &(dyn Any + Send)) -> String {
    let text = cause.downcast_ref::<String>().cloned();
    text.or_else(|| cause.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_else(|| "a panic of an unknown kind".to_owned())
}

/// The same in a cell of a table.
pub(super) fn cell(why: &str) -> String {
    let line = why.lines().next().unwrap_or_default();
    line.replace("assertion `left == right` failed: ", "").replace('|', "/")
}
