//! `vmalloc map`: the picture that explains vmalloc.
//!
//! Above the window, in which an area is one run of pages; below it the frames, which lie wherever
//! there was one free; between them what joins the two. As text, as SVG, or as one page of HTML.

mod axis;
mod html;
mod kernel;
mod pool;
mod scene;
mod svg;
#[cfg(test)]
mod tests;
mod text;
mod trace;

use crate::failure::{Done, Failure};
use crate::kernel_info;
use crate::record;
use crate::show::{Printable, count, thousands};
use crate::target;
use clap::Args as ClapArgs;
use scene::Scene;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  vmalloc map                             the only pool there is, in letters
  vmalloc map /dev/shm/frames --html map.html
  sudo \"$(command -v vmalloc)\" map 4711 --svg map.svg
                                          with the real frames behind it
  sudo \"$(command -v vmalloc)\" map --kernel
                                          the machine's own vmalloc areas
  vmalloc map --trace run.trace --html run.html

The window is above: an area is one run of pages there. Below are the frames it
really has: as root those of this machine, read from the page maps of the
members' processes; for everybody else the extents of the pool's file, and the
picture says so. It only looks: it touches no page and takes no member slot.
The page of HTML is one file; it can be hovered and searched, and fetches
nothing.";

/// Pieces that are drawn at most.
const PIECES_MAX: usize = 5000;

/// What to draw, and where to.
#[derive(ClapArgs, Debug)]
#[command(after_help = EXAMPLES)]
pub struct MapArgs {
    /// A pool's path, or the number of a process that has it open [default: the only one].
    #[arg(value_name = "PATH|PID")]
    pub pool: Option<PathBuf>,
    /// Write a picture; - for stdout.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write a page to hover and search, in one file; - for stdout.
    #[arg(long, value_name = "FILE", conflicts_with = "svg")]
    pub html: Option<PathBuf>,
    /// Draw a run that `vmalloc record` kept, with a slider over its time in the page.
    #[arg(long, value_name = "TRACE", conflicts_with_all = ["pool", "kernel"])]
    pub trace: Option<PathBuf>,
    /// Draw the machine's own vmalloc areas, as root.
    #[arg(long, conflicts_with = "pool")]
    pub kernel: bool,
    /// With --kernel: read this copy of /proc/vmallocinfo.
    #[arg(long, requires = "kernel", value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Draws it.
pub fn run(args: &MapArgs) -> Done {
    let mut scene = if args.kernel {
        let path = args.file.as_deref().unwrap_or(Path::new(kernel_info::VMALLOCINFO));
        let entries = kernel_info::read(args.file.as_deref())?;
        kernel::scene(entries, &Printable(&path.display().to_string()).to_string())
    } else if let Some(file) = &args.trace {
        let path = file.display().to_string();
        trace::scene(&record::read(file)?, &Printable(&path).to_string())
    } else {
        pool::scene(&target::one(args.pool.as_deref())?)
    };
    limit(&mut scene);
    match (&args.svg, &args.html) {
        (Some(file), _) => write(file, &svg::draw(&scene)),
        (_, Some(file)) => write(file, &html::page(&scene).map_err(Failure::new)?),
        (None, None) => write(Path::new("-"), &text::draw(&scene)),
    }
}

/// Leaves out the smallest pieces of a picture that has too many, and says so in it.
fn limit(scene: &mut Scene) {
    if scene.pieces.len() <= PIECES_MAX {
        return;
    }
    let mut sizes: Vec<u64> = scene.pieces.iter().map(|piece| piece.pages).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let smallest = sizes[PIECES_MAX - 1];
    let all = scene.pieces.len();
    scene.pieces.retain(|piece| piece.pages >= smallest);
    scene.pieces.truncate(PIECES_MAX);
    scene.facts.push(format!(
        "drawn: the {} largest of {}",
        thousands(scene.pieces.len() as u64),
        count(all as u64, "area")
    ));
}

fn write(file: &Path, text: &str) -> Done {
    if file == Path::new("-") {
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        return written.map_err(|e| Failure::output(&e));
    }
    std::fs::write(file, text).map_err(|e| Failure::new(format_args!("{}: {e}", file.display())))
}
