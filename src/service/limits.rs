//! How much callers may have under way at one time: all together, and each token by itself.
//!
//! Faces take a place before they work and give it back by dropping it. Nobody waits for a place: who gets none is told so
//! at once, as `overloaded` where all together are too many and as `rate_limited` where the caller alone is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Caller, Service};
use crate::error::{Error, ErrorCode, Result};
use crate::ingest::{self, BodyFormat, DecodeMemory, Reservation};

/// Memory that one answer may hold while it is sent: what is made ahead of the client, on either face.
pub const ANSWER_BYTES: u64 = 4 << 20;

/// Limits of the verbs, whichever face they are called through. The defaults are those of `config/fastk.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceLimits {
    /// Requests and calls under way, of everybody.
    pub requests_max: u64,
    /// Answers being sent and puts being received, of everybody.
    pub streams_max: u64,
    /// Requests and calls under way, of one token.
    pub token_requests_max: u64,
    /// Answers being sent and puts being received, of one token.
    pub token_streams_max: u64,
    /// Bytes that all answers being sent may hold, [`ANSWER_BYTES`] each.
    pub answer_bytes_max: u64,
    /// Memory for the rows of all bodies and puts being read and written, [`CELL_BYTES`](ingest::CELL_BYTES) a cell.
    pub decoded_bytes_max: u64,
    /// Longest work on a request, from its last byte to the head of its answer.
    pub request_timeout: Duration,
    /// Deepest nesting of JSON.
    pub json_depth_max: usize,
}

impl Default for ServiceLimits {
    fn default() -> Self {
        Self {
            requests_max: 4_096,
            streams_max: 512,
            token_requests_max: 1_024,
            token_streams_max: 128,
            answer_bytes_max: 2 << 30,
            decoded_bytes_max: 2 << 30,
            request_timeout: Duration::from_secs(120),
            json_depth_max: 32,
        }
    }
}

/// What a place is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermitKind {
    /// A request or call.
    Request,
    /// An answer that is sent from memory made for it.
    Answer,
    /// A put.
    Put,
}

#[derive(Clone, Copy, Debug, Default)]
struct PermitCount {
    requests: u64,
    streams: u64,
}

#[derive(Debug, Default)]
struct PermitCounts {
    all: PermitCount,
    answers: u64,
    by_token: HashMap<Arc<str>, PermitCount>,
}

/// What is under way.
#[derive(Debug)]
pub struct Admission {
    limits: ServiceLimits,
    counts: Mutex<PermitCounts>,
    decoding: Arc<DecodeMemory>,
    is_draining: AtomicBool,
}

impl Default for Admission {
    fn default() -> Self {
        Self::new(ServiceLimits::default())
    }
}

/// A place; given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    load: Arc<Admission>,
    place: PermitKind,
    caller: Caller,
}

