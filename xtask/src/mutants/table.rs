//! What became of the mutants, in a page: a row a file, each with its own commit, and below the missed.
//!
//! A run writes the rows of its files and leaves the others as they are; which files no run has had
//! stands there, too.

use super::graft::{Mutant, Outcome};
use std::collections::{BTreeMap, BTreeSet};

const HEAD: &str = "| file | commit | mutants | caught | hung | missed | unviable | not run |\n\
    |---|---|---|---|---|---|---|---|\n";
const COLUMNS: [Outcome; 5] =
    [Outcome::Caught, Outcome::Hung, Outcome::Missed, Outcome::Unviable, Outcome::NotRun];

/// The page's table: what `old` has of other files, and `mutants`, which are all of their files.
/// `all` is the number of mutants of each file there is.
pub fn merged(
    old: &str,
    mutants: &[Mutant],
    commit: &str,
    all: &BTreeMap<String, usize>,
) -> String {
    // From a file to its row and those of its mutants that were missed.
    let mut files: BTreeMap<&str, (String, Vec<String>)> = BTreeMap::new();
    for line in old.lines() {
        let name = line.strip_prefix("| `").or(line.strip_prefix("- `")).unwrap_or_default();
        let Some((stem, _)) = name.split_once(".rs") else { continue };
        let file = files.entry(&name[..stem.len() + 3]).or_default();
        if line.starts_with('|') { file.0 = line.to_owned() } else { file.1.push(line.to_owned()) }
    }
    // Those that are no more.
    files.retain(|file, _| all.contains_key(*file));
    for of_file in mutants.chunk_by(|a, b| a.file == b.file) {
        let file = short(&of_file[0].file);
        let of = |outcome| of_file.iter().filter(move |mutant| mutant.outcome == outcome);
        let counts = COLUMNS.map(|outcome| format!(" {} |", of(outcome).count()));
        let row = format!("| `{file}` | {commit} | {} |{}", of_file.len(), counts.concat());
        let missed = of(Outcome::Missed).map(|mutant| format!("- `{}`", short(&mutant.name)));
        files.insert(file, (row, missed.collect()));
    }
    let mut sums = [0; 6];
    for (row, _) in files.values() {
        let counts = row.split('|').skip(3).map(|count| count.trim().parse().unwrap_or(0));
        sums.iter_mut().zip(counts).for_each(|(sum, count): (_, usize)| *sum += count);
    }
    let sums = sums.map(|sum| format!(" {sum} |"));
    let rows: String = files.values().map(|(row, _)| row.clone() + "\n").collect();
    let mut text = format!("{HEAD}{rows}| all of these | |{}\n", sums.concat());
    let run: BTreeSet<&str> = files.keys().copied().collect();
    let others: Vec<(&String, &usize)> =
        all.iter().filter(|(f, _)| !run.contains(&f[..])).collect();
    if !others.is_empty() {
        let sum: usize = others.iter().map(|(_, count)| **count).sum();
        let names: Vec<String> = others.iter().map(|(f, count)| format!("`{f}` {count}")).collect();
        text += &format!("\n{sum} mutants of other files were not run: {}.\n", names.join(", "));
    }
    let missed: String = files.values().flat_map(|(_, m)| m).map(|m| format!("{m}\n")).collect();
    if missed.is_empty() { text } else { format!("{text}\nMissed:\n\n{missed}") }
}

/// A file or a line of the list, without the folder that all have.
pub fn short(name: &str) -> &str {
    name.strip_prefix(super::SOURCES).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a run replaces the rows and the missed of its files and no others, the sums are of all
    /// rows, and what was never run is told. Method: a second run, of one of two files, misses none.
    #[test]
    fn a_run_replaces_the_rows_of_its_files() {
        let mutant = |id, file: &str, outcome| Mutant {
            id,
            outcome,
            file: format!("{}{file}", super::super::SOURCES),
            name: format!("{}{file}:{id}", super::super::SOURCES),
            ..Mutant::default()
        };
        let all = BTreeMap::from(["a.rs", "b/c.rs", "d.rs"].map(|file| (file.to_owned(), 2)));
        let first = merged(
            "",
            &[
                mutant(1, "a.rs", Outcome::Caught),
                mutant(2, "a.rs", Outcome::Missed),
                mutant(3, "b/c.rs", Outcome::Missed),
                mutant(4, "b/c.rs", Outcome::Hung),
            ],
            "one",
            &all,
        );
        let tail = "| all of these | | 4 | 1 | 1 | 2 | 0 | 0 |\n\n\
            2 mutants of other files were not run: `d.rs` 2.\n\nMissed:\n\n- `a.rs:2`\n- `b/c.rs:3`\n";
        assert!(first.ends_with(tail), "{first}");
        let second = merged(&first, &[mutant(3, "b/c.rs", Outcome::Caught)], "two", &all);
        let rows = "| `a.rs` | one | 2 | 1 | 0 | 1 | 0 | 0 |\n\
            | `b/c.rs` | two | 1 | 1 | 0 | 0 | 0 | 0 |\n\
            | all of these | | 3 | 2 | 0 | 1 | 0 | 0 |\n";
        assert!(second.contains(rows), "{second}");
        assert!(second.ends_with("Missed:\n\n- `a.rs:2`\n"), "{second}");
    }
}
