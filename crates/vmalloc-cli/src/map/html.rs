//! The picture as one page: the SVG, a list of its pieces, and a script that joins the two.
//!
//! No network, no library. Everything that came from outside stands in the page as text only:
//! escaped in the markup, and in the data with `<` written so that no markup can end it.

use super::scene::{Below, Scene, address};
use super::svg::{draw, escaped};
use crate::size::Size;
use serde::Serialize;
use vmalloc::core::Pages;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

#[derive(Serialize)]
struct Data {
    pieces: Vec<Row>,
    /// Of a recorded run.
    seconds: Option<f64>,
    shown_at: f64,
}

#[derive(Serialize)]
struct Row {
    place: String,
    size: String,
    pages: u64,
    state: &'static str,
    label: String,
    more: String,
    runs: usize,
    story: String,
    life: Option<(f64, f64)>,
    colour: String,
}

/// The page.
pub fn page(scene: &Scene) -> Result<String, serde_json::Error> {
    let row = |(i, piece): (usize, &super::scene::Piece)| Row {
        place: if scene.is_order_only { String::new() } else { address(piece.start) },
        size: Size(Pages(piece.pages).bytes()).to_string(),
        pages: piece.pages,
        state: scene.groups[piece.group].name,
        label: piece.label.clone(),
        more: piece.more.clone(),
        runs: piece.runs.len(),
        story: piece.story(scene),
        life: piece.life,
        colour: scene.colour(i),
    };
    let seconds = match scene.below {
        Below::Time(seconds) => Some(seconds),
        _ => None,
    };
    let data = Data {
        pieces: scene.pieces.iter().enumerate().map(row).collect(),
        seconds,
        shown_at: scene.fullest(),
    };
    // Inside a script only `<` can end anything.
    let data = serde_json::to_string(&data)?.replace('<', "\\u003c");
    let title = escaped(&scene.title);
    let slider = match seconds {
        Some(seconds) => format!(
            "<label class=\"time\">time <input id=\"time\" type=\"range\" min=\"0\" max=\"{seconds}\" \
             step=\"any\"><output id=\"at\"></output></label>"
        ),
        None => String::new(),
    };
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\
         <title>{title}</title><style>{STYLE}</style></head><body>\n<main>{}</main>\n\
         <form><input id=\"search\" type=\"search\" placeholder=\"search: token, owner, caller, state, \
         size or address\" autofocus><output id=\"found\"></output>{slider}</form>\n\
         <div class=\"lower\"><table><thead><tr><th>where<th>size<th>state<th>runs<th>what</tr></thead>\
         <tbody id=\"rows\"></tbody></table><pre id=\"story\">hover a piece, or click one</pre></div>\n\
         <script id=\"data\" type=\"application/json\">{data}</script><script>{SCRIPT}</script>\
         </body></html>\n",
        draw(scene)
    ))
}
