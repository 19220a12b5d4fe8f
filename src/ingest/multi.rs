//! Bodies with rows of many series: `{"writes": […]}`, or rows that tell theirs in a column `series`.
//!
//! A body is read twice: first for the keys, so that every series is known before a cell is read, then for the cells,
//! each series by its own registration. Rows are numbered over the whole body.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::batch::ColumnReader;
use super::cell::{RowErrors, RowReader, fields_of_header};
use super::{
    BodyFormat, DECODED_BYTES_MAX, DecodeOptions, Known, ParsedRows, TimeBounds, arrow_stream, csv_text, json,
    parquet_file, row_rules,
};
use crate::error::{Error, ErrorCode, ROW_ERRORS_MAX, Result, RowError};
use crate::types::{SeriesDef, SeriesKey};

/// Most series of one body.
pub const SERIES_MAX: usize = 10_000;
/// Column that tells the series of a row.
pub(super) const SERIES: &str = "series";

/// Finds the registration of a series, and the timestamps of its first and last stored row.
pub type Lookup<'l> = &'l dyn Fn(&SeriesKey) -> Result<Known>;

/// Reads and validates a body with rows of many series, each series once.
///
/// # Errors
/// As [`super::parse`], with the series of every offending row; what `lookup` says of a series; `invalid_argument` for a
/// series that stands twice among the writes; `too_large` beyond [`SERIES_MAX`] series.
pub fn parse_many(
    format: BodyFormat,
    body: &[u8],
    options: &DecodeOptions,
    lookup: Lookup<'_>,
) -> Result<Vec<(SeriesKey, ParsedRows)>> {
    match format {
        BodyFormat::Json => parse_writes(body, options, lookup),
        BodyFormat::Ndjson => {
            let (keys, of_row) = json::series_of_lines(body)?;
            let (defs, stored) = registrations(&keys, options, lookup)?;
            let parts = json::parse_labelled(&defs, &of_row, body, options)?;
            finish(&defs, &stored, parts, &of_row, options)
        }
        BodyFormat::Csv => {
            let (keys, of_row) = csv_text::series_of_rows(body)?;
            let (defs, stored) = registrations(&keys, options, lookup)?;
            let parts = csv_text::parse_labelled(&defs, &of_row, body, options)?;
            finish(&defs, &stored, parts, &of_row, options)
        }
        BodyFormat::Arrow => {
            let (keys, of_row) = arrow_stream::series_of_rows(body)?;
            let (defs, stored) = registrations(&keys, options, lookup)?;
            let mut columns = BatchSplitter::new(&defs, &of_row, options);
            arrow_stream::each_batch(body, &mut |batch| columns.add(batch))?;
            let parts = columns.into_parts();
            finish(&defs, &stored, parts, &of_row, options)
        }
        BodyFormat::Parquet => {
            let (keys, of_row) = parquet_file::series_of_rows(body)?;
            let (defs, stored) = registrations(&keys, options, lookup)?;
            let mut columns = BatchSplitter::new(&defs, &of_row, options);
            parquet_file::each_batch(body, &mut |batch| columns.add(batch))?;
            let parts = columns.into_parts();
            finish(&defs, &stored, parts, &of_row, options)
        }
    }
}

/// Rows of one series as far as they were read, with what is wrong about them.
pub(super) type Part = (ParsedRows, RowErrors);

fn registrations(
    keys: &[SeriesKey],
    options: &DecodeOptions,
    lookup: Lookup<'_>,
) -> Result<(Vec<Arc<SeriesDef>>, Vec<TimeBounds>)> {
    let mut known = (Vec::with_capacity(keys.len()), Vec::with_capacity(keys.len()));
    for key in keys {
        let (def, stored) = lookup(key)?;
        options.check(&def)?;
        known.0.push(def);
        known.1.push(stored);
    }
    Ok(known)
}

/// The keys of a body in the order they come, and the position of each row's among them.
#[derive(Debug, Default)]
pub(super) struct BodyKeys {
    positions: HashMap<Vec<u8>, u32>,
    keys: Vec<SeriesKey>,
    of_row: Vec<u32>,
    /// The key of the row before, which is mostly that of the next.
    last: Option<(Vec<u8>, u32)>,
}

impl BodyKeys {
    /// The series of the next row, as the body has it.
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
                let position = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
                self.keys.push(key);
                self.positions.insert(text.to_vec(), position);
                position
            }
        };
        self.of_row.push(position);
        self.last = Some((text.to_vec(), position));
        Ok(())
    }

    /// A row whose series is null.
    pub(super) fn missing(&self) -> Error {
        missing(self.of_row.len())
    }

    pub(super) fn into_parts(self) -> (Vec<SeriesKey>, Vec<u32>) {
        (self.keys, self.of_row)
    }
}

