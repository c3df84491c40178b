//! A terminal as SVG: what tmux captured, cell by cell, as text that can be read and copied.
//!
//! Understands the escape sequences that tmux writes for colours and weights (SGR), and no other.
//! Full blocks become rectangles, so that bars have no gaps whatever the reader's font is.

use std::fmt::Write as _;

const CELL_W: f64 = 8.4;
const CELL_H: f64 = 18.0;
const PAD: f64 = 14.0;
const HEAD_H: f64 = 30.0;
const COLUMNS: usize = 80;

const INK: &str = "#c9d4e0";
const PAPER: &str = "#0f161e";

/// The sixteen colours of a terminal, on a dark ground.
const COLOURS: [&str; 16] = [
    "#3b4756", "#e0605f", "#3fd18a", "#e5c07b", "#6fa8ff", "#c586e0", "#4cc9d6", "#c9d4e0",
    "#7d8896", "#ff8080", "#6ee7a8", "#f2d492", "#9cc4ff", "#e0a8f5", "#7fe3ee", "#ffffff",
];

/// How a cell is painted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Paint {
    ink: Option<usize>,
    paper: Option<usize>,
    is_bold: bool,
    is_underlined: bool,
    is_reversed: bool,
}

/// Cells of one paint, beginning at a column.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Span {
    column: usize,
    text: String,
    paint: Paint,
}

/// The picture of what a terminal shows, under the command that shows it.
pub fn draw(command: &str, shown: &str) -> String {
    let rows: Vec<&str> = shown.lines().collect();
    let width = COLUMNS as f64 * CELL_W + 2.0 * PAD;
    let height = HEAD_H + rows.len() as f64 * CELL_H + PAD;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\"><title>{0}</title>\n<style>\
         text{{font:14px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:{INK};\
         white-space:pre}}.b{{font-weight:700}}</style>\n\
         <rect width=\"{width:.0}\" height=\"{height:.0}\" rx=\"8\" fill=\"{PAPER}\"/>\n\
         <text x=\"{PAD}\" y=\"20\" style=\"fill:#8595a8\">$ {0}</text>\n",
        escaped(command)
    );
    let mut paint = Paint::default();
    for (i, row) in rows.iter().enumerate() {
        let top = HEAD_H + i as f64 * CELL_H;
        for span in spans(row, &mut paint) {
            put(&mut out, &span, top);
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Draws one span in the row that begins at `top`.
fn put(out: &mut String, span: &Span, top: f64) {
    let len = span.text.chars().count();
    let (x, width) = (PAD + span.column as f64 * CELL_W, len as f64 * CELL_W);
    let ink = span.paint.ink.map(|colour| COLOURS[colour]);
    let paper = span.paint.paper.map(|colour| COLOURS[colour]);
    let (ink, paper) = match span.paint.is_reversed {
        true => (paper.unwrap_or(PAPER), Some(ink.unwrap_or(INK))),
        false => (ink.unwrap_or(INK), paper),
    };
    let mut rect = |fill: &str, opacity: f64, y: f64, height: f64| {
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
             fill=\"{fill}\" fill-opacity=\"{opacity}\"/>"
        );
    };
    if let Some(paper) = paper {
        rect(paper, 1.0, top, CELL_H);
    }
    // Bars: a little lower than a row, so that two of them can be told apart.
    for (block, opacity) in [('█', 1.0), ('░', 0.45)] {
        if len > 0 && span.text.chars().all(|c| c == block) {
            return rect(ink, opacity, top + 2.0, CELL_H - 4.0);
        }
    }
    if span.paint.is_underlined {
        rect(ink, 0.5, top + CELL_H - 2.0, 1.0);
    }
    if span.text.trim().is_empty() {
        return;
    }
    let class = if span.paint.is_bold { " class=\"b\"" } else { "" };
    let fill = if ink == INK { String::new() } else { format!(" style=\"fill:{ink}\"") };
    let _ = writeln!(
        out,
        "<text{class} x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{width:.1}\"{fill}>{}</text>",
        top + 13.5,
        escaped(&span.text)
    );
}

/// The spans of a row. `paint` goes on from row to row, as it does in a terminal.
fn spans(row: &str, paint: &mut Paint) -> Vec<Span> {
    let mut found: Vec<Span> = Vec::new();
    let mut column = 0;
    let mut chars = row.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            let sequence: String =
                chars.by_ref().take_while(|c| !c.is_ascii_alphabetic()).collect();
            // What is no SGR has been eaten with its last letter.
            if let Some(numbers) = sequence.strip_prefix('[') {
                apply(numbers, paint);
            }
            continue;
        }
        let is_block = |c: char| matches!(c, '█' | '░');
        match found.last_mut() {
            Some(span) if span.paint == *paint && is_block(c) == span.text.ends_with(is_block) => {
                span.text.push(c);
            }
            _ => found.push(Span { column, text: c.to_string(), paint: *paint }),
        }
        column += 1;
    }
    // What ends in blanks that show nothing would only be stretched.
    for span in &mut found {
        if *span == (Span { paint: plain(span.paint), ..span.clone() }) {
            span.text.truncate(span.text.trim_end().len());
        }
    }
    found.retain(|span| !span.text.is_empty());
    found
}

