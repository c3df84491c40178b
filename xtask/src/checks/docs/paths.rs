//! Paths and link targets that a document names.

use crate::repo::Repo;

/// Our top directories, those too that do not exist yet: a document must not name those.
const TOP: &[&str] = &["crates", "docs", "xtask", "kernel", "bench", "fuzz", ".ci", ".cargo"];

/// What is wrong with the span, if it looks like a path of ours and there is no such path.
///
/// A path that begins with a top directory counts from the root or from the document; a bare
/// `name.rs`, or a tail such as `src/lib.rs`, may lie anywhere.
pub fn check_span(span: &str, doc: &str, repo: &Repo) -> Option<String> {
    let span = span.split_once('#').map_or(span, |(path, _)| path);
    let path = span.split_once(".rs:").map_or(span, |(path, _)| &span[..path.len() + 3]);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/*{},".contains(c);
    if path.is_empty() || !path.chars().all(is_plain) || path.starts_with('/') {
        return None;
    }
    let path = path.strip_prefix("./").unwrap_or(path);
    let top = path.split_once('/').map(|(top, _)| top);
    let is_below_top = top.is_some_and(|top| TOP.contains(&top) || (top != ".." && repo.has(top)));
    let stem = [".rs", ".md", ".toml"].iter().find_map(|end| path.strip_suffix(end));
    if !is_below_top && stem.is_none_or(|stem| stem.is_empty()) {
        return None;
    }
    let is_found = |path: &str| {
        let from_doc = resolve(path, doc);
        from_doc.is_some_and(|path| exists(&path, repo, false)) || exists(path, repo, !is_below_top)
    };
    let missing = braces(path).into_iter().find(|path| !is_found(path))?;
    Some(format!("there is no `{missing}` in this repository"))
}

/// What is wrong with a link target, if it is relative and leads nowhere.
pub fn check_link(target: &str, doc: &str, repo: &Repo) -> Option<String> {
    let target = target.trim_matches(['<', '>']);
    if target.starts_with('#') || target.contains(':') || target.is_empty() {
        return None;
    }
    let path = target.split(['#', '?']).next().unwrap_or(target);
    match resolve(path, doc) {
        Some(path) if repo.has(&path) => None,
        _ => Some(format!("the link to {target} leads nowhere")),
    }
}

/// Whether a file or directory matches; `anywhere` allows any directories before it.
fn exists(pattern: &str, repo: &Repo, anywhere: bool) -> bool {
    let pattern: Vec<&str> = pattern.trim_end_matches('/').split('/').collect();
    repo.paths().any(|path| {
        let path: Vec<&str> = path.split('/').collect();
        if path.len() < pattern.len() || (!anywhere && !fits(&pattern, &path)) {
            return false;
        }
        matches(&pattern, &path[path.len() - pattern.len()..])
    })
}

/// Without `**`, a pattern has as many components as the path.
fn fits(pattern: &[&str], path: &[&str]) -> bool {
    match pattern.last() {
        Some(&"**") => path.len() >= pattern.len(),
        _ => path.len() == pattern.len(),
    }
}

/// Component by component; `*` stands for any part of one.
fn matches(pattern: &[&str], path: &[&str]) -> bool {
    pattern.iter().zip(path).all(|(pattern, name)| match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => {
            let end = end.rsplit('*').next().unwrap_or("");
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
    })
}

/// `path` from the directory of `doc`, as a path from the root; `None` if it leaves the root.
fn resolve(path: &str, doc: &str) -> Option<String> {
    let mut parts: Vec<&str> = match path.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => doc.rsplit_once('/').map_or(vec![], |(dir, _)| dir.split('/').collect()),
    };
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop()?;
        } else {
            parts.push(part);
        }
    }
    Some(parts.join("/"))
}

/// `a/{b,c}.rs` is `a/b.rs` and `a/c.rs`.
fn braces(path: &str) -> Vec<String> {
    let split = path.split_once('{').and_then(|(start, rest)| Some((start, rest.split_once('}')?)));
    let Some((start, (inside, end))) = split else { return vec![path.to_owned()] };
    inside.split(',').map(|part| format!("{start}{}{end}", part.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo() -> Repo {
        Repo::of(&[
            ("Cargo.toml", ""),
            ("README.md", ""),
            (".ci/run", ""),
            ("docs/design/lazy.md", ""),
            ("crates/a/src/os/mod.rs", ""),
            ("crates/a/src/engine.rs", ""),
        ])
    }

    /// Goal: a path that exists passes in each form in which a document may write it.
    #[test]
    fn paths_that_exist_pass() {
        for span in [
            ".ci/run",
            "Cargo.toml",
            "crates/a/src/os/",
            "crates/a/src/engine.rs:12",
            "engine.rs",
            "src/engine.rs",
            "crates/*/src",
            "crates/a/src/{engine,os/mod}.rs",
            "./README.md",
            "../README.md",
            "design/lazy.md",
            "crates/**",
        ] {
            assert_eq!(check_span(span, "docs/index.md", &repo()), None, "{span}");
        }
    }

    /// Goal: a path that does not exist is found, below a top directory that does not exist too.
    #[test]
    fn paths_that_do_not_exist_are_found() {
        for span in [
            "crates/a/src/gone.rs",
            "gone.rs",
            "crates/b/",
            "crates/engine.rs",
            "os/gone.rs",
            "bench/",
            "crates/a/src/{engine,gone}.rs",
            "rust-toolchain.toml",
            "docs/gone.md",
            "crates/*/lib",
            "ngine.rs",
            ".ci/go",
        ] {
            let found = check_span(span, "README.md", &repo());
            assert!(found.is_some_and(|what| what.starts_with("there is no `")), "{span}");
        }
    }

    /// Goal: what is no path of this repository is left alone.
    #[test]
    fn other_spans_are_left_alone() {
        for span in [
            "/proc/self/fd",
            "~/.cargo/config.toml",
            "mm/vmalloc.c",
            "purge/parked=4096/cpus=8",
            "a b.rs",
            "*mut u8",
            "std::fs",
            ".rs",
            "and/or",
            "<PATH>.md",
            "vmalloc",
        ] {
            assert_eq!(check_span(span, "README.md", &repo()), None, "{span}");
        }
    }

    /// Goal: relative links resolve from the document; what leads nowhere is found.
    #[test]
    fn links_resolve_from_their_document() {
        let doc = "docs/design/index.md";
        for target in ["lazy.md#why", "../../README.md", "/README.md", "https://x.y", "#here", ".."]
        {
            assert_eq!(check_link(target, doc, &repo()), None, "{target}");
        }
        for target in ["README.md", "gone.md", "../../../README.md", "/gone"] {
            assert!(check_link(target, doc, &repo()).is_some(), "{target}");
        }
    }
}
