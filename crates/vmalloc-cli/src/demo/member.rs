//! What the other members of the demo run: `vmalloc demo-member`, hidden, started by the demo.
//!
//! A process of its own, so a mapping at an address of its own. Standard input is what hands it
//! the pool, if anything does; standard output is a socket to the first member, on which orders
//! come and reports go, a line of JSON each. When the socket closes, the member leaves.
//!
//! ```text
//!   open the pool ─ attach by token ─ check the pattern ─▶ Attached
//!     ◀─ Write    its part of the block                  ─▶ Wrote
//!     ◀─ Check    all parts                              ─▶ Checked
//!     ◀─ Hold     take an area of its own                ─▶ Holding, and it waits to be killed
//!     ◀─ Leave
//! ```

use super::pattern;
use super::summary::Frames;
use super::tell::{check, told};
use crate::args::{MemberArgs, Way};
use crate::failure::{Done, Failure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use vmalloc::{Buf, Pool, Shared};
use vmalloc_core::PAGE_SIZE;

/// Bytes that are copied out of the block at a time.
const PIECE_BYTES: usize = 1 << 20;

/// What the first member asks for.
#[derive(Serialize, Deserialize, Debug)]
pub enum Order {
    /// Write your part of the block.
    Write,
    /// Check all parts.
    Check,
    /// Allocate this much for yourself, fill it, and wait.
    Hold { bytes: usize },
    /// Detach and go.
    Leave,
}

/// What a member answers.
#[derive(Serialize, Deserialize, Debug)]
pub enum Report {
    /// It is attached, and every byte was as it should be.
    Attached(Attached),
    /// Its part is written.
    Wrote { bytes: u64 },
    /// All parts are as they should be.
    Checked,
    /// It has an area of its own.
    Holding { bytes: u64 },
    /// Something went wrong; it is gone.
    Failed { why: String },
}

/// A member that is attached.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Attached {
    pub pid: u32,
    pub number: usize,
    /// Where the block is in that process.
    pub address: u64,
    pub checked_bytes: u64,
    /// VMAs that the pool takes there.
    pub vmas: usize,
    /// The frames behind the block, as its own page tables show them; of root only.
    pub frames: Option<Frames>,
}

/// A line to the other side.
pub struct Line {
    reader: BufReader<UnixStream>,
}

/// Runs until told to leave, or until the first member is gone.
pub fn run(args: &MemberArgs) -> Done {
    let stdout = told(std::io::stdout().as_fd().try_clone_to_owned(), "standard output")?;
    let mut line = Line::new(UnixStream::from(stdout));
    match serve(args, &mut line) {
        Err(Failure::Said(why)) => line.send(&Report::Failed { why }),
        done => done,
    }
}

fn serve(args: &MemberArgs, line: &mut Line) -> Done {
    let pool = open(args)?;
    let block = told(pool.attach_shared(&args.token), "attaching by token")?;
    check(
        wrong_byte(&block, 0..block.len(), args.key).is_none(),
        format_args!("process {}: the block's pattern is damaged", std::process::id()),
    )?;
    line.send(&Report::Attached(Attached {
        pid: std::process::id(),
        number: pool.member_number(),
        address: address(&block),
        checked_bytes: block.len() as u64,
        vmas: told(pool.vmas(), "counting VMAs")?,
        frames: told(vmalloc::frames_behind(block.words()), "pagemap")?.and_then(Frames::of),
    }))?;
    let mut held = Vec::new();
    while let Some(order) = line.receive()? {
        line.send(&match order {
            Order::Write => Report::Wrote { bytes: write_part(&block, args)? },
            Order::Check => {
                check(parts_are_right(&block, args.key, args.parts), "a part is damaged")?;
                Report::Checked
            }
            Order::Hold { bytes } => {
                let buf = hold(&pool, bytes)?;
                let bytes = buf.len() as u64;
                held.push(buf);
                Report::Holding { bytes }
            }
            Order::Leave => return Ok(()),
        })?;
    }
    Ok(())
}

