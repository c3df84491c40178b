//! What came out: on the terminal, as JSON, as pictures, as `docs/benchmarks.md`.
//!
//! The document is written by this module from the samples, figures and prose alike; what is not
//! measured is not in it.

mod reasons;
mod svg;

use crate::machine::MachineClass;
use crate::peers::foreign;
use crate::runner::{Case, Row, Runner};
use crate::table::{Promise, Table};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Where other budgets are shown.
const ELSEWHERE: &str = "\nMeasured by other commands: deaths of members that share, grow and publish, in [crash.md](crash.md); instructions beside \
Linux in one emulator, by `cargo xtask bench kernel`.\n";

/// What a report says besides the samples.
#[derive(Serialize, Clone, Debug)]
pub struct About {
    machine: MachineClass,
    versions: BTreeMap<String, String>,
    seed: u64,
    commit: String,
    quick: bool,
    skipped: Vec<String>,
}

impl About {
    /// This run, on this machine.
    pub fn new(quick: bool, seed: u64, commit: String, skipped: Vec<String>) -> About {
        let machine = MachineClass::here();
        About { machine, versions: versions(), seed, commit, quick, skipped }
    }
}

/// The peers' versions, as locked.
fn versions() -> BTreeMap<String, String> {
    const PEERS: [&str; 9] = [
        "buddy_system_allocator",
        "iceoryx2",
        "libmimalloc-sys",
        "mimalloc",
        "offset-allocator",
        "range-alloc",
        "snmalloc-rs",
        "tikv-jemalloc-sys",
        "vmem",
    ];
    let mut found = BTreeMap::new();
    let foreign = [("boost", foreign::boost_version()), ("python", foreign::python_version())];
    for (name, version) in foreign {
        found.extend(version.map(|version| (name.to_owned(), version)));
    }
    for package in include_str!("../Cargo.lock").split("[[package]]") {
        let field = |name: &str| {
            let line = package.lines().find(|line| line.starts_with(name))?;
            line.split('"').nth(1)
        };
        if let (Some(name), Some(version)) = (field("name"), field("version"))
            && PEERS.contains(&name)
        {
            found.insert(name.to_owned(), version.to_owned());
        }
    }
    found
}

/// Prints a case as a table.
pub fn print(case: &Case) {
    println!("\n{} ({})", case.name, case.unit);
    for row in &case.rows {
        let (low, high) = row.spread();
        let spread = format!("{}–{}", number(low), number(high));
        let median = number(row.median());
        println!("  {:<28} {median:>9}  {spread:>17}  {}", row.name, verdict(case, row));
    }
}

/// The ratio, and whether it meets the goal.
fn verdict(case: &Case, row: &Row) -> String {
    let goal = case.goals.iter().find(|goal| goal.peer == row.name);
    let goal = match goal {
        Some(goal) if row.ratio >= goal.at_least => format!(" (≥ {}: met)", number(goal.at_least)),
        Some(goal) => format!(" (≥ {}: NOT met)", number(goal.at_least)),
        None => String::new(),
    };
    let note = if row.note.is_empty() { String::new() } else { format!("; {}", row.note) };
    format!("{}×{goal}{note}", number(row.ratio))
}

