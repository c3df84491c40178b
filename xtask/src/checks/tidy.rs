//! Files stay short enough to read, begin with their story, and hold no leftovers.
//!
//! - a file under `crates/*/src/` has at most [`LINES_MAX`] lines, its tests not counted;
//! - every file under a `src/` begins with `//!`;
//! - no leftover words and macros of unfinished work, in code or comments;
//! - no path of the machine on which something was written.

use crate::repo::{Finding, Repo};
use crate::source::{Source, is_word};

/// The most lines a source file may have without its tests.
const LINES_MAX: usize = 500;

/// Words that mark unfinished work, in code or comments.
const WORDS: &[&str] = &["TODO", "FIXME"];

/// Macros that mark unfinished work, in code.
const MACROS: &[&str] = &["todo", "unimplemented", "dbg"];

/// Directories of a machine, not of a reader's. In halves, so that this file passes too.
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// What in `repo` is untidy.
pub fn check(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repo.files("") {
        machine_paths(path, text, &mut findings);
        if path.ends_with(".rs") {
            source(path, text, &mut findings);
        } else if path.ends_with(".toml") || path.starts_with(".ci/") {
            leftover_words(path, text, &mut findings);
        }
    }
    findings
}

fn machine_paths(path: &str, text: &str, findings: &mut Vec<Finding>) {
    for (index, line) in text.lines().enumerate() {
        for machine_path in MACHINE_PATHS {
            let is_absolute = |(at, _): (usize, &str)| {
                !line[..at].ends_with(|c| is_word(c) || matches!(c, '.' | '-' | '/' | '*' | '}'))
            };
            if line.match_indices(machine_path).any(is_absolute) {
                let what = format!("{machine_path} is a path of one machine");
                findings.push(Finding::new(path, index + 1, what));
            }
        }
    }
}

fn source(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let source = Source::new(text);
    if path.contains("src/") && !text.starts_with("//!") {
        findings.push(Finding::new(path, 1, "begins without its story (`//! …`)"));
    }
    let is_test_file = path.ends_with("/tests.rs") || path.contains("/tests/");
    if path.starts_with("crates/") && path.contains("/src/") && !is_test_file {
        let count = source.test_lines().iter().filter(|is_test| !**is_test).count();
        if count > LINES_MAX {
            let what = format!("{count} lines without its tests; {LINES_MAX} are the most: split");
            findings.push(Finding::new(path, 0, what));
        }
    }
    leftover_words(path, &source.comments, findings);
    leftover_words(path, &source.code, findings);
    let tokens = source.tokens();
    for pair in tokens.windows(3) {
        let (line, name) = pair[0];
        if MACROS.contains(&name) && pair[1].1 == "!" && matches!(pair[2].1, "(" | "[" | "{") {
            findings.push(Finding::new(path, line, format!("{name}! is left over")));
        }
    }
}

fn leftover_words(path: &str, text: &str, findings: &mut Vec<Finding>) {
    for (index, line) in text.lines().enumerate() {
        for word in line.split(|c| !is_word(c)).filter(|word| WORDS.contains(word)) {
            let what = format!("{word} is left over: do it, or open an issue");
            findings.push(Finding::new(path, index + 1, what));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str = "crates/a/src/lib.rs";

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&Repo::of(&[(path, text)])).iter().map(Finding::to_string).collect()
    }

    fn lines(count: usize) -> String {
        "//! Story.\n".to_owned() + &"fn f() {}\n".repeat(count - 1)
    }

    /// Goal: one line too many is found; a long test module, a test file and our tools are free.
    #[test]
    fn a_long_file_is_found_but_not_its_tests() {
        assert_eq!(found(LIB, &lines(500)), [""; 0]);
        assert!(found(LIB, &lines(501))[0].starts_with("crates/a/src/lib.rs: 501 lines"));
        let tests = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", lines(499), "\n".repeat(900));
        assert_eq!(found(LIB, &tests), [""; 0]);
        assert_eq!(found("crates/a/tests/long.rs", &lines(900)), [""; 0]);
        assert_eq!(found("crates/a/src/b/tests.rs", &lines(900)), [""; 0]);
    }

    /// Goal: leftovers are found in code and comments, and not in literals or longer words.
    #[test]
    fn leftovers_are_found() {
        for left in ["// TODO: later", "/* FIXME */", "fn f() { todo!() }", "let x = dbg!(1);"] {
            assert_eq!(found(LIB, &format!("//! Story.\n{left}\n")).len(), 1, "{left}");
        }
        assert_eq!(found("a/Cargo.toml", "# TODO\n").len(), 1);
        let fine = "//! Story.\nconst A: &str = \"TODO\"; fn todo() { todo() } // TODOS\n";
        assert_eq!(found(LIB, fine), [""; 0]);
    }

    /// Goal: a path of this machine is found in any file, in literals too; a relative one is not.
    #[test]
    fn machine_paths_are_found_anywhere() {
        for machine_path in MACHINE_PATHS {
            let text = format!("//! Story.\nconst A: &str = \"{machine_path}x\";\n");
            assert_eq!(found(LIB, &text).len(), 1);
            assert_eq!(found("README.md", &format!("see {machine_path}main")).len(), 1);
            assert_eq!(found("README.md", &format!("see a{machine_path}main")), [""; 0]);
        }
    }

    /// Goal: a source that begins with code, or with a plain comment, is found.
    #[test]
    fn a_source_without_its_story_is_found() {
        assert_eq!(
            found(LIB, "// Not a story.\n"),
            ["crates/a/src/lib.rs:1: begins without its story (`//! …`)"]
        );
        assert_eq!(found("xtask/src/a.rs", "use std::fmt;\n").len(), 1);
        assert_eq!(found("crates/a/tests/a.rs", "use std::fmt;\n"), [""; 0]);
    }
}
