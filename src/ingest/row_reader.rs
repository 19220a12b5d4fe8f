//! Builds rows from cells in text form.

use super::cell::{CellValue, text_cell};
use super::header::bit;
use super::options::{DecodeOptions, MissingCells};
use super::parsed::ParsedRows;
use super::row_errors::{RowErrors, quote};
use crate::types::number::NumberError;
use crate::types::{Column, Rows, SeriesDef, time};

/// Builds rows from cells in text form.
pub(super) struct RowReader<'a> {
    pub(super) def: &'a SeriesDef,
    pub(super) options: &'a DecodeOptions,
    pub(super) errors: RowErrors,
    parsed: ParsedRows,
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

impl<'a> RowReader<'a> {
    pub(super) fn new(def: &'a SeriesDef, options: &'a DecodeOptions, row_count: usize) -> Self {
        let column_count = def.columns.len();
        Self {
            def,
            options,
            errors: RowErrors::default(),
            parsed: ParsedRows {
                rows: Rows::with_capacity(&def.columns, row_count),
                rounded: vec![0; column_count],
                ..ParsedRows::default()
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
            CellValue::Missing { .. } if self.options.missing == MissingCells::Skip => self.is_skipped = true,
            bad => self.errors.add_cell(self.def, self.row, column, bad, || quote(text)),
        }
    }

    /// Records a null cell.
    pub(super) fn missing(&mut self, field: usize) {
        match field.checked_sub(1) {
            None => self.errors.add_time(self.def, self.row, "missing", String::new),
            Some(_) if self.options.missing == MissingCells::Skip => self.is_skipped = true,
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
    pub(super) fn into_parts(self) -> (ParsedRows, RowErrors) {
        (self.parsed, self.errors)
    }
}
