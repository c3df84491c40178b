//! What the tests of the command share: running the built program with a deadline, pools that are
//! removed afterwards, and skips that are told.

#![allow(dead_code, reason = "each test file uses its part")]

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The program under test.
pub const VMALLOC: &str = env!("CARGO_BIN_EXE_vmalloc");

/// How long one command may take: far more than any needs on a slow machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs `vmalloc` with nothing on stdin.
pub fn vmalloc(args: &[&str]) -> Output {
    finish(command(args).stdin(Stdio::null()).spawn().unwrap())
}

/// Runs `vmalloc` with `input` on a pipe.
pub fn vmalloc_fed(args: &[&str], input: &[u8]) -> Output {
    let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        // It may refuse and go before it has read all.
        scope.spawn(move || drop(std::io::Write::write_all(&mut stdin, input)));
        finish(child)
    })
}

/// `vmalloc` with its output on pipes, not started yet.
pub fn command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(VMALLOC);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for a child whose output is on pipes; kills it after [`LIMIT`].
pub fn finish(mut child: Child) -> Output {
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
            bytes
        })
    };
    let stdout = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let status = until("the command ends", || child.try_wait().unwrap(), || ());
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Asks again and again, with a deadline.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>, on_timeout: impl FnOnce()) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        if start.elapsed() > LIMIT {
            on_timeout();
            panic!("waited {LIMIT:?} until {what}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The output of a command that must succeed in silence on stderr.
#[track_caller]
pub fn good(output: Output) -> Vec<u8> {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""));
    output.stdout
}

/// The same as text, without the last line end.
#[track_caller]
pub fn text(output: Output) -> String {
    String::from_utf8(good(output)).unwrap().trim_end().to_owned()
}

/// The same as JSON.
#[track_caller]
pub fn json(output: Output) -> serde_json::Value {
    serde_json::from_slice(&good(output)).unwrap()
}

/// The message of a command that must fail with `code`, saying one thing and nothing on stdout.
#[track_caller]
pub fn refused(output: Output, code: i32) -> String {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let message = stderr.strip_prefix("vmalloc: ").unwrap_or_else(|| panic!("{stderr:?}"));
    assert!(!message.starts_with(char::is_uppercase), "{message:?}");
    assert!(message.ends_with('\n') && !message.contains("panicked"), "{message:?}");
    message.to_owned()
}

/// A path in `/dev/shm` that nobody else uses; whatever is there is removed at the end.
pub struct Place(PathBuf);

impl Place {
    /// A place for a test.
    pub fn new(name: &str) -> Place {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Place(format!("/dev/shm/vmalloc-cli-{}-{number}-{name}", std::process::id()).into())
    }

    /// A pool there.
    pub fn with_pool(name: &str, capacity: &str) -> Place {
        let place = Place::new(name);
        assert_eq!(text(vmalloc(&["create", place.str(), "--capacity", capacity])), "");
        place
    }

    pub fn str(&self) -> &str {
        self.0.to_str().unwrap()
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The pool, as `vmalloc info --json` shows it.
    pub fn info(&self) -> serde_json::Value {
        json(vmalloc(&["info", self.str(), "--json"]))[0].clone()
    }

    /// Puts bytes by way of a file; the token.
    pub fn put(&self, bytes: &[u8]) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        text(vmalloc(&["put", self.str(), file.path().to_str().unwrap()]))
    }

    /// Gets bytes by way of a pipe.
    pub fn get(&self, token: &str) -> Vec<u8> {
        good(vmalloc(&["get", self.str(), token]))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // It may be gone, by the test's own doing.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Stops a process where it is, by SIGSTOP.
pub fn stop(pid: u32) {
    let stopped = Command::new("sh").args(["-c", &format!("kill -STOP {pid}")]).status();
    assert!(stopped.unwrap().success());
}

/// Bytes that no shift, swap or lost piece leaves as they are.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Notes what could not be tested here, and how to have it tested.
pub fn skip(what: &str, why_and_how: &str) {
    use std::io::Write;
    let line = format!("{what}: {why_and_how}\n");
    let file = std::env::var_os("VMALLOC_SKIPS")
        .and_then(|path| std::fs::OpenOptions::new().append(true).create(true).open(path).ok());
    // One write of one line, so lines of concurrent tests do not mix.
    if let Some(mut file) = file {
        file.write_all(line.as_bytes()).unwrap();
    }
    eprint!("skipped: {line}");
}
