//! Reads and writes of rows on the target of a command: the same bodies and results for an open store and over REST.

use bytes::Bytes;
use hyper::Method;

use super::remote::{Call, json_body, series_path};
use super::rows::{self, BodyOptions, OutputOptions};
use super::target::CommandTarget;
use crate::error::{Error, ErrorCode, Result};
use crate::query::{MultiLayout, Predicate, Query};
use crate::service::{Acknowledged, IdempotencyKey, Precondition, RowMode, WriteManyReply, WriteMethod, WriteOptions};
use crate::types::SeriesKey;

/// Limits to try for one JSON response, largest first: the default maximum of servers, then lower ones they may be
/// configured to. The last attempt sends no limit, which every server accepts.
const JSON_ROWS: [u64; 3] = [1_000_000, 100_000, 10_000];
/// Longest request target of a read in bytes; servers accept 8,192 by default.
const TARGET_BYTES_MAX: usize = 4_000;
/// Bytes at the end of a JSON response that contain its cursor.
const END_BYTES: usize = 512;

impl CommandTarget {
    /// Writes the rows of a body as one commit.
    pub fn write(
        &self,
        key: &SeriesKey,
        body: Bytes,
        options: &BodyOptions,
        write_options: &WriteOptions,
    ) -> Result<Acknowledged> {
        let client = match self {
            CommandTarget::Local(service) => return rows::write(service, key, &body, options, write_options),
            CommandTarget::Remote(client) => client,
        };
        write_options.check(key)?;
        let path = series_path(key);
        let call = match write_options.method {
            WriteMethod::Mode(mode) => with_mode(Call::new(Method::POST, path), mode),
            WriteMethod::Merge(op) => Call::new(Method::POST, path + "/merge").maybe("op", op.map(|op| op.name())),
        };
        let once = write_options.idempotency_key.as_ref().map(IdempotencyKey::as_str);
        let tag = match once {
            None => self.tag(key, &write_options.condition)?,
            Some(_) => self.etag_for_retry(key, &write_options.condition)?,
        };
        let call = with_body_options(call, options).if_match(tag.as_deref()).idempotency_key(once);
        let (reply, repeated) = client.json_replayed(call.body(rows::media_type(&options.format)?, body))?;
        Ok(Acknowledged { reply, repeated })
    }

    /// Writes the rows of many series as one commit.
    pub fn write_many(
        &self,
        body: Bytes,
        options: &BodyOptions,
        mode: RowMode,
        once: Option<&IdempotencyKey>,
    ) -> Result<Acknowledged<WriteManyReply>> {
        match self {
            CommandTarget::Local(service) => rows::write_many(service, &body, options, mode, once),
            CommandTarget::Remote(client) => {
                let call = with_body_options(with_mode(Call::new(Method::POST, "/v1/write"), mode), options)
                    .idempotency_key(once.map(IdempotencyKey::as_str))
                    .body(rows::media_type(&options.format)?, body);
                let (reply, repeated) = client.json_replayed(call)?;
                Ok(Acknowledged { reply, repeated })
            }
        }
    }

    /// Passes the encoded rows of a query to `sink`, one buffer at a time. After an error they are not a valid result.
    ///
    /// JSON without a limit means every row, or `too_large`: a truncated page would look like the whole result.
    pub fn read(
        &self,
        query: &Query,
        options: &OutputOptions,
        sink: &mut dyn FnMut(Bytes) -> Result<()>,
    ) -> Result<()> {
        if options.format != "json" || query.limit.is_some() {
            return self.stream(query, options, sink);
        }
        let mut query = query.clone();
        let mut end = Vec::new();
        self.read_page(&mut query, options, &mut |piece: Bytes| {
            end.extend_from_slice(piece.get(piece.len().saturating_sub(END_BYTES)..).unwrap_or_default());
            end.drain(..end.len().saturating_sub(END_BYTES));
            sink(piece)
        })?;
        if !String::from_utf8_lossy(&end).contains("\"next_cursor\":null") {
            let first = query.limit.map_or_else(String::new, |rows| format!("the {rows} of "));
            let detail = format!("{} has more rows than {first}one JSON response", query.series.join(", "));
            return Err(Error::new(ErrorCode::TooLarge, detail).with_hint("--format ndjson has no limit, or --limit N"));
        }
        Ok(())
    }

