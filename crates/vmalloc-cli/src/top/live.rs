//! The live view: draws the lines of a look on a terminal, and waits for keys.

use super::keys::{After, press};
use super::lines::{self, Style};
use super::rows::Screen;
use super::watch::Watch;
use crate::failure::{Done, Failure};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use std::io;
use std::time::{Duration, Instant};

/// Rows of areas that are kept free, however many members there are.
const AREAS_MIN: usize = 4;

const HELP: &str = "q leave  jk move  Enter extents  s sort  r turn  / filter  p parked  m members";

/// Watches until the user leaves. The terminal is put back whatever happens.
pub fn run(watch: &mut Watch, screen: &mut Screen, interval: Duration) -> Done {
    let not_had = |e: &io::Error| Failure::new(format_args!("the terminal: {e}"));
    let mut terminal = ratatui::try_init().map_err(|e| not_had(&e))?;
    let style = Style::of_environment(true);
    let watched = watch_with(watch, screen, interval, |watch, screen| {
        terminal.draw(|frame| draw(frame, watch, screen, &style)).map(drop)
    });
    ratatui::restore();
    watched.map_err(|e| not_had(&e))
}

fn watch_with(
    watch: &mut Watch,
    screen: &mut Screen,
    interval: Duration,
    mut draw: impl FnMut(&Watch, &mut Screen) -> io::Result<()>,
) -> io::Result<()> {
    let mut due = Instant::now() + interval;
    loop {
        screen.take(watch);
        draw(watch, screen)?;
        let wait = due.saturating_duration_since(Instant::now());
        if event::poll(wait)?
            && let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && press(screen, key) == After::Leave
        {
            return Ok(());
        }
        if Instant::now() >= due {
            if !screen.paused {
                watch.look();
            }
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
    let paused = if screen.paused { "PAUSED, space goes on   " } else { "" };
    frame.render_widget(Paragraph::new(format!("{paused}{HELP}")), below);
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
