//! The pass that converts every row and writes none: all that is wrong with the input is known after it.

use std::hash::{DefaultHasher, Hash, Hasher};

use indicatif::ProgressBar;

use crate::error::Result;
use crate::service::Mode;

use super::args::Settings;
use super::convert::{Converted, Converter, Issue};
use super::plan::{Plan, SourceRow};
use super::repeats::{Collector, Keep, Order, Place, Repeats};

/// How many rows of one kind are reported one by one; the rest are counted.
pub const FINDINGS_MAX: usize = 1_000;

/// A row worth reporting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub place: Place,
    pub issue: Issue,
}

/// Rows worth reporting, counted; the first [`FINDINGS_MAX`] of them listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub count: u64,
    pub list: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, place: Place, issue: Issue) {
        self.count += 1;
        if self.list.len() < FINDINGS_MAX {
            self.list.push(Finding { place, issue });
        }
    }
}

/// What the input holds.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    pub rows: u64,
    pub invalid: Findings,
    /// Rows whose open, high, low, close or volume contradict each other and that are kept.
    pub odd: Findings,
    pub repeats: Repeats,
    /// Rows that lost digits, by column.
    pub rounded: Vec<u64>,
    /// Earliest and latest time of the valid rows.
    pub first_ts: Option<i64>,
    pub last_ts: Option<i64>,
}

impl Checked {
    /// Rows that will be written.
    pub fn accepted(&self) -> u64 {
        self.rows.saturating_sub(self.invalid.count).saturating_sub(self.repeats.list.len() as u64)
    }
}

/// Where a row stands.
pub fn place(row: &SourceRow<'_>) -> Place {
    Place { file: row.file, row: row.row, line: row.line, number: row.number }
}

/// Converts every row; looks again at those whose time may stand twice.
pub fn check(plan: &Plan, converter: &Converter<'_>, settings: &Settings, bar: &ProgressBar) -> Result<Checked> {
    let mut found = Checked { rounded: vec![0; plan.targets.len()], ..Checked::default() };
    let mut order = Order::new();
    let mut converted = Converted::default();
    plan.read(bar, &mut |row| {
        found.rows += 1;
        match converter.convert(&row, &mut converted) {
            Err(issue) => found.invalid.add(place(&row), issue),
            Ok(()) => {
                order.push(converted.ts);
                found.first_ts = Some(found.first_ts.map_or(converted.ts, |ts| ts.min(converted.ts)));
                found.last_ts = Some(found.last_ts.map_or(converted.ts, |ts| ts.max(converted.ts)));
                if converted.rounded != 0 {
                    for (at, count) in found.rounded.iter_mut().enumerate() {
                        *count += (converted.rounded >> (at & 63)) & 1;
                    }
                }
                if let Some(issue) = converted.odd.take() {
                    found.odd.add(place(&row), issue);
                }
            }
        }
        Ok(())
    })?;
    let suspects = order.suspects();
    if !suspects.is_empty() {
        found.repeats = repeats(plan, converter, settings, suspects)?;
    }
    if settings.mode != Mode::Upsert {
        // Neither insert nor append lets one row take the place of another.
        let twice = std::mem::take(&mut found.repeats);
        for repeat in &twice.list {
            let first = repeat.kept.line.map_or(format!("row {}", repeat.kept.row), |line| format!("line {line}"));
            let message = format!("the time stands in {first} of {} already", plan.path(repeat.kept.file));
            found.invalid.add(repeat.dropped, Issue { field: "ts".into(), reason: "duplicate", message });
        }
        found.invalid.list.sort_by_key(|finding| finding.place.number);
        // They stay known, so that they are left out, but count as invalid.
        found.repeats = twice.hidden();
    }
    Ok(found)
}

fn repeats(plan: &Plan, converter: &Converter<'_>, settings: &Settings, suspects: Vec<(i64, i64)>) -> Result<Repeats> {
    let mut collector = Collector::new(suspects);
    let mut converted = Converted::default();
    plan.read(&ProgressBar::hidden(), &mut |row| {
        if converter.convert(&row, &mut converted).is_ok() {
            collector.push(converted.ts, place(&row), || {
                let mut hasher = DefaultHasher::new();
                converted.cells.hash(&mut hasher);
                hasher.finish()
            });
        }
        Ok(())
    })?;
    Ok(collector.repeats(if settings.mode == Mode::Upsert { Keep::Last } else { Keep::First }))
}