    /// Passes one JSON response to `sink`. For a query without a limit, the largest limit that the server accepts
    /// becomes the limit of the query and of the pages that follow.
    pub fn read_page(
        &self,
        query: &mut Query,
        options: &OutputOptions,
        sink: &mut dyn FnMut(Bytes) -> Result<()>,
    ) -> Result<()> {
        if query.limit.is_some() {
            return self.stream(query, options, sink);
        }
        let mut rows = JSON_ROWS.into_iter();
        loop {
            query.limit = rows.next();
            let mut has_output = false;
            let done = self.stream(query, options, &mut |piece: Bytes| {
                has_output = true;
                sink(piece)
            });
            match done {
                // The server may have a lower limit; any other error occurs again.
                Err(error)
                    if error.code() == ErrorCode::InvalidArgument
                        && matches!(self, CommandTarget::Remote(_))
                        && query.limit.is_some()
                        && !has_output => {}
                done => return done,
            }
        }
    }

    fn stream(&self, query: &Query, options: &OutputOptions, sink: &mut dyn FnMut(Bytes) -> Result<()>) -> Result<()> {
        match self {
            CommandTarget::Local(service) => rows::read(service, query, options, sink),
            CommandTarget::Remote(client) => client.stream(read_call(query, options)?, sink),
        }
    }

    /// The entity tag of a condition on a write that may be a retry, which only the server knows: a version that
    /// differs from the current one is sent too.
    fn etag_for_retry(&self, key: &SeriesKey, condition: &Precondition) -> Result<Option<String>> {
        let Some(version) = condition.if_version else { return Ok(condition.if_match.clone()) };
        let tag = self.series(key)?.etag;
        let mut parts = tag.rsplitn(3, '-');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(format), Some(_), Some(stem)) => Ok(Some(format!("{stem}-{version}-{format}"))),
            _ => Err(Error::internal(format!("the entity tag {tag} of {key} cannot be parsed"))),
        }
    }
}

/// Adds the write mode as a parameter.
fn with_mode(call: Call, mode: RowMode) -> Call {
    let mode = serde_json::to_value(mode).ok();
    call.maybe("mode", mode.as_ref().and_then(|mode| mode.as_str()))
}

/// Adds the decode options as parameters.
fn with_body_options(call: Call, options: &BodyOptions) -> Call {
    call.maybe("validate", options.validate.as_deref())
        .maybe("rounding", options.rounding.as_deref())
        .maybe("numbers", options.numbers.as_deref())
        .maybe("missing", options.missing.as_deref())
        .maybe("grid", options.grid.as_deref())
        .maybe("implausible_ts", options.implausible_ts.as_deref())
}

/// The query as parameters of a GET; as a body if it is long or has several series.
fn read_call(query: &Query, options: &OutputOptions) -> Result<Call> {
    let with_output = |call: Call| {
        call.param("format", &options.format)
            .maybe("times", options.times.as_deref())
            .maybe("shape", options.shape.as_deref())
    };
    let as_body = || json_body(with_output(Call::new(Method::POST, "/v1/query")), query);
    let key = match query.series.as_slice() {
        [only] if !only.contains('*') && query.layout != Some(MultiLayout::Wide) => SeriesKey::parse(only)?,
        _ => return as_body(),
    };
    let mut call = with_output(Call::new(Method::GET, series_path(&key)));
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(query) else {
        return Err(Error::internal("a query is not a JSON object"));
    };
    for (name, value) in fields {
        match value {
            // For one series the layouts do not differ.
            _ if name == "layout" => {}
            // Appended at the end: a cursor is bound to its query, so the choice of GET or POST must not depend on it.
            _ if name == "cursor" => {}
            serde_json::Value::String(text) => call = call.param(&name, &text),
            serde_json::Value::Number(number) => call = call.param(&name, &number.to_string()),
            serde_json::Value::Array(_) if name == "series" => {}
            serde_json::Value::Array(items) if name == "where" => {
                for item in items {
                    let predicate: Predicate = serde_json::from_value(item)
                        .map_err(|error| Error::internal(format!("a predicate is not valid: {error}")))?;
                    call = call.param(&name, &predicate.to_text());
                }
            }
            serde_json::Value::Array(items) => {
                let words: Vec<&str> = items.iter().filter_map(|item| item.as_str()).collect();
                call = call.param(&name, &words.join(","));
            }
            serde_json::Value::Bool(true) => call = call.param(&name, "true"),
            _ => {}
        }
    }
    if call.target().len() > TARGET_BYTES_MAX {
        return as_body();
    }
    Ok(call.maybe("cursor", query.cursor.as_deref()))
}
