//! DoGet: an answer as a stream of messages, framed here.
//!
//! 1. The schema goes out first, rows or no rows; behind it the keys of an answer of several series.
//! 2. A message is the few bytes before its columns and the columns as slices of the maps they stand in. tonic would copy
//!    each into a buffer of its own, so this body is not tonic's: it yields gRPC's frames itself and ends with the trailers.
//! 3. The scan runs on blocking threads and stays at most [`QUEUE_PARTS`] parts ahead; while the client is slow no
//!    thread waits for it. A short answer is whole before its first byte goes out.
//! 4. The stream ends cleanly only after the scan said that it was at its end. Whatever else stops it (damage, a
//!    panic, a client that takes nothing for too long) ends it with a status.
//! 5. Under `explain` a last message without rows says in its metadata how they were found.
//! 6. A client that goes away drops the receiver, and the scan stops with its next block.

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

use super::connection::Disconnect;
use super::encode::{FlightEncoder, FlightMessage};
use super::status::{status, status_for};
use crate::egress::OutputBuffer;
use crate::error::{Error, ErrorCode, Result};
use crate::query::Block;
use crate::service::{Caller, Permit, QueryResult};

/// Parts that wait for the client, of about 1 MiB each at most.
const QUEUE_PARTS: usize = 2;

/// Short messages go out together until they are so many bytes.
const PART_BYTES: usize = 64 * 1024;

/// Pieces of messages, the end of the answer, or what cut it short.
type Item = Result<Option<Vec<Bytes>>, Status>;

/// A place among the readers of this face, and among the answers of all.
pub(super) type StreamPermit = (OwnedSemaphorePermit, Permit);

/// The body of an answer.
#[derive(Debug)]
pub(super) struct GetStream {
    /// What goes out before anything else.
    ready: VecDeque<Bytes>,
    /// How the answer ended, once that is known.
    end: Option<Result<(), Status>>,
    items: Option<Receiver<Item>>,
    ended: bool,
    /// One of the readers allowed at a time.
    _permit: StreamPermit,
}

/// An answer whose first part was made.
#[derive(Debug)]
pub(super) struct StartedGet {
    first: Item,
    scan: GetScan,
}

/// Makes the first part of an answer. Reads mapped memory, so it belongs on a blocking thread.
pub(super) fn start(answer: QueryResult, caller: Caller) -> StartedGet {
    let encoder = FlightEncoder::new(&answer.shape);
    let mut scan = GetScan {
        head: encoder.head_messages(),
        encoder,
        answer,
        caller,
        has_told_stats: false,
        rest: None,
        after: None,
    };
    StartedGet { first: scan.next(), scan }
}

/// Starts sending an answer.
///
/// When the client takes nothing for `stall`, its connection `line` is ended: nothing else frees what the answer holds.
pub(super) fn stream(
    started: StartedGet,
    stall: Duration,
    line: Option<Disconnect>,
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
            tokio::spawn(run(scan, sender, stall, line));
        }
        None => {}
    }
    rows
}

#[derive(Debug)]
struct GetScan {
    encoder: FlightEncoder,
    answer: QueryResult,
    /// Who is told of errors.
    caller: Caller,
    /// What goes out before the rows.
    head: Vec<FlightMessage>,
    /// Whether the message went out that says how the rows were found.
    has_told_stats: bool,
    /// What is left of a block that goes out in pieces.
    rest: Option<Block>,
    /// What follows the last part, when that is known already.
    after: Option<Item>,
}

/// How a run of blocks stopped.
enum Pause {
    /// The queue is full; this item is the next.
    Full(Item),
    /// The last item is in the queue, or nobody reads it.
    Over,
}

