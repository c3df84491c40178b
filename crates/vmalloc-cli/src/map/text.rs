//! The picture in letters, for a terminal: the window in rows of cells, and below it, in the same
//! letters, what backs it. One sees which areas are in how many pieces, and where they went.

use super::axis::Axis;
use super::scene::{Below, Piece, Scene, address};
use crate::show::{COLUMNS, count, cut};
use crate::size::Size;
use vmalloc::core::Pages;

const CELLS: usize = 64;
const WINDOW_ROWS: usize = 6;
const BELOW_ROWS: usize = 4;
/// Letters for the largest pieces; the others get their group's sign.
const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
/// A fold, and addresses with nothing in them.
const FOLD: char = '~';
const HOLE: char = '.';

/// The picture, in lines of at most 80 columns.
pub fn draw(scene: &Scene) -> String {
    let letters = letters(scene);
    let shown_at = scene.fullest();
    let mut lines = vec![scene.title.clone()];
    lines.extend(scene.facts.iter().map(|fact| format!("  {fact}")));
    lines.push(String::new());
    let order = if scene.is_order_only { " in the order of the list" } else { "" };
    lines.push(format!("pages{order}: a letter an area, . free, ~ a longer gap folded"));
    let there = || scene.pieces.iter().enumerate().filter(|(_, piece)| piece.is_there(shown_at));
    let spans = there().map(|(i, piece)| (i, piece.start, piece.pages));
    let above = scene.above((CELLS * WINDOW_ROWS) as f64);
    let name: &dyn Fn(u64) -> String =
        if scene.is_order_only { &|_| String::new() } else { &address };
    rows(&mut lines, &above, WINDOW_ROWS, &cells(&above, WINDOW_ROWS, spans, &letters), name);
    if let Below::Time(_) = scene.below {
        lines.push(format!("  at {shown_at:.6} s, when it was fullest"));
    } else {
        let title = scene.below_title();
        let scatter = scene.scatter().unwrap_or_else(|| "nothing is known of them".to_owned());
        lines.extend(["".to_owned(), title, format!("  {scatter}")]);
        let below = scene.below((CELLS * BELOW_ROWS) as f64);
        let runs = there().flat_map(|(i, piece)| piece.runs.iter().map(move |r| (i, r.at, r.len)));
        let name = |at: u64| scene.place(at).replace("file ", "");
        rows(&mut lines, &below, BELOW_ROWS, &cells(&below, BELOW_ROWS, runs, &letters), &name);
    }
    lines.push(String::new());
    legend(&mut lines, scene, &letters);
    lines.iter().map(|line| cut(line, COLUMNS) + "\n").collect()
}

/// The largest pieces get letters of their own.
fn letters(scene: &Scene) -> Vec<char> {
    let mut by_size: Vec<usize> = (0..scene.pieces.len()).collect();
    by_size.sort_by_key(|&i| std::cmp::Reverse(scene.pieces[i].pages));
    let mut letters: Vec<char> =
        scene.pieces.iter().map(|p| scene.groups[p.group].letter.to_ascii_lowercase()).collect();
    for (i, letter) in by_size.into_iter().zip(LETTERS.chars()) {
        letters[i] = letter;
    }
    letters
}

/// What each cell shows: whoever covers most of it.
fn cells(
    axis: &Axis,
    rows: usize,
    spans: impl Iterator<Item = (usize, u64, u64)>,
    letters: &[char],
) -> Vec<char> {
    let mut most = vec![(0.0_f64, HOLE); CELLS * rows];
    let last = most.len() - 1;
    for segment in axis.segments().iter().filter(|segment| segment.is_fold) {
        let (from, to) = (segment.x, segment.x + segment.width);
        for cell in &mut most[(from as usize).min(last)..=(to.ceil() as usize - 1).min(last)] {
            *cell = (0.0, FOLD);
        }
    }
    for (piece, start, len) in spans {
        let (from, to) = (axis.x(start), axis.x(start.saturating_add(len)));
        let first = (from as usize).min(last);
        for (i, cell) in most[first..=(to as usize).min(last)].iter_mut().enumerate() {
            let x = (first + i) as f64;
            let covers = to.min(x + 1.0) - from.max(x);
            // However small it is, it is shown where there is nothing else.
            if covers > cell.0 || (cell.1 == HOLE && covers >= 0.0 && i == 0) {
                *cell = (covers, letters[piece]);
            }
        }
    }
    most.into_iter().map(|(_, letter)| letter).collect()
}

/// Rows of cells, each with the place at which it begins.
fn rows(
    lines: &mut Vec<String>,
    axis: &Axis,
    rows: usize,
    cells: &[char],
    name: &dyn Fn(u64) -> String,
) {
    for row in 0..rows {
        let x = (row * CELLS) as f64;
        let first = axis.segments().iter().find(|s| x < s.x + s.width || s.x >= x);
        let place = first.filter(|s| !s.is_fold).map(|s| {
            let into = ((x - s.x).max(0.0) / s.width.max(1e-9) * (s.end - s.start) as f64) as u64;
            name(s.start + into)
        });
        let cells: String = cells[row * CELLS..][..CELLS].iter().collect();
        lines.push(format!("{:>14} {cells}", place.unwrap_or_default()));
    }
}

fn legend(lines: &mut Vec<String>, scene: &Scene, letters: &[char]) {
    let mut named: Vec<(char, &Piece)> =
        letters.iter().copied().zip(&scene.pieces).filter(|(c, _)| c.is_uppercase()).collect();
    named.sort_by_key(|(letter, _)| *letter);
    for (letter, piece) in named {
        let place = if scene.is_order_only { String::new() } else { address(piece.start) + " " };
        let runs = match (&scene.below, piece.runs.len()) {
            (Below::Time(_), _) | (_, 0) => String::new(),
            (_, runs) => format!(", {}", count(runs as u64, "run")),
        };
        let size = Size(Pages(piece.pages).bytes());
        let group = scene.groups[piece.group].name;
        let label = if piece.label.is_empty() { group } else { &piece.label };
        lines.push(format!("  {letter} {place}{size}{runs}  {label} {}", piece.more));
    }
    let rest = scene.pieces.len().saturating_sub(LETTERS.len());
    if rest > 0 {
        let mut signs: Vec<String> = Vec::new();
        for (g, group) in scene.groups.iter().enumerate() {
            if scene.pieces.iter().any(|piece| piece.group == g) {
                signs.push(format!("{} {}", group.letter.to_ascii_lowercase(), group.name));
            }
        }
        lines.push(format!("  and {} smaller: {}", count(rest as u64, "area"), signs.join(", ")));
    }
}
