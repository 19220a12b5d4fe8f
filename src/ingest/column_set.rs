//! Columns of one series filled with cells, row by row or block by block, and the errors of the cells.

use arrow::array::Array;

use super::builder::{ColumnBuilder, drop_rows};
use super::cell::{CellError, Stored, TextForm};
use super::options::{DecodeOptions, MissingCells};
use super::parsed::{ParsedRows, Part};
use super::row_errors::{RowErrors, quote};
use crate::types::{ColumnType, Rows, SeriesDef, time};

/// Columns that grow by the same rows. A bad cell is stored as 0, so that positions stay aligned.
pub(super) struct ColumnSet<'a> {
    pub(super) def: &'a SeriesDef,
    pub(super) options: &'a DecodeOptions,
    pub(super) ts: Vec<i64>,
    pub(super) columns: Vec<ColumnBuilder<'a>>,
    pub(super) errors: RowErrors,
    rounded: Vec<u64>,
    /// Number of rows in earlier blocks.
    pub(super) row_base: usize,
    /// Rows with a missing value under `missing=skip`, in any order.
    missing: Vec<usize>,
    rounded_rows: Vec<(usize, usize)>,
}

impl<'a> ColumnSet<'a> {
    /// Empty columns with memory for `capacity` rows.
    pub(super) fn new(def: &'a SeriesDef, options: &'a DecodeOptions, capacity: usize) -> Self {
        Self {
            def,
            options,
            ts: Vec::with_capacity(capacity),
            columns: def.columns.iter().map(|column| ColumnBuilder::new(column, capacity)).collect(),
            errors: RowErrors::default(),
            rounded: vec![0; def.columns.len()],
            row_base: 0,
            missing: Vec::new(),
            rounded_rows: Vec::new(),
        }
    }

    /// Position in the body of a row of this block.
    fn row(&self, row: usize) -> u64 {
        (self.row_base + row) as u64
    }

    /// Appends a timestamp in text form.
    pub(super) fn time_text(&mut self, row: usize, text: &[u8]) {
        match time::parse_cell_as(text, self.def.unit) {
            Ok((ts, written)) => {
                self.ts.push(ts);
                self.record_notation(written);
            }
            Err(reason) => self.bad_time(row, reason, || quote(text)),
        }
    }

    /// Records a timestamp that cannot be stored.
    pub(super) fn bad_time(&mut self, row: usize, reason: &str, shown: impl FnOnce() -> String) {
        let row = self.row(row);
        self.errors.add_time(self.def, row, reason, shown);
        self.ts.push(0);
    }

    /// Appends a cell in text form to a field, of which 0 is `ts`.
    #[inline]
    pub(super) fn text(&mut self, row: usize, field: usize, text: &[u8], form: TextForm) {
        let Some(at) = field.checked_sub(1) else { return self.time_text(row, text) };
        let Some(column) = self.columns.get_mut(at) else { return };
        match column.text(text, form, self.options) {
            Ok(false) => {}
            Ok(true) => self.count_rounded(row, at),
            Err(error) => self.bad_cell(row, at, error, || quote(text)),
        }
    }

