//! One child process: its output line by line, and a deadline after which it and all its
//! descendants are killed.
//!
//! Children stay in our process group, so that Ctrl-C reaches them; the descendants to kill are
//! therefore found in `/proc`, not by group.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often a running child is looked at.
const POLL: Duration = Duration::from_millis(50);
/// How long we wait for the output of a child that has ended: longer, and a process that it left
/// behind holds its output open.
const DRAIN: Duration = Duration::from_secs(5);
/// How long building the command `vmalloc` may take.
const BUILD: Duration = Duration::from_secs(15 * 60);

/// `cargo`, the one that runs us.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Where cargo puts what it builds of the workspace at `root`.
pub fn target_dir(root: &Path) -> PathBuf {
    // As cargo takes it: a relative one is below the folder in which cargo runs.
    root.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// How a program is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// With debug assertions, and quickly built.
    Debug,
    /// As it is used.
    Release,
}

/// Builds the command `vmalloc`, and says where it is.
///
/// # Errors
///
/// Why it was not built, in words.
pub fn build_vmalloc(root: &Path, profile: Profile) -> Result<PathBuf, String> {
    let (args, folder): (&[_], _) = match profile {
        Profile::Debug => (&["--quiet"], "debug"),
        Profile::Release => (&["--release"], "release"),
    };
    let mut build = cargo();
    build.args(["build", "--package", "vmalloc-cli"]).args(args).current_dir(root);
    run(&mut build, BUILD)?;
    Ok(target_dir(root).join(folder).join("vmalloc"))
}

/// Runs `command` to its end, its output passed through, without an input.
///
/// # Errors
///
/// Why it did not succeed, in words: it could not start, its exit code or signal, or its deadline.
pub fn run(command: &mut Command, limit: Duration) -> Result<(), String> {
    command.stdin(Stdio::null());
    let mut child = spawn(command)?;
    verdict(wait(&mut child, Instant::now() + limit, limit)?)
}

/// Runs `command` and gives each line that it prints to `on_line`; errors pass through.
///
/// # Errors
///
/// As [`run`], or that it left a process behind that holds its output open.
pub fn run_lines(
    command: &mut Command,
    limit: Duration,
    mut on_line: impl FnMut(&str),
) -> Result<(), String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = spawn(command)?;
    let deadline = Instant::now() + limit;
    let mut output = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let (sender, lines) = mpsc::channel::<String>();
    // Not joined: it ends with the pipe, which a process left behind may hold for ever.
    std::thread::spawn(move || {
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|len_bytes| len_bytes > 0) {
            let text = String::from_utf8_lossy(&line);
            if sender.send(text.trim_end_matches('\n').to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        match lines.recv_timeout(POLL) {
            Ok(line) => on_line(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        match ended {
            Some((status, at)) if at.elapsed() > DRAIN => {
                verdict(status)?;
                return Err("it ended, but left a process behind that holds its output".into());
            }
            Some(_) => {}
            None => {
                if let Some(status) = poll(&mut child, deadline, limit)? {
                    ended = Some((status, Instant::now()));
                }
            }
        }
    }
    match ended {
        Some((status, _)) => verdict(status),
        None => verdict(wait(&mut child, deadline, limit)?),
    }
}

/// As [`run_lines`], with what `command` writes to the stream for errors among the lines: some
/// tools speak there.
///
/// # Errors
///
/// As [`run_lines`].
pub fn run_lines_of_both(
    command: &Command,
    limit: Duration,
    on_line: impl FnMut(&str),
) -> Result<(), String> {
    // By way of a shell, so that both streams are one, and lines keep their order.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(command.get_program());
    shell.args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    run_lines(&mut shell, limit, on_line)
}

/// What `command` prints, or `None` if it fails; its errors are dropped.
pub fn capture(command: &mut Command, limit: Duration) -> Option<String> {
    let mut printed = String::new();
    let result = run_lines(command.stderr(Stdio::null()), limit, |line| {
        printed.push_str(line);
        printed.push('\n');
    });
    result.ok().map(|()| printed)
}

fn spawn(command: &mut Command) -> Result<Child, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.spawn().map_err(|error| format!("cannot start {program}: {error}"))
}

fn wait(child: &mut Child, deadline: Instant, limit: Duration) -> Result<ExitStatus, String> {
    // At first shortly: whose output has ended ends at once.
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = poll(child, deadline, limit)? {
            return Ok(status);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(POLL);
    }
}

/// The child's status if it has ended; kills it and everything below it at the deadline.
fn poll(
    child: &mut Child,
    deadline: Instant,
    limit: Duration,
) -> Result<Option<ExitStatus>, String> {
    if let Some(status) = child.try_wait().map_err(|error| format!("cannot wait: {error}"))? {
        return Ok(Some(status));
    }
    if Instant::now() < deadline {
        return Ok(None);
    }
    let doomed: Vec<String> = tree(child.id()).iter().map(u32::to_string).collect();
    let _ = Command::new("kill").arg("-KILL").args(&doomed).stderr(Stdio::null()).status();
    let _ = child.kill();
    let _ = child.wait();
    Err(format!("it did not end within {} s and was killed", limit.as_secs()))
}

fn verdict(status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("it ended with {status}")) }
}

/// `pid` and its descendants, from the parents in `/proc`.
fn tree(pid: u32) -> BTreeSet<u32> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // "PID (NAME) STATE PPID …", and a name may hold anything, brackets too.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = BTreeSet::from([pid]);
    loop {
        let len = found.len();
        found.extend(
            parents
                .iter()
                .filter(|(_, up)| found.contains(up))
                .map(|&(pid, _)| pid)
                .collect::<Vec<_>>(),
        );
        if found.len() == len {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const SOON: Duration = Duration::from_secs(60);

    /// Goal: lines arrive in order, the last one without a line end too.
    #[test]
    fn every_line_arrives_in_order() {
        let mut lines = Vec::new();
        run_lines(&mut sh("echo one; printf two"), SOON, |line| lines.push(line.to_owned()))
            .unwrap();
        assert_eq!(lines, ["one", "two"]);
    }

    /// Goal: what goes to either stream arrives, in order; folder and environment are the command's.
    #[test]
    fn lines_of_both_streams_arrive_in_order() {
        let mut command = sh("pwd; echo $WORD >&2; echo ${HOME-none}; exit 3");
        command.current_dir("/").env("WORD", "two").env_remove("HOME");
        let mut lines = Vec::new();
        let ended = run_lines_of_both(&command, SOON, |line| lines.push(line.to_owned()));
        assert_eq!(lines, ["/", "two", "none"]);
        assert!(ended.unwrap_err().contains("3"));
    }

    /// Goal: an exit code and a program that does not exist are errors that say so.
    #[test]
    fn failures_are_told_in_words() {
        assert!(run(&mut sh("exit 3"), SOON).unwrap_err().contains("3"));
        let missing = run(&mut Command::new("no-such-program-anywhere"), SOON).unwrap_err();
        assert!(missing.starts_with("cannot start no-such-program-anywhere"));
        assert_eq!(capture(&mut sh("echo said; false"), SOON), None);
    }

    /// Goal: at the deadline a grandchild dies as well, so its output ends.
    /// Method: `sh` waits for a `sleep` that would hold the pipe for ten minutes.
    #[test]
    fn deadline_kills_the_descendants_too() {
        let start = Instant::now();
        let limit = Duration::from_millis(300);
        let error = run_lines(&mut sh("sleep 600; true"), limit, |_| {}).unwrap_err();
        assert!(error.contains("was killed"), "{error}");
        assert!(start.elapsed() < SOON);
    }
}
