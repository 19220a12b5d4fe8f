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
enum Phase {
    /// It asked nothing yet.
    New,
    /// It waits between two requests.
    Idle,
    /// Bytes of the next request came.
    Head,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
    under_way: usize,
    next: u64,
    /// Answers being sent: since when each waits for its client, unless it waits for this side.
    answers: BTreeMap<u64, Option<Instant>>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    state: Mutex<State>,
    /// Bytes that come need not be a request.
    is_framed: AtomicBool,
    is_over: AtomicBool,
    waker: AtomicWaker,
}

/// A request that is under way on a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Line>);

/// An answer that is being sent, until it is dropped.
#[derive(Debug)]
pub(super) struct Sending {
    line: Arc<Line>,
    number: u64,
}

impl Sending {
    /// Its body was asked for more: it gave a part, or has none yet.
    pub fn asked(&self, gave: bool) {
        let since = gave.then(Instant::now);
        if let Some(waits) = self.line.lock().answers.get_mut(&self.number) {
            *waits = since;
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.line.lock().answers.remove(&self.number);
    }
}

/// Why a connection lost its patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// It began a request and did not end it, or began none.
    Slow,
    /// It had nothing to ask.
    Idle,
    /// Somebody else needs its place.
    Ended,
}

impl Line {
    fn new() -> Self {
        Self {
            state: Mutex::new(State {
                phase: Phase::New,
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request begins.
    pub fn begin(self: &Arc<Self>) -> UnderWay {
        self.lock().under_way += 1;
        UnderWay(Arc::clone(self))
    }

    /// An answer begins to be sent.
    pub fn send(self: &Arc<Self>) -> Sending {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.answers.insert(number, Some(Instant::now()));
        Sending { line: Arc::clone(self), number }
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
        let begins = state.under_way == 0 && state.phase == Phase::Idle;
        if begins {
            (state.phase, state.since) = (Phase::Head, Instant::now());
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
        (state.phase, state.since) = (Phase::Idle, Instant::now());
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
    pub async fn over(&self, head: Duration, idle: Duration) -> Over {
        let ended = poll_fn(|context| if self.poll_ended(context) { Poll::Ready(()) } else { Poll::Pending });
        tokio::pin!(ended);
        loop {
            let now = Instant::now();
            let (until, over) = {
                let state = self.lock();
                match state.phase {
                    _ if state.under_way > 0 => (None, Over::Idle),
                    Phase::New | Phase::Head => (Some(state.since + head), Over::Slow),
                    Phase::Idle => (Some(state.since + idle), Over::Idle),
                }
            };
            if until.is_some_and(|until| until <= now) {
                return over;
            }
            let look = now + head;
            tokio::select! {
                () = tokio::time::sleep_until(until.map_or(look, |until| until.min(look))) => {}
                () = &mut ended => return Over::Ended,
            }
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.under_way -= 1;
        if state.under_way == 0 {
            (state.phase, state.since) = (Phase::Idle, Instant::now());
        }
    }
}

/// The connections of one listener.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    slots: Arc<Semaphore>,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    lines: BTreeMap<u64, Arc<Line>>,
}

/// The place of a connection; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    pub line: Arc<Line>,
    number: u64,
    lines: Lines,
    _permit: OwnedSemaphorePermit,
}

impl Lines {
    pub fn new(connections_max: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(connections_max)), open: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more connection, for which another one may be ended.
    pub async fn slot(&self) -> Slot {
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
        let line = Arc::new(Line::new());
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.lines.insert(number, Arc::clone(&line));
        Slot { line, number, lines: self.clone(), _permit: permit }
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

impl Drop for Slot {
    fn drop(&mut self) {
        self.lines.lock().lines.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_one_that_did_nothing_for_longest_makes_room_and_nobody_at_work_does() {
        let lines = Lines::new(2);
        let (busy, idle) = (lines.slot().await, lines.slot().await);
        let under_way = busy.line.begin();
        let waiting = tokio::spawn({
            let lines = lines.clone();
            async move { lines.slot().await }
        });
        assert_eq!(idle.line.over(Duration::from_secs(60), Duration::from_secs(60)).await, Over::Ended);
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
        assert_eq!(busy.line.over(Duration::from_secs(60), Duration::from_secs(60)).await, Over::Ended);
        drop(busy);
        freed.await.unwrap();
    }

    #[tokio::test]
    async fn patience_is_short_for_begun_requests_and_long_between_them() {
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(3_600));
        let line = Arc::new(Line::new());
        assert_eq!(line.over(short, long).await, Over::Slow, "nothing was asked");
        drop(line.begin());
        assert_eq!(line.over(long, short).await, Over::Idle);
        let still = |line: Arc<Line>| async move {
            tokio::time::timeout(Duration::from_millis(100), line.over(short, long)).await.is_err()
        };
        assert!(still(line.clone()).await, "between two requests it may wait");
        line.heard();
        assert_eq!(line.over(short, long).await, Over::Slow, "a request was begun");
        let under_way = line.begin();
        assert!(still(line.clone()).await, "what is under way takes its time");
        drop(under_way);
        line.is_framed();
        line.heard();
        assert!(still(line.clone()).await, "frames of a protocol are no request");
    }
}
