//! The command `vmalloc`: pools of shared memory at the shell, and a demo of the whole.
//!
//! ```text
//!   args ─▶ main ─┬─ demo                    the story, on real memory or on a simulated machine
//!                 ├─ create, put, get, rm    a pool as a place for files, at memory speed
//!                 ├─ info, list, top, map    what is there; changes nothing
//!                 ├─ doctor                  who died, and whether the invariants hold; recovers
//!                 ├─ record, replay          what a program does with its pools, again and otherwise
//!                 ├─ stress                  Linux's test module and more, on either machine
//!                 └─ completions, man        what a shell and `man` should know
//! ```
//!
//! One file a command. Results go to stdout, everything for people's eyes alone (progress,
//! errors) to stderr, and the exit codes are those of [`failure`]. No daemon and no state outside
//! the pools.

#![forbid(unsafe_code)]

mod args;
mod create;
mod demo;
mod doctor;
mod failure;
mod get;
mod info;
mod kernel_info;
mod list;
mod manual;
mod map;
mod metrics;
mod process;
mod progress;
mod put;
mod record;
mod replay;
mod rm;
mod show;
mod size;
mod stress;
mod target;
mod top;

use args::{Args, Command};
use clap::Parser as _;
use clap::error::ErrorKind;
use failure::Done;
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return not_understood(&error),
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(args: Args) -> Done {
    match args.command.unwrap_or(Command::Demo(args.demo)) {
        Command::Demo(args) => demo::run(&args),
        Command::Create(args) => create::run(&args),
        Command::Put(args) => put::run(&args),
        Command::Get(args) => get::run(&args),
        Command::Rm(args) => rm::run(&args),
        Command::Info(args) => info::run(&args),
        Command::List(args) => list::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Map(args) => map::run(&args),
        Command::Record(args) => record::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Stress(args) => stress::run(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
        Command::StressMember(args) => stress::pool::member::run(&args),
        Command::DemoMember(args) => demo::member::run(&args),
    }
}

/// Help goes to stdout and is no error; anything else gets our name in front, and code 2.
fn not_understood(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // If nobody reads it there is nothing to do.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let _ = write!(std::io::stderr(), "vmalloc: {text}");
    ExitCode::from(2)
}
