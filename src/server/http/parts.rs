//! Bodies in parts: `HEAD` and `Range` on reads of rows, for tools that read a Parquet or Arrow file piece by piece.
//!
//! - A body is encoded once, into a file without a name, and served from there until no client asked for it for
//!   [`KEPT`]. All such files together have at most `http.part_bytes_max` bytes.
//! - The parts of one address that a caller asks for one after the other are those of one commit, although others write
//!   meanwhile: a file of parts of several commits would be none. A `HEAD` reads the newest commit.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::content_encoding::ResponseCoding;
use super::etag::{entity_tag, is_known, not_modified};
use super::part_bodies::{EncodedBody, KEPT, PartKey};
use super::problem::ProblemResponse;
use super::reply::{PieceStream, read_permit, start, state_headers, streamed};
use super::state::{AppState, BUDGET_UNIT};
use crate::disk::local::Spool;
use crate::egress::{BodyEncoder, EncodeOptions, OutFormat, PIECE_BYTES, Trailer};
use crate::error::{Error, ErrorCode, Result};
use crate::query::Query;
use crate::service::{PermitKind, QueryResult, Service};
use crate::types::width::to_usize;

/// Whether a request is for a part of a body or for its length.
pub fn wants_part(method: &Method, headers: &HeaderMap, format: OutFormat) -> bool {
    if *method == Method::HEAD {
        return matches!(format, OutFormat::Parquet | OutFormat::ArrowFile);
    }
    format != OutFormat::Json && range_of(headers).is_some()
}

/// A range of bytes as a request states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WantedBytes {
    From(u64),
    Closed(u64, u64),
    Last(u64),
}

/// The only range of the header; `None` without one, and for what this server does not support, which is ignored.
fn range_of(headers: &HeaderMap) -> Option<WantedBytes> {
    let text = headers.get(header::RANGE)?.to_str().ok()?;
    let (first, last) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    match (first, last) {
        ("", last) => number(last).map(WantedBytes::Last),
        (first, "") => number(first).map(WantedBytes::From),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(WantedBytes::Closed(first, last))
        }
    }
}

impl WantedBytes {
    /// The bytes of a body of this length; `None` when it has none of them.
    fn of(self, length: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From(first) => first..length,
            Self::Closed(first, last) => first..last.saturating_add(1).min(length),
            Self::Last(count) => length.saturating_sub(count)..length,
        };
        (range.start < range.end).then_some(range)
    }
}

/// Responds to a request for a part of a body, or for its length.
///
/// # Errors
/// Those of the query; `range_not_satisfiable`; `too_large` and `overloaded` for the space of such bodies.
pub async fn respond(
    app: &AppState,
    (method, uri, headers): (&Method, &Uri, &HeaderMap),
    query: Query,
    options: EncodeOptions,
) -> Result<Response> {
    let target = uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let key = PartKey { caller: Arc::clone(&app.service().caller().id), target, format: options.format };
    let (entry, is_new) = app.shared.parts.entry(&key);
    if is_new {
        let (shared, key) = (Arc::clone(&app.shared), key.clone());
        tokio::spawn(async move {
            while !shared.parts.expire(&key, Instant::now()) {
                tokio::time::sleep(KEPT).await;
            }
        });
    }
    let mut held = entry.body.lock().await;
    let known = held.clone();
    let body = match known {
        Some(body) if *method != Method::HEAD => body,
        known => {
            let known_tag = known.as_ref().map(|body| body.tag.clone());
            let permit = read_permit(app).await?;
            let work = Encoding { app: app.clone(), key: key.clone(), query, options, known_tag };
            let run = move |service: &Service| {
                let _permit = permit;
                work.run(service)
            };
            let encoded = app.blocking_without_timeout(run).await?;
            match (encoded, known) {
                (Some(encoded), _) => Arc::new(encoded),
                (None, Some(known)) => known,
                (None, None) => return Err(Error::internal("a body in parts was neither known nor encoded")),
            }
        }
    };
    *held = Some(Arc::clone(&body));
    drop(held);
    entry.touch();
    if is_known(headers, &body.tag) {
        return Ok(not_modified(&body.tag));
    }
    part(app, (method, headers), options.format, body)
}

/// The response with the wanted part of a body.
fn part(
    app: &AppState,
    (method, headers): (&Method, &HeaderMap),
    format: OutFormat,
    body: Arc<EncodedBody>,
) -> Result<Response> {
    let length = body.spool.bytes();
    let is_same = headers.get(header::IF_RANGE).is_none_or(|tag| tag.as_bytes() == body.tag.as_bytes());
    let wanted = range_of(headers).filter(|_| *method != Method::HEAD && is_same);
    let (status, range) = match wanted {
        None => (StatusCode::OK, 0..length),
        Some(wanted) => match wanted.of(length) {
            Some(range) => (StatusCode::PARTIAL_CONTENT, range),
            None => {
                let detail = format!("the body has {length} bytes, and none of the requested ones");
                let error = Error::new(ErrorCode::RangeNotSatisfiable, detail)
                    .with_hint("the header Content-Range states the length");
                let mut response = ProblemResponse(error).into_response();
                response.headers_mut().insert(header::CONTENT_RANGE, text(&format!("bytes */{length}"))?);
                return Ok(response);
            }
        },
    };
    let (version, commit, tag) = (body.version, body.commit, body.tag.clone());
    let sent = match *method == Method::HEAD {
        true => Body::empty(),
        false => {
            let permits = app.service().acquire_permit(PermitKind::Response)?;
            let pieces = Box::new(SpoolPieces { body, range: range.clone() });
            let started = start(PieceStream::new(pieces, ResponseCoding::Identity)?)?;
            streamed(
                started,
                "a body in parts".into(),
                permits,
                Duration::from_millis(app.config().stall_timeout_ms),
                (),
            )
        }
    };
    let mut response = Response::new(sent);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if status == StatusCode::PARTIAL_CONTENT {
        headers.insert(header::CONTENT_RANGE, text(&format!("bytes {}-{}/{length}", range.start, range.end - 1))?);
    }
    state_headers(headers, &tag, version, commit);
    Ok(response)
}

