//! The picture as SVG: two lines, and ribbons from each run of pages to what backs it.
//!
//! It stands alone: fonts are the reader's, nothing is fetched, every shape has a title to hover.
//! Shapes of a piece bear its index as class, which is what the page around it works with.

use super::axis::{Axis, Segment};
use super::scene::{Below, Piece, Scene, address};
use crate::size::Size;
use std::collections::HashSet;
use std::fmt::Write as _;
use vmalloc::core::Pages;

const WIDTH: f64 = 1280.0;
const MARGIN: f64 = 28.0;
const DRAWN: f64 = WIDTH - 2.0 * MARGIN;
const WINDOW_Y: f64 = 150.0;
const WINDOW_H: f64 = 54.0;
const BELOW_Y: f64 = 500.0;
const BELOW_H: f64 = 54.0;
const HEIGHT: f64 = 640.0;
/// Where lives begin and end, in a picture over time.
const LIVES_Y: f64 = 232.0;
const LIVES_H: f64 = 330.0;
/// Ribbons that are drawn at most: more would be a haze.
const RIBBONS_MAX: usize = 4000;
/// A label is put into a piece that is as wide.
const LABEL_MIN: f64 = 46.0;

const STYLE: &str = "\
text{font-family:ui-sans-serif,system-ui,'DejaVu Sans',sans-serif;fill:#c9d4e0;font-size:13px}\
.t{font-size:21px;font-weight:600;fill:#f2f6fa}.h{font-size:14px;font-weight:600;fill:#f2f6fa}\
.m{fill:#8595a8;font-size:12px}.i{fill:#0c1218;font-size:11px;font-weight:600;pointer-events:none}\
.k{font-family:ui-monospace,'DejaVu Sans Mono',monospace;font-size:11px;fill:#8595a8}";

/// The picture.
pub fn draw(scene: &Scene) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\"><style>{STYLE}</style>\
         <defs><pattern id=\"hole\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\" \
         patternTransform=\"rotate(45)\"><rect width=\"7\" height=\"7\" fill=\"#18212b\"/>\
         <rect width=\"1\" height=\"7\" fill=\"#243140\"/></pattern></defs>\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"10\" fill=\"#0f161e\"/>\n"
    );
    heading(&mut out, scene);
    let above = scene.above(DRAWN);
    let order =
        if scene.is_order_only { ", in the order of the list: addresses are hidden" } else { "" };
    text(&mut out, MARGIN, WINDOW_Y - 27.0, "h", &format!("window: pages{order}"));
    track(&mut out, &above, WINDOW_Y, WINDOW_H);
    let shown_at = scene.fullest();
    match scene.below {
        Below::Time(seconds) => lives(&mut out, scene, &above, seconds, shown_at),
        _ => ribbons_and_below(&mut out, scene, &above),
    }
    for (i, piece) in scene.pieces.iter().enumerate() {
        let x = above.x(piece.start);
        let end = above.x(piece.start + piece.pages);
        let hidden = if piece.is_there(shown_at) { "" } else { " off" };
        shape(&mut out, scene, i, (x, end - x, WINDOW_Y, WINDOW_H), &format!("w{hidden}"));
        strip(&mut out, scene, i, (x, end - x), hidden);
        let is_wide = end - x >= LABEL_MIN;
        if is_wide {
            let size = Size(Pages(piece.pages).bytes()).to_string();
            let y = WINDOW_Y + WINDOW_H / 2.0 + 4.0;
            let _ = writeln!(
                out,
                "<text class=\"i p{i}{hidden}\" x=\"{:.1}\" y=\"{y}\" text-anchor=\"middle\">{size}</text>",
                MARGIN + f64::midpoint(x, end)
            );
        }
    }
    if !scene.is_order_only {
        scale(&mut out, &above, WINDOW_Y - 8.0, &address);
    }
    legend(&mut out, scene);
    out.push_str("</svg>\n");
    out
}

fn heading(out: &mut String, scene: &Scene) {
    text(out, MARGIN, 40.0, "t", &scene.title);
    for (i, fact) in scene.facts.iter().enumerate() {
        text(out, MARGIN, 64.0 + i as f64 * 19.0, "", fact);
    }
}

