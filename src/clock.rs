//! The time: of the system, or in tests one that is set.
//!
//! Nothing is ordered by the time of day. Code for which time decides (what expires, what is due) takes a [`Clock`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::types::width::narrow;

/// The time of day of the system in milliseconds since the epoch, for display.
pub fn wall_ms() -> i64 {
    // A time before the epoch counts as the epoch.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    narrow(now.as_millis())
}

/// Milliseconds since a moment, for display.
pub fn elapsed_ms(begun: Instant) -> u64 {
    narrow(begun.elapsed().as_millis())
}

/// Where the time comes from. Clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<ManualTime>>);

/// A time that passes only by [`Clock::advance`].
#[derive(Debug)]
struct ManualTime {
    wall_ms: i64,
    started_at: Instant,
    passed_ms: AtomicU64,
}

impl Clock {
    /// A clock for tests, which stays at this time of day until [`Clock::advance`].
    #[doc(hidden)]
    pub fn manual(wall_ms: i64) -> Self {
        Self(Some(Arc::new(ManualTime { wall_ms, started_at: Instant::now(), passed_ms: AtomicU64::new(0) })))
    }

    /// Lets time pass on a manual clock and all its clones; the clock of the system ignores it.
    #[doc(hidden)]
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.0 {
            manual.passed_ms.fetch_add(narrow(by.as_millis()), Ordering::Relaxed);
        }
    }

    /// The time of day in milliseconds since the epoch.
    pub fn wall_ms(&self) -> i64 {
        match &self.0 {
            None => wall_ms(),
            Some(manual) => manual.wall_ms.saturating_add_unsigned(manual.passed_ms.load(Ordering::Relaxed)),
        }
    }

    /// A moment for measuring how much time passes; unlike the time of day it never goes back.
    pub fn now(&self) -> Instant {
        match &self.0 {
            None => Instant::now(),
            Some(manual) => manual.started_at + Duration::from_millis(manual.passed_ms.load(Ordering::Relaxed)),
        }
    }
}

impl PartialEq for Clock {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(this), Some(other)) => Arc::ptr_eq(this, other),
            (this, other) => this.is_none() && other.is_none(),
        }
    }
}

impl Eq for Clock {}
