//! A line a contender, over the last coordinate of a family; both axes logarithmic.

use super::number;
use crate::runner::Case;
use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 230.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 10] = [
    "#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f",
    "#bcbd22", "#17becf",
];

/// The picture of a family.
pub fn lines(family: &str, cases: &[&Case]) -> String {
    let xs: Vec<f64> = cases.iter().enumerate().map(|(i, case)| coordinate(case, i)).collect();
    let ys = || cases.iter().flat_map(|case| case.rows.iter().map(|row| row.median()));
    let (x_low, x_high) = bounds(xs.iter().copied());
    let (y_low, y_high) = bounds(ys());
    let (y_low, y_high) = (10_f64.powf(y_low.log10().floor()), 10_f64.powf(y_high.log10().ceil()));
    let x = |v: f64| LEFT + share(v, x_low, x_high) * (WIDTH - LEFT - RIGHT);
    let y = |v: f64| HEIGHT - BOTTOM - share(v, y_low, y_high) * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{family}: {}</text>\n",
        cases[0].unit
    );
    let mut tick = y_low;
    while tick <= y_high * 1.001 {
        let (at, right) = (y(tick), WIDTH - RIGHT);
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            number(tick)
        );
        tick *= 10.0;
    }
    for (case, &v) in cases.iter().zip(&xs) {
        let label = case.name.rsplit('/').next().unwrap_or_default();
        let label = label.split_once('=').map_or(label, |(_, value)| value);
        let (at, below) = (x(v), HEIGHT - BOTTOM + 18.0);
        let _ = writeln!(
            out,
            "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{label}</text>"
        );
    }
    let label = cases[0].name.rsplit('/').next().unwrap_or_default();
    let label = label.split('=').next().unwrap_or_default();
    let (mid, below) = (LEFT + (WIDTH - LEFT - RIGHT) / 2.0, HEIGHT - 12.0);
    let _ = writeln!(out, "<text x=\"{mid}\" y=\"{below}\" text-anchor=\"middle\">{label}</text>");
    let mut names: Vec<&str> = Vec::new();
    for row in cases.iter().flat_map(|case| &case.rows) {
        if !names.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    for (i, name) in names.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let width = if i == 0 { 3 } else { 1 };
        let points: Vec<String> = cases
            .iter()
            .zip(&xs)
            .filter_map(|(case, &v)| {
                let row = case.rows.iter().find(|row| row.name == *name)?;
                Some(format!("{:.1},{:.1}", x(v), y(row.median())))
            })
            .collect();
        let (at, right) = (TOP + 18.0 * i as f64, WIDTH - RIGHT + 14.0);
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>\
             <path d=\"M{right} {at}h18\" stroke=\"{colour}\" stroke-width=\"{width}\"/>\
             <text x=\"{}\" y=\"{}\">{name}</text>",
            points.join(" "),
            right + 24.0,
            at + 4.0
        );
    }
    out + "</svg>\n"
}

/// The number after `=` in the last coordinate; the position if there is none.
fn coordinate(case: &Case, i: usize) -> f64 {
    let last = case.name.rsplit('/').next().unwrap_or_default();
    let value = last.split_once('=').map_or("", |(_, value)| value);
    let digits = value.trim_end_matches(|c: char| c.is_alphabetic());
    let unit = match value.trim_start_matches(|c: char| c.is_ascii_digit()) {
        "K" => 1024.0,
        "M" => 1024.0 * 1024.0,
        "G" => 1024.0 * 1024.0 * 1024.0,
        _ => 1.0,
    };
    digits.parse::<f64>().map_or(i as f64 + 1.0, |v| v * unit)
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values
        .filter(|v| v.is_finite() && *v > 0.0)
        .fold((f64::INFINITY, 0.0), |(low, high), v| (low.min(v), high.max(v)))
}

fn share(v: f64, low: f64, high: f64) -> f64 {
    if high <= low { 0.5 } else { (v.max(low) / low).ln() / (high / low).ln() }
}
