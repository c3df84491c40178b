//! A look at a pool, as lines of at most 80 columns.
//!
//! What a colour says stands there in words, too; a bar is drawn in blocks where the locale has
//! them and in letters where not.

use super::rows::{Row, Screen, shown_age};
use super::watch::{Member, Rates, Watch};
use crate::info::life;
use crate::show::{COLUMNS, Printable, count, cut, percent, thousands};
use crate::size::Size;
use ratatui::style::{Color, Modifier, Style as Paint, Stylize};
use ratatui::text::{Line, Span};
use vmalloc::FileRun;
use vmalloc::core::Kind;

/// Members that are shown while the user does not ask for all.
const MEMBERS_SHOWN: usize = 3;
/// Columns of the bar of frames.
const BAR: usize = 58;

/// What the terminal can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    pub colour: bool,
    pub blocks: bool,
}

impl Style {
    /// What the environment says of a terminal.
    pub fn of_environment(is_terminal: bool) -> Style {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        let blocks = locale.contains("utf-8") || locale.contains("utf8");
        Style { colour: is_terminal && set("NO_COLOR").is_none(), blocks }
    }

    fn paint(self, kind: Kind) -> Paint {
        let colour = match kind {
            Kind::Live => Color::Green,
            Kind::Frozen => Color::Cyan,
            Kind::Shared => Color::Blue,
            Kind::Dying => Color::Yellow,
            Kind::Given => Color::LightBlue,
            Kind::Parked => Color::DarkGray,
            Kind::Building | Kind::Purging => Color::Magenta,
            Kind::Free => Color::Reset,
        };
        if self.colour { Paint::new().fg(colour) } else { Paint::new() }
    }

    fn letter(self, kind: Kind) -> char {
        match (kind, self.blocks) {
            (Kind::Free, true) => '·',
            (Kind::Free, false) => '.',
            (Kind::Parked, true) => '░',
            (_, true) if self.colour => '█',
            (Kind::Live, _) => 'L',
            (Kind::Frozen, _) => 'F',
            (Kind::Shared, _) => 'S',
            (Kind::Dying, _) => 'D',
            (Kind::Given, _) => 'G',
            (Kind::Parked, _) => 'p',
            (Kind::Building, _) => 'b',
            (Kind::Purging, _) => 'u',
        }
    }
}

/// What `--once` and a pipe get: all of it.
pub fn everything(watch: &Watch, screen: &Screen, style: &Style) -> Vec<Line<'static>> {
    let mut lines = totals(watch, screen, style);
    lines.extend(members(watch, true));
    lines.push(areas_title(screen));
    lines.push(columns(watch));
    lines.extend(screen.rows.iter().map(|row| area(watch, row, false, style)));
    lines
}

/// Totals: frames by state, window, rates.
pub fn totals(watch: &Watch, screen: &Screen, style: &Style) -> Vec<Line<'static>> {
    let now = watch.now();
    let (info, stats) = (&now.info, &now.info.stats);
    let made = super::watch::unix_now().saturating_sub(info.made_unix_s);
    let title = format!("pool {:08x} at {}", info.id, Printable(&screen.path));
    let title = cut(&title, COLUMNS - 20);
    let age = format!("made {} ago", crate::info::age(made));
    let gap = COLUMNS.saturating_sub(title.chars().count() + age.chars().count());
    let mut lines = vec![Line::from(vec![title.bold(), " ".repeat(gap).into(), age.into()])];

    let by_kind = by_kind(watch);
    lines.push(bar(&by_kind, info.capacity_bytes, style));
    lines.extend(legend(&by_kind, style));

    let waste: u64 = now
        .areas
        .iter()
        .filter(|area| area.kind.is_in_use())
        .fold(0, |sum, area| sum + area.pages.len.bytes().saturating_sub(area.bytes));
    lines.push(Line::from(format!(
        "memory   {} resident, tables {}; {} of the areas is rounding",
        Size(info.resident_bytes),
        Size(info.tables_bytes),
        percent(waste, stats.used.bytes()),
    )));
    let holes = stats.holes.bytes();
    let taken = stats.window.bytes().saturating_sub(holes);
    lines.push(Line::from(format!(
        "window   {}, {} of it taken; largest hole {}, {} of all holes",
        Size(stats.window.bytes()),
        Size(taken),
        Size(stats.largest_hole.bytes()),
        percent(stats.largest_hole.bytes(), holes),
    )));
    let rates = watch.rates();
    lines.push(Line::from(format!(
        "{:<8} alloc {}  revived {}  free {}  refused {}",
        "a second",
        shown_rate(rates.allocs),
        shown_rate(rates.revives),
        shown_rate(rates.frees),
        shown_rate(rates.failures),
    )));
    lines.push(Line::from(format!(
        "         purge {}  flush {}  attach {}  {}",
        shown_rate(rates.purged),
        shown_rate(rates.flushes),
        shown_rate(rates.attaches),
        shown_span(&rates),
    )));
    lines
}

