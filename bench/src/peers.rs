//! What the speed of a shared memory is worth nothing without: it outlives the death of those who use
//! it, and serves what it has room for.
//!
//! ```text
//!   kill   a process allocates and frees until it is killed; then another one comes
//!   frag   filled with 4 KiB – 4 MiB, half of it freed at random; then one block of a quarter
//! ```
//!
//! Each contender is a program that plays *roles* (`work`, `next`, `frag`): ours, memfd and iceoryx2
//! in this program, boost.interprocess in `bench/peers/boost.cpp`, which is compiled here and now, and
//! Python's in `bench/peers/shared_memory.py`. The judge is this process, and the same for all.
//! The share cycle, the third question to these peers, is a case with ratios: `share.rs`.

pub mod foreign;
mod frag;
#[cfg(feature = "iceoryx2")]
pub mod iceoryx;
mod kill;
mod roles;
pub mod spot;
mod store;

use crate::report::number;
use crate::runner::Runner;
use crate::table::Table;
pub use roles::child;
use std::process::Command;

/// The cases of this group, for messages.
pub const NAMES: [&str; 3] = ["peers", "peers/kill", "peers/frag"];

/// Runs the group; after the group `share`, whose cases its table shows.
pub fn run(runner: &mut Runner) {
    kill::run(runner);
    frag::run(runner);
    if runner.wants("peers") {
        let table = together(runner);
        runner.keep(table);
    }
}

/// The three questions in one table.
fn together(runner: &Runner) -> Table {
    let about = "What `peers/kill` and `peers/frag` found; and the cycle of two processes, `share`: a contender's time over ours.";
    let columns = vec![
        "all in one",
        "served after SIGKILL",
        "of these, leaking",
        "stray files",
        "25 % of the pool",
        "address space",
        "memory held",
        "share 1 MiB",
        "share 16 MiB",
    ];
    let mut table = Table::new("peers", about.into(), columns);
    // The last row of a kind: of Python, its process group.
    let row = |name: &str, kind: Kind| {
        let table = runner.tables.iter().find(|table| table.name == name)?;
        table.rows.iter().rfind(|row| row[0].starts_with(kind.name()))
    };
    for kind in Kind::ALL {
        let (Some(kill), Some(frag)) = (row("peers/kill", kind), row("peers/frag", kind)) else {
            continue;
        };
        if let Some(why) = kill[1].strip_prefix("skipped: ") {
            table.skip(kind.name(), why);
            continue;
        }
        let share = |size: &str| {
            let case = runner.cases.iter().find(|case| case.name == format!("share/size={size}"));
            let row = case?.rows.iter().find(|row| row.name.starts_with(kind.name()))?;
            Some(format!("{}×", number(row.ratio)))
        };
        let shares = ["1M", "16M"].map(|size| share(size).unwrap_or_else(|| "–".into()));
        let served = format!("{}/{}", kill[2], kill[1]);
        let cells = [served, kill[5].clone(), kill[7].clone(), frag[1].clone(), frag[3].clone()];
        table.row(kind.name(), cells.into_iter().chain([frag[4].clone()]).chain(shares));
    }
    table
}

/// Who takes part.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ours,
    Memfd,
    Iceoryx,
    Boost,
    Python,
}

impl Kind {
    /// All; the first is ours.
    pub const ALL: [Kind; 5] = [Kind::Ours, Kind::Boost, Kind::Iceoryx, Kind::Memfd, Kind::Python];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ours => "ours",
            Kind::Memfd => "memfd + SCM_RIGHTS",
            Kind::Iceoryx => "iceoryx2",
            Kind::Boost => "boost.interprocess",
            Kind::Python => "Python shared_memory",
        }
    }

    /// Its program, for a role.
    ///
    /// # Errors
    ///
    /// What to do so that it could take part.
    pub fn command(self, role: &str) -> Result<Command, String> {
        let mut command = match self {
            Kind::Boost => Command::new(foreign::boost()?),
            Kind::Python => foreign::python()?,
            Kind::Iceoryx if cfg!(not(feature = "iceoryx2")) => {
                return Err("built without the feature iceoryx2".into());
            }
            Kind::Ours | Kind::Memfd | Kind::Iceoryx => {
                let mut command = Command::new(std::env::current_exe().expect("this program"));
                command.args(["--child-peer", self.name()]);
                command
            }
        };
        command.arg(role);
        Ok(command)
    }
}
