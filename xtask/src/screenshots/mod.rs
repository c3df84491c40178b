//! `cargo xtask screenshots`: the pictures in `docs/img`, taken from real pools at work.
//!
//! ```text
//!   build ─┬─ demo --stay ──┬─ map --html ─▶ page ─▶ map.webp
//!          │  (4 processes) ├─ top, Enter ─▶ pane ─▶ top-area.svg
//!          ├─ demo --stay, small ─ map --svg ────────▶ pool.svg
//!          ├─ stress --case kill ─── top ─▶ pane ─▶ top.svg
//!          ├─ record demo ─ map --trace ──▶ page ─▶ run.webp
//!          └─ as root: map --kernel ──────▶ page ─▶ kernel.webp, info --kernel ─▶ kernel-info.svg
//! ```
//!
//! A *pane* is one of tmux, 80 columns by 24 rows, read cell by cell and drawn as SVG by
//! [`terminal`]; a *page* is opened by a browser without a window, and kept as WebP: ten thousand
//! ribbons are four times as much as PNG. Each command is printed as it
//! is run, so that whoever wants another picture knows what to type.

mod shot;
mod terminal;

use crate::run::{self, Profile};
use shot::{Browser, Pane, Running};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a command of ours may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// A picture that is larger is none for a repository.
const PICTURE_BYTES_MAX: u64 = 200 << 10;

/// What makes the pictures, and where they go.
struct Studio {
    vmalloc: PathBuf,
    browser: Browser,
    tmux: PathBuf,
    scratch: PathBuf,
    pictures: PathBuf,
}

/// Takes every picture. Whether all were taken.
pub fn run(root: &Path) -> bool {
    let taken = Studio::open(root).and_then(|studio| studio.take_all());
    if let Err(why) = &taken {
        println!("screenshots: {why}");
    }
    taken.is_ok()
}

impl Studio {
    /// Looks for the tools, and builds the command.
    fn open(root: &Path) -> Result<Studio, String> {
        let missing = |what: &str, package: &str| {
            format!(
                "there is no {what} on the PATH: install it (Debian: apt-get install {package})"
            )
        };
        let tmux = shot::find(&["tmux"]).ok_or_else(|| missing("tmux", "tmux"))?;
        let browser = shot::find(&["chromium", "chromium-browser", "google-chrome"])
            .ok_or_else(|| missing("chromium", "chromium"))?;
        let vmalloc = run::build_vmalloc(root, Profile::Release)?;
        let scratch = run::target_dir(root).join("screenshots");
        std::fs::create_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
        Ok(Studio {
            vmalloc,
            browser: Browser { program: browser, profile: scratch.join("profile") },
            tmux,
            scratch,
            pictures: root.join("docs/img"),
        })
    }

    fn take_all(&self) -> Result<(), String> {
        self.demo()?;
        self.small()?;
        self.kill()?;
        self.recorded()?;
        if shot::is_root() {
            self.kernel()?;
        } else {
            println!("skipped: kernel.webp, kernel-info.svg: the kernel shows its areas to root");
        }
        Ok(())
    }

    /// The one block of the demo: the page of `map`, and its frames in `top`.
    fn demo(&self) -> Result<(), String> {
        let demo = self.stay(&["demo", "--pool", "64M", "--members", "4", "--seed", "7"])?;
        let pid = demo.pid().to_string();
        self.page(&["map", &pid], "#shared", "map.webp", (1240, 800))?;
        let mut pane = self.pane(&["top", &pid, "--sort", "size"], "areas by size")?;
        pane.press("Enter", "pages in")?;
        self.keep(&mut pane, "top-area.svg")
    }

    /// A pool that is small enough for every frame to be seen.
    fn small(&self) -> Result<(), String> {
        let demo = self.stay(&["demo", "--pool", "1M", "--seed", "7"])?;
        self.command(&["map", &demo.pid().to_string(), "--svg", "pool.svg"])?;
        let (drawn, svg) = (self.scratch.join("pool.svg"), self.pictures.join("pool.svg"));
        std::fs::copy(&drawn, &svg).map_err(|e| format!("{}: {e}", drawn.display()))?;
        weigh(&svg)
    }

