//! Unsafe code lives in named places, each block under a numbered proof, and SAFETY.md counts it.
//!
//! Four rules, on the sources without comments and literals:
//!
//! 1. the word `unsafe` stands nowhere but in [`PLACES`];
//! 2. the crate roots in [`FORBIDDING`] forbid it to themselves;
//! 3. directly above the statement of each unsafe block or impl stands a comment that begins with
//!    `SAFETY:` and holds a step `1.`;
//! 4. SAFETY.md has a table row `` | `path` | blocks | why | what would notice | `` for each file that
//!    holds the word, `blocks` is the number of unsafe blocks in it, and the last cell names tests
//!    that exist, cases of the test kernel, or a `cargo xtask` command. (Which commands there are,
//!    the check of the documents knows.)

use super::parity::is_test;
use crate::repo::{Finding, Repo};
use crate::source::Source;
use std::collections::BTreeMap;

/// The files and directories (with `/` at the end) that may hold unsafe code, and what for.
const PLACES: &[(&str, &str)] = &[
    ("kernel/src/arch.rs", "code and memory that the test kernel's cases reach by address"),
    ("kernel/src/arch/", "the test kernel's instructions, registers and traps"),
    ("kernel/src/heap.rs", "the test kernel's heap"),
    ("crates/vmalloc-bare/src/arch/", "the instructions that flush a TLB"),
    ("crates/vmalloc-bare/tests/direct.rs", "a direct map over memory of the heap"),
    ("crates/vmalloc-bare/src/direct.rs", "frames as words, through the direct map"),
    ("crates/vmalloc-bare/src/tlb/lock.rs", "the promise of a lock"),
    ("crates/vmalloc/src/os/", "system calls, and the raw memory of the pool's mapping"),
    ("bench/src/raw.rs", "peers whose interface is raw pointers"),
    ("crates/vmalloc/tests/", "tests that fork, kill, map and read through raw pointers"),
];

/// The crate roots that must forbid unsafe code.
const FORBIDDING: &[&str] = &[
    "crates/vmalloc-core/src/lib.rs",
    "crates/vmalloc-sim/src/lib.rs",
    "crates/vmalloc-cli/src/main.rs",
    "xtask/src/main.rs",
];

/// Where the census stands.
const CENSUS: &str = "SAFETY.md";

/// What in `repo` breaks a rule.
pub fn check(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Path to (blocks, first line that holds the word).
    let mut census: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (path, text) in repo.files(".rs") {
        let source = Source::new(text);
        if FORBIDDING.contains(&path) && !forbids(&source) {
            let what = "this crate holds no unsafe code: begin with `#![forbid(unsafe_code)]`";
            findings.push(Finding::new(path, 1, what));
        }
        let tokens = source.tokens();
        for (index, &(line, _)) in tokens.iter().enumerate().filter(|(_, t)| t.1 == "unsafe") {
            let is_allowed = PLACES.iter().any(|(place, _)| is_in(path, place));
            if !is_allowed {
                let what = "unsafe code outside its places (the list: PLACES in \
                            xtask/src/checks/unsafe_places.rs)";
                findings.push(Finding::new(path, line, what));
            }
            let next = tokens.get(index + 1).map(|t| t.1);
            let entry = census.entry(path).or_insert((0, line));
            entry.0 += usize::from(next == Some("{"));
            if matches!(next, Some("{" | "impl")) && !has_proof(&source, line) {
                let what = "no numbered proof directly above: `// SAFETY:`, then `// 1. …`";
                findings.push(Finding::new(path, line, what));
            }
        }
    }
    compare(repo, &census, &mut findings);
    findings
}

fn is_in(path: &str, place: &str) -> bool {
    path == place || (place.ends_with('/') && path.starts_with(place))
}

/// Whether the crate root says so, or holds nothing yet.
fn forbids(source: &Source) -> bool {
    let code: String = source.code.split_whitespace().collect();
    code.contains("#![forbid(unsafe_code)]") || code.is_empty() || code == "fnmain(){}"
}

/// Whether the comment directly above the statement that spans `line` is a numbered proof.
fn has_proof(source: &Source, line: usize) -> bool {
    let code: Vec<&str> = source.code.lines().map(str::trim).collect();
    let comments: Vec<&str> = source.comments.lines().map(str::trim).collect();
    // Upwards over attributes and the first lines of the same statement.
    let mut above = line - 1;
    while above > 0 {
        let is_same_statement = !code[above - 1].is_empty()
            && (code[above - 1].starts_with("#[")
                || !code[above - 1].ends_with([';', '{', '}', ',']));
        if !is_same_statement {
            break;
        }
        above -= 1;
    }
    let is_comment = |at: &usize| code[*at].is_empty() && comments[*at].starts_with("//");
    let first = (0..above).rev().take_while(is_comment).last().unwrap_or(above);
    let mut steps = comments[first..above]
        .iter()
        .map(|comment| comment.trim_start_matches('/').trim())
        .skip_while(|comment| !comment.starts_with("SAFETY:"));
    steps.any(|step| step.trim_start_matches("SAFETY:").trim().starts_with("1. "))
}