fn open(args: &MemberArgs) -> Result<Pool, Failure> {
    let opened = match (args.way, &args.pool) {
        (Way::Path, Some(path)) => Pool::open(path),
        (Way::Path, None) => return Err(Failure::new("demo-member: --way path needs --pool")),
        // Our own descriptor 0: the library opens it again, with a description of its own.
        (Way::Inherited, _) => Pool::open("/proc/self/fd/0"),
        (Way::Socket, _) => {
            let stdin = told(std::io::stdin().as_fd().try_clone_to_owned(), "standard input")?;
            Pool::receive(&UnixStream::from(stdin))
        }
    };
    told(opened, "opening the pool")
}

fn write_part(block: &Shared, args: &MemberArgs) -> Result<u64, Failure> {
    let part = part(block.len(), args.part, args.parts);
    let mut piece = vec![0; PIECE_BYTES.min(part.len())];
    for at in part.clone().step_by(PIECE_BYTES) {
        let piece = &mut piece[..PIECE_BYTES.min(part.end - at)];
        pattern::fill(piece, part_key(args.key, args.part), at as u64 / 8);
        told(block.write_at(at, piece), "writing the block")?;
    }
    Ok(part.len() as u64)
}

fn hold(pool: &Pool, bytes: usize) -> Result<Buf, Failure> {
    let mut buf = told(pool.vmalloc(bytes), "allocating")?;
    buf.fill(0xdd);
    Ok(buf)
}

/// Whole pages of a block of `len` bytes, shared out among `parts`.
pub fn part(len: usize, part: u32, parts: u32) -> Range<usize> {
    let pages = (len / PAGE_SIZE) as u64;
    let at = |part: u32| (pages * u64::from(part) / u64::from(parts)) as usize * PAGE_SIZE;
    at(part)..if part + 1 == parts { len } else { at(part + 1) }
}

/// Part 0 is the first member's and keeps the pattern that the block began with.
pub fn part_key(key: u64, part: u32) -> u64 {
    if part == 0 { key } else { pattern::key(key, part.into()) }
}

/// Whether every part holds what its member wrote.
pub fn parts_are_right(block: &Shared, key: u64, parts: u32) -> bool {
    let right = |p| wrong_byte(block, part(block.len(), p, parts), part_key(key, p)).is_none();
    (0..parts).all(right)
}

/// The first byte in `range` where a word is not the pattern's.
pub fn wrong_byte(block: &Shared, range: Range<usize>, key: u64) -> Option<usize> {
    let mut piece = vec![0; PIECE_BYTES.min(range.len())];
    range.clone().step_by(PIECE_BYTES).find_map(|at| {
        let piece = &mut piece[..PIECE_BYTES.min(range.end - at)];
        match block.read_at(at, piece) {
            Ok(()) => pattern::first_wrong(piece, key, at as u64 / 8).map(|wrong| at + wrong),
            Err(_) => Some(at),
        }
    })
}

/// Where the block begins in this process.
pub fn address(block: &Shared) -> u64 {
    block.words().as_ptr().addr() as u64
}

impl Line {
    /// A line over a socket.
    pub fn new(socket: UnixStream) -> Line {
        Line { reader: BufReader::new(socket) }
    }

    /// Sends a message.
    pub fn send(&mut self, message: &impl Serialize) -> Done {
        let mut text = told(serde_json::to_string(message), "a message")?;
        text.push('\n');
        told(self.reader.get_mut().write_all(text.as_bytes()), "the line between two members")
    }

    /// Waits for a message; `None` when the other side is gone.
    pub fn receive<M: DeserializeOwned>(&mut self) -> Result<Option<M>, Failure> {
        let mut text = String::new();
        let read = self.reader.read_line(&mut text);
        match told(read, "the line between two members")? {
            0 => Ok(None),
            _ => told(serde_json::from_str(&text), "a message").map(Some),
        }
    }
}

/// The path of a pool as an argument, where that is the way.
pub fn pool_argument(pool: &Pool, way: Way) -> Option<PathBuf> {
    (way == Way::Path).then(|| pool.share_path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_pages_and_cover_the_block() {
        for (pages, parts) in [(10, 3), (1, 4), (4096, 7), (2, 2)] {
            let len = pages * PAGE_SIZE;
            let mut end = 0;
            for p in 0..parts {
                let part = part(len, p, parts);
                assert_eq!(part.start, end);
                assert!(part.start.is_multiple_of(PAGE_SIZE));
                end = part.end;
            }
            assert_eq!(end, len);
        }
    }
}
