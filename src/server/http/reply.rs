//! JSON replies and streamed query responses.
//!
//! Invariants of a streamed response:
//! 1. Its headers are sent only after its first piece is ready, so that early errors are problem documents.
//! 2. Its body ends regularly only after the producer has finished; an error, a panic or a lost producer aborts it.
//! 3. What is known only at the end (scan statistics) is sent as a header when the response is complete by then, else
//!    as a trailer.
//! 4. At most [`PIECES_AHEAD`] pieces are queued for the client; the producer stops when the client reads nothing for
//!    `stall_timeout` or disconnects.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::content_encoding::{BodyCompressor, ResponseCoding};
use super::etag::{entity_tag, is_known, not_modified, tag_headers};
use super::state::AppState;
use crate::cancel::CancelFlag;
use crate::egress::{BodyEncoder, EncodeOptions, OutFormat, PIECE_BYTES, Trailer};
use crate::error::{Error, ErrorCode, Result};
use crate::query::{Block, Query, ScanStats};
use crate::server::blocking::run;
use crate::service::{PermitKind, QueryResult, Service};

/// Pieces queued between the producer and the socket.
const PIECES_AHEAD: usize = 3;

/// Who set the limit of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitBy {
    /// The client; also when there is no limit.
    Query,
    /// The server: the client must be notified when rows are left out.
    Server,
}

/// Applies the default limit to a JSON response whose query has none.
///
/// # Errors
/// `invalid_argument` for a limit of 0, and for one above the maximum of JSON responses.
pub fn limit_rows(app: &AppState, query: &mut Query, format: OutFormat) -> Result<LimitBy> {
    let config = app.config();
    match query.limit {
        Some(0) => return Err(Error::invalid("limit must be at least 1")),
        Some(limit) if format == OutFormat::Json && limit > config.json_rows_max => {
            return Err(Error::invalid(format!(
                "limit {limit} is above {} rows, the maximum of JSON",
                config.json_rows_max
            ))
            .with_hint("read pages by cursor, or use ndjson, csv, arrow or parquet, which have no limit"));
        }
        None if format == OutFormat::Json => {
            query.limit = Some(config.json_rows_default);
            return Ok(LimitBy::Server);
        }
        _ => {}
    }
    Ok(LimitBy::Query)
}

/// A value as a JSON document.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Result<Response> {
    let body = serde_json::to_vec(value).map_err(|error| Error::internal(format!("reply as JSON: {error}")))?;
    Ok(json_text(status, body))
}

/// A JSON document; a line end is appended.
pub fn json_text(status: StatusCode, mut body: Vec<u8>) -> Response {
    body.push(b'\n');
    let kind = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, kind)], body).into_response()
}

/// A JSON document with its entity tag.
pub fn json_tagged(body: Vec<u8>, tag: &str) -> Response {
    let mut response = json_text(StatusCode::OK, body);
    tag_headers(response.headers_mut(), tag);
    response
}

/// A JSON document in the content encoding accepted by the client, optionally with an entity tag (in quotes, without
/// the suffix of the encoding).
pub fn encoded_json(headers: &HeaderMap, mut text: Vec<u8>, tag: Option<&str>) -> Result<Response> {
    let coding = ResponseCoding::of(headers);
    let mut compressor = coding.compressor()?;
    text.push(b'\n');
    let mut body = compressor.piece(Bytes::from(text))?.to_vec();
    body.extend_from_slice(&compressor.end()?);
    let mut response = ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response();
    if let Some(coding) = coding.header() {
        response.headers_mut().insert(header::CONTENT_ENCODING, coding);
    }
    match tag {
        Some(tag) => tag_headers(response.headers_mut(), tag),
        None => {
            response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        }
    }
    Ok(response)
}

type TrailerFn = Box<dyn FnMut(&QueryResult) -> Trailer + Send>;

/// Statistics of the scan, set at its end.
type FinalStats = Arc<OnceLock<ScanStats>>;

