//! `cargo xtask publish`: whether the crates that are meant for others are ready for them. It
//! publishes nothing.
//!
//! ```text
//!   manifests  each says what crates.io and its readers ask for           quick, a CI step
//!   licences   cargo-deny, by deny.toml: licences, sources, versions      quick, a CI step
//!   packages   each is built from its archive alone
//!   advisories cargo-deny, with a fresh copy of the RustSec database
//!   msrv       the stated minimum Rust builds them with the features of users
//!   semver     cargo-semver-checks against the last tag `v…`
//! ```
//!
//! What needs a tool that is missing, or the network, is skipped and told, with the way to get it.

use crate::checks::metadata;
use crate::nightly::Need;
use crate::repo::Finding;
use crate::run;
use crate::suite::{FEATURES, Tally};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What `cargo xtask publish` takes.
#[derive(clap::Args)]
pub struct Options {
    /// Only what takes less than a minute.
    #[arg(long)]
    quick: bool,
}

/// What crates.io shows at most of each.
const WORDS_MAX: usize = 5;

type Part = (&'static str, fn(&Path, &mut Tally) -> Result<(), String>);

const QUICK: [Part; 2] = [("manifests", manifests), ("licences", licences)];
const SLOW: [Part; 4] =
    [("packages", packages), ("advisories", advisories), ("msrv", msrv), ("semver", semver)];

/// Runs the parts, each whatever the others said. Whether none failed.
pub fn run(root: &Path, options: &Options) -> bool {
    let slow: &[Part] = if options.quick { &[] } else { &SLOW };
    let mut tally = Tally::default();
    let mut is_ok = true;
    for (name, part) in QUICK.iter().chain(slow) {
        println!("── {name}");
        let before = tally.skips();
        match part(root, &mut tally) {
            Ok(()) if tally.skips() > before => println!("{name}: skipped"),
            Ok(()) => println!("{name}: ok"),
            Err(why) => {
                println!("{name}: {why}");
                is_ok = false;
            }
        }
    }
    tally.print_skips();
    is_ok
}

/// The quick parts, for CI.
///
/// # Errors
///
/// Which part failed, and why.
pub fn run_quick(root: &Path, tally: &mut Tally) -> Result<(), String> {
    QUICK.iter().try_for_each(|(name, part)| part(root, tally).map_err(|e| format!("{name}: {e}")))
}

fn manifests(root: &Path, _: &mut Tally) -> Result<(), String> {
    let findings = wrong(&metadata(root)?, &|path| Path::new(path).is_file())?;
    findings.iter().for_each(|finding| println!("{finding}"));
    if findings.is_empty() { Ok(()) } else { Err(format!("{} wrong", findings.len())) }
}

/// What the manifests of the published crates lack.
fn wrong(metadata: &str, is_file: &dyn Fn(&str) -> bool) -> Result<Vec<Finding>, String> {
    let metadata: Value = serde_json::from_str(metadata).map_err(|error| error.to_string())?;
    let packages = metadata["packages"].as_array().ok_or("no packages")?;
    let root = metadata["workspace_root"].as_str().ok_or("no workspace_root")?;
    let mut findings = Vec::new();
    let mut published = 0;
    for package in packages.iter().filter(|package| is_published(package)) {
        published += 1;
        let manifest = package["manifest_path"].as_str().ok_or("a package without a manifest")?;
        let folder = manifest.strip_suffix("Cargo.toml").unwrap_or(manifest);
        let shown = manifest.strip_prefix(root).unwrap_or(manifest).trim_start_matches('/');
        let mut found = |what: String| findings.push(Finding::new(shown, 0, what));
        for field in ["description", "license", "rust_version", "readme"] {
            if package[field].as_str().is_none_or(str::is_empty) {
                found(format!("no {}", field.replace('_', "-")));
            }
        }
        for field in ["keywords", "categories"] {
            let count = package[field].as_array().map_or(0, Vec::len);
            if !(1..=WORDS_MAX).contains(&count) {
                found(format!("{count} {field}: 1 to {WORDS_MAX} are shown"));
            }
        }
        let readme = package["readme"].as_str().unwrap_or("README.md");
        for file in [readme, "LICENSE-MIT", "LICENSE-APACHE"] {
            if !is_file(&format!("{folder}{file}")) {
                found(format!("no file {file} beside it"));
            }
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let (name, version) = (dependency["name"].as_str(), dependency["req"].as_str());
            if version.is_none_or(|version| version == "*") {
                found(format!("{} has no version", name.unwrap_or("a dependency")));
            }
        }
    }
    if published == 0 {
        return Err("no crate is to be published".to_owned());
    }
    Ok(findings)
}

/// Whether a package may go to a registry: `publish = false` is an empty list.
fn is_published(package: &Value) -> bool {
    package["publish"].as_array().is_none_or(|registries| !registries.is_empty())
}

fn packages(root: &Path, _: &mut Tally) -> Result<(), String> {
    let mut package = run::cargo();
    // What is not committed is packaged, too: this is asked before the commit.
    package.args(["package", "--workspace", "--exclude", "xtask", "--allow-dirty"]);
    // A folder of its own each time: cargo keeps what it once unpacked of a registry in that place,
    // and would build against the crates of an earlier run.
    let target = run::target_dir(root).join(format!("packages-{}", std::process::id()));
    package.arg("--target-dir").arg(&target);
    let built = run::run(package.current_dir(root), Duration::from_secs(30 * 60));
    let removed =
        std::fs::remove_dir_all(&target).map_err(|e| format!("{}: {e}", target.display()));
    built.and(removed)
}

fn licences(root: &Path, tally: &mut Tally) -> Result<(), String> {
    if !has("deny", tally, "licences, sources and versions") {
        return Ok(());
    }
    let mut deny = run::cargo();
    deny.args(["deny", "--log-level", "error", "check", "licenses", "bans", "sources"]);
    run::run(deny.current_dir(root), Duration::from_secs(5 * 60))
}

fn advisories(root: &Path, tally: &mut Tally) -> Result<(), String> {
    if !has("deny", tally, "advisories") {
        return Ok(());
    }
    let mut fetch = run::cargo();
    fetch.args(["deny", "--log-level", "error", "fetch", "db"]).current_dir(root);
    if let Err(why) = run::run(&mut fetch, Duration::from_secs(2 * 60)) {
        tally.skip(format!("advisories: the RustSec database was not reached ({why}); go online"));
        return Ok(());
    }
    let mut deny = run::cargo();
    deny.args(["deny", "--log-level", "error", "check", "--disable-fetch", "advisories"]);
    run::run(deny.current_dir(root), Duration::from_secs(5 * 60))
}

fn msrv(root: &Path, tally: &mut Tally) -> Result<(), String> {
    let stated = stated_rust(&metadata(root)?)?;
    let toolchain = format!("{stated}.0");
    let mut version = Command::new("rustup");
    version.args(["run", &toolchain, "cargo", "--version"]);
    if run::capture(&mut version, Duration::from_secs(60)).is_none() {
        let how = format!("`rustup toolchain install {toolchain} --profile minimal`");
        tally.skip(format!("the minimum Rust {stated}: run {how}"));
        return Ok(());
    }
    let mut check = Command::new("rustup");
    check.args(["run", &toolchain, "cargo", "check", "--workspace", "--exclude", "xtask"]);
    check.args(["--features", FEATURES, "--target-dir"]).arg(run::target_dir(root).join("msrv"));
    // Ours is another toolchain's, and would be asked first.
    check.env_remove("RUSTC").env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    run::run(check.current_dir(root), Duration::from_secs(20 * 60))
}

/// The Rust version that every published crate states.
fn stated_rust(metadata: &str) -> Result<String, String> {
    let metadata: Value = serde_json::from_str(metadata).map_err(|error| error.to_string())?;
    let packages = metadata["packages"].as_array().ok_or("no packages")?;
    let mut stated: Vec<&str> =
        packages.iter().filter_map(|package| package["rust_version"].as_str()).collect();
    stated.dedup();
    match stated[..] {
        [one] => Ok(one.to_owned()),
        _ => Err(format!("the crates state more than one Rust, or none: {stated:?}")),
    }
}

fn semver(root: &Path, tally: &mut Tally) -> Result<(), String> {
    let mut tag = Command::new("git");
    tag.args(["describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"]).current_dir(root);
    let Some(tag) = run::capture(&mut tag, Duration::from_secs(60)) else {
        tally.skip(
            "semver: nothing was released yet; from the first tag `v0.1.0` on it is compared",
        );
        return Ok(());
    };
    if !has("semver-checks", tally, "semver") {
        return Ok(());
    }
    let mut check = run::cargo();
    check.args(["semver-checks", "--workspace", "--exclude", "xtask", "--exclude", "vmalloc-cli"]);
    check.args(["--baseline-rev", tag.trim()]).current_dir(root);
    run::run(&mut check, Duration::from_secs(30 * 60))
}

/// Whether cargo has this subcommand; tells how to get it if not.
fn has(subcommand: &'static str, tally: &mut Tally, what: &str) -> bool {
    let need = Need::AddOn(subcommand);
    let is_there = need.is_there();
    if !is_there {
        tally.skip(format!("{what}: run `{}`", need.how()));
    }
    is_there
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A manifest with nothing wrong, as `cargo metadata` tells it.
    fn good() -> Value {
        json!({
            "name": "a", "manifest_path": "/r/a/Cargo.toml", "description": "d", "license": "MIT",
            "rust_version": "1.95", "readme": "README.md", "keywords": ["k"], "categories": ["c"],
            "publish": null, "dependencies": [{ "name": "b", "req": "^1" }],
        })
    }

    fn found(package: Value, is_file: bool) -> Vec<String> {
        let xtask = json!({ "name": "xtask", "publish": [] });
        let metadata = json!({ "workspace_root": "/r", "packages": [package, xtask] }).to_string();
        let findings = wrong(&metadata, &|_| is_file).unwrap();
        findings.iter().map(Finding::to_string).collect()
    }

    /// Goal: whatever a manifest lacks is found, once; a crate that stays here may lack it all.
    #[test]
    fn what_a_manifest_lacks_is_found() {
        assert_eq!(found(good(), true), [""; 0]);
        for (field, value, what) in [
            ("description", json!(null), "no description"),
            ("license", json!(""), "no license"),
            ("rust_version", json!(null), "no rust-version"),
            ("keywords", json!([]), "0 keywords"),
            ("categories", json!(["1", "2", "3", "4", "5", "6"]), "6 categories"),
            ("dependencies", json!([{ "name": "b", "req": "*" }]), "b has no version"),
        ] {
            let mut package = good();
            package[field] = value;
            let found = found(package, true);
            assert!(found.len() == 1 && found[0].contains(what), "{field}: {found:?}");
        }
        assert!(found(good(), false)[1].contains("a/Cargo.toml: no file LICENSE-MIT"));
        assert!(wrong(r#"{"workspace_root": "/r", "packages": []}"#, &|_| true).is_err());
        assert!(wrong("no json", &|_| true).is_err());
    }

    /// Goal: the Rust that is checked is the one that all state; two are an error.
    #[test]
    fn one_rust_is_stated() {
        let of = |versions: &[&str]| {
            let packages: Vec<Value> =
                versions.iter().map(|version| json!({ "rust_version": version })).collect();
            stated_rust(&json!({ "packages": packages }).to_string())
        };
        assert_eq!(of(&["1.95", "1.95"]), Ok("1.95".to_owned()));
        assert!(of(&["1.95", "1.94"]).is_err() && of(&[]).is_err());
    }

    /// Goal: a tool that is missing is a skip that says how to get it.
    #[test]
    fn a_missing_tool_is_skipped_and_told() {
        let mut tally = Tally::default();
        assert!(!has("no-such-command", &mut tally, "x") && tally.skips() == 1);
    }
}
