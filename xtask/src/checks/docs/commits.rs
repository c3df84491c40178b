//! Commits that a document names: a reader can look at what was measured.
//!
//! A figure stands with its commit (`report.rs`). A commit that was put on top of others since has
//! another name, and its old one is nobody's; so each is looked for in the history of what is
//! checked out. Where that history is cut off, or there is no git, nothing is said.

use crate::repo::{Finding, Repo};
use crate::run;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The shortest name that is taken for a commit's.
const NAME_LEN_MIN: usize = 7;

/// The names of the commits that lead to what is checked out at `root`, if all of them are known.
pub fn history(root: &Path) -> Option<BTreeSet<String>> {
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        run::capture(command.args(args).current_dir(root), Duration::from_secs(60))
    };
    let is_whole = git(&["rev-parse", "--is-shallow-repository"])?.trim() == "false";
    let commits = is_whole.then(|| git(&["rev-list", "HEAD"])).flatten()?;
    Some(commits.lines().map(str::to_owned).collect())
}

/// The commits that documents of `repo` name and `history` does not have.
pub fn check(repo: &Repo, history: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repo.files(".md") {
        for (line, words) in (1..).zip(text.lines()) {
            let gone = named(words).filter(|name| !has(history, name));
            findings.extend(gone.map(|name| {
                let what = format!(
                    "commit {name} is not in this history: run it again, on a commit that is"
                );
                Finding::new(path, line, what)
            }));
        }
    }
    findings
}

/// What a line calls a commit: seven hexadecimal digits or more.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("commit ").skip(1).filter_map(|rest| {
        let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let name = &rest[..rest.find(|c| !is_digit(c)).unwrap_or(rest.len())];
        let ends = !rest[name.len()..].starts_with(char::is_alphanumeric);
        (name.len() >= NAME_LEN_MIN && ends).then_some(name)
    })
}

fn has(history: &BTreeSet<String>, name: &str) -> bool {
    history.range(name.to_owned()..).next().is_some_and(|commit| commit.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a commit of this history passes, whole or shortened, also with a `+`; another is
    /// told with its line; what is no commit's name is nobody's claim.
    #[test]
    fn commits_that_are_gone_are_told() {
        let history = BTreeSet::from(["0a1b2c3d4e5f".to_owned(), "ffff000011112222".to_owned()]);
        let text = "at commit 0a1b2c3d4e5f+, commit ffff0000:\n\nof commit 0a1b2c3d4e60, commit defaced-not, commit decade1s, commit it\n";
        let found = check(&Repo::of(&[("docs/a.md", text)]), &history);
        let found: Vec<String> = found.iter().map(Finding::to_string).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("docs/a.md:3: commit 0a1b2c3d4e60 is not"), "{found:?}");
        assert!(found[1].starts_with("docs/a.md:3: commit defaced is not"), "{found:?}");
    }
}
