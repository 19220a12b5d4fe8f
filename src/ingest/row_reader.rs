//! Builds rows from cells in text form.

use super::cell::TextForm;
use super::column_set::ColumnSet;
use super::header::bit;
use super::options::DecodeOptions;
use super::parsed::Part;
use super::row_errors::RowErrors;
use crate::types::{ColumnType, SeriesDef};

/// Builds rows from cells in text form.
pub(super) struct RowReader<'a> {
    set: ColumnSet<'a>,
    /// Bit set of the fields present in the row: bit 0 for `ts`, else the position of the column plus one.
    seen: u128,
}

impl<'a> RowReader<'a> {
    pub(super) fn new(def: &'a SeriesDef, options: &'a DecodeOptions, row_count: usize) -> Self {
        Self { set: ColumnSet::new(def, options, row_count), seen: 0 }
    }

    pub(super) fn def(&self) -> &'a SeriesDef {
        self.set.def
    }

    pub(super) fn options(&self) -> &'a DecodeOptions {
        self.set.options
    }

    pub(super) fn errors(&self) -> &RowErrors {
        &self.set.errors
    }

    /// Position in the body of the row being read.
    pub(super) fn row(&self) -> u64 {
        self.set.row_base as u64
    }

    /// Marks a field as present; false if the row already has it.
    pub(super) fn mark(&mut self, field: usize) -> bool {
        let bit = bit(field);
        let is_new = self.seen & bit == 0;
        self.seen |= bit;
        is_new
    }

    /// Sets a marked field from text.
    #[inline]
    pub(super) fn text(&mut self, field: usize, text: &[u8], form: TextForm) {
        self.set.text(0, field, text, form);
    }

    /// Sets a marked field from a cell of CSV. An empty cell is null; in a column of texts only without quotes.
    #[inline]
    pub(super) fn csv_cell(&mut self, field: usize, text: &[u8], is_quoted: impl FnOnce() -> bool) {
        if text.is_empty() && !(self.is_text(field) && is_quoted()) {
            return self.set.missing(0, field);
        }
        self.set.text(0, field, text, TextForm::String);
    }

    fn is_text(&self, field: usize) -> bool {
        let column = field.checked_sub(1).and_then(|column| self.def().columns.get(column));
        column.is_some_and(|column| column.kind == ColumnType::Text)
    }

    /// Sets a marked field to null.
    pub(super) fn missing(&mut self, field: usize) {
        self.set.missing(0, field);
    }

    /// Records a marked field of a type that it does not take.
    pub(super) fn wrong_type(&mut self, field: usize, shown: &[u8]) {
        self.set.wrong_type(0, field, shown);
    }

    /// Ends the row. A bad row keeps its position, so that later rows keep their numbers.
    pub(super) fn end_row(&mut self) {
        let all = bit(self.def().columns.len() + 1) - 1;
        if self.seen != all {
            for field in 0..=self.def().columns.len() {
                if self.seen & bit(field) == 0 {
                    self.set.absent(0, field);
                }
            }
        }
        self.set.end_block(1);
        self.seen = 0;
    }

    /// The rows read so far, and their errors.
    pub(super) fn into_parts(self) -> Part {
        self.set.into_parts()
    }
}
