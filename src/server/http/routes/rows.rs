//! Rows: write, read, delete, query.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, Uri, header};

use super::{AppState, Outcome};
use crate::egress::EncodeOptions;
use crate::error::{Error, ErrorCode, Result};
use crate::ingest::{self, BodyFormat};
use crate::query::{MultiLayout, Predicate, Query, TimeValue};
use crate::server::http::body::BodyLimits;
use crate::server::http::etag::condition;
use crate::server::http::extract::{KlinePath, ScalarPath};
use crate::server::http::openapi::{
    Binary, Category, ContentCoding, DeleteFailure, QueryFailure, ReadFailure, RowsBody, RowsReply, Symbol, Timeframe,
    WriteFailure, WriteManyFailure, WritesBody,
};
use crate::server::http::params::{
    DeleteParams, MergeKlineParams, MergeScalarParams, Params, QueryParams, ReadManyParams, ReadParams, WriteParams,
};
use crate::server::http::{body, idempotency, reply};
use crate::service::{DeleteReply, Scope, Service, WriteManyReply, WriteMethod, WriteOptions, WriteReply};
use crate::types::SeriesKey;

/// The values of the `Accept` header, joined.
fn accept(headers: &HeaderMap) -> String {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

/// Read klines
///
/// `start` and `end` select a closed range, `latest` keeps its last rows, `order` sorts them, `limit` truncates.
#[utoipa::path(
    get, path = "/v1/klines/{symbol}/{timeframe}", operation_id = "readKlines", tag = "rows",
    params(
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        ReadParams,
        ("Accept" = Option<String>, Header, description = "Formats the client accepts"),
        ("Accept-Encoding" = Option<String>, Header, description = "gzip or zstd"),
        ("If-None-Match" = Option<String>, Header, description = "Entity tags of cached responses"),
    ),
    responses(
        (status = 200, description = "The rows. Only JSON carries a cursor.", content(
            (RowsReply = "application/json"),
            (String = "application/x-ndjson"),
            (String = "text/csv"),
            (Binary = "application/vnd.apache.arrow.stream"),
            (Binary = "application/vnd.apache.parquet"),
        ), headers(
            ("ETag" = String),
            ("fastk-version" = u64),
            ("fastk-commit" = u64),
            ("fastk-truncated" = Option<u64>, description = "Rows returned, when the default limit leaves rows out"),
            ("Link" = Option<String>, description = "The next page, when rows are left out"),
            ("fastk-stats" = Option<String>, description = "Statistics of the scan as JSON, under explain"),
        )),
        (status = 304, description = "Not modified"),
        ReadFailure,
    ),
)]
pub async fn read_klines(app: AppState, KlinePath(key): KlinePath, headers: HeaderMap, uri: Uri) -> Outcome {
    read(&app, &key, &headers, &uri).await
}

/// Read a scalar series
///
/// `start` and `end` select a closed range, `latest` keeps its last rows, `order` sorts them, `limit` truncates.
#[utoipa::path(
    get, path = "/v1/scalars/{category}/{symbol}/{timeframe}/{name}", operation_id = "readScalars", tag = "rows",
    params(
        ("category" = Category, Path, description = "Category"),
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        ("name" = Symbol, Path, description = "Name"),
        ReadParams,
        ("Accept" = Option<String>, Header, description = "Formats the client accepts"),
        ("Accept-Encoding" = Option<String>, Header, description = "gzip or zstd"),
        ("If-None-Match" = Option<String>, Header, description = "Entity tags of cached responses"),
    ),
    responses(
        (status = 200, description = "The rows. Only JSON carries a cursor.", content(
            (RowsReply = "application/json"),
            (String = "application/x-ndjson"),
            (String = "text/csv"),
            (Binary = "application/vnd.apache.arrow.stream"),
            (Binary = "application/vnd.apache.parquet"),
        ), headers(
            ("ETag" = String),
            ("fastk-version" = u64),
            ("fastk-commit" = u64),
            ("fastk-truncated" = Option<u64>, description = "Rows returned, when the default limit leaves rows out"),
            ("Link" = Option<String>, description = "The next page, when rows are left out"),
            ("fastk-stats" = Option<String>, description = "Statistics of the scan as JSON, under explain"),
        )),
        (status = 304, description = "Not modified"),
        ReadFailure,
    ),
)]
pub async fn read_scalars(app: AppState, ScalarPath(key): ScalarPath, headers: HeaderMap, uri: Uri) -> Outcome {
    read(&app, &key, &headers, &uri).await
}

