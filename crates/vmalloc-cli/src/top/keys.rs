//! What the keys do.

use super::rows::Screen;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Rows that a page key moves by.
const PAGE: usize = 10;

/// What becomes of the watch after a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// Show what changed.
    Draw,
    /// The user has seen enough.
    Leave,
}

/// Does what a key says.
pub fn press(screen: &mut Screen, key: KeyEvent) -> After {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return if key.code == KeyCode::Char('c') { After::Leave } else { After::Draw };
    }
    if screen.typing {
        type_filter(screen, key.code);
        return After::Draw;
    }
    let at = screen.at();
    match key.code {
        KeyCode::Char('q') => return After::Leave,
        // Out of the detail first, then of the filter, then of the program.
        KeyCode::Esc if screen.detail => screen.detail = false,
        KeyCode::Esc if !screen.filter.is_empty() => screen.filter.clear(),
        KeyCode::Esc => return After::Leave,
        KeyCode::Enter => screen.detail = !screen.detail && screen.selected().is_some(),
        KeyCode::Down | KeyCode::Char('j') => screen.select(at + 1),
        KeyCode::Up | KeyCode::Char('k') => screen.select(at.saturating_sub(1)),
        KeyCode::PageDown => screen.select(at + PAGE),
        KeyCode::PageUp => screen.select(at.saturating_sub(PAGE)),
        KeyCode::Home | KeyCode::Char('g') => screen.select(0),
        KeyCode::End | KeyCode::Char('G') => screen.select(usize::MAX),
        KeyCode::Char('s') => screen.next_sort(),
        KeyCode::Char('r') => screen.reverse = !screen.reverse,
        KeyCode::Char('p') => screen.hides_parked = !screen.hides_parked,
        KeyCode::Char('m') => screen.all_members = !screen.all_members,
        KeyCode::Char(' ') => screen.paused = !screen.paused,
        KeyCode::Char('/') => screen.typing = true,
        _ => {}
    }
    After::Draw
}

fn type_filter(screen: &mut Screen, code: KeyCode) {
    match code {
        KeyCode::Enter => screen.typing = false,
        KeyCode::Esc => {
            screen.typing = false;
            screen.filter.clear();
        }
        KeyCode::Backspace => {
            screen.filter.pop();
        }
        KeyCode::Char(c) => screen.filter.extend(c.to_lowercase()),
        _ => {}
    }
}
