//! Telling the story: short plain lines, 80 columns, each flushed as it happens.
//!
//! With `--json` nothing is told; the summary comes at the end.

use crate::failure::{Done, Failure};
use crate::show::{COLUMNS, area_line, cut, percent, wrap};
use crate::size::Size;
use std::fmt::Display;
use std::io::Write;
use vmalloc_core::{Area, Pages};

const INDENT: &str = "   ";

/// Lines of `vmallocinfo` that are shown from each end.
const LINES_SHOWN: usize = 3;

/// The teller.
pub struct Tell {
    silent: bool,
    steps: u32,
}

impl Tell {
    /// A teller, or one that says nothing.
    pub fn new(silent: bool) -> Tell {
        Tell { silent, steps: 0 }
    }

    /// A line at the margin.
    pub fn title(&mut self, text: impl Display) -> Done {
        self.put(&text.to_string())
    }

    /// The next step of the story, numbered.
    pub fn step(&mut self, text: impl Display) -> Done {
        self.steps += 1;
        let number = self.steps;
        self.put(&format!("\n{number}. {text}"))
    }

    /// What happened, wrapped.
    pub fn say(&mut self, text: impl Display) -> Done {
        let lines = wrap(&text.to_string(), COLUMNS - INDENT.len());
        lines.iter().try_for_each(|line| self.put(&format!("{INDENT}{line}")))
    }

    /// A line as it is, from the first column to the last.
    pub fn line(&mut self, text: impl Display) -> Done {
        self.put(&cut(&text.to_string(), COLUMNS))
    }

    /// What an allocator that cannot scatter would have to say to a request for all that is free.
    pub fn cannot_scatter(&mut self, largest: Pages, free: Pages) -> Done {
        let share = percent(largest.0, free.0);
        let verdict = if largest >= free { "It would do, this once." } else { "It must refuse." };
        self.say(format_args!(
            "An allocator that cannot scatter, first fit over the same bytes and the same calls, \
             has a largest free piece of {}, {share} of what is free. {verdict}",
            Size(largest.bytes())
        ))
    }

    fn put(&self, text: &str) -> Done {
        if self.silent {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
    }
}

/// The `vmallocinfo` of the moment: the first lines and the last.
pub fn areas_lines(tell: &mut Tell, areas: &[Area]) -> Done {
    let hidden = areas.len().saturating_sub(2 * LINES_SHOWN);
    for (i, area) in areas.iter().enumerate() {
        if hidden > 0 && i == LINES_SHOWN {
            tell.line(format_args!("… {hidden} more …"))?;
        }
        if i < LINES_SHOWN || i >= LINES_SHOWN + hidden {
            tell.line(area_line(area, Some(COLUMNS)))?;
        }
    }
    Ok(())
}

/// Stops the demo if a check fails: the story would be a lie from here on.
pub fn check(is_true: bool, what_is_wrong: impl Display) -> Done {
    if is_true { Ok(()) } else { Err(Failure::new(format_args!("demo: {what_is_wrong}"))) }
}

/// Stops the demo with what a call said.
pub fn told<T, E: Display>(result: Result<T, E>, doing: &str) -> Result<T, Failure> {
    result.map_err(|e| Failure::new(format_args!("demo: {doing}: {e}")))
}
