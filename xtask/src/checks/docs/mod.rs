//! What a document names exists: paths, links, commands with their flags, symbols.
//!
//! ```text
//!   markdown ─▶ span  ─┬─ `cargo …`, `vmalloc …` ─▶ commands
//!                      ├─ `crates/…`, `*.rs`     ─▶ paths
//!                      └─ `Type::method`, `f()`  ─▶ symbols
//!              link ───────────────────────────────▶ paths
//!              commit 0123456789ab ────────────────▶ commits
//!              shell line ─────────────────────────▶ commands; and `docs_run` can run it
//! ```
//!
//! A span that is none of these is nobody's claim about this repository, and passes. To write
//! about what is not ours: `mmap(2)` for a system call, `std::mem` with its crate in front.

mod commands;
pub mod commits;
mod paths;
mod symbols;

use crate::checks::Report;
use crate::docs_run;
use crate::markdown::{self, Mention};
use crate::repo::{Finding, Repo};

pub use commands::Built;
use commands::Help;

/// What in the documents of `repo` names nothing. `help` answers for the command `vmalloc`.
pub fn check(repo: &Repo, help: &dyn Help) -> Report {
    let symbols = symbols::Symbols::of(repo);
    let commands = commands::Commands::new(repo, help);
    let mut report = Report::default();
    for (path, text) in repo.files(".md") {
        let blocks = markdown::shell_blocks(text).into_iter();
        for (line, command) in
            blocks.filter(|block| block.not_run.is_none()).flat_map(|block| block.commands)
        {
            let wrong = docs_run::cannot_run(&command);
            report.findings.extend(wrong.map(|what| Finding::new(path, line, what)));
        }
        for (line, mention) in markdown::mentions(text) {
            let wrong = match &mention {
                Mention::Link(target) => paths::check_link(target, path, repo),
                Mention::Shell(command) => commands.check(command),
                Mention::Span(span) if commands::is_command(span) => commands.check(span),
                Mention::Span(span) => {
                    paths::check_span(span, path, repo).or_else(|| symbols.check(span))
                }
            };
            report.findings.extend(wrong.map(|what| Finding::new(path, line, what)));
        }
    }
    if commands.has_skipped() {
        report.skipped.push(
            "commands `vmalloc …` in the documents: `vmalloc --help` prints nothing; \
             write the command (crates/vmalloc-cli), then run `cargo xtask check docs`"
                .into(),
        );
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `vmalloc` that knows nothing yet.
    struct Silent;
    impl Help for Silent {
        fn vmalloc(&self, _: &str) -> Option<String> {
            None
        }
    }

    /// Goal: each kind of mention reaches its check, and a finding names file and line.
    #[test]
    fn each_kind_of_mention_is_checked() {
        let text = "# A\n\n`crates/gone.rs` [b](gone.md) `gone()`\n\n<!-- not run: no -->\n```sh\ncargo gone\n```\n";
        let report = check(&Repo::of(&[("docs/a.md", text)]), &Silent);
        let found: Vec<String> = report.findings.iter().map(Finding::to_string).collect();
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[..3].iter().all(|finding| finding.starts_with("docs/a.md:3: ")));
        assert!(found[3].starts_with("docs/a.md:7: ") && found[3].contains("gone"));
        assert!(report.skipped.is_empty());
    }

    /// Goal: while the command says nothing, what documents say of it is skipped, and told.
    #[test]
    fn commands_of_a_silent_program_are_skipped_and_told() {
        let report = check(&Repo::of(&[("README.md", "`vmalloc demo --pool 1G`\n")]), &Silent);
        assert!(report.findings.is_empty());
        assert!(report.skipped[0].contains("prints nothing"));
    }
}
