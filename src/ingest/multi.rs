//! Bodies with rows of many series: `{"writes": […]}`, or rows with a column `series`.
//!
//! A body is decoded twice: first the keys, so that every series is known before a cell is decoded, then the cells, by
//! the registration of their series. Rows are numbered over the entire body.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::body_keys::{SERIES_MAX, too_many};
use super::columns::ColumnReader;
use super::format::BodyFormat;
use super::memory::DECODED_BYTES_MAX;
use super::options::DecodeOptions;
use super::parsed::{Known, ParsedRows, Part, TimeBounds};
use super::row_errors::RowErrors;
use super::{arrow_stream, csv_text, json, parquet_file, row_rules};
use crate::error::{Error, ErrorCode, ROW_ERRORS_MAX, Result};
use crate::types::{SeriesDef, SeriesKey};

/// Finds the registration of a series, and the timestamps of its first and last stored row.
pub type Lookup<'l> = &'l dyn Fn(&SeriesKey) -> Result<Known>;

/// Decodes and validates a body with rows of many series; each series is returned once.
///
/// # Errors
/// Those of [`super::parse`], with the series in every row error; those of `lookup`; `invalid_argument` for a series
/// that is listed twice in `writes`; `too_large` beyond [`SERIES_MAX`] series.
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

/// Splits the rows of record batches by series.
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

    /// Adds a batch without its series column; false once the maximum number of errors is reached.
    fn add(&mut self, batch: &RecordBatch) -> Result<bool> {
        let rows = batch.num_rows();
        let labels = self.of_row.get(self.at..self.at + rows);
        let labels = labels.ok_or_else(|| Error::invalid("the columns of the body differ in length"))?;
        self.at += rows;
        self.bytes = self.bytes.saturating_add(8 * (rows as u64).saturating_mul(batch.num_columns() as u64));
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
                reader.add(batch.slice(first as usize, rows.len()))?;
            } else {
                let picked = take_record_batch(batch, &UInt32Array::from(rows)).map_err(|error| {
                    Error::invalid(format!("the rows of the body cannot be split by series: {error}"))
                })?;
                reader.add(picked)?;
            }
            error_count += reader.error_count() - errors_before;
        }
        Ok(error_count < ROW_ERRORS_MAX)
    }

    fn into_parts(self) -> Vec<Part> {
        self.readers.into_iter().map(ColumnReader::into_parts).collect()
    }
}

/// The rows of all series, or the first row errors by position in the body.
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
        if !errors.is_empty() || !part.phase_pending.is_empty() {
            let positions: Vec<u64> =
                (0_u64..).zip(of_row).filter(|(_, row_label)| **row_label == label).map(|(row, _)| row).collect();
            let body_row =
                |row: u64| usize::try_from(row).ok().and_then(|row| positions.get(row).copied()).unwrap_or(row);
            part.phase_pending.iter_mut().for_each(|(row, _)| *row = body_row(*row));
            all.absorb(errors, &def.key, body_row);
        }
        part.rows.check_columns(def.columns.len())?;
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
        Error::invalid(format!("the body is malformed: {error}"))
            .with_hint("{\"writes\": [{\"series\": key, \"rows\": […] or \"columns\": {…}}, …]}")
    })?;
    if writes.len() > SERIES_MAX {
        return Err(too_many());
    }
    let mut seen = HashSet::new();
    if let Some(twice) = writes.iter().find(|write| !seen.insert(write.series.as_str())) {
        return Err(Error::invalid(format!("series {} is listed twice in writes", twice.series))
            .with_hint("combine its rows in one entry"));
    }
    let keys: Vec<SeriesKey> = writes.iter().map(|write| write.series.clone()).collect();
    let (defs, stored) = registrations(&keys, options, lookup)?;
    let mut all = RowErrors::default();
    let mut parsed = Vec::with_capacity(writes.len());
    let mut first_row = 0_u64;
    for ((write, def), stored) in writes.iter().zip(&defs).zip(&stored) {
        let name_series = |error: Error| {
            let named = Error::new(error.code(), format!("series {}: {}", def.key, error.detail()));
            match error.hint() {
                Some(hint) => named.with_hint(hint),
                None => named,
            }
        };
        let (raw, is_rows) = match (write.rows, write.columns) {
            (Some(rows), None) => (rows, true),
            (None, Some(columns)) => (columns, false),
            _ => {
                return Err(Error::invalid(format!("series {}: exactly one of rows and columns is required", def.key)));
            }
        };
        let (mut part, mut errors) = json::parse_raw(def, raw.get(), is_rows, options).map_err(name_series)?;
        row_rules::check_rows(def, *stored, &mut part, options, &mut errors);
        part.phase_pending.iter_mut().for_each(|(row, _)| *row += first_row);
        if errors.is_empty() {
            part.rows.check_columns(def.columns.len())?;
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

/// Number of rows of an entry that was not decoded to its end.
fn rows_of(raw: &str, is_rows: bool) -> u64 {
    let count = if is_rows {
        serde_json::from_str::<Vec<IgnoredAny>>(raw).map(|rows| rows.len())
    } else {
        serde_json::from_str::<HashMap<String, Vec<IgnoredAny>>>(raw)
            .map(|columns| columns.values().map(Vec::len).max().unwrap_or(0))
    };
    count.unwrap_or(0) as u64
}
