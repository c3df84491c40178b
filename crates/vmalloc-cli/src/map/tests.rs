//! Pictures of scenes that are made here: whole, in bounds, and with nothing of others' in the
//! markup.

use super::scene::{Below, Piece, Run, Scene, states};
use super::{PIECES_MAX, html, limit, svg, text};
use proptest::prelude::*;

/// An area of `pages` pages in as many runs as there are places.
fn piece(start: u64, pages: u64, places: &[(u64, u64)]) -> Piece {
    let mut page = 0;
    let mut runs = Vec::new();
    for &(at, len) in places {
        runs.push(Run { page, at, len });
        page += len;
    }
    Piece {
        start,
        pages,
        guard: 1,
        group: 3,
        label: "frozen, of member 1".to_owned(),
        more: format!("vm1-{start:x}"),
        runs,
        life: None,
    }
}

fn scene(pieces: Vec<Piece>) -> Scene {
    Scene {
        title: "pool <5f3a9c21> & more".to_owned(),
        facts: vec!["117 MiB of 256 MiB".to_owned()],
        groups: states(),
        pieces,
        window: (0, 1 << 30),
        is_order_only: false,
        below: Below::Frames("page frames".to_owned()),
    }
}

fn two() -> Scene {
    scene(vec![piece(0, 300, &[(5_000_000, 100), (77, 200)]), piece(1 << 20, 50, &[(9_000, 50)])])
}

#[test]
fn every_piece_and_run_is_in_the_svg_once() {
    let drawn = svg::draw(&two());
    for (part, times) in [
        ("class=\"w p0\"", 1),
        ("class=\"w s p0\"", 1),
        ("class=\"f p0\"", 2),
        ("class=\"r p0\"", 2),
        ("class=\"w p1\"", 1),
        ("class=\"f p1\"", 1),
        ("class=\"r p1\"", 1),
    ] {
        assert_eq!(drawn.matches(part).count(), times, "{part}");
    }
    assert!(drawn.contains("350 pages in 3 runs, the longest of 200"), "{drawn}");
    assert!(drawn.contains("0x100000000") && drawn.contains("pfn 0x4d"), "places are named");
    assert!(drawn.contains("with nothing in it, not drawn"), "long gaps are folded");
    assert_eq!(drawn.matches("NaN").count() + drawn.matches("inf").count(), 0);
}

/// Goal: names of others stay text, in the picture and in the data of the page.
#[test]
fn markup_of_others_is_text() {
    let mut scene = two();
    scene.pieces[0].more = "</script><script>alert(1)</script>\u{1b}".to_owned();
    let page = html::page(&scene).unwrap();
    assert!(!page.contains("<script>alert"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("\\u003cscript>alert(1)"));
    assert!(page.contains("pool &lt;5f3a9c21&gt; &amp; more") && !page.contains('\u{1b}'));
    assert_eq!(page.matches("<script").count(), 2, "the data's and ours");
    let outside =
        |text: &str| page.matches(text).count() - page.matches("http://www.w3.org/").count();
    assert_eq!((outside("http://"), page.matches("https:").count()), (0, 0), "no network");
}

#[test]
fn letters_show_which_pages_are_where() {
    let shown = text::draw(&two());
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    let rows: Vec<&str> = shown.lines().filter(|line| line.contains("AAA")).collect();
    assert!(rows[0].trim_start().starts_with("0x0 AAAA"), "{shown}");
    assert!(shown.contains("~") && shown.contains("BBBB"), "{shown}");
    assert!(shown.contains("  A 0x0 1.1 MiB, 2 runs  frozen, of member 1 vm1-0"), "{shown}");
    // 200 of A's frames come first, then B's, then the rest of A.
    let below = shown.split("page frames").nth(1).unwrap();
    let letters: String = below.chars().filter(|c| matches!(c, 'A' | 'B')).collect();
    let mut order: Vec<char> = letters.chars().collect();
    order.dedup();
    assert!(order.starts_with(&['A', 'B', 'A']), "{shown}");
}

/// Goal: a recorded run is shown at its fullest, with every life drawn.
#[test]
fn lives_are_drawn_and_the_fullest_moment_is_shown() {
    let mut run = two();
    run.below = Below::Time(8.0);
    run.pieces[0].life = Some((0.0, 5.0));
    run.pieces[1].life = Some((5.0, 8.0));
    assert_eq!(run.fullest(), 0.0);
    run.pieces[1].life = Some((4.0, 8.0));
    assert_eq!(run.fullest(), 4.0);
    run.pieces.push(Piece { life: Some((6.0, 7.0)), ..piece(1 << 21, 9, &[]) });
    let page = html::page(&run).unwrap();
    assert_eq!(page.matches("class=\"l p").count(), 3);
    assert!(page.contains("class=\"w p0\"") && page.contains("class=\"w off p2\""), "{page}");
    assert!(page.contains("id=\"time\"") && page.contains("max=\"8\""), "{page}");
    assert!(!html::page(&two()).unwrap().contains("id=\"time\""));
}

#[test]
fn too_many_pieces_lose_the_smallest_and_say_so() {
    let pieces = (0..PIECES_MAX as u64 + 10).map(|i| piece(i * 100, 1 + i % 50, &[])).collect();
    let mut scene = scene(pieces);
    limit(&mut scene);
    assert_eq!(scene.pieces.len(), PIECES_MAX);
    assert!(scene.facts[1].contains("the 5,000 largest of 5,010 areas"), "{:?}", scene.facts);
    assert!(scene.pieces.iter().any(|piece| piece.pages == 50));
}

#[test]
fn empty_scene_is_drawn() {
    let scene = scene(Vec::new());
    assert!(svg::draw(&scene).contains("nothing is known"));
    assert!(html::page(&scene).is_ok() && text::draw(&scene).contains("pages"));
}

proptest! {
    /// Goal: no numbers that records may hold make a picture fail.
    #[test]
    fn any_scene_is_drawn(
        pieces in prop::collection::vec(
            (0..1_u64 << 45, 0..1_u64 << 45, prop::collection::vec((any::<u64>(), 0..1_u64 << 45), 0..4)),
            0..20,
        ),
    ) {
        let scene = scene(pieces.iter().map(|(start, len, runs)| piece(*start, *len, runs)).collect());
        let drawn = svg::draw(&scene);
        prop_assert!(!drawn.contains("NaN") && !drawn.contains("\"-"), "{}", drawn);
        prop_assert!(text::draw(&scene).lines().all(|line| line.chars().count() <= 80));
    }
}

/// Goal: each state of an area has its group, so that none that comes later is drawn as another.
#[test]
fn every_state_has_its_group() {
    use vmalloc::core::Kind;
    let states = states();
    let mut last = 0;
    for kind in [
        Kind::Free,
        Kind::Building,
        Kind::Live,
        Kind::Frozen,
        Kind::Shared,
        Kind::Dying,
        Kind::Parked,
        Kind::Purging,
        Kind::Given,
    ] {
        assert_eq!(states[kind as usize].name, crate::top::name(kind));
        last = kind as usize;
    }
    assert_eq!(states.len(), last + 1);
}
