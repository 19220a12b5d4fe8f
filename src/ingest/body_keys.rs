//! The series of the rows of a body with many series.

use std::collections::HashMap;
use std::sync::Arc;

use super::header::fields_of_header;
use super::options::DecodeOptions;
use super::parsed::Part;
use super::row_reader::RowReader;
use crate::error::{Error, ErrorCode, ROW_ERRORS_MAX, Result, RowError};
use crate::types::width::narrow;
use crate::types::{SeriesDef, SeriesKey};

/// Maximum number of series of one body.
pub const SERIES_MAX: usize = 10_000;
/// Column with the series of each row.
pub(super) const SERIES: &str = "series";

/// The keys of a body in order of appearance, and for each row the position of its key.
#[derive(Debug, Default)]
pub(super) struct BodyKeys {
    positions: HashMap<Vec<u8>, u32>,
    keys: Vec<SeriesKey>,
    of_row: Vec<u32>,
    /// The key of the previous row, which is mostly also that of the next.
    last: Option<(Vec<u8>, u32)>,
}

impl BodyKeys {
    /// Appends the key of the next row, from its text in the body.
    pub(super) fn push(&mut self, text: &[u8]) -> Result<()> {
        if let Some((last, position)) = &self.last
            && last == text
        {
            self.of_row.push(*position);
            return Ok(());
        }
        let position = match self.positions.get(text) {
            Some(position) => *position,
            None => {
                let row = self.of_row.len();
                if text.is_empty() {
                    return Err(missing(row));
                }
                let read = std::str::from_utf8(text).map_err(|_| Error::invalid("the series is not UTF-8"));
                let key = read
                    .and_then(SeriesKey::parse)
                    .map_err(|error| Error::invalid(format!("row {row}: {}", error.detail())))?;
                if self.keys.len() >= SERIES_MAX {
                    return Err(too_many());
                }
                let position = narrow(self.keys.len());
                self.keys.push(key);
                self.positions.insert(text.to_vec(), position);
                position
            }
        };
        self.of_row.push(position);
        self.last = Some((text.to_vec(), position));
        Ok(())
    }

    /// The error for a row whose series is null.
    pub(super) fn missing(&self) -> Error {
        missing(self.of_row.len())
    }

    pub(super) fn into_parts(self) -> (Vec<SeriesKey>, Vec<u32>) {
        (self.keys, self.of_row)
    }
}

fn missing(row: usize) -> Error {
    let row = row as u64;
    let message = String::from("series is missing");
    let error = RowError { series: None, row, field: SERIES.into(), reason: "missing".into(), message };
    Error::new(ErrorCode::InvalidRows, format!("row {row}: series is missing")).with_rows(vec![error])
}

/// The error for a body without the column.
pub(super) fn no_series_column() -> Error {
    Error::new(ErrorCode::SchemaMismatch, "the body has no column series")
        .with_hint("rows of many series need a column series with keys such as kline/BTCUSDT/1m")
}

pub(super) fn too_many() -> Error {
    Error::new(ErrorCode::TooLarge, format!("the body has more than {SERIES_MAX} series"))
        .with_hint("split it into several bodies")
}

/// Row readers, one per series, for a common header.
pub(super) struct SeriesReaders<'a> {
    readers: Vec<RowReader<'a>>,
    error_count: usize,
}

impl<'a> SeriesReaders<'a> {
    pub(super) fn new(defs: &'a [Arc<SeriesDef>], options: &'a DecodeOptions) -> Self {
        Self { readers: defs.iter().map(|def| RowReader::new(def, options, 0)).collect(), error_count: 0 }
    }

    /// Reads one row of the series at a position; false once the maximum number of errors is reached.
    pub(super) fn row(&mut self, position: u32, read: impl FnOnce(&mut RowReader<'a>)) -> bool {
        let Some(reader) = self.readers.get_mut(position as usize) else { return true };
        let errors_before = reader.errors().len();
        read(reader);
        self.error_count += reader.errors().len() - errors_before;
        self.error_count < ROW_ERRORS_MAX
    }

    pub(super) fn into_parts(self) -> Vec<Part> {
        self.readers.into_iter().map(RowReader::into_parts).collect()
    }
}

/// For each series the fields of a header that also has `series`.
///
/// # Errors
/// `schema_mismatch` naming series and columns.
pub(super) fn fields_by_series(defs: &[Arc<SeriesDef>], names: &[&str]) -> Result<Vec<Vec<usize>>> {
    if names.iter().filter(|name| **name == SERIES).count() > 1 {
        return Err(Error::new(ErrorCode::SchemaMismatch, "column \"series\" is listed twice"));
    }
    let column_names = || names.iter().copied().filter(|name| *name != SERIES);
    defs.iter().map(|def| fields_of_header(def, column_names())).collect()
}
