//! `cargo xtask docs`: runs every command that the documents show, as a reader would type it.
//!
//! The shell blocks of a document are one session of bash in an empty folder, so that a pool that
//! the first block makes is there for the second, and `token=$(…)` is kept. What is not run says
//! why, in a comment on the line before its block, and `cargo xtask check docs` insists on it:
//!
//! ```text
//!   <!-- not run: an hour -->
//! ```
//!
//! In a block with prompts (`$ `), every line between them must be among what was printed; `…`
//! stands for what is left out. Four things are done to a session: `cargo run` runs the program that was built; a path below
//! `/dev/shm` gets a prefix of this run; `vmalloc top` looks once, for nobody is there to leave it;
//! and what has `sudo` is run by root alone, and told as skipped by others.

use crate::markdown;
use crate::repo::Repo;
use crate::run::{self, Profile};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long all documents together may take.
const LIMIT: Duration = Duration::from_secs(90);
/// Before a line that says what was skipped.
const SKIPPED: &str = "skipped: ";

/// The words of bash around a session.
const PRELUDE: &str = r#"
exec 2>&1
trap 'code=$?; set +e; kill $(jobs -p) 2>/dev/null; [ $code = 0 ] || echo "line $line: exit code $code"; exit $code' EXIT
cargo() { while [ "$#" -gt 0 ] && [ "$1" != -- ]; do shift; done; [ "$#" = 0 ] || shift; vmalloc "$@"; }
sudo() { if [ "$(id -u)" = 0 ]; then "$@"; else echo "skipped: line $line: $*: run as root"; fi; }
"#;

/// Stands before the program on the `PATH`. `exec`, so that `$!` is the program's.
const WRAPPER: &str = r#"#!/bin/sh
case "$*" in top*--once*) ;; top*) set -- "$@" --once ;; esac
exec "$VMALLOC_PROGRAM" "$@"
"#;

/// What is wrong with a command of a block that is to be run: one finding, if any.
pub fn cannot_run(command: &str) -> Option<String> {
    let mut words = command.split_whitespace().skip_while(|word| word.contains('='));
    let is_other_cargo = words.next() == Some("cargo") && words.next() != Some("run");
    let why = if is_other_cargo {
        "builds"
    } else if command.split(" #").next().is_some_and(|command| command.contains('…')) {
        "has an ellipsis, which nobody can type"
    } else {
        return None;
    };
    Some(format!(
        "`{command}` {why}: `cargo xtask docs` would run it; write it so that it can be run, or put \
         `<!-- not run: why -->` on the line before its block"
    ))
}

/// A document's session.
struct Session {
    path: String,
    commands: Vec<(usize, String)>,
    /// Lines that must be among what the commands print.
    shown: Vec<(usize, String)>,
}

/// Runs the commands of every document. What was skipped.
///
/// # Errors
///
/// Which command of which document failed, after its output was printed.
pub fn run_all(root: &Path) -> Result<Vec<String>, String> {
    let vmalloc = run::build_vmalloc(root, Profile::Debug)?;
    let stage = Stage::new(&vmalloc, &run::target_dir(root).join("docs-run"));
    let deadline = Instant::now() + LIMIT;
    let mut skipped = Vec::new();
    for session in sessions(&Repo::load(root)) {
        let start = Instant::now();
        let left = deadline.saturating_duration_since(start);
        skipped.extend(stage.play(&session, left)?);
        let (path, count) = (&session.path, session.commands.len());
        println!("{path}: {count} commands ok, {:.1} s", start.elapsed().as_secs_f64());
    }
    Ok(skipped)
}

/// Runs all and prints what came of it. Whether all is well.
pub fn run_and_print(root: &Path) -> bool {
    match run_all(root) {
        Ok(skipped) => skipped.iter().for_each(|skip| println!("{SKIPPED}{skip}")),
        Err(why) => {
            println!("docs: {why}");
            return false;
        }
    }
    true
}

/// The sessions of the documents that have any.
fn sessions(repo: &Repo) -> Vec<Session> {
    let session = |(path, text): (&str, &str)| {
        let mut session = Session { path: path.to_owned(), commands: vec![], shown: vec![] };
        for block in markdown::shell_blocks(text) {
            if block.not_run.is_none() {
                session.commands.extend(block.commands);
                session.shown.extend(block.shown);
            }
        }
        session
    };
    let all = repo.files(".md").map(session);
    all.filter(|session| !session.commands.is_empty()).collect()
}

/// Where sessions are played.
struct Stage {
    vmalloc: PathBuf,
    folder: PathBuf,
    /// What stands in place of `/dev/shm/`.
    shm: String,
}

impl Stage {
    fn new(vmalloc: &Path, folder: &Path) -> Stage {
        let shm = format!("/dev/shm/vmalloc-docs-{}-", std::process::id());
        Stage { vmalloc: vmalloc.to_owned(), folder: folder.to_owned(), shm }
    }

