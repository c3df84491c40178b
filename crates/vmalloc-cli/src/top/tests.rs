//! The live view on a screen in memory, over real pools.

use super::keys::{After, press};
use super::lines::{self, Style, caller, frame_runs};
use super::live::draw;
use super::pick::Picker;
use super::rows::{Screen, Sort};
use super::watch::Watch;
use crate::list::Row;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};
use vmalloc::{Onlooker, Pool, Request};

const PLAIN: Style = Style { colour: false, blocks: false };

/// A pool, watched on a screen of 80 columns and 24 rows.
struct Stage {
    watch: Watch,
    screen: Screen,
    terminal: Terminal<TestBackend>,
}

impl Stage {
    fn new(pool: &Pool, sort: Sort) -> Stage {
        let watch = Watch::new(Onlooker::open(pool.share_path()).unwrap());
        let screen = Screen::new("/dev/shm/x".to_owned(), sort, "");
        Stage { watch, screen, terminal: Terminal::new(TestBackend::new(80, 24)).unwrap() }
    }

    /// What the screen shows, line by line.
    fn shown(&mut self, style: Style) -> Vec<String> {
        self.screen.take(&self.watch);
        let (watch, screen) = (&self.watch, &self.screen);
        let done = self.terminal.draw(|frame| draw(frame, watch, screen, &style)).unwrap();
        let rows = done.buffer.content().chunks(80);
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect()).collect()
    }

    fn press(&mut self, keys: &str) -> After {
        let mut after = After::Draw;
        self.screen.take(&self.watch);
        for c in keys.chars() {
            let code = match c {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '\x08' => KeyCode::Backspace,
                c => KeyCode::Char(c),
            };
            after = press(&mut self.screen, KeyEvent::new(code, KeyModifiers::NONE));
            self.screen.take(&self.watch);
        }
        after
    }

    /// The sizes in the list, as they stand.
    fn sizes(&self) -> Vec<u64> {
        self.screen.rows.iter().map(|row| row.area.bytes).collect()
    }
}

/// The line that holds `part`.
#[track_caller]
fn line<'a>(lines: &'a [String], part: &str) -> &'a str {
    lines.iter().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {lines:#?}"))
}

#[test]
fn a_screen_of_80_by_24_shows_totals_members_areas_and_keys() {
    let pool = Pool::create(1 << 20).unwrap();
    let frozen = pool.vmalloc(300_000).unwrap().freeze().unwrap();
    let mut live = pool.alloc(&Request::bytes(8192).caller(0x746f_7021)).unwrap();
    live.fill(1);
    drop(pool.vmalloc(4096).unwrap());
    let mut stage = Stage::new(&pool, Sort::Address);
    let lines = stage.shown(PLAIN);
    assert!(line(&lines, "pool ").contains("/dev/shm/x"));
    assert!(line(&lines, "frames").contains("L live 8 KiB  F frozen 296 KiB  p parked 4 KiB"));
    assert!(line(&lines, "1 MiB [LFFF").contains("] 70 % free"), "{lines:#?}");
    assert!(line(&lines, "a second").contains("alloc 3"));
    assert!(line(&lines, "1 member").contains("VMAs: at most"));
    let member = line(&lines, &format!("{}", std::process::id()));
    assert!(member.contains("304 KiB") && member.trim_end().ends_with("alive"), "{member}");
    assert!(line(&lines, "0x").contains("frozen") || line(&lines, "frozen   1").contains("vm1-"));
    assert!(line(&lines, &frozen.token().to_string()).contains("frozen   1"));
    assert!(line(&lines, "top!").contains("8 KiB     live   1      #2    1"), "{lines:#?}");
    assert!(lines[23].starts_with("q leave") && lines[23].contains("m members"), "{lines:#?}");
    let long = lines::everything(&stage.watch, &stage.screen, &PLAIN);
    assert!(long.iter().all(|line| line.width() <= 80), "{long:#?}");
}

