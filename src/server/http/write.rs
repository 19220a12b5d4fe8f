//! Writes and merges of rows: the body is staged within its limits, decoded and written as one commit.

use std::path::Path;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, Uri, header};

use super::body::{BodyLimits, StagedBody};
use super::etag::condition;
use super::extract::SeriesPath;
use super::params::{MergeScalarParams, Params, WriteParams};
use super::problem::HandlerResult;
use super::state::AppState;
use super::{body, idempotency, reply};
use crate::error::{Error, ErrorCode, Result};
use crate::ingest::{self, BodyFormat};
use crate::service::{Scope, Service, WriteMethod, WriteOptions};
use crate::types::SeriesKey;

/// Writes rows to the series in the path.
pub async fn write(
    app: AppState,
    SeriesPath(key): SeriesPath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> HandlerResult {
    write_rows(&app, key, &headers, write_head(&headers, &uri), body).await
}

/// Merges rows into those of the series in the path.
pub async fn merge(
    app: AppState,
    SeriesPath(key): SeriesPath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> HandlerResult {
    write_rows(&app, key, &headers, merge_head(&headers, &uri), body).await
}

/// Writes rows to several series.
pub async fn write_many(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> HandlerResult {
    app.service().caller().require_scope(Scope::Write)?;
    let head = write_head(&headers, &uri).and_then(|head| {
        if headers.contains_key(header::IF_MATCH) {
            return Err(Error::invalid("If-Match is valid only for a write of one series"));
        }
        let mode = head.write_options.method.of_many()?;
        Ok((head, mode))
    });
    let (head, mode) = match head {
        Ok(head) => head,
        Err(error) => {
            body::drain(&headers, body).await;
            return Err(error.into());
        }
    };
    let staging_dir = app.blocking(move |service| Ok(service.staging_dir())).await?;
    let staged = stage(&app, &headers, body, &staging_dir).await?;
    let acknowledged = app
        .blocking(move |service| {
            let loaded = staged.load()?;
            let format = head.format.map_or_else(|| format_of_body(&loaded.bytes), Ok)?;
            // Held until the rows are written.
            let _memory = service.reserve_body(format, &loaded.bytes, None)?;
            let parsed = ingest::parse_many(format, &loaded.bytes, &head.decode_options, &|key| service.known(key));
            let parsed = parsed.map_err(|error| or_nesting_error(service, format, &loaded.bytes, error))?;
            let acknowledged = service.write_many(parsed, mode, head.write_options.idempotency_key.as_ref())?;
            // The share of the budget also covers the parsed rows, so it is held until here.
            drop(loaded);
            Ok(acknowledged)
        })
        .await?;
    let mut response = reply::json(StatusCode::OK, &acknowledged.reply)?;
    idempotency::mark(&mut response, acknowledged.repeated);
    Ok(response)
}

/// Receives the rows of a write.
async fn stage(app: &AppState, headers: &HeaderMap, body: Body, staging_dir: &Path) -> Result<StagedBody> {
    body::stage(headers, body, &BodyLimits::of(app, staging_dir)).await
}

/// Options of a write from its parameters and headers.
struct WriteHead {
    /// `None` when the format is to be detected from the body.
    format: Option<BodyFormat>,
    decode_options: ingest::DecodeOptions,
    write_options: WriteOptions,
}

fn write_head(headers: &HeaderMap, uri: &Uri) -> Result<WriteHead> {
    let params = Params::of::<WriteParams>(uri)?;
    let mode = params.text("mode");
    if mode == Some("merge") {
        return Err(Error::invalid("mode merge has its own path").with_hint("POST to …/merge"));
    }
    head(headers, &params, WriteMethod::of(mode, None)?)
}

fn merge_head(headers: &HeaderMap, uri: &Uri) -> Result<WriteHead> {
    // Klines have no `op`; the operation reports that with a clearer error than an unknown parameter.
    let params = Params::of::<MergeScalarParams>(uri)?;
    head(headers, &params, WriteMethod::of(Some("merge"), params.text("op"))?)
}

fn head(headers: &HeaderMap, params: &Params, method: WriteMethod) -> Result<WriteHead> {
    let format = match params.text("format") {
        Some(name) => Some(BodyFormat::named(name)?),
        None => body_format(headers)?,
    };
    let decode_options = ingest::DecodeOptions {
        numbers: params.word("numbers")?,
        rounding: params.word("rounding")?,
        missing: params.word("missing")?,
        validate: params.word("validate")?,
        grid: params.word("grid")?,
        implausible_ts: params.word("implausible_ts")?,
    };
    let idempotency_key = idempotency::idempotency_key(headers)?;
    let write_options = WriteOptions { method, condition: condition(headers)?, idempotency_key, create: None };
    Ok(WriteHead { format, decode_options, write_options })
}

/// Hint for a body of unknown format.
const FORMAT_HINT: &str = "send a header, such as Content-Type: application/json (application/x-ndjson, text/csv, \
    application/vnd.apache.arrow.stream, application/vnd.apache.parquet), or format=json, ndjson, csv, arrow or parquet";

/// The format of a body by its `Content-Type`, if present.
fn body_format(headers: &HeaderMap) -> Result<Option<BodyFormat>> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(None) };
    let kind = kind.to_str().unwrap_or("?");
    let format = BodyFormat::from_media_type(kind).ok_or_else(|| {
        let excerpt: String = kind.chars().take(80).collect();
        Error::new(ErrorCode::UnsupportedMediaType, format!("content type {excerpt:?} is not supported"))
            .with_hint(FORMAT_HINT)
    })?;
    Ok(Some(format))
}

/// The format of a body by its first bytes. An empty body is parsed as JSON, which rejects it.
fn format_of_body(body: &[u8]) -> Result<BodyFormat> {
    if body.trim_ascii().is_empty() {
        return Ok(BodyFormat::Json);
    }
    BodyFormat::of_body(body).ok_or_else(|| {
        let unsupported = |detail: &str| Error::new(ErrorCode::UnsupportedMediaType, detail);
        match body {
            [0x1f, 0x8b, ..] => unsupported("the body is compressed with gzip and has no Content-Encoding")
                .with_hint("send the headers Content-Encoding: gzip and Content-Type"),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => unsupported("the body is compressed with zstd and has no Content-Encoding")
                .with_hint("send the headers Content-Encoding: zstd and Content-Type"),
            _ => unsupported("the body has no Content-Type and its format is not recognised").with_hint(FORMAT_HINT),
        }
    })
}

/// Replaces the error of rejected rows by the nesting limit if the JSON exceeds it; only rejected bodies are checked,
/// since rows are never nested deeply.
fn or_nesting_error(service: &Service, format: BodyFormat, body: &[u8], error: Error) -> Error {
    let is_json = matches!(format, BodyFormat::Json | BodyFormat::Ndjson);
    let nesting_error = is_json.then(|| ingest::check_depth(body, service.limits().json_depth_max).err());
    nesting_error.flatten().unwrap_or(error)
}

async fn write_rows(
    app: &AppState,
    key: SeriesKey,
    headers: &HeaderMap,
    head: Result<WriteHead>,
    body: Body,
) -> HandlerResult {
    // Checked before a byte of the body is read.
    app.service().caller().require_series(Scope::Write, &key)?;
    // Everything that can be rejected without the body is, before it is staged.
    let checked = head.and_then(|head| head.write_options.check(&key).map(|()| head));
    let known = match checked {
        Ok(head) => {
            let key = key.clone();
            app.blocking(move |service| Ok((service.known(&key)?, service.staging_dir())))
                .await
                .map(|known| (head, known))
        }
        Err(error) => Err(error),
    };
    let (head, ((def, stored), staging_dir)) = match known {
        Ok(known) => known,
        Err(error) => {
            body::drain(headers, body).await;
            return Err(error.into());
        }
    };
    let staged = stage(app, headers, body, &staging_dir).await?;
    let acknowledged = app
        .blocking(move |service| {
            let loaded = staged.load()?;
            let format = head.format.map_or_else(|| format_of_body(&loaded.bytes), Ok)?;
            // Held until the rows are written.
            let _memory = service.reserve_body(format, &loaded.bytes, Some(&def))?;
            let parsed = ingest::parse_into(format, &def, stored, &loaded.bytes, &head.decode_options);
            let parsed = parsed.map_err(|error| or_nesting_error(service, format, &loaded.bytes, error))?;
            let acknowledged = service.write_with(&key, parsed, &head.write_options)?;
            // The share of the budget also covers the parsed rows, so it is held until here.
            drop(loaded);
            Ok(acknowledged)
        })
        .await?;
    let mut response = reply::json(StatusCode::OK, &acknowledged.reply)?;
    idempotency::mark(&mut response, acknowledged.repeated);
    Ok(response)
}
