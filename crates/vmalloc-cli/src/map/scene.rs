//! What a picture shows, wherever it comes from: pieces above, what backs them below.
//!
//! ```text
//!   pool ────┐                    ┌─▶ svg ─▶ html
//!   kernel ──┼─▶ Scene ─▶ Axis ×2 ┤
//!   trace ───┘                    └─▶ text
//! ```

use super::axis::Axis;
use crate::show::{count, thousands};
use crate::size::Size;
use vmalloc::core::{PAGE_SIZE, Pages};

/// A picture to be drawn.
#[derive(Debug)]
pub struct Scene {
    /// One line.
    pub title: String,
    /// What there is to know at a glance, a line each.
    pub facts: Vec<String>,
    /// Kinds of pieces, for the legend.
    pub groups: Vec<Group>,
    /// In address order.
    pub pieces: Vec<Piece>,
    /// The pages that the pieces lie in, first and length; holes at the ends are part of it.
    pub window: (u64, u64),
    /// Addresses are made up: pieces lie in the order in which they were listed.
    pub is_order_only: bool,
    /// What the lower line is, and how a place on it is written.
    pub below: Below,
}

/// A kind of piece.
#[derive(Clone, PartialEq, Debug)]
pub struct Group {
    pub name: &'static str,
    /// In the text picture, where pieces have no letter of their own.
    pub letter: char,
    /// Of the strip that marks it.
    pub colour: &'static str,
    /// Nobody uses it: drawn without a colour of its own.
    pub is_grey: bool,
}

/// What the lower line shows.
#[derive(Clone, PartialEq, Debug)]
pub enum Below {
    /// Physical frames, by number. The text says how they are known.
    Frames(String),
    /// Places in the pool's file. The text says why not frames.
    File(String),
    /// Nodes of the machine's memory: `node << NODE_SHIFT | page`.
    Nodes(String),
    /// Time: nothing is below, the lives of the pieces are. Seconds.
    Time(f64),
}

/// In [`Below::Nodes`], the bits of a page within its node.
pub const NODE_SHIFT: u32 = 44;

/// An area.
#[derive(Clone, PartialEq, Debug)]
pub struct Piece {
    /// Its first page.
    pub start: u64,
    pub pages: u64,
    /// Pages behind it that are never mapped.
    pub guard: u64,
    /// Index into [`Scene::groups`].
    pub group: usize,
    /// `3 MiB live, member 2`.
    pub label: String,
    /// Token, caller and the like.
    pub more: String,
    /// What backs it.
    pub runs: Vec<Run>,
    /// When it came and went, in seconds; `None`: it is there.
    pub life: Option<(f64, f64)>,
}

/// Neighbouring pages that are backed by neighbours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first page, counted from the piece's.
    pub page: u64,
    /// Where on the lower line.
    pub at: u64,
    pub len: u64,
}

/// `0x…`: an address or offset of a page.
pub fn address(page: u64) -> String {
    format!("{:#x}", page.saturating_mul(PAGE_SIZE as u64))
}

impl Scene {
    /// The axis of pages.
    pub fn above(&self, width: f64) -> Axis {
        let (start, len) = self.window;
        let mut spans: Vec<(u64, u64)> =
            self.pieces.iter().map(|p| (p.start, p.pages + p.guard)).collect();
        let used: u64 = spans.iter().map(|span| span.1).sum();
        spans.extend([(start, 0), (start.saturating_add(len), 0)]);
        Axis::new(&spans, width, used / 8)
    }

    /// The axis of what is below.
    pub fn below(&self, width: f64) -> Axis {
        let runs = self.pieces.iter().flat_map(|piece| &piece.runs);
        let spans: Vec<(u64, u64)> = runs.map(|run| (run.at, run.len)).collect();
        let used: u64 = spans.iter().map(|span| span.1).sum();
        Axis::new(&spans, width, used / 8)
    }

