//! The parent's end of a member: it asks, waits with a limit, and kills.

use super::super::alone::check;
use super::super::subject::{Stop, Verdict};
use super::member::WORKING;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};
use vmalloc::Pool;

/// When a member that does not answer counts as hung: a thousand times what it needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A member that runs. Dropping it kills it.
pub struct Peer {
    pub writer: u32,
    /// Rounds of work, when it was asked last.
    pub rounds: u64,
    child: Child,
    // None once it has been told to leave.
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Peer {
    /// Starts a member; it works when this returns.
    pub fn start(pool: &Pool, writer: u32, seed: u64, rejoin: u64) -> Verdict<Peer> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("stress-member")
            .arg("--pool")
            .arg(pool.share_path())
            .args(["--writer", &writer.to_string(), "--seed", &seed.to_string()])
            .args(["--rejoin", &rejoin.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    // Nobody waits for it any more? Then it is of no use.
                    let _ = sender.send(line);
                }
            });
        }
        let peer = Peer { writer, rounds: 0, child, stdin, lines };
        let reply = peer.reply()?;
        check(reply == WORKING, || reply)?;
        Ok(peer)
    }

    /// How many rounds it has done, which must be more than before; how long the answer took.
    pub fn ask(&mut self) -> Verdict<Duration> {
        let asked = Instant::now();
        if let Some(stdin) = &mut self.stdin {
            // If it is gone, the reply says so.
            let _ = stdin.write_all(b"?\n");
        }
        let reply = self.reply()?;
        let rounds = reply.parse().map_err(|_| Stop::from(reply))?;
        check(rounds > self.rounds, || format!("member {} got nothing done", self.writer))?;
        self.rounds = rounds;
        Ok(asked.elapsed())
    }

    /// Tells it to leave; the others may be told before it is waited for.
    pub fn tell_to_leave(&mut self) {
        self.stdin = None;
    }

    /// Its last words, once it has left.
    pub fn last_words(mut self) -> Verdict<String> {
        let words = self.reply()?;
        let status = self.child.wait()?;
        check(status.success(), || format!("member {}: {status}, {words}", self.writer))?;
        Ok(words)
    }

    /// Kills it as it stands. An error is one that it had found before.
    pub fn kill(mut self) -> Verdict {
        self.child.kill()?;
        self.child.wait()?;
        self.lines.iter().try_for_each(|line| Err(Stop::from(line)))
    }

    fn reply(&self) -> Verdict<String> {
        let gone = match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => return Ok(line),
            Err(RecvTimeoutError::Timeout) => format!("hung: no answer in {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => "ended unasked".to_owned(),
        };
        Err(Stop::from(format!("member {}: {gone}", self.writer)))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Of one that has ended by itself there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
