//! A copy of the engine and of the simulated machine, with the mutants in it, and its test programs.

use super::LIMIT;
use super::graft::{Mutant, Outcome, graft};
use crate::run;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Put at the end of the engine's `lib.rs`, with the number of mutants. A function that is reached
/// without a mutant is told once.
const CHOICE: &str = r#"
extern crate std as mutation_std;
pub(crate) mod mutation {
    use super::mutation_std as std;
    use std::sync::atomic::{AtomicBool, Ordering};
    pub(crate) fn chosen(first: usize) -> usize {
        static CHOSEN: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
        let chosen = *CHOSEN.get_or_init(|| {
            std::env::var("VMALLOC_MUTANT").ok().and_then(|t| t.parse().ok()).unwrap_or(0)
        });
        static REACHED: [AtomicBool; COUNT] = [const { AtomicBool::new(false) }; COUNT];
        if chosen == 0 && !REACHED[first].swap(true, Ordering::Relaxed) {
            let line = std::format!("\nreached {first}\n");
            let _ = std::io::Write::write_all(&mut std::io::stdout().lock(), line.as_bytes());
        }
        chosen
    }
}
"#;

/// A test program.
pub struct Program {
    /// Its name, and of what it is the test.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Where cargo would run it.
    pub folder: PathBuf,
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
        // Those of an earlier copy: cargo would build them.
        let files: BTreeSet<&str> = files.lines().collect();
        let mut find = Command::new("find");
        find.args(["crates", "-type", "f"]).current_dir(&copy.tree);
        let found = run::capture(&mut find, LIMIT).ok_or("`find` finds no files")?;
        for file in found.lines().filter(|file| !files.contains(file)) {
            std::fs::remove_file(copy.tree.join(file)).map_err(|e| format!("{file}: {e}"))?;
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
        // Nothing of the last build is of use to the next.
        command.env("CARGO_INCREMENTAL", "0");
        // What the compiler sees to panic shall panic.
        command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("RUSTFLAGS", "--cap-lints allow");
        command
    }

    /// Puts the mutants in, but for those that do not compile.
    pub fn plant(&self, mutants: &mut [Mutant]) -> Result<(), String> {
        let lib = "crates/vmalloc-core/src/lib.rs";
        let highest = mutants.iter().map(|mutant| mutant.id).max().unwrap_or(0);
        let choice = CHOICE.replace("COUNT", &(highest + 1).to_string());
        self.write(lib, &(self.read(lib)? + &choice))?;
        loop {
            let mut arms: BTreeMap<String, Vec<(usize, Range<usize>)>> = BTreeMap::new();
            for of_file in mutants.chunk_by_mut(|a, b| a.file == b.file) {
                let file = of_file[0].file.clone();
                let (mut text, of) = graft(&self.read(&file)?, of_file);
                if file == lib {
                    text += &choice;
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

    /// Builds the tests.
    pub fn build(&self) -> Result<Vec<Program>, String> {
        let args = ["test", "--no-run", "--message-format", "json", "--lib", "--tests"];
        let packages = ["--package", "vmalloc-core", "--package", "vmalloc-sim"];
        let mut programs = Vec::new();
        run::run_lines(self.cargo(&args).args(packages), LIMIT, |line| {
            let Ok(told) = serde_json::from_str::<serde_json::Value>(line) else { return };
            if let (true, Some(path)) =
                (told["profile"]["test"] == true, told["executable"].as_str())
            {
                let manifest = Path::new(told["manifest_path"].as_str().unwrap_or_default());
                let folder = manifest.parent().unwrap_or(&self.tree).to_owned();
                let name = told["target"]["name"].as_str().unwrap_or_default().to_owned();
                programs.push(Program { name, path: path.into(), folder });
            }
        })?;
        Ok(programs)
    }
}