    /// The colour of a piece: one of its own, so that its ribbons can be told from others'; what
    /// is free already is grey.
    pub fn colour(&self, index: usize) -> String {
        // The golden angle: neighbours are far apart, and so are the first hundred.
        let hue = (index as f64 * 137.508 + 150.0) % 360.0;
        let lightness = 58.0 + (index % 3) as f64 * 5.0;
        match self.groups[self.pieces[index].group].is_grey {
            true => format!("hsl(215 9% {:.0}%)", lightness - 16.0),
            false => format!("hsl({hue:.0} 62% {lightness:.0}%)"),
        }
    }

    /// A place on the lower line, as text.
    pub fn place(&self, at: u64) -> String {
        match self.below {
            Below::Frames(_) => format!("pfn {at:#x}"),
            Below::File(_) => format!("file {}", address(at)),
            Below::Nodes(_) => format!("node {}", at >> NODE_SHIFT),
            Below::Time(_) => String::new(),
        }
    }

    /// What the lower line is called.
    pub fn below_title(&self) -> String {
        match &self.below {
            Below::Frames(how) | Below::File(how) | Below::Nodes(how) => how.clone(),
            Below::Time(seconds) => format!("the lives of the areas, {seconds:.3} s downwards"),
        }
    }

    /// `29,952 pages in 1,204 runs, the longest of 512`, if anything is known.
    pub fn scatter(&self) -> Option<String> {
        let runs = || self.pieces.iter().flat_map(|piece| &piece.runs);
        let longest = runs().map(|run| run.len).max()?;
        let pages: u64 = runs().map(|run| run.len).sum();
        Some(format!(
            "{} in {}, the longest of {}",
            count(pages, "page"),
            count(runs().count() as u64, "run"),
            thousands(longest)
        ))
    }

    /// The second that most pages are alive at.
    pub fn fullest(&self) -> f64 {
        let mut changes: Vec<(f64, i64)> = Vec::new();
        for piece in &self.pieces {
            if let Some((born, died)) = piece.life {
                changes.extend([(born, piece.pages as i64), (died, -(piece.pages as i64))]);
            }
        }
        // Who goes at the moment at which another comes has gone.
        changes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let (mut now, mut most, mut at) = (0, 0, 0.0);
        for (when, change) in changes {
            now += change;
            if now > most {
                (most, at) = (now, when);
            }
        }
        at
    }
}

impl Piece {
    /// Whether it is there at a time.
    pub fn is_there(&self, at: f64) -> bool {
        self.life.is_none_or(|(born, died)| (born..died).contains(&at))
    }

    /// All that is known, a line each.
    pub fn story(&self, scene: &Scene) -> String {
        let group = scene.groups[self.group].name;
        let place = if scene.is_order_only { String::new() } else { address(self.start) + "  " };
        let mut text = format!("{place}{}  {group}", Size(Pages(self.pages).bytes()));
        for line in [&self.label, &self.more] {
            if !line.is_empty() {
                text += "\n";
                text += line;
            }
        }
        if let (Some(first), false) = (self.runs.first(), matches!(scene.below, Below::Time(_))) {
            let runs = count(self.runs.len() as u64, "run");
            text += &format!("\n{runs} below, the first at {}", scene.place(first.at));
        }
        if let Some((born, died)) = self.life {
            text += &format!("\nfrom {born:.6} s to {died:.6} s");
        }
        text
    }
}

/// A group for each state of a pool's areas, in the order of [`vmalloc::core::Kind`].
pub fn states() -> Vec<Group> {
    [
        ("free", '.', "#4a5868"),
        ("building", 'b', "#e05fb5"),
        ("live", 'L', "#3fd18a"),
        ("frozen", 'F', "#5db8ff"),
        ("shared", 'S', "#b48cff"),
        ("dying", 'D', "#f2b544"),
        ("parked", 'p', "#7d8896"),
        ("purging", 'u', "#e0605f"),
        ("given", 'G', "#9adbd0"),
    ]
    .map(|(name, letter, colour)| Group {
        name,
        letter,
        colour,
        is_grey: matches!(letter, '.' | 'p'),
    })
    .into()
}
