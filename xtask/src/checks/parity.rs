//! Every row of `docs/linux-parity.md` that claims a service names a test, and the test exists.
//!
//! A row is `| Linux | ours | test | what differs |`. In the third column stand test names in
//! backticks; each must be a function of that name in the sources, with `#[test]` above it or in
//! the list of the conformance suite. A row that claims nothing yet says `none` there and says in
//! its fourth column why.

use crate::repo::{Finding, Repo};

const TABLE: &str = "docs/linux-parity.md";

/// The rows of the table that name no test, or one that does not exist.
pub fn check(repo: &Repo) -> Vec<Finding> {
    let Some(text) = repo.text(TABLE) else { return Vec::new() };
    let rows = text.lines().enumerate().filter(|(_, line)| is_row(line));
    rows.flat_map(|(index, line)| {
        row(repo, line).into_iter().map(move |what| Finding::new(TABLE, index + 1, what))
    })
    .collect()
}

fn is_row(line: &str) -> bool {
    let is_rule = line.chars().all(|c| matches!(c, '|' | '-' | ' ' | ':'));
    line.starts_with('|') && !is_rule && !line.starts_with("| Linux ")
}

/// What is wrong with one row.
fn row(repo: &Repo, line: &str) -> Vec<String> {
    let columns: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [linux, _, tests, differs] = columns[..] else {
        return vec![format!("a row has four columns, this one {}", columns.len())];
    };
    if tests == "none" {
        let unexplained = differs.is_empty().then(|| format!("{linux}: no test, and no reason"));
        return unexplained.into_iter().collect();
    }
    let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
    if names.is_empty() {
        return vec![format!("{linux}: names no test in backticks")];
    }
    let missing = names.into_iter().filter(|name| !is_test(repo, name));
    missing.map(|name| format!("{linux}: there is no test {name}")).collect()
}

/// Whether a function of that name has `#[test]` among its attributes, or is a rule of the
/// conformance suite, whose list makes tests of them.
pub(super) fn is_test(repo: &Repo, name: &str) -> bool {
    let (function, rule) = (format!("fn {name}("), format!(": {name};"));
    repo.files(".rs").any(|(path, text)| {
        path.contains("conformance") && text.contains(&rule)
            || text.match_indices(&function).any(|(at, _)| {
                text[..at].rsplit("\n\n").next().is_some_and(|above| above.contains("#[test]"))
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(row: &str) -> Vec<String> {
        let table =
            format!("# Table\n\n| Linux | ours | test | differs |\n|---|---|---|---|\n{row}\n");
        let source = "#[test]\nfn a_real_test() {}\n\nfn no_test() {}\n";
        let repo = Repo::of(&[(TABLE, &table), ("crates/x/tests/t.rs", source)]);
        check(&repo).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_row_whose_test_exists_passes() {
        assert!(found("| `vmalloc` | `Engine::vmalloc` | `a_real_test` | nothing |").is_empty());
    }

    #[test]
    fn a_row_that_names_what_is_no_test_is_found() {
        for bad in ["`missing`", "`no_test`", "a_real_test", "`a_real_test` `missing`", ""] {
            assert_eq!(found(&format!("| `vmalloc` | ours | {bad} | x |")).len(), 1, "{bad}");
        }
    }

    #[test]
    fn a_row_without_a_test_needs_a_reason() {
        assert_eq!(found("| `vmap_pfn` | no | none | |").len(), 1);
        assert!(found("| `vmap_pfn` | no | none | not yet built |").is_empty());
    }
}
