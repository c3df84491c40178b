//! The other members as the first one sees them: child processes, and a line to each.
//!
//! A child runs this same program as [`super::member`]. It gets the pool in one of three ways,
//! each of which leaves close-on-exec alone: a path in `/proc`, a descriptor over a Unix socket,
//! or a descriptor that it inherits as its standard input. Dropping an [`Other`] kills it, so no
//! failure of the demo leaves a process behind.

use super::member::{Attached, Line, Order, Report, pool_argument};
use super::tell::told;
use crate::args::Way;
use crate::failure::{Done, Failure};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use vmalloc::{Pool, Token};

/// How long a member may take for an answer before something must be wrong.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// What every member is told when it starts.
#[derive(Clone, Copy)]
pub struct Task {
    pub token: Token,
    pub parts: u32,
    pub key: u64,
}

/// A member in another process.
pub struct Other {
    pub way: Way,
    pub part: u32,
    child: Child,
    line: Line,
}

/// The way that member `part` gets the pool: all three, in turn.
pub fn way_of(part: u32) -> Way {
    [Way::Path, Way::Socket, Way::Inherited][(part as usize + 2) % 3]
}

impl Other {
    /// Starts the member that is to write part `part`.
    pub fn start(pool: &Pool, task: &Task, part: u32) -> Result<Other, Failure> {
        let way = way_of(part);
        let program = told(std::env::current_exe(), "the path of this program")?;
        let (line, theirs) = told(UnixStream::pair(), "a socket pair")?;
        told(line.set_read_timeout(Some(ANSWER_LIMIT)), "a socket")?;
        let mut command = Command::new(program);
        let way_name = match way {
            Way::Path => "path",
            Way::Socket => "socket",
            Way::Inherited => "inherited",
        };
        command.args(["demo-member", "--way", way_name]);
        command.args(["--token", &task.token.to_string(), "--part", &part.to_string()]);
        command.args(["--parts", &task.parts.to_string(), "--key", &task.key.to_string()]);
        if let Some(path) = pool_argument(pool, way) {
            command.arg("--pool").arg(path);
        }
        let mut sending = None;
        command.stdin(match way {
            Way::Path => Stdio::null(),
            Way::Inherited => told(pool.as_fd().try_clone_to_owned(), "a descriptor")?.into(),
            Way::Socket => {
                let (ours, theirs) = told(UnixStream::pair(), "a socket pair")?;
                sending = Some(ours);
                OwnedFd::from(theirs).into()
            }
        });
        command.stdout(OwnedFd::from(theirs));
        let child = told(command.spawn(), "starting a member")?;
        let other = Other { way, part, child, line: Line::new(line) };
        if let Some(socket) = sending {
            told(pool.send(&socket), "sending the pool's descriptor")?;
        }
        Ok(other)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is attached.
    pub fn attached(&mut self) -> Result<Attached, Failure> {
        match self.report()? {
            Report::Attached(attached) => Ok(attached),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Has it write its part; the bytes it wrote.
    pub fn write(&mut self) -> Result<u64, Failure> {
        match self.ask(&Order::Write)? {
            Report::Wrote { bytes } => Ok(bytes),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Has it check all parts.
    pub fn check(&mut self) -> Done {
        match self.ask(&Order::Check)? {
            Report::Checked => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Has it take an area of its own.
    pub fn hold(&mut self, bytes: usize) -> Done {
        match self.ask(&Order::Hold { bytes })? {
            Report::Holding { .. } => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// SIGKILL: it can do nothing any more, in the middle of whatever it is at.
    pub fn kill(mut self) -> Done {
        told(self.child.kill(), "killing a member")?;
        told(self.child.wait(), "waiting for a member").map(drop)
    }

    /// Has it detach, leave the pool and end.
    pub fn leave(mut self) -> Done {
        self.line.send(&Order::Leave)?;
        let status = told(self.child.wait(), "waiting for a member")?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::new(format_args!("demo: process {} ended with {status}", self.pid())))
    }

    fn ask(&mut self, order: &Order) -> Result<Report, Failure> {
        self.line.send(order)?;
        self.report()
    }

    fn report(&mut self) -> Result<Report, Failure> {
        let pid = self.pid();
        let gone = || Failure::new(format_args!("demo: process {pid} went away without a word"));
        self.line.receive()?.ok_or_else(gone)
    }

    fn unexpected(&self, report: &Report) -> Failure {
        let pid = self.pid();
        match report {
            Report::Failed { why } => Failure::new(format_args!("{why} (in process {pid})")),
            other => Failure::new(format_args!("demo: process {pid} said {other:?}")),
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // After `kill` and `leave` it is gone, and neither call does anything.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
