//! Queue of the acknowledgements of a put, for a client that may not read them.
//!
//! At most [`ACKS_QUEUED_MAX`] are queued. Above that each further one is merged into the newest, with summed counts,
//! so that input continues and memory stays bounded. The result of the input follows all of them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use arrow_flight::PutResult;
use bytes::Bytes;
use futures::Stream;
use serde::Serialize;
use tonic::Status;

use crate::error::Error;
use crate::service::{Acknowledged, WriteReply};

/// Maximum number of queued acknowledgements.
pub const ACKS_QUEUED_MAX: usize = 1024;

/// Acknowledgement of a batch: the reply of its write, and whether that is the reply of an earlier write under the same
/// idempotency key.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct Ack {
    #[serde(flatten)]
    reply: WriteReply,
    idempotency_replayed: bool,
}

#[derive(Debug, Default)]
struct AckQueue {
    queued: VecDeque<Ack>,
    /// The only reply of a put that is not acknowledged by batch.
    reply: Option<Bytes>,
    /// Result of the input; nothing is queued after it.
    end: Option<Result<(), Status>>,
    reader: Option<Waker>,
    /// The client is disconnected.
    abandoned: bool,
}

/// The sending end; it has exactly one [`AckReceiver`].
///
/// If it is dropped without [`AckSender::end`] the receiver gets an error, never a clean end.
#[derive(Debug)]
pub(super) struct AckSender(Arc<Mutex<AckQueue>>);

/// The receiving end: the response of the put.
#[derive(Debug)]
pub(super) struct AckReceiver(Arc<Mutex<AckQueue>>);

pub(super) fn queue() -> (AckSender, AckReceiver) {
    let queue = Arc::new(Mutex::new(AckQueue::default()));
    (AckSender(queue.clone()), AckReceiver(queue))
}

fn lock(queue: &Mutex<AckQueue>) -> MutexGuard<'_, AckQueue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AckSender {
    /// Queues one acknowledgement, merging it when the queue is full.
    pub(super) fn push(&self, acknowledged: Acknowledged<WriteReply>) {
        let Acknowledged { reply, repeated } = acknowledged;
        let ack = Ack { reply, idempotency_replayed: repeated };
        let mut queue = lock(&self.0);
        let full = queue.queued.len() >= ACKS_QUEUED_MAX;
        match queue.queued.back_mut() {
            Some(newest) if full => merge(newest, ack),
            _ => queue.queued.push_back(ack),
        }
        wake(&mut queue);
    }

    /// Sends a reply in the form of another protocol.
    pub(super) fn reply(&self, body: Bytes) {
        let mut queue = lock(&self.0);
        queue.reply = Some(body);
        wake(&mut queue);
    }

    /// Records the result of the input.
    pub(super) fn end(&self, result: Result<(), Status>) {
        let mut queue = lock(&self.0);
        queue.end.get_or_insert(result);
        wake(&mut queue);
    }

    /// Whether the receiver is gone.
    pub(super) fn is_abandoned(&self) -> bool {
        lock(&self.0).abandoned
    }
}

impl Drop for AckSender {
    fn drop(&mut self) {
        if lock(&self.0).end.is_none() {
            self.end(Err(crate::server::flight::status::status(&Error::internal("a put ended without a result"))));
        }
    }
}

impl Drop for AckReceiver {
    fn drop(&mut self) {
        lock(&self.0).abandoned = true;
    }
}

fn wake(queue: &mut AckQueue) {
    if let Some(reader) = queue.reader.take() {
        reader.wake();
    }
}

/// Merges `later` into `newest`, which then acknowledges both writes.
fn merge(newest: &mut Ack, later: Ack) {
    newest.idempotency_replayed &= later.idempotency_replayed;
    let (newest, later) = (&mut newest.reply, later.reply);
    newest.rows_written += later.rows_written;
    newest.rows_replaced += later.rows_replaced;
    newest.rows_duplicate += later.rows_duplicate;
    newest.rows_skipped += later.rows_skipped;
    newest.version = later.version;
    newest.commit = later.commit;
    newest.etag = later.etag;
    newest.first_ts = newest.first_ts.into_iter().chain(later.first_ts).min();
    newest.last_ts = newest.last_ts.into_iter().chain(later.last_ts).max();
    newest.durable &= later.durable;
}

impl Stream for AckReceiver {
    type Item = Result<PutResult, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut queue = lock(&self.0);
        if let Some(ack) = queue.queued.pop_front() {
            let body = serde_json::to_vec(&ack).unwrap_or_default();
            return Poll::Ready(Some(Ok(PutResult { app_metadata: body.into() })));
        }
        if let Some(app_metadata) = queue.reply.take() {
            return Poll::Ready(Some(Ok(PutResult { app_metadata })));
        }
        match &mut queue.end {
            // After an error the stream has ended: the next poll returns a clean end.
            Some(end) => Poll::Ready(std::mem::replace(end, Ok(())).err().map(Err)),
            None => {
                queue.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SeriesKey;
    use futures::StreamExt;

    fn reply(commit: u64) -> WriteReply {
        let ts = i64::try_from(commit).unwrap();
        WriteReply {
            series: SeriesKey::kline("X", "1m").unwrap(),
            rows_written: 2,
            rows_replaced: 1,
            rows_duplicate: 0,
            rows_skipped: 0,
            version: commit,
            commit,
            etag: format!("\"{commit}\""),
            first_ts: Some(-ts),
            last_ts: Some(ts),
            durable: true,
        }
    }

    fn read(item: Option<Result<PutResult, Status>>) -> WriteReply {
        serde_json::from_slice(&item.unwrap().unwrap().app_metadata).unwrap()
    }

    #[tokio::test]
    async fn unread_acknowledgements_are_merged_with_complete_sums() {
        let (acks, mut reader) = queue();
        let writes = 5_000;
        for commit in 1..=writes {
            acks.push(Acknowledged { reply: reply(commit), repeated: commit == 7 });
        }
        acks.end(Ok(()));
        let mut seen = Vec::new();
        while let Some(item) = reader.next().await {
            seen.push(read(Some(item)));
        }
        assert_eq!(seen.len(), ACKS_QUEUED_MAX);
        assert_eq!(seen.iter().map(|reply| reply.rows_written).sum::<u64>(), 2 * writes);
        assert_eq!(seen.iter().map(|reply| reply.rows_replaced).sum::<u64>(), writes);
        let last = seen.last().unwrap();
        assert_eq!((last.commit, last.etag.as_str()), (writes, "\"5000\""));
        assert_eq!((last.first_ts, last.last_ts), (Some(-5_000), Some(5_000)));
    }

    #[tokio::test]
    async fn a_rejection_comes_after_the_acknowledgements_before_it() {
        let (acks, mut reader) = queue();
        acks.push(Acknowledged { reply: reply(1), repeated: false });
        acks.end(Err(Status::invalid_argument("bad batch")));
        assert_eq!(read(reader.next().await).commit, 1);
        assert!(reader.next().await.unwrap().is_err());
        assert!(reader.next().await.is_none());
    }

    #[tokio::test]
    async fn a_dropped_sender_is_not_a_clean_end() {
        let (acks, mut reader) = queue();
        drop(acks);
        assert!(reader.next().await.unwrap().is_err());
        let (acks, reader) = queue();
        drop(reader);
        assert!(acks.is_abandoned());
    }
}
