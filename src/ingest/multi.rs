//! Bodies with rows of many series: `{"writes": […]}`, or rows with a column `series`.
//!
//! A body is decoded twice: first the keys, so that every series is known before a cell is decoded, then the cells, by
//! the registration of their series. Rows are numbered over the entire body.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::arrow_rows::ArrowRows;
use super::batch_splitter::BatchSplitter;
use super::body_keys::{SERIES_MAX, too_many};
use super::format::BodyFormat;
use super::guarded::guarded;
use super::key_columns::{KeyOfCells, KeyedRows};
use super::options::DecodeOptions;
use super::parsed::{Known, ParsedRows, Part, TimeBounds};
use super::row_errors::RowErrors;
use super::{arrow_stream, csv_text, json, key_columns, parquet_file, row_rules};
use crate::error::{Error, Result};
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
    let (series_of_rows, parse_labelled): (SeriesOfRows, ParseLabelled) = match format {
        BodyFormat::Json => return parse_writes(body, options, lookup),
        BodyFormat::Ndjson => (json::series_of_rows, json::parse_labelled),
        BodyFormat::Csv => (csv_text::series_of_rows, csv_text::parse_labelled),
        BodyFormat::Arrow => (arrow_stream::series_of_rows, arrow_stream::parse_labelled),
        BodyFormat::Parquet => (parquet_file::series_of_rows, parquet_file::parse_labelled),
    };
    let (keys, of_row) = series_of_rows(body)?;
    let (defs, stored) = registrations(&keys, options, lookup)?;
    let parts = parse_labelled(&defs, &of_row, body, options)?;
    finish(&defs, &stored, parts, &of_row, options)
}

/// Validates a decoded record batch with columns of the words of keys; each series is returned once.
///
/// # Errors
/// As [`parse_many`]; `schema_mismatch` without one of the columns.
pub fn from_arrow_many(
    rows: ArrowRows,
    key_columns: &[&str],
    key_of: KeyOfCells<'_>,
    options: &DecodeOptions,
    lookup: Lookup<'_>,
) -> Result<Vec<(SeriesKey, ParsedRows)>> {
    // A batch decoded from a forged header can make these conversions panic.
    let KeyedRows { keys, of_row, rows } = guarded("arrow", || key_columns::split(rows, key_columns, key_of))?;
    let (defs, stored) = registrations(&keys, options, lookup)?;
    let mut columns = BatchSplitter::new(&defs, &of_row, options);
    guarded("arrow", || columns.add(&rows))?;
    finish(&defs, &stored, columns.into_parts(), &of_row, options)
}

/// The first pass over a body with a column `series`: its keys, and for each row the position of its key.
type SeriesOfRows = fn(&[u8]) -> Result<(Vec<SeriesKey>, Vec<u32>)>;
/// The second pass: the rows of each series.
type ParseLabelled = fn(&[Arc<SeriesDef>], &[u32], &[u8], &DecodeOptions) -> Result<Vec<Part>>;

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
        part.rows.check_columns(&def.columns)?;
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
            part.rows.check_columns(&def.columns)?;
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
