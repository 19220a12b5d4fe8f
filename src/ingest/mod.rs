//! Decoding of request bodies into validated rows: JSON, NDJSON, CSV, Arrow stream, Parquet.
//!
//! Invariants:
//! - A body is accepted or rejected as a whole: any invalid row rejects it, and the error lists the first hundred row
//!   errors by position.
//! - Rows keep the order of the body; the store handles repeated timestamps.
//! - Decimals in text form become fixed point without passing through a double.
//! - [`parse`] does not panic on any body. The decoded size of a body is known, and can be bounded, before any of it is
//!   decoded ([`reserve`]); no body decodes into more than [`DECODED_BYTES_MAX`] of cells.

pub mod arrow_guard;
mod arrow_stream;
mod batch;
mod cell;
mod csv_text;
mod depth;
mod json;
mod memory;
mod multi;
mod parquet_file;
mod parquet_guard;
mod row_rules;
mod timestamp_rules;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use depth::check_depth;
pub use memory::{CELL_BYTES, DecodeMemory, Reservation, reserve};
pub use multi::{Lookup, parse_many};
pub use row_rules::validate;

use crate::error::{Error, Result};
use crate::types::{Kind, Rounding, Rows, SeriesDef};
use multi::Part;

/// Maximum number of bytes of cells one body may decode into.
pub const DECODED_BYTES_MAX: u64 = 1 << 30;

/// Format of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum BodyFormat {
    #[default]
    Json,
    Ndjson,
    Csv,
    /// Arrow IPC stream.
    Arrow,
    Parquet,
}

impl BodyFormat {
    /// All formats.
    pub const ALL: [BodyFormat; 5] = [Self::Json, Self::Ndjson, Self::Csv, Self::Arrow, Self::Parquet];

    /// The format of a `Content-Type`, ignoring its parameters.
    pub fn from_media_type(text: &str) -> Option<Self> {
        let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        Some(match essence.as_str() {
            "application/json" | "text/json" => Self::Json,
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
                Self::Ndjson
            }
            "text/csv" | "application/csv" => Self::Csv,
            "application/vnd.apache.arrow.stream" => Self::Arrow,
            "application/vnd.apache.parquet" => Self::Parquet,
            _ => return None,
        })
    }

    /// Detects the format of a body without `Content-Type` from its first bytes: the magic bytes of Arrow and Parquet,
    /// a bracket of JSON, or a CSV header. `None` where it is ambiguous.
    pub fn of_body(body: &[u8]) -> Option<Self> {
        /// Bytes within which the header or the first name must lie.
        const HEAD_BYTES: usize = 64 * 1024;
        if body.starts_with(b"PAR1") {
            return Some(Self::Parquet);
        }
        // A message of an Arrow stream starts with a continuation marker and its length.
        if body.starts_with(&[0xff; 4]) {
            return Some(Self::Arrow);
        }
        let text = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body).trim_ascii_start();
        let head = text.get(..HEAD_BYTES).unwrap_or(text);
        match head.first()? {
            b'[' => Some(Self::Json),
            b'{' => {
                // A JSON object has one of three fields; an NDJSON row has the columns of a series.
                let name = head.get(1..)?.trim_ascii_start().strip_prefix(b"\"")?;
                let name = name.split(|byte| *byte == b'"').next()?;
                let is_json = matches!(name, b"rows" | b"columns" | b"writes");
                Some(if is_json { Self::Json } else { Self::Ndjson })
            }
            _ => {
                let header = head.split(|byte| matches!(byte, b'\n' | b'\r')).next()?;
                let mut names = header.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                let is_ts = |name: &[u8]| matches!(name, b"ts" | b"\"ts\"");
                (header.contains(&b',') && names.any(is_ts)).then_some(Self::Csv)
            }
        }
    }

    /// The format of a value of `format=`.
    pub fn from_name(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == text)
    }

    /// The value of `format=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Arrow => "arrow",
            Self::Parquet => "parquet",
        }
    }

    /// The media type of requests and responses.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

/// Representation of cells of decimal columns in a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema), schema(as = WrittenNumbers))]
pub enum DecimalInput {
    /// The decimal number.
    #[default]
    Decimal,
    /// The scaled integer.
    Raw,
}

/// Handling of rows whose value is null or NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum MissingCells {
    #[default]
    Reject,
    /// Leave the row out and count it. Scalars only.
    Skip,
}

