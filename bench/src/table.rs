//! What is counted and not timed: a table of text, and the promises that its figures keep or break.

use serde::Serialize;

/// A table.
#[derive(Serialize, Clone, Debug)]
pub struct Table {
    /// Its coordinates: `peers/kill`.
    pub name: String,
    /// What was done, in a sentence or a few.
    pub about: String,
    /// The heads of all columns; the first is that of the names.
    pub columns: Vec<&'static str>,
    /// The rows, as wide as `columns`.
    pub rows: Vec<Vec<String>>,
    /// What the design allows.
    pub promises: Vec<Promise>,
}

/// A budget that is no ratio of two contenders.
#[derive(Serialize, Clone, Debug)]
pub struct Promise {
    /// Of what.
    pub what: String,
    /// What there must be, in words.
    pub at_least: String,
    /// What there was, in words.
    pub measured: String,
    /// Whether that will do.
    pub is_met: bool,
}

impl Table {
    /// A table without rows.
    pub fn new(name: &str, about: String, columns: Vec<&'static str>) -> Table {
        let (rows, promises) = (Vec::new(), Vec::new());
        Table { name: name.to_owned(), about, columns, rows, promises }
    }

    /// Adds a row: a name, and a cell for each other column.
    pub fn row(&mut self, name: impl Into<String>, cells: impl IntoIterator<Item = String>) {
        let row: Vec<String> = std::iter::once(name.into()).chain(cells).collect();
        assert_eq!(row.len(), self.columns.len(), "a cell for each column of {}", self.name);
        self.rows.push(row);
    }

    /// Adds a row that has a reason in place of figures.
    pub fn skip(&mut self, name: impl Into<String>, why: &str) {
        let blank = std::iter::repeat_n("–".to_owned(), self.columns.len() - 2);
        self.row(name, std::iter::once(format!("skipped: {why}")).chain(blank));
    }

    /// Adds a promise.
    pub fn promise(&mut self, what: &str, at_least: &str, measured: String, is_met: bool) {
        let (what, at_least) = (what.to_owned(), at_least.to_owned());
        self.promises.push(Promise { what, at_least, measured, is_met });
    }

    /// Prints it, columns aligned.
    pub fn print(&self) {
        let heads: Vec<String> = self.columns.iter().map(|&head| head.to_owned()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&heads).chain(&self.rows).collect();
        let width = |column: usize| {
            lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..heads.len()).map(width).collect();
        println!("\n{}: {}", self.name, self.about);
        for line in lines {
            let mut text = format!("  {:<1$}", line[0], widths[0]);
            for (cell, &width) in line.iter().zip(&widths).skip(1) {
                text += &format!("  {cell:>width$}");
            }
            println!("{text}");
        }
        for promise in &self.promises {
            let Promise { what, at_least, measured, is_met } = promise;
            let verdict = if *is_met { "met" } else { "NOT met" };
            println!("  {what}: {measured} (allowed: {at_least}: {verdict})");
        }
    }

    /// As a section of a document.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let heads: Vec<String> = self.columns.iter().map(|&head| head.to_owned()).collect();
        let rule = format!("|{}\n", "---|".repeat(heads.len()));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("\n## {}\n\n{}\n\n{}{rule}{rows}", self.name, self.about, line(&heads))
    }
}