    /// Appends the next cell of a column.
    #[inline]
    pub(super) fn cell(
        &mut self,
        row: usize,
        at: usize,
        cell: Result<(Stored<'_>, bool), CellError>,
        shown: impl FnOnce() -> String,
    ) {
        let Some(column) = self.columns.get_mut(at) else { return };
        match cell.and_then(|(stored, rounded)| column.push(stored).map(|()| rounded)) {
            Ok(false) => {}
            Ok(true) => self.count_rounded(row, at),
            Err(error) => self.bad_cell(row, at, error, shown),
        }
    }

    #[cold]
    fn count_rounded(&mut self, row: usize, at: usize) {
        if let Some(count) = self.rounded.get_mut(at) {
            *count += 1;
        }
        if self.options.missing == MissingCells::Skip && self.columns.len() > 1 {
            self.rounded_rows.push((self.row_base + row, at));
        }
    }

    /// Appends a cell in place of one that is null or cannot be stored.
    pub(super) fn bad_cell(&mut self, row: usize, at: usize, error: CellError, shown: impl FnOnce() -> String) {
        let Some(column) = self.columns.get_mut(at) else { return };
        if error == CellError::Missing && column.column().nullable {
            return column.push_null();
        }
        column.push_filler();
        if matches!(error, CellError::Missing | CellError::Nan) && self.options.missing == MissingCells::Skip {
            self.missing.push(self.row_base + row);
            return;
        }
        let row = self.row(row);
        self.errors.add_cell(self.def, row, at, error, shown);
    }

    /// Appends a null to a field, of which 0 is `ts`.
    pub(super) fn missing(&mut self, row: usize, field: usize) {
        match field.checked_sub(1) {
            None => self.bad_time(row, "missing", String::new),
            Some(at) => self.bad_cell(row, at, CellError::Missing, String::new),
        }
    }

    /// Records a cell of a type that its field does not take.
    pub(super) fn wrong_type(&mut self, row: usize, field: usize, shown: &[u8]) {
        let at = self.row(row);
        let kind = field.checked_sub(1).and_then(|at| self.def.columns.get(at)).map(|column| column.kind);
        let wanted = match kind {
            Some(ColumnType::Bool) => "neither true nor false",
            Some(ColumnType::Enum | ColumnType::Text | ColumnType::Bytes { .. }) => "not a string",
            _ => "neither a number nor a string",
        };
        self.errors.add(self.def, at, field, "wrong_type", |name| format!("{name} {} is {wanted}", quote(shown)));
        match field.checked_sub(1) {
            None => self.ts.push(0),
            Some(at) => self.columns.get_mut(at).map_or((), ColumnBuilder::push_filler),
        }
    }

    /// Records a row that lacks a field.
    pub(super) fn absent(&mut self, row: usize, field: usize) {
        let at = self.row(row);
        match field.checked_sub(1).and_then(|at| self.columns.get_mut(at)) {
            Some(column) if column.column().nullable => return column.push_null(),
            Some(column) => column.push_filler(),
            None => self.ts.push(0),
        }
        self.errors.add(self.def, at, field, "missing", |name| format!("{name} is missing"));
    }

    /// Appends nulls to the columns that a body lacks, which are nullable.
    pub(super) fn absent_columns(&mut self, fields: &[usize], rows: usize) {
        for (at, column) in self.columns.iter_mut().enumerate() {
            if !fields.contains(&(at + 1)) {
                (0..rows).for_each(|_| column.push_null());
            }
        }
    }

    /// Appends all cells of an array whose memory has their stored form and of which none is null.
    pub(super) fn append_memory(&mut self, at: usize, array: &dyn Array) {
        if let Some(column) = self.columns.get_mut(at) {
            column.append_memory(array);
        }
    }

    /// Ends a block of `rows` rows; every column must have grown by that many cells.
    pub(super) fn end_block(&mut self, rows: usize) {
        self.row_base += rows;
    }

    /// Records the notation of a timestamp.
    pub(super) fn record_notation(&mut self, written: time::TimeNotation) {
        self.errors.record_notation(written);
    }

    /// The rows, without those that lack a value, and their errors.
    pub(super) fn into_parts(mut self) -> Part {
        self.missing.sort_unstable();
        self.missing.dedup();
        if !self.missing.is_empty() {
            for (row, column) in &self.rounded_rows {
                if self.missing.binary_search(row).is_ok()
                    && let Some(count) = self.rounded.get_mut(*column)
                {
                    *count -= 1;
                }
            }
            drop_rows(&mut self.ts, &self.missing);
            self.columns.iter_mut().for_each(|column| column.drop_rows(&self.missing));
        }
        let (columns, texts): (Vec<_>, Vec<_>) = self.columns.into_iter().map(ColumnBuilder::into_parts).unzip();
        let mut rows = Rows::new(self.ts, columns);
        if self.def.columns.iter().any(|column| column.kind == ColumnType::Text) {
            rows.texts = texts;
        }
        let parsed = ParsedRows {
            rows,
            skipped: self.missing.len() as u64,
            rounded: self.rounded,
            skipped_rows: self.missing.iter().map(|row| *row as u64).collect(),
            phase_pending: Vec::new(),
        };
        (parsed, self.errors)
    }
}
