//! The pass that converts every row without writing, and finds every problem of the input.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use indicatif::ProgressBar;

use crate::error::Result;
use crate::ingest::source::{Converted, Converter, Issue};
use crate::types::schema::ENUM_VALUES_MAX;
use crate::types::time::MODERN;

use super::args::ImportSettings;
use super::plan::{ImportPlan, SourceRow};
use super::repeats::{RepeatCollector, RepeatedRows, RowPosition, TimeOrder};
use super::steps::StepCounts;

/// Most rows of one kind that are listed; the rest are only counted.
pub const FINDINGS_MAX: usize = 1_000;
/// A row worth reporting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFinding {
    pub place: RowPosition,
    pub issue: Issue,
}

/// Rows worth reporting, counted; the first [`FINDINGS_MAX`] of them listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowFindings {
    pub count: u64,
    pub list: Vec<RowFinding>,
    /// Number of rows for each reason.
    pub reasons: BTreeMap<&'static str, u64>,
}

impl RowFindings {
    fn add(&mut self, place: RowPosition, issue: Issue) {
        self.count += 1;
        *self.reasons.entry(issue.reason).or_default() += 1;
        if self.list.len() < FINDINGS_MAX {
            self.list.push(RowFinding { place, issue });
        }
    }
}

/// A number that lost digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rounded {
    pub place: RowPosition,
    /// Position of its column.
    pub column: usize,
    pub before: String,
    pub after: String,
}

/// The number of rows with a common property, and the first of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowGroup {
    pub count: u64,
    pub first: Option<(RowPosition, i64)>,
}

/// What the check found in the input.
#[derive(Clone, Debug, Default)]
pub struct InputSummary {
    pub rows: u64,
    pub invalid: RowFindings,
    /// Imported rows whose open, high, low, close or volume are inconsistent.
    pub odd: RowFindings,
    pub repeats: RepeatedRows,
    /// Rows that lost digits, by column.
    pub rounded: Vec<u64>,
    /// The first [`FINDINGS_MAX`] numbers that lost digits.
    pub rounded_list: Vec<Rounded>,
    /// Digits that the numbers of the column need, if more than the column has.
    pub digits_needed: BTreeMap<String, u8>,
    /// Columns with numbers out of their range.
    pub overflows: BTreeSet<String>,
    /// Texts that an enum does not list, by column; one more than an enum can have at most.
    pub unknown_values: BTreeMap<String, Vec<String>>,
    /// Imported rows that start no interval of the timeframe.
    pub off_grid: RowGroup,
    /// Rows before 1990.
    pub early: RowGroup,
    pub steps: StepCounts,
    /// Earliest and latest time of the valid rows.
    pub first_ts: Option<i64>,
    pub last_ts: Option<i64>,
}

impl InputSummary {
    /// Rows that will be written.
    pub fn accepted(&self) -> u64 {
        self.rows.saturating_sub(self.invalid.count).saturating_sub(self.repeats.dropped())
    }
}

impl RowGroup {
    fn add(&mut self, place: RowPosition, ts: i64) {
        self.count += 1;
        self.first.get_or_insert((place, ts));
    }
}

/// The position of a row in the input.
pub fn place(row: &SourceRow<'_>) -> RowPosition {
    RowPosition { file: row.file, row: row.mapped.row, line: row.mapped.line, number: row.number }
}

/// Converts every row; reads those with a possibly repeated time a second time.
pub fn check(
    plan: &ImportPlan,
    converter: &Converter<'_>,
    settings: &ImportSettings,
    bar: &ProgressBar,
) -> Result<InputSummary> {
    let mut found = InputSummary { rounded: vec![0; plan.targets.len()], ..InputSummary::default() };
    let mut order = TimeOrder::new();
    let mut converted = Converted::default();
    // Wrong units and missing dates give times before 1990, market data rarely does.
    let usual_from = MODERN.start * converter.def().unit.per_second();
    plan.read(bar, &mut |row| {
        found.rows += 1;
        match converter.convert(&row.mapped, &mut converted) {
            Err(issue) => {
                if let Some(digits) = issue.digits {
                    let most = found.digits_needed.entry(issue.field.clone()).or_default();
                    *most = digits.max(*most);
                }
                if issue.reason == "overflow" {
                    found.overflows.insert(issue.field.clone());
                }
                if let Some(value) = &issue.value {
                    let values = found.unknown_values.entry(issue.field.clone()).or_default();
                    if values.len() <= ENUM_VALUES_MAX && !values.contains(value) {
                        values.push(value.clone());
                    }
                }
                found.invalid.add(place(&row), issue);
            }
            Ok(()) => {
                let ts = converted.ts;
                order.push(ts);
                found.first_ts = Some(found.first_ts.map_or(ts, |first| first.min(ts)));
                found.last_ts = Some(found.last_ts.map_or(ts, |last| last.max(ts)));
                found.steps.push(row.file, ts, converter.grid());
                if converted.rounded != 0 {
                    count_rounded(&mut found, &row, &converted, converter);
                }
                if converted.off_grid {
                    found.off_grid.add(place(&row), ts);
                }
                if ts < usual_from {
                    found.early.add(place(&row), ts);
                }
                if let Some(issue) = converted.odd.take() {
                    found.odd.add(place(&row), issue);
                }
            }
        }
        Ok(())
    })?;
    let suspects = order.suspects();
    // Other rules of order keep rows of equal times.
    if converter.def().order.is_by_timestamp() && !suspects.is_empty() {
        found.repeats = repeats(plan, converter, settings, suspects)?;
    }
    Ok(found)
}

/// Counts the numbers of a row that lost digits, and lists the first.
fn count_rounded(found: &mut InputSummary, row: &SourceRow<'_>, converted: &Converted, converter: &Converter<'_>) {
    let columns = converter.def().columns.iter().zip(row.mapped.cells).zip(&converted.cells);
    for (at, (((column, cell), word), count)) in columns.zip(&mut found.rounded).enumerate() {
        if (converted.rounded >> (at & 63)) & 1 == 0 {
            continue;
        }
        *count += 1;
        if found.rounded_list.len() < FINDINGS_MAX {
            let (before, after) = (cell.show().into_owned(), word.show(column.kind));
            found.rounded_list.push(Rounded { place: place(row), column: at, before, after });
        }
    }
}

fn repeats(
    plan: &ImportPlan,
    converter: &Converter<'_>,
    settings: &ImportSettings,
    suspects: Vec<(i64, i64)>,
) -> Result<RepeatedRows> {
    let mut collector = RepeatCollector::new(suspects);
    let mut converted = Converted::default();
    plan.read(&ProgressBar::hidden(), &mut |row| {
        if converter.convert(&row.mapped, &mut converted).is_ok() {
            collector.push(converted.ts, place(&row), || {
                let mut hasher = DefaultHasher::new();
                converted.cells.hash(&mut hasher);
                hasher.finish()
            });
        }
        Ok(())
    })?;
    Ok(collector.repeats(settings.on_duplicate))
}