/// Goal: the list is in the order asked for, filtered, and the selection stays with its area.
#[test]
fn keys_sort_filter_and_select() {
    let pool = Pool::create(1 << 20).unwrap();
    let bufs: Vec<_> = [9000, 70_000, 5000].map(|bytes| pool.vmalloc(bytes).unwrap()).into();
    let _token = pool.vmalloc(20_000).unwrap().freeze().unwrap();
    drop(pool.vmalloc(40_000).unwrap());
    let mut stage = Stage::new(&pool, Sort::Size);
    stage.press("");
    assert_eq!(stage.sizes(), [70_000, 40_000, 20_000, 9000, 5000]);
    stage.press("j");
    assert_eq!(stage.screen.selected().unwrap().area.bytes, 40_000);
    stage.press("r");
    assert_eq!(stage.sizes(), [5000, 9000, 20_000, 40_000, 70_000]);
    assert_eq!(stage.screen.selected().unwrap().area.bytes, 40_000, "it follows its area");
    stage.press("p");
    assert_eq!(stage.sizes(), [5000, 9000, 20_000, 70_000], "parked ones are hidden");
    stage.press("/FROZENx\x08\n");
    assert_eq!(stage.sizes(), [20_000]);
    let lines = stage.shown(PLAIN);
    assert!(line(&lines, "1 area by size").contains("parked ones hidden, with \"frozen\""));
    stage.press("\x1bps");
    assert_eq!((stage.sizes().len(), stage.screen.sort), (5, Sort::Age));
    stage.press("ssG");
    assert_eq!(stage.screen.sort, Sort::State);
    assert_eq!(stage.screen.at(), 4);
    assert_eq!((stage.press("q"), stage.press("\x1b")), (After::Leave, After::Leave));
    drop(bufs);
}

#[test]
fn enter_shows_the_extents_of_the_selected_area() {
    let pool = Pool::create(4 << 20).unwrap();
    let mut touched = pool.vmalloc(10 * 4096).unwrap();
    touched.fill(7);
    let mut stage = Stage::new(&pool, Sort::Address);
    stage.press("\n");
    let lines = stage.shown(PLAIN);
    assert!(line(&lines, "area   ").contains("40 KiB, 10 pages and 1 of guard"), "{lines:#?}");
    let root = vmalloc::frames_behind(&touched).unwrap().is_some();
    let what =
        if root { "frames   10 of 10 pages in" } else { "extents  10 of 10 pages hold data" };
    line(&lines, what);
    assert_eq!(stage.press("\x1b"), After::Draw);
    assert!(!stage.screen.detail);
}

/// Goal: of a framed area in single frames all of them are shown, not the first run alone.
#[test]
fn enter_shows_every_frame_of_a_scattered_framed_area() {
    let pool = Pool::options().framed().create(1 << 20).unwrap();
    let pages: Vec<_> = (0..256).map(|_| pool.vmalloc(4096).unwrap()).collect();
    let (kept, freed): (Vec<_>, Vec<_>) =
        pages.into_iter().enumerate().partition(|(i, _)| i % 2 == 0);
    drop(freed);
    pool.purge().unwrap();
    let mut block = pool.vmalloc(10 * 4096).unwrap();
    block.fill(7);
    let mut stage = Stage::new(&pool, Sort::Size);
    stage.press("\n");
    let row = stage.screen.selected().unwrap();
    let file: Vec<String> =
        lines::file_extents(&stage.watch, row).iter().map(ToString::to_string).collect();
    line(&file, "extents  10 of 10 pages hold data, in 10 runs of the file");
    assert_eq!(file.iter().filter(|line| line.ends_with(" 1 page")).count(), 10, "{file:#?}");
    let known = vmalloc::frames_behind(&block).unwrap();
    let seen = stage.watch.frames(&row.area).map(|(_, frames)| frames);
    assert_eq!(seen, known, "as the process itself sees them");
    let lines = stage.shown(PLAIN);
    let what = if known.is_some() { "frames   10 of 10 pages" } else { "extents  10 of 10 pages" };
    line(&lines, what);
    drop(kept);
}

