//! DoGet: an answer as a stream of messages.
//!
//! 1. The schema goes out first, rows or no rows; behind it the keys of an answer of several series.
//! 2. The scan runs on blocking threads and stays at most [`QUEUE_BLOCKS`] blocks ahead; while the client is slow no
//!    thread waits for it.
//! 3. The stream ends cleanly only after the scan said that it was at its end. Whatever else stops it (damage, a
//!    panic, a client that takes nothing for too long) ends it with a status.
//! 4. A client that goes away drops the receiver, and the scan stops with its next block.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow_flight::FlightData;
use futures::Stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::error::{SendTimeoutError, TrySendError};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tonic::Status;

use super::encode::Encoder;
use super::line::HangUp;
use super::status::status;
use crate::error::{Error, ErrorCode, Result};
use crate::query::Block;
use crate::service::Answer;

/// Blocks that wait for the client, of at most 1 MiB each.
const QUEUE_BLOCKS: usize = 2;

/// A message, the end of the answer, or what cut it short.
type Item = Result<Option<FlightData>, Status>;

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Rows {
    items: Receiver<Item>,
    ended: bool,
    /// One of the readers allowed at a time.
    _permit: OwnedSemaphorePermit,
}

/// Starts sending an answer.
///
/// When the client takes nothing for `stall`, its connection `line` is ended: nothing else frees what the answer holds.
pub(super) fn stream(answer: Answer, stall: Duration, line: Option<HangUp>, permit: OwnedSemaphorePermit) -> Rows {
    let (sender, items) = channel(QUEUE_BLOCKS);
    let encoder = Encoder::new(&answer.shape);
    let scan = Scan { head: encoder.head_messages().into(), encoder, answer, rest: None };
    tokio::spawn(run(scan, sender, stall, line));
    Rows { items, ended: false, _permit: permit }
}

struct Scan {
    encoder: Encoder,
    answer: Answer,
    /// What goes out before the rows.
    head: VecDeque<FlightData>,
    /// What is left of a block that goes out in pieces.
    rest: Option<Block>,
}

/// How a run of blocks stopped.
enum Pause {
    /// The queue is full; this item is the next.
    Full(Item),
    /// The last item is in the queue, or nobody reads it.
    Over,
}

impl Scan {
    fn next(&mut self) -> Item {
        if let Some(message) = self.head.pop_front() {
            return Ok(Some(message));
        }
        let message = self.piece().and_then(|piece| piece.map(|piece| self.encoder.block_message(&piece)).transpose());
        message.map_err(|error| status(&error))
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

async fn run(mut scan: Scan, sender: Sender<Item>, stall: Duration, line: Option<HangUp>) {
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

impl Stream for Rows {
    type Item = Result<FlightData, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = match self.items.poll_recv(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(item) => item,
        };
        let item = match item {
            Some(Ok(Some(message))) => return Poll::Ready(Some(Ok(message))),
            Some(Ok(None)) => None,
            Some(Err(status)) => Some(Err(status)),
            None => Some(Err(status(&stalled()))),
        };
        self.ended = true;
        Poll::Ready(item)
    }
}

fn stalled() -> Error {
    Error::new(ErrorCode::DeadlineExceeded, "the answer was cut because its reader took nothing for too long")
        .with_hint("read faster, or ask for less at a time")
}