/// The function that builds the trailer of a body and sets `stats`.
fn trailer_fn(stats: &FinalStats) -> TrailerFn {
    let shared = Arc::clone(stats);
    Box::new(move |result| {
        let stats = result.stats();
        if let Some(stats) = stats {
            let _ = shared.set(stats);
        }
        Trailer { next_cursor: result.next_cursor(), stats }
    })
}

/// The pieces of a body before they are compressed.
type PlainPieces = Box<dyn Iterator<Item = Result<Bytes>> + Send>;

/// The encoded body of a response.
pub struct PieceStream {
    encoder: PlainPieces,
    compressor: Option<BodyCompressor>,
    stats: FinalStats,
}

impl PieceStream {
    /// The body of these pieces in a content encoding.
    pub fn new(encoder: PlainPieces, coding: ResponseCoding) -> Result<Self> {
        Ok(Self { encoder, compressor: Some(coding.compressor()?), stats: FinalStats::default() })
    }
}

impl Iterator for PieceStream {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let coded = match self.encoder.next() {
                Some(Ok(piece)) => match &mut self.compressor {
                    Some(compressor) => compressor.piece(piece),
                    None => return None,
                },
                Some(Err(error)) => {
                    self.compressor = None;
                    return Some(Err(error));
                }
                None => self.compressor.take()?.end(),
            };
            match coded {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Some(Ok(piece)),
                Err(error) => {
                    self.compressor = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Known when the first pieces are ready.
struct ResponseHead {
    tag: String,
    version: Option<u64>,
    commit: u64,
    /// Cursor after the last row, when the limit of the server leaves rows out.
    truncated_at: Option<String>,
    first: Vec<Bytes>,
    is_complete: bool,
    stats: FinalStats,
}

/// Parts sent by the producer after the first pieces.
enum BodyPart {
    Piece(Bytes),
    Failed,
    End(Option<HeaderMap>),
}

/// Outcome of a query.
enum QueryOutcome {
    /// The client has the response with this entity tag.
    NotModified(String),
    Response(Box<(ResponseHead, PieceStream)>),
}

/// A body whose first pieces are ready.
pub struct StartedBody {
    first: Vec<Bytes>,
    rest: PieceStream,
    is_complete: bool,
}

/// Produces the first pieces of a body. Blocks.
///
/// # Errors
/// Those of the pieces.
pub fn start(mut pieces: PieceStream) -> Result<StartedBody> {
    let (mut first, mut bytes, mut is_complete) = (Vec::new(), 0, false);
    while bytes < PIECE_BYTES && !is_complete {
        match pieces.next() {
            Some(piece) => {
                let piece = piece?;
                bytes += piece.len();
                first.push(piece);
            }
            None => is_complete = true,
        }
    }
    Ok(StartedBody { first, rest: pieces, is_complete })
}

/// The body of a response that goes on after its first pieces. `held` is dropped with it, `permits` when its producer
/// has ended.
pub fn streamed(
    started: StartedBody,
    what: String,
    permits: impl Send + 'static,
    stall_timeout: Duration,
    held: impl Send + Unpin + 'static,
) -> Body {
    let StartedBody { first, rest, is_complete } = started;
    match is_complete {
        true => body_of(first, None),
        false => {
            let parts = produce(rest, vec![what], permits, stall_timeout);
            Body::new(StreamedBody { first: first.into_iter(), rest: Some(parts), _held: Some(Box::new(held)) })
        }
    }
}

fn open(
    service: &Service,
    query: &Query,
    options: EncodeOptions,
    limit_by: LimitBy,
    coding: ResponseCoding,
    known: &HeaderMap,
    stop: &CancelFlag,
) -> Result<QueryOutcome> {
    let result = match limit_by {
        LimitBy::Query => service.read_until(query, stop)?,
        LimitBy::Server => service.read_with_lookahead(query, stop)?,
    };
    let truncated_at = result.lookahead_cursor().map(String::from);
    let shape = result.shape.clone();
    let tag = entity_tag(&result.etag_stem, options.format, coding);
    if is_known(known, &tag) {
        return Ok(QueryOutcome::NotModified(tag));
    }
    let stats = FinalStats::default();
    let encoder = BodyEncoder::new(&shape, options, result, trailer_fn(&stats))?;
    let pieces = PieceStream { stats: Arc::clone(&stats), ..PieceStream::new(Box::new(encoder), coding)? };
    let StartedBody { first, rest, is_complete } = start(pieces)?;
    let pieces = rest;
    let head =
        ResponseHead { tag, version: shape.version(), commit: shape.commit, truncated_at, first, is_complete, stats };
    Ok(QueryOutcome::Response(Box::new((head, pieces))))
}

/// Waits for one of the reads that may be in progress.
///
/// # Errors
/// `overloaded` when none ends in time.
pub async fn read_permit(app: &AppState) -> Result<OwnedSemaphorePermit> {
    let config = app.config();
    let permit = Arc::clone(&app.shared.reads).acquire_owned();
    let waited = tokio::time::timeout(Duration::from_millis(config.read_queue_timeout_ms), permit).await;
    waited
        .ok()
        .and_then(std::result::Result::ok)
        .ok_or_else(|| Error::new(ErrorCode::Overloaded, format!("{} reads are already in progress", config.reads_max)))
}

/// Responds to a query: 304 when the client has the response, else its rows.
///
/// # Errors
/// Those of the query; `overloaded` and `rate_limited` when too many responses are in flight, `deadline_exceeded` when
/// the first rows are not ready in time.
///
/// `uri` is that of a GET: only such requests are conditional, and get the address of the next page.
pub async fn query_response(
    app: &AppState,
    headers: &HeaderMap,
    query: Query,
    options: EncodeOptions,
    limit_by: LimitBy,
    uri: Option<&Uri>,
) -> Result<Response> {
    // Parquet is compressed internally.
    let coding =
        if options.format == OutFormat::Parquet { ResponseCoding::Identity } else { ResponseCoding::of(headers) };
    let mut known = HeaderMap::new();
    if uri.is_some() {
        for value in headers.get_all(header::IF_NONE_MATCH) {
            known.append(header::IF_NONE_MATCH, value.clone());
        }
    }
    let config = app.config();
    let read_permit = read_permit(app).await?;
    let service = Arc::clone(app.service());
    let permits = (read_permit, service.acquire_permit(PermitKind::Response)?);
    let (series, limit) = (query.series.clone(), query.limit);
    // JSON has the statistics in its body.
    let sends_stats = query.explain && options.format != OutFormat::Json;
    let (timeout, stop) = (service.limits().request_timeout(), CancelFlag::default());
    let cancel = stop.clone();
    let is_quick =
        coding == ResponseCoding::Identity && options.format != OutFormat::Parquet && service.is_in_memory(&query);
    // The work holds its permits, even after the client is gone.
    let work =
        move || open(&service, &query, options, limit_by, coding, &known, &cancel).map(|opened| (opened, permits));
    let (opened, permits) = run(is_quick, timeout, stop, work).await?;
    let (head, pieces) = match opened {
        QueryOutcome::Response(opened) => *opened,
        QueryOutcome::NotModified(tag) => return Ok(not_modified(&tag)),
    };
    let rest =
        (!head.is_complete).then(|| produce(pieces, series, permits, Duration::from_millis(config.stall_timeout_ms)));
    let mut response = Response::new(body_of(head.first, rest));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(options.format.content_type()));
    if let Some(coding) = coding.header() {
        headers.insert(header::CONTENT_ENCODING, coding);
    }
    state_headers(headers, &head.tag, head.version, head.commit);
    if uri.is_some() && options.format != OutFormat::Json {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    if let (Some(cursor), Some(limit)) = (head.truncated_at, limit) {
        headers.insert("fastk-truncated", HeaderValue::from(limit));
        if let Some(next) = uri.and_then(|uri| next_page(uri, &cursor)) {
            headers.insert(header::LINK, next);
        }
    }
    match (sends_stats, head.is_complete, stats_value(&head.stats)) {
        (true, true, Some(stats)) => {
            headers.insert(STATS, stats);
        }
        (true, false, _) => {
            headers.insert(header::TRAILER, HeaderValue::from_static(STATS));
        }
        _ => {}
    }
    Ok(response)
}

/// Headers that say what was read: the entity tag, the version of the only series, and the commit.
pub fn state_headers(headers: &mut HeaderMap, tag: &str, version: Option<u64>, commit: u64) {
    tag_headers(headers, tag);
    if let Some(version) = version {
        headers.insert("fastk-version", HeaderValue::from(version));
    }
    headers.insert("fastk-commit", HeaderValue::from(commit));
}

/// Header or trailer with the scan statistics.
const STATS: &str = "fastk-stats";

fn stats_value(stats: &FinalStats) -> Option<HeaderValue> {
    let text = serde_json::to_string(stats.get()?).ok()?;
    HeaderValue::from_str(&text).ok()
}

/// The value of `Link` for the next page of a request.
fn next_page(uri: &Uri, cursor: &str) -> Option<HeaderValue> {
    // Cursors consist of characters that need no encoding in a query.
    let others =
        uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    let query: Vec<&str> = others.collect();
    let separator = if query.is_empty() { "" } else { "&" };
    HeaderValue::from_str(&format!("<{}?{}{separator}cursor={cursor}>; rel=\"next\"", uri.path(), query.join("&"))).ok()
}

/// Produces the rest of a response on a blocking thread, at most [`PIECES_AHEAD`] pieces ahead of the client.
fn produce(
    pieces: PieceStream,
    series: Vec<String>,
    permits: impl Send + 'static,
    stall_timeout: Duration,
) -> mpsc::Receiver<BodyPart> {
    let (tx, rx) = mpsc::channel(PIECES_AHEAD);
    let runtime = tokio::runtime::Handle::current();
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || {
        let _in_span = span.entered();
        let _permits = permits;
        let send = |part: BodyPart| match tx.try_send(part) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(part)) => runtime
                .block_on(async { tokio::time::timeout(stall_timeout, tx.send(part)).await })
                .is_ok_and(|sent| sent.is_ok()),
        };
        let stats = Arc::clone(&pieces.stats);
        for piece in pieces {
            let part = match piece {
                Ok(piece) => BodyPart::Piece(piece),
                Err(error) => {
                    tracing::error!(%error, ?series, "response aborted");
                    send(BodyPart::Failed);
                    return;
                }
            };
            if !send(part) {
                return;
            }
        }
        // Trailers not announced in the head are ignored.
        let trailers = stats_value(&stats).map(|value| HeaderMap::from_iter([(HeaderName::from_static(STATS), value)]));
        send(BodyPart::End(trailers));
    });
    rx
}

