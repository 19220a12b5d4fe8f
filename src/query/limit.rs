//! The limit of a result, where rows have equal timestamps.

use serde::{Deserialize, Serialize};

/// What a limit does with rows of one timestamp of one series; without effect where timestamps are unique.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum LimitTies {
    /// Rows that have the timestamp of the last row within the limit are returned too: the result can be longer.
    #[default]
    Whole,
    /// The result ends at the limit; its cursor continues between rows of one timestamp.
    Split,
}

/// Maximum number of rows of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowLimit {
    /// Without it all rows are returned.
    pub rows: Option<u64>,
    pub ties: LimitTies,
}

impl From<Option<u64>> for RowLimit {
    fn from(rows: Option<u64>) -> Self {
        Self { rows, ties: LimitTies::default() }
    }
}

/// Rows of one timestamp that a result has returned last.
#[derive(Clone, Copy, Debug)]
struct LastRun {
    /// Position of the series.
    series: usize,
    ts: i64,
    rows: u64,
}

/// Counts the rows of a result towards its limit.
#[derive(Debug)]
pub(super) struct RowCounter {
    rows_left: u64,
    /// `None` where no limit can separate rows of one timestamp.
    ties: Option<LimitTies>,
    last: Option<LastRun>,
}

impl RowCounter {
    /// `has_ties`: whether a series of the result can have several rows of one timestamp.
    pub(super) fn new(limit: RowLimit, has_ties: bool) -> Self {
        let ties = (has_ties && limit.rows.is_some()).then_some(limit.ties);
        Self { rows_left: limit.rows.unwrap_or(u64::MAX), ties, last: None }
    }

    /// Counts rows of one timestamp that an earlier page has returned.
    pub(super) fn after(self, series: usize, ts: i64, rows: u64) -> Self {
        let last = (rows > 0).then_some(LastRun { series, ts, rows });
        Self { last, ..self }
    }

    /// Rows the limit still allows; rows of the last timestamp may follow.
    pub(super) fn rows_left(&self) -> u64 {
        self.rows_left
    }

    /// Whether no row can follow.
    pub(super) fn is_complete(&self) -> bool {
        self.rows_left == 0 && self.ties != Some(LimitTies::Whole)
    }

    /// How many of the next `rows` of a series are returned; `ts` gives the timestamp of each, in the order of the
    /// result.
    pub(super) fn take(&mut self, series: usize, rows: usize, ts: impl Fn(usize) -> Option<i64>) -> usize {
        let mut taken = usize::try_from(self.rows_left).map_or(rows, |left| left.min(rows));
        self.rows_left -= taken as u64;
        let Some(ties) = self.ties else { return taken };
        let before = self.last.filter(|last| last.series == series);
        if self.rows_left == 0 && ties == LimitTies::Whole && taken < rows {
            let last = match taken.checked_sub(1) {
                Some(row) => ts(row),
                None => before.map(|last| last.ts),
            };
            taken = last.map_or(taken, |last| first_where(taken, rows, |row| ts(row) != Some(last)));
        }
        if let Some(last) = taken.checked_sub(1).and_then(&ts) {
            let first = first_where(0, taken, |row| ts(row) == Some(last));
            let earlier = before.filter(|before| first == 0 && before.ts == last).map_or(0, |before| before.rows);
            self.last = Some(LastRun { series, ts: last, rows: earlier + (taken - first) as u64 });
        }
        taken
    }

    /// How many rows of a timestamp have been returned, if it is that of the last row.
    pub(super) fn returned_of(&self, series: usize, ts: i64) -> u64 {
        self.last.filter(|last| last.series == series && last.ts == ts).map_or(0, |last| last.rows)
    }
}

/// First of `from..to` for which `holds`, or `to`; for a condition that holds for all rows after the first.
fn first_where(from: usize, to: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (from, to);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(ties: LimitTies, rows: u64, pieces: &[&[i64]]) -> (Vec<usize>, u64) {
        let mut counter = RowCounter::new(RowLimit { rows: Some(rows), ties }, true);
        let taken: Vec<usize> =
            pieces.iter().map(|piece| counter.take(0, piece.len(), |row| piece.get(row).copied())).collect();
        (taken, counter.last.map_or(0, |last| last.rows))
    }

    #[test]
    fn a_limit_returns_all_rows_of_its_last_timestamp_unless_told_to_split_them() {
        let pieces: [&[i64]; 3] = [&[1, 2, 2], &[2, 2], &[2, 3]];
        assert_eq!(counted(LimitTies::Whole, 2, &pieces), (vec![3, 2, 1], 5));
        assert_eq!(counted(LimitTies::Split, 2, &pieces), (vec![2, 0, 0], 1));
        assert_eq!(counted(LimitTies::Split, 4, &pieces), (vec![3, 1, 0], 3));
        assert_eq!(counted(LimitTies::Whole, 1, &pieces), (vec![1, 0, 0], 1));
        // The limit falls between two pieces.
        assert_eq!(counted(LimitTies::Whole, 3, &pieces), (vec![3, 2, 1], 5));
        assert_eq!(counted(LimitTies::Whole, 7, &pieces), (vec![3, 2, 2], 1));
    }

    #[test]
    fn rows_of_an_earlier_page_count_as_returned() {
        let limit = RowLimit { rows: Some(2), ties: LimitTies::Split };
        let mut counter = RowCounter::new(limit, true).after(0, 5, 3);
        assert_eq!(counter.take(0, 4, |_| Some(5)), 2);
        assert_eq!((counter.returned_of(0, 5), counter.returned_of(1, 5), counter.returned_of(0, 6)), (5, 0, 0));
    }

    #[test]
    fn rows_of_one_timestamp_of_another_series_are_no_ties() {
        let mut counter = RowCounter::new(RowLimit::from(Some(1)), true);
        assert_eq!(counter.take(0, 2, |row| [7, 8].get(row).copied()), 1);
        assert_eq!(counter.take(1, 2, |_| Some(7)), 0);
        assert!(!counter.is_complete());
    }
}
