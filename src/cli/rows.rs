//! Rows of a command in an open store: bodies are decoded into commits, results are encoded.

use bytes::Bytes;

use crate::egress::{self, BodyEncoder, JsonShape, OutFormat, TimeFormat, Trailer};
use crate::error::{Error, Result};
use crate::ingest::{self, BodyFormat};
use crate::query::{Query, TimeValue};
use crate::service::{Acknowledged, IdempotencyKey, RowMode, Service, WriteManyReply, WriteOptions};
use crate::types::{SeriesDef, SeriesKey};

/// How the rows of a body are decoded.
#[derive(Clone, Debug, Default)]
pub struct BodyOptions {
    pub format: String,
    pub validate: Option<String>,
    pub rounding: Option<String>,
    pub numbers: Option<String>,
    pub missing: Option<String>,
    pub grid: Option<String>,
    pub implausible_ts: Option<String>,
}

impl BodyOptions {
    /// Accepts any timestamp: for callers that checked them, or that accept any.
    pub fn any_time(self) -> Self {
        Self { grid: Some("allow".into()), implausible_ts: Some("allow".into()), ..self }
    }
}

/// How rows are encoded.
#[derive(Clone, Debug, Default)]
pub struct OutputOptions {
    /// `json`, `ndjson`, `csv`, `arrow` or `parquet`.
    pub format: String,
    /// `epoch` or `rfc3339`.
    pub times: Option<String>,
    /// `rows` or `columns`.
    pub shape: Option<String>,
}

/// An integer is an epoch; other text is parsed when the unit of the series is known.
pub fn time_value(text: &str) -> TimeValue {
    text.parse().map_or_else(|_| TimeValue::Text(text.to_string()), TimeValue::Epoch)
}

/// Writes the rows of a body as one commit.
pub fn write(
    service: &Service,
    key: &SeriesKey,
    body: &[u8],
    options: &BodyOptions,
    write_options: &WriteOptions,
) -> Result<Acknowledged> {
    write_options.check(key)?;
    let reading = decode_options(options)?;
    let format = BodyFormat::named(&options.format)?;
    let (def, stored) = service.known(key)?;
    service.write_with(key, ingest::parse_into(format, &def, stored, body, &reading)?, write_options)
}

/// Checks that a series with this definition would accept the body.
pub fn check_body(def: &SeriesDef, body: &[u8], options: &BodyOptions) -> Result<()> {
    ingest::parse(BodyFormat::named(&options.format)?, def, body, &decode_options(options)?).map(|_| ())
}

/// Writes the rows of many series as one commit.
pub fn write_many(
    service: &Service,
    body: &[u8],
    options: &BodyOptions,
    mode: RowMode,
    once: Option<&IdempotencyKey>,
) -> Result<Acknowledged<WriteManyReply>> {
    let parsed = ingest::parse_many(BodyFormat::named(&options.format)?, body, &decode_options(options)?, &|key| {
        service.known(key)
    })?;
    service.write_many(parsed, mode, once)
}

/// The decode options of a body.
fn decode_options(options: &BodyOptions) -> Result<ingest::DecodeOptions> {
    Ok(ingest::DecodeOptions {
        numbers: parse_or_default("numbers", options.numbers.as_deref())?,
        rounding: parse_or_default("rounding", options.rounding.as_deref())?,
        missing: parse_or_default("missing", options.missing.as_deref())?,
        validate: parse_or_default("validate", options.validate.as_deref())?,
        grid: parse_or_default("grid", options.grid.as_deref())?,
        implausible_ts: parse_or_default("implausible_ts", options.implausible_ts.as_deref())?,
    })
}

/// Parses a value of an enumeration; its default for `None`.
fn parse_or_default<T: serde::de::DeserializeOwned + Default>(what: &str, text: Option<&str>) -> Result<T> {
    let Some(text) = text else { return Ok(T::default()) };
    serde_json::from_value(text.into()).map_err(|error| Error::invalid(format!("{what}: {error}")))
}

/// The media type of a body in this format.
pub fn media_type(format: &str) -> Result<&'static str> {
    Ok(BodyFormat::named(format)?.media_type())
}

/// Passes the encoded rows of a query to `sink`, one buffer at a time.
pub fn read(
    service: &Service,
    query: &Query,
    options: &OutputOptions,
    sink: &mut dyn FnMut(Bytes) -> Result<()>,
) -> Result<()> {
    let encoding = egress::EncodeOptions {
        format: OutFormat::from_name(&options.format)?,
        times: options.times.as_deref().map(TimeFormat::from_name).transpose()?.unwrap_or_default(),
        shape: options.shape.as_deref().map(JsonShape::from_name).transpose()?.unwrap_or_default(),
    };
    let rows = service.read(query)?;
    let shape = rows.shape.clone();
    for piece in BodyEncoder::new(&shape, encoding, rows, |rows| Trailer {
        next_cursor: rows.next_cursor(),
        stats: rows.stats(),
    })? {
        sink(piece?)?;
    }
    Ok(())
}
