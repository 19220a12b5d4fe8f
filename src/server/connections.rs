//! The connections of a listener: bounded in number and in patience.
//!
//! - There are at most so many. When one more comes, the one that did nothing for longest is closed for it; only when all
//!   are at work the newcomer waits.
//! - An answer over HTTP/2 of which the client takes no further part for a time ends its connection: nothing asks its body
//!   again, and everything it holds would stay. (Over HTTP/1 it is the connection itself that takes nothing.)
//! - A connection says its first request within one time, completes every request that it begun within the same, and may
//!   wait between two requests for another, longer one.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How often a newcomer looks whether somebody became idle.
const LOOK: Duration = Duration::from_millis(20);

/// What a connection does while no request is under way on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionPhase {
    /// It asked nothing yet.
    New,
    /// It waits between two requests.
    Idle,
    /// Bytes of the next request came.
    Head,
}

#[derive(Debug)]
struct ConnectionState {
    phase: ConnectionPhase,
    since: Instant,
    under_way: usize,
    next: u64,
    /// Answers being sent: since when each waits for its client, unless it waits for this side.
    answers: BTreeMap<u64, Option<Instant>>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    state: Mutex<ConnectionState>,
    /// Bytes that come need not be a request.
    is_framed: AtomicBool,
    is_over: AtomicBool,
    waker: AtomicWaker,
}

/// A request that is under way on a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Connection>);

/// An answer that is being sent, until it is dropped.
#[derive(Debug)]
pub(super) struct ResponseInProgress {
    line: Arc<Connection>,
    number: u64,
}

impl ResponseInProgress {
    /// Its body was asked for more: it gave a part, or has none yet.
    pub fn asked(&self, gave: bool) {
        let since = gave.then(Instant::now);
        if let Some(waits) = self.line.lock().answers.get_mut(&self.number) {
            *waits = since;
        }
    }
}

impl Drop for ResponseInProgress {
    fn drop(&mut self) {
        self.line.lock().answers.remove(&self.number);
    }
}

/// Why a connection lost its patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// It began a request and did not end it, or began none.
    Slow,
    /// It had nothing to ask.
    Idle,
    /// Somebody else needs its place.
    Ended,
}

