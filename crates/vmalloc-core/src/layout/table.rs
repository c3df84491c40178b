//! Which table a word belongs to: for tools that look at a window from outside, and say so.

use super::{
    COUNTER_WORDS, Geometry, LANE_WORDS, LANES, RECORD_WORDS, STATS_AT, ZONE_WORDS, ZONES,
};
use core::ops::Range;

/// One of the tables, in the order in which they lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Table {
    /// Hint: the index of free runs of each zone.
    Zones,
    /// Hint: totals.
    Counters,
    /// What each member did.
    Stats,
    /// Truth: who owns a granule.
    Tags,
    /// Hint: slots taken, a word a granule.
    Taken,
    /// Hint: slots parked, a word a granule.
    Parked,
    /// Hint: links of the free runs.
    Links,
    /// Hint: lengths of the free runs.
    Runs,
    /// Hint: trees of chunks with room, and with parked slots.
    Trees,
    /// Truth: eight words an area, of which the first says who owns it.
    Records,
    /// Truth: who is attached, a word a member and area.
    Presence,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 11] = [
        Table::Zones,
        Table::Counters,
        Table::Stats,
        Table::Tags,
        Table::Taken,
        Table::Parked,
        Table::Links,
        Table::Runs,
        Table::Trees,
        Table::Records,
        Table::Presence,
    ];
}

impl Geometry {
    /// The words of a table.
    #[must_use]
    pub const fn table(&self, table: Table) -> Range<usize> {
        let (tags, granules) = (self.tags_at(), self.granules);
        let records = self.flat_words();
        match table {
            Table::Zones => 0..ZONES * ZONE_WORDS,
            Table::Counters => ZONES * ZONE_WORDS..ZONES * ZONE_WORDS + COUNTER_WORDS,
            Table::Stats => STATS_AT..STATS_AT + self.members * LANES * LANE_WORDS,
            Table::Tags => tags..tags + granules,
            Table::Taken => tags + granules..tags + 2 * granules,
            Table::Parked => tags + 2 * granules..tags + 3 * granules,
            Table::Links => tags + 3 * granules..tags + 4 * granules,
            Table::Runs => tags + 4 * granules..tags + 5 * granules,
            Table::Trees => self.hints_at()..records,
            Table::Records => records..records + self.areas() * RECORD_WORDS,
            Table::Presence => self.presence_at()..self.words(),
        }
    }

    /// The table that holds word `at`, and where in it that is.
    #[must_use]
    pub fn table_of(&self, at: usize) -> Option<(Table, usize)> {
        let holds = |table: &Table| self.table(*table).contains(&at);
        let table = Table::ALL.into_iter().find(holds)?;
        Some((table, at - self.table(table).start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the tables lie side by side, none in another, up to the last word.
    #[test]
    fn every_word_is_of_one_table() {
        let geometry = Geometry { granules: 200, small_granules: 100, members: 3, in_place: true };
        let mut end = 0;
        for table in Table::ALL {
            let range = geometry.table(table);
            assert_eq!(range.start, end, "{table:?}");
            end = range.end;
        }
        assert_eq!(end, geometry.words());
        let tags = geometry.table(Table::Tags).start;
        assert_eq!(geometry.table_of(tags + 7), Some((Table::Tags, 7)));
        assert_eq!(geometry.table_of(end), None);
    }
}