fn missing(row: usize) -> Error {
    let row = u64::try_from(row).unwrap_or(u64::MAX);
    let message = String::from("series is missing");
    let error = RowError { series: None, row, field: SERIES.into(), reason: "missing".into(), message };
    Error::new(ErrorCode::InvalidRows, format!("row {row}: series is missing")).with_rows(vec![error])
}

/// A body without the column.
pub(super) fn no_series_column() -> Error {
    Error::new(ErrorCode::SchemaMismatch, "the body has no column series")
        .with_hint("rows of many series tell theirs in a column series, such as kline/BTCUSDT/1m")
}

fn too_many() -> Error {
    Error::new(ErrorCode::TooLarge, format!("the body has more than {SERIES_MAX} series"))
        .with_hint("send it in several bodies")
}

/// Row readers, one a series, with the fields of a common header.
pub(super) struct SeriesReaders<'a> {
    readers: Vec<RowReader<'a>>,
    wrong: usize,
}

impl<'a> SeriesReaders<'a> {
    pub(super) fn new(defs: &'a [Arc<SeriesDef>], options: &'a DecodeOptions) -> Self {
        Self { readers: defs.iter().map(|def| RowReader::new(def, options, 0)).collect(), wrong: 0 }
    }

    /// Reads one row of the series at a position; false once enough rows offend.
    pub(super) fn row(&mut self, position: u32, read: impl FnOnce(&mut RowReader<'a>)) -> bool {
        let Some(reader) = self.readers.get_mut(position as usize) else { return true };
        let before = reader.errors.kept();
        read(reader);
        self.wrong += reader.errors.kept() - before;
        self.wrong < ROW_ERRORS_MAX
    }

    pub(super) fn into_parts(self) -> Vec<Part> {
        self.readers.into_iter().map(RowReader::into_parts).collect()
    }
}

/// For each series the fields of a header that names `series` too.
///
/// # Errors
/// `schema_mismatch` naming series and columns.
pub(super) fn fields_by_series(defs: &[Arc<SeriesDef>], names: &[&str]) -> Result<Vec<Vec<usize>>> {
    if names.iter().filter(|name| **name == SERIES).count() > 1 {
        return Err(Error::new(ErrorCode::SchemaMismatch, "column \"series\" comes twice"));
    }
    let own = || names.iter().copied().filter(|name| *name != SERIES);
    defs.iter().map(|def| fields_of_header(def, own())).collect()
}

/// Record batches whose rows go to the readers of their series.
struct BatchSplitter<'a> {
    readers: Vec<ColumnReader<'a>>,
    of_row: &'a [u32],
    at: usize,
    bytes: u64,
}

impl<'a> BatchSplitter<'a> {
    fn new(defs: &'a [Arc<SeriesDef>], of_row: &'a [u32], options: &'a DecodeOptions) -> Self {
        let readers = defs.iter().map(|def| ColumnReader::new(def, options)).collect();
        Self { readers, of_row, at: 0, bytes: 0 }
    }

    /// Adds a batch without its series column; false once enough rows offend.
    fn add(&mut self, batch: &RecordBatch) -> Result<bool> {
        let rows = batch.num_rows();
        let labels = self.of_row.get(self.at..self.at + rows);
        let labels = labels.ok_or_else(|| Error::invalid("the columns of the body differ in length"))?;
        self.at += rows;
        self.bytes = self.bytes.saturating_add(8 * (rows as u64).saturating_mul(batch.num_columns() as u64));
        if self.bytes > DECODED_BYTES_MAX {
            let detail = format!("the body decodes into more than {DECODED_BYTES_MAX} bytes of cells");
            return Err(Error::new(ErrorCode::TooLarge, detail).with_hint("send it in several bodies"));
        }
        let mut by_series: HashMap<u32, Vec<u32>> = HashMap::new();
        for (row, label) in (0_u32..).zip(labels) {
            by_series.entry(*label).or_default().push(row);
        }
        let mut by_series: Vec<(u32, Vec<u32>)> = by_series.into_iter().collect();
        by_series.sort_unstable_by_key(|(_, rows)| rows.first().copied());
        let mut wrong = self.readers.iter().map(ColumnReader::wrong).sum::<usize>();
        for (label, own) in by_series {
            if wrong >= ROW_ERRORS_MAX {
                return Ok(false);
            }
            let Some(reader) = self.readers.get_mut(label as usize) else { continue };
            let before = reader.wrong();
            let (first, last) = (own.first().copied().unwrap_or(0), own.last().copied().unwrap_or(0));
            if (last - first) as usize + 1 == own.len() {
                reader.add(batch.slice(first as usize, own.len()))?;
            } else {
                let picked = take_record_batch(batch, &UInt32Array::from(own))
                    .map_err(|error| Error::invalid(format!("the rows of the body cannot be told apart: {error}")))?;
                reader.add(picked)?;
            }
            wrong += reader.wrong() - before;
        }
        Ok(wrong < ROW_ERRORS_MAX)
    }

