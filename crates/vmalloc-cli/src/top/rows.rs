//! The list of areas as the user wants it: sorted, filtered, one of them selected.

use super::watch::{Age, Key, Watch, key};
use clap::ValueEnum;
use std::cmp::Ordering;
use std::time::Duration;
use vmalloc::core::{Area, Kind};

/// What areas are sorted by.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    /// By address, the lowest first.
    Address,
    /// The largest first.
    Size,
    /// The oldest first.
    Age,
    /// By owner's number.
    Owner,
    /// Live, frozen, shared, dying, parked.
    State,
    /// By the caller's tag.
    Caller,
}

/// An area of the list.
#[derive(Clone, Debug)]
pub struct Row {
    pub area: Area,
    pub token: Option<String>,
    pub age: Age,
}

/// What the user sees of a pool.
#[derive(Debug)]
pub struct Screen {
    pub path: String,
    pub sort: Sort,
    pub reverse: bool,
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    pub hides_parked: bool,
    pub all_members: bool,
    pub paused: bool,
    /// The selected area's extents are shown.
    pub detail: bool,
    pub rows: Vec<Row>,
    selected: Option<Key>,
    /// Where the selection was, for when the area is gone.
    at: usize,
}

impl Sort {
    fn next(self) -> Sort {
        let all = Sort::value_variants();
        let at = all.iter().position(|&sort| sort == self).unwrap_or(0);
        all[(at + 1) % all.len()]
    }

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Sort::Address => "address",
            Sort::Size => "size",
            Sort::Age => "age",
            Sort::Owner => "owner",
            Sort::State => "state",
            Sort::Caller => "caller",
        }
    }

    fn compare(self, a: &Row, b: &Row) -> Ordering {
        let by = match self {
            Sort::Address => Ordering::Equal,
            Sort::Size => b.area.pages.len.cmp(&a.area.pages.len),
            // A lower number of birth is the older one where nothing else is known.
            Sort::Age => b.age.seen.cmp(&a.age.seen).then(a.area.birth.cmp(&b.area.birth)),
            Sort::Owner => a.area.owner.cmp(&b.area.owner),
            Sort::State => (a.area.kind as u8).cmp(&(b.area.kind as u8)),
            Sort::Caller => a.area.caller.cmp(&b.area.caller),
        };
        by.then(a.area.pages.start.cmp(&b.area.pages.start))
    }
}

impl Screen {
    /// A screen with nothing on it yet.
    pub fn new(path: String, sort: Sort, filter: &str) -> Screen {
        Screen {
            path,
            sort,
            reverse: false,
            filter: filter.to_lowercase(),
            typing: false,
            hides_parked: false,
            all_members: false,
            paused: false,
            detail: false,
            rows: Vec::new(),
            selected: None,
            at: 0,
        }
    }

    /// Takes what the last look found.
    pub fn take(&mut self, watch: &Watch) {
        let row =
            |area: &Area| Row { area: *area, token: watch.token_of(area), age: watch.age(area) };
        let all = watch.now().areas.iter().filter(|a| !self.hides_parked || a.kind != Kind::Parked);
        self.rows = all.map(row).filter(|row| self.wants(row)).collect();
        self.rows.sort_by(|a, b| self.sort.compare(a, b));
        if self.reverse {
            self.rows.reverse();
        }
        let found = self.rows.iter().position(|row| Some(key(&row.area)) == self.selected);
        self.select(found.unwrap_or(self.at));
    }

    /// The selected row's place.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The selected row.
    pub fn selected(&self) -> Option<&Row> {
        self.rows.get(self.at)
    }

    /// Selects a row, the nearest that there is.
    pub fn select(&mut self, at: usize) {
        self.at = at.min(self.rows.len().saturating_sub(1));
        self.selected = self.selected().map(|row| key(&row.area));
    }

    /// Sorts by the next thing, and begins at the top.
    pub fn next_sort(&mut self) {
        (self.sort, self.at, self.selected) = (self.sort.next(), 0, None);
    }

    fn wants(&self, row: &Row) -> bool {
        let text = format!("{} {}", row.area, row.token.as_deref().unwrap_or(""));
        self.filter.split_whitespace().all(|word| text.contains(word))
    }
}

/// `0.4 s`, `12 s`, `3 min`; a `+` behind it: or more.
pub fn shown_age(age: Age) -> String {
    let text = if age.seen < Duration::from_secs(10) {
        format!("{:.1} s", age.seen.as_secs_f64())
    } else {
        crate::info::age(age.seen.as_secs())
    };
    if age.or_more { text + "+" } else { text }
}
