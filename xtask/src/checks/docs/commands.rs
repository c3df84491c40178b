//! Command lines that a document names: `cargo …`, `cargo xtask …`, `vmalloc …`.
//!
//! `cargo xtask` is asked through its own clap definition, `vmalloc` through its `--help`, which
//! is built and run. Words in capitals, `<…>` and `…` are for the reader to fill in, and pass.

use crate::cli::Cli;
use crate::repo::Repo;
use crate::run;
use clap::CommandFactory as _;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The package whose program is `vmalloc`, and what `cargo run` runs.
const CLI: &str = "vmalloc-cli";

/// Commands of cargo, and of the add-ons that our documents may tell a reader to install.
const CARGO: &[&str] = &[
    "add",
    "bench",
    "build",
    "check",
    "clean",
    "clippy",
    "doc",
    "fetch",
    "fix",
    "fmt",
    "fuzz",
    "help",
    "init",
    "install",
    "llvm-cov",
    "metadata",
    "miri",
    "mutants",
    "new",
    "nextest",
    "package",
    "publish",
    "remove",
    "run",
    "rustc",
    "rustdoc",
    "search",
    "semver-checks",
    "test",
    "tree",
    "uninstall",
    "update",
    "vendor",
    "version",
    "xtask",
];

/// The time that building and asking `vmalloc --help` may take.
const HELP_LIMIT: Duration = Duration::from_secs(600);

/// What the program `vmalloc` says about itself.
pub trait Help {
    /// What `vmalloc SUB --help` prints (`""`: `vmalloc --help`), if anything.
    fn vmalloc(&self, sub: &str) -> Option<String>;
}

/// The program of this work tree, built when first asked.
pub struct Built {
    root: PathBuf,
    asked: RefCell<BTreeMap<String, Option<String>>>,
}

impl Built {
    /// The program of the work tree at `root`.
    pub fn new(root: &Path) -> Built {
        Built { root: root.to_owned(), asked: RefCell::default() }
    }
}

impl Help for Built {
    fn vmalloc(&self, sub: &str) -> Option<String> {
        let ask = || {
            let mut command = run::cargo();
            command.args(["run", "--quiet", "--package", CLI, "--bin", "vmalloc", "--"]);
            command.args(sub.split_whitespace()).arg("--help").current_dir(&self.root);
            run::capture(&mut command, HELP_LIMIT).filter(|printed| !printed.trim().is_empty())
        };
        self.asked.borrow_mut().entry(sub.to_owned()).or_insert_with(ask).clone()
    }
}

/// Checks command lines against `repo` and what the programs say.
pub struct Commands<'a> {
    repo: &'a Repo,
    help: &'a dyn Help,
    has_skipped: Cell<bool>,
}

/// Whether a code span is a command line of ours, and not just the name of the program.
pub fn is_command(span: &str) -> bool {
    let mut words = span.split_whitespace().skip_while(|word| is_assignment(word));
    let program = words.next();
    let starts =
        |word: &str| word.starts_with(|c: char| c.is_ascii_lowercase() || "-<[+".contains(c));
    match (program, words.next()) {
        (Some("cargo"), Some(next)) => starts(next),
        (Some("vmalloc"), Some(next)) => starts(next) && next != "+",
        _ => false,
    }
}