    fn into_parts(self) -> Vec<Part> {
        self.readers.into_iter().map(ColumnReader::into_parts).collect()
    }
}

/// The verdict over all series: their rows, or the first offending ones by their place in the body.
fn finish(
    defs: &[Arc<SeriesDef>],
    stored: &[TimeBounds],
    parts: Vec<Part>,
    of_row: &[u32],
    options: &DecodeOptions,
) -> Result<Vec<(SeriesKey, ParsedRows)>> {
    let mut all = RowErrors::default();
    let mut parsed = Vec::with_capacity(parts.len());
    for (((label, def), stored), (mut part, mut errors)) in (0_u32..).zip(defs).zip(stored).zip(parts) {
        row_rules::check_rows(def, *stored, &mut part, options, &mut errors);
        if !errors.is_empty() || !part.phased.is_empty() {
            let places: Vec<u64> =
                (0_u64..).zip(of_row).filter(|(_, own)| **own == label).map(|(row, _)| row).collect();
            let place = |row: u64| usize::try_from(row).ok().and_then(|row| places.get(row).copied()).unwrap_or(row);
            part.phased.iter_mut().for_each(|(row, _)| *row = place(*row));
            all.absorb(errors, &def.key, place);
        }
        part.rows.check_shape(def.columns.len())?;
        parsed.push((def.key.clone(), part));
    }
    all.into_result()?;
    Ok(parsed)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteListVisitor<'b> {
    #[serde(borrow)]
    writes: Vec<WriteEntryVisitor<'b>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteEntryVisitor<'b> {
    series: SeriesKey,
    #[serde(borrow)]
    rows: Option<&'b RawValue>,
    #[serde(borrow)]
    columns: Option<&'b RawValue>,
}

fn parse_writes(body: &[u8], options: &DecodeOptions, lookup: Lookup<'_>) -> Result<Vec<(SeriesKey, ParsedRows)>> {
    let text = json::as_text(body)?;
    let WriteListVisitor { writes } = serde_json::from_str(text).map_err(|error| {
        Error::invalid(format!("the body does not fit: {error}"))
            .with_hint("{\"writes\": [{\"series\": key, \"rows\": […] or \"columns\": {…}}, …]}")
    })?;
    if writes.len() > SERIES_MAX {
        return Err(too_many());
    }
    let mut seen = HashSet::new();
    if let Some(twice) = writes.iter().find(|write| !seen.insert(write.series.as_str())) {
        return Err(Error::invalid(format!("series {} stands twice among the writes", twice.series))
            .with_hint("put all its rows into one entry"));
    }
    let keys: Vec<SeriesKey> = writes.iter().map(|write| write.series.clone()).collect();
    let (defs, stored) = registrations(&keys, options, lookup)?;
    let mut all = RowErrors::default();
    let mut parsed = Vec::with_capacity(writes.len());
    let mut first_row = 0_u64;
    for ((write, def), stored) in writes.iter().zip(&defs).zip(&stored) {
        let named = |error: Error| {
            let named = Error::new(error.code(), format!("series {}: {}", def.key, error.detail()));
            match error.hint() {
                Some(hint) => named.with_hint(hint),
                None => named,
            }
        };
        let (raw, is_rows) = match (write.rows, write.columns) {
            (Some(rows), None) => (rows, true),
            (None, Some(columns)) => (columns, false),
            _ => return Err(Error::invalid(format!("series {}: neither rows nor columns, or both", def.key))),
        };
        let (mut part, mut errors) = json::parse_raw(def, raw.get(), is_rows, options).map_err(named)?;
        row_rules::check_rows(def, *stored, &mut part, options, &mut errors);
        part.phased.iter_mut().for_each(|(row, _)| *row += first_row);
        if errors.is_empty() {
            part.rows.check_shape(def.columns.len())?;
            first_row += part.rows.len() as u64 + part.skipped;
        } else {
            all.absorb(errors, &def.key, |row| first_row + row);
            if all.is_full() {
                break;
            }
            first_row += rows_of(raw.get(), is_rows);
        }
        parsed.push((def.key.clone(), part));
    }
    all.into_result()?;
    Ok(parsed)
}

/// How many rows an entry has that was not read to its end.
fn rows_of(raw: &str, is_rows: bool) -> u64 {
    let count = if is_rows {
        serde_json::from_str::<Vec<IgnoredAny>>(raw).map(|rows| rows.len())
    } else {
        serde_json::from_str::<HashMap<String, Vec<IgnoredAny>>>(raw)
            .map(|columns| columns.values().map(Vec::len).max().unwrap_or(0))
    };
    count.unwrap_or(0) as u64
}
