//! `top` as a user has it: printed, in a pipe, and live in a terminal of 80 by 24.

mod common;

use common::{Place, VMALLOC, command, noise, refused, skip, text, until, vmalloc};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use vmalloc::Pool;

#[test]
fn top_once_prints_every_area_and_takes_no_slot() {
    let place = Place::with_pool("top", "4M");
    let tokens: Vec<String> = (0..30).map(|i| place.put(&noise(5000 + i, 1))).collect();
    let shown = text(vmalloc(&["top", place.str(), "--once", "--sort", "size"]));
    for part in ["L live 0 bytes  F frozen 240 KiB", "0 members", "30 areas by size"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    for token in &tokens {
        assert!(shown.contains(&format!(" {token} put\n")) || shown.ends_with(" put"), "{shown}");
    }
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    assert_eq!(place.info()["members"], serde_json::json!([]));

    let some = text(vmalloc(&["top", place.str(), "--once", "--filter", &tokens[3]]));
    assert!(some.contains("1 area by address") && some.contains(&tokens[3]), "{some}");
    let over = text(vmalloc(&["top", place.str(), "--once", "--interval", "0.1"]));
    assert!(over.contains("alloc 0  revived 0  free 0") && over.contains("(over 0."), "{over}");
}

#[test]
fn top_says_what_it_cannot_watch() {
    let missing = Place::new("none");
    assert!(
        refused(vmalloc(&["top", missing.str(), "--once"]), 1).contains("there is no /dev/shm")
    );
    for wrong in [&["--interval", "0"][..], &["--interval", "x"], &["--sort", "weight"]] {
        refused(vmalloc(&[&["top", missing.str()][..], wrong].concat()), 2);
    }
    // Without a name it must be the only one.
    let (one, two) = (Place::with_pool("one", "1M"), Place::with_pool("two", "1M"));
    let message = refused(vmalloc(&["top", "--once"]), 1);
    assert!(message.contains("pools, say which: "), "{message}");
    assert!(message.contains(one.str()) && message.contains(two.str()), "{message}");
}

/// Goal: a pipe gets one look after the other, no control characters, until nobody reads.
#[test]
fn top_into_a_pipe_prints_look_after_look() {
    let pool = Pool::options().name("piped").create(1 << 20).unwrap();
    let path = pool.share_path();
    let mut top = command(&["top", path.to_str().unwrap(), "--interval", "0.1"]).spawn().unwrap();
    let mut lines = BufReader::new(top.stdout.take().unwrap()).lines().map_while(Result::ok);
    let looks: Vec<String> = lines.by_ref().filter(|l| l.starts_with("pool ")).take(3).collect();
    assert_eq!(looks.len(), 3);
    assert!(looks.iter().all(|line| !line.contains('\x1b')), "{looks:?}");
    drop(lines);
    assert_eq!(until("it notices", || top.try_wait().unwrap(), || ()).code(), Some(0));
}

/// A server of tmux that is ours alone, with one window of 80 by 24.
struct Tmux(String);

impl Tmux {
    fn start(name: &str, shell: &str) -> Option<Tmux> {
        let tmux = Tmux(format!("vmalloc-{name}-{}", std::process::id()));
        let size = ["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", shell];
        tmux.run(&size)?;
        Some(tmux)
    }

    fn run(&self, args: &[&str]) -> Option<String> {
        let mut tmux = Command::new("tmux");
        tmux.args(["-L", &self.0]).args(args).stdin(Stdio::null()).stderr(Stdio::null());
        let output = tmux.env("LC_ALL", "C.UTF-8").output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until the screen, colours and all, holds `part`; the screen.
    fn wait_for(&self, part: &str) -> String {
        let look = || self.run(&["capture-pane", "-p", "-e"]).filter(|shown| shown.contains(part));
        let at_last = || eprintln!("{part:?}: {:?}", self.run(&["capture-pane", "-p"]));
        until("the screen shows it", look, at_last)
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

/// Whether a foreground is set; `39` is the terminal's own.
fn is_coloured(shown: &str) -> bool {
    let codes = shown.split("\x1b[").skip(1).filter_map(|rest| rest.split_once('m'));
    codes.flat_map(|(codes, _)| codes.split(';')).any(|code| code != "39" && code.starts_with('3'))
}

/// Goal: the live view on a terminal: it draws, obeys keys, leaves with the terminal as it was.
/// Method: tmux of 80 by 24 with NO_COLOR, a live pool that changes under the look.
#[test]
fn top_is_used_in_a_terminal_without_colour() {
    let pool = Pool::options().name("tmux").create(1 << 20).unwrap();
    let bufs = [4096, 65_536].map(|bytes| pool.vmalloc(bytes).unwrap());
    let path = pool.share_path();
    let shell = format!(
        "echo before; NO_COLOR=1 '{VMALLOC}' top {} --interval 0.1; echo \"left with $?\"; sleep 60",
        path.display()
    );
    let Some(tmux) = Tmux::start("top", &shell) else {
        return skip("top in a terminal", "needs the program tmux");
    };
    let first = tmux.wait_for("2 areas by address");
    assert!(!is_coloured(&first) && !first.contains("before"), "{first:?}");
    tmux.wait_for("q leave");
    let frozen = bufs.map(|buf| buf.freeze().unwrap());
    tmux.wait_for("frozen");
    tmux.run(&[
        "send-keys",
        "/",
        "64",
        "BSpace",
        "BSpace",
        &frozen[1].token().to_string(),
        "Enter",
    ]);
    tmux.wait_for("1 area by address, with");
    tmux.run(&["send-keys", "Enter"]);
    tmux.wait_for("16 pages and 1 of guard");
    tmux.run(&["send-keys", "q"]);
    let after = tmux.wait_for("left with 0");
    assert!(after.contains("before") && !after.contains("areas by"), "{after:?}");
}

/// Goal: without a name, in a terminal, several pools are a list to choose from. Method: tmux; two
/// pools of ours, whatever others there are; down to the second of them, Enter, and its view.
#[test]
fn top_without_a_name_asks_which_pool() {
    let (_one, two) = (Place::with_pool("pick-1", "1M"), Place::with_pool("pick-2", "3M"));
    let shell = format!("'{VMALLOC}' top --interval 0.1; echo \"left with $?\"; sleep 60");
    let Some(tmux) = Tmux::start("pick", &shell) else {
        return skip("top's list of pools", "needs the program tmux");
    };
    tmux.wait_for("which one?");
    let id = two.info()["id"].as_str().unwrap().to_owned();
    tmux.wait_for(&id);
    // Other tests' pools come and go: one step at a time, until the mark is at ours.
    let is_marked = || {
        let shown = tmux.run(&["capture-pane", "-p"])?;
        if shown.lines().any(|line| line.starts_with(&format!("> {id}"))) {
            return Some(());
        }
        tmux.run(&["send-keys", "Down"]);
        None
    };
    until("ours is marked", is_marked, || ());
    tmux.run(&["send-keys", "Enter"]);
    tmux.wait_for("0 areas by address");
    tmux.wait_for(two.str());
    tmux.run(&["send-keys", "q"]);
    tmux.wait_for("left with 0");
}
