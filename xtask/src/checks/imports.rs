//! The crates import each other in one order, and heavy peers nowhere but in `bench`.
//!
//! ```text
//!   vmalloc-core ◀─ vmalloc-sim, vmalloc-bare, vmalloc ◀─ vmalloc-cli, -capi, -py
//! ```
//!
//! The order is the table [`ORDER`]; what is true comes from `cargo metadata`.

use crate::repo::Finding;
use crate::run;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// What a crate of ours may import of our crates. To add a crate, add a row.
struct Row {
    name: &'static str,
    /// For the library or program itself, and for its build script.
    may_use: &'static [&'static str],
    /// For tests, examples and benchmarks, beyond `may_use`.
    may_test_with: &'static [&'static str],
    /// Whether crates of other people are welcome.
    others: Others,
}

enum Others {
    /// None: the crate must build where there is nothing.
    No,
    /// But for heavy peers.
    Light,
    /// Heavy peers too: it measures itself beside them.
    All,
}

const CORE: &str = "vmalloc-core";
const SIM: &str = "vmalloc-sim";
const MAIN: &str = "vmalloc";
const BARE: &str = "vmalloc-bare";

#[rustfmt::skip] // A table reads as one row a crate.
const ORDER: &[Row] = &[
    Row { name: CORE, may_use: &[], may_test_with: &[SIM], others: Others::No },
    Row { name: SIM, may_use: &[CORE], may_test_with: &[], others: Others::Light },
    Row { name: BARE, may_use: &[CORE], may_test_with: &[SIM], others: Others::Light },
    Row { name: MAIN, may_use: &[CORE], may_test_with: &[SIM], others: Others::Light },
    Row { name: "vmalloc-cli", may_use: &[CORE, SIM, MAIN], may_test_with: &[], others: Others::Light },
    Row { name: "vmalloc-capi", may_use: &[CORE, MAIN], may_test_with: &[], others: Others::Light },
    Row { name: "vmalloc-py", may_use: &[CORE, MAIN], may_test_with: &[], others: Others::Light },
    Row { name: "bench", may_use: &[CORE, SIM, BARE, MAIN], may_test_with: &[], others: Others::All },
    Row { name: "fuzz", may_use: &[CORE, SIM, BARE, MAIN], may_test_with: &[], others: Others::Light },
    Row { name: "xtask", may_use: &[], may_test_with: &[], others: Others::Light },
];

/// Other allocators, shared-memory middlewares and whole frameworks, by prefix.
const HEAVY: &[&str] = &[
    "boost",
    "dlmalloc",
    "dpdk",
    "iceoryx",
    "jemalloc",
    "mimalloc",
    "libmimalloc",
    "llfree",
    "plasma",
    "rpmalloc",
    "scudo",
    "shared_memory",
    "snmalloc",
    "talc",
    "tcmalloc",
    "tikv-jemalloc",
    "tokio",
    "zenoh",
];

/// What `cargo metadata` says about the workspace.
///
/// # Errors
///
/// That it did not run.
pub fn metadata(root: &Path) -> Result<String, String> {
    let mut command = run::cargo();
    command.args(["metadata", "--no-deps", "--format-version=1"]).current_dir(root);
    run::capture(&mut command, Duration::from_secs(120))
        .ok_or_else(|| "`cargo metadata --no-deps` failed; run it alone to see why".into())
}

