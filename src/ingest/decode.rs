//! Decodes a body, or a record batch, with rows of one series.

use arrow::record_batch::RecordBatch;

use super::arrow_rows::ArrowRows;
use super::columns::ColumnReader;
use super::format::BodyFormat;
use super::guarded::guarded;
use super::options::DecodeOptions;
use super::parsed::{ParsedRows, Part, TimeBounds};
use super::{arrow_stream, csv_text, json, parquet_file, row_rules};
use crate::error::Result;
use crate::types::SeriesDef;

/// Decodes and validates a body.
///
/// # Errors
/// `invalid_argument` for a body that does not follow its format, `schema_mismatch` for wrong columns,
/// `invalid_rows` for rows that cannot be stored, `too_large` for a body that decodes into more than
/// [`DECODED_BYTES_MAX`](super::DECODED_BYTES_MAX).
pub fn parse(format: BodyFormat, def: &SeriesDef, body: &[u8], options: &DecodeOptions) -> Result<ParsedRows> {
    parse_into(format, def, None, body, options)
}

/// Like [`parse`], for a series whose stored rows span `stored`; these distinguish old data from timestamps in another
/// unit.
///
/// # Errors
/// As [`parse`].
pub fn parse_into(
    format: BodyFormat,
    def: &SeriesDef,
    stored: TimeBounds,
    body: &[u8],
    options: &DecodeOptions,
) -> Result<ParsedRows> {
    options.check(def)?;
    let part = match format {
        BodyFormat::Json => json::parse_json(def, body, options),
        BodyFormat::Ndjson => json::parse_ndjson(def, body, options),
        BodyFormat::Csv => csv_text::parse(def, body, options),
        BodyFormat::Arrow => arrow_stream::parse(def, body, options),
        BodyFormat::Parquet => parquet_file::parse(def, body, options),
    }?;
    finish(def, stored, part, options)
}

/// Validates a decoded record batch.
///
/// # Errors
/// As [`parse`].
pub fn from_batch(def: &SeriesDef, batch: RecordBatch, options: &DecodeOptions) -> Result<ParsedRows> {
    from_batch_into(def, None, batch, options)
}

/// Like [`from_batch`], for a series whose stored rows span `stored`, see [`parse_into`].
///
/// # Errors
/// As [`parse`].
pub fn from_batch_into(
    def: &SeriesDef,
    stored: TimeBounds,
    batch: RecordBatch,
    options: &DecodeOptions,
) -> Result<ParsedRows> {
    let batch = guarded("arrow", || ArrowRows::of(batch))?;
    from_arrow_into(def, stored, batch, options)
}

/// Like [`from_batch_into`], for a decoded message of a stream.
///
/// # Errors
/// As [`parse`].
pub fn from_arrow_into(
    def: &SeriesDef,
    stored: TimeBounds,
    batch: ArrowRows,
    options: &DecodeOptions,
) -> Result<ParsedRows> {
    options.check(def)?;
    // A batch decoded from a forged header can make these conversions panic.
    let part = guarded("arrow", || {
        let mut columns = ColumnReader::new(def, options);
        columns.add(batch)?;
        Ok(columns.into_parts())
    })?;
    finish(def, stored, part, options)
}

/// The last step of every format: checks the rules for timestamps and between columns, and returns the rows or their
/// errors.
fn finish(
    def: &SeriesDef,
    stored: TimeBounds,
    (mut parsed, mut errors): Part,
    options: &DecodeOptions,
) -> Result<ParsedRows> {
    row_rules::check_rows(def, stored, &mut parsed, options, &mut errors);
    errors.into_result()?;
    parsed.rows.check_columns(&def.columns)?;
    Ok(parsed)
}
