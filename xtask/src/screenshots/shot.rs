//! What a picture is taken with: a process that runs meanwhile, a terminal, a browser.
//!
//! Each ends what it started when it is dropped, so that a picture that fails leaves nothing.

use crate::run;
use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long we wait for something to appear.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often we look whether it has.
const POLL: Duration = Duration::from_millis(100);
/// How long a browser may take.
const BROWSER_LIMIT: Duration = Duration::from_secs(60);

/// The first of `names` that is on the `PATH`.
pub fn find(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let at = |name: &&str| dirs.iter().map(|dir| dir.join(name)).find(|file| file.is_file());
    names.iter().find_map(at)
}

/// Whether this user may see what only root may.
pub fn is_root() -> bool {
    let id = run::capture(Command::new("id").arg("-u"), Duration::from_secs(10));
    id.is_some_and(|id| id.trim() == "0")
}

/// Asks until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T, String> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if start.elapsed() > PATIENCE {
            return Err(format!("waited {} s for {what}", PATIENCE.as_secs()));
        }
        std::thread::sleep(POLL);
    }
}

/// A process that runs until this is dropped.
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts it, with its output to us.
    pub fn start(program: &Path, args: &[&str]) -> Result<Running, String> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("{}: {e}", program.display()))?;
        let out = child.stdout.take().ok_or("it has no output")?;
        Ok(Running { child, lines: BufReader::new(out).lines() })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads what it says until a line has `part`.
    pub fn wait_for_line(&mut self, part: &str) -> Result<(), String> {
        let found = self.lines.by_ref().map_while(Result::ok).any(|line| line.contains(part));
        if found { Ok(()) } else { Err(format!("it ended and never said \"{part}\"")) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // If it has ended already there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command in a terminal of tmux, 80 columns by 24 rows.
pub struct Pane {
    tmux: PathBuf,
    socket: String,
    title: String,
}

impl Pane {
    /// Runs `vmalloc` with `args` in a terminal, and waits until it shows `sign`.
    pub fn open(tmux: &Path, vmalloc: &Path, args: &[&str], sign: &str) -> Result<Pane, String> {
        let socket = format!("vmalloc-screenshots-{}", std::process::id());
        let title = format!("vmalloc {}", args.join(" "));
        let pane = Pane { tmux: tmux.to_owned(), socket, title };
        // It stays when the command has ended, so that what that printed can be read.
        let shell = format!("'{}' {}; exec sleep 600", vmalloc.display(), args.join(" "));
        let mut start = pane.tmux();
        start.args(["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24"]).arg(shell);
        start.args([";", "set", "status", "off", ";", "resize-window", "-x", "80", "-y", "24"]);
        start.env("LANG", "C.UTF-8").env_remove("LC_ALL").env_remove("NO_COLOR").env_remove("TMUX");
        run::run(&mut start, PATIENCE).map_err(|why| format!("tmux: {why}"))?;
        pane.wait_for(sign)?;
        Ok(pane)
    }

    /// Presses a key, and waits until `sign` is shown.
    pub fn press(&self, key: &str, sign: &str) -> Result<(), String> {
        run::run(self.tmux().args(["send-keys", key]), PATIENCE)?;
        self.wait_for(sign)
    }

    /// Waits until `sign` is shown.
    pub fn wait_for(&self, sign: &str) -> Result<(), String> {
        wait_for(&format!("{:?} in `{}`", sign, self.title), || {
            let shown = run::capture(self.tmux().args(["capture-pane", "-p"]), PATIENCE)?;
            (!shown.trim().is_empty() && shown.contains(sign)).then_some(())
        })
    }

    /// What was typed.
    pub fn title(&self) -> String {
        self.title.clone()
    }

    /// What the terminal shows, with the escape sequences of its colours.
    pub fn shown(&self) -> Result<String, String> {
        let shown = run::capture(self.tmux().args(["capture-pane", "-p", "-e"]), PATIENCE);
        shown.ok_or_else(|| "tmux shows nothing".to_owned())
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new(&self.tmux);
        command.args(["-L", &self.socket]);
        command
    }
}

impl Drop for Pane {
    fn drop(&mut self) {
        // The server is ours alone, by its socket.
        let _ = run::capture(self.tmux().arg("kill-server"), PATIENCE);
    }
}

/// A browser without a window.
pub struct Browser {
    pub program: PathBuf,
    /// A folder of its own, so that it neither sees nor leaves anything of the user's.
    pub profile: PathBuf,
}

impl Browser {
    /// Opens a page and keeps what it looks like.
    pub fn shoot(
        &self,
        page: &Path,
        search: &str,
        picture: &Path,
        (width, height): (u32, u32),
    ) -> Result<(), String> {
        let mut command = Command::new(&self.program);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--hide-scrollbars",
        ]);
        command.arg(format!("--user-data-dir={}", self.profile.display()));
        command.arg(format!("--window-size={width},{height}"));
        command.arg(format!("--screenshot={}", picture.display()));
        command.arg(format!("file://{}{search}", page.display()));
        let _ = std::fs::remove_file(picture);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let result = run::run(&mut command, BROWSER_LIMIT);
        let _ = std::fs::remove_dir_all(&self.profile);
        result.map_err(|why| format!("{}: {why}", self.program.display()))?;
        if picture.is_file() {
            Ok(())
        } else {
            Err(format!("the browser left no {}", picture.display()))
        }
    }
}
