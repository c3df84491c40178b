//! The tests, each in a process of its own: how long it takes, and which functions it reaches.
//!
//! Until a test reaches the function of a mutant it runs the same program as without it. So a mutant is
//! run against those tests only that reach its function, the quick ones and those that have noticed many first. For
//! that to hold, tests must do the same in each run: the random ones begin at one seed. A test that takes
//! ten times as long as it should is taken to hang: many mutants are loops without an end.

use super::copy::Program;
use super::graft::{Mutant, Outcome};
use crate::run;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The longest that a test may take without a mutant.
const HANG: Duration = Duration::from_secs(600);
/// What a test may take longer than ten times what it took: another program may have the processor.
const GRACE: Duration = Duration::from_secs(2);
/// What the tests of one mutant take together without it, at most: to see that a mutant is missed takes
/// all of them, and the slow ones, which are tried last, notice little that the others do not.
const ENOUGH: Duration = Duration::from_secs(2);
/// The memory that a test may have, in KiB: a mutant may ask for all there is.
const MEMORY: &str = "ulimit -v 8388608 && exec \"$@\"";
/// Begins the line with which the copy tells that a function is reached.
const REACHED: &str = "reached ";

/// A test.
#[derive(Debug)]
pub struct Test {
    /// Its program and itself, for people.
    name: String,
    path: PathBuf,
    folder: PathBuf,
    /// Its name in the program.
    function: String,
    /// Without a mutant.
    took: Duration,
    /// The first mutants of the functions that it reaches.
    reached: BTreeSet<usize>,
    /// Mutants that it has noticed.
    noticed: AtomicU32,
}

/// All tests of `programs` that pass without a mutant; those that do not are told and left out.
///
/// # Errors
///
/// Why there are none, in words.
pub fn tests(programs: &[Program], jobs: usize) -> Result<Vec<Test>, String> {
    let mut tests = Vec::new();
    for program in programs {
        let mut list = Command::new(&program.path);
        list.args(["--list", "--format", "terse"]).current_dir(&program.folder);
        let list =
            run::capture(&mut list, HANG).ok_or(format!("{} lists no tests", program.name))?;
        let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
        tests.extend(names.map(|name| Test {
            name: format!("{}: {name}", program.name),
            path: program.path.clone(),
            folder: program.folder.clone(),
            function: name.to_owned(),
            took: HANG,
            reached: BTreeSet::new(),
            noticed: AtomicU32::new(0),
        }));
    }
    let runs = in_parallel(jobs, &tests, |test| {
        let mut reached = BTreeSet::new();
        let start = Instant::now();
        let ended = test.run(0, HANG, |line| {
            let first = line.rsplit_once(REACHED).and_then(|(_, first)| first.parse().ok());
            reached.extend(first.into_iter().collect::<Vec<usize>>());
        });
        (ended, start.elapsed(), reached)
    });
    let mut passed = Vec::new();
    for (test, (ended, took, reached)) in tests.into_iter().zip(runs) {
        match ended {
            Ok(()) => passed.push(Test { took, reached, ..test }),
            Err(why) => println!("left out: {}, which fails without a mutant: {why}", test.name),
        }
    }
    if passed.is_empty() { Err("no test passes".into()) } else { Ok(passed) }
}

/// What becomes of `mutant`, and which test noticed.
pub fn outcome(tests: &[Test], mutant: &Mutant) -> (Outcome, String) {
    let mut of_it: Vec<&Test> =
        tests.iter().filter(|t| t.reached.contains(&mutant.first)).collect();
    of_it.sort_by_cached_key(|test| test.took / (1 + test.noticed.load(Ordering::Relaxed)));
    let (mut run, mut took) = (0, Duration::ZERO);
    for test in &of_it {
        if took > ENOUGH {
            break;
        }
        (run, took) = (run + 1, took + test.took);
        let (start, limit) = (Instant::now(), test.took * 10 + GRACE);
        if test.run(mutant.id, limit, |_| ()).is_err() {
            test.noticed.fetch_add(1, Ordering::Relaxed);
            let hangs = start.elapsed() >= limit;
            return (if hangs { Outcome::Hung } else { Outcome::Caught }, test.name.clone());
        }
    }
    (Outcome::Missed, format!("by {run} of the {} tests that reach it", of_it.len()))
}

impl Test {
    /// Runs it with mutant `id`, 0 for none.
    fn run(&self, id: usize, limit: Duration, on_line: impl FnMut(&str)) -> Result<(), String> {
        let mut command = Command::new("sh");
        command.args(["-c", MEMORY, "sh"]).arg(&self.path).args(["--exact", &self.function]);
        command.args(["--test-threads", "1"]);
        command.env("VMALLOC_MUTANT", id.to_string()).env("RUST_BACKTRACE", "0");
        // Random tests: few cases, the same in each run, and what fails is not made smaller.
        command.env("PROPTEST_CASES", "8").env("PROPTEST_RNG_SEED", "1");
        command.env("PROPTEST_MAX_SHRINK_ITERS", "0");
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        command.current_dir(&self.folder).stderr(Stdio::null());
        run::run_lines(&mut command, limit, on_line)
    }
}

/// `work` on each of `items`, by as many threads as `jobs`.
pub fn in_parallel<T: Sync, R: Send>(
    jobs: usize,
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(i) else { break };
                    let result = work(item);
                    done.lock().expect("no worker panics with it").push((i, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no worker panics with it");
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt as _;

    /// Goal: the tests that reach a mutant decide what becomes of it, a hang apart from a failure, and
    /// one that does not reach it is not run, nor one that fails in any case. Method: a program whose test
    /// `a` reaches the function of mutants 3 and 4; with 3 it fails, with 4 it does not end. `b` always fails.
    #[test]
    fn a_mutant_becomes_what_the_tests_that_reach_it_say() {
        let path = std::env::temp_dir().join(format!("vmalloc-xtask-reach-{}", std::process::id()));
        let script = "#!/bin/sh\n\
            [ \"$1\" = --list ] && echo 'a: test' && echo 'b: test' && exit\n\
            case $VMALLOC_MUTANT$2 in *b) exit 1;; 0a) echo 'test a ... '; echo 'reached 3';;\n\
            3a) exit 1;; 4a) sleep 600;; esac\n";
        let options = std::fs::File::options().write(true).create_new(true).mode(0o755).open(&path);
        std::io::Write::write_all(&mut options.unwrap(), script.as_bytes()).unwrap();
        let program = Program { name: "p".into(), path: path.clone(), folder: ".".into() };
        let tests = tests(&[program], 2).unwrap();
        let of = |id, first| outcome(&tests, &Mutant { id, first, ..Mutant::default() });
        assert_eq!(of(3, 3), (Outcome::Caught, "p: a".into()));
        assert_eq!(of(4, 3), (Outcome::Hung, "p: a".into()));
        assert_eq!(of(5, 3), (Outcome::Missed, "by 1 of the 1 tests that reach it".into()));
        assert_eq!(of(3, 6), (Outcome::Missed, "by 0 of the 0 tests that reach it".into()));
        std::fs::remove_file(path).unwrap();
    }

    /// Goal: each item is worked on once, and its result stands in its place.
    #[test]
    fn results_are_in_the_order_of_the_items() {
        assert_eq!(in_parallel(3, &[1, 2, 3, 4, 5], |n| n * n), [1, 4, 9, 16, 25]);
        assert_eq!(in_parallel(0, &[7], |n| *n), [7]);
    }
}
