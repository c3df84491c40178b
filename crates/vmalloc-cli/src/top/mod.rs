//! `vmalloc top`: a live pool, watched from outside.
//!
//! ```text
//!   Onlooker ─look▶ Sample ─┬─ Watch: rates, ages (against the sample before)
//!                           └─ Screen: sort, filter, select ─lines▶ terminal, pipe or test
//! ```
//!
//! Without a name it watches the only pool there is, or asks which ([`pick`]).
//!
//! It takes no member slot and changes nothing. What is shown is lines of text first, so that the
//! same ones serve a terminal, a pipe and the tests. Colour is an extra that nothing depends on.

mod keys;
mod lines;
mod live;
mod pick;
mod rows;
#[cfg(test)]
mod tests;
mod watch;

use crate::failure::{Done, Failure};
use crate::target;
use clap::Args as ClapArgs;
use lines::Style;
pub use lines::{caller, frame_runs, name};
use rows::{Screen, Sort};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;
use watch::Watch;
pub use watch::frames;

const EXAMPLES: &str = "\
Examples:
  vmalloc top                      the only pool, or choose from a list
  vmalloc top /dev/shm/frames
  vmalloc top 4711                 the pool that process 4711 has open
  vmalloc top --once --sort size   print one look, every area, and leave
  vmalloc top --once --interval 5  with the rates of five seconds

Keys: arrows or j k select, Enter shows an area's extents (as root its physical
frames), s sorts, r turns the order round, / filters, p hides what is parked,
m shows all members, space pauses, q leaves. Without --interval, the rates of
--once are averages since the pool was made. NO_COLOR is obeyed; a terminal
that cannot place text (TERM=dumb), or a pipe, gets one look after the other.";

/// What to watch, and how.
#[derive(ClapArgs, Debug)]
#[command(after_help = EXAMPLES)]
pub struct TopArgs {
    /// A pool's path, or the number of a process that has it open [default: the only one, or ask].
    #[arg(value_name = "PATH|PID")]
    pub pool: Option<PathBuf>,
    /// Print one look and leave.
    #[arg(long)]
    pub once: bool,
    /// Seconds between two looks, 0.1 to 3600 [default: 1].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub interval: Option<Duration>,
    /// What the areas are sorted by.
    #[arg(long, value_enum, default_value_t = Sort::Address)]
    pub sort: Sort,
    /// Show only areas whose line has all these words: `frozen`, `owner=2`, `vm1-`.
    #[arg(long, value_name = "WORDS", default_value = "")]
    pub filter: String,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("write seconds, 0.1 to 3600".to_owned()),
    }
}

/// Watches a pool until the user has seen enough.
pub fn run(args: &TopArgs) -> Done {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let is_live = !args.once && !is_dumb && io::stdout().is_terminal() && io::stdin().is_terminal();
    let found = match &args.pool {
        None if is_live => match pick::pool()? {
            Some(found) => found,
            None => return Ok(()),
        },
        pool => target::one(pool.as_deref())?,
    };
    let path = found.path.display().to_string();
    let mut watch = Watch::new(found.pool);
    let mut screen = Screen::new(path, args.sort, &args.filter);
    let interval = args.interval.unwrap_or(Duration::from_secs(1));
    if args.once {
        if args.interval.is_some() {
            std::thread::sleep(interval);
            watch.look();
        }
        return print(&watch, &mut screen);
    }
    if !is_live {
        loop {
            print(&watch, &mut screen)?;
            std::thread::sleep(interval);
            watch.look();
            writeln!(io::stdout()).map_err(|e| Failure::output(&e))?;
        }
    }
    live::run(&mut watch, &mut screen, interval)
}

/// Prints one look, every area of it.
fn print(watch: &Watch, screen: &mut Screen) -> Done {
    let style = Style::of_environment(false);
    screen.take(watch);
    let mut out = io::stdout().lock();
    let lines = lines::everything(watch, screen, &style);
    let printed =
        lines.iter().try_for_each(|line| writeln!(out, "{}", line.to_string().trim_end()));
    printed.and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
}