    /// Four members at work, and one that kills and replaces them.
    fn kill(&self) -> Result<(), String> {
        let args = "stress --case kill --loops 1000000 --pool 64M --seed 7";
        let stress = self.start(&args.split(' ').collect::<Vec<_>>())?;
        let pid = stress.pid().to_string();
        shot::wait_for("the pool of `vmalloc stress`", || {
            let mut look = std::process::Command::new(&self.vmalloc);
            run::capture(look.args(["info", &pid]), COMMAND_LIMIT)
        })?;
        let mut pane = self.pane(&["top", &pid, "--sort", "size"], "(over ")?;
        // Let the rates be those of work that has got going.
        std::thread::sleep(Duration::from_secs(3));
        // One of the five may just be dead.
        pane.wait_for("\n5 members")?;
        self.keep(&mut pane, "top.svg")
    }

    /// A recorded run, over time.
    fn recorded(&self) -> Result<(), String> {
        let demo = "-- ../release/vmalloc demo --pool 64M --seed 7";
        let record = format!("record -o run.trace {demo}");
        self.command(&record.split(' ').collect::<Vec<_>>())?;
        self.page(&["map", "--trace", "run.trace"], "", "run.webp", (1240, 800))
    }

    /// The machine's own areas.
    fn kernel(&self) -> Result<(), String> {
        self.page(&["map", "--kernel"], "", "kernel.webp", (1240, 800))?;
        let mut pane = self.pane(&["info", "--kernel", "|", "head", "-n", "23"], "BY CALLER")?;
        self.keep(&mut pane, "kernel-info.svg")
    }

    /// Starts a demo and waits until all are attached and it stays so.
    fn stay(&self, args: &[&str]) -> Result<Running, String> {
        let mut demo = self.start(&[args, &["--stay", "600"]].concat())?;
        demo.wait_for_line("vmalloc top")?;
        Ok(demo)
    }

    fn start(&self, args: &[&str]) -> Result<Running, String> {
        println!("$ vmalloc {} &", args.join(" "));
        Running::start(&self.vmalloc, args)
    }

    fn command(&self, args: &[&str]) -> Result<(), String> {
        println!("$ vmalloc {}", args.join(" "));
        let mut command = std::process::Command::new(&self.vmalloc);
        command.args(args).current_dir(&self.scratch).stdout(std::process::Stdio::null());
        run::run(&mut command, COMMAND_LIMIT).map_err(|why| format!("vmalloc {}: {why}", args[0]))
    }

    /// A page of `vmalloc map`, as the browser shows it with that search.
    fn page(
        &self,
        args: &[&str],
        search: &str,
        picture: &str,
        size: (u32, u32),
    ) -> Result<(), String> {
        let html = Path::new(picture).with_extension("html");
        self.command(&[args, &["--html", &html.to_string_lossy()]].concat())?;
        let html = self.scratch.join(html);
        let shot = self.pictures.join(picture);
        self.browser.shoot(&html, search, &shot, size)?;
        weigh(&shot)
    }

    /// A command in a terminal of 80 by 24, when it shows `sign`.
    fn pane(&self, args: &[&str], sign: &str) -> Result<Pane, String> {
        println!("$ vmalloc {}", args.join(" "));
        Pane::open(&self.tmux, &self.vmalloc, args, sign)
    }

    /// What a terminal shows, as a picture.
    fn keep(&self, pane: &mut Pane, picture: &str) -> Result<(), String> {
        let svg = self.pictures.join(picture);
        let drawn = terminal::draw(&pane.title(), &pane.shown()?);
        std::fs::write(&svg, drawn).map_err(|e| format!("{}: {e}", svg.display()))?;
        weigh(&svg)
    }
}

/// Says what a picture weighs, and refuses one that weighs too much.
fn weigh(picture: &Path) -> Result<(), String> {
    let shown = picture.display();
    let bytes = std::fs::metadata(picture).map_err(|e| format!("{shown}: {e}"))?.len();
    println!("  {shown}: {} KiB", bytes.div_ceil(1024));
    match bytes {
        ..=PICTURE_BYTES_MAX => Ok(()),
        _ => Err(format!("{shown} has {bytes} bytes; a repository wants no picture over 200 KiB")),
    }
}
