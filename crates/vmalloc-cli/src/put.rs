//! `vmalloc put`: a file becomes a frozen area, and its name a token.
//!
//! ```text
//!   regular file ─ length known ────────────────▶ one area, read straight into it
//!   pipe, device ─ gathered in pieces ─ length ─▶ one area, piece by piece
//!                                                  └─ freeze ─▶ token on stdout
//! ```
//!
//! An area has a byte at least, a file may have none. An empty file takes an area of one byte,
//! marked by its caller number, and `get` gives nothing back for it.

use crate::args::PutArgs;
use crate::failure::{Done, Failure, open};
use crate::progress;
use crate::size::Size;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;
use vmalloc::core::{AllocError as Engine, Area, BackError};
use vmalloc::{AllocError, Buf, Pool, Request};

/// `caller` of what put stored, in `vmallocinfo`: "put".
const CALLER: u64 = 0x0070_7574;
/// `caller` of an empty file's area: "put0".
const CALLER_EMPTY: u64 = CALLER << 8 | b'0' as u64;

const PIECE_BYTES: usize = 4 << 20;

/// Whether an area stands for an empty file.
pub fn is_empty_file(area: &Area) -> bool {
    area.caller == CALLER_EMPTY && area.bytes == 1
}

/// Stores the file and prints the token.
pub fn run(args: &PutArgs) -> Done {
    let name = if args.file == Path::new("-") { Path::new("stdin") } else { &args.file };
    let mut file = open_input(&args.file)?;
    let len = known_len(&mut file).map_err(|e| unreadable(name, &e))?;
    let pool = open(&args.path)?;
    let buf = match len {
        Some(len) => read_known(&pool, args, name, &mut file, len)?,
        None => read_unknown(&pool, args, name, &mut file)?,
    };
    let frozen = buf.freeze().map_err(|e| Failure::new(format_args!("{}: {e}", name.display())))?;
    let token = frozen.token();
    let mut out = std::io::stdout().lock();
    let printed = writeln!(out, "{token}").and_then(|()| out.flush());
    printed.map_err(|e| {
        // Nobody knows the token now, so nobody could ever free it.
        let _ = frozen.free();
        Failure::output(&e)
    })
}

fn open_input(path: &Path) -> Result<File, Failure> {
    if path != Path::new("-") {
        return File::open(path).map_err(|e| unreadable(path, &e));
    }
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    stdin.map(File::from).map_err(|e| unreadable(Path::new("stdin"), &e))
}

/// The bytes that are left to read, where the file knows: a regular one, and not one of those in
/// `/proc` that say 0 and have something.
fn known_len(file: &mut File) -> std::io::Result<Option<u64>> {
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() || meta.len() == 0 {
        return Ok(None);
    }
    let at = file.stream_position()?;
    Ok(Some(meta.len().saturating_sub(at)).filter(|len| *len > 0))
}

fn read_known(
    pool: &Pool,
    args: &PutArgs,
    name: &Path,
    file: &mut File,
    len: u64,
) -> Result<Buf, Failure> {
    let mut buf = allocate(pool, args, name, len)?;
    let bar = progress::bytes(Some(len), "put");
    for piece in buf.chunks_mut(PIECE_BYTES) {
        file.read_exact(piece).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => Failure::new(format_args!(
                "{} became shorter than {len} bytes while it was read: try again",
                name.display()
            )),
            _ => unreadable(name, &e),
        })?;
        bar.inc(piece.len() as u64);
    }
    bar.finish_and_clear();
    Ok(buf)
}

fn read_unknown(pool: &Pool, args: &PutArgs, name: &Path, file: &mut File) -> Result<Buf, Failure> {
    let room = room_bytes(pool);
    let bar = progress::bytes(None, "put");
    let mut pieces = Vec::new();
    let mut len = 0;
    loop {
        let mut piece = Vec::new();
        let read = Read::by_ref(file).take(PIECE_BYTES as u64).read_to_end(&mut piece);
        read.map_err(|e| unreadable(name, &e))?;
        if piece.is_empty() {
            break;
        }
        len += piece.len() as u64;
        bar.inc(piece.len() as u64);
        if len > room {
            // A device may never end; the pool does.
            return Err(no_room(args, name, "more than that", room));
        }
        pieces.push(piece);
    }
    if len == 0 {
        let request = Request::bytes(1).zeroed().caller(CALLER_EMPTY);
        return pool.alloc(&request).map_err(|e| refused(pool, args, name, 1, &e));
    }
    let mut buf = allocate(pool, args, name, len)?;
    let mut at = 0;
    for piece in pieces {
        buf[at..][..piece.len()].copy_from_slice(&piece);
        at += piece.len();
    }
    bar.finish_and_clear();
    Ok(buf)
}

fn allocate(pool: &Pool, args: &PutArgs, name: &Path, len: u64) -> Result<Buf, Failure> {
    let request = Request::bytes(len).caller(CALLER);
    pool.alloc(&request).map_err(|e| refused(pool, args, name, len, &e))
}

/// What an area could have now: what is free, and what is parked.
fn room_bytes(pool: &Pool) -> u64 {
    let stats = pool.info().stats;
    stats.frames_free.bytes() + stats.parked.bytes()
}

fn refused(pool: &Pool, args: &PutArgs, name: &Path, len: u64, error: &AllocError) -> Failure {
    match error {
        AllocError::Engine(Engine::TooBig { .. } | Engine::Back(BackError::NoFrames { .. })) => {
            no_room(args, name, &Size(len).to_string(), room_bytes(pool))
        }
        _ => Failure::new(format_args!("{}: {error}", name.display())),
    }
}

fn no_room(args: &PutArgs, name: &Path, has: &str, room: u64) -> Failure {
    let pool = args.path.display();
    Failure::new(format_args!(
        "{pool} has {} free and {} has {has}: free areas with `vmalloc rm {pool} TOKEN` \
         (`vmalloc info {pool}` lists them), or make a larger pool",
        Size(room),
        name.display()
    ))
}

fn unreadable(name: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format_args!("{}: {error}", name.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_numbers_spell_what_they_mean() {
        assert_eq!(CALLER.to_be_bytes()[5..], *b"put");
        assert_eq!(CALLER_EMPTY.to_be_bytes()[4..], *b"put0");
    }
}
