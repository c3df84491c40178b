//! Which pool to watch, when none was named and there are several: a list to choose from.
//!
//! ```text
//!   list::rows ─▶ none: an error that says what to do · one: that · several: Picker ─Enter▶ Looked
//! ```
//!
//! The list is made anew every second, since pools come and go; what is selected is a path, and
//! stays selected wherever its line moves to.

use super::keys::After;
use super::live::{self, Scenery};
use crate::failure::Failure;
use crate::list::{self, Row};
use crate::show::{COLUMNS, Printable, count, cut};
use crate::size::Size;
use crate::target::{self, Looked};
use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Stylize;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use std::time::Duration;

const REFRESH: Duration = Duration::from_secs(1);
const HELP: &str = "jk or arrows move  Enter watches the pool  q leaves";

/// The pools to choose from, and the one that is selected.
pub struct Picker {
    rows: Vec<Row>,
    at: usize,
    is_chosen: bool,
}

/// The pool to watch; `None` if the user left without choosing. Asks only if there are several.
pub fn pool() -> Result<Option<Looked>, Failure> {
    let rows = list::rows();
    if rows.len() < 2 {
        return target::only(rows).map(Some);
    }
    let mut picker = Picker::new(rows);
    live::show(&mut picker, REFRESH)?;
    picker.chosen().map(|row| target::look(row.path.clone().into())).transpose()
}

impl Scenery for Picker {
    fn draw(&mut self, frame: &mut Frame<'_>) {
        let head = head();
        let line = |text: String| match text.starts_with('>') {
            true => Line::from(text).reversed(),
            false if text == head => Line::from(text).underlined(),
            false => Line::from(text),
        };
        let lines = self.lines(usize::from(frame.area().height));
        let lines: Vec<Line<'_>> = lines.into_iter().map(line).collect();
        frame.render_widget(Paragraph::new(lines), frame.area());
    }

    fn press(&mut self, key: KeyEvent) -> After {
        Picker::press(self, key)
    }

    fn tick(&mut self) {
        self.take(list::rows());
    }
}

impl Picker {
    /// Offers these, the first selected.
    pub fn new(rows: Vec<Row>) -> Picker {
        Picker { rows, at: 0, is_chosen: false }
    }

    /// The pools that there are now. If the selected one has gone, its neighbour is selected.
    pub fn take(&mut self, rows: Vec<Row>) {
        let selected = self.rows.get(self.at).map(|row| row.path.as_str());
        let again = rows.iter().position(|row| Some(row.path.as_str()) == selected);
        self.at = again.unwrap_or(self.at).min(rows.len().saturating_sub(1));
        self.rows = rows;
    }

    /// Does what a key says.
    pub fn press(&mut self, key: KeyEvent) -> After {
        let last = self.rows.len().saturating_sub(1);
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return After::Leave;
            }
            KeyCode::Char('q') | KeyCode::Esc => return After::Leave,
            KeyCode::Enter if !self.rows.is_empty() => {
                self.is_chosen = true;
                return After::Leave;
            }
            KeyCode::Down | KeyCode::Char('j') => self.at = (self.at + 1).min(last),
            KeyCode::Up | KeyCode::Char('k') => self.at = self.at.saturating_sub(1),
            KeyCode::Home | KeyCode::Char('g') => self.at = 0,
            KeyCode::End | KeyCode::Char('G') => self.at = last,
            _ => {}
        }
        After::Draw
    }

    /// What Enter was pressed on.
    pub fn chosen(&self) -> Option<&Row> {
        self.rows.get(self.at).filter(|_| self.is_chosen)
    }

    /// The screen in so many rows: a title, the columns, pools, the keys.
    pub fn lines(&self, height: usize) -> Vec<String> {
        let room = height.saturating_sub(4);
        let first = (self.at + 1).saturating_sub(room);
        let mut lines =
            vec![format!("{}: which one?", count(self.rows.len() as u64, "pool")), head()];
        for (i, row) in self.rows.iter().enumerate().skip(first).take(room) {
            let mark = if i == self.at { '>' } else { ' ' };
            let line = format!(
                "{mark} {:<8} {:>9} {:>9} {:>5} {:>5}  {}",
                row.id,
                Size(row.capacity_bytes),
                Size(row.used_bytes),
                row.areas,
                row.pids.len(),
                Printable(&list::shown_name(row))
            );
            lines.push(cut(&line, COLUMNS));
        }
        lines.resize(height.saturating_sub(1), String::new());
        lines.push(HELP.to_owned());
        lines
    }
}

/// The heads of the columns.
fn head() -> String {
    let (capacity, areas) = ("CAPACITY", "AREAS");
    format!("  {:<8} {capacity:>9} {:>9} {areas:>5} {:>5}  NAME", "POOL", "USED", "PROCS")
}