impl Connection {
    fn new() -> Self {
        Self {
            state: Mutex::new(ConnectionState {
                phase: ConnectionPhase::New,
                since: Instant::now(),
                under_way: 0,
                next: 0,
                answers: BTreeMap::new(),
            }),
            is_framed: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request begins.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.lock().under_way += 1;
        InFlight(Arc::clone(self))
    }

    /// An answer begins to be sent.
    pub fn send(self: &Arc<Self>) -> ResponseInProgress {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.answers.insert(number, Some(Instant::now()));
        ResponseInProgress { line: Arc::clone(self), number }
    }

    /// When to look again whether an answer waits for its client for so long; `None` when one does.
    fn patience(&self, stall: Duration) -> Option<Instant> {
        let oldest = self.lock().answers.values().flatten().min().copied();
        let now = Instant::now();
        let until = oldest.map_or(now + stall, |since| since + stall);
        (until > now).then_some(until)
    }

    /// Waits until an answer waits for its client for so long.
    pub async fn stalled(&self, stall: Duration) {
        while let Some(until) = self.patience(stall) {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Ends it when an answer waits for its client for so long.
    pub async fn watch(line: Weak<Self>, stall: Duration) {
        while let Some(line) = line.upgrade() {
            let Some(until) = line.patience(stall) else { return line.end() };
            drop(line);
            tokio::time::sleep_until(until).await;
        }
    }

    /// Bytes came. Whether they are the first of a request.
    pub fn heard(&self) -> bool {
        if self.is_framed.load(Ordering::Relaxed) {
            return false;
        }
        let mut state = self.lock();
        let begins = state.under_way == 0 && state.phase == ConnectionPhase::Idle;
        if begins {
            (state.phase, state.since) = (ConnectionPhase::Head, Instant::now());
        }
        begins
    }

    /// Whether it speaks HTTP/1 and no request is under way on it.
    pub fn is_at_rest(&self) -> bool {
        !self.is_framed.load(Ordering::Relaxed) && self.lock().under_way == 0
    }

    /// From here on bytes that come need not belong to a request: they can keep a connection alive that asks nothing.
    pub fn is_framed(&self) {
        self.is_framed.store(true, Ordering::Relaxed);
    }

    /// It greeted, which is all a connection has to say before it may wait.
    pub fn greeted(&self) {
        let mut state = self.lock();
        (state.phase, state.since) = (ConnectionPhase::Idle, Instant::now());
    }

    /// Ends it.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether it was ended; wakes this task when it is.
    pub fn poll_ended(&self, context: &mut Context<'_>) -> bool {
        self.waker.register(context.waker());
        self.has_ended()
    }

    /// Whether it was ended.
    pub fn has_ended(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Since when it does nothing, if it does.
    fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.under_way == 0).then_some(state.since)
    }

    /// Waits until it is to be closed. Looks at least every `head`, and so notices late by as much at most.
    pub async fn over(&self, head: Duration, idle: Duration) -> CloseReason {
        let ended = poll_fn(|context| if self.poll_ended(context) { Poll::Ready(()) } else { Poll::Pending });
        tokio::pin!(ended);
        loop {
            let now = Instant::now();
            let (until, over) = {
                let state = self.lock();
                match state.phase {
                    _ if state.under_way > 0 => (None, CloseReason::Idle),
                    ConnectionPhase::New | ConnectionPhase::Head => (Some(state.since + head), CloseReason::Slow),
                    ConnectionPhase::Idle => (Some(state.since + idle), CloseReason::Idle),
                }
            };
            if until.is_some_and(|until| until <= now) {
                return over;
            }
            let look = now + head;
            tokio::select! {
                () = tokio::time::sleep_until(until.map_or(look, |until| until.min(look))) => {}
                () = &mut ended => return CloseReason::Ended,
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.under_way -= 1;
        if state.under_way == 0 {
            (state.phase, state.since) = (ConnectionPhase::Idle, Instant::now());
        }
    }
}

/// The connections of one listener.
#[derive(Clone, Debug)]
pub(super) struct ConnectionTable {
    slots: Arc<Semaphore>,
    open: Arc<Mutex<OpenConnections>>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    next: u64,
    lines: BTreeMap<u64, Arc<Connection>>,
}

/// The place of a connection; free again when it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    pub line: Arc<Connection>,
    number: u64,
    lines: ConnectionTable,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionTable {
    pub fn new(connections_max: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(connections_max)), open: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more connection, for which another one may be ended.
    pub async fn slot(&self) -> ConnectionPermit {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() {
                break permit;
            }
            self.make_room();
            // Never fails: the semaphore is not closed.
            if let Ok(Ok(permit)) = tokio::time::timeout(LOOK, Arc::clone(&self.slots).acquire_owned()).await {
                break permit;
            }
        };
        let line = Arc::new(Connection::new());
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.lines.insert(number, Arc::clone(&line));
        ConnectionPermit { line, number, lines: self.clone(), _permit: permit }
    }

    /// Ends the connection that did nothing for longest.
    fn make_room(&self) {
        let open = self.lock();
        let oldest = open
            .lines
            .values()
            .filter(|line| !line.has_ended())
            .filter_map(|line| Some((line.idle_since()?, line)))
            .min_by_key(|(since, _)| *since);
        if let Some((_, line)) = oldest {
            line.end();
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.lines.lock().lines.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_one_that_did_nothing_for_longest_makes_room_and_nobody_at_work_does() {
        let lines = ConnectionTable::new(2);
        let (busy, idle) = (lines.slot().await, lines.slot().await);
        let under_way = busy.line.begin();
        let waiting = tokio::spawn({
            let lines = lines.clone();
            async move { lines.slot().await }
        });
        assert_eq!(idle.line.over(Duration::from_secs(60), Duration::from_secs(60)).await, CloseReason::Ended);
        assert!(!busy.line.has_ended());
        drop(idle);
        let third = waiting.await.unwrap();
        let third_under_way = third.line.begin();
        // All at work: the next one waits until one of them is not.
        let late = tokio::time::timeout(Duration::from_millis(100), lines.slot()).await;
        assert!(late.is_err() && !busy.line.has_ended() && !third.line.has_ended());
        drop((under_way, third_under_way));
        let freed = tokio::spawn({
            let lines = lines.clone();
            async move { lines.slot().await }
        });
        assert_eq!(busy.line.over(Duration::from_secs(60), Duration::from_secs(60)).await, CloseReason::Ended);
        drop(busy);
        freed.await.unwrap();
    }

    #[tokio::test]
    async fn patience_is_short_for_begun_requests_and_long_between_them() {
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(3_600));
        let line = Arc::new(Connection::new());
        assert_eq!(line.over(short, long).await, CloseReason::Slow, "nothing was asked");
        drop(line.begin());
        assert_eq!(line.over(long, short).await, CloseReason::Idle);
        let still = |line: Arc<Connection>| async move {
            tokio::time::timeout(Duration::from_millis(100), line.over(short, long)).await.is_err()
        };
        assert!(still(line.clone()).await, "between two requests it may wait");
        line.heard();
        assert_eq!(line.over(short, long).await, CloseReason::Slow, "a request was begun");
        let under_way = line.begin();
        assert!(still(line.clone()).await, "what is under way takes its time");
        drop(under_way);
        line.is_framed();
        line.heard();
        assert!(still(line.clone()).await, "frames of a protocol are no request");
    }
}