/// Ribbons first, so that the lines lie over their ends.
fn ribbons_and_below(out: &mut String, scene: &Scene, above: &Axis) {
    let below = scene.below(DRAWN);
    let scatter = scene.scatter().unwrap_or_else(|| "nothing is known of them".to_owned());
    let missing = ribbons(out, scene, above, &below);
    let mut title = format!("{}: {scatter}", scene.below_title());
    if missing > 0 {
        let _ = write!(title, " ({missing} joins more are not drawn)");
    }
    track(out, &below, BELOW_Y, BELOW_H);
    for (i, piece) in scene.pieces.iter().enumerate() {
        let mut drawn = HashSet::new();
        for run in &piece.runs {
            let x = below.x(run.at);
            let width = below.x(run.at + run.len) - x;
            // Those that fall on one pixel are one.
            if width >= 0.7 || drawn.insert((x * 2.0) as i64) {
                shape(out, scene, i, (x, width, BELOW_Y, BELOW_H), "f");
            }
        }
    }
    scale(out, &below, BELOW_Y + BELOW_H + 15.0, &|at| scene.place(at));
    text(out, MARGIN, BELOW_Y + BELOW_H + 36.0, "h", &title);
}

fn ribbons(out: &mut String, scene: &Scene, above: &Axis, below: &Axis) -> usize {
    let mut seen = HashSet::new();
    let mut all: Vec<(usize, [f64; 4])> = Vec::new();
    for (i, piece) in scene.pieces.iter().enumerate() {
        for run in &piece.runs {
            let (a, b) = (piece.start + run.page, run.at);
            let x = [above.x(a), above.x(a + run.len), below.x(b), below.x(b + run.len)]
                .map(|x| x + MARGIN);
            // Those that fall on the same pixels are one.
            if seen.insert((i, x[0] as i64, x[2] as i64)) {
                all.push((i, x));
            }
        }
    }
    // Of too many every second, or third, of every piece; and the more there are, the fainter.
    let step = all.len().div_ceil(RIBBONS_MAX).max(1);
    let drawn = all.len().div_ceil(step);
    let opacity = (900.0 / drawn.max(1) as f64).sqrt().clamp(0.3, 0.6);
    for (i, x) in all.iter().step_by(step) {
        ribbon(out, *i, &scene.colour(*i), *x, opacity);
    }
    all.len() - drawn
}

/// A ribbon from `x[0]..x[1]` above to `x[2]..x[3]` below; a line, if it is as thin as one.
fn ribbon(out: &mut String, i: usize, colour: &str, x: [f64; 4], opacity: f64) {
    let (top, bottom) = (WINDOW_Y + WINDOW_H, BELOW_Y);
    let middle = f64::midpoint(top, bottom);
    let [a, b, c, d] = x;
    let down = format!("M{a:.1} {top}C{a:.1} {middle} {c:.1} {middle} {c:.1} {bottom}");
    let _ = if (b - a).max(d - c) < 1.2 {
        writeln!(
            out,
            "<path class=\"r p{i}\" d=\"{down}\" fill=\"none\" stroke=\"{colour}\" \
             stroke-width=\"0.8\" stroke-opacity=\"{opacity:.2}\"/>"
        )
    } else {
        writeln!(
            out,
            "<path class=\"r p{i}\" d=\"{down}H{d:.1}C{d:.1} {middle} {b:.1} {middle} {b:.1} \
             {top}Z\" fill=\"{colour}\" fill-opacity=\"0.32\" stroke=\"{colour}\" \
             stroke-width=\"0.6\" stroke-opacity=\"0.4\"/>"
        )
    };
}

/// What state a piece is in, as a strip along its upper edge.
fn strip(out: &mut String, scene: &Scene, i: usize, (x, width): (f64, f64), hidden: &str) {
    let colour = scene.groups[scene.pieces[i].group].colour;
    let _ = writeln!(
        out,
        "<rect class=\"w s p{i}{hidden}\" x=\"{:.2}\" y=\"{WINDOW_Y}\" width=\"{:.2}\" \
         height=\"7\" fill=\"{colour}\" stroke=\"#0f161e\" stroke-width=\"0.5\"/>",
        x + MARGIN,
        width.max(0.7)
    );
}

