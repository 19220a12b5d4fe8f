//! The connections of a listener: limited in number and by timeouts.
//!
//! - The number of connections is limited. A new one above the limit closes the one that has been idle longest; if none
//!   is idle it waits.
//! - An HTTP/2 response whose client stops reading for a time closes the connection: its body is not polled again, and
//!   what it holds would never be released. (Over HTTP/1 the connection itself stalls.)
//! - A connection must complete each request, the first included, within one timeout, and may be idle between two
//!   requests for another, longer one.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How often a waiting connection checks for an idle one.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// State of a connection without a request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionPhase {
    /// Before the first request.
    New,
    /// Between two requests.
    Idle,
    /// Bytes of the next request were received.
    Head,
}

#[derive(Debug)]
struct ConnectionState {
    phase: ConnectionPhase,
    since: Instant,
    requests: usize,
    next_id: u64,
    /// Responses being sent: since when each waits for its client, `None` while it waits for the server.
    responses: BTreeMap<u64, Option<Instant>>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    state: Mutex<ConnectionState>,
    /// Received bytes need not belong to a request (HTTP/2 frames).
    is_framed: AtomicBool,
    is_closed: AtomicBool,
    waker: AtomicWaker,
}

/// A request in flight on a connection; dropping it ends it.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Connection>);

/// A response being sent; dropping it ends it.
#[derive(Debug)]
pub(super) struct ResponseInProgress {
    connection: Arc<Connection>,
    id: u64,
}

impl ResponseInProgress {
    /// Records a poll of the body: whether it returned data or is pending.
    pub fn polled(&self, has_data: bool) {
        let since = has_data.then(Instant::now);
        if let Some(waiting_since) = self.connection.lock().responses.get_mut(&self.id) {
            *waiting_since = since;
        }
    }
}

impl Drop for ResponseInProgress {
    fn drop(&mut self) {
        self.connection.lock().responses.remove(&self.id);
    }
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// A request, or the first one, was not completed in time.
    Slow,
    /// No request was received for the idle timeout.
    Idle,
    /// It was closed, such as for a new connection.
    Closed,
}

