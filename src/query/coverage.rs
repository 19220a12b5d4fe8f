//! Coverage: which of the expected buckets of a closed range have rows, and the gaps between them.
//!
//! - A bucket is expected when its start lies in the range and in a window the calendar opens.
//! - An expected bucket is present when at least one row of the range lies anywhere in it.
//! - A gap is a maximal run of expected buckets without a row. Buckets that are not expected neither start nor end a
//!   gap: a weekend between two missing buckets does not split it.
//!
//! The cost grows with the gaps and the calendar's windows within the range, not with the buckets.

use std::collections::VecDeque;

use crate::error::Result;
use crate::query::condition::Condition;
use crate::store::{BucketRanges, MapCache, Presence, SeriesState};
use crate::types::calendar::OpenPeriods;
use crate::types::{Calendar, Grid, TimeUnit};

/// Range, calendar and limits of a coverage report.
#[derive(Clone, Copy, Debug)]
pub struct CoverageSpec<'a> {
    /// First timestamp; defaults to the start of the first row's bucket.
    pub start: Option<i64>,
    /// Last timestamp; defaults to that of the last row.
    pub end: Option<i64>,
    pub calendar: &'a Calendar,
    /// Gaps of fewer buckets are not listed.
    pub missing_min: u64,
    /// At most this many gaps are listed.
    pub gaps_max: usize,
}

/// Expected buckets without rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Start of the first missing bucket.
    pub start: i64,
    /// Start of the last missing bucket.
    pub end: i64,
    /// How many expected buckets are missing.
    pub missing: u64,
}

/// How a range of a series is covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoverageReport {
    pub grid: Grid,
    /// Start of the first and of the last bucket of the range; `None` when no bucket starts in it.
    pub bounds: Option<(i64, i64)>,
    pub expected: u64,
    pub present: u64,
    /// Rows of the range.
    pub rows: u64,
    /// Rows that are not at the start of their bucket.
    pub off_grid: u64,
    /// Rows in buckets the calendar closes.
    pub outside_calendar: u64,
    /// The first gaps, in ascending order.
    pub gaps: Vec<Gap>,
    /// Number of gaps of at least `missing_min` buckets, listed or not.
    pub gaps_total: u64,
    /// The gap with the most missing buckets, listed or not; of equal ones the earliest.
    pub longest_gap: Option<Gap>,
}

impl CoverageReport {
    /// Present over expected; `None` when nothing is expected.
    pub fn ratio(&self) -> Option<f64> {
        (self.expected > 0).then(|| self.present as f64 / self.expected as f64)
    }
}

/// The range of timestamps and the buckets that start in it.
struct BucketSpan {
    range: (i64, i64),
    buckets: (i64, i64),
}

impl BucketSpan {
    fn of(series: &SeriesState, grid: Grid, start: Option<i64>, end: Option<i64>) -> Option<Self> {
        let start = start.or_else(|| series.bounds.map(|(first, _)| grid.start_of(grid.bucket_of(first))))?;
        let end = end.or_else(|| series.bounds.map(|(_, last)| last))?;
        (start <= end).then(|| Self { range: (start, end), buckets: (grid.first_at(start), grid.bucket_of(end)) })
    }
}

/// Closed ranges of expected buckets, ascending and disjoint.
struct ExpectedBuckets<'a> {
    grid: Grid,
    per_second: i64,
    buckets: (i64, i64),
    openings: OpenPeriods<'a>,
}

impl<'a> ExpectedBuckets<'a> {
    fn new(grid: Grid, unit: TimeUnit, calendar: &'a Calendar, buckets: (i64, i64)) -> Self {
        let per_second = unit.per_second();
        let second = |bucket: i64| grid.start_of(bucket).div_euclid(per_second);
        let openings = if buckets.0 <= buckets.1 {
            calendar.openings(second(buckets.0), second(buckets.1).saturating_add(1))
        } else {
            calendar.openings(0, 0)
        };
        Self { grid, per_second, buckets, openings }
    }
}

impl Iterator for ExpectedBuckets<'_> {
    type Item = (i64, i64);

    fn next(&mut self) -> Option<(i64, i64)> {
        loop {
            let (from, to) = self.openings.next()?;
            let first_at = |second: i64| self.grid.first_at(second.saturating_mul(self.per_second));
            let (first, last) = (first_at(from).max(self.buckets.0), (first_at(to) - 1).min(self.buckets.1));
            if first <= last {
                return Some((first, last));
            }
        }
    }
}