/// The lives of the pieces, time running down, and a line at the moment that is shown above.
fn lives(out: &mut String, scene: &Scene, above: &Axis, seconds: f64, shown_at: f64) {
    let y = |at: f64| LIVES_Y + at / seconds.max(1e-9) * LIVES_H;
    let _ = writeln!(
        out,
        "<rect x=\"{MARGIN}\" y=\"{LIVES_Y}\" width=\"{DRAWN}\" height=\"{LIVES_H}\" fill=\"#141c25\"/>"
    );
    for (i, piece) in scene.pieces.iter().enumerate() {
        let (born, died) = piece.life.unwrap_or((0.0, seconds));
        let (x, end) = (above.x(piece.start), above.x(piece.start + piece.pages));
        let height = (y(died) - y(born)).max(0.6);
        shape(out, scene, i, (x, end - x, y(born), height), "l");
    }
    let _ = writeln!(
        out,
        "<line id=\"now\" x1=\"{MARGIN}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#fff\" \
         stroke-opacity=\"0.7\" data-top=\"{LIVES_Y}\" data-height=\"{LIVES_H}\"/>",
        MARGIN + DRAWN,
        y(shown_at),
        y(shown_at)
    );
    text(out, MARGIN, LIVES_Y + LIVES_H + 20.0, "h", &scene.below_title());
}

/// A rectangle of a piece: left, width, top, height.
fn shape(out: &mut String, scene: &Scene, i: usize, at: (f64, f64, f64, f64), class: &str) {
    let (x, width, y, height) = at;
    // Frames are too many to say it again at each.
    let title = match class {
        "f" => String::new(),
        _ => format!("<title>{}</title>", escaped(&scene.pieces[i].story(scene))),
    };
    let _ = writeln!(
        out,
        "<rect class=\"{class} p{i}\" x=\"{:.2}\" y=\"{y:.1}\" width=\"{:.2}\" height=\"{height:.1}\" \
         fill=\"{}\">{title}</rect>",
        x + MARGIN,
        // A hair between neighbours, which is where the guard page is.
        if width > 3.0 { width - 0.8 } else { width.max(0.7) },
        scene.colour(i)
    );
}

/// The ground of a line: holes hatched, folds as gaps with a word.
fn track(out: &mut String, axis: &Axis, y: f64, height: f64) {
    for segment in axis.segments() {
        let x = segment.x + MARGIN;
        if segment.is_fold {
            let middle = x + segment.width / 2.0;
            let free = Size(Pages(segment.end - segment.start).bytes());
            let _ = writeln!(
                out,
                "<g><title>{free} with nothing in it, not drawn</title><path d=\"M{:.1} {:.1}l5 {:.1}M{:.1} \
                 {:.1}l5 {:.1}\" stroke=\"#5b6c80\" stroke-width=\"1.4\"/><rect x=\"{x:.1}\" y=\"{y}\" \
                 width=\"{:.1}\" height=\"{height}\" fill-opacity=\"0\"/></g>",
                middle - 5.0,
                y + height - 12.0,
                24.0 - height,
                middle,
                y + height - 12.0,
                24.0 - height,
                segment.width
            );
        } else {
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"{height}\" rx=\"2\" \
                 fill=\"url(#hole)\"/>",
                segment.width.max(1.0)
            );
        }
    }
}

/// Where the pieces of an axis begin, as far as there is room to say it.
fn scale(out: &mut String, axis: &Axis, y: f64, word: &dyn Fn(u64) -> String) {
    let mut free_from = 0.0;
    for Segment { start, x, .. } in axis.segments().iter().filter(|segment| !segment.is_fold) {
        let label = word(*start);
        let width = label.chars().count() as f64 * 6.8;
        if *x >= free_from && x + width <= DRAWN {
            text(out, x + MARGIN, y, "k", &label);
            free_from = x + width + 12.0;
        }
    }
}

fn legend(out: &mut String, scene: &Scene) {
    let y = HEIGHT - 24.0;
    let mut x = MARGIN;
    for (g, group) in scene.groups.iter().enumerate() {
        let of_it = |piece: &&Piece| piece.group == g;
        let there = scene.pieces.iter().filter(of_it).count();
        if there == 0 {
            continue;
        }
        let pages: u64 = scene.pieces.iter().filter(of_it).map(|piece| piece.pages).sum();
        let word = format!("{} {} ({})", there, group.name, Size(Pages(pages).bytes()));
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\" rx=\"2\" \
             fill=\"{}\"/>",
            y - 10.0,
            group.colour
        );
        text(out, x + 18.0, y, "", &word);
        x += 40.0 + word.chars().count() as f64 * 7.2;
    }
    let holes = "hatched: free · //: a longer gap, folded";
    let _ = writeln!(
        out,
        "<text class=\"m\" x=\"{:.1}\" y=\"{y}\" text-anchor=\"end\">{holes}</text>",
        WIDTH - MARGIN
    );
}

fn text(out: &mut String, x: f64, y: f64, class: &str, words: &str) {
    let words = escaped(words);
    let _ = writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>");
}

/// Text that XML and HTML take as text, whoever wrote it.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push('\n'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
