//! Cells of row formats, and the collection of row errors.

use crate::error::{Error, ErrorCode, ROW_ERRORS_MAX, Result, RowError};
use crate::types::grid::{OFF_GRID, OFF_GRID_HINT};
use crate::types::number::{NumberError, parse_decimal, parse_f64, parse_integer};
use crate::types::schema::DECIMAL_LIMIT;
use crate::types::time;
use crate::types::{Column, ColumnType, Rounding, SeriesDef, SeriesKey};

use super::timestamp_rules::{IMPLAUSIBLE_TS, IMPLAUSIBLE_TS_HINT};
use super::{DecimalInput, DecodeOptions};

/// Result of converting a source cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CellValue {
    /// The stored word, and whether digits were lost.
    Word(i64, bool),
    /// Null or NaN.
    Missing { nan: bool },
    /// The cell cannot be stored, with the reason.
    Bad(NumberError),
}

/// Stored word of a double.
pub(super) fn double_word(value: f64) -> i64 {
    value.to_bits().cast_signed()
}

/// Stored word of a decimal column for a scaled integer.
pub(super) fn raw_word(raw: i64) -> Result<i64, NumberError> {
    if raw.unsigned_abs() < DECIMAL_LIMIT.unsigned_abs() { Ok(raw) } else { Err(NumberError::Overflow) }
}

/// Stored word of a number in text form, and whether digits were lost.
pub(super) fn number_word(
    text: &[u8],
    kind: ColumnType,
    numbers: DecimalInput,
    rounding: Rounding,
) -> Result<(i64, bool), NumberError> {
    match (kind, numbers) {
        (ColumnType::Decimal { digits }, DecimalInput::Decimal) => {
            parse_decimal(text, digits, rounding).map(|fixed| (fixed.raw, fixed.rounded))
        }
        (ColumnType::Decimal { .. }, DecimalInput::Raw) => {
            let fixed = parse_integer(text, rounding)?;
            raw_word(fixed.raw).map(|raw| (raw, fixed.rounded))
        }
        (ColumnType::Float64, _) => parse_f64(text).map(|value| (double_word(value), false)),
        (ColumnType::Int64, _) => parse_integer(text, rounding).map(|fixed| (fixed.raw, fixed.rounded)),
    }
}

/// Converts a number cell in text form; empty text is a missing value.
pub(super) fn text_cell(text: &[u8], kind: ColumnType, options: &DecodeOptions) -> CellValue {
    match number_word(text, kind, options.numbers, options.rounding) {
        Ok((word, rounded)) => CellValue::Word(word, rounded),
        Err(NumberError::NotANumber) if text.is_empty() => CellValue::Missing { nan: false },
        Err(NumberError::NotFinite) if is_nan(text) => CellValue::Missing { nan: true },
        Err(error) => CellValue::Bad(error),
    }
}

fn is_nan(text: &[u8]) -> bool {
    let unsigned = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    unsigned.eq_ignore_ascii_case(b"nan")
}

/// Source text in quotes, truncated for messages.
pub(super) fn quote(text: &[u8]) -> String {
    const SHOWN: usize = 60;
    let head = String::from_utf8_lossy(text.get(..SHOWN).unwrap_or(text));
    if text.len() > SHOWN { format!("{head:?}…") } else { format!("{head:?}") }
}

/// Row errors of one body, and whether its timestamps include epoch integers. Counts all errors and keeps the first of
/// each field.
#[derive(Debug, Default)]
pub(super) struct RowErrors {
    kept: Vec<RowError>,
    /// Number of kept errors by field position, `ts` first.
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

