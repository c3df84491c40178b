//! What the members of a case run: `vmalloc stress-member`, hidden, started by the case.
//!
//! A process of its own, that works until it is killed or its standard input ends:
//!
//! ```text
//!   alloc ─ write ┬ grow, check          ┐
//!                 ├ freeze               ├─ hold a few ─ check ─ free
//!                 └ share ─ grow         ┘   attach to anybody's, check, detach
//! ```
//!
//! Between two rounds it answers: a line for each line that it is sent. A full pool is nothing
//! that it dies of: it frees what it holds and goes on.

use super::tag;
use crate::demo::plan::Random;
use crate::failure::{Done, Failure};
use clap::Args as ClapArgs;
use std::fmt::Display;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};
use vmalloc::core::AttachError as Engine;
use vmalloc::{AllocError, AttachError, Buf, OpenError, Pool, ResizeError, Shared, Token};

/// What it says first.
pub const WORKING: &str = "working";

/// What it says last, before its figures.
pub const DONE: &str = "done";

/// How long it tries to join, and how often.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);

/// Words that an area grows by at most.
const GROWTH_MAX: u64 = 64 << 7;

/// How a case starts a member.
#[derive(ClapArgs, Debug)]
pub struct StressMemberArgs {
    /// The path that opens the pool.
    #[arg(long)]
    pub pool: PathBuf,
    /// What no other process of the run has.
    #[arg(long)]
    pub writer: u32,
    /// Where the randomness begins.
    #[arg(long)]
    pub seed: u64,
    /// Leave and join again after so many rounds; 0: stay.
    #[arg(long, default_value_t = 0)]
    pub rejoin: u64,
    /// Make the pool instead, and fill it until it has refused so often.
    #[arg(long)]
    pub fill: Option<u64>,
}

/// Something that the member holds.
enum Held {
    Mine(Buf, u64),
    Published(Token, u64),
}

/// The member at work.
struct Work {
    writer: u32,
    random: Random,
    held: Vec<Held>,
    rounds: u64,
    full: u64,
}

/// Works until it is told to leave.
pub fn run(args: &StressMemberArgs) -> Done {
    if let Some(rounds) = args.fill {
        return super::full::in_child(args, rounds);
    }
    serve(args).inspect_err(|failure| {
        if let Failure::Said(why) = failure {
            // If nobody listens, the exit code must do.
            let _ = say(format_args!("wrong: member {}: {why}", args.writer));
        }
    })
}

fn serve(args: &StressMemberArgs) -> Done {
    let asked = asked();
    let mut pool = open(&args.pool)?;
    let random = Random::new(args.seed);
    let mut work = Work { writer: args.writer, random, held: Vec::new(), rounds: 0, full: 0 };
    say(WORKING)?;
    loop {
        work.round(&pool)?;
        match asked.try_recv() {
            Ok(()) => say(work.rounds)?,
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => break,
        }
        if args.rejoin > 0 && work.rounds.is_multiple_of(args.rejoin) {
            work.free_all(&pool)?;
            drop(pool);
            pool = open(&args.pool)?;
        }
    }
    work.free_all(&pool)?;
    drop(pool);
    say(format_args!("{DONE} {} {}", work.rounds, work.full))
}

/// Joins. When all slots are in use but that of a dead one, and another member is just at it,
/// there is none for a moment.
fn open(path: &Path) -> Result<Pool, Failure> {
    let began = Instant::now();
    loop {
        match Pool::open(path) {
            Err(OpenError::Full { .. }) if began.elapsed() < PATIENCE => thread::sleep(PAUSE),
            opened => return told(opened, "opening the pool"),
        }
    }
}

/// A message for each line on standard input; ends with it.
fn asked() -> Receiver<()> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for _ in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// A line to whoever started it.
pub fn say(text: impl Display) -> Done {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
}

fn told<T, E: Display>(result: Result<T, E>, doing: &str) -> Result<T, Failure> {
    result.map_err(|e| Failure::new(format_args!("{doing}: {e}")))
}

impl Work {
    fn round(&mut self, pool: &Pool) -> Done {
        self.rounds += 1;
        let words = match self.random.below(8) {
            0..5 => 1 + self.random.below(5 << 10),
            5..7 => 1 + self.random.below(50 << 10),
            _ => 1 + self.random.below(390 << 10),
        };
        match pool.vmalloc(words as usize * 8) {
            Ok(buf) => self.use_up(pool, buf)?,
            Err(AllocError::Engine(e)) if e.purge_may_help() => {
                self.full += 1;
                return self.free_all(pool);
            }
            Err(e) => return Err(Failure::new(format_args!("allocating: {e}"))),
        }
        if self.random.below(4) == 0 {
            self.visit(pool)?;
        }
        while self.held.len() as u64 > self.random.below(12) {
            self.free_one(pool)?;
        }
        if self.random.below(64) == 0 {
            told(pool.purge(), "purging")?;
        }
        Ok(())
    }

