//! What the tools of the nightly toolchain need, and what to say where it is missing.
//!
//! None of them runs in CI: they are commands with a stated time. A command whose tool is missing
//! fails, and says how to get it; it never passes in silence.

use crate::run;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A moment: for `--version` and the like.
const MOMENT: Duration = Duration::from_secs(60);

/// Something that must be there before a tool can run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// The nightly toolchain.
    Nightly,
    /// A component of it.
    Component(&'static str),
    /// An add-on of cargo.
    AddOn(&'static str),
    /// A component of the toolchain in use.
    Stable(&'static str),
}

impl Need {
    /// How to get it.
    pub fn how(self) -> String {
        match self {
            Need::Nightly => "rustup toolchain install nightly".to_owned(),
            Need::Component(name) => format!("rustup component add --toolchain nightly {name}"),
            Need::Stable(name) => format!("rustup component add {name}"),
            Need::AddOn(name) => format!("cargo install --locked cargo-{name}"),
        }
    }

    /// Whether it is there.
    pub fn is_there(self) -> bool {
        let installed = |toolchain: &[&str], name: &str| {
            let mut command = Command::new("rustup");
            command.args(["component", "list", "--installed"]).args(toolchain);
            run::capture(&mut command, MOMENT).is_some_and(|list| {
                // `llvm-tools-x86_64-unknown-linux-gnu`, and `rust-src` as it is.
                list.lines().any(|line| line == name || line.starts_with(&format!("{name}-")))
            })
        };
        match self {
            Need::Nightly => {
                run::capture(Command::new("cargo").args(["+nightly", "--version"]), MOMENT)
                    .is_some()
            }
            Need::Component(name) => installed(&["--toolchain", "nightly"], name),
            Need::Stable(name) => installed(&[], name),
            Need::AddOn(name) => {
                run::capture(run::cargo().args([name, "--version"]), MOMENT).is_some()
            }
        }
    }
}

/// Whether all of `needs` are there; says what is not, and how to get it.
pub fn are_there(tool: &str, needs: &[Need]) -> bool {
    let missing: Vec<Need> = needs.iter().copied().filter(|need| !need.is_there()).collect();
    for need in &missing {
        println!("{tool} needs what is missing here: run `{}`", need.how());
    }
    missing.is_empty()
}

/// `cargo +nightly` in the workspace, with a directory of its own for what it builds: flags differ.
pub fn cargo(root: &Path, tool: &str) -> Command {
    // The proxy's `cargo`: that which runs us is of one toolchain.
    let mut command = Command::new("cargo");
    command.arg("+nightly").current_dir(root).env_remove("CARGO").env_remove("RUSTC");
    command.env_remove("RUSTUP_TOOLCHAIN");
    command.env("CARGO_TARGET_DIR", run::target_dir(root).join(tool));
    command
}

/// The flag under which the planted bugs are built.
pub const CANARY: &str = "--cfg canary";

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is missing is said, with the command that brings it, and nothing is run.
    #[test]
    fn what_is_missing_is_told_with_the_command_that_brings_it() {
        assert!(!are_there("a test", &[Need::AddOn("no-such-add-on-anywhere")]));
        assert!(!are_there("a test", &[Need::Component("no-such-component")]));
        assert!(are_there("a test", &[]));
        assert_eq!(Need::AddOn("fuzz").how(), "cargo install --locked cargo-fuzz");
        assert_eq!(Need::Component("miri").how(), "rustup component add --toolchain nightly miri");
    }
}
