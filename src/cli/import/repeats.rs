//! Finds rows of the input with the same timestamp.
//!
//! [`TimeOrder`] records only the spans in which times rise or fall: in disjoint spans no time can repeat. Only rows in
//! overlapping spans are read a second time, by a [`RepeatCollector`].

use std::collections::{HashMap, HashSet};

use super::args::OnDuplicate;

/// More spans than this are treated as one: the input is unordered.
const SPANS_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// The order of the times of the input.
#[derive(Clone, Debug, Default)]
pub struct TimeOrder {
    spans: Vec<(i64, i64)>,
    last: Option<i64>,
    direction: Option<Direction>,
    /// Times equal to the previous one.
    adjacent_repeats: Vec<(i64, i64)>,
    /// Whether times always rose.
    pub rising: bool,
    scattered: bool,
}

impl TimeOrder {
    pub fn new() -> Self {
        Self { rising: true, ..Self::default() }
    }

    pub fn push(&mut self, ts: i64) {
        let last = self.last.replace(ts);
        let direction_now = match last {
            Some(last) if ts > last => Direction::Up,
            Some(last) if ts < last => Direction::Down,
            Some(_) => {
                self.rising = false;
                self.add_repeat(ts);
                return;
            }
            None => {
                self.spans.push((ts, ts));
                return;
            }
        };
        self.rising &= direction_now == Direction::Up;
        match self.spans.last_mut() {
            Some(span) if self.direction.is_none_or(|direction| direction == direction_now) => {
                self.direction = Some(direction_now);
                *span = (span.0.min(ts), span.1.max(ts));
            }
            _ => {
                self.direction = None;
                self.spans.push((ts, ts));
                if self.spans.len() > SPANS_MAX {
                    self.scattered = true;
                    let all = self.spans.iter().fold((ts, ts), |all, span| (all.0.min(span.0), all.1.max(span.1)));
                    self.spans = vec![all];
                }
            }
        }
    }

    fn add_repeat(&mut self, ts: i64) {
        if self.adjacent_repeats.last().is_none_or(|last| last.0 != ts) {
            self.adjacent_repeats.push((ts, ts));
        }
        if self.adjacent_repeats.len() > SPANS_MAX {
            self.scattered = true;
            self.adjacent_repeats.clear();
        }
    }

    /// Closed ranges in which a time may occur more than once, ascending and disjoint; empty when no time can.
    pub fn suspects(&self) -> Vec<(i64, i64)> {
        if self.scattered {
            return vec![(i64::MIN, i64::MAX)];
        }
        let mut spans = self.spans.clone();
        spans.sort_unstable();
        let mut touching = self.adjacent_repeats.clone();
        let mut end: Option<i64> = None;
        for span in spans {
            if let Some(end) = end.filter(|end| span.0 <= *end) {
                touching.push((span.0, span.1.min(end)));
            }
            end = Some(end.map_or(span.1, |end| end.max(span.1)));
        }
        touching.sort_unstable();
        let mut merged: Vec<(i64, i64)> = Vec::new();
        for span in touching {
            match merged.last_mut() {
                Some(last) if span.0 <= last.1 => last.1 = last.1.max(span.1),
                _ => merged.push(span),
            }
        }
        merged
    }
}

/// The position of a row in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowPosition {
    pub file: usize,
    pub row: u64,
    pub line: Option<u64>,
    /// Zero-based number over all files.
    pub number: u64,
}

/// A row with the same time as another row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepeatedRow {
    pub ts: i64,
    pub place: RowPosition,
    /// The row it is compared with: the last one of its time for `last`, else the first.
    pub other: RowPosition,
    /// Whether both hold the same values.
    pub identical: bool,
}

/// Collects the rows of possibly repeated times.
#[derive(Clone, Debug, Default)]
pub struct RepeatCollector {
    suspects: Vec<(i64, i64)>,
    rows: HashMap<i64, Vec<(RowPosition, u64)>>,
}

impl RepeatCollector {
    pub fn new(suspects: Vec<(i64, i64)>) -> Self {
        Self { suspects, rows: HashMap::new() }
    }

    /// Records a row if its time is in one of the ranges; `hash` is the hash of its values.
    pub fn push(&mut self, ts: i64, place: RowPosition, hash: impl FnOnce() -> u64) {
        let after = self.suspects.partition_point(|span| span.0 <= ts);
        if self.suspects.get(..after).and_then(<[_]>::last).is_some_and(|span| ts <= span.1) {
            self.rows.entry(ts).or_default().push((place, hash()));
        }
    }