impl<'a> Commands<'a> {
    /// A check against `repo`, with `help` for `vmalloc`.
    pub fn new(repo: &'a Repo, help: &'a dyn Help) -> Commands<'a> {
        Commands { repo, help, has_skipped: Cell::new(false) }
    }

    /// Whether some command could not be checked, for `vmalloc` says nothing.
    pub fn has_skipped(&self) -> bool {
        self.has_skipped.get()
    }

    /// What is wrong with a line of shell, if it calls cargo or vmalloc.
    pub fn check(&self, line: &str) -> Option<String> {
        let line = line.replace("$(", " ; ").replace([')', '`', '"', '\''], " ");
        let mut words: Vec<&str> = Vec::new();
        let ends = ["|", "||", "&&", ";", "&"];
        for word in line.split_whitespace().chain([";"]) {
            if word.starts_with('#') {
                return self.check_one(&words);
            }
            let (word, is_end) = match word.strip_suffix(';') {
                Some(word) => (word, true),
                None => (word, ends.contains(&word)),
            };
            if !word.is_empty() && !ends.contains(&word) {
                words.push(word);
            }
            if is_end {
                if let Some(wrong) = self.check_one(&words) {
                    return Some(wrong);
                }
                words.clear();
            }
        }
        None
    }

    fn check_one(&self, words: &[&str]) -> Option<String> {
        let is_prefix =
            |word: &&&str| is_assignment(word) || ["sudo", "time", "exec"].contains(*word);
        let prefix_len = words.iter().take_while(is_prefix).count();
        match words[prefix_len..] {
            ["cargo", ref rest @ ..] => self.cargo(rest),
            ["vmalloc", ref rest @ ..] => self.vmalloc(rest),
            _ => None,
        }
    }

    fn cargo(&self, words: &[&str]) -> Option<String> {
        let words = match words {
            [toolchain, rest @ ..] if toolchain.starts_with('+') => rest,
            _ => words,
        };
        let [sub, rest @ ..] = words else { return None };
        if *sub == "xtask" {
            return xtask(rest);
        }
        if sub.starts_with('-') || is_blank(sub) {
            return None;
        }
        if !CARGO.contains(sub) {
            return Some(format!("`cargo {sub}` is no command that we know"));
        }
        if matches!(*sub, "install" | "add" | "search") {
            return self.option(rest, &["--path"], "path", |path| self.repo.has(path));
        }
        let ours_len = rest.iter().position(|word| *word == "--").unwrap_or(rest.len());
        let (options, program) = rest.split_at(ours_len);
        let packages = self.repo.packages();
        let has_file = |dir: &str, name: &str| {
            let (file, main) = (format!("/{dir}/{name}.rs"), format!("/{dir}/{name}/main.rs"));
            self.repo.paths().any(|path| path.ends_with(&file) || path.ends_with(&main))
        };
        let wrong = self
            .option(options, &["-p", "--package"], "package", |name| packages.contains(&name))
            .or_else(|| self.option(options, &["--test"], "test", |name| has_file("tests", name)))
            .or_else(|| {
                self.option(options, &["--example"], "example", |name| has_file("examples", name))
            })
            .or_else(|| {
                self.option(options, &["--bench"], "benchmark", |name| has_file("benches", name))
            });
        if wrong.is_some() || *sub != "run" || program.is_empty() {
            return wrong;
        }
        // `cargo run -- …` runs the default member.
        match option_value(options, &["-p", "--package"]) {
            None | Some(CLI) if option_value(options, &["--example"]).is_none() => {
                self.vmalloc(&program[1..])
            }
            Some("xtask") => xtask(&program[1..]),
            _ => None,
        }
    }

    /// What is wrong with the value of an option, if it is there.
    fn option(
        &self,
        words: &[&str],
        names: &[&str],
        what: &str,
        exists: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let value = option_value(words, names)?;
        (!is_blank(value) && !exists(value)).then(|| format!("there is no {what} {value} here"))
    }

    fn vmalloc(&self, words: &[&str]) -> Option<String> {
        if let Some(at) = words.iter().position(|word| *word == "--") {
            // Behind it stands a command line of its own, as in `vmalloc record -- PROGRAM`.
            return self.vmalloc(&words[..at]).or_else(|| self.check_one(&words[at + 1..]));
        }
        let Some(main) = self.help.vmalloc("") else {
            self.has_skipped.set(true);
            return None;
        };
        let (sub, rest) = match words {
            [] => return None,
            [sub, rest @ ..] if sub.starts_with(|c: char| c.is_ascii_lowercase()) => (*sub, rest),
            _ => ("", words),
        };
        let mut help = main;
        if !sub.is_empty() {
            let is_listed =
                help.lines().any(|line| line.starts_with(' ') && first_word(line) == sub);
            match self.help.vmalloc(sub) {
                Some(own) if is_listed => help = own,
                _ => return Some(format!("`vmalloc {sub}`: `vmalloc --help` lists no `{sub}`")),
            }
        }
        let known: Vec<&str> =
            help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).collect();
        let missing = long_flags(rest).find(|flag| !known.contains(flag))?;
        let sub = if sub.is_empty() { String::new() } else { format!(" {sub}") };
        Some(format!("`vmalloc{sub}` has no flag `{missing}`"))
    }
}

/// What is wrong with the arguments of `cargo xtask`.
fn xtask(words: &[&str]) -> Option<String> {
    let cli = Cli::command();
    let [name, rest @ ..] = words else { return None };
    if is_blank(name) || ["help", "--help", "-h"].contains(name) {
        return None;
    }
    let Some(sub) = cli.get_subcommands().find(|sub| sub.get_name() == *name) else {
        return Some(format!("`cargo xtask {name}`: there is no such task"));
    };
    let known = |flag: &str| sub.get_arguments().any(|arg| arg.get_long() == Some(&flag[2..]));
    if let Some(flag) = long_flags(rest).find(|flag| *flag != "--help" && !known(flag)) {
        return Some(format!("`cargo xtask {name}` has no flag `{flag}`"));
    }
    let takes_value = |flag: &str| {
        flag.starts_with("--")
            && sub
                .get_arguments()
                .any(|arg| arg.get_long() == Some(&flag[2..]) && arg.get_action().takes_values())
    };
    let is_value = |at: usize| at > 0 && takes_value(rest[at - 1]);
    let values = rest.iter().enumerate().filter(|(at, _)| !is_value(*at)).map(|(_, word)| word);
    let values = values.filter(|word| !word.starts_with('-') && !is_blank(word));
    let takes: Vec<_> = sub.get_positionals().flat_map(|arg| arg.get_possible_values()).collect();
    if sub.get_positionals().next().is_some() && takes.is_empty() {
        // Any word will do: the task itself says what it does not know.
        return None;
    }
    let is_taken = |word: &str| takes.iter().any(|value| value.get_name() == word);
    let wrong = values.into_iter().find(|word| !is_taken(word))?;
    Some(format!("`cargo xtask {name}` does not take `{wrong}`"))
}

