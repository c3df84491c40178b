//! What can go wrong, one enum a verb. The engine's reasons come through unchanged.

use crate::framed::FrameError;
use crate::header::HeaderError;
use crate::member::JoinError;
use crate::quota::OverQuota;
use crate::token::Token;
use std::fmt;
use vmalloc_core::PAGE_SIZE;

/// A reason of the operating system's, with the call and the values in its text.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a pool was not made. Nothing is left behind: a file that was made is removed again.
#[derive(Debug)]
#[non_exhaustive]
pub enum CreateError {
    /// The capacity is 0, or over 512 GiB.
    Capacity {
        /// What was asked for.
        bytes: u64,
    },
    /// The number of members is 0, or over 64.
    Members {
        /// What was asked for.
        members: usize,
    },
    /// The window is shorter than twice the capacity, or longer than by default.
    Window {
        /// What was asked for.
        bytes: u64,
    },
    /// There is something in the file already: its first 40 KiB are not zero.
    NotEmpty,
    /// The memory does not even hold the tables, for so many members and such a window.
    NoRoom {
        /// Its bytes.
        bytes: u64,
        /// What tables and one page take.
        needed: u64,
    },
    /// The operating system refused.
    Os(Source),
}

/// Why a pool was not opened. Nothing stays open.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The file cannot be opened, or is nothing that can safely be mapped.
    File(Source),
    /// The file is not a pool, or not one of our layout, or damaged.
    Header(HeaderError),
    /// All member slots are taken by processes that live.
    Full {
        /// How many there are.
        members: usize,
    },
    /// The operating system refused.
    Os(Source),
}

/// Why an allocation failed. Nothing was taken.
#[derive(Debug)]
#[non_exhaustive]
pub enum AllocError {
    /// The engine's reason: size, alignment, a full pool, a full machine.
    Engine(vmalloc_core::AllocError),
    /// This member would hold more than it may; others go on.
    Quota(OverQuota),
    /// This process is a fork of the member: open the pool here.
    Forked,
    /// The pool's records name memory that this process uses already: they are damaged.
    Damaged(Source),
}

/// Why a buffer or an area did not get another size. It is as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum ResizeError {
    /// The engine's reason: size 0, no room behind it, a full pool, another member at it.
    Engine(vmalloc_core::ResizeError),
    /// This member would hold more than it may.
    Quota(OverQuota),
    /// It would have had to move, and there was no room for that.
    Alloc(AllocError),
    /// This process is a fork of the member.
    Forked,
    /// The pool's records name memory that this process uses otherwise: they are damaged.
    Damaged(Source),
}

/// Why an area was not published. The buffer comes back, as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum ShareError {
    /// The engine's reason.
    Engine(vmalloc_core::ShareError),
    /// This process is a fork of the member: the buffer is its parent's.
    Forked,
    /// There is no member of this number to give it to.
    NoMember {
        /// The number.
        member: usize,
    },
    /// The operating system would not hide its bytes from this process, so it stays its own.
    Os(Source),
}

/// Why a token was not redeemed. Nothing is attached.
#[derive(Debug)]
#[non_exhaustive]
pub enum AttachError {
    /// The token is another pool's.
    OtherPool {
        /// The pool of the token.
        token: u32,
        /// This one.
        pool: u32,
    },
    /// The area was freed, or its pages cannot be had: not even those by which it has grown.
    Engine(vmalloc_core::AttachError),
    /// The area is frozen and cannot be written: attach to it with `attach`.
    Frozen,
    /// The area is shared writable, so no plain slice of it exists: use `attach_shared`.
    Shared,
    /// The area was given away whole: use `take`.
    Given,
    /// It is given away, but this member would hold more than it may.
    Quota(OverQuota),
    /// This process is a fork of the member: open the pool here.
    Forked,
    /// The pool's records name memory that this process uses otherwise: they are damaged.
    Damaged(Source),
}

/// Why an area was not freed. It is as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum FreeError {
    /// The token is another pool's.
    OtherPool {
        /// The pool of the token.
        token: u32,
        /// This one.
        pool: u32,
    },
    /// The engine's reason.
    Engine(vmalloc_core::FreeError),
    /// This process is a fork of the member.
    Forked,
}

/// Why a name was not given, or taken away. The names are as they were.
#[derive(Debug)]
#[non_exhaustive]
pub enum NameError {
    /// A name has 1 to 64 bytes.
    Length {
        /// The bytes of this one.
        bytes: usize,
    },
    /// The name is another area's, which lives.
    Taken {
        /// That area's token.
        token: Token,
    },
    /// The pool has so many names already.
    Full {
        /// How many.
        names: usize,
    },
    /// Nothing has this name.
    Missing,
    /// The token is another pool's.
    OtherPool {
        /// The pool of the token.
        token: u32,
        /// This one.
        pool: u32,
    },
    /// The token names no area that is published.
    Engine(vmalloc_core::AttachError),
    /// Another member, which lives, has been changing names all the time: is it stopped?
    Busy {
        /// Its number.
        member: usize,
    },
    /// This process is a fork of the member: open the pool here.
    Forked,
}

/// Why a limit or a quota was not set. It is as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum BudgetError {
    /// A pool may hold a page at least, and its capacity at most.
    Limit {
        /// What was asked for.
        bytes: u64,
        /// The capacity, fixed when the pool was made.
        capacity_bytes: u64,
    },
    /// There is no member of this number.
    NoMember {
        /// The number.
        member: usize,
    },
}

