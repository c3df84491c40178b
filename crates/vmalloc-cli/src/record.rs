//! `vmalloc record`: runs a program, and keeps what it does in pools as a trace.
//!
//! The crate `vmalloc` in that program, and in whatever it starts, appends to the trace
//! (`VMALLOC_RECORD`); here the file is made, the program run, and the trace read back.

use crate::failure::{Done, Failure};
use crate::show::{count, count_of};
use clap::Args as ClapArgs;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{SystemTime, UNIX_EPOCH};
use vmalloc::trace::{self, Event};

const EXAMPLES: &str = "\
Examples:
  vmalloc record -- ./server --port 80
  vmalloc record -o run.trace -- make test
  vmalloc map --trace run.trace --html run.html
  vmalloc replay run.trace --lazy-limit 0,64M

The program must use pools through the crate vmalloc; it, and every program that
it starts, makes one write of 40 bytes an event, about 1 µs each. It loses none
when it is killed. The exit code is the program's.";

/// What to run, and where to keep the trace.
#[derive(ClapArgs, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RecordArgs {
    /// Where to; what is there is replaced.
    #[arg(short, long, value_name = "FILE", default_value = "vmalloc.trace")]
    pub output: PathBuf,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

/// Runs the program.
pub fn run(args: &RecordArgs) -> Done {
    let path = begin(&args.output)
        .map_err(|e| Failure::new(format_args!("{}: {e}", args.output.display())))?;
    let [program, rest @ ..] = &args.program[..] else {
        return Err(Failure::new("no program to run: vmalloc record -- PROGRAM"));
    };
    let status = Command::new(program).args(rest).env(trace::VARIABLE, path).status();
    let status =
        status.map_err(|e| Failure::new(format_args!("{}: {e}", Path::new(program).display())))?;
    let events = read(&args.output)?;
    let pools: BTreeSet<u32> = events.iter().map(|event| event.pool).collect();
    let said = if events.is_empty() {
        format!(
            "nothing recorded: {} used no pool, or not through this version of the crate vmalloc",
            Path::new(program).display()
        )
    } else {
        format!(
            "{} of {} recorded to {}",
            count(events.len() as u64, "event"),
            count_of(pools.len() as u64, "pool", "pools"),
            args.output.display()
        )
    };
    // For people; a program that listens reads the file.
    let _ = writeln!(std::io::stderr(), "vmalloc: {}", crate::show::Printable(&said));
    match code(status) {
        0 => Ok(()),
        code => Err(Failure::Exited(code)),
    }
}

/// Every event of a trace.
pub fn read(path: &Path) -> Result<Vec<Event>, Failure> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|e| Failure::new(format_args!("{shown}: {e}")))?;
    trace::parse(&bytes).map_err(|e| Failure::new(format_args!("{shown}: {e}")))
}

/// Makes an empty trace; its path from the root, since the program may change its folder.
fn begin(path: &Path) -> std::io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    File::create(path)?.write_all(&trace::header(now))?;
    path.canonicalize()
}

/// As a shell has it: a signal is 128 and its number.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}
