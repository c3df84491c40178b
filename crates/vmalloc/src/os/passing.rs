//! A descriptor handed to another process over a Unix socket.
//!
//! One descriptor a message, with one byte of payload, since an empty message carries nothing on
//! a stream. What arrives is only a descriptor: whoever receives it has
//! [`crate::os::file::PoolFile::from_fd`] check what it is.
//!
//! A child needs none of this: give it [`crate::os::file::PoolFile::share_path`].
//!
//! Linux: `SCM_RIGHTS`, unix(7).

use crate::os::fail;
use rustix::io::{Errno, IoSlice, IoSliceMut, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// The payload of a message that carries a descriptor.
const MARK: u8 = b'v';

/// Why no descriptor arrived. None stays open; the stream may have lost one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub(crate) enum RecvError {
    /// The other side closed the socket.
    Closed,
    /// A message came that carries `fds` descriptors instead of one, or not our mark.
    NotOne { fds: usize },
    /// The kernel refused. EMFILE: descriptors were sent, but this process may open no more.
    Os { errno: Errno },
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvError::Closed => write!(f, "the other side closed the socket"),
            RecvError::NotOne { fds } => {
                write!(f, "expected a message with one descriptor, got {fds}")
            }
            RecvError::Os { errno } => write!(f, "recvmsg: {errno}"),
        }
    }
}

impl std::error::Error for RecvError {}

/// Sends a copy of `fd`: the same open file description, in the receiver's table.
///
/// # Errors
///
/// What `sendmsg` said; EPIPE if the other side is gone (no signal).
pub(crate) fn send_fd(socket: &UnixStream, fd: BorrowedFd<'_>) -> Result<(), Errno> {
    fail::point("sendmsg")?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOBUFS);
    }
    let payload = [IoSlice::new(&[MARK])];
    retry_on_intr(|| {
        rustix::net::sendmsg(socket, &payload, &mut control, SendFlags::NOSIGNAL).map(drop)
    })
}

/// Waits for a descriptor. It is close-on-exec. Descriptors beyond the first are closed.
///
/// # Errors
///
/// [`RecvError`].
pub(crate) fn recv_fd(socket: &UnixStream) -> Result<OwnedFd, RecvError> {
    let os = |errno| RecvError::Os { errno };
    fail::point("recvmsg").map_err(os)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut payload = [0; 1];
    let message = retry_on_intr(|| {
        let mut slices = [IoSliceMut::new(&mut payload)];
        rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)
    })
    .map_err(os)?;

    let mut fds: Vec<OwnedFd> = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    if message.bytes == 0 {
        return Err(RecvError::Closed);
    }
    if fds.is_empty() && message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(os(Errno::MFILE));
    }
    match fds.pop() {
        Some(fd) if fds.is_empty() && payload == [MARK] => Ok(fd),
        last => Err(RecvError::NotOne { fds: fds.len() + usize::from(last.is_some()) }),
    }
}
