//! Who shares buffers, both sides of each.

use crate::raw::map_shared;
use rustix::fs::{MemfdFlags, Mode, ftruncate, memfd_create};
use rustix::io::{IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::shm;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use vmalloc::{Pool, Token};

/// The contenders; the first is ours.
pub const NAMES: &[&str] = &[
    "ours, warm",
    "ours, cold",
    "memfd + SCM_RIGHTS",
    "shm_open",
    "bytes over a socket",
    #[cfg(feature = "iceoryx2")]
    "iceoryx2",
];

/// What a child says that has subscribed.
#[cfg(feature = "iceoryx2")]
const READY: u64 = 1;

/// A message has room for a token or a name.
const MESSAGE_BYTES: usize = 64;

/// This process's side, and the child at the other end.
pub struct Peer {
    way: Way,
    bytes: usize,
    socket: UnixStream,
    child: Child,
    turn: u64,
}

/// How buffers get across.
enum Way {
    Ours {
        pool: Pool,
        is_cold: bool,
    },
    Memfd,
    Shm,
    Socket {
        buffer: Vec<u64>,
    },
    #[cfg(feature = "iceoryx2")]
    Loans(super::loans::Loans),
}

impl Way {
    fn new(name: &str, bytes: usize) -> Way {
        match name {
            "memfd + SCM_RIGHTS" => Way::Memfd,
            "shm_open" => Way::Shm,
            "bytes over a socket" => Way::Socket { buffer: vec![0; bytes / 8] },
            #[cfg(feature = "iceoryx2")]
            "iceoryx2" => Way::Loans(super::loans::Loans::new(&service_name(), bytes)),
            name => {
                let pool = Pool::create(1 << 30).expect("a pool: only what is used is taken");
                Way::Ours { pool, is_cold: name == "ours, cold" }
            }
        }
    }
}

impl Peer {
    /// Starts the child of a contender.
    pub fn new(name: &str, bytes: usize) -> Peer {
        let (socket, other) = UnixStream::pair().expect("a pair of sockets");
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--child-share", name, &bytes.to_string()])
            .stdin(Stdio::from(OwnedFd::from(other)))
            .spawn()
            .expect("a child process");
        let way = Way::new(name, bytes);
        if let Way::Ours { pool, .. } = &way {
            pool.send(&socket).expect("a child that waits for the pool");
        }
        #[cfg(feature = "iceoryx2")]
        if let Way::Loans(_) = &way {
            say(&socket, &service_name());
            check(&socket, READY);
        }
        Peer { way, bytes, socket, child, turn: 0 }
    }

    /// Fills a buffer, has the child read it, and frees it.
    pub fn cycle(&mut self) {
        self.turn += 1;
        let (turn, bytes) = (self.turn, self.bytes);
        let expected = turn.wrapping_mul(bytes as u64 / 8);
        match &mut self.way {
            Way::Ours { pool, is_cold } => {
                if *is_cold {
                    pool.purge().expect("a purge");
                }
                let mut buf = pool.vmalloc(bytes).expect("a pool with room");
                fill_bytes(&mut buf, turn);
                let frozen = buf.freeze().expect("a buffer of ours");
                say(&self.socket, &frozen.token().to_string());
                check(&self.socket, expected);
                frozen.free().expect("an area that nobody else frees");
            }
            Way::Memfd => {
                let flags = MemfdFlags::CLOEXEC;
                let file = memfd_create("bench", flags).expect("a memfd");
                ftruncate(&file, bytes as u64).expect("a sparse file");
                let mut map = map_shared(file.as_fd(), bytes);
                fill_bytes(&mut map, turn);
                send_fd(&self.socket, &file);
                check(&self.socket, expected);
            }
            Way::Shm => {
                let name = format!("/vmalloc-bench-{}-{turn}", std::process::id());
                let flags = shm::OFlags::CREATE | shm::OFlags::EXCL | shm::OFlags::RDWR;
                let file = shm::open(&name, flags, Mode::RUSR | Mode::WUSR).expect("a new file");
                ftruncate(&file, bytes as u64).expect("a sparse file");
                let mut map = map_shared(file.as_fd(), bytes);
                fill_bytes(&mut map, turn);
                say(&self.socket, &name);
                check(&self.socket, expected);
                shm::unlink(&name).expect("the file that was made");
            }
            #[cfg(feature = "iceoryx2")]
            Way::Loans(loans) => {
                loans.send(bytes, turn);
                // Who receives would spin; here it waits for a message, as all others do.
                say(&self.socket, "");
                check(&self.socket, expected);
            }
            Way::Socket { buffer } => {
                buffer.fill(turn);
                let bytes = zerocopy::IntoBytes::as_bytes(&buffer[..]);
                self.socket.write_all(bytes).expect("a child that reads");
                check(&self.socket, expected);
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The child ends when its socket does.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// The child's side: `contender bytes`, and the socket as its standard input.
pub fn child(args: &[String]) {
    let bytes: usize = args[1].parse().expect("a number");
    let fd = std::io::stdin().as_fd().try_clone_to_owned().expect("a descriptor more");
    let socket = UnixStream::from(fd);
    match args[0].as_str() {
        "memfd + SCM_RIGHTS" => {
            while let Some(file) = receive_fd(&socket) {
                let map = map_shared(file.as_fd(), bytes);
                answer(&socket, sum(&map));
            }
        }
        "shm_open" => {
            while let Some(name) = hear(&socket) {
                let file = shm::open(&name, shm::OFlags::RDWR, Mode::empty()).expect("its file");
                let map = map_shared(file.as_fd(), bytes);
                answer(&socket, sum(&map));
            }
        }
        "bytes over a socket" => {
            let mut buffer = vec![0_u8; bytes];
            while (&socket).read_exact(&mut buffer).is_ok() {
                answer(&socket, sum(&buffer));
            }
        }
        #[cfg(feature = "iceoryx2")]
        "iceoryx2" => {
            let name = hear(&socket).expect("the name of the service");
            let samples = super::loans::Samples::new(&name);
            answer(&socket, READY);
            while hear(&socket).is_some() {
                answer(&socket, samples.sum());
            }
        }
        _ => {
            let pool = Pool::receive(&socket).expect("the pool of the parent");
            while let Some(token) = hear(&socket) {
                let token: Token = token.parse().expect("a token");
                let frozen = pool.attach(&token).expect("an area that waits for us");
                let sum = sum(&frozen);
                // Before the answer: the parent frees it then, and nobody is in its way.
                drop(frozen);
                answer(&socket, sum);
            }
        }
    }
}

/// The name of this process's service.
#[cfg(feature = "iceoryx2")]
fn service_name() -> String {
    format!("vmalloc-bench-{}.", std::process::id())
}

fn fill_bytes(buffer: &mut [u8], turn: u64) {
    let (words, _) = buffer.as_chunks_mut::<8>();
    words.fill(turn.to_ne_bytes());
}

fn sum(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(0, |sum: u64, word| sum.wrapping_add(u64::from_ne_bytes(*word)))
}

fn say(mut socket: &UnixStream, text: &str) {
    let mut message = [b' '; MESSAGE_BYTES];
    message[..text.len()].copy_from_slice(text.as_bytes());
    socket.write_all(&message).expect("a child that reads");
}

fn hear(mut socket: &UnixStream) -> Option<String> {
    let mut message = [0; MESSAGE_BYTES];
    socket.read_exact(&mut message).ok()?;
    Some(String::from_utf8_lossy(&message).trim_end().to_owned())
}

fn answer(mut socket: &UnixStream, sum: u64) {
    // The parent may have gone.
    let _ = socket.write_all(&sum.to_ne_bytes());
}

fn check(mut socket: &UnixStream, expected: u64) {
    let mut sum = [0; 8];
    socket.read_exact(&mut sum).expect("a child that answers");
    assert_eq!(u64::from_ne_bytes(sum), expected, "what the child has read");
}

pub fn send_fd(socket: &UnixStream, file: &OwnedFd) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [file.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "room for one descriptor");
    sendmsg(socket, &[IoSlice::new(b"f")], &mut control, SendFlags::empty()).expect("a child");
}

pub fn receive_fd(socket: &UnixStream) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}