/// Closed ranges of expected buckets that are all present or all missing, ascending.
struct Segments<'a> {
    expected: ExpectedBuckets<'a>,
    rest: Option<(i64, i64)>,
    runs: BucketRanges<'a>,
    run: Option<(i64, i64)>,
}

impl<'a> Segments<'a> {
    fn new(expected: ExpectedBuckets<'a>, mut runs: BucketRanges<'a>) -> Self {
        let run = runs.next();
        Self { expected, rest: None, runs, run }
    }
}

impl Iterator for Segments<'_> {
    /// Whether the buckets are present; the first and the last of them.
    type Item = (bool, i64, i64);

    fn next(&mut self) -> Option<(bool, i64, i64)> {
        let (first, last) = self.rest.take().or_else(|| self.expected.next())?;
        while self.run.is_some_and(|(_, to)| to < first) {
            self.run = self.runs.next();
        }
        Some(match self.run {
            Some((from, to)) if from <= first => {
                self.rest = (to < last).then(|| (to + 1, last));
                (true, first, to.min(last))
            }
            Some((from, _)) if from <= last => {
                self.rest = Some((from, last));
                (false, first, from - 1)
            }
            _ => (false, first, last),
        })
    }
}

/// Number of buckets in a closed range.
fn count((first, last): (i64, i64)) -> u64 {
    if first > last { 0 } else { last.abs_diff(first).saturating_add(1) }
}

/// How a series is covered.
///
/// # Errors
/// `invalid_argument` when the intervals of the series have no length; `corrupt_data` when a chunk without a usable
/// sidecar cannot be read.
pub fn coverage(series: &SeriesState, cache: &MapCache, spec: &CoverageSpec<'_>) -> Result<CoverageReport> {
    let grid = series.grid()?;
    let mut report = CoverageReport {
        grid,
        bounds: None,
        expected: 0,
        present: 0,
        rows: 0,
        off_grid: 0,
        outside_calendar: 0,
        gaps: Vec::new(),
        gaps_total: 0,
        longest_gap: None,
    };
    let Some(span) = BucketSpan::of(series, grid, spec.start, spec.end) else { return Ok(report) };
    let presence = series.presence(cache)?;
    report.rows = presence.rows(span.range);
    report.off_grid = presence.off_grid(span.range).len() as u64;
    report.outside_calendar = report.rows - rows_open(&presence, series.def.unit, spec.calendar, &span);
    if span.buckets.0 > span.buckets.1 {
        return Ok(report);
    }
    report.bounds = Some((grid.start_of(span.buckets.0), grid.start_of(span.buckets.1)));
    let buckets = presence.buckets(span.range);
    let expected = ExpectedBuckets::new(grid, series.def.unit, spec.calendar, span.buckets);
    // First and last missing bucket of the gap that may continue, and how many are missing.
    let mut open: Option<(i64, i64, u64)> = None;
    let close = |gap: Option<(i64, i64, u64)>, report: &mut CoverageReport| {
        let Some((first, last, missing)) = gap else { return };
        let gap = Gap { start: grid.start_of(first), end: grid.start_of(last), missing };
        if report.longest_gap.is_none_or(|longest| longest.missing < missing) {
            report.longest_gap = Some(gap);
        }
        if missing >= spec.missing_min {
            report.gaps_total += 1;
            if report.gaps.len() < spec.gaps_max {
                report.gaps.push(gap);
            }
        }
    };
    for (is_present, first, last) in Segments::new(expected, buckets.runs(span.buckets)) {
        let buckets = count((first, last));
        report.expected += buckets;
        if is_present {
            report.present += buckets;
            close(open.take(), &mut report);
        } else {
            let (from, _, missing) = open.unwrap_or((first, last, 0));
            open = Some((from, last, missing + buckets));
        }
    }
    close(open, &mut report);
    Ok(report)
}

/// Closed ranges of the starts of expected buckets without a row, of those that start in `from..to`; ascending. A bucket
/// after the last row is missing too.
///
/// # Errors
/// Those of [`coverage`].
pub fn missing_ranges(series: &SeriesState, cache: &MapCache, (from, to): (i64, i64)) -> Result<Vec<(i64, i64)>> {
    let grid = series.grid()?;
    let calendar = Calendar::of(series.def.calendar.as_ref())?;
    let buckets = (grid.first_at(from), grid.bucket_of(to.saturating_sub(1)));
    if buckets.0 > buckets.1 {
        return Ok(Vec::new());
    }
    let presence = series.presence(cache)?;
    let present = presence.buckets((grid.start_of(buckets.0), grid.end_of(buckets.1)));
    let expected = ExpectedBuckets::new(grid, series.def.unit, &calendar, buckets);
    let missing = Segments::new(expected, present.runs(buckets)).filter(|(is_present, ..)| !is_present);
    Ok(missing.map(|(_, first, last)| (grid.start_of(first), grid.start_of(last))).collect())
}

