//! The errors of the rows of one body.

use super::cell::CellError;
use crate::error::{Error, ErrorCode, ROW_ERRORS_MAX, Result, RowError};
use crate::types::grid::{OFF_GRID, OFF_GRID_HINT};
use crate::types::{SeriesDef, SeriesKey, time};

/// Reason of a row error: the timestamp appears to be in another unit.
pub(super) const IMPLAUSIBLE_TS: &str = "implausible_ts";
/// How the caller of a rejected write can fix it.
pub(super) const IMPLAUSIBLE_TS_HINT: &str = "send ts in the unit of the series, or register the series with the unit of \
    the data (unit=s, ms, us or ns); implausible_ts=allow (--implausible-ts allow on \
    the command line) stores early 1970 as it is";

/// Source text in quotes, truncated for messages.
pub(super) fn quote(text: &[u8]) -> String {
    const SHOWN_CHARS: usize = 60;
    let head = String::from_utf8_lossy(text.get(..4 * SHOWN_CHARS).unwrap_or(text));
    match head.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}…", head.get(..end).unwrap_or_default()),
        None => format!("{head:?}"),
    }
}

/// Row errors of one body, and whether its timestamps include epoch integers. Counts all errors and retains the first
/// ones of each field.
#[derive(Debug, Default)]
pub(super) struct RowErrors {
    kept: Vec<RowError>,
    /// Number of retained errors by field position, `ts` first.
    kept_by_field: Vec<usize>,
    total: u64,
    has_epochs: bool,
}

impl RowErrors {
    /// Adds the error of a cell; `field` is 0 for `ts`, else the position of the column plus one.
    pub(super) fn add(
        &mut self,
        def: &SeriesDef,
        row: u64,
        field: usize,
        reason: &str,
        message: impl FnOnce(&str) -> String,
    ) {
        self.total += 1;
        if self.kept_by_field.len() <= field {
            self.kept_by_field.resize(field + 1, 0);
        }
        let Some(kept) = self.kept_by_field.get_mut(field) else { return };
        if *kept >= ROW_ERRORS_MAX {
            return;
        }
        *kept += 1;
        let name = match field.checked_sub(1) {
            None => "ts",
            Some(column) => def.columns.get(column).map_or("", |column| column.name.as_str()),
        };
        self.kept.push(RowError {
            series: None,
            row,
            field: name.into(),
            reason: reason.into(),
            message: message(name),
        });
    }

    /// Adds the error of a cell of a column. `shown` is its source text.
    pub(super) fn add_cell(
        &mut self,
        def: &SeriesDef,
        row: u64,
        column: usize,
        error: CellError,
        shown: impl FnOnce() -> String,
    ) {
        let Some(of) = def.columns.get(column) else { return };
        self.add(def, row, column + 1, error.reason(), |name| match error {
            CellError::Missing => format!("{name} is missing"),
            error => format!("{name} {} {}", shown(), error.sentence(of)),
        });
    }

    /// Adds the error of a timestamp.
    pub(super) fn add_time(&mut self, def: &SeriesDef, row: u64, reason: &str, shown: impl FnOnce() -> String) {
        let unit = def.unit.name();
        self.add(def, row, 0, reason, |_| match reason {
            "missing" => "ts is missing".into(),
            "time_out_of_range" => {
                let shown = shown();
                let epoch: Option<i64> = shown.trim_matches('"').parse().ok();
                let finer = epoch.and_then(|epoch| time::finer_unit_of(epoch, def.unit));
                let guess = finer.map_or(String::new(), |finer| format!("; it looks like {finer}"));
                format!("ts {shown} is outside 1678-01-01 to 2261-12-31 as an epoch in {unit}{guess}")
            }
            _ => format!("ts {} is not a time in whole {unit}", shown()),
        });
    }

    /// Records the notation of a timestamp.
    pub(super) fn record_notation(&mut self, written: time::TimeNotation) {
        self.has_epochs |= written == time::TimeNotation::Epoch;
    }

    /// Whether some timestamp was an epoch integer, which does not show its unit.
    pub(super) fn has_epochs(&self) -> bool {
        self.has_epochs
    }

    /// Whether the maximum number of row errors is reached; formats read row by row stop here.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= ROW_ERRORS_MAX
    }

    /// Number of retained errors.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Adds the errors of one series of several; `position` maps its rows to positions in the body.
    pub(super) fn absorb(&mut self, other: RowErrors, series: &SeriesKey, position: impl Fn(u64) -> u64) {
        self.total += other.total;
        self.kept.extend(other.kept.into_iter().map(|error| RowError {
            series: Some(series.to_string()),
            row: position(error.row),
            ..error
        }));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Rows with errors so far, ascending.
    pub(super) fn rows(&self) -> Vec<u64> {
        let mut rows: Vec<u64> = self.kept.iter().map(|error| error.row).collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// `invalid_rows` if there is any error.
    pub(super) fn into_result(mut self) -> Result<()> {
        self.kept.sort_by_key(|error| error.row);
        self.kept.truncate(ROW_ERRORS_MAX);
        let Some(first) = self.kept.first() else { return Ok(()) };
        let suffix = first.series.as_ref().map_or(String::new(), |series| format!(" of {series}"));
        let mut detail = format!("row {}{suffix}: {}", first.row, first.message);
        if self.total > 1 {
            detail.push_str(&format!(", and {} more", self.total - 1));
        }
        let hints: Vec<&str> = [
            ("precision_loss", "rounding=nearest rounds half to even"),
            (IMPLAUSIBLE_TS, IMPLAUSIBLE_TS_HINT),
            (OFF_GRID, OFF_GRID_HINT),
        ]
        .into_iter()
        .filter(|(reason, _)| self.kept.iter().any(|error| error.reason == *reason))
        .map(|(_, hint)| hint)
        .collect();
        let error = Error::new(ErrorCode::InvalidRows, detail);
        let error = if hints.is_empty() { error } else { error.with_hint(hints.join("; ")) };
        Err(error.with_rows(self.kept))
    }
}