    /// Plays one session in an empty folder; what it skipped.
    fn play(&self, session: &Session, limit: Duration) -> Result<Vec<String>, String> {
        let folder = self.folder.join(session.path.replace('/', "-"));
        // Of an earlier run, if that was killed.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let bin = self.wrapper().map_err(|e| format!("{}: {e}", self.folder.display()))?;
        let mut path = bin.into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-euo", "pipefail", "-c", &self.script(session)]);
        bash.current_dir(&folder).env("PATH", path).env("TERM", "dumb");
        bash.env("VMALLOC_PROGRAM", &self.vmalloc);
        let mut printed = Vec::new();
        let result = run::run_lines(&mut bash, limit, |line| printed.push(line.to_owned()));
        self.clear(&folder);
        if let Err(why) = result {
            let tail = &printed[printed.len().saturating_sub(40)..];
            return Err(format!("{}: {why}\n{}", session.path, tail.join("\n")));
        }
        for (line, text) in &session.shown {
            // As it stands in a document of ours: without the blanks at both ends.
            if !printed.iter().any(|printed| printed.trim() == text) {
                let all = printed.join("\n");
                return Err(format!("{}:{line}: nothing printed {text:?}\n{all}", session.path));
            }
        }
        let skips = printed.iter().filter_map(|line| line.strip_prefix(SKIPPED));
        Ok(skips.map(|skip| format!("{}: {skip}", session.path)).collect())
    }

    /// The folder with the wrapper, for the front of the `PATH`.
    fn wrapper(&self) -> std::io::Result<PathBuf> {
        let bin = self.folder.join("bin");
        std::fs::create_dir_all(&bin)?;
        std::fs::write(bin.join("vmalloc"), WRAPPER)?;
        std::fs::set_permissions(bin.join("vmalloc"), std::fs::Permissions::from_mode(0o755))?;
        Ok(bin)
    }

    fn script(&self, session: &Session) -> String {
        let mut script = PRELUDE.to_owned();
        for (line, command) in &session.commands {
            let command = command.replace("/dev/shm/", &self.shm);
            script += &format!("line={line}\n{command}\n");
        }
        script
    }

    /// Removes the folder, and the pools that the session left.
    fn clear(&self, folder: &Path) {
        let _ = std::fs::remove_dir_all(folder);
        for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            if entry.path().to_string_lossy().starts_with(&self.shm) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    fn play(name: &str, text: &str, limit: Duration) -> Result<Vec<String>, String> {
        let folder =
            std::env::temp_dir().join(format!("vmalloc-docs-run-{}-{name}", std::process::id()));
        let stage = Stage::new(&folder.join("vmalloc"), &folder);
        let sessions = sessions(&Repo::of(&[("docs/a.md", text)]));
        let result = sessions
            .iter()
            .map(|session| stage.play(session, limit))
            .collect::<Result<Vec<_>, _>>();
        assert!(!folder.join("docs-a.md").exists());
        let _ = std::fs::remove_dir_all(folder);
        result.map(|skips| skips.concat())
    }

    /// Goal: blocks are one session: files, variables and background jobs go on from one to the
    /// next; what is marked is not run.
    #[test]
    fn blocks_of_a_document_are_one_session() {
        let text = "```sh\nword=$(echo one)\necho $word > file\nsleep 600 &\n```\nprose\n\
                    <!-- not run: an hour -->\n```sh\nfalse\n```\n```console\n$ test $(cat file) = one && echo said\n\
                    said\n$ kill $!\n```\n";
        assert_eq!(play("session", text, SOON), Ok(vec![]));
    }

    /// Goal: a command that fails is an error that has its line and what it said, also at the
    /// beginning of a pipe; and so is one that does not end.
    #[test]
    fn a_command_that_fails_is_told_by_its_line() {
        let why = play("fails", "# T\n\n```sh\ntrue\nsh -c 'echo said; exit 3' | cat\n```\n", SOON)
            .unwrap_err();
        assert!(why.contains("line 5: exit code 3") && why.contains("said"), "{why}");
        let why = play("hangs", "```sh\nsleep 600\n```\n", Duration::from_millis(300)).unwrap_err();
        assert!(why.starts_with("docs/a.md: it did not end"), "{why}");
    }

    /// Goal: a document that shows what a command does not print is wrong.
    #[test]
    fn what_a_document_shows_must_be_printed() {
        let text =
            |word: &str| format!("```console\n$ printf '  a b\\nc\\n'\na b\n…\n{word}\n```\n");
        assert_eq!(play("shown", &text("c"), SOON), Ok(vec![]));
        let why = play("not-shown", &text("d"), SOON).unwrap_err();
        assert!(why.starts_with("docs/a.md:5: nothing printed \"d\""), "{why}");
    }

    /// Goal: a pool of the reader's own, under the name that a document uses, is left alone.
    #[test]
    fn paths_in_shm_are_those_of_this_run() {
        let stage = Stage::new(Path::new("/p"), Path::new("/f"));
        let commands = vec![(1, "vmalloc rm /dev/shm/frames".to_owned())];
        let script = stage.script(&Session { path: "a.md".into(), commands, shown: vec![] });
        assert!(
            script.contains("vmalloc rm /dev/shm/vmalloc-docs-")
                && !script.contains("/dev/shm/frames")
        );
    }

    /// Goal: what cannot be run is found before anybody tries.
    #[test]
    fn commands_that_nobody_can_type_or_that_build_are_found() {
        for command in ["cargo xtask test", "A=b cargo test -p x", "vmalloc get p vm1-…"] {
            assert!(
                cannot_run(command).is_some_and(|why| why.contains("not run: why")),
                "{command}"
            );
        }
        for command in
            ["cargo run --release", "cargo run -- demo", "vmalloc list", "A=$(cargo run)"]
        {
            assert_eq!(cannot_run(command), None, "{command}");
        }
    }
}
