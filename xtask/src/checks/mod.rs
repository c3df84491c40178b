//! The checks that keep our claims true: each a pure function to findings, in a file of its own.
//!
//! | check | what it keeps true |
//! |---|---|
//! | [`imports`] | the crates import each other in one order |
//! | [`unsafe_places`] | unsafe code lives in named places, with proofs, and is counted |
//! | [`docs`] | a path, link, command or symbol that a document names exists |
//! | [`parity`] | each service of Linux's that we claim has a test |
//! | [`tidy`] | files stay short, begin with their story, and hold no leftovers |

mod docs;
mod imports;
mod parity;
mod tidy;
mod unsafe_places;

use crate::repo::{Finding, Repo};
use clap::ValueEnum;
pub use imports::metadata;
use std::path::Path;

/// A check, by the name it has in `cargo xtask check NAME`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Check {
    /// The import order of the crates.
    Imports,
    /// Where unsafe code may live, its proofs, and its census in SAFETY.md.
    UnsafePlaces,
    /// Paths, links, commands and symbols in the documents exist.
    Docs,
    /// The tests that the table of Linux's services names exist.
    Parity,
    /// File length, leftovers, machine paths, module stories.
    Tidy,
}

/// Every check, in the order in which CI runs them.
pub const ALL: [Check; 5] =
    [Check::Imports, Check::UnsafePlaces, Check::Docs, Check::Parity, Check::Tidy];

impl Check {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Check::Imports => "imports",
            Check::UnsafePlaces => "unsafe-places",
            Check::Docs => "docs",
            Check::Parity => "parity",
            Check::Tidy => "tidy",
        }
    }
}

/// What a check found, and what it could not look at.
#[derive(Default)]
pub struct Report {
    /// Empty if the check passes.
    pub findings: Vec<Finding>,
    /// What was skipped, why, and how to get it.
    pub skipped: Vec<String>,
}

/// Runs one check on the work tree.
///
/// # Errors
///
/// Why it could not run, in words.
pub fn run(check: Check, root: &Path) -> Result<Report, String> {
    let repo = Repo::load(root);
    let report = match check {
        Check::Imports => {
            Report { findings: imports::check(&imports::metadata(root)?)?, skipped: vec![] }
        }
        Check::UnsafePlaces => Report { findings: unsafe_places::check(&repo), skipped: vec![] },
        Check::Docs => {
            let mut report = docs::check(&repo, &docs::Built::new(root));
            match docs::commits::history(root) {
                Some(history) => report.findings.extend(docs::commits::check(&repo, &history)),
                None => report.skipped.push("commits in the documents: no whole history".into()),
            }
            report
        }
        Check::Parity => Report { findings: parity::check(&repo), skipped: vec![] },
        Check::Tidy => Report { findings: tidy::check(&repo), skipped: vec![] },
    };
    Ok(report)
}

/// Runs one check and prints what it says. Whether it passed.
pub fn run_and_print(check: Check, root: &Path) -> bool {
    let name = check.name();
    match run(check, root) {
        Err(why) => {
            println!("{name}: could not run: {why}");
            false
        }
        Ok(Report { findings, skipped }) => {
            for finding in &findings {
                println!("{finding}");
            }
            for skip in skipped {
                println!("skipped: {skip}");
            }
            match findings.len() {
                0 => println!("{name}: ok"),
                count => println!("{name}: {count} wrong"),
            }
            findings.is_empty()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the name we print is the name that the command line takes.
    #[test]
    fn printed_names_are_the_names_on_the_command_line() {
        for check in ALL {
            assert_eq!(Check::from_str(check.name(), false), Ok(check));
        }
        assert_eq!(ALL.len(), Check::value_variants().len());
    }
}