/// Compares the count with the table in SAFETY.md.
fn compare(repo: &Repo, census: &BTreeMap<&str, (usize, usize)>, findings: &mut Vec<Finding>) {
    let Some(text) = repo.text(CENSUS) else {
        if !census.is_empty() {
            let rows: String = census
                .iter()
                .map(|(path, (blocks, _))| format!("\n  | `{path}` | {blocks} | why | `a_test` |"))
                .collect();
            let what = format!("does not exist, but there is unsafe code; its census:{rows}");
            findings.push(Finding::new(CENSUS, 0, what));
        }
        return;
    };
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let Some((path, blocks)) = row(line) else { continue };
        let mut found = |what| findings.push(Finding::new(CENSUS, index + 1, what));
        if rows.insert(path, index + 1).is_some() {
            found(format!("a second row for {path}"));
        }
        if let Err(what) = notices(repo, line) {
            found(format!("{path}: {what}"));
        }
        match census.get(path) {
            None => found(format!("{path} holds no unsafe code: remove the row")),
            Some(&(count, _)) if count != blocks => {
                found(format!("{path} holds {count} unsafe blocks, not {blocks}"));
            }
            Some(_) => {}
        }
    }
    for (path, (blocks, line)) in census {
        if !rows.contains_key(path) {
            let what = format!(
                "not in SAFETY.md: add `` | `{path}` | {blocks} | why | `a_test_that_would_notice` | ``"
            );
            findings.push(Finding::new(path, *line, what));
        }
    }
}

/// Whether the test kernel has a case of that name, which stands alone in a string there.
fn is_kernel_case(repo: &Repo, name: &str) -> bool {
    let case = format!("\"{name}\"");
    repo.files(".rs").any(|(path, text)| path.starts_with("kernel/") && text.contains(&case))
}

/// Whether the last cell of a census row names what would notice a mistake: each name in backticks
/// must be a test, a case of the test kernel, or a command of ours.
fn notices(repo: &Repo, row: &str) -> Result<(), String> {
    let cells: Vec<&str> = row.trim().trim_matches('|').split('|').collect();
    let cell = cells.get(3).copied().unwrap_or_default();
    let named: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
    if named.is_empty() {
        return Err("no test is named that would notice a mistake".to_owned());
    }
    let is_there = |name: &str| {
        name.starts_with("cargo xtask ") || is_test(repo, name) || is_kernel_case(repo, name)
    };
    match named.into_iter().find(|name| !is_there(name)) {
        Some(name) => Err(format!("`{name}` is no test that there is")),
        None => Ok(()),
    }
}