/// The value after one of `names`, as `--name value` or `--name=value`.
fn option_value<'a>(words: &[&'a str], names: &[&str]) -> Option<&'a str> {
    words.iter().enumerate().find_map(|(at, word)| match word.split_once('=') {
        Some((name, value)) if names.contains(&name) => Some(value),
        None if names.contains(word) => words.get(at + 1).copied(),
        _ => None,
    })
}

/// The long flags among `words`, without brackets and values.
fn long_flags<'a>(words: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    words
        .iter()
        .map(|word| word.trim_matches(['[', ']', '(', ')', ',', '.']))
        .filter_map(|word| word.split(['=', '[']).next())
        .filter(|word| word.len() > 2 && word.starts_with("--"))
}

fn first_word(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or("").trim_end_matches([',', ':'])
}

/// Whether the reader is to fill this in.
fn is_blank(word: &str) -> bool {
    word.starts_with(['<', '[', '…', '$', '.'])
        || word.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c == '|' || c == '…')
}

/// Whether `word` sets a variable for the command after it.
fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `vmalloc` with two subcommands.
    struct Two;
    impl Help for Two {
        fn vmalloc(&self, sub: &str) -> Option<String> {
            let main =
                "Usage: vmalloc\n\n  demo    shows gone things\n  put     puts\n  --seed N\n";
            match sub {
                "" => Some(main.into()),
                "demo" => Some("  --pool <SIZE>   the pool\n  --members=N".into()),
                "put" => Some("put PATH FILE".into()),
                // As a program that prints its own help for any word would.
                _ => Some(main.into()),
            }
        }
    }

    fn check(line: &str) -> Option<String> {
        let repo = Repo::of(&[
            ("crates/vmalloc-cli/Cargo.toml", "[package]\nname = \"vmalloc-cli\"\n"),
            ("crates/vmalloc/tests/share.rs", ""),
            ("xtask/Cargo.toml", "[package]\nname = \"xtask\"\n"),
        ]);
        Commands::new(&repo, &Two).check(line)
    }

    /// Goal: commands that exist pass, with blanks, pipes, variables and comments around them.
    #[test]
    fn commands_that_exist_pass() {
        for line in [
            "cargo xtask",
            "cargo xtask test",
            "cargo xtask check docs",
            "cargo xtask check NAME",
            "cargo xtask simulate --for 300s --seed 7",
            "cargo xtask check <name>",
            "cargo run --release",
            "cargo run -- demo --pool 64M",
            "cargo test -p vmalloc-cli --test share -- --nocapture",
            "cargo +nightly miri test",
            "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps",
            "cargo install --path crates/vmalloc-cli",
            "vmalloc",
            "vmalloc --seed 3",
            "vmalloc demo [--pool 256M] [--members 3]",
            "TOKEN=$(vmalloc put /dev/shm/p file); vmalloc put p f | sha256sum # cargo gone",
            "cd x && cargo build --workspace",
            "cargo run -p xtask -- ci",
            "vmalloc put PATH FILE",
            "vmalloc put -- vmalloc demo --pool 3",
            "ls --gone",
            "vmalloc …",
        ] {
            assert_eq!(check(line), None, "{line}");
        }
    }

    /// Goal: a command, flag, check, package or test that does not exist is found.
    #[test]
    fn commands_that_do_not_exist_are_found() {
        for line in [
            "cargo xtask gone",
            "cargo xtask check gone",
            "cargo xtask test --gone",
            "cargo xtask simulate 300s",
            "cargo gone",
            "cargo xtask ci gone",
            "cargo test -p gone",
            "cargo test --test gone",
            "cargo install --path crates/gone",
            "cargo run -- gone",
            "cargo run --release -- --gone",
            "cargo run -p xtask -- gone",
            "vmalloc gone",
            "vmalloc shows",
            "vmalloc demo --gone",
            "vmalloc put --pool 3",
            "vmalloc put -- vmalloc gone",
            "vmalloc --gone",
            "ls && vmalloc gone",
            "X=$(vmalloc gone) y",
            "cargo run --example gone",
            "sudo vmalloc gone; ls",
        ] {
            assert!(check(line).is_some(), "{line}");
        }
    }

    /// Goal: the name of the program in prose is no command line.
    #[test]
    fn names_alone_are_no_commands() {
        for span in
            ["vmalloc", "vmalloc + vfree", "cargo", "vmalloc 0.1", "Cargo.toml", "x vmalloc"]
        {
            assert!(!is_command(span), "{span}");
        }
        for span in ["vmalloc demo", "vmalloc --json", "cargo test", "A=b cargo test"] {
            assert!(is_command(span), "{span}");
        }
    }
}