impl Permit {
    /// Who has the place.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl Admission {
    /// Nothing under way yet.
    pub fn new(limits: ServiceLimits) -> Self {
        let decoding = DecodeMemory::new(limits.decoded_bytes_max);
        Self { limits, counts: Mutex::default(), decoding, is_draining: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, PermitCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a caller.
    ///
    /// # Errors
    /// `overloaded`, `rate_limited` for a token that has too many, `not_ready` once the server drains.
    pub fn take(self: &Arc<Self>, place: PermitKind, caller: &Caller) -> Result<Permit> {
        if self.is_draining.load(Ordering::Acquire) {
            return Err(stopping());
        }
        let limits = &self.limits;
        let mut counts = self.lock();
        let own = counts.by_token.get(&caller.id).copied().unwrap_or_default();
        let is_known = !caller.id.is_empty();
        let (all_max, token_max, what) = match place {
            PermitKind::Request => (limits.requests_max, limits.token_requests_max, "requests"),
            PermitKind::Answer | PermitKind::Put => (limits.streams_max, limits.token_streams_max, "streams"),
        };
        let of = |count: &PermitCount| if place == PermitKind::Request { count.requests } else { count.streams };
        if is_known && of(&own) >= token_max {
            return Err(Error::new(
                ErrorCode::RateLimited,
                format!("the token has {token_max} {what} under way, as many as it may"),
            )
            .with_hint("end one of them, or try again shortly"));
        }
        let full = |detail: String| Err(Error::new(ErrorCode::Overloaded, detail).with_hint("try again shortly"));
        if of(&counts.all) >= all_max {
            return full(format!("{all_max} {what} are under way already"));
        }
        let answers = counts.answers + u64::from(place == PermitKind::Answer);
        if answers.saturating_mul(ANSWER_BYTES) > limits.answer_bytes_max {
            return full(format!("the answers under way may hold {} bytes already", counts.answers * ANSWER_BYTES));
        }
        counts.answers = answers;
        let add = |count: &mut PermitCount| match place {
            PermitKind::Request => count.requests += 1,
            PermitKind::Answer | PermitKind::Put => count.streams += 1,
        };
        add(&mut counts.all);
        if is_known {
            add(counts.by_token.entry(Arc::clone(&caller.id)).or_default());
        }
        Ok(Permit { load: Arc::clone(self), place, caller: caller.clone() })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.load.lock();
        let take = |count: &mut PermitCount| match self.place {
            PermitKind::Request => count.requests = count.requests.saturating_sub(1),
            PermitKind::Answer | PermitKind::Put => count.streams = count.streams.saturating_sub(1),
        };
        take(&mut counts.all);
        if self.place == PermitKind::Answer {
            counts.answers = counts.answers.saturating_sub(1);
        }
        let is_over = counts.by_token.get_mut(&self.caller.id).is_some_and(|own| {
            take(own);
            own.requests == 0 && own.streams == 0
        });
        if is_over {
            counts.by_token.remove(&self.caller.id);
        }
    }
}

fn stopping() -> Error {
    Error::new(ErrorCode::NotReady, "the server is stopping").with_hint("ask another one, or this one when it is back")
}

impl Service {
    /// Sets the limits, once, before anybody calls.
    pub fn limit(&self, limits: ServiceLimits) {
        let _ = self.load.set(Arc::new(Admission::new(limits)));
    }

    fn load(&self) -> &Arc<Admission> {
        self.load.get_or_init(Arc::default)
    }

    /// The limits in force.
    pub fn limits(&self) -> &ServiceLimits {
        &self.load().limits
    }

    /// A place for something of this caller.
    ///
    /// # Errors
    /// Those of [`Admission::take`].
    pub fn take(&self, place: PermitKind) -> Result<Permit> {
        self.load().take(place, self.caller())
    }

    /// Reserves the memory that reading and writing a body takes; held until its rows are written.
    ///
    /// # Errors
    /// Those of [`ingest::reserve`].
    pub fn reserve_body(&self, format: BodyFormat, body: &[u8]) -> Result<Reservation> {
        let mut reservation = self.load().decoding.reservation(Duration::ZERO);
        ingest::reserve(format, body, &mut reservation)?;
        Ok(reservation)
    }

    /// Reserves the memory for so many rows with so many columns; waits where others hold it.
    ///
    /// # Errors
    /// Those of [`Reservation::grow`].
    pub fn reserve_rows(&self, rows: u64, columns: u64) -> Result<Reservation> {
        let mut reservation = self.load().decoding.reservation(self.limits().request_timeout);
        reservation.grow_cells(rows, columns)?;
        Ok(reservation)
    }

    /// Refuses what comes from now on; what is under way goes on.
    pub fn drain(&self) {
        self.load().is_draining.store(true, Ordering::Release);
    }

    /// Whether new work is refused because the server stops.
    pub fn is_draining(&self) -> bool {
        self.load().is_draining.load(Ordering::Acquire)
    }

    /// `not_ready` while the server stops.
    pub fn check_ready(&self) -> Result<()> {
        if self.is_draining() { Err(stopping()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Scope;

    fn caller(id: &str) -> Caller {
        Caller { id: Arc::from(id), scope: Scope::Read, prefixes: Arc::from([]) }
    }

    fn code<T>(taken: Result<T>) -> Option<ErrorCode> {
        taken.err().map(|error| error.code())
    }

    #[test]
    fn a_token_has_its_own_limits_and_all_together_have_theirs() {
        let limits = ServiceLimits {
            requests_max: 5,
            streams_max: 3,
            token_requests_max: 2,
            token_streams_max: 1,
            ..ServiceLimits::default()
        };
        let load = Arc::new(Admission::new(limits));
        let (a, b, nobody) = (caller("a"), caller("b"), caller(""));
        let first = [load.take(PermitKind::Request, &a).unwrap(), load.take(PermitKind::Request, &a).unwrap()];
        assert_eq!(code(load.take(PermitKind::Request, &a)), Some(ErrorCode::RateLimited));
        // Another token is not concerned, and who needs none has no limit of his own.
        let others: Vec<Permit> = [&b, &nobody, &nobody].map(|who| load.take(PermitKind::Request, who).unwrap()).into();
        assert_eq!(code(load.take(PermitKind::Request, &b)), Some(ErrorCode::Overloaded));
        assert_eq!(code(load.take(PermitKind::Request, &a)), Some(ErrorCode::RateLimited), "the nearer limit is told");
        drop(first);
        let again = load.take(PermitKind::Request, &a).unwrap();
        let streams = [load.take(PermitKind::Put, &a).unwrap(), load.take(PermitKind::Answer, &b).unwrap()];
        assert_eq!(code(load.take(PermitKind::Answer, &a)), Some(ErrorCode::RateLimited));
        let third = load.take(PermitKind::Put, &nobody).unwrap();
        assert_eq!(code(load.take(PermitKind::Put, &nobody)), Some(ErrorCode::Overloaded));
        drop((again, others, streams, third));
        assert!(load.lock().by_token.is_empty(), "nothing is kept of tokens that do nothing");
        let counts = load.lock();
        assert_eq!((counts.all.requests, counts.all.streams, counts.answers), (0, 0, 0));
    }

    #[test]
    fn answers_share_a_memory_and_puts_do_not() {
        let limits = ServiceLimits { answer_bytes_max: 2 * ANSWER_BYTES, ..ServiceLimits::default() };
        let load = Arc::new(Admission::new(limits));
        let who = caller("");
        let held = [load.take(PermitKind::Answer, &who).unwrap(), load.take(PermitKind::Answer, &who).unwrap()];
        assert_eq!(code(load.take(PermitKind::Answer, &who)), Some(ErrorCode::Overloaded));
        assert!(load.take(PermitKind::Put, &who).is_ok());
        drop(held);
        assert!(load.take(PermitKind::Answer, &who).is_ok());
    }

    #[test]
    fn nothing_is_taken_on_while_draining() {
        let load = Arc::new(Admission::default());
        let before = load.take(PermitKind::Request, &caller("")).unwrap();
        load.is_draining.store(true, Ordering::Release);
        assert_eq!(code(load.take(PermitKind::Request, &caller(""))), Some(ErrorCode::NotReady));
        drop(before);
    }
}