impl GetScan {
    /// The next messages, together at least [`PART_BYTES`] unless they are the last.
    fn next(&mut self) -> Item {
        if let Some(after) = self.after.take() {
            return after;
        }
        let mut out = OutputBuffer::default();
        loop {
            let more = self.write_next(&mut out).map_err(|error| status_for(Some(&self.caller), &error));
            if matches!(more, Ok(true)) && out.bytes() < PART_BYTES {
                continue;
            }
            let after = match more {
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

    /// Writes the next message; false at the end.
    fn write_next(&mut self, out: &mut OutputBuffer) -> Result<bool> {
        for message in std::mem::take(&mut self.head) {
            message.write(out)?;
        }
        let Some(piece) = self.piece()? else {
            if let Some(stats) = self.answer.stats().filter(|_| !self.has_told_stats) {
                self.has_told_stats = true;
                let text = serde_json::to_vec(&serde_json::json!({ "stats": stats }));
                FlightMessage::of_metadata(text.unwrap_or_default()).write(out)?;
                return Ok(true);
            }
            return Ok(false);
        };
        self.encoder.block_message(&piece)?.write(out)?;
        Ok(true)
    }

    /// The next rows that go into one message; `None` at the end.
    fn piece(&mut self) -> Result<Option<Block>> {
        let block = match self.rest.take() {
            Some(rest) => rest,
            None => match self.answer.find(|block| !matches!(block, Ok(block) if block.rows == 0)) {
                None => return Ok(None),
                Some(block) => block?,
            },
        };
        self.encoder.check(&block)?;
        let rows_max = self.encoder.rows_max();
        if block.rows <= rows_max {
            return Ok(Some(block));
        }
        self.rest = Some(block.slice(rows_max, block.rows - rows_max));
        Ok(Some(block.slice(0, rows_max)))
    }

    /// Sends items until the queue is full or the answer is over.
    fn fill(&mut self, sender: &Sender<Item>) -> Pause {
        loop {
            let item = self.next();
            let last = !matches!(item, Ok(Some(_)));
            match sender.try_send(item) {
                Ok(()) if last => return Pause::Over,
                Ok(()) => {}
                Err(TrySendError::Full(item)) => return Pause::Full(item),
                Err(TrySendError::Closed(_)) => return Pause::Over,
            }
        }
    }
}

async fn run(mut scan: GetScan, sender: Sender<Item>, stall: Duration, line: Option<Disconnect>) {
    loop {
        let filling = sender.clone();
        let filled = tokio::task::spawn_blocking(move || {
            let pause = scan.fill(&filling);
            (scan, pause)
        });
        let item = match filled.await {
            Ok((_, Pause::Over)) => return,
            Ok((back, Pause::Full(item))) => {
                scan = back;
                item
            }
            Err(join) => {
                let broken = status(&Error::internal(format!("a scan ended early: {join}")));
                let _ = sender.send_timeout(Err(broken), stall).await;
                return;
            }
        };
        let last = !matches!(item, Ok(Some(_)));
        match sender.send_timeout(item, stall).await {
            Ok(()) if last => return,
            Ok(()) => {}
            Err(SendTimeoutError::Closed(_)) => return,
            Err(SendTimeoutError::Timeout(_)) => {
                tracing::info!("hung up on a reader that took nothing for {} s", stall.as_secs());
                if let Some(line) = line {
                    line.now();
                }
                // Without a last item the receiver, should it still be asked, ends with a status of its own.
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

/// The trailers that say how a stream ended.
fn trailers(end: Result<(), Status>) -> http::HeaderMap {
    let status = end.err().unwrap_or_else(|| Status::new(Code::Ok, ""));
    let mut trailers = http::HeaderMap::new();
    if let Err(status) = status.add_header(&mut trailers) {
        // A message that no header can carry.
        trailers.insert(Status::GRPC_STATUS, http::HeaderValue::from(i32::from(status.code())));
    }
    trailers
}

fn stalled() -> Error {
    Error::new(ErrorCode::DeadlineExceeded, "the answer was cut because its reader took nothing for too long")
        .with_hint("read faster, or ask for less at a time")
}

/// All pieces of an answer.
#[cfg(test)]
pub(super) fn pieces(answer: QueryResult) -> Vec<Bytes> {
    let StartedGet { first, mut scan } = start(answer, Caller::trusted());
    let rest = std::iter::from_fn(|| scan.next().unwrap());
    first.unwrap().into_iter().chain(rest).flatten().collect()
}
