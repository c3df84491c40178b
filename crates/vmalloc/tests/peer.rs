//! Another process that is a member of a pool and does what it is told, line by line.
//!
//! ```text
//!   parent: Peer::start ──"attach vm1-…"──▶ stdin   child: child_main ─▶ play ─▶ Member::obey
//!           reply ◀───────"@ok 3"────────── stdout
//! ```
//!
//! It is this test program once more, running the test `child_main` alone. A peer that says
//! nothing for half a minute hangs, and the test fails. It dies with its parent.

use crate::support::{MIB, PAGE};
use crate::{crash, giving, hostile, members, recovery, resize, signals, stitching, trust};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use vmalloc::{Buf, Frozen, Pool, Request, Shared, Token};

/// Names the part that a child plays.
const ROLE: &str = "VMALLOC_TEST_ROLE";
/// How long a peer may think before it is taken to hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// A child process. Killed when it is dropped.
pub struct Peer {
    process: Child,
    input: Option<ChildStdin>,
    replies: Receiver<String>,
}

/// What a peer holds.
enum Held {
    Buf(Buf),
    Frozen(Frozen),
    Shared(Shared),
}

/// The child's side: a member of at most one pool.
#[derive(Default)]
struct Member {
    pool: Option<Pool>,
    held: BTreeMap<u64, Held>,
    next: u64,
}

/// This program once more, as `role`.
pub fn command(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child_main", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    command
}

impl Peer {
    /// Starts a peer that is no member yet.
    pub fn new() -> Peer {
        Peer::spawn(command("member"))
    }

    /// Starts a peer and has it open the pool at this path.
    pub fn at(path: &std::path::Path) -> Peer {
        let mut peer = Peer::new();
        peer.ok(&format!("open {}", path.display()));
        peer
    }

    /// Starts a peer that joins this pool.
    pub fn of(pool: &Pool) -> Peer {
        Peer::at(&pool.share_path())
    }

    /// Starts a peer that plays `role` on this pool, with a seed, and waits until it is at work.
    pub fn working(role: &str, pool: &Pool, seed: u64) -> Peer {
        let mut command = command(role);
        let path = pool.share_path();
        command.env("VMALLOC_TEST_ARGUMENT", format!("{} {seed}", path.display()));
        let mut peer = Peer::spawn(command);
        assert_eq!(peer.reply().as_deref(), Some("working"));
        peer
    }

    /// Kills it and recovers, until this process is the pool's only member.
    pub fn kill_and_recover(&mut self, pool: &Pool) {
        self.kill();
        crate::support::wait_until("recovery", || {
            pool.recover();
            pool.members().len() == 1
        });
    }