async fn read(app: &AppState, key: &SeriesKey, headers: &HeaderMap, uri: &Uri) -> Outcome {
    let (mut query, options) = read_query(key, headers, uri)?;
    let limit_by = reply::limit_rows(app, &mut query, options.format)?;
    Ok(reply::query_response(app, headers, query, options, limit_by, Some(uri)).await?)
}

fn read_query(key: &SeriesKey, headers: &HeaderMap, uri: &Uri) -> Result<(Query, EncodeOptions)> {
    let params = Params::of::<ReadParams>(uri)?;
    query_of(&params, vec![key.to_string()], headers)
}

/// The query of these parameters and series.
fn query_of(params: &Params, series: Vec<String>, headers: &HeaderMap) -> Result<(Query, EncodeOptions)> {
    let when = |name: &str| params.text(name).map(|text| TimeValue::Text(text.into()));
    let columns = params.text("columns").map(|text| text.split(',').map(|name| name.trim().to_string()).collect());
    let predicates = params.all("where").map(Predicate::parse).collect::<Result<Vec<_>>>()?;
    let query = Query {
        predicates: (!predicates.is_empty()).then_some(predicates),
        explain: params.flag("explain")?,
        start: when("start"),
        end: when("end"),
        columns,
        latest: params.count("latest")?,
        latest_complete: params.count("latest_complete")?,
        limit: params.count("limit")?,
        order: params.word("order")?,
        numbers: params.word("numbers")?,
        cursor: params.text("cursor").map(String::from),
        as_of: params.text("as_of").map(String::from),
        series,
        ..Query::default()
    };
    Ok((query, params.options(&accept(headers))?))
}

/// Read rows of several series
///
/// Like `POST /v1/query` with the query in parameters, for clients that cache responses: the entity tag changes when
/// any of the series does, and `If-None-Match` returns 304 when none did.
#[utoipa::path(
    get, path = "/v1/query", operation_id = "readMany", tag = "rows",
    params(
        ReadManyParams,
        ReadParams,
        ("Accept" = Option<String>, Header, description = "Formats the client accepts"),
        ("Accept-Encoding" = Option<String>, Header, description = "gzip or zstd"),
        ("If-None-Match" = Option<String>, Header, description = "Entity tags of cached responses"),
    ),
    responses(
        (status = 200, description = "The rows. Only JSON carries a cursor.", content(
            (RowsReply = "application/json"),
            (String = "application/x-ndjson"),
            (String = "text/csv"),
            (Binary = "application/vnd.apache.arrow.stream"),
            (Binary = "application/vnd.apache.parquet"),
        ), headers(
            ("ETag" = String),
            ("fastk-version" = u64),
            ("fastk-commit" = u64),
            ("fastk-truncated" = Option<u64>, description = "Rows returned, when the default limit leaves rows out"),
            ("Link" = Option<String>, description = "The next page, when rows are left out"),
            ("fastk-stats" = Option<String>, description = "Statistics of the scan as JSON, under explain"),
        )),
        (status = 304, description = "Not modified"),
        ReadFailure,
    ),
)]
pub async fn read_many(app: AppState, headers: HeaderMap, uri: Uri) -> Outcome {
    let params = Params::of_both::<ReadManyParams, ReadParams>(&uri)?;
    let series: Vec<String> =
        params.all("series").flat_map(|text| text.split(',')).map(|text| text.trim().to_string()).collect();
    let (query, options) = query_of(&params, series, &headers)?;
    let mut query = Query { layout: params.text("layout").map(MultiLayout::from_name).transpose()?, ..query };
    let limit_by = reply::limit_rows(&app, &mut query, options.format)?;
    Ok(reply::query_response(&app, &headers, query, options, limit_by, Some(&uri)).await?)
}