/// What in `metadata` is against the order.
///
/// # Errors
///
/// That `metadata` is not what `cargo metadata` prints.
pub fn check(metadata: &str) -> Result<Vec<Finding>, String> {
    let metadata: Value = serde_json::from_str(metadata).map_err(|error| error.to_string())?;
    let root = metadata["workspace_root"].as_str().ok_or("no workspace_root")?;
    let packages = metadata["packages"].as_array().ok_or("no packages")?;
    let ours: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().ok_or("a package without a name")?;
        let manifest = package["manifest_path"].as_str().ok_or("a package without a manifest")?;
        let manifest = manifest.strip_prefix(root).unwrap_or(manifest).trim_start_matches('/');
        let mut found = |what| findings.push(Finding::new(manifest, 0, what));
        let Some(row) = ORDER.iter().find(|row| row.name == name) else {
            found(format!("{name} has no row in the import order (xtask/src/checks/imports.rs)"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().ok_or("a dependency without a name")?;
            let is_dev = dependency["kind"].as_str() == Some("dev");
            if let Some(why) = refusal(row, used, is_dev, ours.contains(&used)) {
                found(why);
            }
        }
    }
    Ok(findings)
}

/// Why the crate of `row` may not use `used`, if it may not.
fn refusal(row: &Row, used: &str, is_dev: bool, is_ours: bool) -> Option<String> {
    let name = row.name;
    if is_ours {
        return match (row.may_use.contains(&used), row.may_test_with.contains(&used)) {
            (true, _) => None,
            (_, true) if is_dev => None,
            (_, true) => Some(format!("{name} may use {used} in dev-dependencies only")),
            _ => Some(format!("{name} may not use {used}: against the import order")),
        };
    }
    let is_heavy = HEAVY.iter().any(|heavy| used.starts_with(heavy));
    match row.others {
        Others::All => None,
        _ if is_heavy => Some(format!("{name} uses {used}: heavy peers belong in bench alone")),
        Others::No if !is_dev => Some(format!("{name} uses {used}: it has no dependencies")),
        Others::No | Others::Light => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The findings for a workspace of all our crates in which `name` depends on `used`.
    fn with(name: &str, used: &str, kind: Option<&str>) -> Vec<String> {
        let packages: Vec<Value> = ORDER
            .iter()
            .map(|row| {
                let dependency = json!({ "name": used, "kind": kind });
                let dependencies = if row.name == name { vec![dependency] } else { vec![] };
                let manifest = format!("/r/{}/Cargo.toml", row.name);
                json!({ "name": row.name, "manifest_path": manifest, "dependencies": dependencies })
            })
            .collect();
        let metadata = json!({ "workspace_root": "/r", "packages": packages });
        check(&metadata.to_string()).unwrap().iter().map(Finding::to_string).collect()
    }

    /// Goal: the edges that the design draws pass.
    #[test]
    fn the_designed_edges_pass() {
        for (name, used, kind) in [
            (SIM, CORE, None),
            (MAIN, CORE, None),
            (MAIN, SIM, Some("dev")),
            (CORE, SIM, Some("dev")),
            (CORE, "proptest", Some("dev")),
            ("vmalloc-cli", MAIN, None),
            ("vmalloc-cli", SIM, None),
            (MAIN, "rustix", None),
            ("bench", "iceoryx2", None),
        ] {
            assert_eq!(with(name, used, kind), [""; 0], "{name} -> {used}");
        }
    }

    /// Goal: every edge against the order fails, and the finding names both ends and the file.
    #[test]
    fn edges_against_the_order_fail() {
        for (name, used, kind) in [
            (CORE, "libc", None),
            (CORE, "cc", Some("build")),
            (CORE, MAIN, Some("dev")),
            (MAIN, SIM, None),
            (SIM, MAIN, None),
            (SIM, "vmalloc-cli", Some("dev")),
            ("bench", "vmalloc-cli", None),
            ("xtask", CORE, None),
            (MAIN, "iceoryx2", Some("dev")),
            ("vmalloc-cli", "mimalloc", None),
        ] {
            let found = with(name, used, kind);
            assert_eq!(found.len(), 1, "{name} -> {used}");
            assert!(found[0].starts_with(&format!("{name}/Cargo.toml: {name} ")), "{found:?}");
            assert!(found[0].contains(used), "{found:?}");
        }
    }

    /// Goal: a crate that nobody placed in the order fails.
    #[test]
    fn a_crate_without_a_row_fails() {
        let package = json!({ "name": "stray", "manifest_path": "/r/s/Cargo.toml" });
        let metadata = json!({ "workspace_root": "/r", "packages": [package] }).to_string();
        assert!(check(&metadata).unwrap()[0].what.starts_with("stray has no row"));
        assert!(check("{}").is_err() && check("no json").is_err());
    }
}
