//! Figures in a page, written by the run that found them.
//!
//! ```text
//!   <!-- NAME: begin -->
//!   … replaced by each run with `--report PAGE` …
//!   <!-- NAME: end -->
//! ```
//!
//! So that nobody types a figure, and each stands with its command and its commit.

use crate::run;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Puts `body` between the marks `name` of `page`, a file under `root`.
///
/// # Errors
///
/// That the page cannot be read or written, or has no such marks.
pub fn write(root: &Path, page: &str, name: &str, body: &str) -> Result<(), String> {
    edit(root, page, name, |_| body.to_owned())
}

/// As [`write()`], with what `body` makes of what stands there.
///
/// # Errors
///
/// As [`write()`].
pub fn edit(
    root: &Path,
    page: &str,
    name: &str,
    body: impl FnOnce(&str) -> String,
) -> Result<(), String> {
    let path = root.join(page);
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{page}: {error}"))?;
    let text = replaced(&text, name, body).ok_or(format!("{page} has no marks named {name}"))?;
    std::fs::write(&path, text).map_err(|error| format!("{page}: {error}"))
}

fn replaced(text: &str, name: &str, body: impl FnOnce(&str) -> String) -> Option<String> {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let from = text.find(&begin)? + begin.len();
    let to = from + text[from..].find(&end)?;
    let body = body(&text[from..to]);
    Some(format!("{}\n{}\n\n{}", &text[..from], body.trim(), &text[to..]))
}

/// The last commit of `main` that is checked out, or below what is: one of a branch may yet be put on top
/// of others, under another name. A `+` behind it means that files under `paths` differ from it.
pub fn commit(root: &Path, paths: &[&str]) -> String {
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        run::capture(command.args(args).current_dir(root), Duration::from_secs(60))
    };
    let base = git(&["merge-base", "HEAD", "main"]).or_else(|| git(&["rev-parse", "HEAD"]));
    let Some(base) = base else { return "unknown".into() };
    let base = base.trim();
    let is_new = git(&[&["ls-files", "--others", "--exclude-standard", "--"], paths].concat())
        .is_none_or(|files| !files.trim().is_empty());
    let differs = is_new || git(&[&["diff", "--quiet", base, "--"], paths].concat()).is_none();
    format!("{}{}", &base[..base.len().min(12)], if differs { "+" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::replaced;

    /// Goal: a run replaces what the last one wrote, and nothing else of the page.
    #[test]
    fn a_block_is_replaced_between_its_marks() {
        let page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n";
        let new = |old: &str| old.replace("old", "new");
        let once = replaced(page, "x", new).unwrap();
        assert_eq!(once, "a\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nb\n");
        assert_eq!(replaced(&once, "x", new).unwrap(), once);
        assert_eq!(replaced(page, "y", new), None);
    }
}