    /// The repeated rows, and which rows are skipped: all but one of each time, or for `identical` every row of a time
    /// whose rows differ.
    pub fn repeats(self, rule: OnDuplicate) -> RepeatedRows {
        let mut found = RepeatedRows::default();
        for (ts, rows) in self.rows {
            let kept = match rule {
                OnDuplicate::Last => rows.last(),
                OnDuplicate::Reject | OnDuplicate::Identical => rows.first(),
            };
            let Some((kept, values)) = kept.copied() else { continue };
            let others = rows.iter().filter(|(place, _)| *place != kept);
            found.list.extend(others.clone().map(|(place, hash)| RepeatedRow {
                ts,
                place: *place,
                other: kept,
                identical: *hash == values,
            }));
            found.dropped.extend(others.clone().map(|(place, _)| place.number));
            if rule == OnDuplicate::Identical && others.clone().any(|(_, hash)| *hash != values) {
                found.dropped.insert(kept.number);
            }
        }
        found.list.sort_unstable_by_key(|repeat| repeat.place.number);
        found
    }
}

/// All repeated rows, in the order of the input.
#[derive(Clone, Debug, Default)]
pub struct RepeatedRows {
    pub list: Vec<RepeatedRow>,
    dropped: HashSet<u64>,
}

impl RepeatedRows {
    /// Whether the row with this number is skipped.
    pub fn drops(&self, number: u64) -> bool {
        self.dropped.contains(&number)
    }

    /// The number of skipped rows.
    pub fn dropped(&self) -> u64 {
        self.dropped.len() as u64
    }

    /// The number of rows that repeat a time with values other than those of the row they are compared with.
    pub fn different(&self) -> u64 {
        self.list.iter().filter(|repeat| !repeat.identical).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn suspects(times: &[i64]) -> Vec<(i64, i64)> {
        let mut order = TimeOrder::new();
        times.iter().for_each(|ts| order.push(*ts));
        order.suspects()
    }

    fn place(number: u64) -> RowPosition {
        RowPosition { file: 0, row: number, line: None, number }
    }

    fn repeats(rows: &[(i64, u64)], rule: OnDuplicate) -> RepeatedRows {
        let times: Vec<i64> = rows.iter().map(|(ts, _)| *ts).collect();
        let mut collector = RepeatCollector::new(suspects(&times));
        for (number, (ts, values)) in rows.iter().enumerate() {
            collector.push(*ts, place(number as u64), || *values);
        }
        collector.repeats(rule)
    }

    fn dropped(times: &[i64], rule: OnDuplicate) -> Vec<u64> {
        let rows: Vec<(i64, u64)> = times.iter().map(|ts| (*ts, 0)).collect();
        let found = repeats(&rows, rule);
        (0..times.len() as u64).filter(|number| found.drops(*number)).collect()
    }

    #[test]
    fn ordered_input_needs_no_second_pass() {
        assert_eq!(suspects(&[1, 2, 3, 9]), []);
        assert_eq!(suspects(&[9, 5, 3, 1]), []);
        assert_eq!(suspects(&[5, 6, 7, 1, 2, 3]), [], "files given out of order");
        assert_eq!(suspects(&[]), []);
    }

    #[test]
    fn only_overlapping_spans_are_suspect() {
        assert_eq!(suspects(&[1, 2, 2, 3]), [(2, 2)]);
        assert_eq!(suspects(&[1, 2, 3, 4, 3, 4, 5, 6]), [(3, 4)]);
    }

    #[test]
    fn one_row_of_each_time_is_imported() {
        assert_eq!(dropped(&[1, 2, 2, 3], OnDuplicate::Last), [1]);
        assert_eq!(dropped(&[1, 2, 2, 3], OnDuplicate::Reject), [2]);
        assert_eq!(dropped(&[4, 1, 4, 2, 4], OnDuplicate::Last), [0, 2]);
        assert_eq!(dropped(&[4, 1, 4, 2, 4], OnDuplicate::Identical), [2, 4]);
    }

    #[test]
    fn rows_with_different_values_are_counted_and_with_identical_none_is_imported() {
        let rows = [(1, 7), (2, 7), (2, 8), (3, 7), (3, 7)];
        for (rule, left_out) in [
            (OnDuplicate::Last, vec![1, 3]),
            (OnDuplicate::Reject, vec![2, 4]),
            (OnDuplicate::Identical, vec![1, 2, 4]),
        ] {
            let found = repeats(&rows, rule);
            assert_eq!((found.list.len(), found.different()), (2, 1), "{rule:?}");
            let dropped: Vec<u64> = (0..5).filter(|number| found.drops(*number)).collect();
            assert_eq!(dropped, left_out, "{rule:?}");
            assert_eq!(found.dropped(), left_out.len() as u64);
        }
    }

    proptest! {
        #[test]
        fn every_repeated_row_is_found_and_no_other(times in prop::collection::vec(0_i64..40, 0..60)) {
            let last: HashMap<i64, usize> = times.iter().enumerate().map(|(at, ts)| (*ts, at)).collect();
            let expected: Vec<u64> =
                times.iter().enumerate().filter(|(at, ts)| last[*ts] != *at).map(|(at, _)| at as u64).collect();
            prop_assert_eq!(dropped(&times, OnDuplicate::Last), expected);
        }
    }
}
