//! `vmalloc get`: the bytes of an area, as many as were put, to stdout or a file.
//!
//! Attaches to the area, so nobody can take it away meanwhile, and writes it out piece by piece.
//! An area that its members write is read as it is at the moment. Nothing is created or truncated
//! before the token has turned out to be good.

use crate::args::GetArgs;
use crate::failure::{Done, Failure, not_attached, open};
use crate::progress;
use crate::put;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use vmalloc::{AttachError, Frozen, Pool, Shared, Token};

const PIECE_BYTES: usize = 1 << 20;

/// An area that we are attached to.
enum Source {
    Empty,
    Frozen(Frozen),
    Shared(Shared),
}

/// Where the bytes go.
enum Target<'a> {
    Stdout,
    File(&'a Path),
}

/// Writes the area out.
pub fn run(args: &GetArgs) -> Done {
    let pool = open(&args.path)?;
    let source =
        attach(&pool, &args.token).map_err(|e| not_attached(&args.path, &args.token, &e))?;
    let target = match args.output.as_deref() {
        Some(path) if path != Path::new("-") => Target::File(path),
        _ => Target::Stdout,
    };
    let on_terminal = matches!(target, Target::Stdout) && std::io::stdout().is_terminal();
    if on_terminal && args.output.is_none() && !args.force && !source.is_text() {
        return Err(Failure::new(
            "the area is not text, and a terminal might obey it: use -o FILE, a pipe, or --force",
        ));
    }
    let out = target.open().map_err(|e| target.failure(&e))?;
    source.write_to(out, on_terminal).map_err(|e| target.failure(&e))
}

fn attach(pool: &Pool, token: &Token) -> Result<Source, AttachError> {
    let frozen = match pool.attach(token) {
        Err(AttachError::Shared) => return pool.attach_shared(token).map(Source::Shared),
        attached => attached?,
    };
    // We are attached: the area under this token stays the one that it is.
    let is_ours = |area: &&_| pool.token_of(area).as_ref() == Some(token);
    if frozen.len() == 1 && pool.areas().iter().find(is_ours).is_some_and(put::is_empty_file) {
        return Ok(Source::Empty);
    }
    Ok(Source::Frozen(frozen))
}

impl Source {
    fn len(&self) -> usize {
        match self {
            Source::Empty => 0,
            Source::Frozen(area) => area.len(),
            Source::Shared(area) => area.len(),
        }
    }

    /// Gives `take` the bytes in pieces, until it fails.
    fn each<E>(&self, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        match self {
            Source::Empty => Ok(()),
            Source::Frozen(area) => area.chunks(PIECE_BYTES).try_for_each(take),
            Source::Shared(area) => {
                let mut piece = vec![0; PIECE_BYTES.min(area.len())];
                for at in (0..area.len()).step_by(PIECE_BYTES) {
                    let piece = &mut piece[..PIECE_BYTES.min(area.len() - at)];
                    area.read_at(at, piece).expect("the piece lies within the area");
                    take(piece)?;
                }
                Ok(())
            }
        }
    }

    /// Whether a terminal can show it: UTF-8 without control characters but tabs and line ends.
    fn is_text(&self) -> bool {
        let mut text = Vec::new();
        let read = self.each(|piece| {
            text.extend_from_slice(piece);
            let (good, rest) = match std::str::from_utf8(&text) {
                Ok(good) => (good, 0),
                // A character that the piece's end cut: the next piece has the rest.
                Err(e) if e.error_len().is_none() => {
                    let good = std::str::from_utf8(&text[..e.valid_up_to()]).map_err(drop)?;
                    (good, text.len() - e.valid_up_to())
                }
                Err(_) => return Err(()),
            };
            if good.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r')) {
                return Err(());
            }
            text.drain(..text.len() - rest);
            Ok(())
        });
        read.is_ok() && text.is_empty()
    }

    fn write_to(&self, mut out: File, on_terminal: bool) -> std::io::Result<()> {
        let bar = match on_terminal {
            true => indicatif::ProgressBar::hidden(),
            false => progress::bytes(Some(self.len() as u64), "get"),
        };
        self.each(|piece| -> std::io::Result<()> {
            out.write_all(piece)?;
            bar.inc(piece.len() as u64);
            Ok(())
        })?;
        bar.finish_and_clear();
        Ok(())
    }
}

impl Target<'_> {
    /// Unbuffered: the pieces are large.
    fn open(&self) -> std::io::Result<File> {
        match self {
            Target::Stdout => std::io::stdout().as_fd().try_clone_to_owned().map(File::from),
            Target::File(path) => File::create(path),
        }
    }

    fn failure(&self, error: &std::io::Error) -> Failure {
        match self {
            Target::Stdout => Failure::output(error),
            Target::File(path) => Failure::new(format_args!("{}: {error}", path.display())),
        }
    }
}
