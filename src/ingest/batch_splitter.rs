//! Splits record batches with rows of many series.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;

use super::arrow_rows::ArrowRows;
use super::columns::{ColumnReader, row_bytes};
use super::memory::DECODED_BYTES_MAX;
use super::options::DecodeOptions;
use super::parsed::Part;
use crate::error::{Error, ErrorCode, ROW_ERRORS_MAX, Result};
use crate::types::SeriesDef;

/// Splits the rows of record batches by series.
pub(super) struct BatchSplitter<'a> {
    readers: Vec<ColumnReader<'a>>,
    of_row: &'a [u32],
    at: usize,
    bytes: u64,
    /// Most bytes of a row of one of the series.
    row_bytes: u64,
}

impl<'a> BatchSplitter<'a> {
    pub(super) fn new(defs: &'a [Arc<SeriesDef>], of_row: &'a [u32], options: &'a DecodeOptions) -> Self {
        let readers = defs.iter().map(|def| ColumnReader::new(def, options)).collect();
        let row_bytes = defs.iter().map(|def| row_bytes(def)).max().unwrap_or(0);
        Self { readers, of_row, at: 0, bytes: 0, row_bytes }
    }

    /// Adds a batch without its series column; false once the maximum number of errors is reached.
    pub(super) fn add(&mut self, rows: &ArrowRows) -> Result<bool> {
        let (columns, batch) = (rows, &rows.batch);
        let rows = batch.num_rows();
        let labels = self.of_row.get(self.at..self.at + rows);
        let labels = labels.ok_or_else(|| Error::invalid("the columns of the body differ in length"))?;
        self.at += rows;
        self.bytes = self.bytes.saturating_add((rows as u64).saturating_mul(self.row_bytes));
        if self.bytes > DECODED_BYTES_MAX {
            let detail = format!("the body decodes into more than {DECODED_BYTES_MAX} bytes of cells");
            return Err(Error::new(ErrorCode::TooLarge, detail).with_hint("split it into several bodies"));
        }
        let mut by_series: HashMap<u32, Vec<u32>> = HashMap::new();
        for (row, label) in (0_u32..).zip(labels) {
            by_series.entry(*label).or_default().push(row);
        }
        let mut by_series: Vec<(u32, Vec<u32>)> = by_series.into_iter().collect();
        by_series.sort_unstable_by_key(|(_, rows)| rows.first().copied());
        let mut error_count = self.readers.iter().map(ColumnReader::error_count).sum::<usize>();
        for (label, rows) in by_series {
            if error_count >= ROW_ERRORS_MAX {
                return Ok(false);
            }
            let Some(reader) = self.readers.get_mut(label as usize) else { continue };
            let errors_before = reader.error_count();
            let (first, last) = (rows.first().copied().unwrap_or(0), rows.last().copied().unwrap_or(0));
            if (last - first) as usize + 1 == rows.len() {
                reader.add(columns.with_batch(batch.slice(first as usize, rows.len())))?;
            } else {
                let picked = take_record_batch(batch, &UInt32Array::from(rows)).map_err(|error| {
                    Error::invalid(format!("the rows of the body cannot be split by series: {error}"))
                })?;
                reader.add(columns.with_batch(picked))?;
            }
            error_count += reader.error_count() - errors_before;
        }
        Ok(error_count < ROW_ERRORS_MAX)
    }

    pub(super) fn into_parts(self) -> Vec<Part> {
        self.readers.into_iter().map(ColumnReader::into_parts).collect()
    }
}