/// What the letters of the bar mean, and how much each is: two lines where one is too short.
pub fn legend(by_kind: &[(Kind, u64)], style: &Style) -> Vec<Line<'static>> {
    let mut lines: Vec<Vec<Span<'static>>> = vec![vec!["frames   ".into()]];
    let mut used = 9;
    for &(kind, bytes) in by_kind.iter().filter(|&&(kind, bytes)| bytes > 0 || kind == Kind::Live) {
        let word = format!("{} {}", style.letter(kind), name(kind));
        let size = format!(" {}  ", Size(bytes));
        // The two blanks at the end may be cut.
        let width = word.chars().count() + size.chars().count();
        if used + width > COLUMNS + 2 {
            lines.push(vec!["         ".into()]);
            used = 9;
        }
        used += width;
        if let Some(line) = lines.last_mut() {
            line.extend([Span::styled(word, style.paint(kind)), size.into()]);
        }
    }
    lines.into_iter().map(Line::from).collect()
}

fn shown_span(rates: &Rates) -> String {
    match rates.over {
        Some(over) => format!("(over {:.1} s)", over.as_secs_f64()),
        None => "(on average, since it was made)".to_owned(),
    }
}

/// `0`, `0.3`, `12`, `1,234`.
fn shown_rate(rate: f64) -> String {
    match rate {
        _ if rate <= 0.0 => "0".to_owned(),
        _ if rate < 0.01 => "<0.01".to_owned(),
        _ if rate < 9.95 => format!("{rate:.2}").trim_end_matches('0').trim_end_matches('.').into(),
        _ => thousands(rate.round() as u64),
    }
}

/// Bytes by state, free ones last.
fn by_kind(watch: &Watch) -> Vec<(Kind, u64)> {
    let now = watch.now();
    let kinds = [
        Kind::Live,
        Kind::Frozen,
        Kind::Shared,
        Kind::Dying,
        Kind::Given,
        Kind::Building,
        Kind::Parked,
        Kind::Purging,
    ];
    let bytes = |kind| {
        let areas = now.areas.iter().filter(|area| area.kind == kind);
        areas.fold(0_u64, |sum, area| sum.saturating_add(area.pages.len.bytes()))
    };
    let mut all: Vec<(Kind, u64)> = kinds.into_iter().map(|kind| (kind, bytes(kind))).collect();
    let free = now.info.capacity_bytes.saturating_sub(now.info.committed_bytes);
    all.push((Kind::Free, free));
    all
}

/// The capacity as a bar; each state that is there gets a column at least.
fn bar(by_kind: &[(Kind, u64)], capacity: u64, style: &Style) -> Line<'static> {
    let mut parts = vec![Span::from(format!("{:>8} [", Size(capacity)))];
    let mut left = BAR;
    for &(kind, bytes) in by_kind.iter().filter(|(kind, bytes)| *bytes > 0 && *kind != Kind::Free) {
        let share = bytes as f64 / capacity.max(1) as f64 * BAR as f64;
        let columns = (share.round() as usize).max(1).min(left);
        left -= columns;
        let letter = style.letter(kind).to_string();
        parts.push(Span::styled(letter.repeat(columns), style.paint(kind)));
    }
    let free = by_kind.last().map_or(0, |(_, bytes)| *bytes);
    parts.push(Span::styled(
        style.letter(Kind::Free).to_string().repeat(left),
        style.paint(Kind::Free),
    ));
    parts.push(format!("] {} free", percent(free, capacity)).into());
    Line::from(parts)
}

