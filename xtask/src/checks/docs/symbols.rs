//! Rust symbols that a document names: `Type::method`, `module::item`, `function()`.
//!
//! A symbol passes if each of its segments is defined somewhere in our sources; whether one is
//! defined *inside* the other is for rustdoc to say.

use crate::repo::Repo;
use crate::source::{Source, closing, is_word};
use std::collections::BTreeSet;

/// Where a path is not ours: crates, then types and modules of the standard library.
const STRANGERS: &[&str] = &[
    "std",
    "core",
    "alloc",
    "libc",
    "rustix",
    "clap",
    "serde_json",
    "proptest",
    "loom",
    "Arc",
    "AtomicBool",
    "AtomicU32",
    "AtomicU64",
    "AtomicUsize",
    "Box",
    "Cell",
    "Command",
    "Duration",
    "File",
    "HashMap",
    "BTreeMap",
    "Instant",
    "Iterator",
    "Mutex",
    "NonNull",
    "Option",
    "Ordering",
    "OwnedFd",
    "Path",
    "PathBuf",
    "Rc",
    "Result",
    "Some",
    "String",
    "UnixStream",
    "Vec",
    "fmt",
    "io",
    "mem",
    "ptr",
    "process",
    "slice",
    "str",
    "thread",
    "u8",
    "u16",
    "u32",
    "u64",
    "usize",
];

/// Everything that our sources define.
pub struct Symbols {
    defined: BTreeSet<String>,
}

impl Symbols {
    /// The definitions in the Rust files of `repo`, and the names of its crates.
    pub fn of(repo: &Repo) -> Symbols {
        let mut defined: BTreeSet<String> =
            repo.packages().iter().map(|name| name.replace('-', "_")).collect();
        for (_, text) in repo.files(".rs") {
            let source = Source::new(text);
            let words: Vec<&str> = source.tokens().into_iter().map(|(_, word)| word).collect();
            collect(&words, &mut defined);
        }
        Symbols { defined }
    }

    /// What is wrong with the span, if it is a symbol and nothing of ours has its name.
    pub fn check(&self, span: &str) -> Option<String> {
        let missing = segments(span)?.into_iter().find(|name| !self.defined.contains(*name))?;
        let hint = if span.contains("::") { "" } else { "; for a system call, write `name(2)`" };
        Some(format!("`{span}`: nothing in the sources is called `{missing}`{hint}"))
    }
}

/// The names to look up, if the span is a symbol that claims to be ours.
fn segments(span: &str) -> Option<Vec<&str>> {
    let head = span.split('(').next()?;
    let call = &span[head.len()..];
    if !call.is_empty() && !call.ends_with(')') {
        return None;
    }
    let path: Vec<&str> = head.trim_start_matches('&').split("::").collect();
    let is_name = |name: &str| {
        name.chars().all(is_word) && name.starts_with(|c: char| c == '_' || c.is_alphabetic())
    };
    if path.len() == 1 && call == "()" {
        // `f()`, or `buf.freeze()`: the receiver is a variable.
        let names: Vec<&str> = path[0].split('.').collect();
        return names.iter().all(|name| is_name(name)).then(|| names[names.len() - 1..].to_vec());
    }
    if path.len() == 1 || !path.iter().all(|name| is_name(name)) || STRANGERS.contains(&path[0]) {
        return None;
    }
    let is_relative = |name: &&str| !matches!(*name, "crate" | "self" | "super" | "Self");
    Some(path.into_iter().filter(is_relative).collect())
}

/// Adds what the code defines: items, variants, fields.
fn collect(words: &[&str], defined: &mut BTreeSet<String>) {
    for (at, pair) in words.windows(2).enumerate() {
        let name = match pair {
            ["const" | "static", "mut" | "fn" | "unsafe" | "extern" | "{"] => continue,
            ["macro_rules", "!"] => words.get(at + 2).copied().unwrap_or(""),
            [
                "fn" | "struct" | "enum" | "union" | "trait" | "const" | "static" | "type" | "mod",
                name,
            ] => name,
            _ => continue,
        };
        defined.insert(name.to_owned());
        if matches!(pair[0], "enum" | "struct" | "union") {
            let body = (at..words.len()).find(|&i| matches!(words[i], "{" | "(" | ";"));
            if let Some(open) = body.filter(|&open| words[open] == "{") {
                members(&words[open..=closing(words, open)], defined);
            }
        }
    }
}

/// Adds the variants or fields between the braces that `body` begins and ends with.
fn members(body: &[&str], defined: &mut BTreeSet<String>) {
    let mut at = 1;
    while at < body.len() {
        match body[at] {
            "#" => at = closing(body, at + 1) + 1,
            "pub" if body.get(at + 1) == Some(&"(") => at = closing(body, at + 1) + 1,
            "pub" => at += 1,
            name => {
                if name.chars().all(is_word) {
                    defined.insert(name.to_owned());
                }
                // To the comma that ends this member; those inside `<…>` add a word too many.
                while at < body.len() && body[at] != "," {
                    let is_open = matches!(body[at], "{" | "(" | "[");
                    at = if is_open { closing(body, at) + 1 } else { at + 1 };
                }
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "
        //! pub fn only_in_a_comment() {}
        pub mod holes;
        pub struct Pool { pub(crate) fd: Map<u8, u8>, #[doc = \"x\"] pub base: [u8; 2] }
        #[derive(Debug)]
        pub enum TakeError { /// doc
            NoHole { wanted: u64 }, #[non_exhaustive] BadAlign(u8, u8), Full = 3 }
        impl Pool { pub const fn open(x: u8) -> Pool { \"fn not_this() {}\" } const MAX: u8 = 1; }
        macro_rules! verb { () => {} }
    ";

    fn symbols() -> Symbols {
        Symbols::of(&Repo::of(&[
            ("crates/a/src/lib.rs", CODE),
            ("crates/a/Cargo.toml", "[package]\nname = \"vmalloc-core\"\n"),
        ]))
    }

    /// Goal: whatever is defined passes, however a document writes it.
    #[test]
    fn symbols_that_exist_pass() {
        for span in [
            "Pool::open",
            "Pool::open(path)",
            "open()",
            "pool.open()",
            "TakeError::NoHole",
            "TakeError::BadAlign",
            "TakeError::Full",
            "vmalloc_core::holes",
            "crate::holes::verb",
            "Pool::MAX",
            "Pool::base",
            "Pool::fd",
            "&Pool::open",
        ] {
            assert_eq!(symbols().check(span), None, "{span}");
        }
    }

    /// Goal: what is defined nowhere is found, and so is what stands only in a comment or string.
    #[test]
    fn symbols_that_do_not_exist_are_found() {
        for span in [
            "Pool::close",
            "Gone::open",
            "gone()",
            "pool.gone()",
            "holes::Holes",
            "TakeError::Gone",
            "only_in_a_comment()",
            "not_this()",
            "crate::gone",
        ] {
            let found = symbols().check(span);
            assert!(found.is_some_and(|what| what.contains("nothing in the sources")), "{span}");
        }
    }

    /// Goal: what is not ours, or no symbol, is left alone.
    #[test]
    fn other_spans_are_left_alone() {
        for span in [
            "std::mem::forget",
            "Arc::new",
            "mmap(2)",
            "vmalloc_to_pfn",
            "Vec<u8>",
            "a::<b>",
            "f(x",
            "MADV_POPULATE_READ",
            "()",
            "::",
            "a + b",
            "#[must_use]",
            "--flag",
            "1::2",
        ] {
            assert_eq!(symbols().check(span), None, "{span}");
        }
    }
}
