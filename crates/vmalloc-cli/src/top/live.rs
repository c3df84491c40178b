//! The live view: draws on a terminal, waits for keys, and looks again from time to time.
//!
//! ```text
//!   until_left:  ┌─▶ draw ─▶ a key, or time is up ─┬─ press ─▶ Leave
//!                └──────────── tick ◀──────────────┘
//! ```
//!
//! The loop is the same for a watch and for the list of pools ([`super::pick`]).

use super::keys::{After, press};
use super::lines::{self, Style};
use super::rows::Screen;
use super::watch::Watch;
use crate::failure::{Done, Failure};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use std::io;
use std::time::{Duration, Instant};

/// Rows of areas that are kept free, however many members there are.
const AREAS_MIN: usize = 4;

const HELP: &str = "q leave  jk move  Enter extents  s sort  r turn  / filter  p parked  m members";
const PAUSED: &str = "PAUSED: space goes on  q leave  jk move  Enter extents  / filter  m members";

/// Something to be seen on a terminal until the user leaves it.
pub trait Scenery {
    /// Draws it as it is.
    fn draw(&mut self, frame: &mut Frame<'_>);
    /// Does what a key says.
    fn press(&mut self, key: KeyEvent) -> After;
    /// Looks again: the interval is over.
    fn tick(&mut self);
}

/// A pool that is watched.
struct Live<'a> {
    watch: &'a mut Watch,
    screen: &'a mut Screen,
    style: Style,
}

impl Scenery for Live<'_> {
    fn draw(&mut self, frame: &mut Frame<'_>) {
        self.screen.take(self.watch);
        draw(frame, self.watch, self.screen, &self.style);
    }

    fn press(&mut self, key: KeyEvent) -> After {
        press(self.screen, key)
    }

    fn tick(&mut self) {
        if !self.screen.paused {
            self.watch.look();
        }
    }
}

/// Watches until the user leaves.
pub fn run(watch: &mut Watch, screen: &mut Screen, interval: Duration) -> Done {
    show(&mut Live { watch, screen, style: Style::of_environment(true) }, interval)
}

/// Shows it until the user leaves. The terminal is put back whatever happens.
pub fn show(scenery: &mut impl Scenery, interval: Duration) -> Done {
    let not_had = |e: io::Error| Failure::new(format_args!("the terminal: {e}"));
    let mut terminal = ratatui::try_init().map_err(not_had)?;
    let shown = until_left(scenery, interval, |scenery| {
        terminal.draw(|frame| scenery.draw(frame)).map(drop)
    });
    ratatui::restore();
    shown.map_err(not_had)
}

fn until_left<S: Scenery>(
    scenery: &mut S,
    interval: Duration,
    mut draw: impl FnMut(&mut S) -> io::Result<()>,
) -> io::Result<()> {
    let mut due = Instant::now() + interval;
    loop {
        draw(scenery)?;
        if event::poll(due.saturating_duration_since(Instant::now()))?
            && let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && scenery.press(key) == After::Leave
        {
            return Ok(());
        }
        if Instant::now() >= due {
            scenery.tick();
            due = Instant::now() + interval;
        }
    }
}

/// Draws a look: totals, members, then areas or the detail of one.
pub fn draw(frame: &mut Frame<'_>, watch: &Watch, screen: &Screen, style: &Style) {
    let height = usize::from(frame.area().height);
    let mut top = lines::totals(watch, screen, style);
    let members = lines::members(watch, screen.all_members);
    let room = height.saturating_sub(top.len() + AREAS_MIN + 3);
    top.extend(members.into_iter().take(room));
    let body = height.saturating_sub(top.len() + 1);
    if screen.detail
        && let Some(row) = screen.selected()
    {
        top.extend(fit(lines::detail(watch, row), body));
    } else {
        top.push(lines::areas_title(screen));
        top.push(lines::columns(watch));
        let shown = body.saturating_sub(2);
        let first = (screen.at() + 1).saturating_sub(shown);
        let rows = screen.rows.iter().enumerate().skip(first).take(shown);
        top.extend(rows.map(|(i, row)| lines::area(watch, row, i == screen.at(), style)));
    }
    let area = frame.area();
    let above = Rect { height: area.height.saturating_sub(1), ..area };
    frame.render_widget(Paragraph::new(top), above);
    let below = Rect { y: area.bottom().saturating_sub(1), height: 1.min(area.height), ..area };
    frame.render_widget(Paragraph::new(if screen.paused { PAUSED } else { HELP }), below);
}

/// As many lines as there is room for; the last says how many are missing.
fn fit(mut lines: Vec<Line<'static>>, room: usize) -> Vec<Line<'static>> {
    if lines.len() > room {
        let missing = lines.len() + 1 - room.max(1);
        lines.truncate(room.saturating_sub(1));
        lines.push(Line::from(format!(
            "         … and {missing} lines more: `vmalloc map` draws all"
        )));
    }
    lines
}