impl Connection {
    fn new() -> Self {
        Self {
            state: Mutex::new(ConnectionState {
                phase: ConnectionPhase::New,
                since: Instant::now(),
                requests: 0,
                next_id: 0,
                responses: BTreeMap::new(),
            }),
            is_framed: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a request.
    pub fn start_request(self: &Arc<Self>) -> InFlight {
        self.lock().requests += 1;
        InFlight(Arc::clone(self))
    }

    /// Starts sending a response.
    pub fn start_response(self: &Arc<Self>) -> ResponseInProgress {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.responses.insert(id, Some(Instant::now()));
        ResponseInProgress { connection: Arc::clone(self), id }
    }

    /// When a response will have waited `stall` for its client at the earliest; `None` when one already has.
    fn stall_deadline(&self, stall: Duration) -> Option<Instant> {
        let oldest = self.lock().responses.values().flatten().min().copied();
        let now = Instant::now();
        let until = oldest.map_or(now + stall, |since| since + stall);
        (until > now).then_some(until)
    }

    /// Waits until a response has waited `stall` for its client.
    pub async fn wait_until_stalled(&self, stall: Duration) {
        while let Some(until) = self.stall_deadline(stall) {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Closes the connection when a response has waited `stall` for its client.
    pub async fn close_when_stalled(connection: Weak<Self>, stall: Duration) {
        while let Some(connection) = connection.upgrade() {
            let Some(until) = connection.stall_deadline(stall) else { return connection.close() };
            drop(connection);
            tokio::time::sleep_until(until).await;
        }
    }

    /// Records received bytes. Returns whether they are the first of a request.
    pub fn bytes_received(&self) -> bool {
        if self.is_framed.load(Ordering::Relaxed) {
            return false;
        }
        let mut state = self.lock();
        let is_first = state.requests == 0 && state.phase == ConnectionPhase::Idle;
        if is_first {
            (state.phase, state.since) = (ConnectionPhase::Head, Instant::now());
        }
        is_first
    }

    /// Whether the connection uses HTTP/1 and has no request in flight.
    pub fn is_idle_http1(&self) -> bool {
        !self.is_framed.load(Ordering::Relaxed) && self.lock().requests == 0
    }

    /// From here on received bytes need not belong to a request: they do not keep the connection alive.
    pub fn set_framed(&self) {
        self.is_framed.store(true, Ordering::Relaxed);
    }

    /// Records that the handshake is complete; the connection may then be idle.
    pub fn handshake_done(&self) {
        let mut state = self.lock();
        (state.phase, state.since) = (ConnectionPhase::Idle, Instant::now());
    }

    /// Closes the connection.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether the connection is closed; wakes this task when it is.
    pub fn poll_closed(&self, context: &mut Context<'_>) -> bool {
        self.waker.register(context.waker());
        self.is_closed()
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Since when the connection has no request in flight.
    fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.requests == 0).then_some(state.since)
    }

    /// Waits until the connection must be closed. Checks at least every `request_timeout`, so it notices a request that
    /// begins meanwhile before that request times out.
    pub async fn wait_to_close(&self, request_timeout: Duration, idle_timeout: Duration) -> CloseReason {
        let closed = poll_fn(|context| if self.poll_closed(context) { Poll::Ready(()) } else { Poll::Pending });
        tokio::pin!(closed);
        loop {
            let now = Instant::now();
            let (until, reason) = {
                let state = self.lock();
                match state.phase {
                    _ if state.requests > 0 => (None, CloseReason::Idle),
                    ConnectionPhase::New | ConnectionPhase::Head => {
                        (Some(state.since + request_timeout), CloseReason::Slow)
                    }
                    ConnectionPhase::Idle => (Some(state.since + idle_timeout), CloseReason::Idle),
                }
            };
            if until.is_some_and(|until| until <= now) {
                return reason;
            }
            let next_check = now + request_timeout;
            tokio::select! {
                () = tokio::time::sleep_until(until.map_or(next_check, |until| until.min(next_check))) => {}
                () = &mut closed => return CloseReason::Closed,
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.requests -= 1;
        if state.requests == 0 {
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
    next_id: u64,
    connections: BTreeMap<u64, Arc<Connection>>,
}

/// A slot of a connection, released when it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    pub connection: Arc<Connection>,
    id: u64,
    table: ConnectionTable,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionTable {
    pub fn new(connections_max: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(connections_max)), open: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for a new connection; may close an idle connection.
    pub async fn acquire(&self) -> ConnectionPermit {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() {
                break permit;
            }
            self.close_oldest_idle();
            // Acquiring never fails: the semaphore is not closed.
            if let Ok(Ok(permit)) = tokio::time::timeout(POLL_INTERVAL, Arc::clone(&self.slots).acquire_owned()).await {
                break permit;
            }
        };
        let connection = Arc::new(Connection::new());
        let mut open = self.lock();
        let id = open.next_id;
        open.next_id += 1;
        open.connections.insert(id, Arc::clone(&connection));
        ConnectionPermit { connection, id, table: self.clone(), _permit: permit }
    }

    /// Closes the connection that has been idle longest.
    fn close_oldest_idle(&self) {
        let open = self.lock();
        let oldest = open
            .connections
            .values()
            .filter(|connection| !connection.is_closed())
            .filter_map(|connection| Some((connection.idle_since()?, connection)))
            .min_by_key(|(since, _)| *since);
        if let Some((_, connection)) = oldest {
            connection.close();
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.table.lock().connections.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_connection_idle_longest_is_closed_for_a_new_one_and_busy_ones_are_not() {
        let connections = ConnectionTable::new(2);
        let (busy, idle) = (connections.acquire().await, connections.acquire().await);
        let request = busy.connection.start_request();
        let waiting = tokio::spawn({
            let connections = connections.clone();
            async move { connections.acquire().await }
        });
        assert_eq!(
            idle.connection.wait_to_close(Duration::from_secs(60), Duration::from_secs(60)).await,
            CloseReason::Closed
        );
        assert!(!busy.connection.is_closed());
        drop(idle);
        let third = waiting.await.unwrap();
        let third_request = third.connection.start_request();
        // All are busy: the next one waits until one is idle.
        let late = tokio::time::timeout(Duration::from_millis(100), connections.acquire()).await;
        assert!(late.is_err() && !busy.connection.is_closed() && !third.connection.is_closed());
        drop((request, third_request));
        let replacement = tokio::spawn({
            let connections = connections.clone();
            async move { connections.acquire().await }
        });
        assert_eq!(
            busy.connection.wait_to_close(Duration::from_secs(60), Duration::from_secs(60)).await,
            CloseReason::Closed
        );
        drop(busy);
        replacement.await.unwrap();
    }

    #[tokio::test]
    async fn timeouts_are_short_within_requests_and_long_between_them() {
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(3_600));
        let connection = Arc::new(Connection::new());
        assert_eq!(connection.wait_to_close(short, long).await, CloseReason::Slow, "no request was received");
        drop(connection.start_request());
        assert_eq!(connection.wait_to_close(long, short).await, CloseReason::Idle);
        let stays_open = |connection: Arc<Connection>| async move {
            tokio::time::timeout(Duration::from_millis(100), connection.wait_to_close(short, long)).await.is_err()
        };
        assert!(stays_open(connection.clone()).await, "idle between two requests");
        connection.bytes_received();
        assert_eq!(connection.wait_to_close(short, long).await, CloseReason::Slow, "a request was started");
        let request = connection.start_request();
        assert!(stays_open(connection.clone()).await, "a request in flight is not timed out");
        drop(request);
        connection.set_framed();
        connection.bytes_received();
        assert!(stays_open(connection.clone()).await, "protocol frames are not a request");
    }
}
