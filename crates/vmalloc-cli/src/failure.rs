//! How a command ends when it does not end well: what it says, and the exit code.
//!
//! | code | means |
//! |---|---|
//! | 0 | done; also when a reader closed our output early, as `head` does |
//! | 1 | it failed; one line `vmalloc: …` on stderr says what, and what to do next |
//! | 2 | the command line was wrong |

use crate::show::Printable;
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use vmalloc::{AttachError, CreateError, FreeError, HeaderError, OpenError, Pool, Token};

/// Why a command stops before its end.
#[derive(Debug)]
pub enum Failure {
    /// What to tell the user.
    Said(String),
    /// A program that was run for the user ended with this code, and has said why.
    Exited(u8),
    /// Nobody reads our output any more: there is nothing left to do, and nobody to tell.
    Unread,
}

/// What every command returns.
pub type Done = Result<(), Failure>;

impl Failure {
    /// A failure that says `what`: lower case, the values, what to do next.
    pub fn new(what: impl Display) -> Failure {
        Failure::Said(what.to_string())
    }

    /// Writing to our standard output failed.
    pub fn output(error: &std::io::Error) -> Failure {
        match error.kind() {
            ErrorKind::BrokenPipe => Failure::Unread,
            _ => Failure::new(format_args!("standard output: {error}")),
        }
    }

    /// Tells the user, and gives the exit code.
    pub fn report(self) -> ExitCode {
        match self {
            Failure::Unread => ExitCode::SUCCESS,
            Failure::Exited(code) => ExitCode::from(code),
            Failure::Said(what) => {
                // If stderr is closed, the code must do.
                let _ = writeln!(std::io::stderr(), "vmalloc: {}", Printable(&what));
                ExitCode::FAILURE
            }
        }
    }
}

/// Opens the pool at `path` and joins it.
pub fn open(path: &Path) -> Result<Pool, Failure> {
    Pool::open(path).map_err(|e| not_opened(path, &e))
}

/// Why a pool was not opened, and what to do about it.
pub fn not_opened(path: &Path, error: &OpenError) -> Failure {
    let shown = path.display();
    if path.symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        return Failure::new(format_args!(
            "there is no {shown}: make a pool with `vmalloc create {shown} --capacity 1G`, \
             or see `vmalloc list`"
        ));
    }
    Failure::new(match error {
        OpenError::Header(HeaderError::Magic { .. } | HeaderError::NotReady) => {
            format!("{shown}: {error}; `vmalloc list` shows the pools there are")
        }
        OpenError::Full { .. } => {
            format!("{shown}: {error}; wait for one to leave (`vmalloc info {shown}` shows them)")
        }
        _ => format!("{shown} is not a pool that can be opened: {error}"),
    })
}

/// Why a pool was not made.
pub fn not_created(path: &Path, error: &CreateError) -> Failure {
    let shown = path.display();
    if path.symlink_metadata().is_ok() {
        return Failure::new(format_args!(
            "{shown} exists already: choose another path, or remove it (`vmalloc rm {shown}`)"
        ));
    }
    Failure::new(error)
}

/// Why a token was not redeemed.
pub fn not_attached(path: &Path, token: &Token, error: &AttachError) -> Failure {
    use vmalloc::core::AttachError as Engine;
    match error {
        AttachError::OtherPool { .. } => other_pool(path, token),
        AttachError::Engine(Engine::Stale { .. } | Engine::Malformed) => no_area(path, token),
        _ => Failure::new(format_args!("{token} in {}: {error}", path.display())),
    }
}

/// Why an area was not freed.
pub fn not_freed(path: &Path, token: &Token, error: &FreeError) -> Failure {
    match error {
        FreeError::OtherPool { .. } => other_pool(path, token),
        FreeError::Engine(vmalloc::core::FreeError::Stale { .. }) => no_area(path, token),
        _ => Failure::new(format_args!("{token} in {}: {error}", path.display())),
    }
}

fn other_pool(path: &Path, token: &Token) -> Failure {
    Failure::new(format_args!(
        "{token} is a token of another pool than {}; `vmalloc list` shows the pools there are",
        path.display()
    ))
}

fn no_area(path: &Path, token: &Token) -> Failure {
    let path = path.display();
    Failure::new(format_args!(
        "no area of {path} has the token {token}, or not any more: it was freed; \
         `vmalloc info {path}` lists the tokens that are good"
    ))
}