/// Rows of the range in buckets the calendar opens.
fn rows_open(presence: &Presence, unit: TimeUnit, calendar: &Calendar, span: &BucketSpan) -> u64 {
    let grid = presence.grid;
    if matches!(calendar, Calendar::Always) {
        return presence.rows(span.range);
    }
    // The first row can lie in a bucket that starts before the range.
    let buckets = (grid.bucket_of(span.range.0), span.buckets.1);
    ExpectedBuckets::new(grid, unit, calendar, buckets)
        .map(|(first, last)| {
            presence.rows((grid.start_of(first).max(span.range.0), grid.end_of(last).min(span.range.1)))
        })
        .sum()
}

/// The last buckets that are covered without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompleteTail {
    /// Closed range of timestamps from the first bucket to the last.
    pub range: (i64, i64),
    /// Condition on `ts` that excludes rows in buckets the calendar closes; `None` when there are no such rows in
    /// `range`.
    pub filter: Option<Condition>,
}

/// The last run of `wanted` consecutive expected buckets that all have rows, within the range; `None` when there is no
/// such run.
pub fn last_complete(
    series: &SeriesState,
    cache: &MapCache,
    calendar: &Calendar,
    (start, end): (Option<i64>, Option<i64>),
    buckets_wanted: u64,
) -> Result<Option<CompleteTail>> {
    let grid = series.grid()?;
    let Some(span) = BucketSpan::of(series, grid, start, end) else { return Ok(None) };
    if span.buckets.0 > span.buckets.1 {
        return Ok(None);
    }
    let presence = series.presence(cache)?;
    let buckets = presence.buckets(span.range);
    let expected = ExpectedBuckets::new(grid, series.def.unit, calendar, span.buckets);
    // The present segments since the last missing bucket, as few as hold `wanted` buckets, and their number of buckets.
    let mut parts: VecDeque<(i64, i64)> = VecDeque::new();
    let mut length = 0_u64;
    let mut found: Option<VecDeque<(i64, i64)>> = None;
    for (is_present, first, last) in Segments::new(expected, buckets.runs(span.buckets)) {
        if !is_present {
            if length >= buckets_wanted {
                found = Some(std::mem::take(&mut parts));
            }
            parts.clear();
            length = 0;
            continue;
        }
        parts.push_back((first, last));
        length += count((first, last));
        while let Some(front) = parts.front().copied().filter(|front| length - count(*front) >= buckets_wanted) {
            length -= count(front);
            parts.pop_front();
        }
    }
    if length >= buckets_wanted {
        found = Some(parts);
    }
    let Some(mut parts) = found else { return Ok(None) };
    let surplus = parts.iter().copied().map(count).sum::<u64>().saturating_sub(buckets_wanted);
    if let Some(front) = parts.front_mut() {
        front.0 = front.0.saturating_add_unsigned(surplus);
    }
    // Ranges of timestamps; those without rows between them are coalesced.
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for (first, last) in parts {
        let (from, to) = (grid.start_of(first), grid.end_of(last).min(span.range.1));
        match ranges.last_mut() {
            Some(previous) if presence.rows((previous.1.saturating_add(1), from.saturating_sub(1))) == 0 => {
                previous.1 = to
            }
            _ => ranges.push((from, to)),
        }
    }
    Ok(ranges.first().zip(ranges.last()).map(|(first, last)| CompleteTail {
        range: (first.0, last.1),
        filter: (ranges.len() > 1).then(|| Condition::on_ts(ranges.clone())),
    }))
}

/// Present over expected buckets from the first to the last row; `None` without rows or without a grid.
pub fn ratio(series: &SeriesState, cache: &MapCache) -> Result<Option<f64>> {
    if series.grid().is_err() {
        return Ok(None);
    }
    let calendar = Calendar::of(series.def.calendar.as_ref())?;
    let spec = CoverageSpec { start: None, end: None, calendar: &calendar, missing_min: 1, gaps_max: 0 };
    Ok(coverage(series, cache, &spec)?.ratio())
}
