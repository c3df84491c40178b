//! Large, virtually contiguous memory, shared by several processes: Linux's `vmalloc` for
//! programs.
//!
//! A [`Pool`] hands out buffers of any size as long as it has free frames at all, however
//! scattered they are; a second process maps the same frames by a token of a few bytes.
//!
//! ```
//! use vmalloc::Pool;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = Pool::create(64 << 20)?; // may hold 64 MiB; takes what is used
//! let mut buf = pool.vmalloc(3 << 20)?; // 3 MiB, mine alone
//! buf[..5].copy_from_slice(b"hello");
//! let frozen = buf.freeze()?; // from now on nobody writes it
//! let token = frozen.token().to_string(); // send this to another process …
//!
//! // … which opens the pool and redeems it. (Here: the same process, a second member.)
//! let other = Pool::open(pool.share_path())?;
//! let seen = other.attach(&token.parse()?)?;
//! assert_eq!(&seen[..5], b"hello");
//!
//! frozen.free()?; // gone when the last member has detached
//! drop(seen);
//! # assert_eq!(pool.verify()?.areas, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does not do
//!
//! A pool is one trust domain: its members are processes that trust each other. It holds memory,
//! not data structures, and survives no reboot. Linux only; kernel 5.14 or newer, 6.13 for guard
//! pages.

mod buf;
mod error;
mod events;
mod framed;
mod guards;
mod header;
mod health;
mod info;
mod lanes;
mod linear;
mod look;
mod member;
mod names;
mod nodes;
mod options;
mod os;
mod pool;
mod quota;
mod reader;
mod reservation;
mod sealed;
mod signal;
mod spread;
mod stitch;
mod token;
pub mod trace;
mod watch;

pub use buf::{Buf, Frozen, OutOfBounds, Shared, Unpublished};
pub use error::{
    AllocError, AttachError, BudgetError, CreateError, FreeError, NameError, OpenError,
    ResizeError, ShareError, Source, VerifyError,
};
pub use framed::FrameError;
pub use header::HeaderError;
pub use health::Holdings;
pub use info::{FoundPool, Info, MemberInfo, Onlooker, frames_behind, list, vmas};
pub use look::FileRun;
pub use options::Options;
#[cfg(feature = "allocator-api2")]
pub use os::allocator::InPool;
pub use pool::Pool;
pub use quota::OverQuota;
pub use reader::{ReadError, Reader};
pub use reservation::{
    BadRange, CommitError, DecommitError, NotCommitted, Reservation, ReserveError,
};
pub use sealed::{SealError, Sealed};
pub use signal::{Event, Seen, Signal, WaitError};
pub use stitch::{SharedRun, Snapshot, StitchError, Stitched, Unexchanged};
pub use token::{ParseTokenError, Token};
/// The engine's types that appear here: requests, areas, totals, reasons.
pub use vmalloc_core as core;
pub use vmalloc_core::Request;
pub use watch::Watcher;

#[doc(hidden)]
pub mod testing {
    //! For the tests of this workspace: makes the n-th call to the operating system fail.
    pub use crate::os::fail::{Armed, Plan};
}

/// The example of the README, compiled and run by the doctests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