/// A paint whose blanks show nothing.
fn plain(paint: Paint) -> Paint {
    Paint { paper: None, is_underlined: false, is_reversed: false, ..paint }
}

/// Changes `paint` as the numbers of an SGR sequence say.
fn apply(numbers: &str, paint: &mut Paint) {
    let numbers: Vec<usize> = numbers.split(';').map(|n| n.parse().unwrap_or(0)).collect();
    let mut at = 0;
    while at < numbers.len() {
        match numbers[at] {
            0 => *paint = Paint::default(),
            1 => paint.is_bold = true,
            4 => paint.is_underlined = true,
            7 => paint.is_reversed = true,
            22 => paint.is_bold = false,
            24 => paint.is_underlined = false,
            27 => paint.is_reversed = false,
            n @ 30..=37 => paint.ink = Some(n - 30),
            39 => paint.ink = None,
            n @ 40..=47 => paint.paper = Some(n - 40),
            49 => paint.paper = None,
            n @ 90..=97 => paint.ink = Some(n - 90 + 8),
            n @ 100..=107 => paint.paper = Some(n - 100 + 8),
            // 38;5;N: of 256 colours we know the first sixteen.
            n @ (38 | 48) => {
                let colour = (numbers.get(at + 1) == Some(&5)).then(|| numbers.get(at + 2));
                let colour = colour.flatten().copied().filter(|&colour| colour < COLOURS.len());
                if n == 38 {
                    paint.ink = colour
                } else {
                    paint.paper = colour
                }
                at += if numbers.get(at + 1) == Some(&2) { 4 } else { 2 };
            }
            _ => {}
        }
        at += 1;
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Vec<(usize, String, Paint)> {
        let spans = spans(text, &mut Paint::default());
        spans.into_iter().map(|span| (span.column, span.text, span.paint)).collect()
    }

    /// Goal: colours begin and end where the sequences say, at the columns that the eye counts.
    #[test]
    fn spans_have_their_columns_and_colours() {
        let green = Paint { ink: Some(2), ..Paint::default() };
        assert_eq!(
            row("ab \x1b[32m██\x1b[39m·  "),
            [
                (0, "ab".into(), Paint::default()),
                (3, "██".into(), green),
                (5, "·".into(), Paint::default()),
            ]
        );
        let bright = Paint { ink: Some(12), is_bold: true, ..Paint::default() };
        assert_eq!(row("\x1b[1;38;5;12mx\x1b[0my").first(), Some(&(0, "x".into(), bright)));
        let reversed = Paint { is_reversed: true, ..Paint::default() };
        assert_eq!(row("\x1b[7ma  \x1b[27m  "), [(0, "a  ".into(), reversed)]);
    }

    /// Goal: what is shown is text in the picture, and a bar is a rectangle.
    #[test]
    fn the_picture_has_the_text_and_the_bars() {
        let svg = draw("vmalloc top <1>", "pool <a> & b\n\x1b[32m███\x1b[39m]\n");
        assert!(svg.contains(">pool &lt;a&gt; &amp; b</text>"), "{svg}");
        assert!(svg.contains("<title>vmalloc top &lt;1&gt;</title>"), "{svg}");
        assert!(svg.contains(&format!("width=\"25.2\" height=\"14.0\" fill=\"{}\"", COLOURS[2])));
        assert!(!svg.contains('█') && !svg.contains('\x1b'));
    }
}