/// Goal: rates and ages are those between two looks, and say so.
#[test]
fn second_look_has_rates_and_ages() {
    let pool = Pool::create(1 << 20).unwrap();
    let _old = pool.vmalloc(4096).unwrap();
    let mut stage = Stage::new(&pool, Sort::Age);
    let _new = pool.vmalloc(8192).unwrap();
    for _ in 0..1000 {
        drop(pool.vmalloc(100_000).unwrap());
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    stage.watch.look();
    let rates = stage.watch.rates();
    assert!(rates.over.is_some() && rates.allocs > rates.revives && rates.revives > 0.0);
    // 1,001 of them, and 999 of those from the lazy list.
    let whole = rates.over.unwrap().as_secs_f64();
    assert_eq!((rates.allocs * whole).round(), 1001.0);
    assert_eq!((rates.revives * whole).round(), 999.0);
    let lines = stage.shown(PLAIN);
    assert!(line(&lines, "(over ").contains("purge 0"));
    assert!(line(&lines, " 4 KiB     live").contains(" s+ "), "{lines:#?}");
    assert!(line(&lines, " 8 KiB     live").contains("0.0 s "), "{lines:#?}");
}

/// Goal: more areas than rows scroll with the selection, and members do not crowd them out.
#[test]
fn long_lists_scroll_and_leave_room_for_areas() {
    let pool = Pool::create(1 << 20).unwrap();
    let _bufs: Vec<_> = (0..60).map(|_| pool.vmalloc(4096).unwrap()).collect();
    let others: Vec<_> = (0..20).map(|_| Pool::open(pool.share_path()).unwrap()).collect();
    let mut stage = Stage::new(&pool, Sort::Address);
    line(&stage.shown(PLAIN), "18 more: m shows all");
    stage.press("mG");
    let lines = stage.shown(PLAIN);
    let last = stage.screen.rows[59].area.addr().0;
    assert!(line(&lines, &format!("> {last:#x}")).contains("live"), "{lines:#?}");
    drop(others);
}

/// Goal: colour only says again what is said in words; without it no cell has one.
#[test]
fn nothing_is_coloured_without_colour() {
    let pool = Pool::create(1 << 20).unwrap();
    let _frozen = pool.vmalloc(4096).unwrap().freeze().unwrap();
    let mut stage = Stage::new(&pool, Sort::Address);
    for (style, coloured) in [(PLAIN, false), (Style { colour: true, blocks: true }, true)] {
        let lines = stage.shown(style);
        line(&lines, "frozen");
        let buffer = stage.terminal.backend().buffer();
        assert_eq!(buffer.content().iter().any(|cell| cell.fg != Color::Reset), coloured);
        let selected = |cell: &ratatui::buffer::Cell| cell.modifier.contains(Modifier::REVERSED);
        assert!(buffer.content().iter().any(selected), "the selected one");
    }
}

#[test]
fn a_terminal_of_any_size_is_drawn_on() {
    let pool = Pool::create(1 << 20).unwrap();
    let _buf = pool.vmalloc(4096).unwrap();
    let mut stage = Stage::new(&pool, Sort::Address);
    stage.screen.take(&stage.watch);
    for (width, height) in [(1, 1), (80, 2), (20, 10), (200, 60), (10, 100)] {
        for detail in [false, true] {
            stage.screen.detail = detail;
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            let (watch, screen) = (&stage.watch, &stage.screen);
            terminal.draw(|frame| draw(frame, watch, screen, &PLAIN)).unwrap();
        }
    }
}

/// Goal: with areas in every state none is missing from the words under the bar, and no line is
/// wider than the screen.
#[test]
fn words_under_the_bar_are_whole_with_every_state() {
    use vmalloc::core::Kind;
    let kinds = [
        Kind::Live,
        Kind::Frozen,
        Kind::Shared,
        Kind::Dying,
        Kind::Given,
        Kind::Building,
        Kind::Parked,
        Kind::Purging,
        Kind::Free,
    ];
    let all = kinds.map(|kind| (kind, 1023_u64 << 10));
    for style in [PLAIN, Style { colour: true, blocks: true }] {
        let lines: Vec<String> =
            lines::legend(&all, &style).iter().map(ToString::to_string).collect();
        assert!(lines.iter().all(|line| line.trim_end().chars().count() <= 80), "{lines:#?}");
        for kind in kinds {
            line(&lines, &format!("{} 1023 KiB", lines::name(kind)));
        }
    }
}

#[test]
fn runs_of_frames_are_found() {
    let frames = [Some(7), Some(8), None, Some(9), Some(4), Some(5), Some(6)];
    assert_eq!(frame_runs(&frames), [(0, 7, 2), (3, 9, 1), (4, 4, 3)]);
    assert_eq!(frame_runs(&[]), []);
}

#[test]
fn a_callers_tag_is_shown_as_text_if_it_is_text() {
    assert_eq!(caller(0x70_7574), "put");
    assert_eq!(caller(0x2a), "0x2a");
    assert_eq!(caller(0x1b_5b32_4a00), "0x1b5b324a00");
}

/// A key without modifiers.
fn key(code: KeyCode) -> KeyEvent {
    KeyEvent::new(code, KeyModifiers::NONE)
}

/// Goal: of several pools one is chosen; what is selected stays so when others come and go, and if
/// it goes itself, nothing is chosen by accident.
#[test]
fn a_pool_is_picked_from_a_list_that_changes() {
    let pools: Vec<Pool> = (0..3)
        .map(|i| Pool::options().name(&format!("pick{i}")).create(1 << 20).unwrap())
        .collect();
    let id = |pool: &Pool| format!("{:08x}", pool.info().id);
    let rows = |shown: &[usize]| -> Vec<Row> {
        let ids: Vec<String> = shown.iter().map(|i| id(&pools[*i])).collect();
        let mut rows = crate::list::rows();
        rows.retain(|row| ids.contains(&row.id));
        rows.sort_by_key(|row| ids.iter().position(|id| *id == row.id));
        rows
    };
    let mut picker = Picker::new(rows(&[0, 1, 2]));
    let marked = |picker: &Picker| -> Vec<String> {
        let lines = picker.lines(24);
        assert_eq!(lines.len(), 24);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:?}");
        lines.into_iter().filter(|line| line.starts_with('>')).collect()
    };
    assert!(marked(&picker)[0].starts_with(&format!("> {}", id(&pools[0]))));
    assert_eq!(picker.press(key(KeyCode::Char('j'))), After::Draw);
    picker.take(rows(&[2, 0, 1]));
    assert!(marked(&picker)[0].starts_with(&format!("> {}", id(&pools[1]))));
    assert!(picker.chosen().is_none());
    assert_eq!(picker.press(key(KeyCode::Enter)), After::Leave);
    assert_eq!(picker.chosen().map(|row| row.id.clone()), Some(id(&pools[1])));

    let mut picker = Picker::new(rows(&[0, 1]));
    picker.press(key(KeyCode::End));
    picker.take(rows(&[0]));
    assert_eq!(marked(&picker).len(), 1);
    picker.take(vec![]);
    assert!(marked(&picker).is_empty());
    assert_eq!(picker.press(key(KeyCode::Enter)), After::Draw, "there is nothing to choose");
    assert_eq!(picker.press(key(KeyCode::Char('q'))), After::Leave);
    assert!(picker.chosen().is_none());

    // Fewer rows than pools: the selected one is in sight.
    let mut picker = Picker::new(rows(&[0, 1, 2]));
    picker.press(key(KeyCode::End));
    assert!(picker.lines(6)[2..].iter().any(|line| line.starts_with('>')), "{:?}", picker.lines(6));
}

/// Goal: each column of the list of pools has its head over it.
#[test]
fn the_list_of_pools_has_a_head_over_each_column() {
    let pool = Pool::options().name("heads").create(3 << 20).unwrap();
    let id = format!("{:08x}", pool.info().id);
    let mut rows = crate::list::rows();
    rows.retain(|row| row.id == id);
    let lines = Picker::new(rows).lines(24);
    assert_eq!(lines[0], "1 pool: which one?");
    assert_eq!(lines[1], "  POOL      CAPACITY      USED AREAS PROCS  NAME");
    for (head, cell) in [
        ("POOL", id.as_str()),
        ("CAPACITY", "   3 MiB"),
        ("     USED", "  0 bytes"),
        ("AREAS", "    0"),
        ("PROCS", "    1"),
        ("NAME", "heads"),
    ] {
        let at = lines[1].find(head).unwrap();
        assert!(lines[2][at..].starts_with(cell), "{head}: {lines:#?}");
    }
}