/// Query rows
///
/// The query object in the body: one series, or several by a list of keys and globs. Rows of several series name theirs
/// in a first column `series`; the entity tag changes when any of the series does.
#[utoipa::path(
    post, path = "/v1/query", operation_id = "queryRows", tag = "rows",
    params(
        QueryParams,
        ("Accept" = Option<String>, Header, description = "Formats the client accepts"),
        ("Accept-Encoding" = Option<String>, Header, description = "gzip or zstd"),
    ),
    request_body = Query,
    responses(
        (status = 200, description = "The rows. Only JSON carries a cursor.", content(
            (RowsReply = "application/json"),
            (String = "application/x-ndjson"),
            (String = "text/csv"),
            (Binary = "application/vnd.apache.arrow.stream"),
            (Binary = "application/vnd.apache.parquet"),
        ), headers(("ETag" = String), ("fastk-version" = u64), ("fastk-commit" = u64))),
        QueryFailure,
    ),
)]
pub async fn query(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    let options = Params::of::<QueryParams>(&uri).and_then(|params| params.options(&accept(&headers)))?;
    let mut query: Query = body::json(&app, &headers, body).await?;
    let limit_by = reply::limit_rows(&app, &mut query, options.format)?;
    Ok(reply::query_response(&app, &headers, query, options, limit_by, None).await?)
}