    /// Starts what `command` says, which ends in [`play`].
    pub fn spawn(mut command: Command) -> Peer {
        let mut process = command.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (send, replies) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(reply) = line.strip_prefix('@')
                    && send.send(reply.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        let input = process.stdin.take();
        Peer { process, input, replies }
    }

    /// Tells it something, without waiting for the answer.
    pub fn tell(&mut self, line: &str) {
        // A peer that is dead does not read; whoever waits for its answer finds out.
        let _ = writeln!(self.input.as_mut().expect("not dismissed"), "{line}");
    }

    /// Its next answer; `None` if it died.
    #[track_caller]
    pub fn reply(&mut self) -> Option<String> {
        self.reply_within(PATIENCE).expect("the peer hangs")
    }

    /// The same, with an end to patience that is no failure of the test: `Err`.
    pub fn reply_within(&mut self, patience: Duration) -> Result<Option<String>, Duration> {
        match self.replies.recv_timeout(patience) {
            Ok(reply) => Ok(Some(reply)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(patience),
        }
    }

    /// Tells it something and returns what it answers, `ok …` or `err …`.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.reply().unwrap_or_else(|| panic!("the peer died over {line:?}"))
    }

    /// Tells it something that must succeed; what it answers behind `ok`.
    #[track_caller]
    pub fn ok(&mut self, line: &str) -> String {
        let reply = self.ask(line);
        let ok = reply.strip_prefix("ok").unwrap_or_else(|| panic!("{line:?}: {reply}"));
        ok.trim_start().to_owned()
    }

    /// Tells it something that must fail; the error, as `Debug` prints it.
    #[track_caller]
    pub fn err(&mut self, line: &str) -> String {
        let reply = self.ask(line);
        reply.strip_prefix("err ").unwrap_or_else(|| panic!("{line:?}: {reply}")).to_owned()
    }

    /// A token from its answer.
    #[track_caller]
    pub fn token(&mut self, line: &str) -> Token {
        self.ok(line).parse().unwrap()
    }

    /// Its process.
    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.process)
    }

    /// Hangs up: its input ends.
    pub fn hang_up(&mut self) {
        self.input = None;
    }

    /// Kills it, by SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Hangs up: it drops all it has and leaves. It must end well.
    #[track_caller]
    pub fn dismiss(mut self) {
        self.hang_up();
        let status = self.wait();
        assert!(status.success(), "the peer ended badly: {status}");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    /// Tells it something over which it must die of `signal`.
    #[track_caller]
    pub fn dies_of(&mut self, signal: i32, line: &str) {
        self.tell(line);
        assert_eq!(self.reply(), None, "{line:?} did not kill it");
        let status = self.wait();
        assert_eq!(status.signal(), Some(signal), "{line:?}: {status}");
    }

    /// It may touch its area `key`, of so many bytes, up to the end of the last page, and dies at the
    /// guard behind that.
    #[track_caller]
    pub fn dies_behind(&mut self, key: &str, bytes: u64) {
        let end = bytes.next_multiple_of(PAGE);
        self.ok(&format!("touch {key} {}", end - 1));
        self.dies_of(libc::SIGSEGV, &format!("touch {key} {end}"));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Plays the part that the environment names; nothing without one.
pub fn play() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let killed = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(killed).unwrap();
    let argument = std::env::var("VMALLOC_TEST_ARGUMENT").unwrap_or_default();
    match &*role {
        "member" => serve(),
        "storm" => members::storm(&argument),
        "fork" => members::fork(&argument),
        "fork-and-leave" => members::fork_and_leave(&argument),
        "fork-and-die" => members::fork_and_die(&argument),
        "victim" => recovery::victim(&argument),
        "survivor" => recovery::survivor(&argument),
        "grower" => resize::grower(&argument),
        "giver" => giving::giver(&argument),
        "namer" => signals::namer(&argument),
        "spender" => stitching::spender(),
        "stranger" => trust::stranger(&argument),
        "hostile" => hostile::victim::expose(&argument),
        "stepped" => crash::verbs::stepped(&argument),
        "recoverer" => crash::verbs::recoverer(&argument),
        _ => panic!("no such part: {role}"),
    }
}

/// Says something to the parent.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // A line of its own, whatever the test harness has written before.
    out.write_all(format!("\n@{text}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Obeys until the parent hangs up.
fn serve() {
    let mut member = Member::default();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        match member.obey(&words) {
            Ok(answer) => say(format!("ok {answer}").trim_end()),
            Err(error) => say(&format!("err {error}")),
        }
    }
}

fn debug(error: impl Debug) -> String {
    format!("{error:?}").replace('\n', " ")
}

impl Member {
    fn obey(&mut self, words: &[&str]) -> Result<String, String> {
        let number = |i: usize| -> u64 { words[i].parse().unwrap() };
        let none = || Ok(String::new());
        match words[0] {
            "open" => self.join(Pool::open(words[1])),
            "open_any" => self.join(Pool::options().any_owner().open(words[1].as_ref())),
            "inherited" => {
                // SAFETY:
                // 1. The parent put an open descriptor at this number before it started us, and
                //    nothing in this process uses it but this line, which runs once.
                let fd = unsafe { OwnedFd::from_raw_fd(number(1) as i32) };
                self.join(Pool::options().open_fd(fd))
            }
            "receive" => self.join(Pool::receive(&UnixStream::connect(words[1]).unwrap())),
            "create" => self.join(Pool::create(number(1) * MIB)),
            "create_at" => self.join(Pool::create_at(words[1], number(2) * MIB)),
            "leave" => {
                (self.held, self.pool) = (BTreeMap::new(), None);
                none()
            }
            "share_path" => Ok(self.pool().share_path().display().to_string()),
            "number" => Ok(self.pool().member_number().to_string()),
            "vmalloc" => self.alloc(&Request::bytes(number(1)).huge()),
            "fill" => {
                let byte = number(2) as u8;
                match self.held.get_mut(&number(1)).unwrap() {
                    Held::Buf(buf) => buf.fill(byte),
                    Held::Shared(shared) => {
                        shared.write_at(0, &vec![byte; shared.len()]).map_err(debug)?;
                    }
                    Held::Frozen(_) => panic!("frozen"),
                }
                none()
            }
            "write_over" => {
                // What a member that does not keep to the protocol can do.
                let file = std::fs::File::options().write(true).open(words[1]).unwrap();
                let bytes = vec![number(3) as u8; number(4) as usize];
                let wrote = std::os::unix::fs::FileExt::write_all_at(&file, &bytes, number(2));
                wrote.map_err(debug).map(|()| String::new())
            }
            "all" => {
                let byte = number(2) as u8;
                let bytes = self.bytes(number(1));
                match bytes.iter().position(|&b| b != byte) {
                    None => none(),
                    Some(at) => Err(format!("byte {at} is {}", bytes[at])),
                }
            }
            "read" => Ok(self.bytes(number(1))[number(2) as usize].to_string()),
            "touch" => {
                let address = self.address(number(1)) + number(2) as usize;
                // SAFETY:
                // 1. The address is inside the pool's mapping, which this process keeps: an area
                //    the parent chose, or the guard page behind it. A guard ends the process, and
                //    that is what the parent wants to see. Any byte is a valid `u8`.
                let byte = unsafe { std::ptr::read_volatile(address as *const u8) };
                Ok(byte.to_string())
            }
            "address" => Ok(self.address(number(1)).to_string()),
            "freeze" => {
                let Some(Held::Buf(buf)) = self.held.remove(&number(1)) else { panic!("no buf") };
                let frozen = buf.freeze().map_err(debug)?;
                let token = frozen.token().to_string();
                self.held.insert(number(1), Held::Frozen(frozen));
                Ok(token)
            }
            "share" => {
                let Some(Held::Buf(buf)) = self.held.remove(&number(1)) else { panic!("no buf") };
                let shared = buf.share().map_err(debug)?;
                let token = shared.token().to_string();
                self.held.insert(number(1), Held::Shared(shared));
                Ok(token)
            }
            "give" | "give_to" => {
                let Some(Held::Buf(buf)) = self.held.remove(&number(1)) else { panic!("no buf") };
                let given = match words.get(2) {
                    Some(to) => buf.give_to(to.parse().unwrap()),
                    None => buf.give(),
                };
                match given {
                    Ok(token) => Ok(token.to_string()),
                    Err(e) => {
                        let error = debug(&e);
                        self.held.insert(number(1), Held::Buf(e.buf));
                        Err(error)
                    }
                }
            }
            "take" => {
                let buf = self.pool().take(&token(words[1])).map_err(debug)?;
                Ok(self.keep(Held::Buf(buf)))
            }
            "name" => {
                let named = self.pool().name(&token(words[1]), words[2]);
                named.map_err(debug).map(|()| String::new())
            }
            "named" => Ok(self.pool().named(words[1]).map_or("none".into(), |t| t.to_string())),
            "unname" => self.pool().unname(words[1]).map_err(debug).map(|t| t.to_string()),
            "wait_name" => {
                let timeout = Duration::from_millis(number(2));
                let found = self.pool().signal().wait_for(timeout, || self.pool().named(words[1]));
                Ok(found.map_err(debug)?.map_or("none".into(), |token| token.to_string()))
            }
            "wait_word" => {
                let Held::Shared(shared) = &self.held[&number(1)] else { panic!("not shared") };
                let (value, timeout) = (number(2), Duration::from_millis(number(3)));
                let is_there = || {
                    (shared.words()[0].load(std::sync::atomic::Ordering::SeqCst) == value)
                        .then_some(())
                };
                let found = shared.signal().wait_for(timeout, is_there).map_err(debug)?;
                Ok(found.is_some().to_string())
            }
            "tell_word" => {
                let Held::Shared(shared) = &self.held[&number(1)] else { panic!("not shared") };
                shared.words()[0].store(number(2), std::sync::atomic::Ordering::SeqCst);
                shared.signal().notify();
                none()
            }
            "attach" => {
                let frozen = self.pool().attach(&token(words[1])).map_err(debug)?;
                Ok(self.keep(Held::Frozen(frozen)))
            }
            "attach_shared" => {
                let shared = self.pool().attach_shared(&token(words[1])).map_err(debug)?;
                Ok(self.keep(Held::Shared(shared)))
            }
            "resize" => {
                let Some(Held::Buf(buf)) = self.held.get_mut(&number(1)) else { panic!("no buf") };
                buf.resize(number(2) as usize).map_err(debug)?;
                none()
            }
            "grow" => {
                self.shared(number(1)).grow(number(2) as usize).map_err(debug)?;
                none()
            }
            "refresh" => self.shared(number(1)).refresh().map(|len| len.to_string()).map_err(debug),
            "len" => Ok(self.bytes(number(1)).len().to_string()),
            "drop" => {
                self.held.remove(&number(1)).unwrap();
                none()
            }
            "free" => self.pool().free(&token(words[1])).map_err(debug).map(|()| String::new()),
            "set_limit" => self.pool().set_limit(number(1)).map_err(debug).map(|()| String::new()),
            "purge" => self.pool().purge().map_err(debug).map(|_| String::new()),
            "recover" => Ok(self.pool().recover().areas.to_string()),
            "verify" => self.pool().verify().map_err(debug).map(|_| String::new()),
            "vmas" => Ok(self.pool().vmas().unwrap().to_string()),
            other => panic!("no such command: {other}"),
        }
    }

    fn join<E: Debug>(&mut self, pool: Result<Pool, E>) -> Result<String, String> {
        self.pool = Some(pool.map_err(debug)?);
        Ok(String::new())
    }

    fn pool(&self) -> &Pool {
        self.pool.as_ref().expect("a member")
    }

    fn alloc(&mut self, request: &Request) -> Result<String, String> {
        let buf = self.pool().alloc(request).map_err(debug)?;
        Ok(self.keep(Held::Buf(buf)))
    }

    fn keep(&mut self, held: Held) -> String {
        self.next += 1;
        self.held.insert(self.next, held);
        self.next.to_string()
    }

    fn shared(&mut self, key: u64) -> &mut Shared {
        let Some(Held::Shared(shared)) = self.held.get_mut(&key) else { panic!("not shared") };
        shared
    }

    fn bytes(&self, key: u64) -> Vec<u8> {
        match &self.held[&key] {
            Held::Buf(buf) => buf.to_vec(),
            Held::Frozen(frozen) => frozen.to_vec(),
            Held::Shared(shared) => {
                let mut bytes = vec![0; shared.len()];
                shared.read_at(0, &mut bytes).unwrap();
                bytes
            }
        }
    }

    fn address(&self, key: u64) -> usize {
        match &self.held[&key] {
            Held::Buf(buf) => buf.as_ptr().addr(),
            Held::Frozen(frozen) => frozen.as_ptr().addr(),
            Held::Shared(shared) => shared.words().as_ptr().addr(),
        }
    }
}

fn token(text: &str) -> Token {
    text.parse().unwrap()
}
