//! Replies: JSON documents, and answers that stream.
//!
//! Invariants of a streamed answer:
//! 1. Its headers go out only after its first piece was made, so that early errors are problem documents.
//! 2. Its body ends as whole only after the producer said so; an error, a panic or a vanished producer breaks it off.
//! 3. What is known only at the end (how the answer was found) goes into a header when the answer is whole by then, else
//!    into a trailer.
//! 4. At most [`PIECES_AHEAD`] pieces wait for the client; one that takes none for `stall` ends the producer, and so
//!    does one that is gone.

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

use super::AppState;
use super::content_encoding::{BodyCompressor, ResponseCoding};
use super::etag::{entity_tag, is_known, not_modified, tag_headers};
use crate::egress::{BodyEncoder, EncodeOptions, OutFormat, PIECE_BYTES, Trailer};
use crate::error::{Error, ErrorCode, Result};
use crate::query::{Block, CancelFlag, Query, ScanStats};
use crate::server::blocking::begin;
use crate::service::{Permit, PermitKind, QueryResult, Service};

/// Pieces that wait between the producer and the socket.
const PIECES_AHEAD: usize = 3;

/// Who set the limit of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitBy {
    /// Whoever asked, or nobody.
    Query,
    /// The server: a client that does not know of it has to be told when it cuts.
    Server,
}

/// Gives a JSON answer the limit of the server where the query has none.
///
/// # Errors
/// `invalid_argument` for a limit of 0, and for one that is larger than JSON answers may be.
pub fn limit_rows(app: &AppState, query: &mut Query, format: OutFormat) -> Result<LimitBy> {
    let config = app.config();
    match query.limit {
        Some(0) => return Err(Error::invalid("limit 0 asks for nothing")),
        Some(limit) if format == OutFormat::Json && limit > config.json_rows_max => {
            return Err(Error::invalid(format!("limit {limit} is more than {} rows of JSON", config.json_rows_max))
                .with_hint("take pages by cursor, or ndjson, csv, arrow or parquet, which have no limit"));
        }
        None if format == OutFormat::Json => {
            query.limit = Some(config.json_rows_default);
            return Ok(LimitBy::Server);
        }
        _ => {}
    }
    Ok(LimitBy::Query)
}

/// A JSON document.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Result<Response> {
    let body = json_bytes(value)?;
    let kind = HeaderValue::from_static("application/json");
    Ok((status, [(header::CONTENT_TYPE, kind)], body).into_response())
}

/// A JSON document with its entity tag.
pub fn json_tagged<T: Serialize>(value: &T, tag: &str) -> Result<Response> {
    let mut response = json(StatusCode::OK, value)?;
    tag_headers(response.headers_mut(), tag);
    Ok(response)
}

fn json_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut body = serde_json::to_vec(value).map_err(|error| Error::internal(format!("reply as JSON: {error}")))?;
    body.push(b'\n');
    Ok(body)
}

