//! DoGet: a result as a stream of messages, framed here.
//!
//! 1. The schema is sent first, with or without rows; then the dictionaries: the keys of several series, and the texts of columns.
//! 2. A message consists of a few bytes before its columns and the columns as slices of the maps. tonic would copy each
//!    into its own buffer, so this body bypasses tonic: it yields gRPC frames and ends with the trailers.
//! 3. The scan runs on blocking threads and stays at most [`QUEUE_PARTS`] parts ahead; no thread waits for a slow
//!    client. A short result is complete before its first byte is sent.
//! 4. The stream ends cleanly only after the scan has reached its end. Any other end (damage, a panic, a stalled
//!    client) is a status.
//! 5. Under `explain` a last message without rows carries the scan statistics in its metadata.
//! 6. A client that disconnects drops the receiver, and the scan stops with its next block.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::error::{SendTimeoutError, TrySendError};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tonic::{Code, Status};

use crate::egress::OutputBuffer;
use crate::error::{Error, ErrorCode, Result};
use crate::query::Block;
use crate::server::flight::connection::Disconnect;
use crate::server::flight::encode::{FlightEncoder, FlightMessage};
use crate::server::flight::sql::SqlMessages;
use crate::server::flight::status::{status, status_for};
use crate::service::{Caller, Permit, QueryResult};
use crate::sql::QueryCanceller;

/// Parts queued for the client, at most about 1 MiB each.
const QUEUE_PARTS: usize = 2;

/// Short messages are combined up to this many bytes.
const PART_BYTES: usize = 64 * 1024;

/// Pieces of messages, the end of the result, or the error that ended it.
type Item = Result<Option<Vec<Bytes>>, Status>;

/// Permits for a DoGet of this listener, and for a response of the server; and what ends its statement with it.
pub(super) type StreamPermit = ((OwnedSemaphorePermit, Permit), Option<QueryCanceller>);

/// The body of a response.
#[derive(Debug)]
pub(super) struct GetStream {
    /// Pieces to be sent next.
    ready: VecDeque<Bytes>,
    /// Result of the stream, once it is known.
    end: Option<Result<(), Status>>,
    items: Option<Receiver<Item>>,
    ended: bool,
    /// Held while the response is sent.
    _permit: StreamPermit,
}

/// A result whose first part is ready.
#[derive(Debug)]
pub(super) struct StartedGet {
    first: Item,
    scan: GetScan,
}

/// Produces the first part of a result. Reads mapped memory, so it must run on a blocking thread.
pub(super) fn start(result: QueryResult, caller: Caller) -> StartedGet {
    let encoder = FlightEncoder::new(&result.shape);
    let head = encoder.head_messages();
    let rows = QueryMessages { encoder, result, has_sent_stats: false, rest: None };
    start_with(head, MessageSource::Query(Box::new(rows)), caller)
}

/// Produces the first part of the result of a statement, or of a table in memory, which must run on a blocking thread.
pub(super) fn start_sql(messages: SqlMessages, caller: Caller) -> StartedGet {
    start_with(vec![messages.schema_message()], MessageSource::Sql(Box::new(messages)), caller)
}

fn start_with(head: Vec<FlightMessage>, source: MessageSource, caller: Caller) -> StartedGet {
    let mut scan = GetScan { head, source, caller, after: None };
    StartedGet { first: scan.next(), scan }
}

/// Starts sending a result.
///
/// When the client reads nothing for `stall_timeout`, its `connection` is closed: nothing else releases what the
/// response holds.
pub(super) fn stream(
    started: StartedGet,
    stall_timeout: Duration,
    connection: Option<Disconnect>,
    permit: StreamPermit,
) -> GetStream {
    let StartedGet { first, mut scan } = started;
    let mut rows = GetStream { ready: VecDeque::new(), end: None, items: None, ended: false, _permit: permit };
    rows.take(Some(first));
    match scan.after.take() {
        Some(after) => rows.take(Some(after)),
        None if rows.end.is_none() => {
            let (sender, items) = channel(QUEUE_PARTS);
            rows.items = Some(items);
            tokio::spawn(run(scan, sender, stall_timeout, connection));
        }
        None => {}
    }
    rows
}

#[derive(Debug)]
struct GetScan {
    source: MessageSource,
    /// Caller for whom errors are redacted.
    caller: Caller,
    /// Messages before the rows.
    head: Vec<FlightMessage>,
    /// The item after the last part, when it is already known.
    after: Option<Item>,
}

/// What the messages of a result are made of.
#[derive(Debug)]
enum MessageSource {
    Query(Box<QueryMessages>),
    Sql(Box<SqlMessages>),
}

/// The messages of a query.
#[derive(Debug)]
struct QueryMessages {
    encoder: FlightEncoder,
    result: QueryResult,
    /// Whether the message with the statistics was sent.
    has_sent_stats: bool,
    /// Rest of a block that is sent in several messages.
    rest: Option<Block>,
}

/// Why filling the queue stopped.
enum Pause {
    /// The queue is full; this is the next item.
    Full(Item),
    /// The last item is queued, or the receiver is gone.
    Done,
}

impl GetScan {
    /// The next messages, together at least [`PART_BYTES`] unless they are the last.
    fn next(&mut self) -> Item {
        if let Some(after) = self.after.take() {
            return after;
        }
        let mut out = OutputBuffer::default();
        loop {
            let has_more = self.write_next(&mut out).map_err(|error| status_for(Some(&self.caller), &error));
            if matches!(has_more, Ok(true)) && out.bytes() < PART_BYTES {
                continue;
            }
            let after = match has_more {
                Ok(true) => None,
                Ok(false) => Some(Ok(None)),
                Err(status) => Some(Err(status)),
            };
            let pieces = out.pieces();
            return match after {
                Some(after) if pieces.is_empty() => after,
                after => {
                    self.after = after;
                    Ok(Some(pieces))
                }
            };
        }
    }