/// A body of known length when it is complete, else the first pieces followed by those of the producer.
fn body_of(mut first: Vec<Bytes>, rest: Option<mpsc::Receiver<BodyPart>>) -> Body {
    let Some(rx) = rest else {
        let only = if first.len() == 1 { first.pop() } else { None };
        return Body::from(only.unwrap_or_else(|| {
            let mut all = BytesMut::with_capacity(first.iter().map(Bytes::len).sum());
            first.iter().for_each(|piece| all.extend_from_slice(piece));
            all.freeze()
        }));
    };
    Body::new(StreamedBody { first: first.into_iter(), rest: Some(rx), _held: None })
}

/// The first pieces of a response, followed by those of its producer.
struct StreamedBody {
    first: std::vec::IntoIter<Bytes>,
    /// `None` at the end.
    rest: Option<mpsc::Receiver<BodyPart>>,
    /// What ends the work of the response when the client is gone.
    _held: Option<Box<dyn Send + Unpin>>,
}

impl http_body::Body for StreamedBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, std::io::Error>>> {
        if let Some(piece) = self.first.next() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let part = ready!(rest.poll_recv(cx));
        if let Some(BodyPart::Piece(piece)) = part {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        self.rest = None;
        Poll::Ready(match part {
            Some(BodyPart::End(trailers)) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            _ => Some(Err(std::io::Error::other("response aborted"))),
        })
    }
}

/// Asserts at compile time that blocks can cross threads.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Block>();
    is_send::<QueryResult>();
};