/// Write klines
///
/// All rows become one atomic commit; the reply is sent when they are durable.
#[utoipa::path(
    post, path = "/v1/klines/{symbol}/{timeframe}", operation_id = "writeKlines", tag = "rows",
    params(
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        WriteParams,
        ("If-Match" = Option<String>, Header, description = "Entity tag the series must have"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters. A repeat \
            within 24 hours returns the first reply and changes nothing."),
        ("Content-Encoding" = Option<ContentCoding>, Header, description = "gzip or zstd"),
    ),
    request_body(description = "The rows", content(
        (RowsBody = "application/json"),
        (String = "application/x-ndjson"),
        (String = "text/csv"),
        (Binary = "application/vnd.apache.arrow.stream"),
        (Binary = "application/vnd.apache.parquet"),
    )),
    responses(
        (status = 200, description = "Written", body = WriteReply, headers(
            ("Idempotency-Replayed" = Option<bool>, description = "true: the key was used before and this is its first reply"),
        )),
        WriteFailure,
    ),
)]
pub async fn write_klines(
    app: AppState,
    KlinePath(key): KlinePath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Outcome {
    write(&app, key, &headers, write_head(&headers, &uri), body).await
}

/// Write a scalar series
///
/// All rows become one atomic commit; the reply is sent when they are durable.
#[utoipa::path(
    post, path = "/v1/scalars/{category}/{symbol}/{timeframe}/{name}", operation_id = "writeScalars", tag = "rows",
    params(
        ("category" = Category, Path, description = "Category"),
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        ("name" = Symbol, Path, description = "Name"),
        WriteParams,
        ("If-Match" = Option<String>, Header, description = "Entity tag the series must have"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters. A repeat \
            within 24 hours returns the first reply and changes nothing."),
        ("Content-Encoding" = Option<ContentCoding>, Header, description = "gzip or zstd"),
    ),
    request_body(description = "The rows", content(
        (RowsBody = "application/json"),
        (String = "application/x-ndjson"),
        (String = "text/csv"),
        (Binary = "application/vnd.apache.arrow.stream"),
        (Binary = "application/vnd.apache.parquet"),
    )),
    responses(
        (status = 200, description = "Written", body = WriteReply, headers(
            ("Idempotency-Replayed" = Option<bool>, description = "true: the key was used before and this is its first reply"),
        )),
        WriteFailure,
    ),
)]
pub async fn write_scalars(
    app: AppState,
    ScalarPath(key): ScalarPath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Outcome {
    write(&app, key, &headers, write_head(&headers, &uri), body).await
}

/// Merge klines
///
/// Merges each sent row into the stored row of its timestamp: open is kept, high is the larger, low the smaller, close
/// the new value, volume the sum; extra columns follow the `merge` of their registration. A row without a stored one is
/// stored as it is. Atomic with any number of concurrent writers.
#[utoipa::path(
    post, path = "/v1/klines/{symbol}/{timeframe}/merge", operation_id = "mergeKlines", tag = "rows",
    params(
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        MergeKlineParams,
        ("If-Match" = Option<String>, Header, description = "Entity tag the series must have"),
        ("Idempotency-Key" = String, Header, description = "1 to 255 visible ASCII characters. A repeat within 24 \
            hours returns the first reply and changes nothing."),
        ("Content-Encoding" = Option<ContentCoding>, Header, description = "gzip or zstd"),
    ),
    request_body(description = "The rows", content(
        (RowsBody = "application/json"),
        (String = "application/x-ndjson"),
        (String = "text/csv"),
        (Binary = "application/vnd.apache.arrow.stream"),
        (Binary = "application/vnd.apache.parquet"),
    )),
    responses(
        (status = 200, description = "Merged", body = WriteReply, headers(
            ("Idempotency-Replayed" = Option<bool>, description = "true: the key was used before and this is its first reply"),
        )),
        WriteFailure,
    ),
)]
pub async fn merge_klines(
    app: AppState,
    KlinePath(key): KlinePath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Outcome {
    write(&app, key, &headers, merge_head(&headers, &uri), body).await
}

/// Merge into a scalar series
///
/// Merges each sent value into the stored value of its timestamp, by `op`, or by the `merge` of the registration. A row
/// without a stored one is stored as it is. Atomic with any number of concurrent writers.
#[utoipa::path(
    post, path = "/v1/scalars/{category}/{symbol}/{timeframe}/{name}/merge", operation_id = "mergeScalars",
    tag = "rows",
    params(
        ("category" = Category, Path, description = "Category"),
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        ("name" = Symbol, Path, description = "Name"),
        MergeScalarParams,
        ("If-Match" = Option<String>, Header, description = "Entity tag the series must have"),
        ("Idempotency-Key" = String, Header, description = "1 to 255 visible ASCII characters. A repeat within 24 \
            hours returns the first reply and changes nothing."),
        ("Content-Encoding" = Option<ContentCoding>, Header, description = "gzip or zstd"),
    ),
    request_body(description = "The rows", content(
        (RowsBody = "application/json"),
        (String = "application/x-ndjson"),
        (String = "text/csv"),
        (Binary = "application/vnd.apache.arrow.stream"),
        (Binary = "application/vnd.apache.parquet"),
    )),
    responses(
        (status = 200, description = "Merged", body = WriteReply, headers(
            ("Idempotency-Replayed" = Option<bool>, description = "true: the key was used before and this is its first reply"),
        )),
        WriteFailure,
    ),
)]
pub async fn merge_scalars(
    app: AppState,
    ScalarPath(key): ScalarPath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Outcome {
    write(&app, key, &headers, merge_head(&headers, &uri), body).await
}

/// Write rows of several series
///
/// All rows of all series become one atomic commit; the reply is sent when they are durable. JSON names the series in
/// each entry; NDJSON, CSV, Arrow and Parquet have a column `series`, and all series have the columns of the body.
/// Offending rows are numbered over the whole body.
#[utoipa::path(
    post, path = "/v1/write", operation_id = "writeMany", tag = "rows",
    params(
        WriteParams,
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters. A repeat \
            within 24 hours returns the first reply and changes nothing."),
        ("Content-Encoding" = Option<ContentCoding>, Header, description = "gzip or zstd"),
    ),
    request_body(description = "The rows", content(
        (WritesBody = "application/json"),
        (String = "application/x-ndjson"),
        (String = "text/csv"),
        (Binary = "application/vnd.apache.arrow.stream"),
        (Binary = "application/vnd.apache.parquet"),
    )),
    responses(
        (status = 200, description = "Written", body = WriteManyReply, headers(
            ("Idempotency-Replayed" = Option<bool>, description = "true: the key was used before and this is its first reply"),
        )),
        WriteManyFailure,
    ),
)]
pub async fn write_many(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    app.service().caller().require_scope(Scope::Write)?;
    let head = write_head(&headers, &uri).and_then(|head| {
        if headers.contains_key(header::IF_MATCH) {
            return Err(Error::invalid("If-Match is valid only for a write of one series"));
        }
        match head.write_options.method {
            WriteMethod::Mode(mode) => Ok((head, mode)),
            WriteMethod::Merge(_) => Err(Error::invalid("a merge must name one series")),
        }
    });
    let (head, mode) = match head {
        Ok(head) => head,
        Err(error) => {
            body::drain(&headers, body).await;
            return Err(error.into());
        }
    };
    let staging_dir = app.blocking(move |service| Ok(service.staging_dir())).await?;
    let config = app.config();
    let limits = BodyLimits {
        bytes_max: config.body_bytes_max,
        decompression_ratio_max: config.decompression_ratio_max,
        idle_timeout: config.body_idle_timeout,
        timeout: config.body_timeout,
        budget: &app.shared.ingest,
        files: &app.shared.staged_files,
        staging_dir: &staging_dir,
    };
    let staged = body::stage(&headers, body, &limits).await?;
    let acknowledged = app
        .blocking(move |service| {
            let loaded = staged.load()?;
            let format = head.format.map_or_else(|| format_of_body(&loaded.bytes), Ok)?;
            // Held until the rows are written.
            let _memory = service.reserve_body(format, &loaded.bytes)?;
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
        Some(name) => Some(BodyFormat::from_name(name).ok_or_else(|| {
            Error::invalid(format!("format {name:?} is not one of json, ndjson, csv, arrow, parquet"))
        })?),
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
            _ if body.starts_with(b"ARROW1") => unsupported("the body is an Arrow file, not an Arrow stream")
                .with_hint("write it with the stream writer: pyarrow.ipc.new_stream"),
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

async fn write(app: &AppState, key: SeriesKey, headers: &HeaderMap, head: Result<WriteHead>, body: Body) -> Outcome {
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
    let config = app.config();
    let limits = BodyLimits {
        bytes_max: config.body_bytes_max,
        decompression_ratio_max: config.decompression_ratio_max,
        idle_timeout: config.body_idle_timeout,
        timeout: config.body_timeout,
        budget: &app.shared.ingest,
        files: &app.shared.staged_files,
        staging_dir: &staging_dir,
    };
    let staged = body::stage(headers, body, &limits).await?;
    let acknowledged = app
        .blocking(move |service| {
            let loaded = staged.load()?;
            let format = head.format.map_or_else(|| format_of_body(&loaded.bytes), Ok)?;
            // Held until the rows are written.
            let _memory = service.reserve_body(format, &loaded.bytes)?;
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

/// Delete klines
///
/// Requires both bounds of the closed range, or `all=true`.
#[utoipa::path(
    delete, path = "/v1/klines/{symbol}/{timeframe}", operation_id = "deleteKlines", tag = "rows",
    params(
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        DeleteParams,
        ("If-Match" = Option<String>, Header, description = "Entity tag the series must have"),
    ),
    responses((status = 200, description = "Deleted, or counted", body = DeleteReply), DeleteFailure),
)]
pub async fn delete_klines(app: AppState, KlinePath(key): KlinePath, headers: HeaderMap, uri: Uri) -> Outcome {
    delete(&app, key, &headers, &uri).await
}

/// Delete rows of a scalar series
///
/// Requires both bounds of the closed range, or `all=true`.
#[utoipa::path(
    delete, path = "/v1/scalars/{category}/{symbol}/{timeframe}/{name}", operation_id = "deleteScalars", tag = "rows",
    params(
        ("category" = Category, Path, description = "Category"),
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        ("name" = Symbol, Path, description = "Name"),
        DeleteParams,
        ("If-Match" = Option<String>, Header, description = "Entity tag the series must have"),
    ),
    responses((status = 200, description = "Deleted, or counted", body = DeleteReply), DeleteFailure),
)]
pub async fn delete_scalars(app: AppState, ScalarPath(key): ScalarPath, headers: HeaderMap, uri: Uri) -> Outcome {
    delete(&app, key, &headers, &uri).await
}

async fn delete(app: &AppState, key: SeriesKey, headers: &HeaderMap, uri: &Uri) -> Outcome {
    let params = Params::of::<DeleteParams>(uri)?;
    idempotency::reject(headers)?;
    let condition = condition(headers)?;
    let (all, dry_run) = (params.flag("all")?, params.flag("dry_run")?);
    let bounds = match (params.text("start"), params.text("end"), all) {
        (None, None, true) => None,
        (Some(start), Some(end), false) => Some((TimeValue::Text(start.to_string()), TimeValue::Text(end.to_string()))),
        (_, _, true) => return Err(Error::invalid("all=true excludes start and end").into()),
        _ => {
            return Err(Error::invalid("a delete needs both start and end, or all=true")
                .with_hint("the range is closed: rows at both bounds are deleted too")
                .into());
        }
    };
    let reply = app.blocking(move |service| service.delete_range(&key, bounds, &condition, dry_run)).await?;
    Ok(reply::json(StatusCode::OK, &reply)?)
}
