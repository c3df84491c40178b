//! Text for people: what comes from outside made harmless, lines cut and wrapped.
//!
//! Names of pools and paths are chosen by other processes. A terminal obeys what it is sent, so
//! control characters are shown escaped ([`Printable`]), and so are the invisible ones that turn
//! text around.

use std::fmt::{self, Write as _};
use vmalloc_core::{Area, Stats};

/// The columns that everything for people fits in.
pub const COLUMNS: usize = 80;

/// Shows text that somebody else wrote, control characters escaped as Rust escapes them.
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() || turns_text(c) {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Characters that reorder or hide what stands beside them.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Breaks `text` at spaces into lines of at most `width` characters. A longer word stays whole.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The `vmallocinfo` line of an area; with a `width`, without what says nothing (zeros
/// in front of an offset), and then cut.
pub fn area_line(area: &Area, width: Option<usize>) -> String {
    let line = area.to_string();
    let Some(width) = width else { return line };
    let is_offset = area.addr().0 < 1 << 47;
    cut(&if is_offset { line.replacen("0x0000", "0x", 2) } else { line }, width)
}

/// `text` in at most `width` characters, with `…` for what is missing.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// `1 area`, `2 areas`, `12,345 areas`.
pub fn count(number: u64, one: &str) -> String {
    count_of(number, one, &format!("{one}s"))
}

/// The same, for words that need more than an "s".
pub fn count_of(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", thousands(number), if number == 1 { one } else { many })
}

/// What a pool's members did, in two lines: allocations and frees; the rest.
pub fn counted(stats: &Stats) -> [String; 2] {
    let (allocs, frees) = (count(stats.allocs, "alloc"), count(stats.frees, "free"));
    let attaches = count_of(stats.attaches, "attach", "attaches");
    let flushes = count_of(stats.flushes, "flush", "flushes");
    let (revives, failures) = (thousands(stats.revives), thousands(stats.failures));
    [
        format!("{allocs} ({revives} revived), {frees}"),
        format!("{attaches}, {flushes}, {failures} refused"),
    ]
}

/// `12,345`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `part` of `whole` in per cent, `0.3 %`, `47 %`.
pub fn percent(part: u64, whole: u64) -> String {
    let percent = part as f64 * 100.0 / whole.max(1) as f64;
    if percent < 9.95 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(Printable("a\x1b[2Jb\r\nc").to_string(), "a\\u{1b}[2Jb\\r\\nc");
        assert_eq!(Printable("\u{9b}31m\u{202e}x").to_string(), "\\u{9b}31m\\u{202e}x");
        assert_eq!(Printable("größe 1").to_string(), "größe 1");
    }

    #[test]
    fn lines_are_wrapped_and_cut_at_the_width() {
        assert_eq!(wrap("aa bb cc dddddd", 5), ["aa bb", "cc", "dddddd"]);
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abcd", 4), "abcd");
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(count(1, "area"), "1 area");
        assert_eq!(count(0, "area"), "0 areas");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(123), "123");
        assert_eq!(percent(1, 300), "0.3 %");
        assert_eq!(percent(1, 2), "50 %");
    }
}