/// Rules between the columns of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum RowRules {
    /// Klines: high ≥ max(open, close, low), low ≤ min(open, close, high), volume ≥ 0.
    #[default]
    Ohlc,
    None,
}

/// Handling of rows whose timestamp is not on the grid of the timeframe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum GridRule {
    /// Reject the body. Timeframes without a length have no grid.
    #[default]
    Reject,
    /// Store the rows unchanged.
    Allow,
}

/// Handling of timestamps within the first 48 days of 1970 that would lie in 1990 to 2099 in a coarser unit, such as
/// seconds in a series of milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum ImplausibleTs {
    /// Reject the body, unless it or the series has other rows from before 1990, or there are several such timestamps
    /// and all start an interval of the timeframe.
    #[default]
    Reject,
    /// Store the rows unchanged.
    Allow,
}

/// Options for decoding a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DecodeOptions {
    pub numbers: DecimalInput,
    /// Applies to decimals in text form; doubles are always stored as the nearest decimal.
    pub rounding: Rounding,
    pub missing: MissingCells,
    pub validate: RowRules,
    pub grid: GridRule,
    pub implausible_ts: ImplausibleTs,
}

impl DecodeOptions {
    /// The same options without checks of timestamps, for callers that check them.
    pub fn any_time(self) -> Self {
        Self { grid: GridRule::Allow, implausible_ts: ImplausibleTs::Allow, ..self }
    }
}

/// First and last timestamp of rows; `None` of none.
pub type TimeBounds = Option<(i64, i64)>;

/// The properties of a series that decoding needs: its definition, and its first and last stored timestamp.
pub type Known = (Arc<SeriesDef>, TimeBounds);

impl DecodeOptions {
    fn check(&self, def: &SeriesDef) -> Result<()> {
        if self.missing == MissingCells::Skip && def.kind() != Kind::Scalar {
            return Err(Error::invalid(format!("missing=skip is for scalars, {} is a kline", def.key)));
        }
        Ok(())
    }
}

/// Rows read from a body, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedRows {
    pub rows: Rows,
    /// Number of rows left out because a value was missing.
    pub skipped: u64,
    /// Number of rounded cells, by column.
    pub rounded: Vec<u64>,
    /// Positions in the body of the rows left out, ascending.
    pub skipped_rows: Vec<u64>,
    /// Positions in the body and timestamps of rows whose grid starts with the first stored row, for
    /// [`crate::types::grid::check_phase`] once that row is known; empty where no check is pending.
    pub phase_pending: Vec<(u64, i64)>,
}

impl ParsedRows {
    /// Positions in the body of the decoded rows, ascending.
    pub fn positions(&self) -> impl Iterator<Item = u64> {
        let mut skipped = self.skipped_rows.iter().copied().peekable();
        let all = (0..).filter(move |row| skipped.next_if_eq(row).is_none());
        all.take(self.rows.len())
    }
}

/// Decodes and validates a body.
///
/// # Errors
/// `invalid_argument` for a body that does not follow its format, `schema_mismatch` for wrong columns,
/// `invalid_rows` for rows that cannot be stored, `too_large` for a body that decodes into more than
/// [`DECODED_BYTES_MAX`].
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
pub fn from_batch(
    def: &SeriesDef,
    batch: arrow::record_batch::RecordBatch,
    options: &DecodeOptions,
) -> Result<ParsedRows> {
    from_batch_into(def, None, batch, options)
}

/// Like [`from_batch`], for a series whose stored rows span `stored`, see [`parse_into`].
///
/// # Errors
/// As [`parse`].
pub fn from_batch_into(
    def: &SeriesDef,
    stored: TimeBounds,
    batch: arrow::record_batch::RecordBatch,
    options: &DecodeOptions,
) -> Result<ParsedRows> {
    options.check(def)?;
    // A batch decoded from a forged header can make these conversions panic.
    let part = guarded("arrow", || {
        batch::check_schema(def, &batch.schema())?;
        let mut columns = batch::ColumnReader::new(def, options);
        columns.add(batch)?;
        Ok(columns.into_parts())
    })?;
    finish(def, stored, part, options)
}

/// Runs a library decoder and converts its panics on hostile bytes to errors.
fn guarded<T>(what: &str, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    // All state the closure changed is dropped with the error, so no broken state is visible afterwards.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(Error::invalid(format!("{what} body is malformed"))))
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
    parsed.rows.check_shape(def.columns.len())?;
    Ok(parsed)
}

#[cfg(test)]
mod tests;
