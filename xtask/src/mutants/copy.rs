//! A copy of the engine and of the simulated machine, with the mutants in it; built, and its tests run.
//!
//! Tests end at the first that fails: a test program is killed when it says so.

use super::LIMIT;
use super::graft::{Mutant, Outcome, graft};
use crate::run;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The tests, in the order in which they are run: what is quick and notices much first.
const TESTS: [&str; 13] = [
    "care",
    "look",
    "suite_in_place",
    "model",
    "resize",
    "reserve",
    "remap",
    "mapping",
    "requests",
    "conformance",
    "each_step_fails",
    "vmalloc_core",
    "recover",
];
/// Tests that take long and notice nothing, by themselves, that the others do not.
const SKIPPED: [&str; 6] = [
    "16_entries",
    "after_freeing_half",
    "random_resizes",
    "recoverer_that_dies",
    "while_it_makes_an_area_fit",
    "each_step_of_a_grow",
];
/// The longest that a program may run: a hundred times what most need.
const HANG: Duration = Duration::from_secs(180);
/// Which mutant runs.
const VARIABLE: &str = "VMALLOC_MUTANT";

/// Put at the end of the engine's `lib.rs`.
const CHOICE: &str = "
extern crate std as mutation_std;
pub(crate) mod mutation {
    use super::mutation_std as std;
    pub(crate) fn chosen() -> usize {
        static CHOSEN: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
        *CHOSEN.get_or_init(|| {
            std::env::var(\"VMALLOC_MUTANT\").ok().and_then(|t| t.parse().ok()).unwrap_or(0)
        })
    }
}
";

/// A test program.
pub struct Program {
    name: String,
    path: PathBuf,
    /// Where cargo would run it.
    folder: PathBuf,
}

/// The copy.
pub struct Copy {
    root: PathBuf,
    tree: PathBuf,
    target: PathBuf,
}

impl Copy {
    /// Copies what git knows of the two crates at `root`.
    pub fn of(root: &Path) -> Result<Copy, String> {
        let folder = run::target_dir(root).join("mutants");
        let (tree, target) = (folder.join("tree"), folder.join("target"));
        let copy = Copy { root: root.to_owned(), tree, target };
        let mut list = Command::new("git");
        list.args(["ls-files", "crates/vmalloc-core", "crates/vmalloc-sim", "Cargo.lock"]);
        let files = run::capture(list.current_dir(root), LIMIT).ok_or("git lists no files")?;
        for file in files.lines() {
            copy.write(file, &copy.read(file)?)?;
        }
        // A workspace of the two.
        let manifest = copy.read("Cargo.toml")?;
        let lines = manifest.lines().map(|line| match line.split_once(" = [") {
            Some(("members", _)) => "members = [\"crates/vmalloc-core\", \"crates/vmalloc-sim\"]",
            Some(("default-members", _)) => "",
            _ => line,
        });
        copy.write("Cargo.toml", &lines.collect::<Vec<_>>().join("\n"))?;
        Ok(copy)
    }

    fn read(&self, file: &str) -> Result<String, String> {
        std::fs::read_to_string(self.root.join(file)).map_err(|e| format!("{file}: {e}"))
    }

    /// Writes a file of the copy, if it is another than before: so that cargo builds no more than needed.
    fn write(&self, file: &str, text: &str) -> Result<(), String> {
        let path = self.tree.join(file);
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        path.parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|e| format!("{file}: {e}"))
    }