    /// Adds the error of a number cell. `shown` is its source text.
    pub(super) fn add_cell(
        &mut self,
        def: &SeriesDef,
        row: u64,
        column: usize,
        cell: CellValue,
        shown: impl FnOnce() -> String,
    ) {
        let Some(Column { kind, .. }) = def.columns.get(column) else { return };
        let (reason, sentence) = match cell {
            CellValue::Word(..) => return,
            CellValue::Missing { nan: false } => {
                return self.add(def, row, column + 1, "missing", |name| format!("{name} is missing"));
            }
            CellValue::Missing { nan: true } | CellValue::Bad(NumberError::NotFinite) => {
                ("not_finite", "is not a finite number".to_owned())
            }
            CellValue::Bad(error) => {
                let sentence = match (error, kind) {
                    (NumberError::PrecisionLoss, ColumnType::Decimal { digits }) => {
                        format!("has more than {digits} digits after the point")
                    }
                    (NumberError::PrecisionLoss, _) => "is not an integer".into(),
                    (NumberError::Overflow, ColumnType::Decimal { digits }) => {
                        format!("does not fit 18 digits, {digits} of them after the point")
                    }
                    (NumberError::Overflow, _) => "is out of range".into(),
                    _ => "is not a number".into(),
                };
                (error.reason(), sentence)
            }
        };
        self.add(def, row, column + 1, reason, |name| format!("{name} {} {sentence}", shown()));
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

    /// Number of kept errors.
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

/// Builds rows from cells in text form.
pub(super) struct RowReader<'a> {
    pub(super) def: &'a SeriesDef,
    pub(super) options: &'a DecodeOptions,
    pub(super) errors: RowErrors,
    parsed: super::ParsedRows,
    /// Position of the row in the body.
    row: u64,
    ts: i64,
    cells: Vec<i64>,
    /// Bit set of the fields present in the row: bit 0 for `ts`, else the position of the column plus one.
    seen: u128,
    /// Bit set of the columns rounded in this row.
    rounded: u128,
    /// A value was null or NaN under `missing=skip`.
    is_skipped: bool,
}

/// Bit of a field in a row's set.
fn bit(field: usize) -> u128 {
    1_u128.checked_shl(u32::try_from(field).unwrap_or(u32::MAX)).unwrap_or(0)
}

impl<'a> RowReader<'a> {
    pub(super) fn new(def: &'a SeriesDef, options: &'a DecodeOptions, row_count: usize) -> Self {
        let column_count = def.columns.len();
        Self {
            def,
            options,
            errors: RowErrors::default(),
            parsed: super::ParsedRows {
                rows: crate::types::Rows::with_capacity(column_count, row_count),
                rounded: vec![0; column_count],
                ..super::ParsedRows::default()
            },
            row: 0,
            ts: 0,
            cells: vec![0; column_count],
            seen: 0,
            rounded: 0,
            is_skipped: false,
        }
    }

    /// Position in the body of the row being read.
    pub(super) fn row(&self) -> u64 {
        self.row
    }

    /// Marks a field as present; false if the row already has it.
    pub(super) fn mark(&mut self, field: usize) -> bool {
        let bit = bit(field);
        let is_new = self.seen & bit == 0;
        self.seen |= bit;
        is_new
    }

    /// Sets a cell from text; an empty cell is missing.
    pub(super) fn text(&mut self, field: usize, text: &[u8]) {
        let Some(column) = field.checked_sub(1) else {
            match time::parse_cell_as(text, self.def.unit) {
                Ok((ts, written)) => {
                    self.ts = ts;
                    self.errors.record_notation(written);
                }
                Err(_) if text.is_empty() => self.missing(field),
                Err(reason) => self.errors.add_time(self.def, self.row, reason, || quote(text)),
            }
            return;
        };
        let Some(Column { kind, .. }) = self.def.columns.get(column) else { return };
        match text_cell(text, *kind, self.options) {
            CellValue::Word(word, rounded) => {
                if let Some(cell) = self.cells.get_mut(column) {
                    *cell = word;
                }
                if rounded {
                    self.rounded |= bit(column);
                }
            }
            CellValue::Missing { .. } if self.options.missing == super::MissingCells::Skip => self.is_skipped = true,
            bad => self.errors.add_cell(self.def, self.row, column, bad, || quote(text)),
        }
    }

    /// Records a null cell.
    pub(super) fn missing(&mut self, field: usize) {
        match field.checked_sub(1) {
            None => self.errors.add_time(self.def, self.row, "missing", String::new),
            Some(_) if self.options.missing == super::MissingCells::Skip => self.is_skipped = true,
            Some(column) => {
                self.errors.add_cell(self.def, self.row, column, CellValue::Missing { nan: false }, String::new);
            }
        }
    }

    /// Records a cell that is neither number nor text.
    pub(super) fn wrong_type(&mut self, field: usize, shown: &[u8]) {
        self.errors.add(self.def, self.row, field, "wrong_type", |name| {
            format!("{name} {} is neither a number nor a string", quote(shown))
        });
    }