/// Three digits, with a letter for thousands and millions.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1e9 => format!("{:.1}G", value / 1e9),
        v if v >= 1e7 => format!("{:.0}M", value / 1e6),
        v if v >= 1e6 => format!("{:.1}M", value / 1e6),
        v if v >= 1e4 => format!("{:.0}k", value / 1e3),
        v if v >= 1e3 => format!("{:.1}k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Writes `benchmarks.json`, `benchmarks.md` and the pictures it shows into `dir`.
///
/// # Errors
///
/// What the file system said.
pub fn write(dir: &Path, about: &About, found: &Runner) -> std::io::Result<()> {
    let Runner { cases, tables, .. } = found;
    let pictures = dir.join("benchmarks");
    std::fs::create_dir_all(&pictures)?;
    let json = serde_json::json!({ "about": about, "cases": cases, "tables": tables });
    let json = serde_json::to_string_pretty(&json).map_err(std::io::Error::other)?;
    std::fs::write(pictures.join("benchmarks.json"), json + "\n")?;
    let mut text = head(about);
    budgets(&mut text, cases, tables);
    tables.iter().for_each(|table| text.push_str(&table.markdown()));
    for (family, cases) in families(cases) {
        let file = format!("{}.svg", family.replace('/', "-"));
        let has_picture = cases.len() > 1;
        if has_picture {
            std::fs::write(pictures.join(&file), svg::lines(&family, &cases))?;
        }
        section(&mut text, &family, &cases, has_picture.then_some(file.as_str()));
    }
    std::fs::write(dir.join("benchmarks.md"), text)
}

/// Cases that differ in their last coordinate only, in the order in which they ran.
fn families(cases: &[Case]) -> Vec<(String, Vec<&Case>)> {
    let mut families: Vec<(String, Vec<&Case>)> = Vec::new();
    for case in cases {
        let family = case.name.rsplit_once('/').map_or(case.name.as_str(), |(family, _)| family);
        match families.iter_mut().find(|(name, first)| name == family && first[0].unit == case.unit)
        {
            Some((_, cases)) => cases.push(case),
            None => families.push((family.to_owned(), vec![case])),
        }
    }
    families
}

fn head(about: &About) -> String {
    let About { machine, versions, seed, commit, quick, skipped } = about;
    let kind = if machine.is_virtual { "virtual" } else { "physical" };
    let mut text = format!(
        "# Benchmarks\n\n\
         Written by `cargo xtask bench`; not by hand. Each figure is a median over rounds in which all contenders\n\
         took turns in one process tree; **×** is a contender's cost over ours, the median of the ratios within a\n\
         round. System calls and page faults on a virtual machine cost several times what they cost elsewhere:\n\
         compare ratios, not nanoseconds.\n\n\
         - machine: {kind}, {} CPUs ({}), {} GiB, Linux {}, huge pages for shared memory: {}\n\
         - load when it began: {}\n\
         - commit {commit}, seed {seed}{}\n",
        machine.cpus,
        machine.cpu,
        machine.memory_gib,
        machine.kernel,
        machine.shmem_huge,
        machine.load,
        if *quick { ", quick run: few rounds" } else { "" },
    );
    let peers: Vec<String> = versions.iter().map(|(name, v)| format!("{name} {v}")).collect();
    let _ = writeln!(text, "- peers: {}", peers.join(", "));
    for skip in skipped {
        let _ = writeln!(text, "- left out: {skip}");
    }
    text
}

/// A budget, and what came of it: a row of the page.
struct Budget {
    /// The case, or what was promised.
    what: String,
    /// The peer; [`NOBODY`], where it is no ratio of two contenders.
    beside: String,
    at_least: String,
    measured: String,
    is_met: bool,
}

/// In place of a peer.
const NOBODY: &str = "–";

impl Budget {
    /// Those of the cases, then those of the tables.
    fn all(cases: &[Case], tables: &[Table]) -> Vec<Budget> {
        let ratios = cases
            .iter()
            .flat_map(|case| case.goals.iter().map(move |goal| (case, goal)))
            .filter_map(|(case, goal)| {
                let row = case.rows.iter().find(|row| row.name == goal.peer)?;
                Some(Budget {
                    what: case.name.clone(),
                    beside: goal.peer.to_owned(),
                    at_least: format!("{}×", number(goal.at_least)),
                    measured: format!("{}×", number(row.ratio)),
                    is_met: row.ratio >= goal.at_least,
                })
            });
        let promises = tables.iter().flat_map(|table| &table.promises).map(|promise| {
            let Promise { what, at_least, measured, is_met } = promise.clone();
            Budget { what, beside: NOBODY.into(), at_least, measured, is_met }
        });
        ratios.chain(promises).collect()
    }

    fn line(&self) -> String {
        let Budget { what, beside, at_least, measured, is_met } = self;
        let met = if *is_met { "yes" } else { "**no**" };
        format!("| {what} | {beside} | {at_least} | {measured} | {met} |")
    }
}

fn budgets(text: &mut String, cases: &[Case], tables: &[Table]) {
    let budgets = Budget::all(cases, tables);
    if !budgets.is_empty() {
        let head = "| case | beside | at least | measured | met |\n|---|---|---|---|---|";
        let rows: Vec<String> = budgets.iter().map(Budget::line).collect();
        let _ = writeln!(text, "\n## Budgets\n\n{head}\n{}", rows.join("\n"));
    }
    let missed = budgets.iter().filter(|budget| !budget.is_met);
    let missed: Vec<_> = missed.map(|b| (b.what.as_str(), b.beside.as_str())).collect();
    let why = reasons::why(&missed);
    if !why.is_empty() {
        let _ = writeln!(text, "\nWhy, where a budget is missed:\n\n{}", why.join("\n"));
    }
    text.push_str(ELSEWHERE);
}

fn section(text: &mut String, family: &str, cases: &[&Case], picture: Option<&str>) {
    let _ = writeln!(text, "\n## {family}: {}\n", cases[0].unit);
    if let Some(file) = picture {
        let _ = writeln!(text, "![{family}](benchmarks/{file})\n");
    }
    let last = |case: &Case| case.name.rsplit('/').next().unwrap_or_default().to_owned();
    let columns: Vec<String> = cases.iter().map(|case| last(case)).collect();
    let _ = writeln!(text, "| | {} |", columns.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(cases.len()));
    let mut names: Vec<&str> = Vec::new();
    for row in cases.iter().flat_map(|case| &case.rows) {
        if !names.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    for name in names {
        let cells: Vec<String> = cases
            .iter()
            .map(|case| match case.rows.iter().find(|row| row.name == name) {
                Some(row) => cell(row),
                None => "–".into(),
            })
            .collect();
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
}

fn cell(row: &Row) -> String {
    let (low, high) = row.spread();
    let note = if row.note.is_empty() { String::new() } else { format!("; {}", row.note) };
    let (median, low, high) = (number(row.median()), number(low), number(high));
    format!("{median} ({low}–{high}), {}×{note}", number(row.ratio))
}
