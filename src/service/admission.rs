//! Admission: how many requests and streams may be in flight, in total and per token.
//!
//! Interfaces acquire a permit before they work and release it by dropping it. A permit is never waited for: without a
//! free one the request is rejected, as `overloaded` at a total limit and as `rate_limited` at a limit of the token.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, ErrorCode, Result};
use crate::ingest::{DecodeMemory, Reservation};
use crate::service::caller::Caller;
use crate::service::limits::{RESPONSE_BYTES, ServiceLimits};

/// What a permit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermitKind {
    /// A request or call.
    Request,
    /// A response that is sent from its own buffer.
    Response,
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
    responses: u64,
    by_token: HashMap<Arc<str>, PermitCount>,
}

/// Counts of what is in flight.
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

/// A permit, released when it is dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    kind: PermitKind,
    caller: Caller,
}

impl Permit {
    /// The caller that holds the permit.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl Admission {
    /// Counts with no permit acquired.
    pub fn new(limits: ServiceLimits) -> Self {
        let decoding = DecodeMemory::new(limits.decoded_bytes_max);
        Self { limits, counts: Mutex::default(), decoding, is_draining: AtomicBool::new(false) }
    }

    /// The limits that apply.
    pub fn limits(&self) -> &ServiceLimits {
        &self.limits
    }

    /// A reservation of memory for decoding, which waits at most `timeout` when it grows.
    pub fn reservation(&self, timeout: Duration) -> Reservation {
        self.decoding.reservation(timeout)
    }

    /// Rejects new requests from now on.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// Whether new requests are rejected because the server is shutting down.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// Fails with `not_ready` while the server is shutting down.
    pub fn check_ready(&self) -> Result<()> {
        if !self.is_draining() {
            return Ok(());
        }
        Err(Error::new(ErrorCode::NotReady, "the server is shutting down")
            .with_hint("retry on another server, or on this one after its restart"))
    }