    /// Records a cell that is an empty string.
    pub(super) fn not_a_number(&mut self, field: usize) {
        let shown = || quote(b"");
        match field.checked_sub(1) {
            None => self.errors.add_time(self.def, self.row, "bad_time", shown),
            Some(column) => {
                self.errors.add_cell(self.def, self.row, column, CellValue::Bad(NumberError::NotANumber), shown);
            }
        }
    }

    /// Ends the row. A bad row keeps its position, so that later rows keep their numbers.
    pub(super) fn end_row(&mut self) {
        let all = bit(self.def.columns.len() + 1) - 1;
        if self.seen != all {
            for field in 0..=self.def.columns.len() {
                if self.seen & bit(field) == 0 {
                    self.errors.add(self.def, self.row, field, "missing", |name| format!("{name} is missing"));
                }
            }
        }
        if self.is_skipped {
            self.parsed.skipped += 1;
            self.parsed.skipped_rows.push(self.row);
        } else {
            self.parsed.rows.push(self.ts, &self.cells);
            if self.rounded != 0 {
                for (column, count) in self.parsed.rounded.iter_mut().enumerate() {
                    *count += u64::from(self.rounded & bit(column) != 0);
                }
            }
        }
        self.row += 1;
        (self.seen, self.rounded, self.is_skipped) = (0, 0, false);
    }

    /// The rows read so far, and their errors.
    pub(super) fn into_parts(self) -> (super::ParsedRows, RowErrors) {
        (self.parsed, self.errors)
    }
}

/// Finds the field of a name, trying the successor of the last one first.
#[derive(Debug, Default)]
pub(super) struct FieldFinder {
    next: usize,
}

impl FieldFinder {
    /// Position of a field: 0 for `ts`, else the position of the column plus one.
    pub(super) fn find(&mut self, def: &SeriesDef, name: &str) -> Option<usize> {
        let at = |field: usize| match field.checked_sub(1) {
            None => Some("ts"),
            Some(column) => def.columns.get(column).map(|column| column.name.as_str()),
        };
        let count = def.columns.len() + 1;
        let found =
            if at(self.next) == Some(name) { self.next } else { (0..count).find(|field| at(*field) == Some(name))? };
        self.next = (found + 1) % count;
        Some(found)
    }
}

/// `schema_mismatch` for columns the series does not have.
pub(super) fn unknown_columns(def: &SeriesDef, names: &[String]) -> Error {
    let names: Vec<String> = names.iter().take(10).map(|name| quote(name.as_bytes())).collect();
    let known: Vec<&str> = std::iter::once("ts").chain(def.columns.iter().map(|c| c.name.as_str())).collect();
    Error::new(ErrorCode::SchemaMismatch, format!("series {} has no column {}", def.key, names.join(", ")))
        .with_hint(format!("its columns are {}", known.join(", ")))
}

/// `schema_mismatch` for columns a header lacks.
pub(super) fn missing_columns(def: &SeriesDef, names: &[&str]) -> Error {
    Error::new(ErrorCode::SchemaMismatch, format!("column {} of series {} is missing", names.join(", "), def.key))
        .with_hint("every column must be present")
}

/// `schema_mismatch` for a repeated column.
pub(super) fn repeated_column(name: &str) -> Error {
    Error::new(ErrorCode::SchemaMismatch, format!("column {} is listed twice", quote(name.as_bytes())))
}

/// Checks a header against the registration and returns the field of each of its names.
///
/// # Errors
/// `schema_mismatch` naming unknown, missing or repeated columns.
pub(super) fn fields_of_header<'n>(def: &SeriesDef, names: impl Iterator<Item = &'n str>) -> Result<Vec<usize>> {
    let mut finder = FieldFinder::default();
    let mut fields = Vec::new();
    let mut unknown = Vec::new();
    let mut seen = 0;
    for name in names {
        match finder.find(def, name) {
            None => unknown.push(name.to_owned()),
            Some(field) if seen & bit(field) != 0 => return Err(repeated_column(name)),
            Some(field) => {
                seen |= bit(field);
                fields.push(field);
            }
        }
    }
    if !unknown.is_empty() {
        return Err(unknown_columns(def, &unknown));
    }
    let names = std::iter::once("ts").chain(def.columns.iter().map(|column| column.name.as_str()));
    let missing: Vec<&str> =
        names.enumerate().filter(|(field, _)| seen & bit(*field) == 0).map(|(_, name)| name).collect();
    if missing.is_empty() { Ok(fields) } else { Err(missing_columns(def, &missing)) }
}
