//! Control of long work: progress, rate and cancellation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cancel::CancelFlag;
use crate::error::{Error, ErrorCode, Result};

/// Longest sleep between two checks for cancellation.
const SLEEP_INTERVAL: Duration = Duration::from_millis(50);

/// Shared between the working thread and those that observe it.
#[derive(Debug, Default)]
pub struct TaskControl {
    done: AtomicU64,
    total: AtomicU64,
    cancel: CancelFlag,
    /// Bytes per second; 0 for unlimited.
    rate: u64,
    /// When the work may continue, so that it keeps to its rate.
    next: Mutex<Option<Instant>>,
}

impl TaskControl {
    /// Work that goes as fast as it can.
    pub fn new() -> Self {
        Self::default()
    }

    /// Work that reads at most `bytes_per_second`; 0 for no limit.
    pub fn with_rate(bytes_per_second: u64) -> Self {
        Self { rate: bytes_per_second, ..Self::default() }
    }

    /// Whether it goes slower than it could.
    pub fn has_rate(&self) -> bool {
        self.rate > 0
    }

    /// Adds to the planned work.
    pub fn plan(&self, units: u64) {
        self.total.fetch_add(units, Ordering::Relaxed);
    }

    /// Counts finished work, and waits to keep to the rate.
    ///
    /// # Errors
    /// `not_ready` when the work was cancelled.
    pub fn advance(&self, units: u64) -> Result<()> {
        self.done.fetch_add(units, Ordering::Relaxed);
        if let (true, Some(span)) = (units > 0, units.saturating_mul(1_000_000).checked_div(self.rate)) {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let until = next.map_or(now, |next| next.max(now)) + Duration::from_micros(span);
            *next = Some(until);
            drop(next);
            while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                self.check()?;
                std::thread::sleep(left.min(SLEEP_INTERVAL));
            }
        }
        self.check()
    }

    /// Counts work that was not planned.
    ///
    /// # Errors
    /// As [`TaskControl::advance`].
    pub fn advance_unplanned(&self, units: u64) -> Result<()> {
        self.plan(units);
        self.advance(units)
    }

    /// Requests cancellation.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Whether cancellation was requested.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Fails once cancellation was requested.
    ///
    /// # Errors
    /// `not_ready`.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::new(ErrorCode::NotReady, "it was cancelled before it finished"));
        }
        Ok(())
    }

    /// Units done, and units in all as far as they are known.
    pub fn progress(&self) -> (u64, u64) {
        let done = self.done.load(Ordering::Relaxed);
        (done, self.total.load(Ordering::Relaxed).max(done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_was_cancelled_stops_even_while_it_waits_for_its_rate() {
        let control = TaskControl::with_rate(1);
        control.plan(10);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| control.advance(1_000_000));
            while control.progress().0 == 0 {
                std::thread::yield_now();
            }
            control.cancel();
            assert_eq!(waiting.join().unwrap().unwrap_err().code(), ErrorCode::NotReady);
        });
        assert_eq!(control.progress(), (1_000_000, 1_000_000));
    }
}
