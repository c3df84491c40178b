//! How far a copy has come, on stderr and on a terminal only.
//!
//! Nothing is drawn into a pipe or a log, and nothing for what is done at once anyway.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Below this, a copy is over before a bar could be read.
const WORTH_SHOWING_BYTES: u64 = 32 << 20;

/// A bar for `bytes` bytes, or a running count where nobody knows how many will come.
pub fn bytes(bytes: Option<u64>, what: &'static str) -> ProgressBar {
    if bytes.is_some_and(|bytes| bytes < WORTH_SHOWING_BYTES) {
        return ProgressBar::hidden();
    }
    // Hidden by itself where stderr is no terminal.
    let bar = ProgressBar::with_draw_target(bytes, ProgressDrawTarget::stderr());
    let template = match bytes {
        Some(_) => "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
        None => "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template).expect("the template is ours");
    bar.with_style(style).with_message(what)
}
