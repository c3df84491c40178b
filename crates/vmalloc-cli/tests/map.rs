//! `map` as a user has it: letters, a picture, and a page that a browser opens.

mod common;

use common::{Place, command, finish, good, noise, refused, skip, text, vmalloc};
use std::process::{Command, Stdio};
use vmalloc::Pool;

#[test]
fn map_of_a_pool_is_drawn_in_letters_svg_and_html() {
    let place = Place::with_pool("map", "4M");
    let token = place.put(&noise(300_000, 1));
    place.put(&noise(5000, 2));
    let shown = text(vmalloc(&["map", place.str()]));
    // Nobody's: its maker has left.
    assert!(shown.contains("A 0x0 296 KiB, 1 run  frozen, asked for by put"), "{shown}");
    assert!(shown.contains("extents of the pool's file"), "nobody has it mapped: {shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");

    let svg = text(vmalloc(&["map", place.str(), "--svg", "-"]));
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>") && svg.contains(&token));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("map.html");
    assert_eq!(text(vmalloc(&["map", place.str(), "--html", file.to_str().unwrap()])), "");
    let page = std::fs::read_to_string(&file).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains(&token));
    assert_eq!(place.info()["members"], serde_json::json!([]), "it takes no slot");

    let nowhere = folder.path().join("none/map.svg");
    let message = refused(vmalloc(&["map", place.str(), "--svg", nowhere.to_str().unwrap()]), 1);
    assert!(message.contains("none/map.svg"), "{message}");
}

/// Goal: with a member that has the memory mapped, root sees the frames that the member sees.
#[test]
fn map_shows_root_the_real_frames() {
    let pool = Pool::options().name("map").create(4 << 20).unwrap();
    let mut buf = pool.vmalloc(64 * 4096).unwrap();
    buf.fill(1);
    let path = pool.share_path();
    let shown = text(vmalloc(&["map", path.to_str().unwrap(), "--svg", "-"]));
    let Some(frames) = vmalloc::frames_behind(&buf).unwrap() else {
        assert!(shown.contains("extents of the pool's file"), "{shown}");
        return skip("the frames in a map", "needs root, for /proc/PID/pagemap");
    };
    assert!(shown.contains("page frames of this machine") && shown.contains("64 pages in"));
    let lowest = frames.iter().flatten().min().unwrap();
    assert!(shown.contains(&format!("pfn {lowest:#x}")), "{lowest:#x}");
}

/// What a browser makes of a page: the document after its scripts ran.
fn in_a_browser(page: &str, search: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.html");
    std::fs::write(&file, page).unwrap();
    let mut browser = Command::new("chromium");
    browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]);
    browser.args(["--no-first-run", "--disable-background-networking", "--disable-sync"]);
    browser.args(["--disable-component-update", "--virtual-time-budget=1000", "--dump-dom"]);
    browser.arg(format!("--user-data-dir={}", folder.path().join("profile").display()));
    browser.arg(format!("file://{}#{search}", file.display()));
    browser.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = finish(browser.spawn().ok()?);
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Goal: in a real browser the list is filled, a search lights its pieces, and so does hovering.
/// Method: the page with a search in its address; then the page with a script behind it that
/// moves the mouse over the second area.
#[test]
fn page_of_a_map_works_in_a_browser() {
    let place = Place::with_pool("browser", "4M");
    let tokens = [place.put(&noise(300_000, 1)), place.put(&noise(500_000, 2))];
    let page = String::from_utf8(good(vmalloc(&["map", place.str(), "--html", "-"]))).unwrap();
    let Some(found) = in_a_browser(&page, &tokens[0]) else {
        return skip("the page of `vmalloc map` in a browser", "needs the program chromium");
    };
    assert!(found.contains("1 of 2, 0.3 MiB"), "{found}");
    let lit = |page: &str, piece: &str| page.matches(&format!(" {piece} on\"")).count();
    assert!(lit(&found, "p0") >= 3 && lit(&found, "p1") == 0, "{found}");

    let hover = "<script>document.querySelector('rect.w.p1').dispatchEvent(\
                 new MouseEvent('mouseover', { bubbles: true }))</script></body>";
    let hovered = in_a_browser(&page.replace("</body>", hover), "").unwrap();
    assert!(hovered.contains("2 of 2"), "{hovered}");
    assert!(lit(&hovered, "p1") >= 3 && lit(&hovered, "p0") == 0, "{hovered}");
    let story = hovered.split("<pre id=\"story\">").nth(1).unwrap();
    assert!(story.split("</pre>").next().unwrap().contains(&tokens[1]), "{story}");
}

#[test]
fn map_into_a_closed_pipe_ends_in_silence() {
    let place = Place::with_pool("pipe", "4M");
    let mut child = command(&["map", place.str(), "--html", "-"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = finish(child);
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
}