/// The members, those with most memory first.
pub fn members(watch: &Watch, all: bool) -> Vec<Line<'static>> {
    let mut members: Vec<&Member> = watch.now().members.iter().collect();
    members.sort_by_key(|member| std::cmp::Reverse(member.held_bytes));
    let most = members.iter().filter_map(|m| m.process.as_ref()).map(|p| p.vmas).max();
    let budget = match (most, watch.vmas_max) {
        (Some(most), Some(max)) => {
            format!("; VMAs: at most {} of {}", thousands(most as u64), thousands(max as u64))
        }
        _ => String::new(),
    };
    let title = format!("{}{budget}", count(members.len() as u64, "member"));
    let mut lines = vec![Line::from(title.bold())];
    if members.is_empty() {
        return lines;
    }
    let head = format!(
        "  {:>3} {:>8} {:>6} {:>9} {:>9} {:>12}  STATE",
        "NO", "PID", "AREAS", "HELD", "PARKED", "VMAS(POOL'S)"
    );
    lines.push(Line::from(head.underlined()));
    let shown = if all || members.len() <= MEMBERS_SHOWN { members.len() } else { MEMBERS_SHOWN };
    for member in &members[..shown] {
        let vmas = match &member.process {
            Some(process) => format!("{} ({})", process.vmas, process.pool_vmas()),
            None => "-".to_owned(),
        };
        let line = format!(
            "  {:>3} {:>8} {:>6} {:>9} {:>9} {vmas:>12}  {}",
            member.info.number,
            member.info.pid,
            member.areas,
            Size(member.held_bytes),
            Size(member.parked_bytes),
            life(&member.info).split(':').next().unwrap_or_default(),
        );
        lines.push(Line::from(line));
    }
    if shown < members.len() {
        lines.push(Line::from(format!("  … {} more: m shows all", members.len() - shown)));
    }
    lines
}

/// The line over the list of areas.
pub fn areas_title(screen: &Screen) -> Line<'static> {
    let mut text = format!(
        "{} by {}{}",
        count(screen.rows.len() as u64, "area"),
        screen.sort.name(),
        if screen.reverse { ", turned round" } else { "" },
    );
    if screen.hides_parked {
        text += ", parked ones hidden";
    }
    if screen.typing || !screen.filter.is_empty() {
        let cursor = if screen.typing { "_" } else { "" };
        text += &format!(", with \"{}{cursor}\"", Printable(&screen.filter));
    }
    Line::from(cut(&text, COLUMNS).bold())
}

/// The heads of the columns.
pub fn columns(watch: &Watch) -> Line<'static> {
    let age = if watch.is_first() { "BIRTH" } else { "AGE" };
    let head = format!(
        "  {:<14} {:>9} {:>8} {:>3} {:>7} {:>4}  TOKEN, CALLER",
        "OFFSET", "SIZE", "STATE", "OWN", age, "EXTS"
    );
    Line::from(head.underlined())
}

/// One area.
pub fn area(watch: &Watch, row: &Row, is_selected: bool, style: &Style) -> Line<'static> {
    let it = &row.area;
    let extents = watch.extents(it).map_or("-".to_owned(), |runs| runs.len().to_string());
    let age = if watch.is_first() { format!("#{}", it.birth) } else { shown_age(row.age) };
    let owner = it.owner.map_or("-".to_owned(), |owner| owner.number().to_string());
    // Turned round, a colour would be a patch in the bar that marks the line.
    let paint = if is_selected { Paint::new() } else { style.paint(it.kind) };
    let mut parts = vec![
        Span::from(format!("{} ", if is_selected { '>' } else { ' ' })),
        format!("{:<14} {:>9} ", format!("{:#x}", it.addr().0), Size(it.bytes)).into(),
        Span::styled(format!("{:>8}", name(it.kind)), paint),
        format!(" {owner:>3} {age:>7} {extents:>4}  ").into(),
    ];
    if let Some(token) = &row.token {
        parts.push(format!("{token} ").into());
    }
    if it.caller != 0 {
        parts.push(caller(it.caller).into());
    }
    let line = Line::from(parts);
    if is_selected { line.add_modifier(Modifier::REVERSED) } else { line }
}

