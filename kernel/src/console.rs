//! The serial line, one writer at a time.

use crate::arch;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(arch::write_byte);
        Ok(())
    }
}

static BUSY: AtomicBool = AtomicBool::new(false);

/// Writes one line. A CPU that panics while it writes must still get its message out, so the lock
/// is waited for, but not for ever.
pub fn line(text: fmt::Arguments<'_>) {
    let mut left = 1_000_000;
    while BUSY.swap(true, Ordering::Acquire) && left > 0 {
        left -= 1;
        arch::relax();
    }
    let _ = writeln!(Serial, "{text}");
    BUSY.store(false, Ordering::Release);
}

macro_rules! println {
    ($($text:tt)*) => { $crate::console::line(format_args!($($text)*)) };
}
pub(crate) use println;