/// A JSON document in the encoding the client asked for, with an entity tag where it has one (in quotes, ending
/// before the suffix of the encoding).
pub fn json_coded<T: Serialize>(headers: &HeaderMap, value: &T, tag: Option<&str>) -> Result<Response> {
    let coding = ResponseCoding::of(headers);
    let mut coder = coding.coder()?;
    let mut body = coder.piece(Bytes::from(json_bytes(value)?))?.to_vec();
    body.extend_from_slice(&coder.end()?);
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

type ClosingOf = Box<dyn FnMut(&QueryResult) -> Trailer + Send>;

/// How an answer was found, once it has ended.
type Stats = Arc<OnceLock<ScanStats>>;

/// What stands behind the rows; how they were found is told to `stats` too.
fn closing(stats: &Stats) -> ClosingOf {
    let told = Arc::clone(stats);
    Box::new(move |answer| {
        let stats = answer.stats();
        if let Some(stats) = stats {
            let _ = told.set(stats);
        }
        Trailer { next_cursor: answer.next_cursor(), stats }
    })
}

/// The body of an answer, encoded.
struct EncodedBody {
    encoder: BodyEncoder<QueryResult, ClosingOf>,
    coder: Option<BodyCompressor>,
    stats: Stats,
}

impl Iterator for EncodedBody {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let coded = match self.encoder.next() {
                Some(Ok(piece)) => match &mut self.coder {
                    Some(coder) => coder.piece(piece),
                    None => return None,
                },
                Some(Err(error)) => {
                    self.coder = None;
                    return Some(Err(error));
                }
                None => self.coder.take()?.end(),
            };
            match coded {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Some(Ok(piece)),
                Err(error) => {
                    self.coder = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// What is known when the first pieces are made.
struct ResponseHead {
    tag: String,
    version: Option<u64>,
    commit: u64,
    /// Where an answer goes on that a limit cuts which nobody asked for.
    cut_at: Option<String>,
    first: Vec<Bytes>,
    is_whole: bool,
    stats: Stats,
}

/// What the producer sends after the head.
enum BodyPart {
    Piece(Bytes),
    Failed,
    End(Option<HeaderMap>),
}

/// What became of a query.
enum QueryOutcome {
    /// The client knows the answer of this entity tag.
    Known(String),
    Answer(Box<(ResponseHead, EncodedBody)>),
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
    let answer = match limit_by {
        LimitBy::Query => service.read_until(query, stop)?,
        LimitBy::Server => service.read_ahead(query, stop)?,
    };
    let cut_at = answer.cursor_ahead().map(String::from);
    let shape = answer.shape.clone();
    let tag = entity_tag(&answer.etag_stem, options.format, coding);
    if is_known(known, &tag) {
        return Ok(QueryOutcome::Known(tag));
    }
    let stats = Stats::default();
    let encoder = BodyEncoder::new(&shape, options, answer, closing(&stats))?;
    let mut pieces = EncodedBody { encoder, coder: Some(coding.coder()?), stats: Arc::clone(&stats) };
    let (mut first, mut bytes, mut is_whole) = (Vec::new(), 0, false);
    while bytes < PIECE_BYTES && !is_whole {
        match pieces.next() {
            Some(piece) => {
                let piece = piece?;
                bytes += piece.len();
                first.push(piece);
            }
            None => is_whole = true,
        }
    }
    let head = ResponseHead { tag, version: shape.version(), commit: shape.commit, cut_at, first, is_whole, stats };
    Ok(QueryOutcome::Answer(Box::new((head, pieces))))
}

/// Answers a query: 304 where the client knows the answer, else its rows.
///
/// # Errors
/// What the query is refused with; `overloaded` and `rate_limited` when too many answers are under way,
/// `deadline_exceeded` when nothing was found for too long.
///
/// `uri` is that of a GET: of such requests the client can know the answer, and is told the address of the next page.
pub async fn answer(
    app: &AppState,
    headers: &HeaderMap,
    query: Query,
    options: EncodeOptions,
    limit_by: LimitBy,
    uri: Option<&Uri>,
) -> Result<Response> {
    // Parquet is compressed inside.
    let coding =
        if options.format == OutFormat::Parquet { ResponseCoding::Identity } else { ResponseCoding::of(headers) };
    let mut known = HeaderMap::new();
    if uri.is_some() {
        for value in headers.get_all(header::IF_NONE_MATCH) {
            known.append(header::IF_NONE_MATCH, value.clone());
        }
    }
    let config = app.config();
    let slot = tokio::time::timeout(config.slot_wait, app.shared.reads.clone().acquire_owned())
        .await
        .ok()
        .and_then(std::result::Result::ok)
        .ok_or_else(|| {
            Error::new(ErrorCode::Overloaded, format!("{} answers are under way already", config.reads_max))
        })?;
    let service = Arc::clone(app.service());
    let slot = (slot, service.take(PermitKind::Answer)?);
    let (series, limit) = (query.series.clone(), query.limit);
    // JSON says it in its body.
    let tells_stats = query.explain && options.format != OutFormat::Json;
    let (patience, stop) = (service.limits().request_timeout, CancelFlag::default());
    let stopping = stop.clone();
    let is_quick =
        coding == ResponseCoding::Identity && options.format != OutFormat::Parquet && service.is_at_hand(&query);
    // The work holds its slot, also when nobody waits for it any more.
    let work =
        move || open(&service, &query, options, limit_by, coding, &known, &stopping).map(|opened| (opened, slot));
    let (opened, slot) = begin(is_quick, patience, stop, work).await?;
    let (head, pieces) = match opened {
        QueryOutcome::Answer(opened) => *opened,
        QueryOutcome::Known(tag) => return Ok(not_modified(&tag)),
    };
    let rest = (!head.is_whole).then(|| produce(pieces, series, slot, config.stall));
    let mut response = Response::new(body_of(head.first, rest));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(options.format.content_type()));
    if let Some(coding) = coding.header() {
        headers.insert(header::CONTENT_ENCODING, coding);
    }
    tag_headers(headers, &head.tag);
    if let Some(version) = head.version {
        headers.insert("fastk-version", HeaderValue::from(version));
    }
    headers.insert("fastk-commit", HeaderValue::from(head.commit));
    if let (Some(cursor), Some(limit)) = (head.cut_at, limit) {
        headers.insert("fastk-truncated", HeaderValue::from(limit));
        if let Some(next) = uri.and_then(|uri| next_page(uri, &cursor)) {
            headers.insert(header::LINK, next);
        }
    }
    match (tells_stats, head.is_whole, stats_value(&head.stats)) {
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

/// Header or trailer that tells how rows were found.
const STATS: &str = "fastk-stats";

fn stats_value(stats: &Stats) -> Option<HeaderValue> {
    let text = serde_json::to_string(stats.get()?).ok()?;
    HeaderValue::from_str(&text).ok()
}

/// The value of `Link` that leads on to the next page of a request.
fn next_page(uri: &Uri, cursor: &str) -> Option<HeaderValue> {
    // Ours are of characters that stand in a query as they are.
    let given =
        uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    let query: Vec<&str> = given.collect();
    let more = if query.is_empty() { "" } else { "&" };
    HeaderValue::from_str(&format!("<{}?{}{more}cursor={cursor}>; rel=\"next\"", uri.path(), query.join("&"))).ok()
}

/// Makes the rest of an answer on a blocking thread, at most [`PIECES_AHEAD`] pieces ahead of the client.
fn produce(
    pieces: EncodedBody,
    series: Vec<String>,
    slot: (OwnedSemaphorePermit, Permit),
    stall: Duration,
) -> mpsc::Receiver<BodyPart> {
    let (tx, rx) = mpsc::channel(PIECES_AHEAD);
    let runtime = tokio::runtime::Handle::current();
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || {
        let _in_span = span.entered();
        let _slot = slot;
        let send = |part: BodyPart| match tx.try_send(part) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(part)) => runtime
                .block_on(async { tokio::time::timeout(stall, tx.send(part)).await })
                .is_ok_and(|sent| sent.is_ok()),
        };
        let stats = Arc::clone(&pieces.stats);
        for piece in pieces {
            let part = match piece {
                Ok(piece) => BodyPart::Piece(piece),
                Err(error) => {
                    tracing::error!(%error, ?series, "an answer was broken off");
                    send(BodyPart::Failed);
                    return;
                }
            };
            if !send(part) {
                return;
            }
        }
        // Nobody sends trailers that the head did not name.
        let trailers = stats_value(&stats).map(|value| HeaderMap::from_iter([(HeaderName::from_static(STATS), value)]));
        send(BodyPart::End(trailers));
    });
    rx
}

/// A body of known length when it is whole already, else the first pieces and what the producer sends.
fn body_of(mut first: Vec<Bytes>, rest: Option<mpsc::Receiver<BodyPart>>) -> Body {
    let Some(rx) = rest else {
        let only = if first.len() == 1 { first.pop() } else { None };
        return Body::from(only.unwrap_or_else(|| {
            let mut all = BytesMut::with_capacity(first.iter().map(Bytes::len).sum());
            first.iter().for_each(|piece| all.extend_from_slice(piece));
            all.freeze()
        }));
    };
    Body::new(StreamedBody { first: first.into_iter(), rest: Some(rx) })
}

/// The first pieces of an answer, and what its producer sends.
struct StreamedBody {
    first: std::vec::IntoIter<Bytes>,
    /// `None` once it is over.
    rest: Option<mpsc::Receiver<BodyPart>>,
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
            _ => Some(Err(std::io::Error::other("the answer was broken off"))),
        })
    }
}

/// Blocks are made by the query layer; this only pins down that they can cross threads.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Block>();
    is_send::<QueryResult>();
};