/// The path and the count of a census row: a source file in backticks, then a number.
fn row(line: &str) -> Option<(&str, usize)> {
    let mut cells = line.trim().strip_prefix('|')?.split('|').map(str::trim);
    let path = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
    let blocks = cells.next()?.parse().ok()?;
    path.ends_with(".rs").then_some((path, blocks))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OS: &str = "crates/vmalloc/src/os/mem.rs";
    const PROVEN: &str = "// SAFETY:\n// 1. It is ours.\nunsafe { f() }\n";

    fn found(texts: &[(&str, &str)]) -> Vec<String> {
        check(&Repo::of(texts)).iter().map(Finding::to_string).collect()
    }

    /// The findings for one file in a place for unsafe code, with a census that agrees.
    fn found_in_place(text: &str, blocks: usize) -> Vec<String> {
        found(&[(OS, text), (CENSUS, &format!("| `{OS}` | {blocks} | why | `cargo xtask miri` |"))])
    }

    /// Goal: outside the named places the word alone is a finding, in a test too.
    #[test]
    fn unsafe_outside_its_places_is_found() {
        for text in ["unsafe fn f() {}", "#[cfg(test)]\nmod t { unsafe impl Send for A {} }"] {
            let found = found(&[("crates/vmalloc/src/pool.rs", text)]);
            assert!(found[0].contains("unsafe code outside its places"), "{found:?}");
        }
    }

    /// Goal: the word in comments, literals and longer words is no unsafe code.
    #[test]
    fn the_word_in_comments_and_literals_is_not_code() {
        let text =
            "//! unsafe\n/* unsafe */ const A: &str = \"unsafe {\";\n#[allow(unsafe_code)]\n";
        assert_eq!(found(&[("crates/vmalloc/src/pool.rs", text)]), [""; 0]);
    }

    /// Goal: a crate that must forbid unsafe code and does not is found; an empty one passes.
    #[test]
    fn a_root_that_does_not_forbid_is_found() {
        let root = FORBIDDING[1];
        assert!(found(&[(root, "//! Sim.\npub mod mmu;\n")])[0].contains("forbid(unsafe_code)"));
        assert!(found(&[(root, "//! #![forbid(unsafe_code)]\nmod a;")])[0].contains("forbid"));
        assert_eq!(found(&[(root, "//! placeholder\n")]), [""; 0]);
        assert_eq!(found(&[(root, "#![forbid(unsafe_code)]\npub mod mmu;\n")]), [""; 0]);
    }

    /// Goal: a block needs a proof, numbered, and directly above its statement.
    #[test]
    fn a_block_without_a_numbered_proof_is_found() {
        for text in [
            "unsafe { f() }",
            "// SAFETY: trust me\nunsafe { f() }",
            "// 1. No heading.\nunsafe { f() }",
            "// SAFETY:\n// 1. Too far away.\n\nunsafe { f() }",
            "// SAFETY:\n// 1. Of another statement.\nlet a = 1;\nunsafe { f() }",
            "// SAFETY:\n// 1. Of the block around it.\n{\nunsafe { f() }}",
            "let s = \"// SAFETY: 1. \";\nunsafe { f() }",
            "unsafe impl Send for A {}",
        ] {
            let blocks = usize::from(text.contains("unsafe {"));
            let found = found_in_place(text, blocks);
            assert!(
                found.len() == 1 && found[0].contains("no numbered proof"),
                "{text}: {found:?}"
            );
        }
    }

    /// Goal: the forms that rustfmt makes of a proven block pass.
    #[test]
    fn a_block_with_a_proof_passes_however_it_is_broken() {
        for text in [
            PROVEN,
            "// SAFETY: 1. It is ours.\nlet a = unsafe { f() };",
            "// Why.\n// SAFETY:\n// 1. It is ours.\n#[allow(x)]\nlet a =\n    g(\n    unsafe { f() });",
        ] {
            assert_eq!(found_in_place(text, 1), [""; 0], "{text}");
        }
    }

    /// Goal: SAFETY.md must exist once there is unsafe code, and must agree with it row by row.
    #[test]
    fn a_census_that_differs_is_found() {
        assert!(found(&[(OS, PROVEN)])[0].contains(&format!("| `{OS}` | 1 |")));
        assert!(found_in_place(PROVEN, 2)[0].contains("holds 1 unsafe blocks, not 2"));
        assert!(found(&[(OS, PROVEN), (CENSUS, "# Safety\n")])[0].contains("not in SAFETY.md"));
        let twice = format!(
            "| `{OS}` | 1 | a | `cargo xtask miri` |\n| `{OS}` | 1 | b | `cargo xtask miri` |\n"
        );
        assert!(found(&[(OS, PROVEN), (CENSUS, &twice)])[0].contains("a second row"));
        let gone = "| `crates/vmalloc/src/os/gone.rs` | 3 | why | `cargo xtask asan` |\n";
        assert!(found(&[(CENSUS, gone)])[0].contains("SAFETY.md:1: crates/vmalloc/src/os/gone.rs"));
        assert_eq!(found(&[]), [""; 0]);
    }

    /// Goal: a row that names no test, or one that there is not, is found; a test, a case of the
    /// kernel or a command that there is passes. A function that is no test, and a word that stands
    /// alone in any other string, would notice nothing.
    #[test]
    fn a_row_without_a_test_that_would_notice_is_found() {
        let tested =
            format!("#[test]\nfn a_rule_holds() {{}}\n\nfn a_helper() {{}}\n\"a_word\"\n{PROVEN}");
        let with = |cell: &str| {
            let row = format!("| `{OS}` | 1 | why |{cell}");
            found(&[(OS, &tested), ("kernel/src/cases.rs", "(\"a_case\", f)"), (CENSUS, &row)])
        };
        for good in [" `a_rule_holds` |", " `a_case`, `cargo xtask miri` |"] {
            assert_eq!(with(good), [""; 0], "{good}");
        }
        assert!(with("")[0].contains("no test is named"));
        assert!(with(" a_rule_holds |")[0].contains("no test is named"));
        assert!(with(" `a_rule_hold` |")[0].contains("`a_rule_hold` is no test"));
        assert!(with(" `a_helper` |")[0].contains("`a_helper` is no test"));
        assert!(with(" `a_word` |")[0].contains("`a_word` is no test"));
    }
}