    fn lock(&self) -> MutexGuard<'_, PermitCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acquires a permit for a caller.
    ///
    /// # Errors
    /// `overloaded`; `rate_limited` for a token at its limit; `not_ready` once the server drains.
    pub fn acquire(self: &Arc<Self>, kind: PermitKind, caller: &Caller) -> Result<Permit> {
        self.check_ready()?;
        let limits = &self.limits;
        let mut counts = self.lock();
        let own = counts.by_token.get(&caller.id).copied().unwrap_or_default();
        let is_known = !caller.id.is_empty();
        let (all_max, token_max, what) = match kind {
            PermitKind::Request => (limits.requests_max, limits.token_requests_max, "requests"),
            PermitKind::Response | PermitKind::Put => (limits.streams_max, limits.token_streams_max, "streams"),
        };
        let count_of_kind =
            |count: &PermitCount| if kind == PermitKind::Request { count.requests } else { count.streams };
        if is_known && count_of_kind(&own) >= token_max {
            return Err(Error::new(
                ErrorCode::RateLimited,
                format!("the token already has {token_max} {what} in flight, its maximum"),
            )
            .with_hint("finish one of them, or retry shortly"));
        }
        let overloaded = |detail: String| Err(Error::new(ErrorCode::Overloaded, detail).with_hint("retry shortly"));
        if count_of_kind(&counts.all) >= all_max {
            return overloaded(format!("{all_max} {what} are already in flight"));
        }
        let responses = counts.responses + u64::from(kind == PermitKind::Response);
        if responses.saturating_mul(RESPONSE_BYTES) > limits.response_bytes_max {
            return overloaded(format!(
                "the responses in flight already reserve {} bytes",
                counts.responses * RESPONSE_BYTES
            ));
        }
        counts.responses = responses;
        let add = |count: &mut PermitCount| match kind {
            PermitKind::Request => count.requests += 1,
            PermitKind::Response | PermitKind::Put => count.streams += 1,
        };
        add(&mut counts.all);
        if is_known {
            add(counts.by_token.entry(Arc::clone(&caller.id)).or_default());
        }
        Ok(Permit { admission: Arc::clone(self), kind, caller: caller.clone() })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.admission.lock();
        let release = |count: &mut PermitCount| match self.kind {
            PermitKind::Request => count.requests = count.requests.saturating_sub(1),
            PermitKind::Response | PermitKind::Put => count.streams = count.streams.saturating_sub(1),
        };
        release(&mut counts.all);
        if self.kind == PermitKind::Response {
            counts.responses = counts.responses.saturating_sub(1);
        }
        let is_idle = counts.by_token.get_mut(&self.caller.id).is_some_and(|own| {
            release(own);
            own.requests == 0 && own.streams == 0
        });
        if is_idle {
            counts.by_token.remove(&self.caller.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Scope;

    fn caller(id: &str) -> Caller {
        Caller { id: Arc::from(id), scope: Scope::Read, prefixes: Arc::from([]) }
    }

    fn code<T>(result: Result<T>) -> Option<ErrorCode> {
        result.err().map(|error| error.code())
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
        let admission = Arc::new(Admission::new(limits));
        let (a, b, anonymous) = (caller("a"), caller("b"), caller(""));
        let first =
            [admission.acquire(PermitKind::Request, &a).unwrap(), admission.acquire(PermitKind::Request, &a).unwrap()];
        assert_eq!(code(admission.acquire(PermitKind::Request, &a)), Some(ErrorCode::RateLimited));
        // Another token is not affected, and callers without a token have no limit of their own.
        let others: Vec<Permit> =
            [&b, &anonymous, &anonymous].map(|who| admission.acquire(PermitKind::Request, who).unwrap()).into();
        assert_eq!(code(admission.acquire(PermitKind::Request, &b)), Some(ErrorCode::Overloaded));
        assert_eq!(
            code(admission.acquire(PermitKind::Request, &a)),
            Some(ErrorCode::RateLimited),
            "the limit of the token is reported first"
        );
        drop(first);
        let again = admission.acquire(PermitKind::Request, &a).unwrap();
        let streams =
            [admission.acquire(PermitKind::Put, &a).unwrap(), admission.acquire(PermitKind::Response, &b).unwrap()];
        assert_eq!(code(admission.acquire(PermitKind::Response, &a)), Some(ErrorCode::RateLimited));
        let third = admission.acquire(PermitKind::Put, &anonymous).unwrap();
        assert_eq!(code(admission.acquire(PermitKind::Put, &anonymous)), Some(ErrorCode::Overloaded));
        drop((again, others, streams, third));
        assert!(admission.lock().by_token.is_empty(), "idle tokens are removed");
        let counts = admission.lock();
        assert_eq!((counts.all.requests, counts.all.streams, counts.responses), (0, 0, 0));
    }

    #[test]
    fn responses_share_a_memory_limit_and_puts_do_not() {
        let limits = ServiceLimits { response_bytes_max: 2 * RESPONSE_BYTES, ..ServiceLimits::default() };
        let admission = Arc::new(Admission::new(limits));
        let who = caller("");
        let permits = [
            admission.acquire(PermitKind::Response, &who).unwrap(),
            admission.acquire(PermitKind::Response, &who).unwrap(),
        ];
        assert_eq!(code(admission.acquire(PermitKind::Response, &who)), Some(ErrorCode::Overloaded));
        assert!(admission.acquire(PermitKind::Put, &who).is_ok());
        drop(permits);
        assert!(admission.acquire(PermitKind::Response, &who).is_ok());
    }

    #[test]
    fn no_permit_is_granted_while_draining() {
        let admission = Arc::new(Admission::default());
        let before = admission.acquire(PermitKind::Request, &caller("")).unwrap();
        admission.drain();
        assert_eq!(code(admission.acquire(PermitKind::Request, &caller(""))), Some(ErrorCode::NotReady));
        drop(before);
    }
}