fn text(value: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(value).map_err(|_| Error::internal("a header of a part"))
}

/// The encoding of a body into a file.
struct Encoding {
    app: AppState,
    key: PartKey,
    query: Query,
    options: EncodeOptions,
    /// Entity tag of the body that is there.
    known_tag: Option<String>,
}

impl Encoding {
    /// The body; `None` when the known one is that of the newest commit.
    fn run(self, service: &Service) -> Result<Option<EncodedBody>> {
        let result = service.read(&self.query)?;
        let tag = entity_tag(&result.etag_stem, self.options.format, ResponseCoding::Identity);
        if self.known_tag.as_ref() == Some(&tag) {
            return Ok(None);
        }
        let shape = result.shape.clone();
        let trailer = |result: &QueryResult| Trailer { next_cursor: result.next_cursor(), stats: result.stats() };
        let mut spool = Spool::create(&service.spool_dir())?;
        let mut budget = None;
        for piece in BodyEncoder::new(&shape, self.options, result, trailer)? {
            let piece = piece?;
            self.reserve(&mut budget, spool.bytes() + piece.len() as u64)?;
            spool.append(&piece)?;
        }
        Ok(Some(EncodedBody::new(spool, tag, (shape.version(), shape.commit), budget)))
    }

    /// Reserves space for a body of this many bytes; other bodies give way.
    fn reserve(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: u64) -> Result<()> {
        let max = self.app.config().part_bytes_max;
        if bytes > max {
            let detail = format!("the body has more than {max} bytes, the limit for reading it in parts");
            return Err(Error::new(ErrorCode::TooLarge, detail)
                .with_hint("read a shorter range, read it whole, or raise http.part_bytes_max"));
        }
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = to_usize(bytes.div_ceil(BUDGET_UNIT)).saturating_sub(has);
        let Ok(missing) = u32::try_from(missing) else { return Err(Error::internal("a piece of a body is too large")) };
        if missing == 0 {
            return Ok(());
        }
        loop {
            if let Ok(more) = Arc::clone(&self.app.shared.part_budget).try_acquire_many_owned(missing) {
                match held {
                    Some(held) => held.merge(more),
                    None => *held = Some(more),
                }
                return Ok(());
            }
            if !self.app.shared.parts.evict(&self.key) {
                let detail = format!("bodies that are read in parts have {max} bytes already");
                return Err(Error::new(ErrorCode::Overloaded, detail).with_hint("retry, or raise http.part_bytes_max"));
            }
        }
    }
}

/// A part of a body in pieces.
struct SpoolPieces {
    body: Arc<EncodedBody>,
    range: Range<u64>,
}

impl Iterator for SpoolPieces {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = (self.range.end - self.range.start).min(PIECE_BYTES as u64);
        if length == 0 {
            return None;
        }
        let piece = self.body.spool.read(self.range.start, to_usize(length));
        self.range.start = if piece.is_ok() { self.range.start + length } else { self.range.end };
        Some(piece.map(Bytes::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Option<WantedBytes> {
        let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_str(text).unwrap())]);
        range_of(&headers)
    }

    #[test]
    fn ranges_are_parsed_and_applied_to_a_length() {
        assert_eq!(range("bytes=0-3").and_then(|wanted| wanted.of(10)), Some(0..4));
        assert_eq!(range("bytes=4-").and_then(|wanted| wanted.of(10)), Some(4..10));
        assert_eq!(range("bytes=-3").and_then(|wanted| wanted.of(10)), Some(7..10));
        assert_eq!(range("bytes=-30").and_then(|wanted| wanted.of(10)), Some(0..10));
        assert_eq!(range("bytes=5-99").and_then(|wanted| wanted.of(10)), Some(5..10));
        let max = u64::MAX;
        assert_eq!(range(&format!("bytes=9-{max}")).and_then(|wanted| wanted.of(10)), Some(9..10));
        for outside in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(range(outside).map(|wanted| wanted.of(10)), Some(None), "{outside}");
        }
        for ignored in ["bytes=3-1", "bytes=a-", "bytes=-", "bytes=1-2,4-5", "rows=1-2", "bytes=+1-2", "bytes=1", ""] {
            assert_eq!(range(ignored), None, "{ignored}");
        }
    }
}