    /// `cargo` in the copy.
    fn cargo(&self, args: &[&str]) -> Command {
        let mut command = run::cargo();
        command.args(args).current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target);
        command.env("CARGO_PROFILE_DEV_DEBUG", "0");
        command
    }

    /// Puts the mutants in, but for those that do not compile.
    pub fn plant(&self, mutants: &mut [Mutant]) -> Result<(), String> {
        let lib = "crates/vmalloc-core/src/lib.rs";
        self.write(lib, &(self.read(lib)? + CHOICE))?;
        loop {
            let mut arms: BTreeMap<String, Vec<(usize, Range<usize>)>> = BTreeMap::new();
            for of_file in mutants.chunk_by_mut(|a, b| a.file == b.file) {
                let file = of_file[0].file.clone();
                let (mut text, of) = graft(&self.read(&file)?, of_file);
                if file == lib {
                    text += CHOICE;
                }
                self.write(&file, &text)?;
                arms.insert(file, of);
            }
            let refused = self.refused(&arms)?;
            if refused.is_empty() {
                return Ok(());
            }
            println!("{} mutants do not compile", refused.len());
            for mutant in mutants.iter_mut().filter(|mutant| refused.contains(&mutant.id)) {
                mutant.outcome = Outcome::Unviable;
            }
        }
    }

    /// The arms that the compiler has something against.
    fn refused(
        &self,
        arms: &BTreeMap<String, Vec<(usize, Range<usize>)>>,
    ) -> Result<BTreeSet<usize>, String> {
        let mut refused = BTreeSet::new();
        let mut other = None;
        let args = ["check", "--quiet", "--package", "vmalloc-core", "--message-format", "json"];
        let ended = run::run_lines(&mut self.cargo(&args), LIMIT, |line| {
            let Ok(told) = serde_json::from_str::<serde_json::Value>(line) else { return };
            let message = &told["message"];
            let spans = message["spans"].as_array().map_or(&[][..], |spans| spans);
            if message["level"] != "error" || spans.is_empty() {
                return;
            }
            let blamed = spans.iter().filter(|span| span["is_primary"] == true).flat_map(|span| {
                let of_file = arms.get(span["file_name"].as_str().unwrap_or_default());
                let line = span["line_start"].as_u64().unwrap_or(0) as usize;
                let arm = of_file.and_then(|of| of.iter().find(|(_, lines)| lines.contains(&line)));
                arm.map(|(id, _)| *id)
            });
            let before = refused.len();
            refused.extend(blamed);
            if refused.len() == before {
                other.get_or_insert(message["rendered"].as_str().unwrap_or_default().to_owned());
            }
        });
        match (ended, other) {
            (Err(why), other) if refused.is_empty() => Err(other.unwrap_or(why)),
            _ => Ok(refused),
        }
    }

    /// Builds the tests, in the order in which they are to run.
    pub fn build(&self) -> Result<Vec<Program>, String> {
        let mut args = vec!["test", "--no-run", "--message-format", "json", "--lib"];
        args.extend(["--package", "vmalloc-core", "--package", "vmalloc-sim"]);
        args.extend(TESTS.iter().filter(|t| **t != "vmalloc_core").flat_map(|t| ["--test", *t]));
        let mut programs = Vec::new();
        run::run_lines(&mut self.cargo(&args), LIMIT, |line| {
            let Ok(told) = serde_json::from_str::<serde_json::Value>(line) else { return };
            let name = told["target"]["name"].as_str().unwrap_or_default().to_owned();
            let rank = TESTS.iter().position(|test| *test == name);
            if let (Some(rank), Some(path)) = (rank, told["executable"].as_str()) {
                let manifest = Path::new(told["manifest_path"].as_str().unwrap_or_default());
                let folder = manifest.parent().unwrap_or(&self.tree).to_owned();
                programs.push((rank, Program { name, path: path.into(), folder }));
            }
        })?;
        if programs.len() != TESTS.len() {
            return Err(format!("{} test programs instead of {}", programs.len(), TESTS.len()));
        }
        programs.sort_by_key(|(rank, _)| *rank);
        Ok(programs.into_iter().map(|(_, program)| program).collect())
    }

    /// The first test that notices mutant `id`, and how.
    pub fn noticed_by(&self, programs: &[Program], id: usize) -> Option<(Outcome, String)> {
        programs.iter().find_map(|program| program.fails(id))
    }
}

impl Program {
    /// How it fails, if it does, with mutant `id`.
    fn fails(&self, id: usize) -> Option<(Outcome, String)> {
        let mut command = Command::new(&self.path);
        command.args(SKIPPED.iter().flat_map(|name| ["--skip", *name]));
        command.env(VARIABLE, id.to_string()).env("PROPTEST_CASES", "8").env("RUST_BACKTRACE", "0");
        command.current_dir(&self.folder).stderr(Stdio::null());
        let start = Instant::now();
        let ended = run::run_lines_until(&mut command, HANG, |line| {
            match line.strip_suffix(" ... FAILED") {
                Some(test) => ControlFlow::Break(test.to_owned()),
                None => ControlFlow::Continue(()),
            }
        });
        let why = match ended {
            Ok(None) => return None,
            Ok(Some(test)) => test,
            Err(why) => why,
        };
        let outcome = if start.elapsed() < HANG { Outcome::Caught } else { Outcome::Hung };
        Some((outcome, format!("{}: {why}", self.name)))
    }
}