/// Why a pool does not hold together.
#[derive(Debug)]
#[non_exhaustive]
pub enum VerifyError {
    /// An invariant of the engine's.
    Engine(vmalloc_core::VerifyError),
    /// The budget says other than the areas do.
    Charged {
        /// Pages the budget says.
        charged: u64,
        /// Pages the areas have.
        found: u64,
    },
    /// A frame of a framed pool is lost, or an area lacks one.
    Frames(FrameError),
}

impl From<JoinError> for OpenError {
    fn from(error: JoinError) -> OpenError {
        match error {
            JoinError::Full { members } => OpenError::Full { members },
            JoinError::Os(errno) => OpenError::Os(Box::new(errno)),
        }
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CreateError::Capacity { bytes } => {
                write!(f, "a pool of {bytes} bytes: {PAGE_SIZE} bytes to 512 GiB are possible")
            }
            CreateError::Members { members } => {
                write!(f, "a pool for {members} members: 1 to 64 are possible")
            }
            CreateError::Window { bytes } => write!(
                f,
                "a window of {bytes} bytes: twice the capacity, up to what it has by default"
            ),
            CreateError::NotEmpty => {
                write!(f, "the file holds something: its first 40 KiB must be zero")
            }
            CreateError::NoRoom { bytes, needed } => write!(
                f,
                "{bytes} bytes of memory, of which the tables take {needed}: fewer members or a \
                 shorter window take less"
            ),
            CreateError::Os(e) => write!(f, "the pool was not made: {e}"),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::File(e) => write!(f, "{e}"),
            OpenError::Header(e) => write!(f, "{e}"),
            OpenError::Full { members } => {
                write!(f, "all {members} member slots are taken by living processes")
            }
            OpenError::Os(e) => write!(f, "the pool was not opened: {e}"),
        }
    }
}

pub(crate) const FORKED: &str = "this process is a fork of the member: open the pool in it";

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllocError::Engine(e) => write!(f, "{e}"),
            AllocError::Quota(e) => write!(f, "{e}"),
            AllocError::Forked => f.write_str(FORKED),
            AllocError::Damaged(e) => write!(f, "the pool's records are damaged: {e}"),
        }
    }
}

impl fmt::Display for ResizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResizeError::Engine(e) => write!(f, "{e}"),
            ResizeError::Quota(e) => write!(f, "{e}"),
            ResizeError::Alloc(e) => write!(f, "not moved: {e}"),
            ResizeError::Forked => f.write_str(FORKED),
            ResizeError::Damaged(e) => write!(f, "the pool's records are damaged: {e}"),
        }
    }
}

impl fmt::Display for ShareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShareError::Engine(e) => write!(f, "{e}"),
            ShareError::Forked => f.write_str(FORKED),
            ShareError::NoMember { member } => write!(f, "the pool has no member {member}"),
            ShareError::Os(e) => write!(f, "the bytes could not be hidden from this process: {e}"),
        }
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachError::OtherPool { token, pool } => other_pool(f, *token, *pool),
            AttachError::Engine(e) => write!(f, "{e}"),
            AttachError::Frozen => write!(f, "the area is frozen: attach to read it"),
            AttachError::Shared => {
                write!(f, "the area is shared writable: attach to it as shared")
            }
            AttachError::Quota(e) => write!(f, "{e}"),
            AttachError::Given => write!(f, "the area was given away whole: take it"),
            AttachError::Forked => f.write_str(FORKED),
            AttachError::Damaged(e) => write!(f, "the pool's records are damaged: {e}"),
        }
    }
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FreeError::OtherPool { token, pool } => other_pool(f, *token, *pool),
            FreeError::Engine(e) => write!(f, "{e}"),
            FreeError::Forked => f.write_str(FORKED),
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Length { bytes } => {
                write!(f, "a name of {bytes} bytes: 1 to 64 are possible")
            }
            NameError::Taken { token } => write!(f, "the name is that of {token}"),
            NameError::Full { names } => write!(f, "the pool has all {names} names it can have"),
            NameError::Missing => write!(f, "nothing has this name"),
            NameError::OtherPool { token, pool } => other_pool(f, *token, *pool),
            NameError::Engine(e) => write!(f, "{e}"),
            NameError::Busy { member } => {
                write!(f, "member {member} has been changing names all the time: is it stopped?")
            }
            NameError::Forked => f.write_str(FORKED),
        }
    }
}

impl fmt::Display for BudgetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BudgetError::Limit { bytes, capacity_bytes } => {
                write!(f, "a limit of {bytes} bytes: 1 to {capacity_bytes} are possible")
            }
            BudgetError::NoMember { member } => write!(f, "the pool has no member {member}"),
        }
    }
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VerifyError::Engine(e) => write!(f, "{e}"),
            VerifyError::Charged { charged, found } => {
                write!(f, "{charged} pages are charged, the areas have {found}")
            }
            VerifyError::Frames(e) => write!(f, "{e}"),
        }
    }
}

pub(crate) fn other_pool(f: &mut fmt::Formatter<'_>, token: u32, pool: u32) -> fmt::Result {
    write!(f, "the token is of pool {token:08x}, this is pool {pool:08x}")
}

impl std::error::Error for CreateError {}
impl std::error::Error for OpenError {}
impl std::error::Error for AllocError {}
impl std::error::Error for ResizeError {}
impl std::error::Error for ShareError {}
impl std::error::Error for AttachError {}
impl std::error::Error for FreeError {}
impl std::error::Error for NameError {}
impl std::error::Error for BudgetError {}
impl std::error::Error for VerifyError {}