    /// Writes the next messages; false at the end.
    fn write_next(&mut self, out: &mut OutputBuffer) -> Result<bool> {
        for message in std::mem::take(&mut self.head) {
            message.write(out)?;
        }
        match &mut self.source {
            MessageSource::Query(messages) => messages.write_next(out),
            MessageSource::Sql(messages) => {
                let Some(messages) = messages.next_messages()? else { return Ok(false) };
                messages.into_iter().try_for_each(|message| message.write(out))?;
                Ok(true)
            }
        }
    }

    /// Queues items until the queue is full or the result is complete.
    fn fill(&mut self, sender: &Sender<Item>) -> Pause {
        loop {
            let item = self.next();
            let last = !matches!(item, Ok(Some(_)));
            match sender.try_send(item) {
                Ok(()) if last => return Pause::Done,
                Ok(()) => {}
                Err(TrySendError::Full(item)) => return Pause::Full(item),
                Err(TrySendError::Closed(_)) => return Pause::Done,
            }
        }
    }
}

impl QueryMessages {
    /// Writes the next message; false at the end.
    fn write_next(&mut self, out: &mut OutputBuffer) -> Result<bool> {
        let Some(piece) = self.piece()? else {
            if let Some(stats) = self.result.stats().filter(|_| !self.has_sent_stats) {
                self.has_sent_stats = true;
                let text = serde_json::to_vec(&serde_json::json!({ "stats": stats }));
                FlightMessage::of_metadata(text.unwrap_or_default()).write(out)?;
                return Ok(true);
            }
            return Ok(false);
        };
        self.encoder.block_message(&piece).write(out)?;
        Ok(true)
    }

    /// The rows of the next message; `None` at the end.
    fn piece(&mut self) -> Result<Option<Block>> {
        let block = match self.rest.take() {
            Some(rest) => rest,
            None => match self.result.find(|block| !matches!(block, Ok(block) if block.rows() == 0)) {
                None => return Ok(None),
                Some(block) => block?,
            },
        };
        self.encoder.check(&block)?;
        let rows_max = self.encoder.rows_max();
        if block.rows() <= rows_max {
            return Ok(Some(block));
        }
        self.rest = Some(block.slice(rows_max, block.rows() - rows_max));
        Ok(Some(block.slice(0, rows_max)))
    }
}

async fn run(mut scan: GetScan, sender: Sender<Item>, stall_timeout: Duration, connection: Option<Disconnect>) {
    loop {
        let filling = sender.clone();
        let filled = tokio::task::spawn_blocking(move || {
            let pause = scan.fill(&filling);
            (scan, pause)
        });
        let item = match filled.await {
            Ok((_, Pause::Done)) => return,
            Ok((resumed, Pause::Full(item))) => {
                scan = resumed;
                item
            }
            Err(join) => {
                let broken = status(&Error::internal(format!("a scan ended early: {join}")));
                let _ = sender.send_timeout(Err(broken), stall_timeout).await;
                return;
            }
        };
        let last = !matches!(item, Ok(Some(_)));
        match sender.send_timeout(item, stall_timeout).await {
            Ok(()) if last => return,
            Ok(()) => {}
            Err(SendTimeoutError::Closed(_)) => return,
            Err(SendTimeoutError::Timeout(_)) => {
                tracing::info!("closed a connection whose client read nothing for {} s", stall_timeout.as_secs());
                if let Some(connection) = connection {
                    connection.now();
                }
                // If the receiver is still polled, it ends with the status of a stalled client.
                return;
            }
        }
    }
}

impl GetStream {
    fn take(&mut self, item: Option<Item>) {
        match item {
            Some(Ok(Some(pieces))) => self.ready = pieces.into(),
            Some(Ok(None)) => self.end = Some(Ok(())),
            Some(Err(status)) => self.end = Some(Err(status)),
            None => self.end = Some(Err(status(&stalled()))),
        }
    }
}

impl http_body::Body for GetStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            if let Some(end) = self.end.take() {
                self.ended = true;
                self.items = None;
                return Poll::Ready(Some(Ok(Frame::trailers(trailers(end)))));
            }
            let item = match &mut self.items {
                Some(items) => ready!(items.poll_recv(context)),
                None => None,
            };
            self.take(item);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.ready.is_empty()
    }
}

/// The trailers with the status of a stream.
fn trailers(end: Result<(), Status>) -> http::HeaderMap {
    let status = end.err().unwrap_or_else(|| Status::new(Code::Ok, ""));
    let mut trailers = http::HeaderMap::new();
    if let Err(status) = status.add_header(&mut trailers) {
        // The message does not fit into a header.
        trailers.insert(Status::GRPC_STATUS, http::HeaderValue::from(i32::from(status.code())));
    }
    trailers
}

fn stalled() -> Error {
    Error::new(ErrorCode::DeadlineExceeded, "response aborted: the client stopped reading")
        .with_hint("read faster, or request less at a time")
}

/// All pieces of a result.
#[cfg(test)]
pub(in crate::server) fn pieces(result: QueryResult) -> Vec<Bytes> {
    let StartedGet { first, mut scan } = start(result, Caller::trusted());
    let rest = std::iter::from_fn(|| scan.next().unwrap());
    first.unwrap().into_iter().chain(rest).flatten().collect()
}