/// Where an area lies, and what holds its bytes: a line a run, of the file or of physical memory.
pub fn detail(watch: &Watch, row: &Row) -> Vec<Line<'static>> {
    let it = &row.area;
    let mut lines = vec![Line::from(cut(&it.to_string(), COLUMNS).bold())];
    if let Some(token) = &row.token {
        lines.push(Line::from(format!("token    {token}")));
    }
    lines.push(Line::from(format!(
        "area     {}, {} pages and {} of guard",
        Size(it.bytes),
        thousands(it.pages.len.0),
        it.guard.0,
    )));
    lines.push(Line::from(format!(
        "record   {}, generation {}, birth {}",
        it.id.0, it.generation, it.birth
    )));
    match watch.frames(it) {
        Some((pid, frames)) => {
            let runs = frame_runs(&frames);
            let known: u64 = runs.iter().map(|run| run.2).sum();
            lines.push(Line::from(format!(
                "frames   {} of {} pages in {}, as process {pid} has them mapped",
                thousands(known),
                thousands(it.pages.len.0),
                count(runs.len() as u64, "run"),
            )));
            lines.extend(runs.iter().map(|(page, pfn, len)| {
                Line::from(format!("         page {page:>7} ▸ pfn {pfn:#011x}  {len:>6} pages"))
            }));
        }
        None => {
            lines.extend(file_extents(watch, row));
            lines.push(Line::from(
                "         (physical frames: for root, and where a member has touched them)",
            ));
        }
    }
    lines
}

/// What holds an area's bytes, by their place in the pool's file.
pub fn file_extents(watch: &Watch, row: &Row) -> Vec<Line<'static>> {
    let it = &row.area;
    let runs = match watch.extents(it) {
        Ok(runs) => runs,
        Err(e) => return vec![Line::from(format!("extents  not to be had: {e}"))],
    };
    let touched: u64 = runs.iter().map(|run| run.pages.len.0).sum();
    let mut lines = vec![Line::from(format!(
        "extents  {} of {} pages hold data, in {} of the file",
        thousands(touched),
        thousands(it.pages.len.0),
        count(runs.len() as u64, "run"),
    ))];
    lines.extend(runs.iter().map(|FileRun { pages, bytes }| {
        let (page, at) = (pages.start.0 - it.pages.start.0, bytes.start);
        Line::from(format!(
            "         page {page:>7} ▸ offset {at:#x}  {}",
            count(pages.len.0, "page")
        ))
    }));
    lines
}

/// Runs of neighbouring frames: first page, first frame, how many.
pub fn frame_runs(frames: &[Option<u64>]) -> Vec<(u64, u64, u64)> {
    let mut runs: Vec<(u64, u64, u64)> = Vec::new();
    for (page, pfn) in frames.iter().enumerate() {
        let Some(pfn) = *pfn else { continue };
        match runs.last_mut() {
            Some((first, start, len)) if *first + *len == page as u64 && *start + *len == pfn => {
                *len += 1;
            }
            _ => runs.push((page as u64, pfn, 1)),
        }
    }
    runs
}

/// A caller's tag: as text if it is one, `put`, else as a number.
pub fn caller(tag: u64) -> String {
    let bytes = tag.to_be_bytes();
    let text = &bytes[tag.leading_zeros() as usize / 8..];
    match std::str::from_utf8(text) {
        Ok(text) if text.len() > 1 && text.bytes().all(|b| b.is_ascii_graphic()) => text.to_owned(),
        _ => format!("{tag:#x}"),
    }
}

/// The word for a state.
pub fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Free => "free",
        Kind::Building => "building",
        Kind::Live => "live",
        Kind::Frozen => "frozen",
        Kind::Shared => "shared",
        Kind::Dying => "dying",
        Kind::Given => "given",
        Kind::Parked => "parked",
        Kind::Purging => "purging",
    }
}