    fn use_up(&mut self, pool: &Pool, mut buf: Buf) -> Done {
        let key = tag::fill(&mut buf, self.writer, self.random.next());
        let held = match self.random.below(6) {
            0 => {
                let frozen = told(buf.freeze(), "freezing")?;
                Held::Published(frozen.token(), key)
            }
            1 => {
                let mut shared = told(buf.share(), "sharing")?;
                self.grow(shared.len(), |bytes| shared.grow(bytes))?;
                Held::Published(shared.token(), key)
            }
            2 => {
                self.grow(buf.len(), |bytes| buf.vrealloc(bytes))?;
                Held::Mine(buf, key)
            }
            _ => Held::Mine(buf, key),
        };
        if let Held::Published(token, key) = held {
            check_published(pool, &token, Some(key))?;
        }
        self.held.push(held);
        Ok(())
    }

    /// Grows something; that there is no room for it is no failure.
    fn grow(&mut self, len: usize, grow: impl FnOnce(usize) -> Result<(), ResizeError>) -> Done {
        match grow(len + 8 * (1 + self.random.below(GROWTH_MAX)) as usize) {
            Ok(()) | Err(ResizeError::Engine(_) | ResizeError::Alloc(AllocError::Engine(_))) => {
                Ok(())
            }
            Err(e) => Err(Failure::new(format_args!("growing: {e}"))),
        }
    }

    /// Looks into an area of anybody's, which may be freed meanwhile.
    fn visit(&mut self, pool: &Pool) -> Done {
        let areas = pool.areas();
        let tokens: Vec<Token> = areas.iter().filter_map(|area| pool.token_of(area)).collect();
        if tokens.is_empty() {
            return Ok(());
        }
        let token = tokens[self.random.below(tokens.len() as u64) as usize];
        check_published(pool, &token, None).map(drop)
    }

    fn free_one(&mut self, pool: &Pool) -> Done {
        let at = self.random.below(self.held.len() as u64) as usize;
        match self.held.swap_remove(at) {
            Held::Mine(buf, key) => check_key(tag::key(&buf), key, "a buffer"),
            Held::Published(token, key) => {
                check_published(pool, &token, Some(key))?;
                told(pool.free(&token), "freeing what it had published")
            }
        }
    }

    fn free_all(&mut self, pool: &Pool) -> Done {
        while !self.held.is_empty() {
            self.free_one(pool)?;
        }
        Ok(())
    }
}

/// Attaches to a published area, checks it, and detaches; its key. One that somebody else has freed
/// by now has none; one whose key is `expected` must be there.
pub fn check_published(
    pool: &Pool,
    token: &Token,
    expected: Option<u64>,
) -> Result<Option<u64>, Failure> {
    let read = match pool.attach(token) {
        Ok(frozen) => Ok(tag::key(&frozen)),
        Err(AttachError::Shared) => pool.attach_shared(token).and_then(|shared| read(&shared)),
        Err(e) => Err(e),
    };
    match (read, expected) {
        (Ok(found), Some(key)) => check_key(found, key, "an area").map(|()| Some(key)),
        (Ok(found), None) => told(found, &format!("another's area {token}")).map(Some),
        (Err(AttachError::Engine(Engine::Stale { .. })), None) => Ok(None),
        (Err(e), _) => Err(Failure::new(format_args!("attaching to {token}: {e}"))),
    }
}

fn read(shared: &Shared) -> Result<Result<u64, String>, AttachError> {
    let mut bytes = vec![0; shared.len()];
    Ok(shared.read_at(0, &mut bytes).map_err(|e| e.to_string()).and_then(|()| tag::key(&bytes)))
}

fn check_key(found: Result<u64, String>, key: u64, what: &str) -> Done {
    match found {
        Ok(found) if found == key => Ok(()),
        Ok(found) => Err(Failure::new(format_args!(
            "{what} of key {key:#x} holds {found:#x}, what process {} wrote",
            tag::writer(found)
        ))),
        Err(e) => Err(Failure::new(format_args!("{what} of key {key:#x}: {e}"))),
    }
}
